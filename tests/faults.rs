//! Devices that are lost, at every stage: a typed error, what the caller had is intact, and what is to go on does.
#![cfg(feature = "gpu")]

mod common;

use common::{device, random};
use pollster::block_on;
use wgnorm::{
    Affine, Backend, BatchNorm2d, BatchNormNd, Context, ContextOptions, Error, GroupNorm, Mode,
    NormLayer, OnLoss, Portable, Preference, Resilient, RunError, Tensor,
};

const SHAPE: [usize; 4] = [2, 3, 5, 7];

fn options() -> ContextOptions {
    ContextOptions { preference: Preference::Auto, allow_software: true, ..Default::default() }
}

fn batch(step: usize) -> Tensor<'static> {
    let values = random::uniform(SHAPE.iter().product(), step as u32, 2.0, 1.0);
    Tensor::from_vec(SHAPE, values).unwrap()
}

fn build(context: &Context) -> Result<BatchNorm2d, Error> {
    BatchNorm2d::config(3).with_affine(Affine::Both).init(context)
}

/// A training step; the device is destroyed at a stage of it, `None` for never.
async fn step(
    context: &Context,
    norm: &BatchNormNd<2>,
    x: &Tensor<'static>,
    stage: Option<usize>,
) -> Result<Vec<f32>, Error> {
    let destroy = |now: usize| {
        if stage == Some(now)
            && let Some(device) = context.device()
        {
            device.destroy();
        }
    };
    destroy(0);
    let x = x.to_context(context)?;
    destroy(1);
    let y = norm.forward(context, &x, Mode::Train)?;
    destroy(2);
    let reading = y.to_vec();
    destroy(3);
    let y = reading.await?;
    destroy(4);
    Ok(y)
}

fn close(got: &[f32], want: &[f32]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// Wherever in a training step the device goes, training goes on as if nothing had been, on another device and on the
/// host.
#[test]
fn gpu_training_outlives_the_device() {
    if device::gpu().is_none() {
        return;
    }
    let host = Context::host();
    let reference = build(&host).unwrap();
    let want: Vec<Vec<f32>> =
        (0..3).map(|i| block_on(step(&host, &reference, &batch(i), None)).unwrap()).collect();
    let running = reference.running_var().unwrap().to_vec_blocking().unwrap();
    for (on_loss, stage) in [OnLoss::Reopen, OnLoss::Host]
        .into_iter()
        .flat_map(|on_loss| (0..5).map(move |stage| (on_loss, stage)))
    {
        let what = format!("{on_loss:?}, destroyed at {stage}");
        let mut norm = block_on(Resilient::open(options(), on_loss, build)).unwrap();
        assert_eq!(norm.context().backend(), Backend::Gpu);
        for (i, want) in want.iter().enumerate() {
            let x = batch(i);
            let fuse = std::cell::Cell::new((i == 1).then_some(stage));
            let work = async |context: &Context, norm: &BatchNorm2d| {
                step(context, norm, &x, fuse.take()).await
            };
            let y = block_on(norm.call(work)).expect(&what);
            assert!(close(&y, want), "{what}, step {i}");
        }
        let next = if on_loss == OnLoss::Host { Backend::Host } else { Backend::Gpu };
        assert_eq!(norm.context().backend(), next, "{what}");
        assert!(matches!(norm.last_loss(), Some(RunError::DeviceLost { .. })), "{what}");
        let (got, count) = block_on(norm.call(async |_, norm| {
            Ok((norm.running_var()?.to_vec().await?, norm.num_batches_tracked().await?))
        }))
        .unwrap();
        assert!(close(&got, &running), "{what}: {got:?} {running:?}");
        assert_eq!(count, 3, "{what}");
    }
}

/// A device that is lost time and again ends on the host; where that is not allowed, in the loss.
#[test]
fn gpu_losses_in_a_row() {
    if device::gpu().is_none() {
        return;
    }
    let lose =
        async |context: &Context, norm: &BatchNorm2d| step(context, norm, &batch(0), Some(2)).await;
    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    block_on(norm.call(lose)).unwrap();
    assert_eq!(norm.context().backend(), Backend::Host);

    let options = ContextOptions { preference: Preference::Gpu, ..options() };
    let mut norm = block_on(Resilient::open(options, OnLoss::Reopen, build)).unwrap();
    let error = block_on(norm.call(lose)).unwrap_err();
    assert!(matches!(error, Error::Run(RunError::DeviceLost { .. })), "{error}");
    // The next call has another try.
    let y = block_on(norm.call(async |context, norm| step(context, norm, &batch(0), None).await));
    assert!(y.is_ok(), "{y:?}");
}

/// An error of the work itself is its answer.
#[test]
fn gpu_other_errors_are_answers() {
    if device::gpu().is_none() {
        return;
    }
    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    let misfit = block_on(norm.call(async |context, norm| {
        let x = Tensor::zeros(context, [1, 4, 2, 2])?;
        norm.forward(context, &x, Mode::Train)
    }));
    assert!(matches!(misfit, Err(Error::Shape(_))), "{misfit:?}");
    assert_eq!((norm.last_loss(), norm.context().backend()), (None, Backend::Gpu));
}

/// What a call did before it failed is not undone by a loss that comes later.
#[test]
fn gpu_values_of_failed_work_last() {
    if device::gpu().is_none() {
        return;
    }
    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    let misfit = block_on(norm.call(async |context, norm| {
        step(context, norm, &batch(0), None).await?;
        norm.forward(context, &Tensor::zeros(context, [1, 4, 2, 2])?, Mode::Train)
    }));
    assert!(matches!(misfit, Err(Error::Shape(_))), "{misfit:?}");
    norm.context().device().unwrap().destroy();
    let count = block_on(norm.call(async |_, norm| norm.num_batches_tracked().await));
    assert_eq!(count, Ok(1));
    assert!(norm.last_loss().is_some());
}

/// Memory that a device does not have is sought on the host; where that is not allowed, it is the answer.
#[test]
fn gpu_memory_is_sought_on_the_host() {
    if device::gpu().is_none() {
        return;
    }
    let short = RunError::OutOfMemory { bytes: 1 };
    let work = async |context: &Context, norm: &BatchNorm2d| match context.backend() {
        Backend::Gpu => Err(Error::Run(short.clone())),
        Backend::Host => step(context, norm, &batch(0), None).await,
    };
    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    block_on(norm.call(work)).unwrap();
    assert_eq!((norm.context().backend(), norm.last_loss()), (Backend::Host, Some(&short)));
    let options = ContextOptions { preference: Preference::Gpu, ..options() };
    let mut norm = block_on(Resilient::open(options, OnLoss::Reopen, build)).unwrap();
    assert_eq!(block_on(norm.call(work)).unwrap_err(), Error::Run(short.clone()));
}

/// What is set lasts, too; and a network is as resilient as its layers.
#[test]
fn gpu_parameters_outlive_the_device() {
    struct Net(GroupNorm, BatchNorm2d);
    impl Portable for Net {
        type State = (<GroupNorm as Portable>::State, <BatchNorm2d as Portable>::State);
        async fn save(&self) -> Result<Self::State, Error> {
            Ok((self.0.save().await?, self.1.save().await?))
        }
        fn restore(&self, state: &Self::State, context: &Context) -> Result<Self, Error> {
            Ok(Net(self.0.restore(&state.0, context)?, self.1.restore(&state.1, context)?))
        }
    }
    if device::gpu().is_none() {
        return;
    }
    let mut net = block_on(Resilient::open(options(), OnLoss::Reopen, |context| {
        let group = GroupNorm::config(1, 3).init(context)?;
        Ok(Net(group, build(context)?))
    }))
    .unwrap();
    let weight = Tensor::from_slice([3], &[2.0, -1.0, 0.5]).unwrap();
    block_on(net.update(|net| net.1.set_weight(&weight))).unwrap();
    net.context().device().unwrap().destroy();
    let bias = Tensor::from_slice([3], &[1.0, 0.0, 0.0]).unwrap();
    block_on(net.update(|net| net.1.set_bias(&bias))).unwrap();
    assert!(net.last_loss().is_some());
    let read = block_on(net.call(async |_, net| {
        let [weight, bias] = [net.1.weight(), net.1.bias()].map(Option::unwrap);
        Ok([weight.to_vec().await?, bias.to_vec().await?])
    }));
    assert_eq!(read.unwrap(), [vec![2.0, -1.0, 0.5], vec![1.0, 0.0, 0.0]]);
}
