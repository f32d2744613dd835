//! Instance normalization for JavaScript: a class, its types in TypeScript, and no other API than this.
//!
//! `examples/web.sh` builds it; `web/index.html` beside it is what using it takes.
#![cfg(target_arch = "wasm32")]
#![warn(missing_docs)]

use js_sys::{Array, Float32Array, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use wgnorm::{Context, ContextOptions, Mode, NormLayer, Preference, Tensor};

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
    ) -> Result<InstanceNorm, JsError> {
        let channels = count(num_features).ok_or_else(|| {
            JsError::new(&format!("numFeatures is {num_features}, expected a whole number"))
        })?;
        reserve(channels, CHANNEL_BYTES)?;
        let preference = match backend.as_deref() {
            None => Preference::Auto,
            Some("gpu") => Preference::Gpu,
            Some("host") => Preference::Host,
            Some(other) => {
                return Err(JsError::new(&format!("backend is {other}, expected gpu or host")));
            }
        };
        let options = ContextOptions { preference, ..Default::default() };
        let context = Context::open_with(&options).await.map_err(wgnorm::Error::from)?;
        let config = wgnorm::InstanceNorm::config(channels).with_scale(true);
        let layer = config.with_eps(eps.unwrap_or(1e-5)).init(&context)?;
        Ok(InstanceNorm { context, layer })
    }

    /// Where it works, and why there if that is not the GPU.
    #[wasm_bindgen(getter)]
    pub fn backend(&self) -> String {
        self.context.to_string()
    }

    /// A factor for each channel.
    #[wasm_bindgen(js_name = setWeight)]
    pub fn set_weight(&mut self, weight: &[f32]) -> Result<(), JsError> {
        let weight = Tensor::from_slice([weight.len()], weight)?;
        Ok(self.layer.set_weight(&weight)?)
    }

    /// A summand for each channel.
    #[wasm_bindgen(js_name = setBias)]
    pub fn set_bias(&mut self, bias: &[f32]) -> Result<(), JsError> {
        let bias = Tensor::from_slice([bias.len()], bias)?;
        Ok(self.layer.set_bias(&bias)?)
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
            let y = started?.to_vec().await.map_err(JsError::from)?;
            Ok(Float32Array::from(y.as_slice()).into())
        })
    }
}

impl InstanceNorm {
    fn start(&self, x: &JsValue, shape: &JsValue) -> Result<Tensor<'static>, JsError> {
        let Some(x) = x.dyn_ref::<Float32Array>() else {
            return Err(JsError::new("x is no Float32Array"));
        };
        let sizes = shape.dyn_ref::<Array>().map(|shape| shape.iter());
        let sizes = sizes.and_then(|sizes| sizes.map(|size| count(size.as_f64()?)).collect());
        let Some(sizes): Option<Vec<usize>> = sizes else {
            let expected = "expected an array of whole numbers";
            return Err(JsError::new(&format!("shape is {shape:?}, {expected}")));
        };
        // x, y, and y as it goes back.
        reserve(x.length() as usize, 3 * size_of::<f32>())?;
        let x = Tensor::from_vec(sizes, x.to_vec())?.to_context(&self.context)?;
        Ok(self.layer.forward(&self.context, &x, Mode::Eval)?)
    }
}

/// A number of things, if it is one that a tensor can have.
fn count(number: f64) -> Option<usize> {
    ((0.0..=f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0)
        .then_some(number as usize)
}

/// Whether so much memory is there: a module without any ends.
fn reserve(count: usize, bytes_each: usize) -> Result<(), JsError> {
    let bytes = count.saturating_mul(bytes_each);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        JsError::new(&format!("{bytes} bytes are needed, more than this page's module can have"))
    })
}
