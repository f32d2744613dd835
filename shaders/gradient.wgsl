// What the kernels of the backward pass share: xhat from saved moments, and the gradient behind the epilogue.

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;

override STATS_INSIDE: bool = false; // statistics vary within a group (parameter gradients over re-sorted axes)
override PAIRED: bool = false;       // every other entry is of something else

fn stat_of(index: u32) -> vec3<f32> {
  let all = moments[select(index, 2u * index, PAIRED)];
  return vec3(all.y, all.z, rstd_of(variance_of(all)));
}

// Mean, residual and rstd of a whole row, where they are the same for all of it.
fn row_stat(row: Row) -> vec3<f32> {
  if STATS_INSIDE {
    return vec3(0.0);
  }
  return stat_of(statistic(row));
}

fn xhat_of(row: Row, p: vec4<u32>, x: vec4<f32>, whole: vec3<f32>) -> vec4<f32> {
  if !STATS_INSIDE {
    return ((x - whole.x) - whole.y) * whole.z;
  }
  let i = inside(task.stat, row, p) + along(task.stat, row.group);
  let a = stat_of(i.x);
  let b = stat_of(i.y);
  let c = stat_of(i.z);
  let d = stat_of(i.w);
  return ((x - vec4(a.x, b.x, c.x, d.x)) - vec4(a.y, b.y, c.y, d.y)) * vec4(a.z, b.z, c.z, d.z);
}

// g = dy · act'(preactivation). The preactivation is computed again: y does not determine it for every activation.
fn gradient_at(row: Row, p: vec4<u32>, i: vec4<u32>, xhat: vec4<f32>) -> vec4<f32> {
  let dy = load_dy(i);
  if ACTIVATION == 0u {
    return dy;
  }
  return chain(plus_addend(xhat * load_weight(row, p) + load_bias(row, p), i), dy);
}
