//! The oracle on f32 data.

use super::{Kind, Norm, Source};
use wgnorm::Activation;

/// As f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// InstanceNorm without parameters, addend or activation, eps 1e-5.
pub fn plain(x: &[f32], shape: [usize; 3]) -> Vec<f64> {
    Norm::new(Kind::Instance, shape).forward(&wide(x)).y
}

/// Mean and population variance of one channel of one sample.
pub fn statistics(x: &[f32], n: usize, c: usize, channels: usize, s: usize) -> (f64, f64) {
    let plane = wide(&x[(n * channels + c) * s..][..s]);
    let of = Norm::new(Kind::Instance, [1, 1, s]).moments(&plane)[0];
    (of.mean, of.var)
}

/// InstanceNorm of f32 data, as (n, c, s).
pub struct InstanceNorm<'a> {
    pub n: usize,
    pub c: usize,
    pub s: usize,
    pub eps: f64,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    /// Constant mean and variance per channel instead of the samples' own.
    pub running: Option<(&'a [f32], &'a [f32])>,
    pub addend: Option<&'a [f32]>,
    pub relu: bool,
}

impl InstanceNorm<'_> {
    pub fn forward(&self, x: &[f32]) -> Vec<f64> {
        let [weight, bias, addend] = [self.weight, self.bias, self.addend].map(|v| v.map(wide));
        let running = self.running.map(|(mean, var)| (wide(mean), wide(var)));
        let norm = Norm {
            eps: self.eps,
            weight: weight.as_deref(),
            bias: bias.as_deref(),
            source: running
                .as_ref()
                .map_or(Source::Batch, |(mean, var)| Source::Running(mean, var)),
            addend: addend.as_deref(),
            activation: if self.relu { Activation::Relu } else { Activation::None },
            ..Norm::new(Kind::Instance, [self.n, self.c, self.s])
        };
        norm.forward(&wide(x)).y
    }
}
