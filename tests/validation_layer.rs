//! The Vulkan validation layer is on, and heard, when `WGPU_VALIDATION=1` on a Vulkan driver: it is
//! shown a fault that wgpu lets through. CI greps the other tests' output for what it says there.
#![cfg(feature = "gpu")]

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
};

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        SAID.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }
    fn flush(&self) {}
}

#[test]
fn the_layer_is_heard() {
    if std::env::var("WGPU_VALIDATION").is_ok_and(|v| v == "1") {
        log::set_max_level(log::LevelFilter::Warn);
        log::set_logger(&Ear).unwrap();
        too_wide_a_workgroup();
        let said = SAID.lock().unwrap();
        // Without wgpu's debug flag the layer writes to stdout by itself; CI looks for it there.
        let by_itself = std::env::var("WGPU_DEBUG").is_ok_and(|v| v == "0");
        assert!(
            by_itself || said.iter().any(|line| line.contains("VUID-")),
            "the layer said {said:?}"
        );
    }
}

/// wgpu does not check a workgroup's size once overrides have set it (its issue 8946).
fn too_wide_a_workgroup() {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, _queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    let source = "
        override WG: u32 = 1u;
        @group(0) @binding(0) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(WG) fn main() { y[0] = 1u; }";
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(source)),
    });
    let _wide = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("WG", 4096.0)],
            ..Default::default()
        },
        cache: None,
    });
}
