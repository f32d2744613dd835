// grad_row: the backward pass in one dispatch: a row keeps xhat and g of its group in registers (two reads, one write).
//   u = g where weight is the same for all of the group, else weight · g      g = dy · act'(preactivation)
//   dx = rstd · (weight ·) (u - Σu/n - xhat · Σ(u·xhat)/n), without the first sum where nothing is centered
// Where weight differs between rows that are one group (KIN), each row's sums and u are taken times its weight; what is
// saved are the rows' own sums.
// With COLUMN_SUMS a row of lanes takes several groups one after the other, and keeps in registers what their elements
// at the same position add to the gradients of weight and bias: one partial entry per position and workgroup.
// Registers are named, as in norm_row.
// group(0): task · x · y (dx, written) · weight · bias · moments · dy · sums (partials, written) · mask; and with an
// addend that and its gradient (written)
// host twin: src/host/grads.rs

override TILE: u32 = 4u;             // steps of a lane: 1, 2, 4, 8
override CONSTANT: bool = false;     // statistics do not depend on x: dx has no sums
override SAVE: bool = false;         // (n, Σg, Σg·xhat) of every row is written out
override COLUMN_SUMS: bool = false;  // (0, Σg, Σg·xhat) of every position is; TILE is 4 at most

@group(0) @binding(10) var<storage, read_write> sums: array<vec4<f32>>;

fn load_xhat(row: Row, step: u32, whole: vec3<f32>) -> vec4<f32> {
  let p = positions(step, row.lane);
  return keep(xhat_of(row, p, load_x(elements(row, p)), whole), row, p);
}

fn load_gradient(row: Row, step: u32, xhat: vec4<f32>) -> vec4<f32> {
  let p = positions(step, row.lane);
  let i = elements(row, p);
  let g = gradient_at(row, p, i, xhat);
  write_daddend(row, p, i, g);
  return keep(g, row, p);
}

fn times_weight(row: Row, step: u32, g: vec4<f32>) -> vec4<f32> {
  if !INSIDE { return g; }
  return g * load_weight(row, positions(step, row.lane));
}

fn write(row: Row, step: u32, scale: f32, u: vec4<f32>, xhat: vec4<f32>, means: vec2<f32>) {
  let p = positions(step, row.lane);
  var dx = scale * u;
  if !CONSTANT { dx = scale * ((u - means.x) - xhat * means.y); }
  if MASKED { dx = keep(dx, row, p); }
  store_y(elements(row, p), p, row.end, dx);
}

// Adds up what the rows of lanes of a workgroup have of the positions of a step.
fn write_columns(row: Row, step: u32, strip: u32, b: vec4<f32>, w: vec4<f32>) {
  let u = column_sum(row, b);
  let u_xhat = column_sum(row, w);
  if row.slot < LANES {
    let p = positions(step, row.lane);
    let at = strip * task.slicing.z + p;
    if p.x < task.slicing.z { sums[at.x] = vec4(0.0, u.x, u_xhat.x, 0.0); }
    if p.y < task.slicing.z { sums[at.y] = vec4(0.0, u.y, u_xhat.y, 0.0); }
    if p.z < task.slicing.z { sums[at.z] = vec4(0.0, u.z, u_xhat.z, 0.0); }
    if p.w < task.slicing.z { sums[at.w] = vec4(0.0, u.w, u_xhat.w, 0.0); }
  }
}

// The sum over the rows of a workgroup of what lanes of the same number have, known to those of the first row.
fn column_sum(row: Row, value: vec4<f32>) -> vec4<f32> {
  if ROWS == 1u { return value; }
  slots[row.slot] = value;
  workgroupBarrier();
  var total = vec4(0.0);
  if row.slot < LANES {
    for (var other = 0u; other < ROWS; other++) {
      total += slots[other * LANES + row.lane];
    }
  }
  workgroupBarrier(); // the slots may be written again
  return total;
}

@compute @workgroup_size(WG)
fn grad_row(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let strip = workgroup.x + workgroup.y * grid.x;
  let turns = task.param_base.w;

  // Σg and Σg·xhat of the positions of a lane.
  var b0 = vec4(0.0); var b1 = vec4(0.0); var b2 = vec4(0.0); var b3 = vec4(0.0);
  var w0 = vec4(0.0); var w1 = vec4(0.0); var w2 = vec4(0.0); var w3 = vec4(0.0);

  for (var turn = 0u; turn < turns; turn++) {
    let row = row_at(strip * turns + turn, invocation);
    let whole = row_stat(row);

    // xhat and u; those beyond TILE stay zero and are folded away.
    var v0 = vec4(0.0); var v1 = vec4(0.0); var v2 = vec4(0.0); var v3 = vec4(0.0);
    var v4 = vec4(0.0); var v5 = vec4(0.0); var v6 = vec4(0.0); var v7 = vec4(0.0);
    var u0 = vec4(0.0); var u1 = vec4(0.0); var u2 = vec4(0.0); var u3 = vec4(0.0);
    var u4 = vec4(0.0); var u5 = vec4(0.0); var u6 = vec4(0.0); var u7 = vec4(0.0);

    v0 = load_xhat(row, 0u, whole); u0 = load_gradient(row, 0u, v0);
    if TILE > 1u {
      v1 = load_xhat(row, 1u, whole); u1 = load_gradient(row, 1u, v1);
    }
    if TILE > 2u {
      v2 = load_xhat(row, 2u, whole); u2 = load_gradient(row, 2u, v2);
      v3 = load_xhat(row, 3u, whole); u3 = load_gradient(row, 3u, v3);
    }
    if TILE > 4u {
      v4 = load_xhat(row, 4u, whole); u4 = load_gradient(row, 4u, v4);
      v5 = load_xhat(row, 5u, whole); u5 = load_gradient(row, 5u, v5);
      v6 = load_xhat(row, 6u, whole); u6 = load_gradient(row, 6u, v6);
      v7 = load_xhat(row, 7u, whole); u7 = load_gradient(row, 7u, v7);
    }
    if COLUMN_SUMS {
      b0 += u0; w0 += u0 * v0;
      if TILE > 1u {
        b1 += u1; w1 += u1 * v1;
      }
      if TILE > 2u {
        b2 += u2; w2 += u2 * v2; b3 += u3; w3 += u3 * v3;
      }
    }
    if INSIDE {
      u0 = times_weight(row, 0u, u0);
      if TILE > 1u {
        u1 = times_weight(row, 1u, u1);
      }
      if TILE > 2u {
        u2 = times_weight(row, 2u, u2); u3 = times_weight(row, 3u, u3);
      }
      if TILE > 4u {
        u4 = times_weight(row, 4u, u4); u5 = times_weight(row, 5u, u5);
        u6 = times_weight(row, 6u, u6); u7 = times_weight(row, 7u, u7);
      }
    }

    var s = vec4(0.0);
    var q = vec4(0.0);
    s += u0; q += u0 * v0;
    if TILE > 1u {
      s += u1; q += u1 * v1;
    }
    if TILE > 2u {
      s += u2; q += u2 * v2; s += u3; q += u3 * v3;
    }
    if TILE > 4u {
      s += u4; q += u4 * v4; s += u5; q += u5 * v5;
      s += u6; q += u6 * v6; s += u7; q += u7 * v7;
    }

    var own = 1.0;
    if !INSIDE { own = load_weight(row, vec4(0u)).x; }
    var means = vec2(0.0);
    if SAVE || !CONSTANT {
      var total = row_sum(row, vec4(sum4(s), sum4(q), 0.0, 0.0));
      let n = moments[statistic(row)].x;
      if SAVE {
        if row.lane == 0u && row.end > 0u {
          sums[row.group] = vec4(n, total.xy, 0.0);
        }
      }
      if KIN > 1u { total = kin_sum(row, own * total); }
      // A group of which nothing counts has sums of 0.
      means = total.xy / max(n, 1.0);
      if !CENTERED { means.x = 0.0; }
    }

    var scale = whole.z;
    if KIN == 1u {
      scale *= own;
      own = 1.0;
    }
    write(row, 0u, scale, own * u0, v0, means);
    if TILE > 1u {
      write(row, 1u, scale, own * u1, v1, means);
    }
    if TILE > 2u {
      write(row, 2u, scale, own * u2, v2, means); write(row, 3u, scale, own * u3, v3, means);
    }
    if TILE > 4u {
      write(row, 4u, scale, own * u4, v4, means); write(row, 5u, scale, own * u5, v5, means);
      write(row, 6u, scale, own * u6, v6, means); write(row, 7u, scale, own * u7, v7, means);
    }
  }

  if COLUMN_SUMS {
    let row = row_at(strip * turns, invocation);
    write_columns(row, 0u, strip, b0, w0);
    if TILE > 1u {
      write_columns(row, 1u, strip, b1, w1);
    }
    if TILE > 2u {
      write_columns(row, 2u, strip, b2, w2);
      write_columns(row, 3u, strip, b3, w3);
    }
  }
}
