// count_step: one more training step. A dispatch of its own, after all of update_running has read the count: no
// barrier reaches across workgroups.
// group(0): tracked (steps so far)

@group(0) @binding(8) var<storage, read_write> tracked: array<u32>;

@compute @workgroup_size(1)
fn count_step() {
  tracked[0] += select(0u, 1u, tracked[0] < 0xffffffffu); // saturates, as on the host
}
