//! The back ends under test: the host always, a GPU where an adapter is found.
//!
//! `WGPU_BACKEND` and the Vulkan loader's variables choose the driver, as for any wgpu program.
//! With `WGNORM_REQUIRE_GPU=1` a missing adapter fails instead of being skipped.

use std::{io::Write, sync::Once};
use wgnorm::Context;
#[cfg(feature = "gpu")]
use wgnorm::{ContextOptions, Preference};

pub struct Device {
    /// First part of test names.
    pub name: &'static str,
    pub context: Context,
}

/// Opens a GPU, software adapters included. Where there is none, says so on stderr, or panics if one
/// is required.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<Context> {
    log_to_stderr();
    let options = ContextOptions { preference: Preference::Gpu, ..Default::default() };
    match Context::open_with_blocking(&options) {
        Ok(context) => Some(context),
        Err(reason) if gpu_required() => panic!("WGNORM_REQUIRE_GPU is set, but: {reason}"),
        Err(reason) => {
            eprintln!("skipped: no adapter ({reason})");
            None
        }
    }
}

#[cfg(not(feature = "gpu"))]
pub fn gpu() -> Option<Context> {
    assert!(!gpu_required(), "WGNORM_REQUIRE_GPU is set, but the feature gpu is off");
    eprintln!("skipped: the feature gpu is off");
    None
}

pub fn gpu_required() -> bool {
    std::env::var("WGNORM_REQUIRE_GPU").is_ok_and(|v| v == "1")
}

/// The host and every adapter found (of the back ends in `WGPU_BACKEND`, if that is set): `gpu` is the one that a context opens by itself, `gpu2`, … the
/// others, as an application's devices.
pub fn all() -> Vec<Device> {
    let mut devices = vec![Device { name: "host", context: Context::host() }];
    if let Some(context) = gpu() {
        #[cfg(feature = "gpu")]
        let others = others(&context);
        devices.push(Device { name: "gpu", context });
        #[cfg(feature = "gpu")]
        devices.extend(others);
    }
    devices
}

#[cfg(feature = "gpu")]
fn others(first: &Context) -> Vec<Device> {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all());
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let identity = |info: wgpu::AdapterInfo| (info.backend, info.name);
    let mut seen = vec![identity(first.adapter_info().expect("it is on a GPU"))];
    let mut names = ["gpu2", "gpu3", "gpu4", "gpu5"].into_iter();
    let mut others = Vec::new();
    for adapter in adapters {
        let identity = identity(adapter.get_info());
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        if seen.contains(&identity) || opened.is_err() {
            continue;
        }
        let (device, queue) = opened.expect("checked above");
        // An adapter without compute shaders is no device of ours.
        if let (Ok(context), Some(name)) = (Context::from_device(&device, &queue), names.next()) {
            others.push(Device { name, context });
            seen.push(identity);
        }
    }
    others
}

/// The adapter that wgpu takes, apart from any context.
pub fn adapter() -> Option<wgpu::Adapter> {
    log_to_stderr();
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    match pollster::block_on(instance.request_adapter(&Default::default())) {
        Ok(adapter) => Some(adapter),
        Err(reason) if gpu_required() => panic!("WGNORM_REQUIRE_GPU is set, but: {reason}"),
        Err(reason) => {
            eprintln!("skipped: no adapter ({reason})");
            None
        }
    }
}

/// A device of "the application's". `edit` may lower its limits.
pub fn foreign(edit: impl FnOnce(&mut wgpu::Limits)) -> Option<(wgpu::Device, wgpu::Queue)> {
    let adapter = adapter()?;
    let mut required_limits = adapter.limits();
    edit(&mut required_limits);
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    Some(pollster::block_on(adapter.request_device(&descriptor)).expect("a device"))
}

#[cfg(feature = "gpu")]
pub fn buffer(device: &wgpu::Device, bytes: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

#[cfg(feature = "gpu")]
pub fn encoder(device: &wgpu::Device) -> wgpu::CommandEncoder {
    device.create_command_encoder(&Default::default())
}

/// Puts wgpu's warnings and errors on stderr, the Vulkan validation layer's findings (`VUID-…`)
/// among them: wgpu hands those to the log alone. Past the test harness's capture, which would
/// swallow what passing tests say. Only where somebody listens (`WGPU_VALIDATION=1`): wgpu's debug
/// builds otherwise ask any layer that is installed, old ones that know no WGSL included.
pub fn log_to_stderr() {
    if std::env::var("WGPU_VALIDATION").is_err() {
        return;
    }
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let line = format!("{} {}: {}\n", record.level(), record.target(), record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        fn flush(&self) {}
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_max_level(log::LevelFilter::Warn);
        log::set_logger(&Stderr).expect("the tests' only logger");
    });
}
