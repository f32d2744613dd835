//! The adapter that a browser offers, where it can be asked for one.

use super::{Gpu, Wish, open_first};
use crate::{ContextOptions, OpenError};
use js_sys::Reflect;
use wasm_bindgen::JsValue;

pub(crate) async fn open(options: &ContextOptions) -> Result<Gpu, OpenError> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Err(OpenError::NoBackend);
    }
    reachable().map_err(|lacks| OpenError::NoWebGpu { lacks })?;
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let instance = wgpu::Instance::new(descriptor);
    let request = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let Ok(adapter) = instance.request_adapter(&request).await else {
        return Err(OpenError::NoAdapter { reason: "WebGPU offers none here".into() });
    };
    let wish = Wish::new(options, options.adapter.clone());
    open_first(wish.choose(&[adapter])?).await
}

/// Whether wgpu can ask this global scope for WebGPU, or what the scope lacks. Where it cannot, wgpu panics, or an
/// exception passes through the module and leaves its promises open for ever.
fn reachable() -> Result<(), &'static str> {
    // What throws, and a property of nothing, is as good as absent.
    let get = |of: &JsValue, name: &str| Reflect::get(of, &name.into()).unwrap_or_default();
    let global = js_sys::global();
    let gpu = get(&get(&global, "navigator"), "gpu");
    if !get(&gpu, "requestAdapter").is_function() {
        return Err("this scope has no navigator.gpu");
    }
    // As wgpu tells scopes apart.
    let known = |name| !get(&global, name).is_undefined();
    if !known("Window") && !known("WorkerGlobalScope") {
        return Err("wgpu uses navigator.gpu in a window or a worker, and this scope is neither");
    }
    Ok(())
}
