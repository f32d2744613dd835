//! The cases of ops `batch_norm` and `fused_batch_norm_relu`.

use super::Run;
use super::behaviour::{self, Refusal};
use super::index::Case;
use super::instance_norm::{affine, default_eps, default_momentum, dims};
use super::values::{self, Channels, Subject};
use crate::common::layer::{Layer, cast};
use crate::common::oracle::Kind;
use serde::Deserialize;
use wgnorm::{Activation, BatchNormConfig, Error, FusedBatchNormConfig, Momentum};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    num_features: Option<usize>,
    #[serde(default = "default_eps")]
    eps: f64,
    #[serde(default = "default_momentum")]
    momentum: Option<f64>,
    #[serde(default = "on")]
    affine: bool,
    bias: Option<bool>,
    #[serde(default = "on")]
    track_running_stats: bool,
    spatial_dims: Option<usize>,
    cls: Option<String>,
    /// Whether there is one among the inputs.
    #[serde(default)]
    addend: bool,
}

fn on() -> bool {
    true
}

pub async fn plain(run: &Run<'_>) -> Result<f64, String> {
    by_dims(run, false).await
}

pub async fn fused(run: &Run<'_>) -> Result<f64, String> {
    by_dims(run, true).await
}

async fn by_dims(run: &Run<'_>, fused: bool) -> Result<f64, String> {
    let params = Params::deserialize(&run.case.params).map_err(|e| format!("params: {e}"))?;
    let has_addend = run.case.inputs.keys().any(|name| name.starts_with("addend"));
    if params.addend != has_addend {
        return Err("the parameters and the inputs disagree on an addend".into());
    }
    match dims(params.spatial_dims, params.cls.as_deref())? {
        1 => in_dims::<1>(run, &params, fused).await,
        2 => in_dims::<2>(run, &params, fused).await,
        3 => in_dims::<3>(run, &params, fused).await,
        dims => Err(format!("{dims} spatial axes")),
    }
}

async fn in_dims<const D: usize>(
    run: &Run<'_>,
    params: &Params,
    fused: bool,
) -> Result<f64, String> {
    let fresh = || params.subject::<D>(run, fused);
    if run.case.expect.is_none() {
        return values::run(run, fresh).await;
    }
    let names = match fused {
        false => ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"],
        true => ["FusedBatchNorm1d", "FusedBatchNorm2d", "FusedBatchNorm3d"],
    };
    let ranks = ["2 (N, C) or 3 (N, C, L)", "4 (N, C, H, W)", "5 (N, C, D, H, W)"];
    let channels = params.features(run.case);
    behaviour::run(
        run,
        &Refusal { layer: names[D - 1], ranks: ranks[D - 1], axis: 1, channels, own: Vec::new() },
        fresh,
    )
    .await
}

impl Params {
    /// Some cases leave it open: then it is right.
    fn features(&self, case: &Case) -> usize {
        let shape = case.shape.as_deref().unwrap_or_default();
        self.num_features.or(shape.get(1).copied()).unwrap_or(1)
    }

    async fn subject<const D: usize>(&self, run: &Run<'_>, fused: bool) -> Result<Subject, Error> {
        let features = self.features(run.case);
        let momentum = self.momentum.map_or(Momentum::Cumulative, Momentum::Factor);
        let affine = affine(self.affine, self.bias);
        let oneflow = run.case.source.starts_with("oneflow");
        // The settings are the same; the types are not.
        macro_rules! layer {
            ($config:ident) => {{
                let config = match oneflow {
                    true => $config::<D>::oneflow(features),
                    false => $config::<D>::new(features),
                };
                let config = config
                    .with_eps(self.eps)
                    .with_momentum(momentum)
                    .with_affine(affine)
                    .with_track_running_stats(self.track_running_stats);
                cast!(config.init(run.context)?, run.case.param_dtype())?
            }};
        }
        let (layer, activation): (Box<dyn Layer>, _) = match fused {
            false => (Box::new(layer!(BatchNormConfig)), Activation::None),
            true => (Box::new(layer!(FusedBatchNormConfig)), Activation::Relu),
        };
        Ok(Subject {
            eps: self.eps,
            momentum,
            activation,
            ..Subject::new(layer, Kind::Batch, Channels::Axis(1))
        })
    }
}
