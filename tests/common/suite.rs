//! One InstanceNorm call against the oracle: output and running statistics.

use super::{oracle, random, tolerance};
use wgnorm::{
    Activation, Affine, Context, Epilogue, InstanceNorm1d, Mode, Momentum, NormLayer, OneValue,
    Tensor,
};

/// `setting`: two bits of affine, then addend, ReLU, evaluation.
pub fn check(context: &Context, [n, c, s]: [usize; 3], setting: usize, offset: f64) {
    let len = n * c * s;
    let seed = (len + setting) as u32;
    let x = random::gauss4(len, seed, 1.5, offset);
    let addend = random::gauss4(len, seed + 1, 1.0, 0.0);
    let weight = random::uniform(c, seed + 2, 0.75, 1.0);
    let bias = random::gauss4(c, seed + 3, 0.4, 0.1);
    let mean = random::gauss4(c, seed + 4, 0.5, offset);
    let var = random::uniform(c, seed + 5, 0.6, 1.1);

    let affine = [Affine::None, Affine::Weight, Affine::Bias, Affine::Both][setting % 4];
    let (with_addend, relu) = (setting & 4 != 0, setting & 8 != 0);
    let eval = setting & 16 != 0;

    let mut norm = InstanceNorm1d::config(c)
        .with_affine(affine)
        .with_track_running_stats(true)
        .with_momentum(Momentum::Factor(0.3))
        .with_one_value(OneValue::Bias)
        .init(context)
        .unwrap();
    if affine.has_weight() {
        norm.set_weight(&Tensor::from_slice([c], &weight).unwrap()).unwrap();
    }
    if affine.has_bias() {
        norm.set_bias(&Tensor::from_slice([c], &bias).unwrap()).unwrap();
    }
    norm.set_running_stats(&mean, &var, 0).unwrap();

    let place = |data| Tensor::from_slice([n, c, s], data).unwrap().to_context(context).unwrap();
    let (tx, ta) = (place(&x), place(&addend));
    let mut epilogue = Epilogue::new();
    if with_addend {
        epilogue = epilogue.with_addend(&ta);
    }
    if relu {
        epilogue = epilogue.with_activation(Activation::Relu);
    }
    let mode = if eval { Mode::Eval } else { Mode::Train };
    let y = norm.forward_with(context, &tx, epilogue, mode).unwrap().to_vec_blocking().unwrap();

    let want = oracle::InstanceNorm {
        n,
        c,
        s,
        eps: 1e-5,
        weight: affine.has_weight().then_some(&weight[..]),
        bias: affine.has_bias().then_some(&bias[..]),
        running: eval.then_some((&mean[..], &var[..])),
        addend: with_addend.then_some(&addend[..]),
        relu,
    };
    let what = format!("{context} ({n}, {c}, {s}) setting {setting} offset {offset}");
    tolerance::assert_close(&y, &want.forward(&x), tolerance::Y, &what);

    let (mut want_mean, mut want_var) = (Vec::new(), Vec::new());
    for channel in 0..c {
        let (mut m, mut v) = (0.0, 0.0);
        for sample in 0..n {
            let (mean, var) = oracle::statistics(&x, sample, channel, c, s);
            m += mean / n as f64;
            v += var * s as f64 / (s as f64 - 1.0).max(1.0) / n as f64;
        }
        let rate = if eval { 0.0 } else { 0.3 };
        want_mean.push((1.0 - rate) * f64::from(mean[channel]) + rate * m);
        want_var.push((1.0 - rate) * f64::from(var[channel]) + rate * v);
    }
    let got_mean = norm.running_mean().unwrap().to_vec_blocking().unwrap();
    let got_var = norm.running_var().unwrap().to_vec_blocking().unwrap();
    tolerance::assert_close(&got_mean, &want_mean, tolerance::RUNNING, &format!("{what} mean"));
    tolerance::assert_close(&got_var, &want_var, tolerance::RUNNING, &format!("{what} var"));
}
