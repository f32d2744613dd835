//! Textbook loops in f64 over logical NCHW indices. Shares nothing with the crate.

/// Instance normalization of `x` as (n, c, s), y in the same order.
pub struct InstanceNorm<'a> {
    pub n: usize,
    pub c: usize,
    pub s: usize,
    pub eps: f64,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    /// Constant statistics per channel instead of the samples' own.
    pub running: Option<(&'a [f32], &'a [f32])>,
    pub addend: Option<&'a [f32]>,
    pub relu: bool,
}

/// Mean and population variance of one channel of one sample.
pub fn statistics(x: &[f32], n: usize, c: usize, channels: usize, s: usize) -> (f64, f64) {
    let mut sum = 0.0;
    for i in 0..s {
        sum += f64::from(x[(n * channels + c) * s + i]);
    }
    let mean = sum / s as f64;
    let mut squares = 0.0;
    for i in 0..s {
        squares += (f64::from(x[(n * channels + c) * s + i]) - mean).powi(2);
    }
    (mean, squares / s as f64)
}

impl InstanceNorm<'_> {
    pub fn forward(&self, x: &[f32]) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for n in 0..self.n {
            for c in 0..self.c {
                let (mean, var) = match self.running {
                    Some((mean, var)) => (f64::from(mean[c]), f64::from(var[c])),
                    None => statistics(x, n, c, self.c, self.s),
                };
                for i in 0..self.s {
                    let at = (n * self.c + c) * self.s + i;
                    let distance = f64::from(x[at]) - mean;
                    let xhat =
                        if distance == 0.0 { 0.0 } else { distance / (var + self.eps).sqrt() };
                    let mut v = xhat * self.weight.map_or(1.0, |w| f64::from(w[c]))
                        + self.bias.map_or(0.0, |b| f64::from(b[c]))
                        + self.addend.map_or(0.0, |a| f64::from(a[at]));
                    if self.relu && v < 0.0 {
                        v = 0.0;
                    }
                    y[at] = v;
                }
            }
        }
        y
    }
}

/// Running mean and variance after a training step on `x`: the mean over the samples of their
/// means and unbiased variances, blended in. A single value has variance 0.
pub fn running(
    of: &InstanceNorm<'_>,
    x: &[f32],
    momentum: f64,
    mean: &[f32],
    var: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let blend = |old: f32, new: f64| (1.0 - momentum) * f64::from(old) + momentum * new;
    let samples = of.n as f64;
    let unbiased = of.s as f64 / (of.s as f64 - 1.0).max(1.0);
    (0..of.c)
        .map(|c| {
            let (mut m, mut v) = (0.0, 0.0);
            for n in 0..of.n {
                let (mean, var) = statistics(x, n, c, of.c, of.s);
                m += mean / samples;
                v += var * unbiased / samples;
            }
            (blend(mean[c], m), blend(var[c], v))
        })
        .unzip()
}

/// Without parameters, addend or activation, eps 1e-5.
pub fn plain(x: &[f32], [n, c, s]: [usize; 3]) -> Vec<f64> {
    let oracle = InstanceNorm {
        n,
        c,
        s,
        eps: 1e-5,
        weight: None,
        bias: None,
        running: None,
        addend: None,
        relu: false,
    };
    oracle.forward(x)
}
