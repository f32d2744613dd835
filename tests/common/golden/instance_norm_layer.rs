//! The settings of a case of op `instance_norm`, as the golden set names them, and their layer.

use super::Run;
use super::index::Case;
use serde::Deserialize;
use wgnorm::{Affine, Error, InstanceNormNd, Momentum, OneValue};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub num_features: Option<usize>,
    #[serde(default = "default_eps")]
    pub eps: f64,
    #[serde(default = "default_momentum")]
    pub momentum: Option<f64>,
    #[serde(default)]
    pub affine: bool,
    /// Absent: as `affine`.
    pub bias: Option<bool>,
    #[serde(default)]
    pub track_running_stats: bool,
    spatial_dims: Option<usize>,
    /// The layer's name, where `spatial_dims` is not given.
    cls: Option<String>,
    /// Of OneFlow's fused layers; never set here.
    addend: Option<bool>,
}

fn default_eps() -> f64 {
    1e-5
}

fn default_momentum() -> Option<f64> {
    Some(0.1)
}

impl Params {
    pub fn parse(case: &Case) -> Result<Params, String> {
        let params = Params::deserialize(&case.params).map_err(|e| format!("params: {e}"))?;
        match params.addend {
            Some(true) => Err("InstanceNorm has no addend".into()),
            _ => Ok(params),
        }
    }

    /// 1, 2 or 3; where nothing says it, the calls were 2d.
    pub fn dims(&self) -> Result<usize, String> {
        match (self.spatial_dims, self.cls.as_deref()) {
            (Some(dims), _) => Ok(dims),
            (None, Some("InstanceNorm1d")) => Ok(1),
            (None, Some("InstanceNorm2d") | None) => Ok(2),
            (None, Some("InstanceNorm3d")) => Ok(3),
            (None, Some(other)) => Err(format!("unknown class {other}")),
        }
    }

    /// The layer with its default parameters.
    pub fn layer<const D: usize>(
        &self,
        run: &Run<'_>,
        num_features: usize,
    ) -> Result<InstanceNormNd<D>, Error> {
        let affine = match (self.affine, self.bias) {
            (false, _) => Affine::None,
            (true, Some(false)) => Affine::Weight,
            (true, _) => Affine::Both,
        };
        let mut config = InstanceNormNd::<D>::config(num_features)
            .with_eps(self.eps)
            .with_momentum(self.momentum.map_or(Momentum::Frozen, Momentum::Factor))
            .with_affine(affine)
            .with_track_running_stats(self.track_running_stats);
        if run.case.source.starts_with("oneflow") {
            config = config.with_one_value(OneValue::Bias);
        }
        config.init(run.context)
    }
}
