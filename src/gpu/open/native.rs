//! The adapters of a computer, by back end.

use super::{Gpu, Wish, open_first};
use crate::{ContextOptions, OpenError};
use wgpu::Backends;

/// Names an adapter (part of its label), software or not, for everything that opens a context.
const ADAPTER_VARIABLE: &str = "WGNORM_ADAPTER";
/// wgpu's own: the back ends that may be used, separated by commas.
const BACKENDS_VARIABLE: &str = "WGPU_BACKEND";

/// Asks OpenGL for adapters only if the other back ends have none that can be taken: it is the last resort, and loading
/// it takes longer than all else here.
pub(crate) async fn open(options: &ContextOptions) -> Result<Gpu, OpenError> {
    let variable = std::env::var_os(BACKENDS_VARIABLE);
    let variable = variable.as_deref().map(|value| value.to_string_lossy());
    let allowed = allowed(variable.as_deref(), wgpu::Instance::enabled_backend_features())?;
    let named = options.adapter.clone().or_else(|| std::env::var(ADAPTER_VARIABLE).ok());
    let wish = Wish::new(options, named);

    let mut adapters = ask(allowed - Backends::GL).await;
    // Software is not taken before OpenGL has been asked for hardware.
    let at_once = Wish { software: false, label: wish.label.clone() };
    if let Ok(chosen) = at_once.choose(&adapters)
        && let Ok(gpu) = open_first(chosen).await
    {
        return Ok(gpu);
    }
    adapters.extend(ask(allowed & Backends::GL).await);
    if adapters.is_empty() {
        let reason = match names(allowed)[..] {
            [] => "the no-op back end computes nothing".to_owned(),
            ref names => format!("no driver offers one for {}", names.join(" or ")),
        };
        let reason = match variable {
            Some(value) => format!("{reason}; {BACKENDS_VARIABLE} is {value:?}"),
            None => reason,
        };
        return Err(OpenError::NoAdapter { reason });
    }
    open_first(wish.choose(&adapters)?).await
}

/// The back ends that may be used: those compiled in, or those of them that the variable names.
fn allowed(variable: Option<&str>, compiled: Backends) -> Result<Backends, OpenError> {
    if compiled.is_empty() {
        return Err(OpenError::NoBackend);
    }
    let Some(value) = variable else { return Ok(compiled) };
    let allowed = Backends::from_comma_list(value) & compiled;
    if allowed.is_empty() {
        return Err(OpenError::NoSuchBackend { wanted: value.to_owned(), found: names(compiled) });
    }
    Ok(allowed)
}

/// As the variable names them. The no-op one computes nothing, so it is not for the people who read this.
fn names(backends: Backends) -> Vec<&'static str> {
    let all = wgpu::Backend::ALL.into_iter().filter(|&one| backends.contains(one.into()));
    all.filter(|&one| one != wgpu::Backend::Noop).map(wgpu::Backend::to_str).collect()
}

async fn ask(backends: Backends) -> Vec<wgpu::Adapter> {
    let mut adapters = Vec::new();
    for instance in instances(backends) {
        adapters.extend(instance.enumerate_adapters(backends).await);
    }
    adapters
}

/// What asks these back ends between them.
fn instances(backends: Backends) -> Vec<wgpu::Instance> {
    let mut instances = Vec::new();
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle_from_env()
    };
    #[cfg(all(feature = "vulkan", any(target_os = "linux", target_os = "freebsd")))]
    let descriptor = if backends.contains(Backends::VULKAN) && windowless::honours(descriptor.flags)
    {
        instances.extend(windowless::instance(&descriptor));
        wgpu::InstanceDescriptor { backends: backends - Backends::VULKAN, ..descriptor }
    } else {
        descriptor
    };
    if !descriptor.backends.is_empty() {
        instances.push(wgpu::Instance::new(descriptor));
    }
    instances
}

/// Vulkan without windows. `wgpu::Instance::new` turns Vulkan's extensions for windows on, and with them Mesa's layer that
/// selects a device connects to the X or Wayland server to learn which GPU that one uses. A server that does not answer
/// keeps it waiting for minutes, and where there is none "XDG_RUNTIME_DIR is invalid" appears on stderr.
#[cfg(all(feature = "vulkan", any(target_os = "linux", target_os = "freebsd")))]
mod windowless {
    use wgpu::InstanceFlags;
    use wgpu::hal::{self, vulkan};

    /// Whether an instance from here does what the environment asks of wgpu. `Instance::from_hal` takes wgpu's defaults
    /// for all flags but those that the hardware layer itself acts on.
    pub fn honours(flags: InstanceFlags) -> bool {
        let of_the_layer = InstanceFlags::VALIDATION
            | InstanceFlags::GPU_BASED_VALIDATION
            | InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER;
        (flags ^ InstanceFlags::default()).difference(of_the_layer).is_empty()
    }

    #[expect(unsafe_code, reason = "wgpu makes such an instance through its hardware layer alone")]
    pub fn instance(descriptor: &wgpu::InstanceDescriptor) -> Option<wgpu::Instance> {
        let descriptor = hal::InstanceDescriptor {
            name: "wgpu",
            flags: descriptor.flags,
            memory_budget_thresholds: descriptor.memory_budget_thresholds,
            backend_options: descriptor.backend_options.clone(),
            telemetry: None,
            display: None,
        };
        let no_windows: Box<vulkan::CreateInstanceCallback<'_>> = Box::new(|instance| {
            let of_windows =
                [c"VK_KHR_wayland_surface", c"VK_KHR_xcb_surface", c"VK_KHR_xlib_surface"];
            instance.extensions.retain(|name| !of_windows.contains(name));
        });
        // SAFETY: Nothing is added. What is left out is optional to wgpu-hal, although it asks callbacks in general to
        // leave nothing out: it takes each of the three only from a loader that has it, remembers which it took, and
        // looks there before it makes a window's surface, the only thing that needs them. So the instance is one
        // that wgpu-hal would make itself on a system without these extensions. VK_KHR_surface stays, which its
        // devices' VK_KHR_swapchain requires.
        let instance =
            unsafe { vulkan::Instance::init_with_callback(&descriptor, Some(no_windows)) };
        // Without Vulkan's library there is none.
        let instance = instance.ok()?;
        // SAFETY: The instance was just made and is used through wgpu alone.
        Some(unsafe { wgpu::Instance::from_hal::<hal::api::Vulkan>(instance) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_ends_of_the_variable() {
        let compiled = Backends::VULKAN | Backends::GL | Backends::NOOP;
        let allowed = |value| allowed(value, compiled);
        assert_eq!(allowed(None), Ok(compiled));
        for (value, backends) in [
            ("vulkan", Backends::VULKAN),
            ("VK, opengl", Backends::VULKAN | Backends::GL),
            ("nonsense,gles", Backends::GL),
            ("dx12,vulkan", Backends::VULKAN),
            ("noop", Backends::NOOP),
        ] {
            assert_eq!(allowed(Some(value)), Ok(backends), "{value}");
        }
        for value in ["nonsense", "", ",", "dx12", "metal,webgpu", "vulkan gl", "\u{fffd}"] {
            let error = allowed(Some(value)).unwrap_err();
            let wanted = value.to_owned();
            assert_eq!(error, OpenError::NoSuchBackend { wanted, found: vec!["vulkan", "gl"] });
            let text = error.to_string();
            assert!(text.contains(&format!("{value:?}")) && text.contains("vulkan, gl"), "{text}");
        }
        assert_eq!(super::allowed(Some("vulkan"), Backends::empty()), Err(OpenError::NoBackend));
    }
}
