//! The cases of op `group_norm`.

use super::Run;
use super::behaviour::{self, Refusal};
use super::instance_norm::default_eps;
use super::values::{self, Channels, Subject};
use crate::common::layer::cast;
use crate::common::oracle::Kind;
use serde::Deserialize;
use wgnorm::{Affine, ConfigError, Error, GroupNorm};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    num_groups: usize,
    num_channels: usize,
    #[serde(default = "default_eps")]
    eps: f64,
    #[serde(default = "on")]
    affine: bool,
}

fn on() -> bool {
    true
}

pub async fn run(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::deserialize(&run.case.params).map_err(|e| format!("params: {e}"))?;
    let fresh = || params.subject(run);
    if run.case.expect.is_none() {
        return values::run(run, fresh).await;
    }
    let layer = "GroupNorm";
    let (num_channels, num_groups) = (params.num_channels, params.num_groups);
    let indivisible = ConfigError::Indivisible { layer, num_channels, num_groups };
    let own = vec![("must be divisible", indivisible.into())];
    let refusal = Refusal { layer, ranks: "", axis: 1, channels: num_channels, own };
    behaviour::run(run, &refusal, fresh).await
}

impl Params {
    async fn subject(&self, run: &Run<'_>) -> Result<Subject, Error> {
        let affine = if self.affine { Affine::Both } else { Affine::None };
        let layer = GroupNorm::config(self.num_groups, self.num_channels)
            .with_eps(self.eps)
            .with_affine(affine)
            .init(run.context)?;
        let layer = cast!(layer, run.case.param_dtype())?;
        Ok(Subject {
            eps: self.eps,
            ..Subject::new(Box::new(layer), Kind::Group(self.num_groups), Channels::Axis(1))
        })
    }
}
