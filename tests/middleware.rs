//! Life inside somebody else's wgpu application: their device, buffers, encoders and limits.
#![cfg(feature = "gpu")]

mod common;

use common::{device, oracle, random, tolerance};
use wgnorm::{
    Activation, Affine, Backend, Context, ContextOptions, Epilogue, Error, InstanceNorm1d,
    InstanceNorm2d, Mode, Momentum, NormLayer, OneValue, OpenError, OperandError, Preference,
    RunError, ShapeError, StateError, Tensor,
};

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn buffer(device: &wgpu::Device, bytes: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage: USAGE,
        mapped_at_creation: false,
    })
}

fn encoder(device: &wgpu::Device) -> wgpu::CommandEncoder {
    device.create_command_encoder(&Default::default())
}

fn plain(x: &[f32], [n, c, s]: [usize; 3]) -> Vec<f64> {
    let oracle = oracle::InstanceNorm {
        n,
        c,
        s,
        eps: 1e-5,
        weight: None,
        bias: None,
        running: None,
        addend: None,
        relu: false,
    };
    oracle.forward(x)
}

/// Operands anywhere in the application's buffers, aligned or not; what lies around them is left
/// alone, and NaN in it harms nothing.
#[test]
fn views_at_any_offset() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let shape = [2, 3, 1601];
    let len: usize = shape.iter().product();
    for (x_at, y_at, a_at) in [(0, 0, 0), (1, 2, 3), (4, 8, 12), (64, 64, 64), (1000, 77, 4)] {
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
        let norm = InstanceNorm1d::config(3).init(&context).unwrap();
        let mut commands = encoder(&device);
        let epilogue = Epilogue::new().with_addend(&ta).with_activation(Activation::Relu);
        norm.record(&context, &mut commands, &tx, &ty, epilogue, Mode::Eval).unwrap();
        queue.submit([commands.finish()]);

        let whole = Tensor::from_buffer(&context, by.clone(), 0, [y_at + len + 70]).unwrap();
        let got = whole.to_vec_blocking().unwrap();
        let want: Vec<f64> =
            plain(&x, shape).iter().zip(&a).map(|(y, &a)| (y + f64::from(a)).max(0.0)).collect();
        let what = format!("offsets {x_at} {y_at} {a_at}");
        tolerance::assert_close(&got[y_at..][..len], &want, tolerance::Y, &what);
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
                    .record(&context, &mut commands, x, y, Epilogue::new(), Mode::Train)
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
            let epilogue = Epilogue::new();
            norm.record(&context, &mut pass, &pair[0], &pair[1], epilogue, Mode::Eval).unwrap();
        }
    }
    queue.submit([commands.finish()]);
    let mut want = plain(&x, shape);
    for _ in 0..2 {
        let rounded: Vec<f32> = want.iter().map(|&v| v as f32).collect();
        want = plain(&rounded, shape);
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
    norm.record(&context, &mut commands, &x, &y, Epilogue::new(), Mode::Train).unwrap();
    let commands = commands.finish();
    assert_eq!(y.to_vec_blocking().unwrap(), [0.0; 4]);
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [0.0]);
    assert_eq!(count(&device, &norm), 0);
    queue.submit([commands]);
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [3.0]);
    assert_eq!(count(&device, &norm), 1);
    assert!(y.to_vec_blocking().unwrap()[3] > 1.0);
}

/// `num_batches_tracked` on the application's device, which it polls itself.
fn count(device: &wgpu::Device, norm: &InstanceNorm1d) -> u64 {
    std::thread::scope(|scope| {
        let count = scope.spawn(|| pollster::block_on(norm.num_batches_tracked()).unwrap());
        while !count.is_finished() {
            device.poll(wgpu::PollType::Poll).unwrap();
            std::thread::yield_now();
        }
        count.join().unwrap()
    })
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
        assert_eq!(pollster::block_on(norm.num_batches_tracked()).unwrap(), 5);
        let got = norm.running_mean().unwrap().to_vec_blocking().unwrap();
        tolerance::assert_close(&got, &means, tolerance::RUNNING, device.name);
    }
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
        let (tx, ta, ty) = (place(&x, 12), place(&a, 0), place(&vec![0.0; len], 260));
        let norm = InstanceNorm1d::config(shape[1])
            .with_track_running_stats(true)
            .with_momentum(Momentum::Factor(1.0))
            .init(&context)
            .unwrap();
        for mode in [Mode::Train, Mode::Eval] {
            let mut commands = encoder(&device);
            let epilogue = Epilogue::new().with_addend(&ta);
            norm.record(&context, &mut commands, &tx, &ty, epilogue, mode).unwrap();
            queue.submit([commands.finish()]);
            let (mean, var) = (norm.running_mean().unwrap(), norm.running_var().unwrap());
            let stats = [mean, var].map(|t| t.to_vec_blocking().unwrap());
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

/// Once warm, forward and record create nothing but command encoders.
#[test]
fn the_steady_state_creates_nothing() {
    let Some(context) = device::gpu() else { return };
    let device = context.device().unwrap().clone();
    let norm = InstanceNorm2d::config(8)
        .with_affine(Affine::Both)
        .with_track_running_stats(true)
        .init(&context)
        .unwrap();
    let place = |seed| {
        let x = random::gauss4(8 * 60 * 300, seed, 1.0, 0.0);
        Tensor::from_slice([1, 8, 60, 300], &x).unwrap().to_context(&context).unwrap()
    };
    let (a, b) = (place(1), place(2));
    let recorded = Tensor::zeros(&context, [1, 8, 60, 300]).unwrap();
    let run = || {
        for x in [&a, &b] {
            let y = norm.forward(&context, x, Mode::Train).unwrap();
            let z = norm.forward(&context, &y, Mode::Eval).unwrap();
            assert_eq!(z.to_vec_blocking().unwrap().len(), 8 * 60 * 300);
        }
        let mut commands = encoder(&device);
        norm.record(&context, &mut commands, &a, &recorded, Epilogue::new(), Mode::Train).unwrap();
        context.queue().unwrap().submit([commands.finish()]);
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    };
    let census = || {
        let hal = device.get_internal_counters().hal;
        let live = [
            hal.buffers.read(),
            hal.bind_groups.read(),
            hal.bind_group_layouts.read(),
            hal.pipeline_layouts.read(),
            hal.compute_pipelines.read(),
            hal.shader_modules.read(),
        ];
        (context.objects_created(), live)
    };
    let before_all = context.objects_created();
    run();
    run();
    let warm = census();
    assert!(warm.0 > before_all, "the counter counts nothing");
    for _ in 0..20 {
        run();
    }
    assert_eq!(census(), warm);
}

/// Memory that somebody outside could still use is not handed out again.
#[test]
fn recorded_memory_is_not_recycled() {
    let Some(context) = device::gpu() else { return };
    let device = context.device().unwrap();
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let place =
        |data: &[f32]| Tensor::from_slice([1, 1, 4], data).unwrap().to_context(&context).unwrap();
    let x = place(&[1.0, 2.0, 3.0, 4.0]);
    let middle = Tensor::zeros(&context, [1, 1, 4]).unwrap();
    let y = Tensor::zeros(&context, [1, 1, 4]).unwrap();
    let mut commands = encoder(device);
    norm.record(&context, &mut commands, &x, &middle, Epilogue::new(), Mode::Eval).unwrap();
    norm.record(&context, &mut commands, &middle, &y, Epilogue::new(), Mode::Eval).unwrap();
    drop((x, middle));
    // Would be given x's or middle's memory, which the unsubmitted commands read and write.
    let innocent =
        [place(&[7.0; 4]), place(&[8.0; 4]), Tensor::zeros(&context, [1, 1, 4]).unwrap()];
    context.queue().unwrap().submit([commands.finish()]);
    let got: Vec<_> = innocent.iter().map(|t| t.to_vec_blocking().unwrap()).collect();
    assert_eq!(got, [vec![7.0; 4], vec![8.0; 4], vec![0.0; 4]]);
    let want = plain(&[1.0, 2.0, 3.0, 4.0], [1, 1, 4]);
    tolerance::assert_close(&y.to_vec_blocking().unwrap(), &want, 1e-4, "twice normalized");
}

/// A parameter that is replaced after recording is still the recorded work's own.
#[test]
fn recorded_parameters_are_not_recycled() {
    let Some(context) = device::gpu() else { return };
    let mut norm = InstanceNorm1d::config(2).with_affine(Affine::Bias).init(&context).unwrap();
    let two = |data| Tensor::from_slice([2], data).unwrap();
    norm.set_bias(&two(&[5.0, 6.0])).unwrap();
    let x = Tensor::zeros(&context, [1, 2, 3]).unwrap();
    let y = Tensor::zeros(&context, [1, 2, 3]).unwrap();
    let mut commands = encoder(context.device().unwrap());
    norm.record(&context, &mut commands, &x, &y, Epilogue::new(), Mode::Eval).unwrap();
    norm.set_bias(&two(&[7.0, 8.0])).unwrap();
    // Would be given the old bias's memory.
    let _innocent = [two(&[9.0; 2]), two(&[9.0; 2])].map(|t| t.to_context(&context).unwrap());
    context.queue().unwrap().submit([commands.finish()]);
    assert_eq!(y.to_vec_blocking().unwrap(), [5.0, 5.0, 5.0, 6.0, 6.0, 6.0]);
}

/// Every misuse is a typed error before any work, and the layer works afterwards.
#[test]
fn misuse_is_a_typed_error() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm1d::config(2).init(&context).unwrap();
    let place = |shape: [usize; 3]| Tensor::zeros(&context, shape).unwrap();
    let (x, y) = (place([1, 2, 8]), place([1, 2, 8]));
    let attempt = |context: &Context, x: &Tensor<'_>, y: &Tensor<'_>, epilogue: Epilogue<'_>| {
        let mut commands = encoder(&device);
        norm.record(context, &mut commands, x, y, epilogue, Mode::Eval).unwrap_err()
    };
    let plain = Epilogue::new();

    let error = attempt(&context, &x, &place([1, 2, 9]), plain);
    assert!(matches!(error, Error::Shape(ShapeError::Operand { operand: "y", .. })), "{error}");
    let wrong = place([2, 2, 8]);
    let error = attempt(&context, &x, &y, Epilogue::new().with_addend(&wrong));
    assert!(matches!(error, Error::Shape(ShapeError::Operand { operand: "addend", .. })));

    let on_host = Tensor::from_vec([1, 2, 8], vec![0.0; 16]).unwrap();
    let error = attempt(&context, &on_host, &y, plain);
    let elsewhere = OperandError::Elsewhere { operand: "x", expected: Backend::Gpu };
    assert_eq!(error, elsewhere.clone().into());
    let error = attempt(&Context::host(), &x, &y, plain);
    assert_eq!(error, OperandError::HostContext.into());
    assert_eq!(
        norm.forward(&Context::host(), &on_host, Mode::Eval).unwrap_err(),
        OperandError::OtherContext { layer: "InstanceNorm1d" }.into()
    );

    let shared = buffer(&device, 512);
    let view = |at| Tensor::from_buffer(&context, shared.clone(), at, [1, 2, 8]).unwrap();
    let error = attempt(&context, &view(0), &view(256), plain);
    assert_eq!(error, OperandError::SharedBuffer { operand: "x" }.into());
    let (a, b) = (view(0), view(256));
    let error = attempt(&context, &x, &a, Epilogue::new().with_addend(&b));
    assert_eq!(error, OperandError::SharedBuffer { operand: "addend" }.into());

    // A layer's own statistics as its output.
    let tracking = InstanceNorm1d::config(1).with_track_running_stats(true).init(&context).unwrap();
    let stats = tracking.running_var().unwrap().buffer().unwrap().0.clone();
    let stats = Tensor::from_buffer(&context, stats, 4, [1, 1, 1]).unwrap();
    let (mut commands, one) = (encoder(&device), place([1, 1, 1]));
    let error = tracking.record(&context, &mut commands, &one, &stats, plain, Mode::Eval);
    let error = error.unwrap_err();
    assert_eq!(error, OperandError::SharedBuffer { operand: "running statistics" }.into());

    let refuse = |offset, shape: [usize; 3]| {
        Tensor::from_buffer(&context, shared.clone(), offset, shape).unwrap_err()
    };
    assert_eq!(
        refuse(2, [1, 2, 8]),
        OperandError::Misaligned { operand: "tensor", offset: 2 }.into()
    );
    let short = OperandError::TooShort { operand: "tensor", needed: 64, offset: 452, got: 512 };
    assert_eq!(refuse(452, [1, 2, 8]), short.into());
    let huge = refuse(u64::MAX - 3, [1, 2, 8]);
    assert!(matches!(huge, Error::Operand(OperandError::TooShort { .. })), "{huge}");
    let uniform = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: false,
    });
    let error = Tensor::from_buffer(&context, uniform, 0, [1, 2, 8]).unwrap_err();
    assert_eq!(error, OperandError::Usage { operand: "tensor", missing: "STORAGE" }.into());

    let other = device::foreign(|_| ()).unwrap();
    let other = Context::from_device(&other.0, &other.1).unwrap();
    let foreign = Tensor::zeros(&other, [1, 2, 8]).unwrap();
    assert_eq!(attempt(&context, &foreign, &y, plain), elsewhere.into());
    assert_eq!(
        foreign.to_context(&context).unwrap_err(),
        OperandError::Elsewhere { operand: "tensor", expected: Backend::Gpu }.into()
    );

    assert!(norm.forward(&context, &x, Mode::Eval).is_ok());
}

/// State that does not fit names the parameter and both shapes.
#[test]
fn misfit_state_is_a_typed_error() {
    for device in device::all() {
        let context = device.context;
        let mut norm =
            InstanceNorm1d::config(3).with_affine(Affine::Weight).init(&context).unwrap();
        let four = Tensor::from_slice([4], &[1.0; 4]).unwrap();
        assert_eq!(
            norm.set_weight(&four).unwrap_err().to_string(),
            "InstanceNorm1d: weight must have shape (3), got (4)"
        );
        let absent = |name| StateError::Absent { layer: "InstanceNorm1d", name };
        assert_eq!(norm.set_bias(&four).unwrap_err(), absent("bias").into());
        assert_eq!(norm.running_mean().unwrap_err(), absent("running statistics").into());
        let tracked = InstanceNorm1d::config(3).with_track_running_stats(true);
        let mut tracked = tracked.init(&context).unwrap();
        let error = tracked.set_running_stats(&[0.0; 3], &[1.0; 2], 0).unwrap_err();
        assert!(matches!(error, Error::State(StateError::Shape { name: "running_var", .. })));
        let error = tracked.set_running_stats(&[0.0; 3], &[1.0; 3], 1 << 40).unwrap_err();
        assert!(matches!(error, Error::State(StateError::Count { .. })));
        for eps in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(InstanceNorm1d::config(3).with_eps(eps).init(&context).is_err());
        }
        let momentum = Momentum::Factor(f64::NAN);
        assert!(InstanceNorm1d::config(3).with_momentum(momentum).init(&context).is_err());
        assert!(InstanceNorm1d::config(0).init(&context).is_err());
    }
}

/// The fallback is a decision told in the open.
#[test]
fn fallback_says_why() {
    let named = |adapter: &str, preference| ContextOptions {
        preference,
        adapter: Some(adapter.into()),
        ..Default::default()
    };
    let auto = Context::open_with_blocking(&named("no such adapter", Preference::Auto)).unwrap();
    assert_eq!(auto.backend(), Backend::Host);
    assert!(auto.fallback_reason().is_some(), "{auto}");
    assert!(Context::open_with_blocking(&named("no such adapter", Preference::Gpu)).is_err());
    let host = ContextOptions { preference: Preference::Host, ..Default::default() };
    let host = Context::open_with_blocking(&host).unwrap();
    assert_eq!((host.backend(), host.fallback_reason()), (Backend::Host, None));
}

/// A software adapter is left alone unless asked for.
#[test]
fn software_adapters_are_not_taken_unasked() {
    let Some(context) = device::gpu() else { return };
    let info = context.adapter_info().unwrap();
    if info.device_type != wgpu::DeviceType::Cpu {
        eprintln!("skipped: {} is no software adapter", info.name);
        return;
    }
    if std::env::var("WGNORM_ADAPTER").is_ok() {
        eprintln!("skipped: WGNORM_ADAPTER names an adapter");
        return;
    }
    let auto = Context::open_blocking();
    assert_eq!(auto.backend(), Backend::Host);
    assert!(matches!(auto.fallback_reason(), Some(OpenError::SoftwareOnly { .. })), "{auto}");
    let allowed = ContextOptions { allow_software: true, ..Default::default() };
    assert_eq!(Context::open_with_blocking(&allowed).unwrap().backend(), Backend::Gpu);
}

/// Limits below what the kernels need are named, with both numbers.
#[test]
fn small_limits_are_named() {
    let few = |limits: &mut wgpu::Limits| limits.max_storage_buffers_per_shader_stage = 4;
    let Some((device, queue)) = device::foreign(few) else { return };
    let error = Context::from_device(&device, &queue).unwrap_err();
    let limit_name = "max_storage_buffers_per_shader_stage";
    assert_eq!(error, OpenError::Limits { limit_name, needed: 7, got: 4 });
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
            tolerance::assert_close(&y, &plain(&x, shape), tolerance::Y, &what);
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

/// A device that is gone is a typed error, not a panic, and host tensors are intact.
#[test]
fn a_lost_device_is_an_error() {
    let Some(context) = device::gpu() else { return };
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let host = Tensor::from_vec([1, 1, 4], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let x = host.to_context(&context).unwrap();
    let y = norm.forward(&context, &x, Mode::Eval).unwrap();
    context.device().unwrap().destroy();
    let lost = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Run(RunError::DeviceLost { .. })), "{error:?}");
    };
    lost(y.to_vec_blocking().map(drop));
    lost(pollster::block_on(y.to_vec()).map(drop));
    lost(norm.forward(&context, &x, Mode::Eval).map(drop));
    lost(host.to_context(&context).map(drop));
    assert_eq!(host.as_slice().unwrap(), [1.0, 2.0, 3.0, 4.0]);
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

/// Many threads, one context, one layer: the same bits as one thread.
#[test]
fn threads_share_a_layer() {
    for device in device::all() {
        let context = &device.context;
        let norm = &InstanceNorm1d::config(3).init(context).unwrap();
        let run = |seed: u32| {
            let x = random::gauss4(3 * 3001, seed, 1.0, 1.0);
            let x = Tensor::from_slice([1, 3, 3001], &x).unwrap().to_context(context).unwrap();
            norm.forward(context, &x, Mode::Eval).unwrap().to_vec_blocking().unwrap()
        };
        let alone: Vec<_> = (0..8).map(run).collect();
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || run(seed))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(alone == together, "{}", device.name);
    }
}
