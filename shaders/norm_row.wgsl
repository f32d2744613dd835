// norm_row: statistics and normalize in one dispatch: a row keeps its group in registers (one read, one write).
//   m = k + Σ(x-k)/n with k the first element (exact for constants)      d = x - m, taken from x itself
//   e = Σd/n      var = Σd²/n - e²      y = act((d - e)/√(var + eps) · weight + bias + addend)
// The residual e repairs the rounding of m, so neither an offset nor an outlier in front costs accuracy.
// Registers are named and steps gated by TILE, not indexed in a loop: an indexed array becomes memory on many GPUs.
// group(0): task · x · y · addend · weight · bias · moments (written when SAVE) · mask
// host twin: src/host/

override TILE: u32 = 4u; // steps of a lane: 1, 2, 4, 8, 16
override SAVE: bool = false;

@group(0) @binding(6) var<storage, read_write> moments: array<vec4<f32>>;

fn load(row: Row, step: u32) -> vec4<f32> {
  return load_x(elements(row, positions(step, row.lane)));
}

fn masked(row: Row, step: u32, values: vec4<f32>) -> vec4<f32> {
  return keep(values, row, positions(step, row.lane));
}

fn ones(row: Row, step: u32) -> vec4<f32> {
  return masked(row, step, vec4(1.0));
}

fn first(best: vec2<f32>, row: Row, step: u32, values: vec4<f32>) -> vec2<f32> {
  return first_of(best, values, row, positions(step, row.lane));
}

fn write(row: Row, step: u32, deviations: vec4<f32>, affine: vec2<f32>) {
  write_y(row, positions(step, row.lane), deviations, affine);
}

@compute @workgroup_size(WG)
fn norm_row(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);

  // Named registers; those beyond TILE stay zero and are folded away.
  var v0 = vec4(0.0);
  var v1 = vec4(0.0);
  var v2 = vec4(0.0); var v3 = vec4(0.0);
  var v4 = vec4(0.0); var v5 = vec4(0.0); var v6 = vec4(0.0); var v7 = vec4(0.0);
  var v8 = vec4(0.0); var v9 = vec4(0.0); var v10 = vec4(0.0); var v11 = vec4(0.0);
  var v12 = vec4(0.0); var v13 = vec4(0.0); var v14 = vec4(0.0); var v15 = vec4(0.0);

  v0 = load(row, 0u);
  if TILE > 1u {
    v1 = load(row, 1u);
  }
  if TILE > 2u {
    v2 = load(row, 2u); v3 = load(row, 3u);
  }
  if TILE > 4u {
    v4 = load(row, 4u); v5 = load(row, 5u);
    v6 = load(row, 6u); v7 = load(row, 7u);
  }
  if TILE > 8u {
    v8 = load(row, 8u); v9 = load(row, 9u);
    v10 = load(row, 10u); v11 = load(row, 11u);
    v12 = load(row, 12u); v13 = load(row, 13u);
    v14 = load(row, 14u); v15 = load(row, 15u);
  }

  var counts = f32(task.slicing.z);
  var n = counts;
  var k = 0.0;
  if MASKED {
    // The first element that counts, and how many do.
    var best = first(vec2(NOWHERE, 0.0), row, 0u, v0);
    var count = ones(row, 0u);
    if TILE > 1u {
      best = first(best, row, 1u, v1); count += ones(row, 1u);
    }
    if TILE > 2u {
      best = first(best, row, 2u, v2); count += ones(row, 2u); best = first(best, row, 3u, v3); count += ones(row, 3u);
    }
    if TILE > 4u {
      best = first(best, row, 4u, v4); count += ones(row, 4u); best = first(best, row, 5u, v5); count += ones(row, 5u);
      best = first(best, row, 6u, v6); count += ones(row, 6u); best = first(best, row, 7u, v7); count += ones(row, 7u);
    }
    if TILE > 8u {
      best = first(best, row, 8u, v8); count += ones(row, 8u); best = first(best, row, 9u, v9); count += ones(row, 9u);
      best = first(best, row, 10u, v10); count += ones(row, 10u); best = first(best, row, 11u, v11); count += ones(row, 11u);
      best = first(best, row, 12u, v12); count += ones(row, 12u); best = first(best, row, 13u, v13); count += ones(row, 13u);
      best = first(best, row, 14u, v14); count += ones(row, 14u); best = first(best, row, 15u, v15); count += ones(row, 15u);
    }
    counts = row_sum(row, vec4(sum4(count), 0.0, 0.0, 0.0)).x;
    n = max(counts, 1.0);
    k = anchor(row_reduce(row, vec4(best, 0.0, 0.0), FIRST).y);
  } else {
    k = anchor(first_x(elements(row, vec4(0u)).x));
  }
  var s = vec4(0.0);
  var m = 0.0;
  if CENTERED {
    s += masked(row, 0u, v0 - k);
    if TILE > 1u {
      s += masked(row, 1u, v1 - k);
    }
    if TILE > 2u {
      s += masked(row, 2u, v2 - k); s += masked(row, 3u, v3 - k);
    }
    if TILE > 4u {
      s += masked(row, 4u, v4 - k); s += masked(row, 5u, v5 - k);
      s += masked(row, 6u, v6 - k); s += masked(row, 7u, v7 - k);
    }
    if TILE > 8u {
      s += masked(row, 8u, v8 - k); s += masked(row, 9u, v9 - k);
      s += masked(row, 10u, v10 - k); s += masked(row, 11u, v11 - k);
      s += masked(row, 12u, v12 - k); s += masked(row, 13u, v13 - k);
      s += masked(row, 14u, v14 - k); s += masked(row, 15u, v15 - k);
    }
    m = k + row_sum(row, vec4(sum4(s), 0.0, 0.0, 0.0)).x / n;
  }

  s = vec4(0.0);
  var q = vec4(0.0);
  v0 = masked(row, 0u, v0 - m); s += v0; q += v0 * v0;
  if TILE > 1u {
    v1 = masked(row, 1u, v1 - m); s += v1; q += v1 * v1;
  }
  if TILE > 2u {
    v2 = masked(row, 2u, v2 - m); s += v2; q += v2 * v2; v3 = masked(row, 3u, v3 - m); s += v3; q += v3 * v3;
  }
  if TILE > 4u {
    v4 = masked(row, 4u, v4 - m); s += v4; q += v4 * v4; v5 = masked(row, 5u, v5 - m); s += v5; q += v5 * v5;
    v6 = masked(row, 6u, v6 - m); s += v6; q += v6 * v6; v7 = masked(row, 7u, v7 - m); s += v7; q += v7 * v7;
  }
  if TILE > 8u {
    v8 = masked(row, 8u, v8 - m); s += v8; q += v8 * v8; v9 = masked(row, 9u, v9 - m); s += v9; q += v9 * v9;
    v10 = masked(row, 10u, v10 - m); s += v10; q += v10 * v10; v11 = masked(row, 11u, v11 - m); s += v11; q += v11 * v11;
    v12 = masked(row, 12u, v12 - m); s += v12; q += v12 * v12; v13 = masked(row, 13u, v13 - m); s += v13; q += v13 * v13;
    v14 = masked(row, 14u, v14 - m); s += v14; q += v14 * v14; v15 = masked(row, 15u, v15 - m); s += v15; q += v15 * v15;
  }
  let sums = row_sum(row, vec4(sum4(s), sum4(q), 0.0, 0.0));
  let e = select(0.0, sums.x / n, CENTERED);
  let variance = not_negative(vec4(sums.y / n - e * e)).x; // rounding may make it negative
  if SAVE {
    if row.lane == 0u && row.end > 0u {
      moments[along(task.stat, row.group)] = vec4(counts, m, select(0.0, e, finite(m)), variance * n);
    }
  }

  let affine = affine_of(row, rstd_of(variance));
  write(row, 0u, v0 - e, affine);
  if TILE > 1u {
    write(row, 1u, v1 - e, affine);
  }
  if TILE > 2u {
    write(row, 2u, v2 - e, affine); write(row, 3u, v3 - e, affine);
  }
  if TILE > 4u {
    write(row, 4u, v4 - e, affine); write(row, 5u, v5 - e, affine);
    write(row, 6u, v6 - e, affine); write(row, 7u, v7 - e, affine);
  }
  if TILE > 8u {
    write(row, 8u, v8 - e, affine); write(row, 9u, v9 - e, affine);
    write(row, 10u, v10 - e, affine); write(row, 11u, v11 - e, affine);
    write(row, 12u, v12 - e, affine); write(row, 13u, v13 - e, affine);
    write(row, 14u, v14 - e, affine); write(row, 15u, v15 - e, affine);
  }
}
