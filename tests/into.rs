//! Outputs in memory that the caller keeps, and memory that comes back.

mod common;

use common::{device, random};
use wgnorm::{
    Activation, Affine, Context, Error, Extras, InstanceNorm2d, InstanceNormConfig, Mode,
    NormLayer, ShapeError, Tensor,
};

const SHAPE: [usize; 4] = [2, 3, 50, 200];

fn config() -> InstanceNormConfig<2> {
    InstanceNorm2d::config(3).with_affine(Affine::Both)
}

fn input(context: &Context, seed: u32) -> Tensor<'static> {
    let values = random::gauss4(SHAPE.iter().product(), seed, 2.0, 1.0);
    Tensor::from_vec(SHAPE, values).unwrap().to_context(context).unwrap()
}

fn read(tensor: &Tensor<'_>) -> Vec<f32> {
    tensor.to_vec_blocking().unwrap()
}

/// Where on the host or on which buffer data lie.
fn place(tensor: &Tensor<'_>) -> u64 {
    match tensor.as_slice() {
        Some(slice) => slice.as_ptr().addr() as u64,
        #[cfg(feature = "gpu")]
        None => {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            tensor.buffer().unwrap().0.hash(&mut hasher);
            hasher.finish()
        }
        #[cfg(not(feature = "gpu"))]
        None => unreachable!("f32 on the host"),
    }
}

#[test]
fn outputs_lie_where_they_should() {
    for device in device::all() {
        let context = &device.context;
        let layer = config().init(context).unwrap();
        let (x, other) = (input(context, 1), input(context, 2));
        let want = read(&layer.forward(context, &x, Mode::Eval).unwrap());
        let mut y = Tensor::zeros(context, SHAPE).unwrap();
        let before = place(&y);
        let forward = |x: &Tensor<'_>, y: &mut Tensor<'static>| {
            layer.forward_into(context, x, &Extras::new(), Mode::Eval, y)
        };
        forward(&other, &mut y).unwrap();
        forward(&x, &mut y).unwrap();
        assert_eq!(place(&y), before, "{}", device.name);
        assert!(read(&y) == want, "{}", device.name);
        // A clone keeps what it has.
        let clone = y.clone();
        forward(&other, &mut y).unwrap();
        assert!(read(&clone) == want && read(&y) != want, "{}", device.name);
        assert_ne!(place(&y), before);
        // What does not fit is refused and stays.
        let mut short = Tensor::zeros(context, [2, 3, 50, 199]).unwrap();
        let error = forward(&x, &mut short).unwrap_err();
        assert!(matches!(error, Error::Shape(ShapeError::Operand { operand: "y", .. })), "{error}");
        assert_eq!(read(&short), vec![0.0; 59_700]);
    }
}

#[test]
fn gradients_lie_where_they_should() {
    for device in device::all() {
        let context = &device.context;
        let layer = config().init(context).unwrap();
        let (x, dy) = (input(context, 1), input(context, 2));
        let addend = input(context, 3);
        let relu = Extras::new().with_addend(&addend).with_activation(Activation::Relu);
        let (_, saved) = layer.forward_saved_with(context, &x, &relu, Mode::Train).unwrap();
        let want = layer.backward(context, &saved, &dy).unwrap();
        let mut grads = layer.backward(context, &saved, &x).unwrap();
        let places =
            |grads: &wgnorm::Grads| (place(&grads.dx), place(grads.daddend.as_ref().unwrap()));
        let before = places(&grads);
        layer.backward_into(context, &saved, &dy, &mut grads).unwrap();
        assert_eq!(places(&grads), before, "{}", device.name);
        for (got, want) in [
            (Some(&grads.dx), Some(&want.dx)),
            (grads.daddend.as_ref(), want.daddend.as_ref()),
            (grads.dweight.as_ref(), want.dweight.as_ref()),
            (grads.dbias.as_ref(), want.dbias.as_ref()),
        ] {
            assert!(read(got.unwrap()) == read(want.unwrap()), "{}", device.name);
        }
        let kept = grads.dx.clone();
        layer.backward_into(context, &saved, &x, &mut grads).unwrap();
        assert!(read(&kept) == read(&want.dx) && read(&grads.dx) != read(&want.dx));
        // Memory of another shape is refused.
        let small = InstanceNorm2d::config(1).init(context).unwrap();
        let one = Tensor::zeros(context, [1, 1, 2, 2]).unwrap();
        let (_, other) = small.forward_saved(context, &one, Mode::Train).unwrap();
        let error = small.backward_into(context, &other, &one, &mut grads).unwrap_err();
        assert!(
            matches!(error, Error::Shape(ShapeError::Operand { operand: "dx", .. })),
            "{error}"
        );
        assert!(read(&kept) == read(&want.dx));
    }
}

/// A training step's gradients, of several batches in turn: nothing is made but command buffers.
#[cfg(feature = "gpu")]
#[test]
fn a_ring_of_gradients_creates_nothing() {
    let Some(context) = device::gpu() else { return };
    let layer = config().init(&context).unwrap();
    let dy = input(&context, 2);
    let mut ring: Vec<_> = (3..6)
        .map(|seed| {
            let x = input(&context, seed);
            let (_, saved) = layer.forward_saved(&context, &x, Mode::Train).unwrap();
            let grads = layer.backward(&context, &saved, &dy).unwrap();
            (saved, grads)
        })
        .collect();
    let mut round = || {
        for (saved, grads) in &mut ring {
            layer.backward_into(&context, saved, &dy, grads).unwrap();
        }
        context.objects_created()
    };
    let warm = round();
    assert_eq!((round(), round()), (warm, warm));
}

/// Memory of an output that was dropped is that of the next one of its size, until the context is trimmed.
#[test]
fn host_memory_comes_back() {
    let context = Context::host();
    let layer = config().init(&context).unwrap();
    let x = input(&context, 1);
    let run = || layer.forward(&context, &x, Mode::Eval).unwrap();
    let first = run();
    let (at, values) = (place(&first), read(&first));
    drop(first);
    let second = run();
    assert_eq!(place(&second), at);
    assert!(read(&second) == values);
    let third = run();
    assert_ne!(place(&third), at);
    drop((second, third));
    context.trim();
    // Memory outlives its context.
    let last = run();
    drop(context);
    assert!(read(&last) == values);
}

/// The application's own buffer is written whoever else holds the tensor; a layer's own statistics never.
#[cfg(feature = "gpu")]
#[test]
fn buffers_of_the_application() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let layer = config().init(&context).unwrap();
    let x = input(&context, 1);
    let want = read(&layer.forward(&context, &x, Mode::Eval).unwrap());
    let buffer = device::buffer(&device, 4 * want.len() as u64);
    let mut y = Tensor::from_buffer(&context, buffer, 0, SHAPE).unwrap();
    let view = y.clone();
    layer.forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut y).unwrap();
    assert!(read(&view) == want);
    // Not where an operand lies, but for x.
    let extras = Extras::new().with_addend(&view);
    let error = layer.forward_into(&context, &x, &extras, Mode::Eval, &mut y).unwrap_err();
    assert!(matches!(error, Error::Operand(wgnorm::OperandError::SharedBuffer { .. })), "{error}");
    let tracking = InstanceNorm2d::config(4).with_track_running_stats(true).init(&context).unwrap();
    let mut running = tracking.running_mean().unwrap();
    let norm = wgnorm::LayerNorm::config([4]).init(&context).unwrap();
    let four =
        Tensor::from_slice([4], &[1.0, 2.0, 3.0, 4.0]).unwrap().to_context(&context).unwrap();
    norm.forward_into(&context, &four, &Extras::new(), Mode::Eval, &mut running).unwrap();
    assert_eq!(read(&tracking.running_mean().unwrap()), [0.0; 4]);
    assert_ne!(read(&running), [0.0; 4]);
}
