// style_tables: what AdaIN scales and shifts by, from a style's statistics: √(var + eps) and the mean.
// group(0): task · moments · weight_out (written) · bias_out (written)

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read_write> weight_out: array<f32>;
@group(0) @binding(14) var<storage, read_write> bias_out: array<f32>;

@compute @workgroup_size(WG)
fn style_tables(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  if row.end > 0u {
    let all = moments[row.group];
    weight_out[row.group] = sqrt(variance_of(all) + task.scalars.x);
    bias_out[row.group] = all.y + all.z;
  }
}
