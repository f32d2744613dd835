// What follows the statistics in every kernel that writes y: affine, addend, activation.

// Writes a step of a row: `deviations` are x - mean.
fn write_y(row: Row, p: vec4<u32>, deviations: vec4<f32>, affine: vec2<f32>) {
  let i = elements(row, p);
  var v = activate(plus_addend(apply_affine(row, p, deviations, affine), i));
  if MASKED { v = keep(v, row, p); }
  store_y(i, p, row.end, v);
}
