// update_running: running = (1 - factor)·running + factor·batch, per channel, where the batch's value is the mean
// over group_outer of the groups' own means and variances (InstanceNorm: over the samples). A group of nothing (all of
// it masked) is left out; a channel of nothing stays.
// A row of lanes works on one channel and shares out the samples.
// group(0): task · moments (partials) · running (mean, then var, per channel) · tracked (steps before this one)
// host twin: src/host/running.rs

override CUMULATIVE: bool = false; // factor is 1/steps, this one counted
override UNBIASED: bool = true;    // variance over M - 1

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> running: array<f32>;
@group(0) @binding(8) var<storage, read> tracked: array<u32>;

@compute @workgroup_size(WG)
fn update_running(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let channels = task.extent.y;
  let c = row.group;
  let live = row.end > 0u;
  let samples = select(0u, task.extent.x, live);
  let parts = task.slicing.w;

  // Means are summed as distances from one of them, so that a large common offset does not cancel.
  let origin = anchor(moments[c * task.stat.y * parts].y);
  var sums = vec4(0.0); // of means, of variances, of groups
  for (var sample = row.lane; sample < samples; sample += LANES) {
    let first = (sample * task.stat.x + c * task.stat.y) * parts;
    var all = vec4(0.0);
    for (var part = 0u; part < parts; part++) {
      all = merge(all, moments[first + part]);
    }
    var freedom = all.x;
    if UNBIASED { freedom = max(all.x - 1.0, 1.0); } // one value: variance 0
    let group = vec4((all.y - origin) + all.z, all.w / max(freedom, 1.0), 1.0, 0.0);
    sums += select(group, vec4(0.0), all.x == 0.0);
  }
  sums = row_sum(row, sums);

  if row.lane == 0u && sums.z > 0.0 {
    var factor = task.scalars.y;
    var rest = task.scalars.z;
    if CUMULATIVE {
      factor = 1.0 / (f32(tracked[0]) + 1.0);
      rest = 1.0 - factor;
    }
    running[c] = rest * running[c] + factor * (origin + sums.x / sums.z);
    running[channels + c] = rest * running[channels + c] + factor * (sums.y / sums.z);
  }
}
