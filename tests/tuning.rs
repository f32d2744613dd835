//! The autotuner: it leaves no trace but its choices, and every plan it may choose is right.
#![cfg(all(feature = "gpu", feature = "serde"))]

mod common;

use common::suite::{Case, Family, check};
use common::{device, random};
use wgnorm::plan::{TunedCall, Tuning, Tunings};
use wgnorm::{
    Activation, Affine, BatchNorm2d, Context, MemoryOrder, Mode, NormLayer, Tensor, TuningError,
};

/// Groups that are short, that fill a workgroup, that are split; columns; rows with gradients of every
/// position.
fn cases() -> [Case; 5] {
    let last = MemoryOrder::ChannelsLast;
    let relu = Activation::Relu;
    [
        Case::new(Family::Instance, [3, 40, 49]),
        Case { activation: relu, addend: true, ..Case::new(Family::Instance, [2, 3, 3000]) },
        Case::new(Family::Group(2), [1, 2, 40_000]),
        Case { order: last, ..Case::new(Family::Batch, [2, 12, 900]) },
        Case::new(Family::Layer(1), [10, 20, 300]),
    ]
}

/// A context with this choice, whatever was measured.
fn forced(tunings: &Tunings, tuning: Tuning) -> Option<Context> {
    let context = device::gpu()?;
    let mut tunings = tunings.clone();
    tunings.calls.iter_mut().for_each(|call| call.tuning = tuning);
    context.set_tunings(&tunings).unwrap();
    Some(context)
}

#[test]
fn every_plan_is_right() {
    let Some(context) = device::gpu() else { return };
    context.set_autotune(true);
    for case in cases() {
        check(&context, &case).unwrap();
    }
    let tunings = context.tunings().unwrap();
    assert!(tunings.calls.len() >= 2 * cases().len(), "{} calls", tunings.calls.len());
    for call in &tunings.calls {
        // Measured, and not slower than without.
        assert!(0 < call.tuned_ns && call.tuned_ns <= call.planned_ns, "{call:?}");
    }
    let planned = forced(&tunings, Tuning::Planned).unwrap();
    cases().iter().for_each(|case| check(&planned, case).unwrap());
    for tuning in Tuning::ALL {
        let context = forced(&tunings, tuning).unwrap();
        for case in cases() {
            check(&context, &case).unwrap_or_else(|error| panic!("{tuning:?}: {error}"));
        }
        // Two dispatches in place of one are told by the objects they need.
        let same = context.objects_created() == planned.objects_created();
        assert!(!same || tuning != Tuning::Split);
        // Nothing was measured there.
        let calls = context.tunings().unwrap().calls;
        assert!(calls.iter().all(|call| call.tuning == tuning));
        assert_eq!(calls.len(), tunings.calls.len());
    }
}

#[test]
fn a_call_is_measured_once() {
    let Some(context) = device::gpu() else { return };
    let run = || check(&context, &cases()[0]).unwrap();
    run();
    assert_eq!(context.tunings().unwrap().calls, [], "off by default");
    context.set_autotune(true);
    run();
    let tunings = context.tunings().unwrap();
    assert!(!tunings.calls.is_empty());
    run();
    assert_eq!(context.tunings().unwrap(), tunings);
    context.set_autotune(false);
    check(&context, &cases()[1]).unwrap();
    assert_eq!(context.tunings().unwrap(), tunings);
    // Another cache is another device.
    context.set_autotune(true);
    context.set_cache_bytes(1 << 10);
    run();
    assert_eq!(context.tunings().unwrap().calls.len(), 2 * tunings.calls.len());
}

/// A training step moves running statistics by one batch, whatever was measured before it; gradients
/// that are added to are added to once.
#[test]
fn tuning_leaves_no_trace() {
    let Some(plain) = device::gpu() else { return };
    let tuned = device::gpu().unwrap();
    tuned.set_autotune(true);
    let results = [&plain, &tuned].map(|context| {
        let layer = BatchNorm2d::config(5).with_affine(Affine::Both).init(context).unwrap();
        let place = |seed| {
            let values = random::gauss4(3 * 5 * 40 * 40, seed, 2.0, 1.0);
            Tensor::from_vec([3, 5, 40, 40], values).unwrap().to_context(context).unwrap()
        };
        let (x, dy) = (place(1), place(2));
        let (y, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
        let mut grads = layer.backward(context, &saved, &dy).unwrap();
        let read = |t: &Tensor<'_>| t.to_vec_blocking().unwrap();
        let once = read(grads.dweight.as_ref().unwrap());
        layer.backward_accumulate(context, &saved, &dy, &mut grads).unwrap();
        let twice = read(grads.dweight.as_ref().unwrap());
        let mean = read(&layer.parameters().running_mean().unwrap());
        assert_eq!(layer.parameters().num_batches_tracked_blocking().unwrap(), 1);
        [read(&x), read(&dy), read(&y), once, twice, mean]
    });
    assert!(!tuned.tunings().unwrap().calls.is_empty());
    let [plain, tuned] = results;
    assert!(plain[..2] == tuned[..2], "what is only read");
    for (plain, tuned) in plain.iter().zip(&tuned) {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * a.abs().max(1.0);
        assert!(plain.iter().zip(tuned).all(close));
    }
}

#[test]
fn tunings_go_through_a_file_and_to_no_other_device() {
    let Some(context) = device::gpu() else { return };
    context.set_autotune(true);
    check(&context, &cases()[0]).unwrap();
    let tunings = context.tunings().unwrap();
    let text = serde_json::to_string(&tunings).unwrap();
    let read: Tunings = serde_json::from_str(&text).unwrap();
    assert_eq!(read, tunings);
    let next = device::gpu().unwrap();
    next.set_tunings(&read).unwrap();
    assert_eq!(next.tunings().unwrap(), tunings);
    // What is known is replaced; of too many calls some are taken.
    let many = (0..10_000).map(|i| TunedCall { call: i.to_string(), ..tunings.calls[0].clone() });
    next.set_tunings(&Tunings { calls: many.collect(), ..tunings.clone() }).unwrap();
    assert_eq!(next.tunings().unwrap().calls.len(), 4096);
    next.set_autotune(true);
    check(&next, &cases()[0]).unwrap();
    let known = next.tunings().unwrap().calls;
    assert!(known.len() == 4096 && known.iter().any(|call| call.call == tunings.calls[0].call));
    next.set_tunings(&Tunings { calls: Vec::new(), ..tunings.clone() }).unwrap();
    assert_eq!(next.tunings().unwrap().calls, []);
    let error = |tunings: &Tunings| device::gpu().unwrap().set_tunings(tunings).unwrap_err();
    let other_device = Tunings { device: "another".into(), ..tunings.clone() };
    let here = tunings.device.clone();
    let named = |error: TuningError, name: &str| error.got == "another" && error.expected == name;
    assert!(named(error(&other_device), &here));
    let other_version = Tunings { made_by: "another".into(), ..tunings.clone() };
    assert!(named(error(&other_version), &tunings.made_by));
    // The host has none and takes all.
    assert_eq!(Context::host().tunings(), None);
    Context::host().set_tunings(&other_device).unwrap();
}
