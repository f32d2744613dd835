//! The activations and their derivatives, twin of `shaders/activation.wgsl`.

use crate::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

/// Of GELU's approximation by tanh.
const CUBIC: f64 = 0.044715;
const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI / SQRT_2;

/// Every `z` becomes `act(z)`.
pub(super) fn apply(activation: Activation, z: &mut [f64]) {
    let each = |z: &mut [f64], f: fn(f64) -> f64| z.iter_mut().for_each(|z| *z = f(*z));
    match activation {
        Activation::None => {}
        // A comparison keeps NaN, max would not.
        Activation::Relu => z.iter_mut().for_each(|z| *z = if *z < 0.0 { 0.0 } else { *z }),
        Activation::LeakyRelu(slope) => {
            let slope = f64::from(slope);
            z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { slope * *z });
        }
        Activation::Silu => each(z, |z| z * sigmoid(z)),
        Activation::Gelu => each(z, |z| z * normal_cdf(z)),
        // (1 + tanh u)/2 is the sigmoid of 2u, which does not cancel far below 0.
        Activation::GeluTanh => each(z, |z| z * sigmoid(gelu_argument(z))),
        Activation::Tanh => each(z, f64::tanh),
        Activation::Sigmoid => each(z, sigmoid),
    }
}

/// Every `g` becomes `g · act'(z)`. At the corner of a ReLU the slope is that below it.
pub(super) fn chain(activation: Activation, z: &[f64], g: &mut [f64]) {
    let each = |g: &mut [f64], slope: fn(f64) -> f64| {
        g.iter_mut().zip(z).for_each(|(g, &z)| *g *= slope(z));
    };
    match activation {
        Activation::None => {}
        Activation::Relu => {
            g.iter_mut().zip(z).for_each(|(g, &z)| *g = if z <= 0.0 { 0.0 } else { *g });
        }
        Activation::LeakyRelu(slope) => {
            let slope = f64::from(slope);
            g.iter_mut().zip(z).for_each(|(g, &z)| *g = if z > 0.0 { *g } else { slope * *g });
        }
        Activation::Silu => each(g, |z| sigmoid(z) * (1.0 + z * sigmoid(-z))),
        Activation::Gelu => each(g, |z| {
            let density = 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI * (-0.5 * z * z).exp();
            normal_cdf(z) + z * density
        }),
        Activation::GeluTanh => each(g, |z| {
            let u = gelu_argument(z);
            // Beyond this the sigmoid's slope is 0, and z² may overflow; infinity times 0 stays NaN, as in PyTorch.
            let near = z.clamp(-1e3, 1e3);
            let inner = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * near * near);
            sigmoid(u) + z * (sigmoid(u) * sigmoid(-u)) * inner
        }),
        // 1 − tanh² cancels.
        Activation::Tanh => each(g, |z| z.cosh().recip().powi(2)),
        Activation::Sigmoid => each(g, |z| sigmoid(z) * sigmoid(-z)),
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Φ. By erfc, because 1 + erf would cancel far below 0.
fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * FRAC_1_SQRT_2)
}

/// 2u, where GELU's approximation has tanh u.
fn gelu_argument(z: f64) -> f64 {
    2.0 * SQRT_2_OVER_PI * (z + CUBIC * z * z * z)
}
