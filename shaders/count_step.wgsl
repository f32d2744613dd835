// count_step: one more training step, unless a mask counts nothing in it. A dispatch of its own, after all of
// update_running has read the count: no barrier reaches across workgroups.
// One row of lanes shares out the first channel's groups, or their partials; the other channels have the same mask.
// group(0): task · moments (partials) · tracked (steps so far)
// host twin: src/host/running.rs

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> tracked: array<u32>;

@compute @workgroup_size(WG)
fn count_step(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let parts = task.slicing.w;
  let entries = select(0u, task.extent.x * parts, row.end > 0u);
  var counted = vec4(0.0);
  for (var entry = row.lane; entry < entries; entry += LANES) {
    counted.x += moments[entry / parts * task.stat.x * parts + entry % parts].x;
  }
  counted = row_sum(row, counted);
  if row.lane == 0u && row.end > 0u && counted.x > 0.0 {
    tracked[0] += select(0u, 1u, tracked[0] < 0xffffffffu); // saturates, as on the host
  }
}
