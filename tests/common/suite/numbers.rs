//! The numbers of a call.

use super::case::{Case, Family, From, Masking};
use crate::common::data;
use crate::common::oracle::{self, Moments, Norm, Source};
use crate::common::random;
use wgnorm::{Activation, DType, Mode};

/// The numbers of a call, in logical order, rounded to what tensors hold.
#[derive(Clone, Debug)]
pub struct Data {
    pub x: Vec<f64>,
    pub addend: Vec<f64>,
    pub dy: Vec<f64>,
    /// Per parameter; of styled layers the tables that come of what follows them.
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub style: Vec<f64>,
    /// Weights and biases of the styles of a bank, and what each sample takes of them.
    pub bank: [Vec<f64>; 2],
    pub blend: Vec<f64>,
    /// Running statistics.
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    /// Over (N, S).
    pub mask: Vec<u8>,
    /// What statistics from elsewhere are of.
    pub other: Vec<f64>,
}

impl Data {
    /// NaN wherever the mask says that nothing is read; dy is 0 where an activation has its kink,
    /// whose side rounding decides.
    pub fn new(case: &Case) -> Data {
        let [n, c, s] = case.shape;
        let (len, params) = (n * c * s, case.norm().params());
        let seed = case.seed.wrapping_mul(31);
        let gauss = |k, len, scale, offset| random::gauss4_f64(len, seed + k, scale, offset);
        let uniform = |k, len, scale, offset| random::uniform_f64(len, seed + k, scale, offset);
        let stored = |v: Vec<f64>| data::rounded(case.dtype, &v);
        let param = |v: Vec<f64>| data::rounded(case.param_dtype, &v);
        let styles = if let Family::Bank(styles) = case.family { styles } else { 0 };
        let mut data = Data {
            x: stored(gauss(0, len, 1.5, case.offset)),
            addend: stored(gauss(1, len, 1.0, 0.0)),
            dy: stored(gauss(2, len, 1.0, 0.2)),
            weight: param(uniform(3, params, 0.75, 1.0)),
            bias: param(gauss(4, params, 0.4, 0.1)),
            style: stored(gauss(9, n * c * case.style_len(), 0.8, -0.4)),
            bank: [
                param(uniform(10, styles * c, 0.75, 1.0)),
                param(gauss(11, styles * c, 0.4, 0.1)),
            ],
            blend: param(uniform(12, n * styles, 0.5, 0.4)),
            // Handed over as f32.
            mean: param(data::rounded(DType::F32, &gauss(5, c, 0.5, case.offset))),
            var: param(data::rounded(DType::F32, &uniform(6, c, 0.6, 1.1))),
            mask: mask(case.masking, n, s, seed + 7),
            other: stored(gauss(8, len, 1.2, case.offset + 0.4)),
        };
        data.make_tables(case);
        for i in 0..len {
            if data.mask[i / (c * s) * s + i % s] == 0 {
                data.x[i] = f64::NAN;
                data.addend[i] = f64::NAN;
                data.dy[i] = f64::NAN;
            }
        }
        if matches!(case.effective_activation(), Activation::Relu | Activation::LeakyRelu(_)) {
            let moments = data.given(case);
            let forward = data.oracle(case, &moments).forward(&data.x);
            for ((dy, before), scale) in data.dy.iter_mut().zip(forward.before).zip(forward.scale) {
                if before.abs() < 1e-3 * scale.max(1.0) {
                    *dy = 0.0;
                }
            }
        }
        data
    }

    /// Weights and biases from a style, or from a bank.
    fn make_tables(&mut self, case: &Case) {
        let [n, c, _] = case.shape;
        match case.family {
            Family::AdaInStyle => {
                let shape = [n, c, case.style_len()];
                (self.weight, self.bias) =
                    oracle::style_tables(&self.style, shape, case.eps, false);
            }
            Family::Bank(_) => {
                self.weight = mix(&self.blend, &self.bank[0], c);
                self.bias = mix(&self.blend, &self.bank[1], c);
            }
            _ => {}
        }
    }

    /// Statistics from elsewhere.
    pub fn given(&self, case: &Case) -> Vec<Moments> {
        case.norm().moments(&self.other)
    }

    /// What the oracle does with these numbers. `given` is [`given`](Self::given).
    pub fn oracle<'a>(&'a self, case: &Case, given: &'a [Moments]) -> Norm<'a> {
        Norm {
            weight: case.affine.has_weight().then_some(&self.weight),
            bias: case.affine.has_bias().then_some(&self.bias),
            source: match (case.from, case.mode) {
                (From::Given { constant }, _) => Source::Given { moments: given, constant },
                (From::Mode, Mode::Eval) => Source::Running(&self.mean, &self.var),
                (From::Mode, Mode::Train) => Source::Batch,
            },
            addend: case.addend.then_some(&self.addend),
            activation: case.effective_activation(),
            mask: (case.masking != Masking::None).then_some(&self.mask),
            ..case.norm()
        }
    }
}

/// Rows of `c` values, mixed by each row of weights.
pub fn mix(weights: &[f64], rows: &[f64], c: usize) -> Vec<f64> {
    let mut mixed = Vec::new();
    for weights in weights.chunks(rows.len() / c) {
        let value = |column: usize| {
            weights
                .iter()
                .zip(rows.chunks(c))
                .map(|(weight, row)| weight * row[column])
                .sum::<f64>()
        };
        mixed.extend((0..c).map(value));
    }
    mixed
}

fn mask(masking: Masking, n: usize, s: usize, seed: u32) -> Vec<u8> {
    let draws = random::uniform(n * s, seed, 0.5, 0.5);
    let counts = |(i, draw): (usize, f32)| match (masking, i / s % 4) {
        (Masking::Some, 2) => 0,
        (Masking::Some, 3) => u8::from(i % s == s / 2),
        (Masking::Some, _) if draw < 0.33 => 0,
        // Any byte but 0 counts.
        (Masking::Some, _) => 1 + (i % 255) as u8,
        _ => 1,
    };
    draws.into_iter().enumerate().map(counts).collect()
}
