// count_step: one more training step, whatever was in it. A dispatch of its own, after all of update_running has read
// the count: no barrier reaches across workgroups.
// group(0): task · tracked (steps so far)
// host twin: src/host/running.rs

@group(0) @binding(8) var<storage, read_write> tracked: array<u32>;

@compute @workgroup_size(WG)
fn count_step(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  if row.lane == 0u && row.end > 0u {
    tracked[0] += select(0u, 1u, tracked[0] < 0xffffffffu); // saturates, as on the host
  }
}
