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

/// A device that is gone before anything was made on it: whatever is asked for is its loss, and nothing else happens.
#[test]
fn gpu_gone_before_anything_is_made() {
    let Some(context) = device::gpu() else { return };
    let norm = build(&context).unwrap();
    let host = batch(0);
    let x = host.to_context(&context).unwrap();
    let state = norm.state_dict_blocking().unwrap();
    context.device().unwrap().destroy();
    let lost = |what: &str, result: Result<(), Error>| {
        let error = result.expect_err(what);
        assert!(matches!(error, Error::Run(RunError::DeviceLost { .. })), "{what}: {error:?}");
    };
    lost("a layer", build(&context).map(drop));
    lost("an upload", host.to_context(&context).map(drop));
    lost("zeros", Tensor::zeros(&context, SHAPE).map(drop));
    lost("forward", norm.forward(&context, &x, Mode::Eval).map(drop));
    lost("training", norm.forward_saved(&context, &x, Mode::Train).map(drop));
    lost("statistics", norm.statistics(&context, &x, None).map(drop));
    lost("reading", x.to_vec_blocking().map(drop));
    lost("awaiting", block_on(x.to_vec()).map(drop));
    lost("a state", norm.state_dict_blocking().map(drop));
    lost("moving", norm.to_context_blocking(&Context::host()).map(drop));
    let mut other = build(&Context::host()).unwrap();
    other.load_state_dict(&state, &Default::default()).unwrap();
    let mut norm = norm;
    lost("loading", norm.load_state_dict(&state, &Default::default()).map(drop));
    // What was on the host is there, and all of it goes on on a new device.
    let context = device::gpu().unwrap();
    let again = other.to_context_blocking(&context).unwrap();
    let y = again.forward(&context, &host.to_context(&context).unwrap(), Mode::Train).unwrap();
    assert_eq!(y.to_vec_blocking().unwrap().len(), host.as_slice().unwrap().len());
}

/// The application's device: what it records and submits is its own, before and after a loss; our calls say so.
#[test]
fn gpu_of_the_application_goes_while_it_records() {
    for gone_after in 0..4 {
        let Some((device, queue)) = device::foreign(|_| ()) else { return };
        let context = Context::from_device(&device, &queue).unwrap();
        let norm = build(&context).unwrap();
        let x = batch(0).to_context(&context).unwrap();
        let y = Tensor::zeros(&context, SHAPE).unwrap();
        let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
            .map(|filter| device.push_error_scope(filter));
        let destroy = |now| {
            if gone_after == now {
                device.destroy();
            }
        };
        let mut commands = device::encoder(&device);
        let mut told = Vec::new();
        let mut record = |commands: &mut wgpu::CommandEncoder, mode| {
            let extras = wgnorm::Extras::new();
            told.push(norm.record(&context, commands, &x, &y, &extras, mode));
        };
        destroy(0);
        record(&mut commands, Mode::Train);
        destroy(1);
        record(&mut commands, Mode::Eval);
        destroy(2);
        let commands = commands.finish();
        destroy(3);
        queue.submit([commands]);
        let _ = device.poll(wgpu::PollType::wait_indefinitely());
        for scope in scopes.into_iter().rev() {
            // Whether wgpu says anything of a loss to the application is wgpu's affair.
            drop(block_on(scope.pop()));
        }
        let lost = |result: Result<(), Error>| {
            assert!(
                matches!(result, Ok(()) | Err(Error::Run(RunError::DeviceLost { .. }))),
                "{gone_after}: {result:?}"
            );
        };
        told.into_iter().for_each(lost);
        let read = y.to_vec_blocking().expect_err("nothing can be read");
        assert!(matches!(read, Error::Run(RunError::DeviceLost { .. })), "{gone_after}: {read:?}");
        assert!(norm.forward(&context, &x, Mode::Eval).is_err());
    }
}

/// A copy to the host that is under way, awaited while the application polls.
#[test]
fn gpu_of_the_application_goes_during_a_readback() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let x = batch(0).to_context(&context).unwrap();
    let reading = x.to_vec();
    let mut reading = std::pin::pin!(reading);
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(reading.as_mut().poll(&mut task).is_pending());
    device.destroy();
    let _ = device.poll(wgpu::PollType::wait_indefinitely());
    match reading.as_mut().poll(&mut task) {
        std::task::Poll::Ready(Ok(values)) => assert_eq!(values, batch(0).as_slice().unwrap()),
        std::task::Poll::Ready(Err(Error::Run(RunError::DeviceLost { .. }))) => {}
        other => panic!("{other:?}"),
    }
}

/// Memory that a device promises and does not have is an error that tells how much was wanted; all that was there
/// still is, and works. Drivers in software take the machine's memory, so this is for the one that refuses before.
#[test]
fn gpu_memory_that_is_not_there() {
    let Some(context) = device::gpu() else { return };
    let name = context.adapter_info().unwrap().name;
    if !name.contains("SwiftShader") {
        eprintln!("skipped: {name} has more memory than a test may take");
        return;
    }
    let norm = build(&context).unwrap();
    let x = batch(0).to_context(&context).unwrap();
    let run = || norm.forward(&context, &x, Mode::Eval)?.to_vec_blocking();
    let want = run().unwrap();
    let bytes = context.device().unwrap().limits().max_buffer_size;
    let error = Tensor::zeros(&context, [bytes as usize / 4]).map(drop).unwrap_err();
    assert_eq!(error, Error::Run(RunError::OutOfMemory { bytes }));
    assert_eq!(run(), Ok(want.clone()));
    let half = Tensor::zeros(&context, [bytes as usize / 8]).unwrap();
    assert_eq!(half.shape().elements(), bytes / 8);
    assert_eq!(run(), Ok(want));
    // An application's policy of going on hears of it as of any other.
    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    let zeros =
        block_on(norm.call(async |context: &Context, _: &BatchNorm2d| match context.backend() {
            Backend::Gpu => {
                Tensor::zeros(context, [bytes as usize / 4]).map(|zeros| zeros.is_on_host())
            }
            Backend::Host => Ok(true),
        }));
    assert_eq!((zeros, norm.last_loss()), (Ok(true), Some(&RunError::OutOfMemory { bytes })));
}

/// A device that is lost, or has no memory, while something is built on it.
#[test]
fn gpu_opening_outlives_the_device() {
    if device::gpu().is_none() {
        return;
    }
    let lost = std::cell::Cell::new(false);
    let norm = block_on(Resilient::open(options(), OnLoss::Reopen, |context| {
        if !lost.replace(true) {
            context.device().unwrap().destroy();
        }
        build(context)
    }))
    .unwrap();
    assert_eq!(norm.context().backend(), Backend::Gpu);
    assert!(matches!(norm.last_loss(), Some(RunError::DeviceLost { .. })));
    let short = RunError::OutOfMemory { bytes: 1 };
    let needy = |context: &Context| match context.backend() {
        Backend::Gpu => Err(Error::Run(short.clone())),
        Backend::Host => build(context),
    };
    let norm = block_on(Resilient::open(options(), OnLoss::Reopen, needy)).unwrap();
    assert_eq!((norm.context().backend(), norm.last_loss()), (Backend::Host, Some(&short)));
    let options = ContextOptions { preference: Preference::Gpu, ..options() };
    let error = block_on(Resilient::open(options, OnLoss::Reopen, needy)).map(drop).unwrap_err();
    assert_eq!(error, Error::Run(short.clone()));
}

/// What a call did before it ran out of memory with nothing to go on with, or was dropped half way, is not undone by a
/// loss that comes later.
#[test]
fn gpu_values_of_unfinished_work_last() {
    if device::gpu().is_none() {
        return;
    }
    let only = ContextOptions { preference: Preference::Gpu, ..options() };
    let mut norm = block_on(Resilient::open(only, OnLoss::Reopen, build)).unwrap();
    let short = block_on(norm.call(async |context, norm| {
        step(context, norm, &batch(0), None).await?;
        Err::<(), _>(RunError::OutOfMemory { bytes: 1 }.into())
    }));
    assert_eq!(short, Err(RunError::OutOfMemory { bytes: 1 }.into()));
    norm.context().device().unwrap().destroy();
    let count = block_on(norm.call(async |_, norm| norm.num_batches_tracked().await));
    assert_eq!(count, Ok(1));

    let mut norm = block_on(Resilient::open(options(), OnLoss::Reopen, build)).unwrap();
    {
        let call = norm.call(async |context, norm| {
            norm.forward(context, &batch(0).to_context(context)?, Mode::Train)?;
            std::future::pending::<Result<(), Error>>().await
        });
        let mut call = std::pin::pin!(call);
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut task).is_pending());
    }
    // The next call keeps what was left, then the device goes.
    let fuse = std::cell::Cell::new(true);
    let count = block_on(norm.call(async |context, norm| {
        if let (true, Some(device)) = (fuse.take(), context.device()) {
            device.destroy();
        }
        norm.num_batches_tracked().await
    }));
    assert_eq!(count, Ok(1));
    assert!(norm.last_loss().is_some());
}

/// What an application does wrong on a device of ours is not our calls' error.
#[test]
fn gpu_errors_of_others_are_theirs() {
    let Some(context) = device::gpu() else { return };
    let norm = build(&context).unwrap();
    let x = batch(0).to_context(&context).unwrap();
    drop(context.device().unwrap().create_buffer(&wgpu::BufferDescriptor {
        label: Some("impossible"),
        size: 4,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    }));
    norm.forward(&context, &x, Mode::Train).unwrap();
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 1);
}
