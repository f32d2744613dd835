// gather_moments: one entry per statistic from the partials of split groups, or from running statistics, which become
// (1, mean, 0, variance).
// A row of lanes works on one statistic.
// group(0): task · moments (partials) · running (mean, then var, per channel) · out (written)

override RUNNING: bool = false;

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> running: array<f32>;
@group(0) @binding(12) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn gather_moments(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let stat = row.group;
  var all = vec4(0.0);
  if RUNNING {
    all = vec4(1.0, running[stat], 0.0, running[task.span.w + stat]);
  } else {
    for (var part = row.lane; part < select(0u, task.slicing.w, row.end > 0u); part += LANES) {
      all = merge(all, moments[stat * task.slicing.w + part]);
    }
    all = row_merge(row, all);
  }
  if row.lane == 0u && row.end > 0u {
    out[stat] = all;
  }
}
