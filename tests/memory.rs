//! What is created, kept, reused and let go of.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, buffer, encoder};
use common::{oracle, random, tolerance};
use wgnorm::plan::{Keep, Offsets, Plan};
use wgnorm::{Affine, Context, Extras, InstanceNorm1d, InstanceNorm2d, Mode, NormLayer, Tensor};

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
        norm.record(&context, &mut commands, &a, &recorded, &Extras::new(), Mode::Train).unwrap();
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

/// What a plan says its first call makes is what is made where the pipelines are there already, and
/// later calls make nothing.
#[test]
fn a_plan_tells_what_it_creates() {
    let Some(context) = device::gpu() else { return };
    let norm = InstanceNorm2d::config(8).init(&context).unwrap();
    // In registers, and in slices: of both a shape that compiles, then one of other lengths.
    for [first, then] in [[40, 44], [200, 204]] {
        let created = |side: usize| {
            let x = Tensor::zeros(&context, [1, 8, side, side]).unwrap();
            let mut y = Tensor::zeros(&context, [1, 8, side, side]).unwrap();
            let mut call = || {
                let before = context.objects_created();
                norm.forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut y).unwrap();
                context.objects_created() - before
            };
            let calls = [call(), call()];
            let problem = norm.problem(x.desc(), Mode::Eval).unwrap();
            let (caps, offsets) = (context.caps().unwrap(), Offsets::default());
            let plan = Plan::forward(&problem, &caps, &offsets, Keep::Nothing).unwrap();
            (calls, u64::from(plan.traffic().objects))
        };
        created(first);
        let (calls, objects) = created(then);
        assert_eq!(calls, [objects, 0]);
    }
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
                norm.record(&context, &mut commands, x, y, &Extras::new(), mode).unwrap();
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
    let plus = Extras::new().with_addend(&addend);
    norm.record(&context, &mut commands, &x, &middle, &Extras::new(), Mode::Eval).unwrap();
    norm.record(&context, &mut commands, &middle, &y, &plus, Mode::Eval).unwrap();
    drop((x, middle, addend));
    // Would be given the memory of those, which the unsubmitted commands read and write.
    let innocent =
        [place(&[7.0; 4]), place(&[8.0; 4]), Tensor::zeros(&context, [1, 1, 4]).unwrap()];
    context.queue().unwrap().submit([commands.finish()]);
    let got: Vec<_> = innocent.iter().map(|t| t.to_vec_blocking().unwrap()).collect();
    assert_eq!(got, [vec![7.0; 4], vec![8.0; 4], vec![0.0; 4]]);
    let want: Vec<_> =
        oracle::plain(&[1.0, 2.0, 3.0, 4.0], [1, 1, 4]).iter().map(|y| y + 5.0).collect();
    tolerance::assert_close(&y.to_vec_blocking().unwrap(), &want, 1e-4, "twice normalized");
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
        norm.record(&context, &mut commands, &x, &y, &Extras::new(), Mode::Eval).unwrap();
        norm.set_bias(&two(&[7.0, 8.0])).unwrap();
        // Would be given the old bias's memory.
        let _innocent = [two(&[9.0; 2]), two(&[9.0; 2])].map(|t| t.to_context(&context).unwrap());
        context.queue().unwrap().submit([commands.finish()]);
        assert_eq!(y.to_vec_blocking().unwrap(), want);
    }
}
