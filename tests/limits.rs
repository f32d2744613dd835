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
    child(test, command).is_none()
}

/// `None` in the process that a test is about. It is started by the first one, which gets what the other wrote to stderr.
fn child(test: &str, command: impl FnOnce(&mut Command)) -> Option<String> {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return None;
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
    Some(said.into_owned())
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

/// Opens a GPU, or says why there is none.
#[cfg(feature = "gpu")]
fn gpu_named(adapter: Option<&str>) -> Result<Context, OpenError> {
    let adapter = adapter.map(Into::into);
    let options = ContextOptions { preference: Preference::Gpu, adapter, ..Default::default() };
    Context::open_with_blocking(&options)
}

/// A context has no window, so it speaks to no display server, and on a machine without one nothing complains.
#[test]
#[cfg(feature = "gpu")]
fn gpu_is_opened_without_a_display_server() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::{net::TcpListener, os::unix::net::UnixListener};
    let test = "gpu_is_opened_without_a_display_server";
    let folder = std::env::temp_dir().join(format!("wgnorm-display-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // Both kinds of server, which let go of whoever connects.
    let wayland = UnixListener::bind(folder.join("wayland-0")).unwrap();
    let x = |number: u16| Some((number, TcpListener::bind(("127.0.0.1", 6000 + number)).ok()?));
    let (number, x) = (40..400).find_map(x).expect("a free display");
    let visits = Arc::new(AtomicUsize::new(0));
    let (of_wayland, of_x) = (visits.clone(), visits.clone());
    let let_go = |visits: &AtomicUsize| visits.fetch_add(1, Ordering::SeqCst);
    std::thread::spawn(move || wayland.incoming().for_each(|_| _ = let_go(&of_wayland)));
    std::thread::spawn(move || x.incoming().for_each(|_| _ = let_go(&of_x)));

    let silent = |child: &mut Command| {
        for name in ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY", "WGNORM_ADAPTER"] {
            child.env_remove(name);
        }
    };
    let busy = |child: &mut Command| {
        child.env("XDG_RUNTIME_DIR", &folder).env("WAYLAND_DISPLAY", "wayland-0");
        child.env("DISPLAY", format!("127.0.0.1:{number}")).env_remove("WGNORM_ADAPTER");
    };
    let Some(said) = child(test, silent) else {
        let _ = std::fs::remove_dir_all(folder);
        match gpu_named(None) {
            Ok(context) => println!("{context}"),
            Err(reason) if common::device::gpu_required() => panic!("{reason}"),
            Err(reason) => eprintln!("skipped: no adapter ({reason})"),
        }
        return;
    };
    assert!(!said.contains("XDG_RUNTIME_DIR"), "{said}");
    child(test, busy);
    assert_eq!(visits.load(Ordering::SeqCst), 0, "connections to a display server");
    std::fs::remove_dir_all(folder).unwrap();
}

/// A back end that cannot be had is named, and so are those that can.
#[test]
#[cfg(feature = "gpu")]
fn back_ends_of_the_environment_are_named() {
    let test = "back_ends_of_the_environment_are_named";
    for value in ["nonsense", "dx12", ""] {
        let told = child(test, |child| _ = child.env("WGPU_BACKEND", value));
        let Some(told) = told else { break };
        for word in [&*format!("WGPU_BACKEND is {value:?}"), "vulkan, gl"] {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
    let no_driver = |child: &mut Command| {
        child.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        child.env("WGPU_BACKEND", "vulkan,nonsense");
    };
    match child(test, no_driver) {
        Some(told) => {
            let reason = "no driver offers one for vulkan; WGPU_BACKEND is \"vulkan,nonsense\"";
            assert!(told.contains(reason), "{told}");
        }
        None => {
            let context = Context::open_blocking();
            let reason = context.fallback_reason().expect("no back end can be had");
            eprintln!("{reason}");
            assert_eq!(gpu_named(None).unwrap_err(), *reason);
        }
    }
}

/// Adapters are listed with their back ends, and each as listed is the name that opens it: the same one may be there
/// for Vulkan and for OpenGL.
#[test]
#[cfg(feature = "gpu")]
fn gpu_adapters_are_opened_by_the_names_listed() {
    if !is_child("gpu_adapters_are_opened_by_the_names_listed", |child| {
        child.env_remove("WGPU_BACKEND").env_remove("WGNORM_ADAPTER");
    }) {
        return;
    }
    let found = match gpu_named(Some("no such adapter")) {
        Err(OpenError::NoSuchAdapter { wanted, found }) if wanted == "no such adapter" => found,
        Err(OpenError::NoAdapter { reason }) if !common::device::gpu_required() => {
            return eprintln!("skipped: no adapter ({reason})");
        }
        other => panic!("{other:?}"),
    };
    eprintln!("{found:?}");
    assert!(!found.is_empty());
    for name in &found {
        assert!(name.starts_with("Vulkan: ") || name.starts_with("OpenGL: "), "{name}");
        let opened = gpu_named(Some(&name.to_uppercase())).unwrap();
        assert_eq!((opened.backend(), opened.to_string()), (Backend::Gpu, name.clone()));
    }
    if found.iter().any(|name| name.starts_with("OpenGL")) {
        let opened = gpu_named(Some("opengl")).unwrap();
        assert_eq!(opened.adapter_info().unwrap().backend, wgpu::Backend::Gl);
    }
}
