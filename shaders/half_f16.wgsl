// f16 by integer operations: WGSL fixes neither the rounding of its own conversions nor what becomes of subnormals.

// The f32 that 16 bits stand for, exactly.
fn widen(bits: vec4<u32>) -> vec4<f32> {
  let sign = (bits & vec4(0x8000u)) << vec4(16u);
  let magnitude = bits & vec4(0x7fffu);
  let normal = bitcast<vec4<f32>>(((magnitude << vec4(13u)) + vec4(0x38000000u)) | sign);
  let special = bitcast<vec4<f32>>((magnitude << vec4(13u)) | vec4(0x7f800000u) | sign);
  // 2^-24 · mantissa: an f16 subnormal is a normal f32.
  let subnormal = bitcast<vec4<f32>>(bitcast<vec4<u32>>(vec4<f32>(magnitude) * 5.9604644775390625e-8) | sign);
  return select(select(normal, subnormal, magnitude < vec4(0x0400u)), special, magnitude >= vec4(0x7c00u));
}

// Rounds to nearest even; from 65520 on it is infinity, NaN stays NaN.
fn narrow(v: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(v);
  let sign = (bits >> vec4(16u)) & vec4(0x8000u);
  let magnitude = bits & vec4(0x7fffffffu);
  // Normal: drop 13 bits of the mantissa, a tie to even; a carry into the exponent is right.
  let rebased = magnitude - vec4(0x38000000u);
  let normal = (rebased + vec4(0x0fffu) + ((rebased >> vec4(13u)) & vec4(1u))) >> vec4(13u);
  // Subnormal: the same with the implicit bit written out, shifted by what the exponent lacks.
  let mantissa = (magnitude & vec4(0x007fffffu)) | vec4(0x00800000u);
  let shift = min(vec4(126u) - min(magnitude >> vec4(23u), vec4(112u)), vec4(31u));
  let kept = mantissa >> shift;
  let rest = mantissa - (kept << shift);
  let tie = vec4(1u) << (shift - vec4(1u));
  let up = (rest > tie) | ((rest == tie) & ((kept & vec4(1u)) == vec4(1u)));
  let subnormal = kept + vec4<u32>(up);
  var half = pick(normal, subnormal, magnitude < vec4(0x38800000u));
  half = pick(half, vec4(0x7c00u), magnitude >= vec4(0x477ff000u));
  half = pick(half, vec4(0x7e00u), magnitude > vec4(0x7f800000u));
  return half | sign;
}
