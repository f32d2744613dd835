//! Parameters and running statistics over the life of a layer, on every back end.

mod common;

use common::{device, oracle, random, tolerance};
use wgnorm::{
    Affine, Estimator, InstanceNorm1d, InstanceNorm2d, Mode, Momentum, NormLayer, OneValue, Tensor,
};

/// Cumulative averages over several steps, counted on the device.
#[test]
fn cumulative_average() {
    for device in device::all() {
        let context = device.context;
        let norm = InstanceNorm1d::config(2)
            .with_track_running_stats(true)
            .with_momentum(Momentum::Cumulative)
            .init(&context)
            .unwrap();
        let mut means = [0.0; 2];
        for step in 1..=5 {
            let x = random::gauss4(2 * 10, step, 1.0, f64::from(step));
            for (c, mean) in means.iter_mut().enumerate() {
                *mean += oracle::statistics(&x, 0, c, 2, 10).0 / 5.0;
            }
            let x = Tensor::from_slice([1, 2, 10], &x).unwrap().to_context(&context).unwrap();
            norm.forward(&context, &x, Mode::Train).unwrap();
        }
        assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 5);
        let got = norm.running_mean().unwrap().to_vec_blocking().unwrap();
        tolerance::assert_close(&got, &means, tolerance::RUNNING, device.name);
    }
}

/// Parameters and statistics that are set after the layer has run are those of its next call.
#[test]
fn new_parameters_reach_the_next_call() {
    for device in device::all() {
        let context = device.context;
        let mut norm = InstanceNorm1d::config(1)
            .with_affine(Affine::Both)
            .with_track_running_stats(true)
            .init(&context)
            .unwrap();
        let x = Tensor::from_slice([1, 1, 2], &[1.0, 3.0]).unwrap().to_context(&context).unwrap();
        let run = |norm: &InstanceNorm1d| {
            norm.forward(&context, &x, Mode::Eval).unwrap().to_vec_blocking().unwrap()
        };
        let one = |value| Tensor::from_vec([1], vec![value]).unwrap();
        let close =
            |got: Vec<f32>, want: [f64; 2]| tolerance::assert_close(&got, &want, 2e-5, device.name);
        close(run(&norm), [1.0, 3.0]);
        norm.set_bias(&one(10.0)).unwrap();
        close(run(&norm), [11.0, 13.0]);
        norm.set_weight(&one(2.0)).unwrap();
        close(run(&norm), [12.0, 16.0]);
        norm.set_running_stats(&[1.0], &[4.0], 0).unwrap();
        close(run(&norm), [10.0, 12.0]);
        norm.reset_running_stats().unwrap();
        close(run(&norm), [12.0, 16.0]);
    }
}

/// On a GPU a view of the running statistics shows what they are when it is read, whoever wrote them.
#[test]
fn views_of_running_statistics_stay_live() {
    let Some(context) = device::gpu() else { return };
    let config = InstanceNorm1d::config(1).with_track_running_stats(true);
    let mut norm = config.with_momentum(Momentum::Factor(1.0)).init(&context).unwrap();
    let view = norm.running_mean().unwrap();
    let x = Tensor::from_slice([1, 1, 2], &[1.0, 5.0]).unwrap().to_context(&context).unwrap();
    let read = || view.to_vec_blocking().unwrap()[0];
    norm.forward(&context, &x, Mode::Train).unwrap();
    assert_eq!(read(), 3.0);
    norm.reset_running_stats().unwrap();
    assert_eq!(read(), 0.0);
    norm.forward(&context, &x, Mode::Train).unwrap();
    assert_eq!(read(), 3.0);
    norm.set_running_stats(&[7.0], &[1.0], 0).unwrap();
    assert_eq!(read(), 7.0);
}

/// Empty tensors are tensors.
#[test]
fn empty_tensors() {
    for device in device::all() {
        let context = device.context;
        let norm = InstanceNorm2d::config(3)
            .with_track_running_stats(true)
            .with_one_value(OneValue::Error)
            .init(&context)
            .unwrap();
        for shape in [[0, 3, 4, 4], [2, 3, 0, 4], [0, 3, 1, 1]] {
            let x = Tensor::zeros(&context, shape).unwrap();
            for mode in [Mode::Train, Mode::Eval] {
                let y = norm.forward(&context, &x, mode).unwrap();
                assert_eq!((y.shape(), y.to_vec_blocking().unwrap()), (x.shape(), vec![]));
            }
        }
        assert_eq!(norm.running_var().unwrap().to_vec_blocking().unwrap(), [1.0; 3]);
    }
}

/// Training steps from many threads: the statistics equal those of some order of the whole steps.
#[test]
fn threads_train_a_layer() {
    for device in device::all() {
        let context = &device.context;
        let norm = &InstanceNorm1d::config(2)
            .with_track_running_stats(true)
            .with_momentum(Momentum::Cumulative)
            .init(context)
            .unwrap();
        let x = |seed| random::gauss4(2 * 100, seed, 1.0, f64::from(seed));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for step in 0..5 {
                        let x = x(thread * 5 + step);
                        let x = Tensor::from_slice([1, 2, 100], &x).unwrap();
                        let x = x.to_context(context).unwrap();
                        norm.forward(context, &x, Mode::Train).unwrap();
                    }
                });
            }
        });
        assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 20, "{}", device.name);
        // The cumulative average does not depend on the order.
        let mut means = [0.0; 2];
        for seed in 0..20 {
            for (c, mean) in means.iter_mut().enumerate() {
                *mean += oracle::statistics(&x(seed), 0, c, 2, 100).0 / 20.0;
            }
        }
        let got = norm.running_mean().unwrap().to_vec_blocking().unwrap();
        tolerance::assert_close(&got, &means, tolerance::RUNNING, device.name);
    }
}

/// The two estimators of `running_var`, a counter that is full, a variance that a wild momentum made
/// negative: the same on host and GPU.
#[test]
fn running_statistics_at_their_edges() {
    for device in device::all() {
        let context = &device.context;
        let place = |data: &[f32]| {
            Tensor::from_slice([1, 1, data.len()], data).unwrap().to_context(context).unwrap()
        };
        let config = || InstanceNorm1d::config(1).with_track_running_stats(true);
        for (estimator, want) in [(Estimator::Unbiased, 2.0), (Estimator::Biased, 1.0)] {
            let config = config().with_estimator(estimator).with_momentum(Momentum::Factor(1.0));
            let norm = config.init(context).unwrap();
            norm.forward(context, &place(&[1.0, 3.0]), Mode::Train).unwrap();
            let var = norm.running_var().unwrap().to_vec_blocking().unwrap();
            assert_eq!(var, [want], "{} {estimator:?}", device.name);
        }

        let mut full = config().with_momentum(Momentum::Cumulative).init(context).unwrap();
        full.set_running_stats(&[7.0], &[1.0], u64::from(u32::MAX)).unwrap();
        full.forward(context, &place(&[1.0, 3.0]), Mode::Train).unwrap();
        assert_eq!(full.num_batches_tracked_blocking().unwrap(), u64::from(u32::MAX));
        assert_eq!(full.running_mean().unwrap().to_vec_blocking().unwrap(), [7.0]);

        let mut negative = config().init(context).unwrap();
        negative.set_running_stats(&[0.0], &[-0.5], 0).unwrap();
        let y = negative.forward(context, &place(&[1.0, 2.0]), Mode::Eval).unwrap();
        let y = y.to_vec_blocking().unwrap();
        assert!(y.iter().all(|v| v.is_nan()), "{}: {y:?}", device.name);
    }
}
