//! Parameters and running statistics over the life of a layer, on every back end.

mod common;

use common::{data, device, oracle, random, tolerance};
use wgnorm::{
    Affine, BatchNorm1d, ConditionalInstanceNorm, ConfigError, Context, DType, Error, Estimator,
    Extras, FusedBatchNorm1d, FusedBatchNorm3d, GroupNorm, Init, InstanceNorm, InstanceNorm1d,
    InstanceNorm2d, InstanceNorm3d, LayerNorm, LazyBatchNorm1d, LazyInstanceNorm,
    LazyInstanceNorm1d, Mask, MemoryOrder, Mode, Momentum, NormLayer, OneValue, OperandError,
    Parameters, RmsNorm, Shape, ShapeError, Tensor,
};

/// What a layer holds of running statistics, and its count.
fn tracked(layer: &Parameters) -> (Vec<f32>, Vec<f32>, u64) {
    let part = |part: Result<Tensor<'_>, Error>| part.unwrap().to_vec_blocking().unwrap();
    let count = layer.num_batches_tracked_blocking().unwrap();
    (part(layer.running_mean()), part(layer.running_var()), count)
}

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

/// An empty training batch is a step of BatchNorm, which moves nothing: what PyTorch has after it, and after
/// the next.
#[test]
fn empty_batches_are_counted() {
    for device in device::all() {
        let (context, name) = (&device.context, device.name);
        let place = |shape: &[usize], x: &[f32]| {
            Tensor::from_slice(shape, x).unwrap().to_context(context).unwrap()
        };
        let (nothing, pair) = (place(&[0, 1], &[]), place(&[2, 1], &[1.0, 3.0]));
        for (momentum, mean, var) in
            [(Momentum::Factor(0.1), 0.2, 1.1), (Momentum::Cumulative, 1.0, 1.5)]
        {
            let config = BatchNorm1d::config(1).with_momentum(momentum);
            let norm = config.clone().init(context).unwrap();
            let lazy =
                LazyBatchNorm1d::new(BatchNorm1d::config(0).with_momentum(momentum), context);
            let lazy = lazy.unwrap();
            norm.forward(context, &nothing, Mode::Train).unwrap();
            lazy.forward(context, &nothing, Mode::Train).unwrap();
            for layer in [&norm, lazy.layer().unwrap()] {
                assert_eq!(tracked(layer), (vec![0.0], vec![1.0], 1), "{name} {momentum:?}");
                layer.forward(context, &pair, Mode::Train).unwrap();
                assert_eq!(tracked(layer), (vec![mean], vec![var], 2), "{name} {momentum:?}");
            }
        }

        // An empty batch of any shape, type and order counts in every call that trains, and not in evaluation.
        let plain = Extras::new();
        for shape in [[0, 2, 3], [3, 2, 0], [0, 2, 1], [0, 2, 0]] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for order in [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast] {
                    let x = data::place(context, shape, dtype, order, &[]).unwrap();
                    let norm = FusedBatchNorm1d::config(2).init(context).unwrap();
                    norm.forward_add(context, &x, Some(&x), Mode::Train).unwrap();
                    let (mut y, saved) = norm.forward_saved(context, &x, Mode::Train).unwrap();
                    norm.forward_into(context, &x, &plain, Mode::Train, &mut y).unwrap();
                    norm.forward_in_place(context, &mut y, &plain, Mode::Train).unwrap();
                    norm.forward(context, &x, Mode::Eval).unwrap();
                    norm.statistics(context, &x, None).unwrap();
                    let grads = norm.backward(context, &saved, &x).unwrap();
                    assert_eq!(grads.dweight.unwrap().to_vec_blocking().unwrap(), [0.0; 2]);
                    let want = (vec![0.0; 2], vec![1.0; 2], 4);
                    assert_eq!(tracked(&norm), want, "{name} {shape:?} {dtype} {order:?}");
                }
            }
        }

        // InstanceNorm counts empty batches where it counts others.
        let x = place(&[0, 2, 3], &[]);
        for (momentum, steps) in
            [(Momentum::Cumulative, 1), (Momentum::Factor(0.1), 0), (Momentum::Frozen, 0)]
        {
            let config = InstanceNorm1d::config(2).with_track_running_stats(true);
            let norm = config.with_momentum(momentum).init(context).unwrap();
            norm.forward(context, &x, Mode::Train).unwrap();
            assert_eq!(tracked(&norm), (vec![0.0; 2], vec![1.0; 2], steps), "{name} {momentum:?}");
        }

        // A mask that leaves nothing of a batch is such a step too; a count that is full stays so.
        let mut norm = BatchNorm1d::config(1).init(context).unwrap();
        let mask = Mask::from_slice([2, 2], &[0; 4]).unwrap().to_context(context).unwrap();
        let x = place(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let masked = Extras::new().with_mask(&mask);
        norm.forward_with(context, &x, &masked, Mode::Train).unwrap();
        assert_eq!(tracked(&norm), (vec![0.0], vec![1.0], 1), "{name}");
        norm.set_running_stats(&[0.0], &[1.0], u32::MAX.into()).unwrap();
        norm.forward(context, &nothing, Mode::Train).unwrap();
        assert_eq!(tracked(&norm), (vec![0.0], vec![1.0], u32::MAX.into()), "{name}");
    }
}

/// Recorded, an empty batch is counted when the commands run.
#[cfg(feature = "gpu")]
#[test]
fn gpu_empty_batches_are_counted_when_they_run() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = BatchNorm1d::config(3).with_momentum(Momentum::Cumulative).init(&context).unwrap();
    let [x, y] = [(); 2].map(|()| Tensor::zeros(&context, [0, 3, 4]).unwrap());
    let mut commands = device::encoder(&device);
    for _ in 0..2 {
        norm.record(&context, &mut commands, &x, &y, &Extras::new(), Mode::Train).unwrap();
    }
    norm.record(&context, &mut commands, &x, &y, &Extras::new(), Mode::Eval).unwrap();
    let commands = commands.finish();
    assert_eq!(tracked(&norm).2, 0);
    queue.submit([commands]);
    assert_eq!(tracked(&norm), (vec![0.0; 3], vec![1.0; 3], 2));
}

fn f64s(shape: impl Into<Shape>, values: &[f64]) -> Tensor<'static> {
    data::host(shape, DType::F64, MemoryOrder::ChannelsFirst, values).unwrap()
}

/// A third is no f32: layers in float64 hold it, whether they are built so, cast before the first input or
/// after.
#[test]
fn host_lazy_layers_in_float64() {
    let context = &Context::host();
    let third = 1.0 / 3.0;
    let x = f64s([2, 1], &[third, third + 1.0]);
    let config = || BatchNorm1d::config(0).with_momentum(Momentum::Factor(1.0));
    let lazy = |config| LazyBatchNorm1d::new(config, context).unwrap();
    let built = lazy(config().with_dtype(DType::F64));
    let cast = lazy(config()).cast_blocking(DType::F64).unwrap();
    for affine in [Affine::None, Affine::Both] {
        let bare = lazy(config().with_affine(affine)).cast_blocking(DType::F64).unwrap();
        bare.forward(context, &x, Mode::Train).unwrap();
        assert_eq!(bare.layer().unwrap().dtype(), DType::F64);
    }
    for lazy in [&built, &cast] {
        let y = lazy.forward(context, &x, Mode::Train).unwrap();
        assert_eq!(y.dtype(), DType::F64);
        let layer = lazy.layer().unwrap();
        assert_eq!((layer.dtype(), layer.settings().dtype), (DType::F64, DType::F64));
        let mean = layer.running_mean().unwrap();
        assert_eq!(mean.to_vec_of_blocking::<f64>().unwrap(), [third + 0.5]);
        for tensor in [layer.weight().unwrap(), layer.bias().unwrap(), &mean] {
            assert_eq!(tensor.dtype(), DType::F64);
        }
        // Back again, rounded; the layer it was cast from stays.
        let single = lazy.cast_blocking(DType::F32).unwrap();
        let mean = single.layer().unwrap().running_mean().unwrap();
        assert_eq!(mean.to_vec_of_blocking::<f64>().unwrap(), [f64::from((third + 0.5) as f32)]);
        assert_eq!(lazy.layer().unwrap().dtype(), DType::F64);
        single
            .forward(context, &Tensor::from_slice([2, 1], &[1.0, 2.0]).unwrap(), Mode::Eval)
            .unwrap();
    }
    // A state may come first.
    let state = built.layer().unwrap().state_dict_blocking().unwrap();
    let mut loaded = lazy(config().with_dtype(DType::F64));
    loaded.load_state_dict(&state, &Default::default()).unwrap();
    let mean = loaded.layer().unwrap().running_mean().unwrap();
    assert_eq!(mean.to_vec_of_blocking::<f64>().unwrap(), [third + 0.5]);

    let axis = InstanceNorm::config(0).with_axis(-1).with_dtype(DType::F64);
    let lazy = LazyInstanceNorm::new(axis, context).unwrap();
    lazy.forward(context, &f64s([1, 2, 1], &[1.0, 2.0]), Mode::Train).unwrap();
    assert_eq!(lazy.layer().unwrap().weight().unwrap().dtype(), DType::F64);
}

/// Every layer that has parameters is built in its settings' element type, takes input that goes with it and
/// refuses the other; on a GPU float64 is refused when it is built.
#[test]
fn layers_are_built_in_any_type() {
    let double = f64s([2, 2, 4], &[0.5; 16]);
    let single = Tensor::from_vec([2, 2, 4], vec![0.5f32; 16]).unwrap();
    for device in device::all() {
        let context = &device.context;
        macro_rules! check {
            ($config:expr) => {
                for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                    let config = $config.with_dtype(dtype);
                    let what = format!("{} {config:?}", device.name);
                    let layer = match config.init(context) {
                        Ok(layer) => layer,
                        Err(Error::Operand(OperandError::NoF64 { .. }))
                            if (dtype, device.name != "host") == (DType::F64, true) =>
                        {
                            continue;
                        }
                        Err(error) => panic!("{what}: {error}"),
                    };
                    assert!(dtype != DType::F64 || device.name == "host", "{what}");
                    assert_eq!(layer.dtype(), dtype, "{what}");
                    for (_, tensor) in layer.named_parameters() {
                        // An f16 does not hold it, nor an f32.
                        let want = data::round(dtype, 0.1);
                        let got = tensor.to_vec_of_blocking::<f64>().unwrap();
                        assert!(got.iter().all(|&v| v == want), "{what}: {got:?}");
                    }
                    let mut layer = layer;
                    layer.reset_parameters().unwrap();
                    for (_, tensor) in layer.named_parameters() {
                        let got = tensor.to_vec_of_blocking::<f64>().unwrap();
                        assert!(got.iter().all(|&v| v == data::round(dtype, 0.1)), "{what}");
                    }
                    if device.name == "host" {
                        let (fits, other) = match dtype {
                            DType::F64 => (&double, &single),
                            _ => (&single, &double),
                        };
                        for mode in [Mode::Train, Mode::Eval] {
                            layer.forward(context, fits, mode).unwrap();
                            let error = layer.forward(context, other, mode).unwrap_err();
                            let error = matches!(error, Error::Shape(ShapeError::DType { .. }));
                            assert!(error, "{what}");
                        }
                    }
                }
            };
        }
        let init = Init::Constant(0.1);
        macro_rules! tenths {
            ($config:expr) => {
                $config.with_weight_init(init).with_bias_init(init)
            };
        }
        check!(tenths!(InstanceNorm1d::config(2).with_affine(Affine::Both)));
        check!(tenths!(InstanceNorm::config(2)));
        check!(tenths!(BatchNorm1d::config(2)));
        check!(tenths!(FusedBatchNorm1d::config(2)));
        check!(tenths!(GroupNorm::config(1, 2)));
        check!(tenths!(LayerNorm::config([4])));
        check!(tenths!(RmsNorm::config([4]).with_affine(Affine::Both)));
        // Without parameters the running statistics decide.
        check!(BatchNorm1d::config(2).with_affine(Affine::None));
        check!(FusedBatchNorm1d::config(2).with_affine(Affine::None));
        check!(InstanceNorm1d::config(2).with_track_running_stats(true));

        for dtype in [DType::F32, DType::F64] {
            let bank = ConditionalInstanceNorm::config(2, 2).with_dtype(dtype).init(context);
            let Ok(bank) = bank else {
                assert!(device.name != "host" && dtype == DType::F64);
                continue;
            };
            assert_eq!(bank.dtype(), dtype);
            if device.name == "host" {
                let (fits, other) =
                    if dtype == DType::F64 { (&double, &single) } else { (&single, &double) };
                assert!(bank.forward_styles(context, fits, &[0, 1]).is_ok());
                assert!(bank.forward_styles(context, other, &[0, 1]).is_err());
            }
        }
        if device.name != "host" {
            let lazy = LazyInstanceNorm1d::new(InstanceNorm1d::config(0), context).unwrap();
            let no_f64 = Error::from(OperandError::NoF64 { operand: "InstanceNorm1d" });
            assert_eq!(lazy.cast_blocking(DType::F64).err(), Some(no_f64.clone()));
            let config = InstanceNorm1d::config(0).with_dtype(DType::F64);
            assert_eq!(LazyInstanceNorm1d::new(config, context).err(), Some(no_f64));
        }
    }
}

/// The error calls the statistics by name, and says both types.
#[test]
fn host_statistics_of_another_type_are_named() {
    let context = &Context::host();
    let norm = BatchNorm1d::config(1).with_affine(Affine::None).init(context).unwrap();
    let error = norm.forward(context, &f64s([2, 1], &[1.0, 2.0]), Mode::Train).unwrap_err();
    assert_eq!(
        error.to_string(),
        "BatchNorm1d: running_mean must be float64, got float32; convert it, or the layer with its method cast"
    );
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 0);
    let norm = norm.cast_blocking(DType::F64).unwrap();
    let x = Tensor::from_slice([2, 1], &[1.0, 2.0]).unwrap();
    let error = norm.forward(context, &x, Mode::Eval).unwrap_err();
    assert_eq!(
        error.to_string(),
        "BatchNorm1d: running_mean must be float32, got float64; convert it, or the layer with its method cast"
    );
    // A layer that keeps none takes any input.
    let free = BatchNorm1d::config(1).with_affine(Affine::None).with_track_running_stats(false);
    free.init(context).unwrap().forward(context, &f64s([2, 1], &[1.0, 2.0]), Mode::Train).unwrap();
}

/// Settings that were written before they had an element type are read as float32.
#[cfg(feature = "serde")]
#[test]
fn host_settings_without_a_type_are_float32() {
    let config = BatchNorm1d::config(3).with_eps(0.5);
    let text = serde_json::to_string(&config).unwrap();
    let old = text.replace(",\"dtype\":\"F32\"", "");
    assert!(old.len() < text.len(), "{text}");
    assert_eq!(serde_json::from_str::<wgnorm::BatchNormConfig<1>>(&old).unwrap(), config);
    let double = serde_json::to_string(&config.clone().with_dtype(DType::F64)).unwrap();
    let read: wgnorm::BatchNormConfig<1> = serde_json::from_str(&double).unwrap();
    assert_eq!(read.dtype, DType::F64);
}

/// Where PyTorch refuses and this crate accepts, or the reverse: the conventions' table, row by row.
#[test]
fn decisions_that_differ_from_pytorch() {
    for device in device::all() {
        let (context, name) = (&device.context, device.name);
        let place = |shape: &[usize], x: &[f32]| {
            Tensor::from_slice(shape, x).unwrap().to_context(context).unwrap()
        };
        // An eps of 0 in training: a constant channel gives the bias.
        let mut norm = BatchNorm1d::config(2).with_eps(0.0).init(context).unwrap();
        norm.fill_bias(|c| c as f32).unwrap();
        let x = place(&[2, 2], &[1.0, 7.0, 3.0, 7.0]);
        let y = norm.forward(context, &x, Mode::Train).unwrap().to_vec_blocking().unwrap();
        tolerance::assert_close(&y, &[-1.0, 1.0, 1.0, 1.0], 1e-6, name);
        assert_eq!((y[1], y[3]), (1.0, 1.0), "{name}");
        // Empty in, empty out.
        let empty = |norm: &dyn NormLayer, shape: &[usize]| {
            let y = norm.forward(context, &place(shape, &[]), Mode::Train).unwrap();
            assert_eq!((&y.shape()[..], y.to_vec_blocking().unwrap()), (shape, vec![]), "{name}");
        };
        let group = GroupNorm::config(1, 2).init(context).unwrap();
        empty(&group, &[1, 2, 0]);
        empty(&group, &[2, 2, 0]);
        empty(&group, &[0, 2, 1]);
        let config = InstanceNorm1d::config(2).with_affine(Affine::Both);
        let instance = config.with_track_running_stats(true).init(context).unwrap();
        for shape in [[0, 2, 1], [0, 2, 3], [1, 2, 0]] {
            empty(&instance, &shape);
        }
        empty(&FusedBatchNorm3d::config(2).init(context).unwrap(), &[0, 2, 1, 1, 1]);
        // Rows of nothing.
        for error in [
            LayerNorm::config([0]).init(context).map(drop),
            RmsNorm::config([3, 0]).init(context).map(drop),
        ] {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Config(ConfigError::NormalizedShape { .. })), "{error}");
        }
    }
}

/// Channels last moves the axis that holds the channels: of an unbatched input axis 0, also where it has
/// four axes, of which `torch.channels_last` moves axis 1.
#[test]
fn unbatched_channels_last_moves_axis_0() {
    for device in device::all() {
        let context = &device.context;
        let norm = InstanceNorm3d::config(3).init(context).unwrap();
        // (C, D, H, W) as (D, H, W, C): the channels of a position lie side by side.
        let memory: Vec<f32> =
            (0..4).flat_map(|s| [s as f32, 10.0, 5.0 - 2.0 * s as f32]).collect();
        let run = |shape: &[usize]| {
            let x = Tensor::from_slice(shape, &memory).unwrap();
            let x = x.with_order(MemoryOrder::ChannelsLast).to_context(context).unwrap();
            norm.forward(context, &x, Mode::Eval).unwrap().to_vec_blocking().unwrap()
        };
        let y = run(&[3, 1, 2, 2]);
        assert_eq!(y, run(&[1, 3, 1, 2, 2]), "{}", device.name);
        for (s, position) in y.chunks(3).enumerate() {
            let want = (s as f64 - 1.5) / 1.25f64.sqrt();
            tolerance::assert_close(position, &[want, 0.0, -want], 1e-4, device.name);
        }
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
