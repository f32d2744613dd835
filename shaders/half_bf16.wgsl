// bf16: the upper half of an f32.

// The f32 that 16 bits stand for.
fn widen(bits: vec4<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bits << vec4(16u));
}

// Rounds to nearest even; NaN stays NaN.
fn narrow(v: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(v);
  let rounded = (bits + vec4(0x7fffu) + ((bits >> vec4(16u)) & vec4(1u))) >> vec4(16u);
  let nan = (bits & vec4(0x7fffffffu)) > vec4(0x7f800000u);
  return pick(rounded, (bits >> vec4(16u)) | vec4(0x0040u), nan);
}
