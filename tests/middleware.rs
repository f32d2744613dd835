//! Life inside somebody else's wgpu application: their device, buffers, encoders and limits.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, buffer, encoder};
use common::{oracle, random, tolerance};
use wgnorm::{
    Activation, Affine, BatchNorm2d, Context, Error, Extras, GroupNorm, InstanceNorm1d,
    InstanceNorm2d, LayerNorm, MemoryOrder, Mode, Momentum, NormLayer, RmsNorm, Tensor,
};

/// Operands anywhere in the application's buffers, aligned or not; what lies around them is left
/// alone, and NaN in it harms nothing.
#[test]
fn views_at_any_offset() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    // One and four elements at a time, in registers and in slices.
    let shapes = [[2, 3, 1601], [2, 3, 1604], [1, 3, 20_004]];
    let offsets = [(0, 0, 0), (1, 2, 3), (4, 8, 12), (64, 64, 64), (1000, 77, 4)];
    for (shape, (x_at, y_at, a_at)) in
        shapes.iter().flat_map(|&shape| offsets.map(|offset| (shape, offset)))
    {
        let len: usize = shape.iter().product();
        let x = random::gauss4(len, 5, 2.0, 1.0);
        let a = random::gauss4(len, 6, 1.0, 0.0);
        let around = |data: &[f32], at: usize| {
            let mut all = vec![f32::NAN; at];
            all.extend_from_slice(data);
            all.extend([f32::NAN; 70]);
            let buffer = buffer(&device, all.len() as u64 * 4);
            queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&all));
            buffer
        };
        let (bx, ba) = (around(&x, x_at), around(&a, a_at));
        let by = around(&vec![0.0; len], y_at);
        let view = |buffer: &wgpu::Buffer, at: usize| {
            Tensor::from_buffer(&context, buffer.clone(), at as u64 * 4, shape).unwrap()
        };
        let (tx, ty, ta) = (view(&bx, x_at), view(&by, y_at), view(&ba, a_at));
        let mut norm = InstanceNorm1d::config(3).with_affine(Affine::Both).init(&context).unwrap();
        // The parameters too are the application's, at offsets of their own.
        let (weight, bias) = ([0.5, -2.0, 3.0], [1.0, 0.0, -1.5]);
        let (bw, bb) = (around(&weight, a_at), around(&bias, x_at));
        let param = |buffer: wgpu::Buffer, at: usize| {
            Tensor::from_buffer(&context, buffer, at as u64 * 4, [3]).unwrap()
        };
        norm.set_weight(&param(bw, a_at)).unwrap();
        norm.set_bias(&param(bb, x_at)).unwrap();
        let mut commands = encoder(&device);
        let epilogue = Extras::new().with_addend(&ta).with_activation(Activation::Relu);
        norm.record(&context, &mut commands, &tx, &ty, &epilogue, Mode::Eval).unwrap();
        queue.submit([commands.finish()]);

        let whole = Tensor::from_buffer(&context, by.clone(), 0, [y_at + len + 70]).unwrap();
        let got = whole.to_vec_blocking().unwrap();
        let [n, c, s] = shape;
        let want = oracle::InstanceNorm {
            n,
            c,
            s,
            eps: 1e-5,
            weight: Some(&weight),
            bias: Some(&bias),
            running: None,
            addend: Some(&a),
            relu: true,
        };
        let what = format!("{shape:?}, offsets {x_at} {y_at} {a_at}");
        // Weights up to 3: three times the usual rounding.
        let want = want.forward(&x);
        tolerance::assert_close(&got[y_at..][..len], &want, 3.0 * tolerance::Y, &what);
        assert!(got[..y_at].iter().all(|v| v.is_nan()), "{what}: written before y");
        assert!(got[y_at + len..].iter().all(|v| v.is_nan()), "{what}: written behind y");
    }
}

/// Two layers of different eps, shapes and scratch needs, recorded into two encoders, submitted in
/// reverse order, and together: each result is its own.
#[test]
fn encoders_in_any_order() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let shapes = [[1, 2, 40_000], [3, 2, 30_000]];
    let xs: Vec<Vec<f32>> =
        shapes.iter().map(|s| random::gauss4(s.iter().product(), 9, 1.0, 4.0)).collect();
    let layers: Vec<_> = [1e-5, 10.0]
        .map(|eps| InstanceNorm1d::config(2).with_eps(eps).init(&context).unwrap())
        .into();
    let inputs: Vec<_> = shapes
        .iter()
        .zip(&xs)
        .map(|(s, x)| Tensor::from_slice(*s, x).unwrap().to_context(&context).unwrap())
        .collect();
    for together in [false, true] {
        let outputs: Vec<_> = shapes.iter().map(|s| Tensor::zeros(&context, *s).unwrap()).collect();
        let mut commands: Vec<_> = (0..2)
            .map(|i| {
                let mut commands = encoder(&device);
                let (x, y) = (&inputs[i], &outputs[i]);
                layers[i]
                    .record(&context, &mut commands, x, y, &Extras::new(), Mode::Train)
                    .unwrap();
                commands.finish()
            })
            .collect();
        commands.reverse();
        if together {
            queue.submit(commands);
        } else {
            for commands in commands {
                queue.submit([commands]);
            }
        }
        for (i, eps) in [1e-5, 10.0].into_iter().enumerate() {
            let [n, c, s] = shapes[i];
            let want = oracle::InstanceNorm {
                n,
                c,
                s,
                eps,
                weight: None,
                bias: None,
                running: None,
                addend: None,
                relu: false,
            };
            let got = outputs[i].to_vec_blocking().unwrap();
            let what = format!("layer {i}, together {together}");
            tolerance::assert_close(&got, &want.forward(&xs[i]), tolerance::Y, &what);
        }
    }
}

/// Several layers in one pass of the application's, each reading what the one before wrote.
#[test]
fn layers_chain_in_one_pass() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let shape = [1, 4, 20_000];
    let x = random::gauss4(80_000, 3, 3.0, 7.0);
    let norm = InstanceNorm1d::config(4).init(&context).unwrap();
    let tensors: Vec<Tensor> = (0..4)
        .map(|_| Tensor::from_buffer(&context, buffer(&device, 320_000), 0, shape).unwrap())
        .collect();
    queue.write_buffer(tensors[0].buffer().unwrap().0, 0, bytemuck::cast_slice(&x));
    let mut commands = encoder(&device);
    {
        let mut pass = commands.begin_compute_pass(&Default::default());
        for pair in tensors.windows(2) {
            let epilogue = Extras::new();
            norm.record(&context, &mut pass, &pair[0], &pair[1], &epilogue, Mode::Eval).unwrap();
        }
    }
    queue.submit([commands.finish()]);
    let mut want = oracle::plain(&x, shape);
    for _ in 0..2 {
        let rounded: Vec<f32> = want.iter().map(|&v| v as f32).collect();
        want = oracle::plain(&rounded, shape);
    }
    let got = tensors[3].to_vec_blocking().unwrap();
    tolerance::assert_close(&got, &want, tolerance::Y, "three layers");
}

/// Recording submits nothing: before the application's submit, running statistics and output are
/// untouched; each run of the commands counts.
#[test]
fn recording_does_nothing_yet() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm1d::config(1)
        .with_track_running_stats(true)
        .with_momentum(Momentum::Cumulative)
        .init(&context)
        .unwrap();
    let x = Tensor::from_slice([1, 1, 4], &[1.0, 2.0, 3.0, 6.0]).unwrap();
    let x = x.to_context(&context).unwrap();
    let y = Tensor::zeros(&context, [1, 1, 4]).unwrap();
    let mut commands = encoder(&device);
    norm.record(&context, &mut commands, &x, &y, &Extras::new(), Mode::Train).unwrap();
    let commands = commands.finish();
    assert_eq!(y.to_vec_blocking().unwrap(), [0.0; 4]);
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [0.0]);
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 0);
    queue.submit([commands]);
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [3.0]);
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 1);
    assert!(y.to_vec_blocking().unwrap()[3] > 1.0);
}

/// What running statistics with momentum 1 become: means over the samples of means and unbiased
/// variances.
fn batch_statistics(x: &[f32], [n, c, s]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let over_samples = |f: &dyn Fn((f64, f64)) -> f64, channel: usize| {
        (0..n).map(|i| f(oracle::statistics(x, i, channel, c, s))).sum::<f64>() / n as f64
    };
    let unbiased = s as f64 / (s as f64 - 1.0);
    (0..c).map(|c| (over_samples(&|(m, _)| m, c), over_samples(&|(_, v)| v * unbiased, c))).unzip()
}

/// Tensors over the binding limit go through windows, inside a group too.
#[test]
fn tensors_over_the_binding_limit() {
    // Windows of one or some groups, of slices of a group, and of odd lengths at odd offsets.
    for (binding, shape) in [
        (64 << 10, [2, 3, 5000]),
        (64 << 10, [1, 2, 50_000]),
        (64 << 10, [3, 37, 999]),
        (16 << 10, [1, 3, 20_011]),
        (256 << 10, [1, 1, 1_000_003]),
    ] {
        let limit = |limits: &mut wgpu::Limits| limits.max_storage_buffer_binding_size = binding;
        let Some((device, queue)) = device::foreign(limit) else { return };
        let context = Context::from_device(&device, &queue).unwrap();
        let len: usize = shape.iter().product();
        let x = random::gauss4(len, 8, 2.0, 10.0);
        let a = random::gauss4(len, 9, 1.0, 0.0);
        let place = |data: &[f32], at: u64| {
            let buffer = buffer(&device, at + 4 * len as u64);
            queue.write_buffer(&buffer, at, bytemuck::cast_slice(data));
            Tensor::from_buffer(&context, buffer, at, shape).unwrap()
        };
        // Where the length allows it, four elements at a time.
        let at = if shape[2] % 4 == 0 { 48 } else { 12 };
        let (tx, ta, ty) = (place(&x, at), place(&a, 0), place(&vec![0.0; len], 256 + at));
        let norm = InstanceNorm1d::config(shape[1])
            .with_track_running_stats(true)
            .with_momentum(Momentum::Factor(1.0))
            .init(&context)
            .unwrap();
        for mode in [Mode::Train, Mode::Eval] {
            let mut commands = encoder(&device);
            let epilogue = Extras::new().with_addend(&ta);
            norm.record(&context, &mut commands, &tx, &ty, &epilogue, mode).unwrap();
            queue.submit([commands.finish()]);
            let (mean, var) = (norm.running_mean().unwrap(), norm.running_var().unwrap());
            let stats = [mean, var].map(|t| t.to_vec_blocking().unwrap());
            let (means, variances) = batch_statistics(&x, shape);
            tolerance::assert_close(&stats[0], &means, tolerance::RUNNING, "running_mean");
            tolerance::assert_close(&stats[1], &variances, tolerance::RUNNING, "running_var");
            let want = oracle::InstanceNorm {
                n: shape[0],
                c: shape[1],
                s: shape[2],
                eps: 1e-5,
                weight: None,
                bias: None,
                running: (mode == Mode::Eval).then_some((&stats[0][..], &stats[1][..])),
                addend: Some(&a),
                relu: false,
            };
            let got = ty.to_vec_blocking().unwrap();
            let what = format!("binding {binding}, {shape:?}, {mode:?}");
            tolerance::assert_close(&got, &want.forward(&x), tolerance::Y, &what);
        }
    }
}

/// Devices with limits that are small, odd, or those of WebGPU alone: every layer, memory order and pass; the host says
/// what should come out.
#[test]
fn layers_under_any_limits() {
    type Edit = fn(&mut wgpu::Limits);
    let cases: [(&str, Edit); 4] = [
        ("small bindings", |limits| limits.max_storage_buffer_binding_size = 24 << 10),
        ("64 lanes, 64 workgroups", |limits| {
            limits.max_compute_invocations_per_workgroup = 64;
            limits.max_compute_workgroup_size_x = 48;
            limits.max_compute_workgroup_storage_size = 1 << 10;
            limits.max_compute_workgroups_per_dimension = 64;
        }),
        ("little of all", |limits| {
            limits.max_compute_invocations_per_workgroup = 8;
            limits.max_compute_workgroup_storage_size = 128;
            limits.max_compute_workgroups_per_dimension = 100;
            limits.max_storage_buffer_binding_size = 32 << 10;
            limits.max_buffer_size = 64 << 10;
        }),
        ("WebGPU's own", |limits| {
            *limits = wgpu::Limits::default().or_worse_values_from(&limits.clone());
        }),
    ];
    for (limits, edit) in cases {
        let Some((device, queue)) = device::foreign(edit) else { return };
        layers_agree(&Context::from_device(&device, &queue).unwrap(), limits);
    }
}

fn layers_agree(context: &Context, limits: &str) {
    let shape = [5, 8, 9, 41];
    let len: usize = shape.iter().product();
    let x = random::gauss4(len, 8, 2.0, 1.0);
    let dy = random::gauss4(len, 9, 1.0, 0.0);
    type Build = fn(&Context) -> Result<Box<dyn NormLayer>, Error>;
    let layers: [(&str, Build, [MemoryOrder; 2]); 5] = [
        ("instance", |c| Ok(Box::new(affine_instance_norm().init(c)?)), BOTH),
        ("batch", |c| Ok(Box::new(BatchNorm2d::config(8).init(c)?)), BOTH),
        ("group", |c| Ok(Box::new(GroupNorm::config(4, 8).init(c)?)), BOTH),
        ("layer", |c| Ok(Box::new(LayerNorm::config([9, 41]).init(c)?)), BOTH),
        ("rms", |c| Ok(Box::new(RmsNorm::config([41]).init(c)?)), [BOTH[0]; 2]),
    ];
    let run = |context: &Context, build: Build, order| {
        let layer = build(context).unwrap();
        let place = |data: &[f32]| {
            let tensor = Tensor::from_slice(shape, data).unwrap().with_order(order);
            tensor.to_context(context).unwrap()
        };
        let relu = Extras::new().with_activation(Activation::LeakyRelu(0.25));
        let (y, saved) = layer.forward_saved_with(context, &place(&x), &relu, Mode::Train).unwrap();
        let grads = layer.backward(context, &saved, &place(&dy)).unwrap();
        [Some(y), Some(grads.dx), grads.dweight, grads.dbias]
            .map(|tensor| tensor.map(|t| t.to_vec_blocking().unwrap()))
    };
    for (name, build, orders) in layers {
        for order in orders {
            let got = run(context, build, order);
            let want = run(&Context::host(), build, order);
            // Sums of some thousand terms may cancel: their bound is of the terms.
            let param = 10.0 * tolerance::DPARAM;
            let bounds = [tolerance::Y, tolerance::DX, param, param];
            for (i, ((got, want), bound)) in got.iter().zip(want).zip(bounds).enumerate() {
                let Some(want) = want else { continue };
                let want: Vec<f64> = want.into_iter().map(f64::from).collect();
                let what = format!("{limits}: {name} {order:?}, result {i}");
                tolerance::assert_close(got.as_ref().unwrap(), &want, bound, &what);
            }
        }
    }
}

const BOTH: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];

fn affine_instance_norm() -> wgnorm::InstanceNormConfig<2> {
    InstanceNorm2d::config(8).with_affine(Affine::Both)
}

/// Pipelines are compiled through the application's cache: its own one serves, one of another device is
/// refused, which is how wgpu tells that it was asked. (Software drivers keep nothing in it.)
#[test]
fn pipelines_go_through_the_applications_cache() {
    // wgpu knows the devices of one instance apart.
    let Some(adapter) = device::adapter() else { return };
    let required_features = wgpu::Features::PIPELINE_CACHE;
    if !adapter.features().contains(required_features) {
        eprintln!("skipped: {} has no pipeline cache", adapter.get_info().name);
        return;
    }
    let descriptor = wgpu::DeviceDescriptor {
        required_features,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let open = || pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let ((device, queue), (other, _)) = (open(), open());
    let cache = |device: &wgpu::Device, data: Option<&[u8]>| {
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
        // SAFETY: data are of `get_data`, on the same adapter.
        unsafe { device.create_pipeline_cache(&descriptor) }
    };
    let run = |cache: wgpu::PipelineCache| {
        let context = Context::from_device(&device, &queue).unwrap();
        context.set_pipeline_cache(Some(cache));
        let layer = InstanceNorm2d::config(1).init(&context).unwrap();
        let x = Tensor::from_slice([1, 1, 1, 2], &[1.0, 3.0]).unwrap();
        layer.forward(&context, &x.to_context(&context).unwrap(), Mode::Eval)
    };
    let first = cache(&device, None);
    let y = run(first.clone()).unwrap().to_vec_blocking().unwrap();
    assert!((y[0] + 1.0).abs() < 1e-4, "{y:?}");
    let data = first.get_data().expect("the data of a Vulkan driver");
    assert!(run(cache(&device, Some(&data))).is_ok());
    let refused = run(cache(&other, None)).map(drop).unwrap_err();
    assert!(matches!(refused, Error::Run(_)), "{refused}");
}

/// Devices with few lanes and little workgroup memory run the same kernels, smaller.
#[test]
fn few_lanes() {
    for lanes in [1, 16, 64] {
        let small = |limits: &mut wgpu::Limits| {
            limits.max_compute_invocations_per_workgroup = lanes;
            limits.max_compute_workgroup_size_x = lanes;
            limits.max_compute_workgroup_storage_size = 16 * lanes;
        };
        let Some((device, queue)) = device::foreign(small) else { return };
        let context = Context::from_device(&device, &queue).unwrap();
        for shape in [[2, 3, 49], [1, 2, 5000], [1, 1, 30_001]] {
            let x = random::gauss4(shape.iter().product(), 2, 1.0, 5.0);
            let tx = Tensor::from_slice(shape, &x).unwrap().to_context(&context).unwrap();
            let norm = InstanceNorm1d::config(shape[1]).init(&context).unwrap();
            let y = norm.forward(&context, &tx, Mode::Eval).unwrap().to_vec_blocking().unwrap();
            let what = format!("{lanes} lanes, {shape:?}");
            tolerance::assert_close(&y, &oracle::plain(&x, shape), tolerance::Y, &what);
        }
    }
}

/// Awaiting on a device of our own needs nobody to poll.
#[test]
fn awaiting_needs_no_help_on_our_own_device() {
    let Some(context) = device::gpu() else { return };
    let x = Tensor::from_slice([3], &[1.0, 2.0, 3.0]).unwrap().to_context(&context).unwrap();
    assert_eq!(pollster::block_on(x.to_vec()).unwrap(), [1.0, 2.0, 3.0]);
    // A future that is dropped half way harms nothing.
    drop(x.to_vec());
    assert_eq!(x.to_vec_blocking().unwrap(), [1.0, 2.0, 3.0]);
}

/// The same input gives the same bits, whatever was run in between.
#[test]
fn results_repeat_bit_for_bit() {
    for device in device::all() {
        let context = device.context;
        let x = random::gauss4(2 * 3 * 70_001, 4, 2.0, 50.0);
        let x = Tensor::from_slice([2, 3, 70_001], &x).unwrap().to_context(&context).unwrap();
        let norm = InstanceNorm1d::config(3).init(&context).unwrap();
        let run = || norm.forward(&context, &x, Mode::Eval).unwrap().to_vec_blocking().unwrap();
        let first = run();
        for _ in 0..3 {
            assert!(run() == first, "{}", device.name);
        }
    }
}

/// Natively everything crosses threads.
#[test]
fn everything_is_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Context>();
    check::<Tensor<'static>>();
    check::<InstanceNorm2d>();
    check::<Error>();
    fn check_future(_: impl Send) {}
    let tensor = Tensor::from_vec([1], vec![1.0]).unwrap();
    check_future(tensor.to_vec());
    check_future(Context::open());
}
