// gather_params: dbias = Σg and dweight = Σg·xhat per parameter, over the slices of the groups that share it: all those
// along group_outer, where its stride is 0. In a fixed order, in two levels as in sums_row.
// A row of lanes works on one parameter.
// group(0): task · sums (partials) · weight_out (written when WEIGHT) · bias_out (written when BIAS)

override WEIGHT: bool = false;
override BIAS: bool = false;
override ACCUMULATE: bool = false; // add to what is there

@group(0) @binding(10) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read_write> weight_out: array<f32>;
@group(0) @binding(14) var<storage, read_write> bias_out: array<f32>;

@compute @workgroup_size(WG)
fn gather_params(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let parts = task.slicing.w;
  let shared_by = select(1u, task.extent.x, task.param.x == 0u);
  let items = select(0u, shared_by * parts, row.end > 0u);
  var all = vec4(0.0);
  var some = vec4(0.0);
  var taken = 0u;
  for (var item = row.lane; item < items; item += LANES) {
    let group = row.group + item / parts * task.extent.y;
    some += sums[group * parts + item % parts];
    taken += 1u;
    if taken == 64u {
      all += some;
      some = vec4(0.0);
      taken = 0u;
    }
  }
  all = row_sum(row, all + some);
  if row.lane == 0u && row.end > 0u {
    let i = along(task.param, row.group);
    if WEIGHT {
      if ACCUMULATE { weight_out[i] += all.z; } else { weight_out[i] = all.z; }
    }
    if BIAS {
      if ACCUMULATE { bias_out[i] += all.y; } else { bias_out[i] = all.y; }
    }
  }
}
