// stats_row: moments of one slice of a group, for groups too large for a workgroup's registers.
// Each lane walks its slice in blocks of four steps (16 values): exact inside as in norm_row, blocks merged.
// Sixteen values per merge cost no more than raw sums, which would cancel.
// group(0): task · x · moments (written)
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
    let x0 = load_x(row.start, p0);
    let x1 = load_x(row.start, p1);
    let x2 = load_x(row.start, p2);
    let x3 = load_x(row.start, p3);

    let one = vec4(1.0);
    let n = sum4(keep(one, p0, row.end) + keep(one, p1, row.end) + keep(one, p2, row.end) + keep(one, p3, row.end));
    let share = 1.0 / max(n, 1.0);
    let k = vec4(anchor(x0.x)); // within the slice whenever the block has any element
    let s = (keep(x0 - k, p0, row.end) + keep(x1 - k, p1, row.end))
      + (keep(x2 - k, p2, row.end) + keep(x3 - k, p3, row.end));
    let m = vec4(k.x + sum4(s) * share);
    let d0 = keep(x0 - m, p0, row.end);
    let d1 = keep(x1 - m, p1, row.end);
    let d2 = keep(x2 - m, p2, row.end);
    let d3 = keep(x3 - m, p3, row.end);
    let e = sum4((d0 + d1) + (d2 + d3)) * share;
    let q = sum4((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3));
    all = merge(all, vec4(n, m.x, select(0.0, e, finite(m.x)), q - n * e * e));
  }
  all = row_merge(invocation, all);
  if row.lane == 0u && row.end > 0u {
    moments[along(task.stat, row.group) * task.slicing.x + row.slice] = all;
  }
}
