//! The output in the input's place, or elsewhere in the same buffer.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, encoder};
use common::{data, random};
use wgnorm::{
    Activation, Affine, Context, DType, Error, Extras, GroupNorm, InstanceNorm2d, Mask,
    MemoryOrder, Mode, NormLayer, OperandError, PlanError, RmsNorm, Tensor, TensorDesc,
};

/// Groups of a workgroup's share of lanes, in registers, beyond them in slices; runs of four and not.
const SHAPES: [[usize; 4]; 7] = [
    [2, 4, 1, 3],
    [3, 8, 5, 7],
    [2, 4, 16, 16],
    [1, 4, 33, 31],
    [2, 4, 64, 80],
    [1, 4, 150, 151],
    [1, 4, 256, 300],
];

fn layers(context: &Context, [_, c, h, w]: [usize; 4]) -> Vec<Box<dyn NormLayer>> {
    let affine = Affine::Weight;
    vec![
        Box::new(InstanceNorm2d::config(c).init(context).unwrap()),
        Box::new(GroupNorm::config(2, c).with_affine(affine).init(context).unwrap()),
        Box::new(RmsNorm::config([c, h, w]).init(context).unwrap()),
        Box::new(InstanceNorm2d::config(c).with_track_running_stats(true).init(context).unwrap()),
    ]
}

/// All words of a buffer.
fn words(context: &Context, buffer: &wgpu::Buffer) -> Vec<u32> {
    let len = buffer.size() as usize / 4;
    let all = Tensor::from_buffer(context, buffer.clone(), 0, [len]).unwrap();
    all.to_vec_blocking().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Wherever x and y lie in one buffer, y is what it is elsewhere, and nothing else changes but x in place.
#[test]
fn gpu_anywhere_in_one_buffer() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let dtype = [DType::F32, DType::F16, DType::BF16][i % 3];
        let order = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast][i / 3 % 2];
        let desc = TensorDesc::new(shape).unwrap().with_dtype(dtype).with_order(order);
        let values = random::uniform_f64(shape.iter().product(), i as u32, 3.0, 7.0);
        let x = data::host(shape.to_vec(), dtype, order, &values).unwrap();
        let x = x.to_context(&context).unwrap();
        let (bytes, used) = (desc.bytes(), desc.bytes().next_multiple_of(4));
        let shape_of_mask = [shape[0], shape[2], shape[3]];
        let counted: Vec<u8> =
            (0..shape_of_mask.iter().product()).map(|i: usize| u8::from(i % 3 != 1)).collect();
        let mask = Mask::from_slice(shape_of_mask, &counted).unwrap().to_context(&context).unwrap();
        let extras = [
            Extras::new(),
            Extras::new().with_activation(Activation::Silu),
            Extras::new().with_mask(&mask),
        ];
        let arena = || {
            let arena = device::buffer(&device, 1024 + 3 * used);
            let noise: Vec<u32> = (0..arena.size() as u32 / 4).map(|i| i * 977).collect();
            queue.write_buffer(&arena, 0, bytemuck::cast_slice(&noise));
            arena
        };
        for (j, layer) in layers(&context, shape).iter().enumerate() {
            let extras = &extras[if j == 2 { 0 } else { (i + j) % 3 }];
            let at = 128 + 4 * (i as u64 % 5);
            for (x_at, y_at) in
                [(0, 0), (at, at), (at, at + used), (at + used + 4, at), (0, 512 + used)]
            {
                let what = format!("{shape:?} {dtype:?} {order:?}, layer {j}, {x_at} {y_at}");
                let (one, other) = (arena(), arena());
                let view = |buffer: &wgpu::Buffer, at| {
                    Tensor::from_buffer_of(&context, buffer.clone(), at, desc.clone()).unwrap()
                };
                let mut commands = encoder(&device);
                let from = x.buffer().unwrap().0;
                commands.copy_buffer_to_buffer(from, 0, &one, x_at, bytes - bytes % 4);
                queue.submit([commands.finish()]);
                let before = words(&context, &one);
                let run = |y: &Tensor<'_>| {
                    let (mut commands, x) = (encoder(&device), view(&one, x_at));
                    layer.record(&context, &mut commands, &x, y, extras, Mode::Eval).expect(&what);
                    queue.submit([commands.finish()]);
                };
                // Apart first: in place there is no x afterwards.
                run(&view(&other, y_at));
                run(&view(&one, y_at));
                let place = y_at as usize / 4..(y_at + used) as usize / 4;
                let (want, after) = (words(&context, &other), words(&context, &one));
                assert!(after[place.clone()] == want[place.clone()], "{what}");
                let beside = |words: &[u32]| [&words[..place.start], &words[place.end..]].concat();
                assert!(beside(&before) == beside(&after), "{what}: beside");
                assert!(before[place.clone()] != after[place.clone()], "{what}: nothing written");
            }
        }
    }
}

/// Memory of our own is written over if nobody else holds it; else the clones keep it.
#[test]
fn gpu_in_place_needs_no_other_memory() {
    let Some(context) = device::gpu() else { return };
    let layer = InstanceNorm2d::config(4).init(&context).unwrap();
    let values = random::uniform(4 * 6 * 6, 1, 3.0, 7.0);
    let fresh = || Tensor::from_slice([1, 4, 6, 6], &values).unwrap().to_context(&context).unwrap();
    let want = layer.forward(&context, &fresh(), Mode::Eval).unwrap().to_vec_blocking().unwrap();
    let mut x = fresh();
    let kept = x.clone();
    layer.forward_in_place(&context, &mut x, &Extras::new(), Mode::Eval).unwrap();
    assert_eq!(x.to_vec_blocking().unwrap(), want);
    assert_eq!(kept.to_vec_blocking().unwrap(), values);
    drop((x, kept));

    let mut x = fresh();
    layer.forward_in_place(&context, &mut x, &Extras::new(), Mode::Eval).unwrap();
    let before = context.objects_created();
    let mut x = fresh();
    let free: Vec<Tensor<'_>> = (0..20).map(|_| fresh()).collect();
    let objects = context.objects_created();
    layer.forward_in_place(&context, &mut x, &Extras::new(), Mode::Eval).unwrap();
    assert!(objects > before, "the pool is empty");
    // At most what binds it: no buffer.
    assert!(context.objects_created() - objects <= 1);
    assert_eq!(x.to_vec_blocking().unwrap(), want);
    drop(free);
}

/// Without an error x is the output, with one it is what it was.
#[test]
fn in_place_on_every_backend() {
    for device in device::all() {
        let context = &device.context;
        let layer = InstanceNorm2d::config(2).init(context).unwrap();
        let x = Tensor::from_slice([1, 2, 1, 2], &[1.0, 3.0, 7.0, 5.0]).unwrap();
        let mut x = x.to_context(context).unwrap();
        let addend = Tensor::zeros(context, [1, 2, 1, 3]).unwrap();
        let misfit = Extras::new().with_addend(&addend);
        let error = layer.forward_in_place(context, &mut x, &misfit, Mode::Train).unwrap_err();
        assert!(matches!(error, Error::Shape(_)), "{error}");
        assert_eq!(x.to_vec_blocking().unwrap(), [1.0, 3.0, 7.0, 5.0]);
        layer.forward_in_place(context, &mut x, &Extras::new(), Mode::Train).unwrap();
        let y = x.to_vec_blocking().unwrap();
        for (got, want) in y.iter().zip([-1.0, 1.0, 1.0, -1.0]) {
            assert!((got - want).abs() < 1e-4, "{y:?}");
        }
    }
}

/// What cannot be is a typed error before any work.
#[test]
fn gpu_what_cannot_share() {
    let limit = |limits: &mut wgpu::Limits| limits.max_storage_buffer_binding_size = 1 << 16;
    let Some((device, queue)) = device::foreign(limit) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm2d::config(2).init(&context).unwrap();
    let buffer = device::buffer(&device, 1 << 18);
    let view = |at| Tensor::from_buffer(&context, buffer.clone(), at, [1, 2, 8, 8]).unwrap();
    let attempt = |x: &Tensor<'_>, y: &Tensor<'_>, extras: &Extras<'_>| {
        let mut commands = encoder(&device);
        norm.record(&context, &mut commands, x, y, extras, Mode::Eval)
    };
    let plain = Extras::new();
    let bytes = 512;
    for (x, y) in [(0, 4), (4, 0), (0, 508), (1024, 1020)] {
        let error = attempt(&view(x), &view(y), &plain).unwrap_err();
        assert_eq!(error, OperandError::Overlap { x, y, bytes }.into());
    }
    assert_eq!(attempt(&view(0), &view(512), &plain), Ok(()));
    // Both lie in one binding.
    let error = attempt(&view(0), &view(1 << 16), &plain).unwrap_err();
    let what = "x and y in one buffer";
    assert!(matches!(error, Error::Plan(PlanError::Limit { what: w, .. }) if w == what), "{error}");
    let addend = view(4096);
    let shared = Extras::new().with_addend(&addend);
    let error = attempt(&view(0), &view(512), &shared).unwrap_err();
    assert_eq!(error, OperandError::SharedBuffer { operand: "addend" }.into());
}

/// An observer sees what the input was.
#[test]
fn observers_see_the_input() {
    for device in device::all() {
        let context = device.context;
        let mut norm = RmsNorm::config([2]).init(&context).unwrap();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let keep = seen.clone();
        norm.set_observer(move |x: &Tensor<'_>, _: &Tensor<'_>| {
            keep.lock().unwrap().push(x.to_vec_blocking().unwrap());
        });
        let mut x = Tensor::from_slice([1, 2], &[3.0, 4.0]).unwrap().to_context(&context).unwrap();
        norm.forward_in_place(&context, &mut x, &Extras::new(), Mode::Eval).unwrap();
        assert_eq!(*seen.lock().unwrap(), [[3.0, 4.0]], "{context}");
        assert!(x.to_vec_blocking().unwrap()[1] < 2.0);
    }
}
