//! Life inside somebody else's wgpu application: their device, buffers, encoders and limits.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, buffer, encoder};
use common::{oracle, random, tolerance};
use wgnorm::{
    Activation, Affine, Context, Epilogue, Error, Estimator, InstanceNorm1d, InstanceNorm2d, Mode,
    Momentum, NormLayer, OneValue, Tensor,
};

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
        let epilogue = Epilogue::new().with_addend(&ta).with_activation(Activation::Relu);
        norm.record(&context, &mut commands, &tx, &ty, epilogue, Mode::Eval).unwrap();
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
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 0);
    queue.submit([commands]);
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [3.0]);
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 1);
    assert!(y.to_vec_blocking().unwrap()[3] > 1.0);
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
            let epilogue = Epilogue::new().with_addend(&ta);
            norm.record(&context, &mut commands, &tx, &ty, epilogue, mode).unwrap();
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

/// A ring of the application's buffers is warm too, and its memory is let go of on request.
#[test]
fn a_ring_of_buffers_creates_nothing() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm1d::config(1).with_track_running_stats(true).init(&context).unwrap();
    let tensor = |_| Tensor::from_buffer(&context, buffer(&device, 1024), 0, [1, 1, 256]).unwrap();
    let ring: Vec<_> = (0..6).map(|i| (tensor(i), tensor(i))).collect();
    let round = || {
        for (x, y) in &ring {
            for mode in [Mode::Train, Mode::Eval] {
                let mut commands = encoder(&device);
                norm.record(&context, &mut commands, x, y, Epilogue::new(), mode).unwrap();
                queue.submit([commands.finish()]);
            }
        }
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        context.objects_created()
    };
    let warm = round();
    assert_eq!((round(), round()), (warm, warm));
    let live = || device.get_internal_counters().hal.buffers.read();
    let held = live();
    drop(ring);
    norm.trim();
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(live(), held - 12, "the layer still holds the application's buffers");
}

/// What a context keeps free is bounded, and given up on request.
#[test]
fn pools_are_bounded() {
    let Some(context) = device::gpu() else { return };
    let device = context.device().unwrap();
    let live = || {
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        device.get_internal_counters().hal.buffers.read()
    };
    drop(Tensor::zeros(&context, [64]).unwrap());
    context.trim();
    let before = live();
    drop((0..40).map(|_| Tensor::zeros(&context, [64]).unwrap()).collect::<Vec<_>>());
    assert_eq!(live(), before + 16, "a pool keeps 16 free buffers");
    context.trim();
    assert_eq!(live(), before);
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
    let addend = place(&[5.0; 4]);
    let mut commands = encoder(device);
    let plus = Epilogue::new().with_addend(&addend);
    norm.record(&context, &mut commands, &x, &middle, Epilogue::new(), Mode::Eval).unwrap();
    norm.record(&context, &mut commands, &middle, &y, plus, Mode::Eval).unwrap();
    drop((x, middle, addend));
    // Would be given the memory of those, which the unsubmitted commands read and write.
    let innocent =
        [place(&[7.0; 4]), place(&[8.0; 4]), Tensor::zeros(&context, [1, 1, 4]).unwrap()];
    context.queue().unwrap().submit([commands.finish()]);
    let got: Vec<_> = innocent.iter().map(|t| t.to_vec_blocking().unwrap()).collect();
    assert_eq!(got, [vec![7.0; 4], vec![8.0; 4], vec![0.0; 4]]);
    let want: Vec<_> = plain(&[1.0, 2.0, 3.0, 4.0], [1, 1, 4]).iter().map(|y| y + 5.0).collect();
    tolerance::assert_close(&y.to_vec_blocking().unwrap(), &want, 1e-4, "twice normalized");
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

/// A parameter that is replaced after recording is still the recorded work's own.
#[test]
fn recorded_parameters_are_not_recycled() {
    let Some(context) = device::gpu() else { return };
    let two = |data: &[f32; 2]| Tensor::from_vec([2], data.to_vec()).unwrap();
    // The bias that was set, and the one that the layer was born with.
    for (bias, want) in [(Some([5.0, 6.0]), [5.0, 5.0, 5.0, 6.0, 6.0, 6.0]), (None, [0.0; 6])] {
        let mut norm = InstanceNorm1d::config(2).with_affine(Affine::Bias).init(&context).unwrap();
        if let Some(bias) = &bias {
            norm.set_bias(&two(bias)).unwrap();
        }
        let x = Tensor::zeros(&context, [1, 2, 3]).unwrap();
        let y = Tensor::zeros(&context, [1, 2, 3]).unwrap();
        let mut commands = encoder(context.device().unwrap());
        norm.record(&context, &mut commands, &x, &y, Epilogue::new(), Mode::Eval).unwrap();
        norm.set_bias(&two(&[7.0, 8.0])).unwrap();
        // Would be given the old bias's memory.
        let _innocent = [two(&[9.0; 2]), two(&[9.0; 2])].map(|t| t.to_context(&context).unwrap());
        context.queue().unwrap().submit([commands.finish()]);
        assert_eq!(y.to_vec_blocking().unwrap(), want);
    }
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
