//! Textbook loops in f64 over logical (N, C, S): samples, channels, positions. Shares nothing with
//! the crate but the names of its activations.

mod activation;
mod single;
mod style;

pub use activation::{activate, slope};
pub use single::{InstanceNorm, plain, statistics, wide};
pub use style::{style_gradient, style_tables};

use wgnorm::Activation;

/// Which elements share a statistic, and which a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A statistic per sample and channel.
    Instance,
    /// Per channel.
    Batch,
    /// Per sample and so many groups of channels.
    Group(usize),
    /// Per sample, parameters per position: rows of `normalized_shape` as (rows, 1, length).
    Layer,
    /// As `Layer`, without a mean.
    Rms,
}

/// One normalization: `y = act((x − mean) / √(var + eps) · weight + bias + addend)`.
#[derive(Clone, Debug)]
pub struct Norm<'a> {
    pub kind: Kind,
    /// N, C, S.
    pub shape: [usize; 3],
    pub eps: f64,
    pub weight: Option<&'a [f64]>,
    pub bias: Option<&'a [f64]>,
    /// Parameters are per sample and channel.
    pub tables: bool,
    pub source: Source<'a>,
    pub addend: Option<&'a [f64]>,
    pub activation: Activation,
    /// Over (N, S); 0 where a position does not count.
    pub mask: Option<&'a [u8]>,
}

/// Where mean and variance come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    Batch,
    /// Mean and variance per channel, constants.
    Running(&'a [f64], &'a [f64]),
    /// Per group, from elsewhere; `constant` if they do not depend on x.
    Given {
        moments: &'a [Moments],
        constant: bool,
    },
}

/// Of one group: its elements, their mean, their population variance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    pub count: f64,
    pub mean: f64,
    pub var: f64,
}

/// Of every element: y, what the activation is applied to, and the sum of the sizes of its terms,
/// which rounding is relative to.
pub struct Forward {
    pub y: Vec<f64>,
    pub before: Vec<f64>,
    pub scale: Vec<f64>,
}

/// Gradients of everything, and for rounding the sizes of their terms.
pub struct Gradients {
    pub dx: Vec<f64>,
    pub dx_scale: Vec<f64>,
    /// In the order of the parameters.
    pub dweight: Vec<f64>,
    pub dweight_scale: Vec<f64>,
    pub dbias: Vec<f64>,
    pub dbias_scale: Vec<f64>,
    pub daddend: Vec<f64>,
}

impl Norm<'_> {
    /// Of batch statistics, eps 1e-5, nothing else.
    pub fn new(kind: Kind, shape: [usize; 3]) -> Self {
        Norm {
            kind,
            shape,
            eps: 1e-5,
            weight: None,
            bias: None,
            tables: false,
            source: Source::Batch,
            addend: None,
            activation: Activation::None,
            mask: None,
        }
    }

    /// Every element: index, sample, channel, position.
    pub fn elements(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<> {
        let [n, c, s] = self.shape;
        (0..n * c * s).map(move |i| (i, i / (c * s), i / s % c, i % s))
    }

    /// Whether a position counts.
    fn counts(&self, n: usize, s: usize) -> bool {
        self.mask.is_none_or(|mask| mask[n * self.shape[2] + s] != 0)
    }

    pub fn groups(&self) -> usize {
        let [n, c, _] = self.shape;
        match self.kind {
            Kind::Instance => n * c,
            Kind::Batch => c,
            Kind::Group(groups) => n * groups,
            Kind::Layer | Kind::Rms => n,
        }
    }

    pub fn group(&self, n: usize, c: usize) -> usize {
        let channels = self.shape[1];
        match self.kind {
            Kind::Instance => n * channels + c,
            Kind::Batch => c,
            Kind::Group(groups) => n * groups + c / (channels / groups),
            Kind::Layer | Kind::Rms => n,
        }
    }

    pub fn params(&self) -> usize {
        let [n, c, s] = self.shape;
        match self.kind {
            Kind::Layer | Kind::Rms => s,
            _ if self.tables => n * c,
            _ => c,
        }
    }

    pub fn param(&self, n: usize, c: usize, s: usize) -> usize {
        match self.kind {
            Kind::Layer | Kind::Rms => s,
            _ if self.tables => n * self.shape[1] + c,
            _ => c,
        }
    }

    /// Of the elements of each group that count.
    pub fn moments(&self, x: &[f64]) -> Vec<Moments> {
        let mut moments = vec![Moments::default(); self.groups()];
        let counted = || {
            let counted = self.elements().filter(|&(_, n, _, s)| self.counts(n, s));
            counted.map(|(i, n, c, _)| (x[i], self.group(n, c)))
        };
        for (_, group) in counted() {
            moments[group].count += 1.0;
        }
        if self.kind != Kind::Rms {
            for (v, group) in counted() {
                moments[group].mean += v / moments[group].count;
            }
            // Again from there, for what the first sum rounded away.
            let mut rest = vec![0.0; moments.len()];
            for (v, group) in counted() {
                rest[group] += (v - moments[group].mean) / moments[group].count;
            }
            for (moments, rest) in moments.iter_mut().zip(rest) {
                // An infinite mean stays one.
                moments.mean += if rest.is_finite() { rest } else { 0.0 };
            }
        }
        for (v, group) in counted() {
            moments[group].var += (v - moments[group].mean).powi(2) / moments[group].count;
        }
        moments
    }

    /// What group (n, c) is normalized with.
    fn used(&self, own: &[Moments], n: usize, c: usize) -> Moments {
        match self.source {
            Source::Batch => own[self.group(n, c)],
            Source::Running(mean, var) => Moments { count: 0.0, mean: mean[c], var: var[c] },
            Source::Given { moments, .. } => moments[self.group(n, c)],
        }
    }

    fn own(&self, x: &[f64]) -> Vec<Moments> {
        match self.source {
            Source::Batch => self.moments(x),
            _ => Vec::new(),
        }
    }

    fn xhat(&self, x: f64, of: Moments) -> f64 {
        let distance = x - of.mean;
        // Of a constant group with eps 0 too.
        if distance == 0.0 { 0.0 } else { distance / (of.var + self.eps).sqrt() }
    }

    fn weight_at(&self, param: usize) -> f64 {
        self.weight.map_or(1.0, |weight| weight[param])
    }

    pub fn forward(&self, x: &[f64]) -> Forward {
        let own = self.own(x);
        let [mut y, mut before, mut scale] = [(); 3].map(|_| vec![0.0; x.len()]);
        for (i, n, c, s) in self.elements().filter(|&(_, n, _, s)| self.counts(n, s)) {
            let param = self.param(n, c, s);
            let product = self.xhat(x[i], self.used(&own, n, c)) * self.weight_at(param);
            let bias = self.bias.map_or(0.0, |bias| bias[param]);
            let addend = self.addend.map_or(0.0, |addend| addend[i]);
            before[i] = product + bias + addend;
            scale[i] = product.abs() + bias.abs() + addend.abs();
            y[i] = activate(self.activation, before[i]);
        }
        Forward { y, before, scale }
    }

    /// The gradients of Σ y·dy.
    pub fn backward(&self, x: &[f64], dy: &[f64]) -> Gradients {
        let own = self.own(x);
        let before = self.forward(x).before;
        let constant = match self.source {
            Source::Batch => false,
            Source::Running(..) => true,
            Source::Given { constant, .. } => constant,
        };
        let [mut dx, mut dx_scale, mut daddend] = [(); 3].map(|_| vec![0.0; x.len()]);
        let [mut dweight, mut dweight_scale, mut dbias, mut dbias_scale] =
            [(); 4].map(|_| vec![0.0; self.params()]);
        // Of each group: Σ γg, Σ γg·xhat, and the same of sizes.
        let mut sums = vec![[0.0; 4]; self.groups()];
        let counted = || self.elements().filter(|&(_, n, _, s)| self.counts(n, s));
        for (i, n, c, s) in counted() {
            let (group, param) = (self.group(n, c), self.param(n, c, s));
            let xhat = self.xhat(x[i], self.used(&own, n, c));
            let g = dy[i] * slope(self.activation, before[i]);
            daddend[i] = g;
            dweight[param] += g * xhat;
            dweight_scale[param] += (g * xhat).abs();
            dbias[param] += g;
            dbias_scale[param] += g.abs();
            let scaled = g * self.weight_at(param);
            for (sum, v) in sums[group].iter_mut().zip([
                scaled,
                scaled * xhat,
                scaled.abs(),
                (scaled * xhat).abs(),
            ]) {
                *sum += v;
            }
        }
        for (i, n, c, s) in counted() {
            let of = self.used(&own, n, c);
            let rstd = 1.0 / (of.var + self.eps).sqrt();
            let xhat = self.xhat(x[i], of);
            let scaled = daddend[i] * self.weight_at(self.param(n, c, s));
            let (mut v, mut size) = (scaled, scaled.abs());
            if !constant {
                let [sum, sum_xhat, size_sum, size_xhat] =
                    sums[self.group(n, c)].map(|sum| sum / of.count);
                if self.kind != Kind::Rms {
                    v -= sum;
                    size += size_sum;
                }
                v -= xhat * sum_xhat;
                size += xhat.abs() * size_xhat;
            }
            dx[i] = rstd * v;
            dx_scale[i] = rstd * size;
        }
        Gradients { dx, dx_scale, dweight, dweight_scale, dbias, dbias_scale, daddend }
    }

    /// Running mean and variance per channel after a training step on x that moves them by `rate`.
    /// Of Instance the mean over the samples that have values.
    pub fn running(
        &self,
        x: &[f64],
        rate: f64,
        unbiased: bool,
        mean: &[f64],
        var: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let own = self.own(x);
        let [samples, channels, _] = self.shape;
        let step = |c: usize| {
            let samples = if self.kind == Kind::Batch { 0..1 } else { 0..samples };
            let of: Vec<Moments> =
                samples.map(|n| self.used(&own, n, c)).filter(|of| of.count > 0.0).collect();
            if of.is_empty() {
                return (mean[c], var[c]);
            }
            // A single value has variance 0.
            let variance = |of: &Moments| match unbiased {
                true if of.count > 1.0 => of.var * of.count / (of.count - 1.0),
                _ => of.var,
            };
            let average =
                |f: &dyn Fn(&Moments) -> f64| of.iter().map(f).sum::<f64>() / of.len() as f64;
            let blend = |old: f64, new: f64| (1.0 - rate) * old + rate * new;
            (blend(mean[c], average(&|of| of.mean)), blend(var[c], average(&variance)))
        };
        (0..channels).map(step).unzip()
    }
}
