//! What a page's scripts see of this library: one class, whose methods return promises.
//!
//! Pixels come and go as a canvas has them. Errors are JavaScript's, with a `code` to tell them apart and a message
//! for people.

use js_sys::{Function, JsString, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen::{Clamped, JsValue};
use wgnorm::{Backend, Context, ContextOptions, OpenError, Preference, RunError};

use crate::error::{Error, GpuError, PictureError};
use crate::net::{Size, TransformerNet};
use crate::planes::Planes;
use crate::stylizer::Stylizer;

/// A back end, and the style that it paints in.
#[wasm_bindgen]
pub struct Painter {
    context: Context,
    stylizer: Option<Stylizer>,
}

#[wasm_bindgen]
impl Painter {
    /// Opens what `preference` asks for: `"auto"`, a hardware GPU or else the host; `"gpu"`, whatever the browser gives,
    /// in software if need be, or the error `no-gpu`; `"host"`.
    pub async fn open(preference: String) -> Result<Painter, JsValue> {
        // A panic aborts the module; the page learns its words instead of "unreachable".
        std::panic::set_hook(Box::new(|info| wasm_bindgen::throw_str(&info.to_string())));
        let preference = match preference.as_str() {
            "gpu" => Preference::Gpu,
            "host" => Preference::Host,
            _ => Preference::Auto,
        };
        let options = ContextOptions { preference, ..Default::default() };
        let context = Context::open_with(&options).await;
        let context = context.map_err(|e| thrown(&wgnorm::Error::from(e).into()))?;
        Ok(Painter { context, stylizer: None })
    }

    /// `"gpu"` or `"host"`.
    #[wasm_bindgen(getter)]
    pub fn backend(&self) -> String {
        match self.context.backend() {
            Backend::Gpu => "gpu",
            Backend::Host => "host",
        }
        .to_owned()
    }

    /// Why the host paints though a GPU would have been welcome: `"software-only"`, `"no-gpu"` or `"too-weak"`.
    #[wasm_bindgen(getter)]
    pub fn fallback(&self) -> Option<String> {
        let reason = self.context.fallback_reason()?;
        let code = match reason {
            OpenError::SoftwareOnly { .. } => "software-only",
            OpenError::Limits { .. } | OpenError::NoCompute { .. } => "too-weak",
            _ => "no-gpu",
        };
        Some(code.to_owned())
    }

    /// Takes a style: the bytes of a safetensors file. Compiles kernels and uploads weights on a GPU.
    #[wasm_bindgen(js_name = setStyle)]
    pub async fn set_style(&mut self, weights: Vec<u8>) -> Result<(), JsValue> {
        let made = async {
            let net = TransformerNet::from_safetensors(&weights)?;
            Stylizer::new(&self.context, &net).await
        };
        self.stylizer = Some(made.await.map_err(|e| thrown(&e))?);
        Ok(())
    }

    /// Paints a picture of `width` by `height` pixels of four bytes and returns as many. `progress(stage, done, total)`
    /// is called when a stage, or several in one go, are done.
    pub async fn stylize(
        &mut self,
        rgba: Clamped<Vec<u8>>,
        width: usize,
        height: usize,
        progress: Function,
    ) -> Result<Clamped<Vec<u8>>, JsValue> {
        let stylizer = self.stylizer.as_mut().ok_or_else(|| JsValue::from("no style was set"))?;
        let size = Size::new(height, width);
        let picture = Planes::from_rgba(&rgba, size);
        drop(rgba);
        let told = |p: crate::Progress| {
            // A listener that throws is its own affair.
            let _ = progress.call3(
                &JsValue::UNDEFINED,
                &p.stage.into(),
                &(p.done as u32).into(),
                &(p.total as u32).into(),
            );
        };
        let painting = stylizer.run(&picture, told).await.map_err(|e| thrown(&e))?;
        Ok(Clamped(painting.to_rgba(size)))
    }
}

/// A JavaScript error with a `code`, and with `longestSide` where a picture was too large for the device.
fn thrown(error: &Error) -> JsValue {
    let thrown = js_sys::Error::new(&error.to_string());
    let set = |key: &str, value: JsValue| {
        // A property can be set on any error that was just made.
        let _ = Reflect::set(&thrown, &JsString::from(key), &value);
    };
    set("code", code(error).into());
    if let Error::Gpu(GpuError::TooLarge { suggestion, .. }) = error {
        set("longestSide", (*suggestion as u32).into());
    }
    thrown.into()
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::Picture(PictureError::TooSmall { .. }) => "too-small",
        Error::Weights(_) | Error::Encoder(_) | Error::Decoder(_) | Error::NotFinite { .. } => {
            "weights"
        }
        Error::Gpu(GpuError::TooLarge { .. }) => "too-large",
        Error::Gpu(GpuError::OutOfMemory) => "out-of-memory",
        Error::Norm(error) => match &**error {
            wgnorm::Error::Open(_) => "no-gpu",
            wgnorm::Error::Run(RunError::DeviceLost { .. }) => "device-lost",
            wgnorm::Error::Run(RunError::OutOfMemory { .. }) => "out-of-memory",
            _ => "device",
        },
        _ => "device",
    }
}
