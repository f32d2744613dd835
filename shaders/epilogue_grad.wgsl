// epilogue_grad: the addend's gradient alone, for devices that bind too few buffers to write it on the way.
// group(0): task · x · addend · weight · bias · moments · dy · mask · gradient (written)
// host twin: src/host/grads.rs

@compute @workgroup_size(WG)
fn epilogue_grad(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let whole = row_stat(row);
  let steps = (task.slicing.y + LANES * 4u - 1u) / (LANES * 4u);
  for (var step = 0u; step < steps; step++) {
    let p = positions(step, row.lane);
    let i = elements(row, p);
    write_daddend(row, p, i, gradient_at(row, p, i, xhat_of(row, p, load_x(i), whole)));
  }
}
