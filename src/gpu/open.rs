//! Opening the best adapter, or saying why there is none.

use super::{Gpu, caps_of, device::Device};
use crate::{ContextOptions, OpenError, Preference};

/// Names an adapter (part of its name), software or not, for everything that opens a context.
const ADAPTER_VARIABLE: &str = "WGNORM_ADAPTER";

pub(crate) async fn open(options: &ContextOptions) -> Result<Gpu, OpenError> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Err(OpenError::NoBackend);
    }
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let wanted = options.adapter.clone().or_else(|| std::env::var(ADAPTER_VARIABLE).ok());
    // Every name contains the empty one.
    let wanted = wanted.filter(|name| !name.is_empty());
    let software = options.allow_software || options.preference == Preference::Gpu;
    let adapters = choose(adapters(&instance).await?, wanted.as_deref(), software)?;
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

#[cfg(not(target_arch = "wasm32"))]
async fn adapters(instance: &wgpu::Instance) -> Result<Vec<wgpu::Adapter>, OpenError> {
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if adapters.is_empty() {
        return Err(OpenError::NoAdapter { reason: "no driver offers one".into() });
    }
    Ok(adapters)
}

/// A browser answers with the one adapter it is willing to give.
#[cfg(target_arch = "wasm32")]
async fn adapters(instance: &wgpu::Instance) -> Result<Vec<wgpu::Adapter>, OpenError> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    match instance.request_adapter(&options).await {
        Ok(adapter) => Ok(vec![adapter]),
        Err(error) => Err(OpenError::NoAdapter { reason: error.to_string() }),
    }
}

/// The adapters to try, the best first.
fn choose(
    mut adapters: Vec<wgpu::Adapter>,
    wanted: Option<&str>,
    software: bool,
) -> Result<Vec<wgpu::Adapter>, OpenError> {
    if let Some(wanted) = wanted {
        let found = adapters.iter().map(|a| a.get_info().name).collect();
        let lower = wanted.to_ascii_lowercase();
        adapters.retain(|a| a.get_info().name.to_ascii_lowercase().contains(&lower));
        if adapters.is_empty() {
            return Err(OpenError::NoSuchAdapter { wanted: wanted.to_owned(), found });
        }
    } else if !software {
        let first = adapters.first().map(wgpu::Adapter::get_info);
        // Browsers keep the name to themselves.
        let name = match first {
            Some(info) if info.name.is_empty() => format!("{:?}", info.backend),
            Some(info) => info.name,
            None => String::new(),
        };
        adapters.retain(|a| a.get_info().device_type != wgpu::DeviceType::Cpu);
        if adapters.is_empty() {
            return Err(OpenError::SoftwareOnly { name });
        }
    }
    // Of a browser's one adapter there is nothing to sort, and sorting is 3 kB of a module.
    #[cfg(not(target_arch = "wasm32"))]
    adapters.sort_by_key(|a| rank(&a.get_info()));
    Ok(adapters)
}

/// Lower is better. Several back ends may list the same GPU; OpenGL is the last resort.
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

async fn open_adapter(adapter: &wgpu::Adapter) -> Result<Gpu, OpenError> {
    let name = adapter.get_info().name;
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
