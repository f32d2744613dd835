// gather_sums: (count, Σγg, Σγg·xhat, 0) of each group from the partials of its slices; when PAIRED behind the moments
// of the group, so that one binding holds all that input_grad needs.
// A row of lanes works on one group. With KIN the partials are those of its channels, which have weights of their own.
// group(0): task · weight · moments · sums (partials) · out (written)

override PAIRED: bool = false;

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read_write> out: array<vec4<f32>>;

// Channels are one of the axes inside a group; along the other one the weight is the same.
fn channel_weight(row: Row, channel: u32) -> f32 {
  if !WEIGHT {
    return 1.0;
  }
  let i = along(task.param, row.group) + channel * max(task.param.z, task.param.w);
  return weight[i + task.param_base.x];
}

@compute @workgroup_size(WG)
fn gather_sums(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let parts = KIN * task.slicing.w;
  var all = vec4(0.0);
  for (var part = row.lane; part < select(0u, parts, row.end > 0u); part += LANES) {
    let some = sums[row.group * parts + part];
    if KIN > 1u {
      let own = channel_weight(row, part / task.slicing.w);
      all += vec4(some.x, own * some.y, own * some.z, 0.0);
    } else {
      all += some;
    }
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
