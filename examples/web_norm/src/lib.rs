#![cfg(target_arch = "wasm32")]
use wasm_bindgen::prelude::*;
use wgnorm::{Affine, Context, InstanceNorm1d, Mode, NormLayer, Tensor};

#[wasm_bindgen]
pub struct InstanceNorm {
    context: Context,
    layer: InstanceNorm1d,
}

fn js(error: wgnorm::Error) -> JsError {
    JsError::new(&error.to_string())
}

#[wasm_bindgen]
impl InstanceNorm {
    pub async fn create(num_features: usize) -> Result<InstanceNorm, JsError> {
        let context = Context::open().await;
        let layer = InstanceNorm1d::config(num_features)
            .with_affine(Affine::Both)
            .init(&context)
            .map_err(js)?;
        Ok(InstanceNorm { context, layer })
    }
    pub async fn forward(
        &self,
        x: Vec<f32>,
        n: usize,
        c: usize,
        l: usize,
    ) -> Result<Vec<f32>, JsError> {
        let x = Tensor::from_vec([n, c, l], x).map_err(|e| js(e.into()))?;
        let x = x.to_context(&self.context).map_err(js)?;
        let y = self.layer.forward(&self.context, &x, Mode::Eval).map_err(js)?;
        y.to_vec().await.map_err(js)
    }
}
