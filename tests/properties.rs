//! What must hold for any input, on both back ends.

mod common;

use common::data;
use common::suite::{self, ACTIVATIONS, Case, Data, Family, From, Masking, Outcome};
use common::{device, random};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use wgnorm::{
    Activation, Affine, Backend, Context, DType, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d,
    MemoryOrder, Mode, NormLayer, Tensor,
};

const ORDERS: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];

/// Any call of any layer.
fn cases(backend: Backend) -> impl Strategy<Value = Case> {
    let dtypes = match backend {
        Backend::Host => vec![DType::F32, DType::F16, DType::BF16, DType::F64],
        Backend::Gpu => vec![DType::F32, DType::F16, DType::BF16],
    };
    let shapes = prop_oneof![
        6 => (1usize..6, 1usize..9, 1usize..100),
        2 => (1usize..4, 1usize..5, 100usize..3000),
        2 => (1usize..4, 9usize..140, 1usize..40),
        1 => (1usize..3, 1usize..3, 3000usize..40_000),
    ];
    let settings = (
        prop::sample::select(ORDERS.to_vec()),
        prop::sample::select(dtypes),
        any::<bool>(),
        prop::sample::select(vec![Mode::Train, Mode::Eval]),
        prop::sample::select(vec![Affine::None, Affine::Weight, Affine::Bias, Affine::Both]),
        prop::sample::select(ACTIVATIONS.to_vec()),
        any::<bool>(),
    );
    let rest = (
        prop::sample::select(vec![Masking::None, Masking::None, Masking::Some, Masking::All]),
        prop::sample::select(vec![
            From::Mode,
            From::Mode,
            From::Mode,
            From::Given { constant: true },
            From::Given { constant: false },
        ]),
        prop_oneof![Just(0.0), Just(-30.0), Just(1000.0)],
        prop_oneof![4 => Just(1e-5), 1 => Just(0.1)],
        0u32..1000,
        any::<prop::sample::Index>(),
    );
    (shapes, settings, rest).prop_map(|((n, c, s), settings, rest)| {
        let (order, dtype, same, mode, affine, activation, addend) = settings;
        let (masking, from, offset, eps, seed, family) = rest;
        Case {
            order,
            dtype,
            param_dtype: if same { dtype } else { DType::F32 },
            mode,
            affine,
            activation,
            addend,
            masking,
            from,
            // What 16 bits cannot hold beside a spread of 1.5.
            offset: if dtype == DType::F32 || dtype == DType::F64 {
                offset
            } else {
                offset / 100.0
            },
            eps,
            seed,
            ..Case::new(*family.get(&Family::all(c)), [n, c, s])
        }
        .fitted()
    })
}

/// Random calls against the oracle, forward and backward. `PROPTEST_CASES` sets how many.
#[test]
fn any_call_agrees_with_the_oracle() {
    let number = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    for device in device::all() {
        let backend = device.context.backend();
        // A driver in software compiles for seconds what the host calculates in microseconds.
        let usual = if backend == Backend::Gpu { 32 } else { 96 };
        let config = ProptestConfig::with_cases(number.unwrap_or(usual));
        let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..config });
        let result = runner.run(&cases(backend), |case| {
            suite::check(&device.context, &case).map_err(TestCaseError::fail)
        });
        if let Err(failure) = result {
            panic!("{}: {failure}", device.name);
        }
    }
}

/// The generator reaches every kind of call, so that the test above means what it says.
#[test]
fn the_generator_makes_every_kind_of_call() {
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Case> =
        (0..2000).map(|_| cases(Backend::Host).new_tree(&mut runner).unwrap().current()).collect();
    let all = |what: &str, is: &dyn Fn(&Case) -> bool| {
        assert!(cases.iter().filter(|case| is(case)).count() >= 20, "too few with {what}");
    };
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        all(&format!("{dtype}"), &|case| case.dtype == dtype);
        all(&format!("{dtype} parameters"), &|case| case.param_dtype == dtype);
    }
    for order in ORDERS {
        all(&format!("{order:?}"), &|case| case.order == order);
    }
    for activation in ACTIVATIONS {
        all(&format!("{activation:?}"), &|case| case.activation == activation);
    }
    let families = [
        Family::Instance,
        Family::InstanceAxis,
        Family::Batch,
        Family::FusedBatch,
        Family::Layer(1),
        Family::Layer(2),
        Family::Rms(1),
        Family::Rms(2),
        Family::AdaIn,
        Family::AdaInStyle,
        Family::Bank(3),
    ];
    for family in families {
        all(&format!("{family:?}"), &|case| case.family == family);
    }
    all("groups", &|case| matches!(case.family, Family::Group(g) if g > 1 && g < case.shape[1]));
    all("evaluation", &|case| case.mode == Mode::Eval);
    all("an addend", &|case| case.addend);
    all("masks", &|case| case.masking == Masking::Some);
    all("given statistics", &|case| matches!(case.from, From::Given { .. }));
    all("one position", &|case| case.shape[2] == 1);
    all("one sample", &|case| case.shape[0] == 1);
}

/// The same call again gives the same bits.
#[test]
fn results_are_repeatable() {
    for device in device::all() {
        for (i, family) in Family::all(6).into_iter().enumerate() {
            for order in ORDERS {
                for shape in [[3, 6, 35], [1, 6, 20_001]] {
                    let case = Case {
                        order,
                        dtype: [DType::F32, DType::F16][i % 2],
                        addend: true,
                        activation: Activation::Silu,
                        ..Case::new(family, shape)
                    };
                    let data = Data::new(&case);
                    let run = || suite::run(&device.context, &case, &data).unwrap().bits();
                    assert!(run() == run(), "{} {case:?}", device.name);
                }
            }
        }
    }
}

/// Which elements share a statistic with element `at`, in logical order.
fn same_group(case: &Case, at: usize) -> Vec<bool> {
    let norm = case.norm();
    let groups: Vec<usize> = norm.elements().map(|(_, n, c, _)| norm.group(n, c)).collect();
    groups.iter().map(|&group| group == groups[at]).collect()
}

/// A NaN or an infinity spoils its own group, through ReLU too, and leaves the bits of the others as
/// they are, forward and in dx; odd lengths put the neighbour into the same word.
#[test]
fn non_finite_values_stay_in_their_group() {
    for device in device::all() {
        for (i, family) in Family::all(6).into_iter().enumerate() {
            for (j, order) in ORDERS.into_iter().enumerate() {
                for shape in [[2, 6, 3], [2, 6, 49], [2, 6, 1025], [1, 6, 20_001]] {
                    let dtype = [DType::F32, DType::F16, DType::BF16][(i + j + shape[2]) % 3];
                    let activation = Activation::Relu;
                    let case = Case { order, dtype, activation, ..Case::new(family, shape) };
                    spoils_its_own(&device.context, &case, i + j);
                }
            }
        }
    }
}

fn spoils_its_own(context: &Context, case: &Case, i: usize) {
    let data = Data::new(case);
    let run = |data: &Data| suite::run(context, case, data).unwrap();
    let clean = run(&data);
    let value = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i % 3];
    let len = data.x.len();
    // At both ends and within, so that both neighbours are near.
    for at in [0, len / 2, len - 1] {
        let mut hit = data.clone();
        hit.x[at] = value;
        let Outcome { y, unsaved, dx, .. } = run(&hit);
        let hit = same_group(case, at);
        // Without a mean an infinity leaves the others 0 of it.
        let centered = !matches!(case.family, Family::Rms(_));
        for (name, got, want) in
            [("y", &y, &clean.y), ("y, unsaved", &unsaved, &clean.unsaved), ("dx", &dx, &clean.dx)]
        {
            let kept = |i: usize| match hit[i] {
                false => got[i].to_bits() == want[i].to_bits(),
                true => got[i].is_nan() || !(centered || i == at),
            };
            if let Some(i) = (0..len).find(|&i| !kept(i)) {
                let (got, want) = (got[i], want[i]);
                panic!("{context} {case:?}: {value} at {at}, {name}[{i}] is {got}, was {want}");
            }
        }
    }
}

/// A constant group gives the bias, to the bit, in every regime and whatever the constant.
#[test]
fn constants_give_the_bias() {
    for device in device::all() {
        for family in Family::all(4) {
            // Without a mean nothing is constant; tables made on the way are not known to the bit.
            if matches!(family, Family::Rms(_) | Family::AdaInStyle | Family::Bank(_)) {
                continue;
            }
            for order in ORDERS {
                for (shape, dtype, eps) in [
                    ([2, 4, 2], DType::F32, 0.0),
                    ([1, 4, 49], DType::F16, 1e-5),
                    ([2, 4, 1023], DType::F32, 1e-5),
                    ([1, 4, 16_384], DType::BF16, 0.0),
                    ([1, 4, 20_001], DType::F32, 1e-5),
                ] {
                    let case = Case { order, dtype, eps, ..Case::new(family, shape) };
                    gives_the_bias(&device.context, &case);
                }
            }
        }
    }
}

fn gives_the_bias(context: &Context, case: &Case) {
    let mut data = Data::new(case);
    let fits = |v: &f64| data::round(case.dtype, *v).is_finite();
    for value in [0.0, 1.0, 0.1, -725_000.0, 10_000.5, 3e18].into_iter().filter(fits) {
        data.x.fill(data::round(case.dtype, value));
        // ReLU(bias) of the fused layer.
        let norm = case.norm();
        let bias = |param: usize| {
            let bias = common::oracle::activate(case.effective_activation(), data.bias[param]);
            data::round(case.dtype, bias)
        };
        let want: Vec<f64> =
            norm.elements().map(|(_, n, c, s)| bias(norm.param(n, c, s))).collect();
        let got = suite::run(context, case, &data).unwrap();
        assert!(got.y == want && got.unsaved == want, "{context} {case:?} constant {value}");
    }
}

/// A mask that counts everything gives the bits of no mask, forward and backward.
#[test]
fn a_full_mask_is_no_mask() {
    for device in device::all() {
        for (i, family) in Family::all(6).into_iter().filter(|f| f.takes_masks()).enumerate() {
            for order in ORDERS {
                for shape in [[3, 6, 1], [3, 6, 35], [1, 6, 5000], [1, 6, 20_001]] {
                    let dtype = [DType::F32, DType::BF16][i % 2];
                    let mode = if i % 3 == 1 { Mode::Eval } else { Mode::Train };
                    let addend = i % 2 == 0;
                    let plain = Case { order, dtype, mode, addend, ..Case::new(family, shape) };
                    let masked = Case { masking: Masking::All, ..plain.clone() };
                    let data = Data::new(&plain);
                    let run = |case| suite::run(&device.context, case, &data).unwrap().bits();
                    assert!(run(&plain) == run(&masked), "{} {plain:?}", device.name);
                }
            }
        }
    }
}

/// Empty tensors are tensors: empty results, gradients of 0, running statistics as they were.
#[test]
fn empty_tensors() {
    for device in device::all() {
        for family in Family::all(6) {
            for shape in [[0, 6, 5], [2, 6, 0], [0, 6, 0]] {
                let rows = matches!(family, Family::Layer(_) | Family::Rms(_));
                // Rows of no elements are refused by the settings; a bank's weights are per sample.
                if rows && shape[2] == 0 || family.is_styled() && shape[0] == 0 {
                    continue;
                }
                for order in ORDERS {
                    for mode in [Mode::Train, Mode::Eval] {
                        let case = Case { order, mode, addend: true, ..Case::new(family, shape) };
                        let data = Data::new(&case);
                        let got = suite::run(&device.context, &case, &data).unwrap();
                        let what = format!("{} {case:?}: {got:?}", device.name);
                        let empty = [&got.y, &got.unsaved, &got.dx, got.daddend.as_ref().unwrap()];
                        assert!(empty.iter().all(|values| values.is_empty()), "{what}");
                        for grad in [&got.dweight, &got.dbias, &got.dstyle].into_iter().flatten() {
                            assert!(grad.iter().all(|&v| v == 0.0), "{what}");
                        }
                        if let Some([mean, var]) = &got.running {
                            assert!(*mean == data.mean && *var == data.var, "{what}");
                        }
                    }
                }
            }
        }
    }
}

fn run(context: &Context, norm: &dyn NormLayer, shape: &[usize], x: &[f32]) -> Vec<f32> {
    let x = Tensor::from_slice(shape, x).unwrap().to_context(context).unwrap();
    norm.forward(context, &x, Mode::Eval).unwrap().to_vec_blocking().unwrap()
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
