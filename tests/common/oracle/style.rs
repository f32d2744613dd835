//! What AdaIn makes of a style.

use super::{Kind, Norm};

/// AdaIn's tables from a style (N, C, M): the deviations √(var + eps) and the means of its planes.
pub fn style_tables(
    style: &[f64],
    shape: [usize; 3],
    eps: f64,
    unbiased: bool,
) -> (Vec<f64>, Vec<f64>) {
    let moments = Norm::new(Kind::Instance, shape).moments(style);
    let correction = bessel(shape[2], unbiased);
    moments.iter().map(|of| ((of.var * correction + eps).sqrt(), of.mean)).unzip()
}

/// The style's gradient from those of its tables.
pub fn style_gradient(
    style: &[f64],
    shape: [usize; 3],
    eps: f64,
    unbiased: bool,
    [ddeviation, dmean]: [&[f64]; 2],
) -> Vec<f64> {
    let m = shape[2] as f64;
    let divisor = m / bessel(shape[2], unbiased);
    let (deviations, means) = style_tables(style, shape, eps, unbiased);
    let gradient = |(i, v): (usize, &f64)| {
        let plane = i / shape[2];
        dmean[plane] / m + ddeviation[plane] * (v - means[plane]) / (divisor * deviations[plane])
    };
    style.iter().enumerate().map(gradient).collect()
}

fn bessel(len: usize, unbiased: bool) -> f64 {
    if unbiased { len as f64 / (len as f64 - 1.0) } else { 1.0 }
}
