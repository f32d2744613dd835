//! Long runs: an application that changes its sizes for hours does not grow. `WGNORM_SOAK=100000` does as many forward
//! passes, and a fifth as many training steps.
#![cfg(feature = "gpu")]

mod common;

use common::device;
use wgnorm::{
    Activation, Affine, Backend, BatchNorm2d, Context, Extras, GroupNorm, InstanceNorm2d, Mode,
    NormLayer, Tensor,
};

/// Steps where nobody asks for more; on a GPU a sixth of them, which still shows a leak of a buffer per call.
const STEPS: usize = 5000;

fn steps() -> usize {
    std::env::var("WGNORM_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(STEPS)
}

/// The size of a window that is dragged: the same again after ten thousand steps.
fn shape(i: usize) -> [usize; 4] {
    [1 + i % 2, 3, 7 + i % 5, 50 + (i * 7919) % 997]
}

/// What an application would see grow.
#[derive(Debug)]
struct Census {
    /// Of memory that is resident, in MiB; 0 where the system does not tell.
    resident: usize,
    /// Live objects of wgpu's: buffers, bind groups, pipelines, modules, layouts, and all that is left.
    objects: [isize; 6],
}

fn census(context: &Context) -> Census {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|statm| {
        statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok())
    });
    let objects = context.device().map_or([0; 6], |device| {
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let hal = device.get_internal_counters().hal;
        [
            hal.buffers.read(),
            hal.bind_groups.read(),
            hal.compute_pipelines.read(),
            hal.shader_modules.read(),
            hal.bind_group_layouts.read(),
            hal.command_encoders.read() + hal.fences.read(),
        ]
    });
    Census { resident: (pages.unwrap_or(0) * 4096) >> 20, objects }
}

impl Census {
    /// Whether it is the one before, but for what comes and goes.
    fn is_flat(&self, before: &Census) -> bool {
        // The latest 32 calls of each layer are kept, of one to four dispatches, and up to 256 uniform buffers;
        // pipelines are met for the first time some hundred times in all.
        let slack = [256 + 64, 64, 64, 64, 64, 64];
        let mut objects = self.objects.iter().zip(&before.objects).zip(slack);
        objects.all(|((now, then), slack)| *now <= then + slack)
            && self.objects[2] < 400
            && self.resident <= before.resident + before.resident / 10 + 16
    }
}

/// Runs `step` so many times. Nothing grows after the first half.
fn soak(what: &str, context: &Context, steps: usize, mut step: impl FnMut(usize)) {
    let started = std::time::Instant::now();
    (0..steps / 2).for_each(&mut step);
    let half = census(context);
    (steps / 2..steps).for_each(&mut step);
    let end = census(context);
    eprintln!("{what}: {steps} steps in {:.0?}: {half:?}, then {end:?}", started.elapsed());
    assert!(end.is_flat(&half), "{what}: {half:?} grew to {end:?}");
}

fn forwards(context: &Context, steps: usize) {
    let norm = InstanceNorm2d::config(3).with_affine(Affine::Both).init(context).unwrap();
    let group = GroupNorm::config(1, 3).init(context).unwrap();
    let extras = Extras::new().with_activation(Activation::Relu);
    soak(&format!("{context}, forward"), context, steps, |i| {
        let shape = shape(i);
        let x = Tensor::from_vec(shape, vec![i as f32; shape.iter().product()]).unwrap();
        let mut x = x.to_context(context).unwrap();
        let y = norm.forward_with(context, &x, &extras, Mode::Eval).unwrap();
        group.forward_in_place(context, &mut x, &Extras::new(), Mode::Eval).unwrap();
        if i % 50 == 0 {
            // Constants leave nothing; and an application looks at its results now and then.
            assert!(y.to_vec_blocking().unwrap().iter().all(|v| *v == 0.0));
            assert!(x.to_vec_blocking().unwrap().iter().all(|v| *v == 0.0));
        }
    });
}

fn trains(context: &Context, steps: usize) {
    let mut norm = BatchNorm2d::config(3).init(context).unwrap();
    soak(&format!("{context}, training"), context, steps, |i| {
        let shape = shape(i);
        let values = (0..shape.iter().product()).map(|j: usize| (j * j % 17) as f32).collect();
        let x = Tensor::from_vec(shape, values).unwrap().to_context(context).unwrap();
        let (y, saved) = norm.forward_saved(context, &x, Mode::Train).unwrap();
        let grads = norm.backward(context, &saved, &y).unwrap();
        if i % 20 == 0 {
            let dweight = grads.dweight.unwrap().to_vec_blocking().unwrap();
            assert!(dweight.iter().all(|v| v.is_finite()));
            let weight = vec![1.0, 1.0 + i as f32 / steps as f32, 1.0];
            norm.set_weight(&Tensor::from_vec([3], weight).unwrap()).unwrap();
        }
    });
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), steps as u64);
}

/// One test, so that nothing else moves in the process.
#[test]
fn nothing_grows() {
    for device in device::all() {
        let context = &device.context;
        // Of a GPU in software the first steps compile, which is most of a short run.
        let few = context.backend() == Backend::Gpu && steps() == STEPS;
        let [forward, train] = if few { [STEPS / 6, STEPS / 6] } else { [steps(), steps() / 5] };
        forwards(context, forward);
        trains(context, train);
    }
}
