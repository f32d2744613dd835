//! The oracle itself, against values worked out by hand and known constants: what everything else is
//! compared with.

mod common;

use common::oracle::{self, Kind, Norm, Source, activate, slope};
use common::suite::ACTIVATIONS;
use wgnorm::Activation;

#[track_caller]
fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0), "{got} {want}");
    }
}

/// Two samples, two channels, two positions: means and variances in one's head.
const X: [f64; 8] = [1.0, 3.0, 10.0, 14.0, 5.0, 5.0, -2.0, 2.0];

fn norm(kind: Kind) -> Norm<'static> {
    Norm { eps: 0.0, ..Norm::new(kind, [2, 2, 2]) }
}

#[test]
fn groups_are_what_they_are_called() {
    let moments = |kind| {
        let norm = norm(kind);
        norm.moments(&X).into_iter().map(|of| [of.count, of.mean, of.var]).collect::<Vec<_>>()
    };
    let planes = [[2.0, 2.0, 1.0], [2.0, 12.0, 4.0], [2.0, 5.0, 0.0], [2.0, 0.0, 4.0]];
    assert_eq!(moments(Kind::Instance), planes);
    assert_eq!(moments(Kind::Group(2)), planes);
    assert_eq!(moments(Kind::Batch), [[4.0, 3.5, 2.75], [4.0, 6.0, 40.0]]);
    assert_eq!(moments(Kind::Group(1)), [[4.0, 7.0, 27.5], [4.0, 2.5, 8.25]]);
    let rows = Norm::new(Kind::Rms, [4, 1, 2]).moments(&X);
    assert_eq!(rows.iter().map(|of| of.var).collect::<Vec<_>>(), [5.0, 148.0, 25.0, 4.0]);
    assert!(rows.iter().all(|of| of.mean == 0.0));
}

#[test]
fn forward_by_hand() {
    let weight = [2.0, -1.0];
    let bias = [10.0, 20.0];
    let addend = [0.5; 8];
    let of = Norm { weight: Some(&weight), bias: Some(&bias), ..norm(Kind::Instance) };
    let y = of.forward(&X).y;
    assert_eq!(y, [8.0, 12.0, 21.0, 19.0, 10.0, 10.0, 21.0, 19.0]);
    let relu = Activation::Relu;
    let of = Norm { addend: Some(&addend), activation: relu, ..norm(Kind::Instance) };
    assert_eq!(of.forward(&X).y, [0.0, 1.5, 0.0, 1.5, 0.5, 0.5, 0.0, 1.5]);
    let (mean, var) = ([1.0, 2.0], [4.0, 16.0]);
    let of = Norm { source: Source::Running(&mean, &var), ..norm(Kind::Batch) };
    assert_eq!(of.forward(&X).y, [0.0, 1.0, 2.0, 3.0, 2.0, 2.0, -1.0, 0.0]);
    // Tables: a row for each sample.
    let rows = [1.0, 2.0, 3.0, 4.0];
    let of = Norm { weight: Some(&rows), tables: true, ..norm(Kind::Instance) };
    assert_eq!(of.forward(&X).y, [-1.0, 1.0, -2.0, 2.0, 0.0, 0.0, -4.0, 4.0]);
    // Only 1 and 3 count of the first sample, nothing of the second.
    let mask = [1, 1, 0, 0];
    let of = Norm { mask: Some(&mask), ..norm(Kind::Batch) };
    assert_eq!(of.forward(&X).y, [-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

/// The gradients are those of the forward pass, by differences, whatever is in it.
#[test]
fn backward_is_the_derivative_of_forward() {
    let x: Vec<f64> = (0..24).map(|i| ((i * 7 % 11) as f64 - 4.0) * 0.37).collect();
    let dy: Vec<f64> = (0..24).map(|i| ((i * 5 % 13) as f64 - 6.0) * 0.21).collect();
    let addend: Vec<f64> = (0..24).map(|i| ((i * 3 % 7) as f64 - 3.0) * 0.3).collect();
    let params: Vec<f64> = (0..24).map(|i| 0.4 + 0.15 * (i % 9) as f64).collect();
    let mask = [1, 1, 0, 1, 0, 1, 1, 1];
    let (mean, var) = ([0.1, -0.2, 0.3], [0.5, 1.5, 2.0]);
    for (kind, shape) in [
        (Kind::Instance, [2, 3, 4]),
        (Kind::Batch, [2, 3, 4]),
        (Kind::Group(3), [2, 3, 4]),
        (Kind::Group(1), [2, 3, 4]),
        (Kind::Layer, [4, 1, 6]),
        (Kind::Rms, [4, 1, 6]),
    ] {
        for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
            let spatial = !matches!(kind, Kind::Layer | Kind::Rms);
            let tables = kind == Kind::Instance && i % 2 == 1;
            let running = kind == Kind::Batch && i % 2 == 1;
            let plain = Norm { tables, ..Norm::new(kind, shape) };
            let of = Norm {
                weight: Some(&params[..plain.params()]),
                bias: Some(&params[..plain.params()]),
                source: if running { Source::Running(&mean, &var) } else { Source::Batch },
                addend: Some(&addend),
                activation,
                mask: (spatial && i % 3 == 0).then_some(&mask),
                ..plain
            };
            let loss = |of: &Norm<'_>, x: &[f64]| -> f64 {
                of.forward(x).y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
            };
            let difference = |f: &dyn Fn(f64) -> f64| (f(1e-5) - f(-1e-5)) / 2e-5;
            let got = of.backward(&x, &dy);
            let check = |got: f64, want: f64, what: &str| {
                let close = (got - want).abs() <= 1e-8 * want.abs().max(1.0);
                assert!(close, "{kind:?} {activation:?} {what}: {got} {want}");
            };
            let moved = |values: &[f64], at: usize, by: f64| {
                let mut values = values.to_vec();
                values[at] += by;
                values
            };
            for at in 0..24 {
                check(got.dx[at], difference(&|by| loss(&of, &moved(&x, at, by))), "dx");
                let by_addend = |by| {
                    let addend = moved(&addend, at, by);
                    loss(&Norm { addend: Some(&addend), ..of.clone() }, &x)
                };
                check(got.daddend[at], difference(&by_addend), "daddend");
            }
            for at in 0..of.params() {
                let by_weight = |by| {
                    let weight = moved(&params, at, by);
                    loss(&Norm { weight: Some(&weight), ..of.clone() }, &x)
                };
                check(got.dweight[at], difference(&by_weight), "dweight");
                let by_bias = |by| {
                    let bias = moved(&params, at, by);
                    loss(&Norm { bias: Some(&bias), ..of.clone() }, &x)
                };
                check(got.dbias[at], difference(&by_bias), "dbias");
            }
        }
    }
}

#[test]
fn running_statistics_by_hand() {
    let (mean, var) = ([10.0, 10.0], [8.0, 8.0]);
    // Unbiased variances 2 and 0 of the first channel, 8 and 8 of the second.
    let (got_mean, got_var) = norm(Kind::Instance).running(&X, 0.5, true, &mean, &var);
    assert_eq!((got_mean, got_var), (vec![6.75, 8.0], vec![4.5, 8.0]));
    let (got_mean, got_var) = norm(Kind::Batch).running(&X, 0.5, false, &mean, &var);
    assert_eq!((got_mean, got_var), (vec![6.75, 8.0], vec![5.375, 24.0]));
    // The second sample has no positions, the first one.
    let mask = [1, 0, 0, 0];
    let masked = Norm { mask: Some(&mask), ..norm(Kind::Instance) };
    let (got_mean, got_var) = masked.running(&X, 0.5, true, &mean, &var);
    assert_eq!((got_mean, got_var), (vec![5.5, 10.0], vec![4.0, 4.0]));
}

/// Values from tables of the functions.
#[test]
fn activations_are_the_known_functions() {
    let at = |activation| [-1.0, 0.0, 1.0, 3.0].map(|v| activate(activation, v));
    close(&at(Activation::Relu), &[0.0, 0.0, 1.0, 3.0]);
    close(&at(Activation::LeakyRelu(0.25)), &[-0.25, 0.0, 1.0, 3.0]);
    let sigmoid = [0.268_941_421_369_995_1, 0.5, 0.731_058_578_630_004_9, 0.952_574_126_822_433_2];
    close(&at(Activation::Sigmoid), &sigmoid);
    close(&at(Activation::Silu), &[-sigmoid[0], 0.0, sigmoid[2], 3.0 * sigmoid[3]]);
    let tanh = 0.761_594_155_955_764_9;
    close(&at(Activation::Tanh), &[-tanh, 0.0, tanh, 0.995_054_753_686_730_5]);
    // Φ(1) and Φ(3).
    let normal = [0.841_344_746_068_542_9, 0.998_650_101_968_369_9];
    close(&at(Activation::Gelu), &[normal[0] - 1.0, 0.0, normal[0], 3.0 * normal[1]]);
    // PyTorch's gelu(1, approximate="tanh").
    close(&[activate(Activation::GeluTanh, 1.0)], &[0.841_191_990_608_304]);
    for activation in ACTIVATIONS {
        assert!(activate(activation, f64::NAN).is_nan(), "{activation:?}");
        for v in [-2.5, -0.7, 0.4, 1.9] {
            let want = (activate(activation, v + 1e-6) - activate(activation, v - 1e-6)) / 2e-6;
            assert!((slope(activation, v) - want).abs() < 1e-8, "{activation:?} at {v}");
        }
    }
}

#[test]
fn styles_by_hand() {
    // Planes of means 2 and 12, population variances 1 and 4.
    let style = &X[..4];
    let (deviations, means) = oracle::style_tables(style, [1, 2, 2], 0.0, false);
    assert_eq!((deviations, means), (vec![1.0, 2.0], vec![2.0, 12.0]));
    let (deviations, _) = oracle::style_tables(style, [1, 2, 2], 0.0, true);
    close(&deviations, &[2f64.sqrt(), 8f64.sqrt()]);
    for unbiased in [false, true] {
        let loss = |style: &[f64]| {
            let (deviations, means) = oracle::style_tables(style, [1, 2, 2], 0.1, unbiased);
            deviations[0] * 3.0 - deviations[1] + means[0] * 0.5 + means[1] * 2.0
        };
        let tables: [&[f64]; 2] = [&[3.0, -1.0], &[0.5, 2.0]];
        let got = oracle::style_gradient(style, [1, 2, 2], 0.1, unbiased, tables);
        for at in 0..4 {
            let side = |by: f64| {
                let mut style = style.to_vec();
                style[at] += by;
                loss(&style)
            };
            let want = (side(1e-5) - side(-1e-5)) / 2e-5;
            assert!((got[at] - want).abs() < 1e-8, "{unbiased} {at}: {} {want}", got[at]);
        }
    }
}
