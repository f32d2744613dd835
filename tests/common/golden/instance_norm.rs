//! The cases of ops `instance_norm`, `lucid_instance_norm` and `mxnet_instance_norm`.

use super::Run;
use super::behaviour::{self, Refusal};
use super::index::{Case, Golden};
use super::values::{self, Channels, Subject};
use crate::common::layer::cast;
use crate::common::oracle::Kind;
use serde::Deserialize;
use wgnorm::{
    Affine, Context, DType, Error, Estimator, InstanceNormAxisConfig, InstanceNormConfig, Lazy,
    Mode, Momentum, StateError, Tensor,
};

/// The repository's own vectors for which [`overflows_on_gpu`] holds.
pub const OVERFLOW_ON_GPU: [&str; 4] =
    ["in2d_huge_1.5e+19", "in2d_huge_1e+20", "in2d_huge_1e+30", "in2d_huge_1e+38"];

/// Whether the input is finite and its distances from the mean have squares above the f32 maximum, which the GPU
/// documents not to normalize.
pub fn overflows_on_gpu(golden: &Golden, case: &Case) -> bool {
    if case.tier == "core" {
        return false;
    }
    let (Ok(Some(x)), Ok(shape)) = (golden.input(case, "x"), case.shape()) else { return false };
    let plane = shape.iter().skip(2).product::<usize>().max(1);
    let spread = |plane: &[f64]| {
        let most = plane.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most - plane.iter().copied().fold(f64::INFINITY, f64::min)
    };
    let finite = x.values.iter().all(|v| v.is_finite());
    finite && x.values.chunks(plane).any(|plane| spread(plane).powi(2) > f64::from(f32::MAX))
}

/// The settings of PyTorch, OneFlow and Lucid.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    num_features: Option<usize>,
    #[serde(default = "default_eps")]
    eps: f64,
    #[serde(default = "default_momentum")]
    momentum: Option<f64>,
    affine: Option<bool>,
    /// Absent: as `affine`.
    bias: Option<bool>,
    track_running_stats: Option<bool>,
    spatial_dims: Option<usize>,
    /// The layer's name, where `spatial_dims` is not given.
    cls: Option<String>,
    /// Of OneFlow's fused layers; never set here.
    #[serde(default)]
    addend: bool,
    running_var_estimator: Option<String>,
}

pub fn default_eps() -> f64 {
    1e-5
}

pub fn default_momentum() -> Option<f64> {
    Some(0.1)
}

/// PyTorch's `affine` and `bias`.
pub fn affine(affine: bool, bias: Option<bool>) -> Affine {
    match (affine, bias) {
        (false, _) => Affine::None,
        (true, Some(false)) => Affine::Weight,
        (true, _) => Affine::Both,
    }
}

/// 1, 2 or 3 of a class like `InstanceNorm2d`; where nothing says it, the calls were 2d.
pub fn dims(spatial_dims: Option<usize>, class: Option<&str>) -> Result<usize, String> {
    match (spatial_dims, class.map(|class| class.as_bytes())) {
        (Some(dims), _) => Ok(dims),
        (None, None) => Ok(2),
        (None, Some([.., digit @ b'1'..=b'3', b'd'])) => Ok(usize::from(digit - b'0')),
        (None, Some(_)) => Err(format!("unknown class {class:?}")),
    }
}

pub async fn torch(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::parse(run.case)?;
    by_dims(run, &params, dims(params.spatial_dims, params.cls.as_deref())?).await
}

/// 1d, 2d or 3d by the input.
pub async fn lucid(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::parse(run.case)?;
    if params.running_var_estimator.as_deref().is_some_and(|name| name != "biased") {
        return Err(format!("estimator {:?}", params.running_var_estimator));
    }
    let dims = if run.case.expect.is_some() { 2 } else { run.case.shape()?.len() - 2 };
    by_dims(run, &params, dims).await
}

async fn by_dims(run: &Run<'_>, params: &Params, dims: usize) -> Result<f64, String> {
    match dims {
        1 => in_dims::<1>(run, params).await,
        2 => in_dims::<2>(run, params).await,
        3 => in_dims::<3>(run, params).await,
        _ => Err(format!("{dims} spatial axes")),
    }
}

async fn in_dims<const D: usize>(run: &Run<'_>, params: &Params) -> Result<f64, String> {
    let fresh = || params.subject::<D>(run);
    if run.case.expect.is_none() {
        return values::run(run, fresh).await;
    }
    let layer = ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"][D - 1];
    let refusal = Refusal {
        layer,
        ranks: [
            "2 (C, L) or 3 (N, C, L)",
            "3 (C, H, W) or 4 (N, C, H, W)",
            "4 (C, D, H, W) or 5 (N, C, D, H, W)",
        ][D - 1],
        axis: channel_axis::<D>(run.case),
        channels: params.features::<D>(run.case),
        own: Vec::new(),
    };
    behaviour::run(run, &refusal, fresh).await
}

/// Before the spatial axes.
fn channel_axis<const D: usize>(case: &Case) -> usize {
    case.shape.as_ref().map_or(0, |shape| shape.len().saturating_sub(D + 1))
}

impl Params {
    fn parse(case: &Case) -> Result<Params, String> {
        let params = Params::deserialize(&case.params).map_err(|e| format!("params: {e}"))?;
        if params.addend { Err("InstanceNorm has no addend".into()) } else { Ok(params) }
    }

    /// Some cases leave it open: then it is right.
    fn features<const D: usize>(&self, case: &Case) -> usize {
        let shape = case.shape.as_deref().unwrap_or_default();
        let found = shape.get(channel_axis::<D>(case)).copied();
        self.num_features.or(found).unwrap_or(1)
    }

    /// The layer with its default parameters.
    async fn subject<const D: usize>(&self, run: &Run<'_>) -> Result<Subject, Error> {
        let features = self.features::<D>(run.case);
        let source = |name| run.case.source.starts_with(name);
        let lucid = source("lucid");
        let mut config = match () {
            () if lucid => InstanceNormConfig::<D>::lucid(features),
            () if source("oneflow") => InstanceNormConfig::oneflow(features),
            () => InstanceNormConfig::torch(features),
        };
        config.momentum = match self.momentum {
            Some(factor) => Momentum::Factor(factor),
            None if lucid => config.momentum,
            // PyTorch's InstanceNorm without a momentum stands still.
            None => Momentum::Frozen,
        };
        config = config
            .with_eps(self.eps)
            .with_affine(affine(self.affine.unwrap_or(lucid), self.bias))
            .with_track_running_stats(self.track_running_stats.unwrap_or(lucid));
        let momentum = match self.momentum {
            None if lucid => Momentum::Factor(0.1),
            _ => config.momentum,
        };
        let layer = cast!(config.init(run.context)?, run.case.param_dtype())?;
        Ok(Subject {
            eps: self.eps,
            momentum,
            estimator: if lucid { Estimator::Biased } else { Estimator::Unbiased },
            ..Subject::new(
                Box::new(layer),
                Kind::Instance,
                Channels::Axis(channel_axis::<D>(run.case)),
            )
        })
    }
}

/// MXNet's settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mxnet {
    #[serde(default = "first_axis")]
    axis: i64,
    #[serde(default = "default_eps")]
    epsilon: f64,
    #[serde(default = "default_center")]
    center: bool,
    #[serde(default)]
    scale: bool,
    /// 0: that of the first input.
    #[serde(default)]
    in_channels: usize,
    inferred_channels: Option<usize>,
}

fn first_axis() -> i64 {
    1
}

fn default_center() -> bool {
    true
}

/// Over any axis.
pub async fn mxnet(run: &Run<'_>) -> Result<f64, String> {
    let params = Mxnet::deserialize(&run.case.params).map_err(|e| format!("params: {e}"))?;
    let shape = run.case.shape()?;
    let message = run.case.expect.as_ref().and_then(|expect| expect.message.as_deref());
    if message.is_some_and(|message| message.contains("has not been initialized")) {
        return uninitialized(run.context, shape);
    }
    let axis = params.axis.rem_euclid(shape.len() as i64) as usize;
    let found = shape.get(axis).copied().unwrap_or(1);
    let features = if params.in_channels > 0 { params.in_channels } else { found };
    if params.inferred_channels.is_some_and(|inferred| inferred != features) {
        return Err(format!("MXNet inferred {:?} channels", params.inferred_channels));
    }
    let fresh = || params.subject(run, features, axis);
    if run.case.expect.is_none() {
        return values::run(run, fresh).await;
    }
    let refusal = Refusal {
        layer: "InstanceNorm",
        ranks: "3 (N, C, L) or more",
        axis,
        channels: features,
        own: Vec::new(),
    };
    behaviour::run(run, &refusal, fresh).await
}

/// Without channels there are no parameters to ask for, until the first input tells them.
fn uninitialized(context: &Context, shape: &[usize]) -> Result<f64, String> {
    let told = |error: Error| error.to_string();
    let lazy = Lazy::new(InstanceNormAxisConfig::mxnet(0), context).map_err(told)?;
    let refused = StateError::Uninitialized { layer: "InstanceNorm" };
    behaviour::same_refusal(lazy.layer().map(|_| ()).map_err(Error::from), &refused.into())?;
    let values = vec![0.5f32; shape.iter().product()];
    let x = Tensor::from_vec(shape, values).map_err(|e| e.to_string())?;
    let x = x.to_context(context).map_err(told)?;
    lazy.forward(context, &x, Mode::Train).map_err(told)?;
    let weight = lazy.layer().map_err(|e| e.to_string())?.weight().map(|weight| weight.shape());
    match weight {
        Some(found) if **found == shape[1..2] => Ok(0.0),
        other => Err(format!("the weight is {other:?}")),
    }
}

impl Mxnet {
    async fn subject(&self, run: &Run<'_>, features: usize, axis: usize) -> Result<Subject, Error> {
        // As `net.cast("float64")`; float32 parameters stay what they are with 16-bit input.
        let double = run.case.dtype_name() == "float64";
        let dtype = if double { DType::F64 } else { run.case.param_dtype() };
        let layer = InstanceNormAxisConfig::mxnet(features)
            .with_axis(self.axis)
            .with_eps(self.epsilon)
            .with_center(self.center)
            .with_scale(self.scale)
            .init(run.context)?;
        let layer = cast!(layer, dtype)?;
        Ok(Subject {
            eps: self.epsilon,
            trained: [self.scale, self.center],
            ..Subject::new(Box::new(layer), Kind::Instance, Channels::Axis(axis))
        })
    }
}
