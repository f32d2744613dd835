//! What the process or the machine does not have. Each in a process of its own, which this test starts again as.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;
use wgnorm::{
    Backend, Context, ContextOptions, Error, GroupNorm, InstanceNorm1d, LayerNorm, Mode, NormLayer,
    OpenError, Preference, RunError, Tensor,
};

/// Set where a test is to do what it is about.
const CHILD: &str = "WGNORM_CHILD";

/// Whether this is the process that a test is about; else it is started, and must do well.
fn is_child(test: &str, command: impl FnOnce(&mut Command)) -> bool {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    // `sh` for its limits; what follows is `$0`, `$1`, …
    let mut child = Command::new("sh");
    child.args(["-c", "ulimit -v ${LIMIT:-unlimited}; exec \"$0\" --exact \"$1\" --nocapture"]);
    child.arg(program).arg(test).env(CHILD, test);
    command(&mut child);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} ended with {}:\n{said}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{said}");
    eprintln!("{said}");
    false
}

fn is_out_of_memory<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Run(RunError::OutOfMemory { .. })))
}

/// Host memory that runs out is an error: what there was is still there, and the layer works once some is free.
#[test]
fn host_memory_runs_out() {
    let limit = |child: &mut Command| {
        child.env("LIMIT", "1500000");
    };
    if !is_child("host_memory_runs_out", limit) {
        return;
    }
    const LEN: usize = 25 << 20; // 100 MiB
    let context = Context::host();
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let x = Tensor::from_vec([1, 1, LEN], vec![1.5; LEN]).unwrap();
    let (y, saved) = norm.forward_saved(&context, &x, Mode::Eval).unwrap();
    let mut target = Tensor::from_vec([1, 1, LEN], vec![7.0; LEN]).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match norm.forward(&context, &x, Mode::Eval) {
            Ok(y) => held.push(y),
            Err(error) => break error,
        }
        assert!(held.len() < 15, "1.5 GB are not that many");
    };
    eprintln!("after {} outputs of 100 MiB: {error}", held.len());
    assert_eq!(error, Error::Run(RunError::OutOfMemory { bytes: 4 * LEN as u64 }));
    assert!(is_out_of_memory(norm.backward(&context, &saved, &y)));
    assert!(is_out_of_memory(Tensor::zeros(&context, [LEN])));
    assert!(is_out_of_memory(Tensor::zeros(&context, [u32::MAX as usize])));
    // Many groups of few elements: their statistics are larger than they are.
    let many = LayerNorm::config([1]).init(&context).unwrap();
    let few = Tensor::from_slice([LEN, 1], x.as_slice().unwrap()).unwrap();
    assert!(is_out_of_memory(many.statistics(&context, &few, None)));
    // A parameter for each of billions of channels.
    assert!(is_out_of_memory(GroupNorm::config(1, u32::MAX as usize).init(&context)));
    // A tensor that is shared cannot be written into: the other one keeps its values, and so does it.
    let shared = target.clone();
    let extras = wgnorm::Extras::new();
    let into = norm.forward_into(&context, &x, &extras, Mode::Eval, &mut target);
    assert!(is_out_of_memory(into));
    let all = |tensor: &Tensor<'_>, value| {
        let values = tensor.as_slice().unwrap();
        values.len() == LEN && values.iter().all(|v| *v == value)
    };
    assert!(all(&target, 7.0) && all(&shared, 7.0) && all(&x, 1.5));
    // Nor are gradients lost that were lent, where another one has no room.
    let relu = wgnorm::Extras::new().with_addend(&x).with_activation(wgnorm::Activation::Relu);
    drop(held.pop());
    let (_, epilogue) = norm.forward_saved_with(&context, &x, &relu, Mode::Eval).unwrap();
    let small = Tensor::from_slice([1, 1, 2], &[1.0, 2.0]).unwrap();
    let (_, of_small) = norm.forward_saved(&context, &small, Mode::Eval).unwrap();
    let mut grads = norm.backward(&context, &of_small, &small).unwrap();
    drop(shared);
    grads.dx = target;
    context.trim();
    held.extend(std::iter::from_fn(|| norm.forward(&context, &x, Mode::Eval).ok()));
    assert!(is_out_of_memory(norm.backward_into(&context, &epilogue, &x, &mut grads)));
    assert!(all(&grads.dx, 7.0));
    // What is copied or converted.
    assert!(is_out_of_memory(x.to_vec_blocking()));
    assert!(is_out_of_memory(x.cast(wgnorm::DType::F16)));
    let borrowed = Tensor::from_slice([LEN], x.as_slice().unwrap()).unwrap();
    assert!(is_out_of_memory(borrowed.to_context(&context)));
    assert!(is_out_of_memory(wgnorm::Mask::from_lengths([1, u32::MAX as usize], 1, &[1])));
    let bank = wgnorm::ConditionalInstanceNorm::config(4_000_000, 1).init(&context).unwrap();
    assert!(bank.pick(&vec![0; 1_000_000]).is_err());
    assert!(is_out_of_memory(bank.pick(&[0; 100])));
    let mut target = grads.dx;
    // Alone it needs no memory; and with some let go of all is as before.
    norm.forward_into(&context, &x, &extras, Mode::Eval, &mut target).unwrap();
    assert!(all(&target, 0.0));
    held.truncate(held.len() - 2);
    let grads = norm.backward(&context, &saved, &y).unwrap();
    assert!(all(&grads.dx, 0.0));
}

/// An adapter without compute shaders is named: as an error where a GPU is wanted, else as the reason for the host.
#[test]
fn gpu_without_compute_shaders() {
    let mesa = |child: &mut Command| {
        child.env("MESA_EXTENSION_OVERRIDE", "-GL_ARB_compute_shader").env("WGPU_BACKEND", "gl");
        // No other driver is found.
        child.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    };
    if !cfg!(feature = "gpu") || !is_child("gpu_without_compute_shaders", mesa) {
        return;
    }
    let open = |preference| {
        let options = ContextOptions { preference, allow_software: true, ..Default::default() };
        Context::open_with_blocking(&options)
    };
    match open(Preference::Gpu) {
        Err(OpenError::NoCompute { name }) => eprintln!("{name} has none"),
        Err(OpenError::NoAdapter { reason }) if !common::device::gpu_required() => {
            return eprintln!("skipped: no adapter ({reason})");
        }
        other => panic!("{other:?}"),
    }
    let context = open(Preference::Auto).unwrap();
    assert_eq!(context.backend(), Backend::Host);
    assert!(matches!(context.fallback_reason(), Some(OpenError::NoCompute { .. })), "{context}");
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let x = Tensor::from_slice([1, 1, 2], &[1.0, 3.0]).unwrap();
    assert!(norm.forward(&context, &x, Mode::Eval).is_ok());
}
