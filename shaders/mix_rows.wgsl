// mix_rows: out[i, j] = Σ_k mix[i, k] · rows[k, j], in order of k: styles blended, their gradients gathered. A row
// that nobody asks for is not touched: it may hold NaN.
// extent: outputs, columns, terms; param: strides of mix along outputs and terms.
// group(0): task · weight (mix) · bias (rows) · weight_out (written)

override ACCUMULATE: bool = false; // add to what is there

@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(13) var<storage, read_write> weight_out: array<f32>;

@compute @workgroup_size(WG)
fn mix_rows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  if row.end > 0u {
    let i = row.group / task.extent.y;
    let j = row.group % task.extent.y;
    var sum = 0.0;
    for (var k = 0u; k < task.extent.z; k++) {
      let part = weight[i * task.param.x + k * task.param.z + task.param_base.x];
      if part != 0.0 { sum += part * bias[k * task.extent.y + j + task.param_base.y]; }
    }
    if ACCUMULATE { weight_out[row.group] += sum; } else { weight_out[row.group] = sum; }
  }
}
