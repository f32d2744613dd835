//! Repeatable values for tests. The generator of the golden set's formulas, hash-v1.

fn hash(i: u32, seed: u32) -> u32 {
    let mut x = i
        .wrapping_mul(0x9E37_79B1)
        .wrapping_add(seed.wrapping_mul(0x85EB_CA77))
        .wrapping_add(0xC2B2_AE3D);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// Uniform in 0..1.
fn unit(i: u32, seed: u32) -> f64 {
    f64::from(hash(i, seed) >> 8) * 2f64.powi(-24)
}

/// Uniform in offset ± scale.
pub fn uniform(len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f32> {
    narrow(&uniform_f64(len, seed, scale, offset))
}

/// Nearly normal: mean `offset`, standard deviation `scale`.
pub fn gauss4(len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f32> {
    narrow(&gauss4_f64(len, seed, scale, offset))
}

/// [`uniform`], not yet rounded to any type.
pub fn uniform_f64(len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f64> {
    (0..len as u32).map(|i| offset + scale * (2.0 * unit(i, seed) - 1.0)).collect()
}

/// [`gauss4`], not yet rounded to any type.
pub fn gauss4_f64(len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f64> {
    let u = |i: u32, k: u32| unit(i.wrapping_mul(4).wrapping_add(k), seed);
    let value = |i| {
        let sum = ((u(i, 0) + u(i, 1)) + u(i, 2) + u(i, 3)) - 2.0;
        offset + scale * (sum * 1.732_050_807_568_877_2)
    };
    (0..len as u32).map(value).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}
