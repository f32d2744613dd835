//! Instance normalization over any channel axis, as MXNet has it.

use super::params::Blueprint;
use super::repr::{Bool, Float};
use super::rows::Map;
use super::sealed::Sealed;
use super::settings::{check_eps, check_features, settings};
use super::{Affine, Init, NormLayer, OneValue, Parameters, layer};
use crate::desc::{MemoryOrder, TensorDesc};
use crate::problem::{Mode, Problem};
use crate::{ConfigError, Context, DType, Error, ShapeError};
use std::fmt;

/// Settings of an [`InstanceNorm`]. Defaults follow MXNet.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct InstanceNormAxisConfig {
    /// Channels of the input.
    pub num_features: usize,
    /// See [`with_axis`](Self::with_axis).
    pub axis: i64,
    /// See [`with_eps`](Self::with_eps).
    pub eps: f64,
    /// See [`with_center`](Self::with_center).
    pub center: bool,
    /// See [`with_scale`](Self::with_scale).
    pub scale: bool,
    /// See [`with_weight_init`](Self::with_weight_init).
    pub weight_init: Init,
    /// See [`with_bias_init`](Self::with_bias_init).
    pub bias_init: Init,
    /// See [`with_one_value`](Self::with_one_value).
    pub one_value: OneValue,
    /// See [`with_dtype`](Self::with_dtype).
    #[cfg_attr(feature = "serde", serde(default))]
    pub dtype: DType,
}

impl InstanceNormAxisConfig {
    /// Axis 1, eps 1e-5, the bias trained, the weight frozen.
    pub fn new(num_features: usize) -> Self {
        InstanceNormAxisConfig {
            num_features,
            axis: 1,
            eps: 1e-5,
            center: true,
            scale: false,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            one_value: OneValue::Error,
            dtype: DType::F32,
        }
    }

    /// As MXNet's layer: [`new`](Self::new), and one value per statistic gives the bias.
    pub fn mxnet(num_features: usize) -> Self {
        Self::new(num_features).with_one_value(OneValue::Bias)
    }

    /// Which axis holds the channels; negative ones count from the end. Not the batch's axis, 0.
    pub fn with_axis(mut self, axis: i64) -> Self {
        self.axis = axis;
        self
    }

    /// Whether the bias gets a gradient. It is there and added either way, as MXNet's checkpoints
    /// have it (its documentation says otherwise).
    pub fn with_center(mut self, center: bool) -> Self {
        self.center = center;
        self
    }

    /// Whether the weight gets a gradient. It is there and applied either way.
    pub fn with_scale(mut self, scale: bool) -> Self {
        self.scale = scale;
        self
    }

    settings!(eps, init, one_value, dtype);

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let layer = InstanceNorm::NAME;
        check_features(layer, self.num_features)?;
        if self.axis == 0 {
            return Err(ConfigError::BatchAxis { layer });
        }
        check_eps(layer, self.eps)
    }

    /// The channel axis of an input.
    pub(super) fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError> {
        let (layer, rank) = (InstanceNorm::NAME, x.shape.len());
        if rank < 3 {
            let expected = "3 (N, C, L) or more";
            return Err(ShapeError::Rank { layer, expected, got: x.shape.clone() });
        }
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        match usize::try_from(axis) {
            Ok(axis) if (1..rank).contains(&axis) => Ok(axis),
            _ => Err(ShapeError::Axis { layer, axis: self.axis, got: x.shape.clone() }),
        }
    }

    pub(super) fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InstanceNormAxisConfig { num_features, axis, eps, center, scale, .. } = *self;
        let (eps, center, scale) = (Float(eps), Bool(center), Bool(scale));
        write!(f, "InstanceNorm(eps={eps}, axis={axis}, center={center}, scale={scale}, ")?;
        write!(f, "in_channels={num_features})")
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for zero channels, axis 0, an `eps` that is negative or not finite, an
    /// initializer that is not finite; [`RunError`](crate::RunError) if the device fails.
    pub fn init(self, context: &Context) -> Result<InstanceNorm, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: [self.num_features].into(),
            affine: Affine::Both,
            frozen: Affine::of(!self.scale, !self.center),
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            ..Blueprint::new(InstanceNorm::NAME)
        };
        Ok(InstanceNorm { parameters: Parameters::new(context, blueprint)?, config: self })
    }
}

/// Instance normalization of inputs of any rank whose channels are on any axis but the first: each
/// channel of each sample is normalized to zero mean and unit variance over all other axes.
///
/// `y = (x − μ) / √(σ² + eps) · weight[c] + bias[c]`, with μ and the *population* variance σ² over
/// the other axes of one sample. Both modes are the same; with running statistics see
/// [`InstanceNormNd`](super::InstanceNormNd).
///
/// # Shapes
/// - `x`, `y`: `(N, …)` of three or more axes, C the size of the channel axis. An input declared
///   channels last has axis 1 last in memory, whichever axis holds the channels.
/// - `weight`, `bias`: `(C,)`, always there, and frozen as the settings say
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd).
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::Axis`] for an input without that axis,
/// [`ShapeError::Channels`], [`ShapeError::OneValue`] for one position per channel unless
/// [`OneValue::Bias`] is set, [`ShapeError::NoMask`] for a mask on a channels-last input whose channels
/// are not on axis 1. Of the settings: see [`init`](InstanceNormAxisConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{Context, InstanceNorm, Mode, NormLayer, Tensor};
///
/// let context = Context::host();
/// let norm = InstanceNorm::config(2).with_axis(-1).init(&context)?;
/// let x = Tensor::from_slice([1, 2, 2], &[1.0, 10.0, 3.0, 30.0])?;
/// let y = norm.forward(&context, &x, Mode::Eval)?.to_vec_blocking()?;
/// assert!(y.iter().zip([-1.0, -1.0, 1.0, 1.0]).all(|(y, want)| (y - want).abs() < 1e-4));
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// arXiv:1607.08022; settings and defaults follow `mxnet.gluon.nn.InstanceNorm`, eps inside the root
/// as it computes.
pub struct InstanceNorm {
    config: InstanceNormAxisConfig,
    parameters: Parameters,
}

impl InstanceNorm {
    pub(super) const NAME: &'static str = "InstanceNorm";

    /// Settings for `num_features` channels, to be refined and built.
    pub fn config(num_features: usize) -> InstanceNormAxisConfig {
        InstanceNormAxisConfig::new(num_features)
    }
}

layer!(InstanceNorm, InstanceNormAxisConfig);

impl Sealed for InstanceNorm {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        (self.config.one_value == OneValue::Error).then(|| problem.view.group_len())
    }
}

impl NormLayer for InstanceNorm {
    fn problem(&self, x: &TensorDesc, _: Mode) -> Result<Problem, ShapeError> {
        let axis = self.config.channel_axis(x)?;
        let map = Map::new(Self::NAME, x, axis, self.config.num_features)?;
        let (weight, bias) = (true, true);
        Ok(Problem { weight, bias, ..Problem::new(map.instance(), x.dtype, self.config.eps) })
    }

    fn channel_axis(&self, x: &TensorDesc) -> Option<usize> {
        let axis = self.config.channel_axis(x).ok()?;
        // Otherwise positions lie in another order than a mask has them.
        (x.order == MemoryOrder::ChannelsFirst || axis == 1).then_some(axis)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// MXNet's text: `InstanceNorm(eps=1e-05, axis=1, center=True, scale=False, in_channels=3)`.
impl fmt::Display for InstanceNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.repr(f)
    }
}
