// gather_sums: (count, Σγg, Σγg·xhat, 0) of each group from the partials of its slices; when PAIRED behind the moments
// of the group, so that one binding holds all that input_grad needs.
// A row of lanes works on one group.
// group(0): task · weight · moments · sums (partials) · out (written)

override PAIRED: bool = false;

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn gather_sums(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  var all = vec4(0.0);
  for (var part = row.lane; part < select(0u, task.slicing.w, row.end > 0u); part += LANES) {
    all += sums[row.group * task.slicing.w + part];
  }
  all = row_sum(row, all);
  if row.lane == 0u && row.end > 0u {
    // Where the weight varies inside a group, the partials have it already.
    var factor = 1.0;
    if !INSIDE { factor = load_weight(row, vec4(0u)).x; }
    let total = vec4(all.x, factor * all.y, factor * all.z, 0.0);
    if PAIRED {
      let stat = along(task.stat, row.group);
      out[2u * stat] = moments[stat];
      out[2u * stat + 1u] = total;
    } else {
      out[row.group] = total;
    }
  }
}
