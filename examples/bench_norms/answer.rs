//! What a case has to give, computed plainly in f64, one element after another.

use crate::Failure;
use crate::calls::Data;
use crate::cases::{Case, EPS, Op, parameter};
use wgnorm::{DType, MemoryOrder};

/// `y`, or `dx`, `dweight` and `dbias`, each in memory order.
pub type Answer = Vec<(&'static str, Vec<f64>)>;

/// Count, mean and 1/√(variance + eps) of a group of elements.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    scale: f64,
}

pub fn expected(case: &Case, data: &Data) -> Answer {
    let moments = moments(case, &data.x);
    let value = |i: usize, group: usize| {
        let Moments { mean, scale, .. } = moments[group];
        (data.x[i] - mean) * scale
    };
    let weight = |channel| f64::from(parameter("weight", channel));
    if case.op.is_backward() {
        return gradients(case, data, &moments, value, weight);
    }
    let has_bias = case.op != Op::RmsNorm;
    let mut y = vec![0.0; case.elements()];
    visit(case, |i, group, channel| {
        let bias = if has_bias { f64::from(parameter("bias", channel)) } else { 0.0 };
        let v = value(i, group) * weight(channel) + bias;
        y[i] = if case.op.has_relu() { v.max(0.0) } else { v };
    });
    vec![("y", y)]
}

/// dx = scale · (d − mean of d − value · mean of d·value), with d = dy · weight.
fn gradients(
    case: &Case,
    data: &Data,
    moments: &[Moments],
    value: impl Fn(usize, usize) -> f64,
    weight: impl Fn(usize) -> f64,
) -> Answer {
    let channels = case.shape[1];
    let (mut dweight, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
    let mut sums = vec![[0.0; 2]; moments.len()];
    visit(case, |i, group, channel| {
        let (dy, value) = (data.dy[i], value(i, group));
        dweight[channel] += dy * value;
        dbias[channel] += dy;
        sums[group][0] += dy * weight(channel);
        sums[group][1] += dy * weight(channel) * value;
    });
    let mut dx = vec![0.0; case.elements()];
    visit(case, |i, group, channel| {
        let Moments { count, scale, .. } = moments[group];
        let [sum, product] = sums[group];
        let mean_terms = (sum + value(i, group) * product) / count;
        dx[i] = scale * (data.dy[i] * weight(channel) - mean_terms);
    });
    vec![("dx", dx), ("dweight", dweight), ("dbias", dbias)]
}

fn moments(case: &Case, x: &[f64]) -> Vec<Moments> {
    let last = group(case, case.shape[0] - 1, case.shape[1] - 1);
    let mut moments = vec![Moments::default(); last + 1];
    if case.op == Op::BatchNormEval {
        for (channel, of) in moments.iter_mut().enumerate() {
            of.mean = parameter("running_mean", channel).into();
            of.scale = 1.0 / (f64::from(parameter("running_var", channel)) + EPS).sqrt();
        }
        return moments;
    }
    visit(case, |i, group, _| {
        moments[group].count += 1.0;
        moments[group].mean += x[i];
    });
    let centered = case.op != Op::RmsNorm;
    moments.iter_mut().for_each(|of| of.mean *= if centered { 1.0 / of.count } else { 0.0 });
    let mut squares = vec![0.0; moments.len()];
    visit(case, |i, group, _| squares[group] += (x[i] - moments[group].mean).powi(2));
    for (of, sum) in moments.iter_mut().zip(squares) {
        of.scale = 1.0 / (sum / of.count + EPS).sqrt();
    }
    moments
}

/// The number of the statistics that an element is normalized with.
fn group(case: &Case, sample: usize, channel: usize) -> usize {
    let channels = case.shape[1];
    match case.op {
        Op::InstanceNorm | Op::InstanceNormRelu | Op::InstanceNormBackward => {
            sample * channels + channel
        }
        Op::BatchNormTrain | Op::BatchNormEval | Op::BatchNormBackward | Op::FusedBatchNormRelu => {
            channel
        }
        Op::GroupNorm | Op::GroupNormBackward => {
            sample * case.groups() + channel * case.groups() / channels
        }
        Op::LayerNorm | Op::LayerNormBackward | Op::RmsNorm => sample,
    }
}

/// Every element: its index in memory, the number of its statistics, its channel.
fn visit(case: &Case, mut each: impl FnMut(usize, usize, usize)) {
    let (samples, channels) = (case.shape[0], case.shape[1]);
    let positions: usize = case.shape[2..].iter().product();
    for sample in 0..samples {
        for channel in 0..channels {
            let group = group(case, sample, channel);
            for position in 0..positions {
                let i = match case.order {
                    MemoryOrder::ChannelsFirst => {
                        (sample * channels + channel) * positions + position
                    }
                    MemoryOrder::ChannelsLast => {
                        (sample * positions + position) * channels + channel
                    }
                };
                each(i, group, channel);
            }
        }
    }
}

/// Whether all tensors agree, within what rounding to the element type costs.
pub fn check(case: &Case, got: &Answer, expected: &Answer) -> Result<(), Failure> {
    let names = |answer: &Answer| answer.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    if names(got) != names(expected) {
        return Err(format!("{}: {:?} for {:?}", case.name(), names(got), names(expected)).into());
    }
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        let stored = if ["y", "dx"].contains(name) { case.dtype } else { DType::F32 };
        let unit = if stored == DType::F16 { 1e-3 } else { 1e-5 };
        let largest = expected.iter().fold(1.0, |largest: f64, v| largest.max(v.abs()));
        let off = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
        // A NaN is the largest deviation of all.
        let off = off.max_by(f64::total_cmp).unwrap_or(0.0);
        if got.len() != expected.len() || off.is_nan() || off > unit * largest {
            let case = case.name();
            return Err(
                format!("{case}: {name} is off by {off:e}, its largest value {largest}").into()
            );
        }
    }
    Ok(())
}
