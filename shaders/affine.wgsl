// weight and bias of a row: constant in it, or one per element.

@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

override WEIGHT: bool = false;
override BIAS: bool = false;
override INSIDE: bool = false; // parameters vary within a group

fn params(row: Row, p: vec4<u32>) -> vec4<u32> {
  let group = vec4(along(task.param, row.group));
  if INSIDE {
    return group + inside(task.param, row, p);
  }
  return group;
}

fn load_weight(row: Row, p: vec4<u32>) -> vec4<f32> {
  if !WEIGHT {
    return vec4(1.0);
  }
  let i = params(row, p) + task.param_base.x;
  if !INSIDE {
    return vec4(weight[i.x] * task.style.x);
  }
  return vec4(weight[i.x], weight[i.y], weight[i.z], weight[i.w]) * task.style.x;
}

fn load_bias(row: Row, p: vec4<u32>) -> vec4<f32> {
  if !BIAS {
    return vec4(0.0);
  }
  let i = params(row, p) + task.param_base.y;
  if !INSIDE {
    return vec4(bias[i.x] * task.style.y);
  }
  return vec4(bias[i.x], bias[i.y], bias[i.z], bias[i.w]) * task.style.y;
}

// A row's factor and summand, as far as they are the same for all of it.
fn affine_of(row: Row, rstd: f32) -> vec2<f32> {
  if INSIDE {
    return vec2(rstd, 0.0);
  }
  return vec2(rstd * load_weight(row, vec4(0u)).x, load_bias(row, vec4(0u)).x);
}

// weight and bias of `deviations`, which are x - mean.
fn apply_affine(row: Row, p: vec4<u32>, deviations: vec4<f32>, affine: vec2<f32>) -> vec4<f32> {
  if INSIDE {
    return deviations * affine.x * load_weight(row, p) + load_bias(row, p);
  }
  return deviations * affine.x + affine.y;
}
