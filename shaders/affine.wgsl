// What follows the statistics in every kernel that writes y: affine, addend, activation.

@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

override WEIGHT: bool = false;
override BIAS: bool = false;
override ADDEND: bool = false;
override ACTIVATION: u32 = 0u; // 0 none, 1 ReLU

// A group's factor and summand.
fn affine_of(group: u32, rstd: f32) -> vec2<f32> {
  let i = along(task.param, group);
  var scale = rstd;
  var shift = 0.0;
  if WEIGHT { scale *= weight[i + task.param_base.x]; }
  if BIAS { shift = bias[i + task.param_base.y]; }
  return vec2(scale, shift);
}

// Writes a step of a row: `deviations` are x - mean.
fn write_y(row: Row, p: vec4<u32>, deviations: vec4<f32>, affine: vec2<f32>) {
  var v = deviations * affine.x + affine.y;
  if ADDEND { v += load_addend(row.start, p); }
  if ACTIVATION == 1u { v = select(v, vec4(0.0), v < vec4(0.0)); } // a comparison keeps NaN, max may not
  store_y(row.start, p, row.end, v);
}
