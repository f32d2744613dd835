// epilogue_grad: the addend's gradient, dy · act'(preactivation); 0 where the mask counts nothing.
// group(0): task · x · y (written) · addend · weight · bias · moments · dy · mask
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
    var g = gradient_at(row, p, i, xhat_of(row, p, load_x(i), whole));
    if MASKED { g = keep(g, row, p); }
    store_y(i, p, row.end, g);
  }
}
