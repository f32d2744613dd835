//! Opening the best adapter, or saying why there is none.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(target_arch = "wasm32")]
mod web;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::open;
#[cfg(target_arch = "wasm32")]
pub(crate) use web::open;

use super::{Gpu, caps_of, device::Device};
use crate::{ContextOptions, OpenError, Preference};

/// Which of the adapters found may be taken.
struct Wish {
    /// Part of the label, in any case.
    label: Option<String>,
    software: bool,
}

impl Wish {
    fn new(options: &ContextOptions, label: Option<String>) -> Wish {
        // Every label contains the empty one.
        let label = label.filter(|label| !label.is_empty());
        let software = options.allow_software || options.preference == Preference::Gpu;
        Wish { label, software }
    }

    /// The adapters to try, the best first.
    fn choose(&self, adapters: &[wgpu::Adapter]) -> Result<Vec<wgpu::Adapter>, OpenError> {
        let lower = self.label.as_ref().map(|wanted| wanted.to_ascii_lowercase());
        let suits = |info: &wgpu::AdapterInfo| match &lower {
            Some(wanted) => label(info).to_ascii_lowercase().contains(wanted),
            None => self.software || info.device_type != wgpu::DeviceType::Cpu,
        };
        let chosen = adapters.iter().filter(|adapter| suits(&adapter.get_info()));
        #[cfg_attr(target_arch = "wasm32", expect(unused_mut))]
        let mut chosen: Vec<_> = chosen.cloned().collect();
        if chosen.is_empty() {
            let mut labels = adapters.iter().map(|adapter| label(&adapter.get_info()));
            return Err(match &self.label {
                Some(wanted) => {
                    OpenError::NoSuchAdapter { wanted: wanted.clone(), found: labels.collect() }
                }
                None => OpenError::SoftwareOnly { name: labels.next().unwrap_or_default() },
            });
        }
        // A browser has one adapter, which needs no sorting, and sorting is 3 kB of a module.
        #[cfg(not(target_arch = "wasm32"))]
        chosen.sort_by_key(|adapter| rank(&adapter.get_info()));
        Ok(chosen)
    }
}

/// How an adapter is named where people choose one. Several back ends may offer the same GPU, so the back end is part
/// of it.
pub(crate) fn label(info: &wgpu::AdapterInfo) -> String {
    let backend = match info.backend {
        wgpu::Backend::Noop => "no-op",
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DX12",
        wgpu::Backend::Gl => "OpenGL",
        wgpu::Backend::BrowserWebGpu => "WebGPU",
    };
    match &*info.name {
        // Browsers keep the name to themselves.
        "" => backend.to_owned(),
        name => format!("{backend}: {name}"),
    }
}

/// Lower is better. Several back ends may offer the same GPU; OpenGL is the last resort.
#[cfg(not(target_arch = "wasm32"))]
fn rank(info: &wgpu::AdapterInfo) -> (u8, bool) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (kind, info.backend == wgpu::Backend::Gl)
}

/// Opens the first adapter that gives a device. If none does, the error is that of the best.
async fn open_first(adapters: Vec<wgpu::Adapter>) -> Result<Gpu, OpenError> {
    let mut first_refusal = None;
    for adapter in adapters {
        match open_adapter(&adapter).await {
            Ok(gpu) => return Ok(gpu),
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    Err(first_refusal.unwrap_or(OpenError::NoAdapter { reason: "none listed".into() }))
}

async fn open_adapter(adapter: &wgpu::Adapter) -> Result<Gpu, OpenError> {
    let name = label(&adapter.get_info());
    let flags = adapter.get_downlevel_capabilities().flags;
    if !flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        return Err(OpenError::NoCompute { name });
    }
    let limits = adapter.limits();
    caps_of(&limits)?;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgnorm"),
        // A device has exactly the limits asked for. The adapter's own serve large buffers: a
        // width-32 activation at 1080p is 265 MB, WebGPU's default binding 128 MiB.
        required_limits: limits,
        ..Default::default()
    };
    match adapter.request_device(&descriptor).await {
        Ok((device, queue)) => {
            let gpu = Gpu::new(Device::owned(device, queue))?;
            #[cfg(target_arch = "wasm32")]
            {
                let (reports, all) = (&gpu.device.reports, 0..gpu.device.reports.next());
                reports.known(all.end).await;
                if let Some(fault) = reports.fault([all].iter()) {
                    return Err(OpenError::NoDevice { name, reason: fault.to_string() });
                }
            }
            Ok(gpu)
        }
        Err(error) => Err(OpenError::NoDevice { name, reason: error.to_string() }),
    }
}
