//! What must hold for any input, on both back ends.

mod common;

use common::{device, random, suite};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use wgnorm::{
    Activation, Affine, Context, Epilogue, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, Mode,
    NormLayer, Tensor,
};

fn run(context: &Context, norm: &dyn NormLayer, shape: &[usize], x: &[f32]) -> Vec<f32> {
    run_with(context, norm, shape, x, Activation::None)
}

fn run_with(
    context: &Context,
    norm: &dyn NormLayer,
    shape: &[usize],
    x: &[f32],
    activation: Activation,
) -> Vec<f32> {
    let x = Tensor::from_slice(shape, x).unwrap().to_context(context).unwrap();
    let epilogue = Epilogue::new().with_activation(activation);
    norm.forward_with(context, &x, epilogue, Mode::Eval).unwrap().to_vec_blocking().unwrap()
}

/// Random shapes and settings against the oracle. `PROPTEST_CASES` sets how many.
#[test]
fn any_shape_agrees_with_the_oracle() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = ProptestConfig { cases: cases.unwrap_or(config.cases), ..config };
    let shapes = prop_oneof![
        4 => (1usize..6, 1usize..9, 1usize..200),
        2 => (1usize..4, 1usize..5, 200usize..5000),
        1 => (1usize..3, 1usize..3, 5000usize..60_000),
    ];
    let offsets = prop_oneof![Just(0.0), Just(-30.0), Just(1000.0)];
    for device in device::all() {
        let mut runner = TestRunner::new(config.clone());
        let case = (&shapes, 0usize..32, &offsets);
        let result = runner.run(&case, |((n, c, s), setting, offset)| {
            suite::check(&device.context, [n, c, s], setting, offset);
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{}: {failure}", device.name);
        }
    }
}

/// A NaN or an infinity spoils its own channel of its own sample, through ReLU too, and leaves the
/// bits of the others as they are, in every regime.
#[test]
fn non_finite_values_stay_in_their_group() {
    for device in device::all() {
        let context = &device.context;
        for s in [3, 49, 1024, 16_384, 20_001] {
            let norm = InstanceNorm1d::config(3).init(context).unwrap();
            let clean = random::gauss4(2 * 3 * s, 11, 1.0, 2.0);
            let run = |x: &[f32]| run_with(context, &norm, &[2, 3, s], x, Activation::Relu);
            let expected = run(&clean);
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                // First and last of a group, so that both neighbours are near.
                for (group, at) in [(1, 0), (4, s - 1)] {
                    let mut x = clean.clone();
                    x[group * s + at] = value;
                    let y = run(&x);
                    for (i, (&got, &want)) in y.iter().zip(&expected).enumerate() {
                        let what = format!("{} s {s}, {value} in {group}, at {i}", device.name);
                        if i / s == group {
                            assert!(got.is_nan(), "{what}: {got}");
                        } else {
                            assert_eq!(got.to_bits(), want.to_bits(), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// A constant plane gives the bias, to the bit, in every regime and whatever the constant.
#[test]
fn constants_give_the_bias() {
    for device in device::all() {
        let context = &device.context;
        for s in [2, 49, 1023, 16_384, 20_001] {
            for eps in [0.0, 1e-5] {
                let config = InstanceNorm1d::config(2).with_eps(eps).with_affine(Affine::Both);
                let mut norm = config.init(context).unwrap();
                let bias = [0.3, -7.25];
                norm.set_bias(&Tensor::from_slice([2], &bias).unwrap()).unwrap();
                for value in [0.0, 1.0, 0.1, -725_000.0, 10_000.5, 3e18] {
                    let y = run(context, &norm, &[1, 2, s], &vec![value; 2 * s]);
                    let all =
                        y[..s].iter().all(|&v| v == 0.3) && y[s..].iter().all(|&v| v == -7.25);
                    assert!(all, "{} s {s} eps {eps} constant {value}", device.name);
                }
            }
        }
    }
}

/// 1d, 2d, 3d, with and without a batch axis, are one computation.
#[test]
fn ranks_agree() {
    for device in device::all() {
        let context = &device.context;
        let x = random::gauss4(4 * 60, 3, 2.0, 1.0);
        let one = InstanceNorm1d::config(4).init(context).unwrap();
        let two = InstanceNorm2d::config(4).init(context).unwrap();
        let three = InstanceNorm3d::config(4).init(context).unwrap();
        let want = run(context, &one, &[1, 4, 60], &x);
        let cases: [(&dyn NormLayer, &[usize]); 5] = [
            (&one, &[4, 60]),
            (&two, &[1, 4, 6, 10]),
            (&two, &[4, 6, 10]),
            (&three, &[1, 4, 3, 2, 10]),
            (&three, &[4, 3, 2, 10]),
        ];
        for (norm, shape) in cases {
            assert!(run(context, norm, shape, &x) == want, "{} {shape:?}", device.name);
        }
    }
}

/// Scaling the input by a power of two and shifting it does not change the output, up to the rounding
/// of the shifted values.
#[test]
fn scale_and_shift_do_not_matter() {
    for device in device::all() {
        let context = &device.context;
        for s in [60, 30_000] {
            let norm = InstanceNorm1d::config(2).with_eps(0.0).init(context).unwrap();
            let x = random::gauss4(2 * s, 5, 1.0, 0.0);
            // In steps of 2^-12, so that the shifted values are exact.
            let x: Vec<f32> = x.iter().map(|v| (v * 4096.0).round() / 4096.0).collect();
            let scaled: Vec<f32> = x.iter().map(|v| v * 1024.0 + 65_536.0).collect();
            let (y, z) =
                (run(context, &norm, &[1, 2, s], &x), run(context, &norm, &[1, 2, s], &scaled));
            for (y, z) in y.iter().zip(&z) {
                assert!((y - z).abs() <= 1e-6 * y.abs().max(1.0), "{} s {s}: {y} {z}", device.name);
            }
        }
    }
}
