// The activations and their gradients, with PyTorch's results at infinity: NaN where it computes infinity times 0.
//
// SiLU and both GELUs are v · p(v) with p(v) + p(-v) = 1. So act(v) = v + act(-v) and act'(v) = 1 - act'(-v): the
// values at -|v| give all others. There every term is a product with h², which falls to 0 before |v| reaches its limit.
// The factors of such a product are taken in pairs of which each has one h, so that neither overflows.

override ACTIVATION: u32 = 0u; // 0 none, 1 ReLU, 2 leaky ReLU, 3 SiLU, 4 GELU, 5 GELU by tanh, 6 tanh, 7 sigmoid

fn magnitude_bits(v: vec4<f32>) -> vec4<u32> {
  return bitcast<vec4<u32>>(v) & vec4(0x7fffffffu);
}

fn positive(v: vec4<f32>) -> vec4<bool> {
  let bits = bitcast<vec4<u32>>(v);
  return (bits > vec4(0u)) & (bits <= vec4(0x7f800000u));
}

// Where the sign is minus, that of -0 included, so that activations of 0 keep its sign.
fn negative(v: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<i32>>(v) < vec4(0);
}

// |v|, and what its activation is made of: h² is exp(-|v|) for SiLU and sigmoid, exp(-2|v|) for tanh, and the
// corresponding function for the GELUs; h² · p is the probability at -|v|. h stays a normal number, whatever a
// device does to subnormal ones.
struct Parts {
  a: vec4<f32>,
  h: vec4<f32>,
  p: vec4<f32>,
}

const SQRT_8_PI = 1.5957691216057308; // sqrt(8/pi)

fn parts(v: vec4<f32>) -> Parts {
  if ACTIVATION == 4u {
    let a = min(abs(v), vec4(17.0));
    return Parts(a, exp(-0.25 * a * a), tail_ratio(a));
  }
  var a = min(abs(v), vec4(150.0));
  var x = a; // -ln(h²)
  if ACTIVATION == 5u {
    a = min(a, vec4(12.0));
    x = SQRT_8_PI * (a + 0.044715 * (a * a * a)); // (1 + tanh u)/2 is sigmoid(2u)
  }
  if ACTIVATION == 6u {
    a = min(a, vec4(75.0));
    x = 2.0 * a;
  }
  let h = exp(-0.5 * x);
  return Parts(a, h, 1.0 / (1.0 + h * h));
}

// The normal distribution's probability below -a over exp(-a²/2), for a of 0 to 17: a polynomial in t that is off by
// 3.2e-8 of the value at most (found by Remez's exchange), and in f32 by 3.4e-7.
fn tail_ratio(a: vec4<f32>) -> vec4<f32> {
  let t = 1.0 / (1.0 + 0.35 * a);
  var sum = vec4(-0.0291652952);
  sum = sum * t + 0.144067609;
  sum = sum * t - 0.255916257;
  sum = sum * t + 0.159409773;
  sum = sum * t - 0.0232757651;
  sum = sum * t + 0.105580004;
  sum = sum * t + 0.119814138;
  sum = sum * t + 0.13986453;
  sum = sum * t + 0.139621247;
  return sum * t;
}

// `result`, but NaN where v is NaN, which arithmetic on a GPU may lose, or is not to have a result.
fn but_nan(result: vec4<f32>, v: vec4<f32>, none: vec4<bool>) -> vec4<f32> {
  let nan = bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) | vec4(0x7fc00000u));
  return select(result, nan, none | (magnitude_bits(v) > vec4(0x7f800000u)));
}

fn activate(v: vec4<f32>) -> vec4<f32> {
  if ACTIVATION == 0u { return v; }
  if ACTIVATION == 1u { return not_negative(v); }
  if ACTIVATION == 2u { return but_nan(select(task.scalars.w * v, v, positive(v)), v, vec4(false)); }
  let at = parts(v);
  if ACTIVATION == 6u {
    let q = at.a * at.a;
    // Far from 0 the quotient, near it, where that would cancel, Taylor's series: to a^9, for a < 0.35 off by 1e-7 of the value.
    let near = at.a * (1.0 + q * (-1.0 / 3.0 + q * (2.0 / 15.0 + q * (-17.0 / 315.0 + q * (62.0 / 2835.0)))));
    let magnitude = select((1.0 - at.h * at.h) * at.p, near, at.a < vec4(0.35));
    return but_nan(select(magnitude, -magnitude, negative(v)), v, vec4(false));
  }
  if ACTIVATION == 7u {
    return but_nan(select(at.h * (at.h * at.p), at.p, positive(v)), v, vec4(false));
  }
  let below = (at.a * at.h) * (at.h * at.p);
  return but_nan(select(v - below, -below, negative(v)), v, bitcast<vec4<u32>>(v) == vec4(0xff800000u));
}

// dy · act'(v). At the kinks as in PyTorch: 0 for ReLU, which is a choice there and no product, the slope for the
// leaky one.
fn chain(v: vec4<f32>, dy: vec4<f32>) -> vec4<f32> {
  if ACTIVATION == 0u { return dy; }
  if ACTIVATION == 1u { return select(dy, vec4(0.0), not_above_zero(v)); }
  if ACTIVATION == 2u { return select(task.scalars.w * dy, dy, positive(v)); }
  let at = parts(v);
  let tail = at.h * at.p;
  if ACTIVATION == 6u { return dy * but_nan(4.0 * (tail * tail), v, vec4(false)); }
  if ACTIVATION == 7u { return dy * but_nan(tail * tail, v, vec4(false)); }
  // a · slope · h² is what p's own derivative adds.
  var slope = vec4(0.3989422804014327); // of GELU: 1/sqrt(2 pi)
  if ACTIVATION == 3u { slope = at.p * at.p; }
  if ACTIVATION == 5u { slope = SQRT_8_PI * (1.0 + 0.134145 * (at.a * at.a)) * (at.p * at.p); }
  let below = at.h * (at.h * (at.p - at.a * slope));
  return dy * but_nan(select(below, 1.0 - below, positive(v)), v, magnitude_bits(v) == vec4(0x7f800000u));
}
