//! What goes wrong is a typed error that names the thing, before any work; everything works afterwards.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, buffer, encoder};
use wgnorm::{
    AdaIn, Affine, Backend, ConditionalInstanceNorm, Context, ContextOptions, Error, Extras,
    InstanceNorm1d, Mask, MemoryOrder, Mode, Momentum, NormLayer, OpenError, OperandError,
    PlanError, Preference, RunError, ShapeError, StateError, Statistics, Tensor,
};

/// Every misuse is a typed error before any work, and the layer works afterwards.
#[test]
fn misuse_is_a_typed_error() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm1d::config(2).init(&context).unwrap();
    let place = |shape: [usize; 3]| Tensor::zeros(&context, shape).unwrap();
    let (x, y) = (place([1, 2, 8]), place([1, 2, 8]));
    let attempt = |context: &Context, x: &Tensor<'_>, y: &Tensor<'_>, epilogue: &Extras<'_>| {
        let mut commands = encoder(&device);
        norm.record(context, &mut commands, x, y, epilogue, Mode::Eval).unwrap_err()
    };
    let plain = Extras::new();

    let error = attempt(&context, &x, &place([1, 2, 9]), &plain);
    assert!(matches!(error, Error::Shape(ShapeError::Operand { operand: "y", .. })), "{error}");
    let wrong = place([2, 2, 8]);
    let error = attempt(&context, &x, &y, &Extras::new().with_addend(&wrong));
    assert!(matches!(error, Error::Shape(ShapeError::Operand { operand: "addend", .. })));

    let on_host = Tensor::from_vec([1, 2, 8], vec![0.0; 16]).unwrap();
    let error = attempt(&context, &on_host, &y, &plain);
    let elsewhere = OperandError::Elsewhere { operand: "x", expected: Backend::Gpu };
    assert_eq!(error, elsewhere.clone().into());
    let error = attempt(&Context::host(), &x, &y, &plain);
    assert_eq!(error, OperandError::HostContext.into());
    assert_eq!(
        norm.forward(&Context::host(), &on_host, Mode::Eval).unwrap_err(),
        OperandError::OtherContext { layer: "InstanceNorm1d" }.into()
    );

    let shared = buffer(&device, 512);
    let view = |at| Tensor::from_buffer(&context, shared.clone(), at, [1, 2, 8]).unwrap();
    let error = attempt(&context, &view(0), &view(4), &plain);
    assert_eq!(error, OperandError::Overlap { x: 0, y: 4, bytes: 64 }.into());
    let error = attempt(&context, &view(256), &view(196), &plain);
    assert_eq!(error, OperandError::Overlap { x: 256, y: 196, bytes: 64 }.into());
    let (a, b) = (view(0), view(256));
    let error = attempt(&context, &x, &a, &Extras::new().with_addend(&b));
    assert_eq!(error, OperandError::SharedBuffer { operand: "addend" }.into());

    // A layer's own statistics as its output.
    let tracking = InstanceNorm1d::config(1).with_track_running_stats(true).init(&context).unwrap();
    let stats = tracking.running_var().unwrap().buffer().unwrap().0.clone();
    let stats = Tensor::from_buffer(&context, stats, 4, [1, 1, 1]).unwrap();
    let (mut commands, one) = (encoder(&device), place([1, 1, 1]));
    let error = tracking.record(&context, &mut commands, &one, &stats, &plain, Mode::Eval);
    let error = error.unwrap_err();
    assert_eq!(error, OperandError::SharedBuffer { operand: "running statistics" }.into());

    let refuse = |offset, shape: [usize; 3]| {
        Tensor::from_buffer(&context, shared.clone(), offset, shape).unwrap_err()
    };
    assert_eq!(
        refuse(2, [1, 2, 8]),
        OperandError::Misaligned { operand: "tensor", offset: 2, alignment: 4 }.into()
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
    assert_eq!(attempt(&context, &foreign, &y, &plain), elsewhere.into());
    assert_eq!(
        foreign.to_context(&context).unwrap_err(),
        OperandError::Elsewhere { operand: "tensor", expected: Backend::Gpu }.into()
    );

    assert!(norm.forward(&context, &x, Mode::Eval).is_ok());
}

/// Shapes, orders and limits are refused with the numbers and the way out.
#[test]
fn misfit_inputs_are_typed_errors() {
    for device in device::all() {
        let context = device.context;
        let norm = InstanceNorm1d::config(2).init(&context).unwrap();
        let x = Tensor::zeros(&context, [1, 2, 8]).unwrap();
        let last = x.clone().with_order(MemoryOrder::ChannelsLast);
        let epilogue = Extras::new().with_addend(&last);
        let error = norm.forward_with(&context, &x, &epilogue, Mode::Eval).unwrap_err();
        assert!(matches!(error, Error::Shape(ShapeError::Order { operand: "addend", .. })));
        let three = Tensor::zeros(&context, [1, 3, 8]).unwrap();
        assert_eq!(
            norm.forward(&context, &three, Mode::Eval).unwrap_err().to_string(),
            "InstanceNorm1d: axis 1 must have 2 channels (num_features), got 3"
        );
    }
}

/// What no binding can show, be it no tensor of x's size, is refused when planning; the context and the
/// layer work afterwards.
#[test]
fn operands_over_the_binding_limit() {
    let limit = |limits: &mut wgpu::Limits| limits.max_storage_buffer_binding_size = 8192;
    let Some((device, queue)) = device::foreign(limit) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let refused = |what: &str, result: Result<(), Error>| {
        let error = result.unwrap_err();
        let planned = matches!(&error, Error::Plan(PlanError::Limit { what: w, .. }) if *w == what);
        assert!(planned, "{what}: {error}");
    };
    let affine = InstanceNorm1d::config(4000).with_affine(Affine::Bias).init(&context).unwrap();
    let x = Tensor::zeros(&context, [1, 4000, 2]).unwrap();
    refused("bias", affine.forward(&context, &x, Mode::Eval).map(drop));
    let tracking = InstanceNorm1d::config(4000).with_track_running_stats(true);
    refused("running statistics", tracking.init(&context).map(drop));

    let norm = InstanceNorm1d::config(600).init(&context).unwrap();
    let x = Tensor::zeros(&context, [1, 600, 2]).unwrap();
    norm.forward(&context, &x, Mode::Eval).unwrap();
    let all = "the statistics of all groups";
    refused(all, norm.forward_saved(&context, &x, Mode::Eval).map(drop));
    refused(all, norm.statistics(&context, &x, None).map(drop));
    let entries = || Tensor::zeros(&context, [600, 4]).unwrap();
    let given = Statistics::from_tensor(entries()).unwrap();
    let extras = Extras::new().with_statistics(&given);
    refused(all, norm.forward_with(&context, &x, &extras, Mode::Eval).map(drop));
    refused("a table", given.merge(&context, &given).map(drop));
    let style = AdaIn::config().init(&context).unwrap();
    refused(all, style.forward_style(&context, &x, &x).map(drop));

    let long = InstanceNorm1d::config(1).init(&context).unwrap();
    let x = Tensor::zeros(&context, [1, 1, 9000]).unwrap();
    let mask = Mask::from_slice([1, 9000], &[1; 9000]).unwrap().to_context(&context).unwrap();
    let masked = Extras::new().with_mask(&mask);
    refused("the mask", long.forward_with(&context, &x, &masked, Mode::Eval).map(drop));
    long.forward(&context, &x, Mode::Eval).unwrap();
    let bank = ConditionalInstanceNorm::config(30, 100).init(&context).unwrap();
    let x = Tensor::zeros(&context, [1, 100, 2]).unwrap();
    refused("a table", bank.forward_styles(&context, &x, &[7]).map(drop));
}

/// A buffer of the application's that was never valid is its own trouble, not the loss of the device.
#[test]
fn an_invalid_buffer_does_not_end_the_context() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    // MAP_READ with STORAGE is refused; the handle stays, invalid.
    let invalid = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("wgnorm-app"),
        size: 1024,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    assert!(pollster::block_on(scope.pop()).is_some());
    let (x, y) = (Tensor::zeros(&context, [1, 1, 64]), Tensor::zeros(&context, [1, 1, 64]));
    let (x, y) = (x.unwrap(), y.unwrap());
    let bad = Tensor::from_buffer(&context, invalid, 0, [1, 1, 64]).unwrap();
    let mut commands = encoder(&device);
    let record = |commands: &mut wgpu::CommandEncoder, x: &Tensor<'_>| {
        norm.record(&context, commands, x, &y, &Extras::new(), Mode::Eval)
    };
    let error = record(&mut commands, &bad).unwrap_err();
    assert!(matches!(error, Error::Run(RunError::Rejected { .. })), "{error:?}");
    record(&mut commands, &x).unwrap();
    queue.submit([commands.finish()]);
}

/// Buffers that the application has mapped, destroyed, or made on another device, of which wgpu gives no way to ask: a
/// call that submits tells of it, recorded work tells the application where it finishes or submits; nothing else is
/// touched.
#[test]
fn buffers_that_are_not_to_be_had() {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    for what in ["destroyed", "mapped", "of another device"] {
        // wgpu knows the devices of one instance apart.
        let Some(adapter) = device::adapter() else { return };
        let open = || pollster::block_on(adapter.request_device(&Default::default())).unwrap();
        let ((device, queue), (other, _)) = (open(), open());
        let context = Context::from_device(&device, &queue).unwrap();
        let norm = InstanceNorm1d::config(1).with_track_running_stats(true).init(&context).unwrap();
        let good = Tensor::from_slice([1, 1, 4], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let good = good.to_context(&context).unwrap();
        let maker = if what == "of another device" { &other } else { &device };
        let buffer = maker.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the application's"),
            size: 16,
            usage,
            mapped_at_creation: what == "mapped",
        });
        if what == "destroyed" {
            buffer.destroy();
        }
        let bad = Tensor::from_buffer(&context, buffer, 0, [1, 1, 4]).unwrap();
        let refused = |call: &str, result: Result<(), Error>| {
            let error = result.expect_err(&format!("{what}, {call}"));
            assert!(
                matches!(error, Error::Run(RunError::Rejected { .. })),
                "{what}, {call}: {error:?}"
            );
        };
        refused("forward", norm.forward(&context, &bad, Mode::Eval).map(drop));
        refused("training", norm.forward_saved(&context, &bad, Mode::Train).map(drop));
        let mut into = bad.clone();
        let plain = Extras::new();
        refused("into", norm.forward_into(&context, &good, &plain, Mode::Eval, &mut into));
        refused("in place", norm.forward_in_place(&context, &mut into, &plain, Mode::Eval));
        refused("a copy", bad.to_vec_blocking().map(drop));
        refused("statistics", norm.statistics(&context, &bad, None).map(drop));
        // Recorded, it is the application's.
        let y = Tensor::zeros(&context, [1, 1, 4]).unwrap();
        let mut commands = encoder(&device);
        let recorded = norm.record(&context, &mut commands, &bad, &y, &plain, Mode::Train);
        if let Err(error) = recorded {
            refused("recording", Err(error));
        } else {
            let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
            queue.submit([commands.finish()]);
            assert!(pollster::block_on(scope.pop()).is_some(), "{what}: nobody was told");
        }
        // Nothing was counted, and all else works.
        assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [0.0], "{what}");
        norm.forward(&context, &good, Mode::Train).unwrap();
        let mean = norm.running_mean().unwrap().to_vec_blocking().unwrap();
        assert!((mean[0] - 0.25).abs() < 1e-6, "{what}: {mean:?}");
    }
}

/// What a buffer's usage does not allow is told before anything is done with it.
#[test]
fn usages_are_checked() {
    let Some((device, queue)) = device::foreign(|_| ()) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let buffer = |usage| {
        let descriptor =
            wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
        Tensor::from_buffer(&context, device.create_buffer(&descriptor), 0, [1, 1, 4])
    };
    let missing = |missing| Error::from(OperandError::Usage { operand: "tensor", missing });
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_SRC;
    assert_eq!(buffer(uniform).unwrap_err(), missing("STORAGE"));
    let written = buffer(wgpu::BufferUsages::STORAGE).unwrap();
    assert_eq!(written.to_vec_blocking().unwrap_err(), missing("COPY_SRC"));
    assert_eq!(pollster::block_on(written.to_vec()).unwrap_err(), missing("COPY_SRC"));
    // It serves where nothing is copied.
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    assert!(norm.forward(&context, &written, Mode::Eval).is_ok());
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
        for momentum in [f64::NAN, f64::INFINITY, 1e39] {
            let config = InstanceNorm1d::config(3).with_momentum(Momentum::Factor(momentum));
            assert!(config.init(&context).is_err());
        }
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
    // An empty name is none.
    let unnamed = ContextOptions { adapter: Some(String::new()), ..Default::default() };
    assert_eq!(Context::open_with_blocking(&unnamed).unwrap().backend(), Backend::Host);
    let allowed = ContextOptions { allow_software: true, ..Default::default() };
    assert_eq!(Context::open_with_blocking(&allowed).unwrap().backend(), Backend::Gpu);
}

/// Limits below what the kernels need are named, with both numbers.
#[test]
fn small_limits_are_named() {
    type Edit = fn(&mut wgpu::Limits);
    let cases: [(&str, u64, u64, Edit); 4] = [
        ("max_storage_buffers_per_shader_stage", 8, 4, |l| {
            l.max_storage_buffers_per_shader_stage = 4;
        }),
        ("max_bindings_per_bind_group", 16, 8, |l| l.max_bindings_per_bind_group = 8),
        ("max_uniform_buffer_binding_size", 176, 128, |l| l.max_uniform_buffer_binding_size = 128),
        ("max_storage_buffer_binding_size", 4096, 1024, |l| {
            l.max_storage_buffer_binding_size = 1024;
        }),
    ];
    for (limit_name, needed, got, edit) in cases {
        let Some((device, queue)) = device::foreign(edit) else { return };
        let error = Context::from_device(&device, &queue).unwrap_err();
        assert_eq!(error, OpenError::Limits { limit_name, needed, got });
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
    // A call that needs nothing made any more.
    let mut into = Tensor::zeros(&context, [1, 1, 4]).unwrap();
    let mut call = || norm.forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut into);
    assert_eq!(call(), Ok(()));
    context.device().unwrap().destroy();
    let lost = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Run(RunError::DeviceLost { .. })), "{error:?}");
    };
    // wgpu tells once the queue has drained, to whoever polls then.
    let drained = (0..200).map(|_| std::thread::sleep(std::time::Duration::from_millis(10)));
    lost(drained.map(|()| call()).find(Result::is_err).unwrap_or(Ok(())));
    lost(y.to_vec_blocking().map(drop));
    lost(pollster::block_on(y.to_vec()).map(drop));
    lost(norm.forward(&context, &x, Mode::Eval).map(drop));
    lost(host.to_context(&context).map(drop));
    assert_eq!(host.as_slice().unwrap(), [1.0, 2.0, 3.0, 4.0]);
}
