// The activations and their derivatives. All keep NaN.

override ACTIVATION: u32 = 0u; // 0 none, 1 ReLU, 2 leaky ReLU, 3 SiLU, 4 GELU, 5 GELU by tanh, 6 tanh, 7 sigmoid

// Where a value is NaN, by its bits.
fn is_nan(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(v) & vec4(0x7fffffffu)) > vec4(0x7f800000u);
}

fn positive(v: vec4<f32>) -> vec4<bool> {
  let bits = bitcast<vec4<u32>>(v);
  return (bits > vec4(0u)) & (bits <= vec4(0x7f800000u));
}

// exp of nothing above 0 never overflows, whatever the sign of v.
fn sigmoid(v: vec4<f32>) -> vec4<f32> {
  let e = exp(-min(abs(v), vec4(88.0)));
  let s = 1.0 / (1.0 + e);
  let both = select(e * s, s, v >= vec4(0.0));
  // exp and min may lose NaN.
  return select(both, v, is_nan(v));
}

// tanh loses to cancellation near 0 on some devices, and to overflow far from it on others.
fn tanh_of(v: vec4<f32>) -> vec4<f32> {
  let a = abs(v);
  let e = exp(-2.0 * min(a, vec4(40.0)));
  let far = (1.0 - e) / (1.0 + e);
  let q = v * v;
  // Taylor to v^9: below 1e-7 of the value for |v| < 0.35.
  let near = a * (1.0 + q * (-1.0 / 3.0 + q * (2.0 / 15.0 + q * (-17.0 / 315.0 + q * (62.0 / 2835.0)))));
  let magnitude = select(far, near, a < vec4(0.35));
  let signed = select(magnitude, -magnitude, v < vec4(0.0));
  return select(signed, v, is_nan(v));
}

// erf by its Taylor series near 0 and by a continued fraction of erfc elsewhere, each to f32.
fn erf(v: vec4<f32>) -> vec4<f32> {
  let a = min(abs(v), vec4(4.0)); // erf(4) is 1 in f32
  let q = a * a;
  // 2/sqrt(pi) · Σ (-1)^n a^(2n+1) / (n! (2n+1)), to n = 11
  var near = vec4(-1.0 / 918086400.0);
  near = near * q + vec4(1.0 / 76204800.0);
  near = near * q - vec4(1.0 / 6894720.0);
  near = near * q + vec4(1.0 / 685440.0);
  near = near * q - vec4(1.0 / 75600.0);
  near = near * q + vec4(1.0 / 9360.0);
  near = near * q - vec4(1.0 / 1320.0);
  near = near * q + vec4(1.0 / 216.0);
  near = near * q - vec4(1.0 / 42.0);
  near = near * q + vec4(0.1);
  near = near * q - vec4(1.0 / 3.0);
  near = (near * q + vec4(1.0)) * a * 1.1283791670955126;
  // "Handbook of Mathematical Functions" 7.1.14, from the tail.
  var tail = a;
  for (var n = 24; n > 0; n--) {
    tail = a + (f32(n) * 0.5) / max(tail, vec4(1.0e-3));
  }
  let far = 1.0 - exp(-q) * 0.5641895835477563 / max(tail, vec4(1.0e-3));
  let magnitude = select(far, near, a < vec4(1.25));
  let signed = select(magnitude, -magnitude, v < vec4(0.0));
  return select(signed, v, is_nan(v));
}

const SQRT_HALF = 0.7071067811865476;
const SQRT_2_PI = 0.7978845608028654; // sqrt(2/pi)

// v · p, where p may be 0 and v infinite.
fn weighted(v: vec4<f32>, p: vec4<f32>) -> vec4<f32> {
  return select(v * p, vec4(0.0), (p == vec4(0.0)) & !is_nan(v));
}

// The normal distribution's cumulative probability.
fn normal_cdf(v: vec4<f32>) -> vec4<f32> {
  return 0.5 * (1.0 + erf(v * SQRT_HALF));
}

fn gelu_inner(v: vec4<f32>) -> vec4<f32> {
  return SQRT_2_PI * (v + 0.044715 * (v * v * v));
}

fn activate(v: vec4<f32>) -> vec4<f32> {
  if ACTIVATION == 1u { return not_negative(v); }
  if ACTIVATION == 2u { return select(select(task.scalars.w * v, v, positive(v)), v, is_nan(v)); }
  if ACTIVATION == 3u { return weighted(v, sigmoid(v)); }
  if ACTIVATION == 4u { return weighted(v, normal_cdf(v)); }
  if ACTIVATION == 5u { return weighted(v, sigmoid(2.0 * gelu_inner(v))); } // (1 + tanh u)/2 is sigmoid(2u)
  if ACTIVATION == 6u { return tanh_of(v); }
  if ACTIVATION == 7u { return sigmoid(v); }
  return v;
}

// The derivative at v, without the cancellation of 1 - sigmoid and 1 - tanh². At the kinks as in PyTorch: 0 for ReLU,
// the slope for the leaky one.
fn derivative(v: vec4<f32>) -> vec4<f32> {
  let one = vec4(1.0);
  var d = one;
  if ACTIVATION == 1u { d = select(vec4(0.0), one, positive(v)); }
  if ACTIVATION == 2u { d = select(vec4(task.scalars.w), one, positive(v)); }
  if ACTIVATION == 3u {
    d = sigmoid(v) * (1.0 + weighted(v, sigmoid(-v)));
  }
  if ACTIVATION == 4u {
    // 1/sqrt(2 pi) · exp(-v²/2)
    d = normal_cdf(v) + weighted(v, 0.3989422804014327 * exp(-0.5 * min(v * v, vec4(170.0))));
  }
  if ACTIVATION == 5u {
    let u = 2.0 * gelu_inner(v);
    let slope = 2.0 * SQRT_2_PI * (1.0 + 0.134145 * min(v * v, vec4(1.0e4)));
    d = sigmoid(u) * (1.0 + weighted(v, sigmoid(-u)) * slope);
  }
  if ACTIVATION == 6u {
    d = 4.0 * sigmoid(2.0 * v) * sigmoid(-2.0 * v);
  }
  if ACTIVATION == 7u {
    d = sigmoid(v) * sigmoid(-v);
  }
  if ACTIVATION > 2u { d = select(d, v, is_nan(v)); }
  return d;
}
