// merge_entries: entry by entry, the moments of two sets together (Chan), or the sum of two vectors.
// group(0): task · moments (a) · sums (b) · out (written)

override ACCUMULATE: bool = false;

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn merge_entries(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  if row.end > 0u {
    let a = moments[row.group];
    let b = sums[row.group];
    if ACCUMULATE { out[row.group] = a + b; } else { out[row.group] = merge(a, b); }
  }
}
