// input_grad: dx = rstd · (γg - Σγg/n - xhat · Σγg·xhat/n), without the sums where statistics are constants, and
// without the first where nothing is centered.
// group(0): task · x · y (dx, written) · addend · weight · bias · moments (unless CONSTANT paired with sums) · dy · mask
// host twin: src/host/grads.rs

override CONSTANT: bool = false;

@compute @workgroup_size(WG)
fn input_grad(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let whole = row_stat(row);
  var means = vec2(0.0);
  if !CONSTANT {
    let entry = 2u * along(task.stat, row.group);
    means = moments[entry + 1u].yz / max(moments[entry].x, 1.0);
    if !CENTERED { means.x = 0.0; }
  }
  let steps = (task.slicing.y + LANES * 4u - 1u) / (LANES * 4u);
  for (var step = 0u; step < steps; step++) {
    let p = positions(step, row.lane);
    let i = elements(row, p);
    var xhat = vec4(0.0);
    if !CONSTANT || ACTIVATION != 0u { xhat = xhat_of(row, p, load_x(i), whole); }
    let g = gradient_at(row, p, i, xhat) * load_weight(row, p);
    var dx = whole.z * g;
    if !CONSTANT { dx = whole.z * ((g - means.x) - xhat * means.y); }
    if MASKED { dx = keep(dx, row, p); }
    store_y(i, p, row.end, dx);
  }
}
