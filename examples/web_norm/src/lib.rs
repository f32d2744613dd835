//! Instance normalization for JavaScript: a class, its types in TypeScript, and no other API than this.
//!
//! `examples/web.sh` builds it; `web/index.html` beside it is what using it takes.
#![cfg(target_arch = "wasm32")]
#![warn(missing_docs)]

use js_sys::{Array, Float32Array, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use wgnorm::{
    Backend, Context, ContextOptions, Error, Mode, NormLayer, OpenError, Preference, RunError,
    ShapeError, Tensor,
};

/// Copies, by JavaScript: what is wrong with an object is found there, where it is an exception that can be caught. One
/// that passed through this module would leave its objects borrowed for ever.
#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = Float32Array)]
    type Floats;
    #[wasm_bindgen(catch, constructor, js_class = "Float32Array")]
    fn new(x: &JsValue) -> Result<Floats, JsValue>;
    #[wasm_bindgen(catch, js_namespace = Array, js_name = from)]
    fn array_from(x: &JsValue) -> Result<Array, JsValue>;
}

/// Bytes of parameters and tables per channel, while a call runs.
const CHANNEL_BYTES: usize = 64;

/// Instance normalization (Ulyanov et al. 2016, arXiv:1607.08022) as PyTorch computes it: every channel of every
/// sample gets mean 0 and variance 1, then the channel's weight and bias (1 and 0 unless set).
#[wasm_bindgen]
pub struct InstanceNorm {
    context: Context,
    layer: wgnorm::InstanceNorm,
}

#[wasm_bindgen]
impl InstanceNorm {
    /// A layer for `numFeatures` channels. `eps`, added to the variance, is 1e-5 if left out. `backend` may ask for the
    /// browser's GPU even if it is none in hardware, which is slower, or for the processor, which works on the thread
    /// that calls (large tensors are for a worker); otherwise it is the processor where there is no GPU in hardware.
    pub async fn open(
        #[wasm_bindgen(js_name = numFeatures)] num_features: f64,
        #[wasm_bindgen(unchecked_optional_param_type = "number")] eps: Option<f64>,
        #[wasm_bindgen(unchecked_optional_param_type = "\"gpu\" | \"host\"")] backend: Option<
            String,
        >,
    ) -> Result<InstanceNorm, JsValue> {
        let channels = count(num_features).ok_or_else(|| {
            argument(&format!("numFeatures is {num_features}, expected a whole number"))
        })?;
        reserve(channels, CHANNEL_BYTES)?;
        let preference = match backend.as_deref() {
            None => Preference::Auto,
            Some("gpu") => Preference::Gpu,
            Some("host") => Preference::Host,
            Some(other) => {
                return Err(argument(&format!("backend is {other}, expected gpu or host")));
            }
        };
        let options = ContextOptions { preference, ..Default::default() };
        let context = Context::open_with(&options).await.map_err(|error| told(error.into()))?;
        let config = wgnorm::InstanceNorm::config(channels).with_scale(true);
        let layer = config.with_eps(eps.unwrap_or(1e-5)).init(&context).map_err(told)?;
        Ok(InstanceNorm { context, layer })
    }

    /// `gpu` or `host`, and why the host if that was not asked for.
    #[wasm_bindgen(getter)]
    pub fn backend(&self) -> String {
        match (self.context.backend(), self.context.fallback_reason()) {
            (Backend::Gpu, _) => "gpu".into(),
            (_, None) => "host".into(),
            (_, Some(OpenError::SoftwareOnly { .. })) => {
                "host: the browser's GPU is none in hardware".into()
            }
            (_, Some(reason @ OpenError::NoWebGpu { .. })) => format!("host: {reason}"),
            (_, Some(_)) => "host: the browser offers no GPU".into(),
        }
    }

    /// A factor for each channel.
    #[wasm_bindgen(js_name = setWeight)]
    pub fn set_weight(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] weight: JsValue,
    ) -> Result<(), JsValue> {
        self.layer.set_weight(&values(&weight)?).map_err(told)
    }

    /// A summand for each channel.
    #[wasm_bindgen(js_name = setBias)]
    pub fn set_bias(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] bias: JsValue,
    ) -> Result<(), JsValue> {
        self.layer.set_bias(&values(&bias)?).map_err(told)
    }

    /// The normalized `x` of shape (samples, channels, positions on one axis or more), the last axis side by side.
    #[wasm_bindgen(unchecked_return_type = "Promise<Float32Array>")]
    pub fn forward(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] x: JsValue,
        #[wasm_bindgen(unchecked_param_type = "readonly number[]")] shape: JsValue,
    ) -> Promise {
        // Started here and now: what becomes of this object while the result is waited for does not matter.
        let started = self.start(&x, &shape);
        future_to_promise(async move {
            let y = started?.to_vec().await.map_err(told)?;
            Ok(Float32Array::from(y.as_slice()).into())
        })
    }
}

impl InstanceNorm {
    fn start(&self, x: &JsValue, shape: &JsValue) -> Result<Tensor<'static>, JsValue> {
        let shape = array_from(shape).map_err(|_| argument("shape is no array"))?;
        let sizes: Option<Vec<usize>> = shape.iter().map(|size| count(size.as_f64()?)).collect();
        let Some(sizes) = sizes else {
            let size = |size: JsValue| size.as_f64().map_or("?".into(), |size| size.to_string());
            let sizes: Vec<String> = shape.iter().map(size).collect();
            let sizes = sizes.join(", ");
            return Err(argument(&format!("shape is [{sizes}], expected whole numbers")));
        };
        let x = floats(x, "x")?;
        let x = Tensor::from_vec(sizes, x).map_err(|error| told(error.into()))?;
        let x = x.to_context(&self.context).map_err(told)?;
        self.layer.forward(&self.context, &x, Mode::Eval).map_err(told)
    }
}

/// One value per channel.
fn values(x: &JsValue) -> Result<Tensor<'static>, JsValue> {
    let values = floats(x, "it")?;
    Tensor::from_vec([values.len()], values).map_err(|error| told(error.into()))
}

fn floats(x: &JsValue, name: &str) -> Result<Vec<f32>, JsValue> {
    // Of a copy its length is true.
    let copy = x.dyn_ref::<Float32Array>().and_then(|x| Floats::new(x).ok());
    let Some(copy) = copy.map(JsCast::unchecked_into::<Float32Array>) else {
        return Err(argument(&format!("{name} is no Float32Array with values")));
    };
    // Here, on a device's side, as its result and on the way back, where memory grows in steps.
    reserve(copy.length() as usize, 6 * size_of::<f32>())?;
    Ok(copy.to_vec())
}

/// A number of things, if it is one that a tensor can have.
fn count(number: f64) -> Option<usize> {
    ((0.0..=f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0)
        .then_some(number as usize)
}

/// Whether so much memory is there: a module without any ends.
fn reserve(count: usize, bytes_each: usize) -> Result<(), JsValue> {
    let bytes = count.saturating_mul(bytes_each);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        let limit = "more than this page's module can have";
        error("out-of-memory", &format!("{bytes} bytes are needed, {limit}"))
    })
}

/// JavaScript's error, whose `code` a page can act on.
fn error(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    // An object of our own takes it.
    let _ = js_sys::Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

fn argument(message: &str) -> JsValue {
    error("argument", message)
}

/// The crate's error in a page's words.
fn told(what: Error) -> JsValue {
    let message = what.to_string();
    match what {
        Error::Run(RunError::DeviceLost { .. }) => {
            error("device-lost", &format!("{message}: InstanceNorm.open gives another"))
        }
        Error::Run(RunError::OutOfMemory { .. }) => error("out-of-memory", &message),
        Error::Run(_) => error("device", &message),
        Error::Open(_) => error("no-gpu", &message),
        Error::Shape(ShapeError::OneValue { .. }) => {
            argument("each channel has a single value, which has no variance")
        }
        _ => argument(&message),
    }
}
