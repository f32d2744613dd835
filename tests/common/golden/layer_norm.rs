//! The cases of ops `layer_norm` and `rms_norm`.

use super::Run;
use super::behaviour::{self, Refusal};
use super::instance_norm::{affine, default_eps};
use super::values::{self, Channels, Subject};
use crate::common::layer::cast;
use crate::common::oracle::Kind;
use serde::Deserialize;
use wgnorm::{Affine, LayerNorm, RmsNorm, ShapeError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    normalized_shape: Vec<usize>,
    /// RMSNorm's may be null.
    #[serde(default = "some_default_eps")]
    eps: Option<f64>,
    #[serde(default = "on")]
    elementwise_affine: bool,
    bias: Option<bool>,
    /// What null means.
    effective_eps: Option<f64>,
}

fn on() -> bool {
    true
}

fn some_default_eps() -> Option<f64> {
    Some(default_eps())
}

impl Params {
    fn parse(run: &Run<'_>) -> Result<Params, String> {
        Params::deserialize(&run.case.params).map_err(|e| format!("params: {e}"))
    }

    fn rows(&self) -> Channels {
        Channels::Rows(self.normalized_shape.iter().product())
    }
}

pub async fn layer(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::parse(run)?;
    let eps = params.eps.ok_or("LayerNorm has an eps")?;
    let fresh = async || {
        let layer = LayerNorm::config(params.normalized_shape.as_slice())
            .with_eps(eps)
            .with_affine(affine(params.elementwise_affine, params.bias))
            .init(run.context)?;
        let layer = cast!(layer, run.case.param_dtype())?;
        Ok(Subject { eps, ..Subject::new(Box::new(layer), Kind::Layer, params.rows()) })
    };
    if run.case.expect.is_none() {
        return values::run(run, fresh).await;
    }
    let layer = "LayerNorm";
    let (expected, got) = (params.normalized_shape.as_slice().into(), run.case.shape()?.into());
    let own =
        vec![("Given normalized_shape", ShapeError::Normalized { layer, expected, got }.into())];
    behaviour::run(run, &Refusal { layer, ranks: "", axis: 0, channels: 0, own }, fresh).await
}

pub async fn rms(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::parse(run)?;
    let eps = params.eps.or(params.effective_eps).ok_or("no effective eps")?;
    let affine = if params.elementwise_affine { Affine::Weight } else { Affine::None };
    values::run(run, async || {
        let layer = RmsNorm::config(params.normalized_shape.as_slice())
            .with_eps(params.eps)
            .with_affine(affine)
            .init(run.context)?;
        let layer = cast!(layer, run.case.param_dtype())?;
        Ok(Subject { eps, ..Subject::new(Box::new(layer), Kind::Rms, params.rows()) })
    })
    .await
}
