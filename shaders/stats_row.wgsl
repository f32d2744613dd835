// stats_row: moments of one slice of a group, for groups too large for a workgroup's registers.
// Each lane walks its slice in blocks of four steps (16 values): exact inside as in norm_row, blocks merged.
// Sixteen values per merge cost no more than raw sums, which would cancel.
// group(0): task · x · moments (written) · mask
// host twin: src/host/stats.rs

@group(0) @binding(6) var<storage, read_write> moments: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn stats_row(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let blocks = (task.slicing.y + LANES * 16u - 1u) / (LANES * 16u);
  var all = vec4(0.0);
  for (var block = 0u; block < blocks; block++) {
    let p0 = positions(block * 4u, row.lane);
    let p1 = positions(block * 4u + 1u, row.lane);
    let p2 = positions(block * 4u + 2u, row.lane);
    let p3 = positions(block * 4u + 3u, row.lane);
    let x0 = load_x(elements(row, p0));
    let x1 = load_x(elements(row, p1));
    let x2 = load_x(elements(row, p2));
    let x3 = load_x(elements(row, p3));

    let one = vec4(1.0);
    let n = sum4(keep(one, row, p0) + keep(one, row, p1) + keep(one, row, p2) + keep(one, row, p3));
    let share = 1.0 / max(n, 1.0);
    var k = vec4(0.0);
    if MASKED {
      let best = first_of(first_of(first_of(first_of(vec2(NOWHERE, 0.0), x0, row, p0), x1, row, p1), x2, row, p2), x3, row, p3);
      k = vec4(anchor(best.y));
    } else {
      k = vec4(anchor(x0.x)); // within the slice whenever the block has any element
    }
    var m = vec4(0.0);
    if CENTERED {
      let s = (keep(x0 - k, row, p0) + keep(x1 - k, row, p1)) + (keep(x2 - k, row, p2) + keep(x3 - k, row, p3));
      m = vec4(k.x + sum4(s) * share);
    }
    let d0 = keep(x0 - m, row, p0);
    let d1 = keep(x1 - m, row, p1);
    let d2 = keep(x2 - m, row, p2);
    let d3 = keep(x3 - m, row, p3);
    let e = select(0.0, sum4((d0 + d1) + (d2 + d3)) * share, CENTERED);
    let q = sum4((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3));
    let m2 = not_negative(vec4(q - n * e * e)).x; // rounding may make it negative
    all = merge(all, vec4(n, m.x, select(0.0, e, finite(m.x)), m2));
  }
  all = row_merge(row, all);
  if row.lane == 0u && row.end > 0u {
    moments[along(task.stat, row.group) * task.slicing.x + row.slice] = all;
  }
}
