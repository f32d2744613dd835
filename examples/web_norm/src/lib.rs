//! Instance normalization for JavaScript: a class, its types in TypeScript, and no other API than this.
//!
//! `examples/web.sh` builds it; `web/index.html` beside it is what using it takes.
#![cfg(target_arch = "wasm32")]
#![warn(missing_docs)]

use wasm_bindgen::prelude::*;
use wgnorm::{Context, ContextOptions, Mode, NormLayer, Preference, Tensor};

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
    /// browser's GPU even if it is none in hardware, which is slower, or for the processor; otherwise it is the
    /// processor where there is no GPU in hardware.
    pub async fn open(
        #[wasm_bindgen(js_name = numFeatures)] num_features: usize,
        #[wasm_bindgen(unchecked_optional_param_type = "number")] eps: Option<f64>,
        #[wasm_bindgen(unchecked_optional_param_type = "\"gpu\" | \"host\"")] backend: Option<
            String,
        >,
    ) -> Result<InstanceNorm, JsError> {
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
        let config = wgnorm::InstanceNorm::config(num_features).with_scale(true);
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
        Ok(self.layer.set_weight(&Tensor::from_slice([weight.len()], weight)?)?)
    }

    /// A summand for each channel.
    #[wasm_bindgen(js_name = setBias)]
    pub fn set_bias(&mut self, bias: &[f32]) -> Result<(), JsError> {
        Ok(self.layer.set_bias(&Tensor::from_slice([bias.len()], bias)?)?)
    }

    /// The normalized `x` of shape (samples, channels, positions on one axis or more), the last axis side by side.
    pub async fn forward(
        &self,
        x: Vec<f32>,
        #[wasm_bindgen(unchecked_param_type = "ArrayLike<number>")] shape: Vec<usize>,
    ) -> Result<Vec<f32>, JsError> {
        let x = Tensor::from_vec(shape, x)?.to_context(&self.context)?;
        Ok(self.layer.forward(&self.context, &x, Mode::Eval)?.to_vec().await?)
    }
}
