//! Activations and their derivatives.

use wgnorm::Activation;

pub fn activate(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::None => v,
        Activation::Relu => {
            if v < 0.0 {
                0.0
            } else {
                v
            }
        }
        Activation::LeakyRelu(slope) => {
            if v < 0.0 {
                f64::from(slope) * v
            } else {
                v
            }
        }
        Activation::Silu => v * sigmoid(v),
        Activation::Gelu => v * normal(v),
        Activation::GeluTanh => v / 2.0 * (1.0 + gelu_inner(v).tanh()),
        Activation::Tanh => v.tanh(),
        Activation::Sigmoid => sigmoid(v),
        other => panic!("no formula for {other:?}"),
    }
}

/// The derivative; 0 or the slope at a kink.
pub fn slope(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::None => 1.0,
        Activation::Relu => {
            if v <= 0.0 {
                0.0
            } else {
                1.0
            }
        }
        Activation::LeakyRelu(slope) => {
            if v <= 0.0 {
                f64::from(slope)
            } else {
                1.0
            }
        }
        Activation::Silu => sigmoid(v) * (1.0 + v * (1.0 - sigmoid(v))),
        Activation::Gelu => {
            normal(v) + v * (-v * v / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
        }
        Activation::GeluTanh => {
            let tanh = gelu_inner(v).tanh();
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * v * v);
            (1.0 + tanh) / 2.0 + v / 2.0 * (1.0 - tanh * tanh) * inner
        }
        Activation::Tanh => 1.0 - v.tanh().powi(2),
        Activation::Sigmoid => sigmoid(v) * (1.0 - sigmoid(v)),
        other => panic!("no formula for {other:?}"),
    }
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

fn gelu_inner(v: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))
}

/// The normal distribution's Φ: its series of positive terms, Φ = ½ + φ(v)·Σ v^(2k+1)/(2k+1)!!.
fn normal(v: f64) -> f64 {
    if v.abs() > 9.0 {
        return if v > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut k) = (v, v, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        k += 2.0;
        term *= v * v / k;
        sum += term;
    }
    0.5 + sum * (-v * v / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}
