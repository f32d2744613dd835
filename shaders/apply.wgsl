// apply: normalize with statistics that are there already.
// Of a split group each workgroup merges the partials itself, in the same order, so no dispatch stands between.
// group(0): task · x · y · addend · weight · bias · moments · running (mean, then var, per channel) · mask
// host twin: src/host/apply.rs

override RUNNING: bool = false; // statistics from `running` instead of `moments`

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> running: array<f32>;

@compute @workgroup_size(WG)
fn apply(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let stat = along(task.stat, row.group);
  var mean = vec2(0.0); // rounded mean and its residual
  var variance = 0.0;
  if RUNNING {
    mean.x = running[stat];
    variance = running[task.extent.y + stat];
  } else {
    var all = vec4(0.0);
    for (var part = row.lane; part < task.slicing.w; part += LANES) {
      all = merge(all, moments[stat * task.slicing.w + part]);
    }
    all = row_merge(row, all);
    mean = all.yz;
    variance = variance_of(all);
  }
  let affine = affine_of(row, rstd_of(variance));
  let steps = (task.slicing.y + LANES * 4u - 1u) / (LANES * 4u);
  for (var step = 0u; step < steps; step++) {
    let p = positions(step, row.lane);
    write_y(row, p, (load_x(elements(row, p)) - mean.x) - mean.y, affine);
  }
}
