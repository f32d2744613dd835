// update_running: running = (1 - factor)·running + factor·batch, per channel, where the batch's value is the mean
// over group_outer of the groups' own means and variances (InstanceNorm: over the samples).
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
  let channels = task.extent.y;
  let samples = task.extent.x;
  let slices = task.slicing.x;
  let lane = invocation % LANES;
  let c = (workgroup.x + workgroup.y * grid.x) * ROWS + invocation / LANES;
  let live = c < channels;

  // Means are summed as distances from one of them, so that a large common offset does not cancel.
  let origin = anchor(moments[c * task.stat.y * slices].y);
  var sums = vec4(0.0); // of means, of variances
  for (var g = lane; g < select(0u, samples, live); g += LANES) {
    let first = (g * task.stat.x + c * task.stat.y) * slices;
    var all = vec4(0.0);
    for (var slice = 0u; slice < slices; slice++) {
      all = merge(all, moments[first + slice]);
    }
    var freedom = all.x;
    if UNBIASED { freedom = max(all.x - 1.0, 1.0); } // one value: variance 0
    sums += vec4((all.y - origin) + all.z, not_negative(all).w / freedom, 0.0, 0.0);
  }
  sums = row_sum(invocation, sums) / f32(samples);

  if lane == 0u && live {
    var factor = task.scalars.y;
    var rest = task.scalars.z;
    if CUMULATIVE {
      factor = 1.0 / (f32(tracked[0]) + 1.0);
      rest = 1.0 - factor;
    }
    running[c] = rest * running[c] + factor * (origin + sums.x);
    running[channels + c] = rest * running[channels + c] + factor * sums.y;
  }
}
