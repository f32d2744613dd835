// update_running: running = (1 - factor)·running + factor·batch, per channel, where the batch's value is the mean
// over group_outer of the groups' own means and variances (InstanceNorm: over the samples).
// One workgroup: all lanes must read the count of steps before one of them writes it, and no barrier reaches
// across workgroups.
// group(0): task · moments (partials) · running (mean, then var, per channel) · tracked (steps so far)
// host twin: src/host/running.rs

override CUMULATIVE: bool = false; // factor is 1/steps, counted up first
override UNBIASED: bool = true;    // variance over M - 1

@group(0) @binding(6) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> running: array<f32>;
@group(0) @binding(8) var<storage, read_write> tracked: array<u32>;

@compute @workgroup_size(WG)
fn update_running(@builtin(local_invocation_index) invocation: u32) {
  var factor = task.scalars.y;
  var rest = task.scalars.z;
  if CUMULATIVE {
    let steps = tracked[0] + 1u;
    factor = 1.0 / f32(steps);
    rest = 1.0 - factor;
    storageBarrier();
    if invocation == 0u {
      tracked[0] = steps;
    }
  }
  let channels = task.extent.y;
  let outer = f32(task.extent.x);
  for (var c = invocation; c < channels; c += WG) {
    // Means are averaged as distances from the first, so that a large common offset does not cancel.
    var origin = 0.0;
    var mean = 0.0;
    var variance = 0.0;
    for (var g = 0u; g < task.extent.x; g++) {
      let stat = g * task.stat.x + c * task.stat.y;
      var all = vec4(0.0);
      for (var slice = 0u; slice < task.slicing.x; slice++) {
        all = merge(all, moments[stat * task.slicing.x + slice]);
      }
      if g == 0u { origin = all.y; }
      mean += (all.y - origin) + all.z;
      var freedom = all.x;
      if UNBIASED { freedom = max(all.x - 1.0, 1.0); } // one value: variance 0
      variance += select(all.w, 0.0, all.w < 0.0) / freedom;
    }
    running[c] = rest * running[c] + factor * (origin + mean / outer);
    running[channels + c] = rest * running[channels + c] + factor * (variance / outer);
  }
}
