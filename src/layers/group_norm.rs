//! Group normalization.

use super::params::Blueprint;
use super::repr::{self, Float};
use super::rows::Map;
use super::sealed::Sealed;
use super::settings::{check_eps, check_features, settings};
use super::{Affine, Init, NormLayer, OneValue, Parameters, layer};
use crate::desc::TensorDesc;
use crate::problem::{Mode, Problem};
use crate::{ConfigError, Context, DType, Error, ShapeError};
use std::fmt;

/// Settings of a [`GroupNorm`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct GroupNormConfig {
    /// Groups the channels are split into.
    pub num_groups: usize,
    /// Channels of the input.
    pub num_channels: usize,
    /// See [`with_eps`](Self::with_eps).
    pub eps: f64,
    /// See [`with_affine`](Self::with_affine).
    pub affine: Affine,
    /// See [`with_frozen`](Self::with_frozen).
    pub frozen: Affine,
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

impl GroupNormConfig {
    /// eps 1e-5, weight and bias.
    pub fn new(num_groups: usize, num_channels: usize) -> Self {
        GroupNormConfig {
            num_groups,
            num_channels,
            eps: 1e-5,
            affine: Affine::Both,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            one_value: OneValue::Error,
            dtype: DType::F32,
        }
    }

    settings!(eps, affine, frozen, init, one_value, dtype);

    fn check(&self) -> Result<(), ConfigError> {
        let (layer, num_channels, num_groups) =
            (GroupNorm::NAME, self.num_channels, self.num_groups);
        check_features(layer, num_channels)?;
        if num_groups == 0 || !num_channels.is_multiple_of(num_groups) {
            return Err(ConfigError::Indivisible { layer, num_channels, num_groups });
        }
        check_eps(layer, self.eps)
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError::ZeroFeatures`] for zero channels, [`ConfigError::Indivisible`] if they cannot be
    /// split into `num_groups` (also for zero groups), [`ConfigError`] for an `eps` that is negative
    /// or not finite, or an initializer that is not finite; [`RunError`](crate::RunError) if the
    /// device fails.
    pub fn init(self, context: &Context) -> Result<GroupNorm, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: [self.num_channels].into(),
            affine: self.affine,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            ..Blueprint::new(GroupNorm::NAME)
        };
        Ok(GroupNorm { parameters: Parameters::new(context, blueprint)?, config: self })
    }
}

/// Group normalization: each sample's channels are split into groups, and each group is normalized to
/// zero mean and unit variance, then scaled and shifted per channel.
///
/// `y = (x − μ) / √(σ² + eps) · weight[c] + bias[c]`, with μ and the *population* variance σ² over
/// the `num_channels / num_groups` channels of a group and all spatial positions of one sample. With
/// as many groups as channels it is InstanceNorm. Both modes are the same.
///
/// # Shapes
/// - `x`, `y`: `(N, C, …)`, any number of spatial axes; either memory order. An empty input gives an empty
///   output, also without positions, `(1, C, 0)`, where PyTorch refuses it.
/// - `weight`, `bias`: `(C,)`, as the [`Affine`] setting has them
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd).
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::Channels`], [`ShapeError::OneValue`] if the
/// whole batch has one value per group and [`OneValue::Bias`] is not set (a batch of more is accepted,
/// as by PyTorch). Of the settings: see [`init`](GroupNormConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{Context, GroupNorm, Mode, NormLayer, Tensor};
///
/// let context = Context::host();
/// let norm = GroupNorm::config(2, 4).init(&context)?;
/// let x = Tensor::from_slice([1, 4, 1], &[1.0, 3.0, -10.0, 10.0])?;
/// let y = norm.forward(&context, &x, Mode::Eval)?.to_vec_blocking()?;
/// assert!(y.iter().zip([-1.0, 1.0, -1.0, 1.0]).all(|(y, want)| (y - want).abs() < 1e-4));
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Group Normalization", arXiv:1803.08494, §3; settings and defaults follow `torch.nn.GroupNorm`.
pub struct GroupNorm {
    config: GroupNormConfig,
    parameters: Parameters,
}

impl GroupNorm {
    const NAME: &'static str = "GroupNorm";

    /// Settings for channels in groups, to be refined and built.
    pub fn config(num_groups: usize, num_channels: usize) -> GroupNormConfig {
        GroupNormConfig::new(num_groups, num_channels)
    }
}

layer!(GroupNorm, GroupNormConfig);

impl Sealed for GroupNorm {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        // Over the whole batch, as PyTorch counts.
        let batch = problem.view.extent[0];
        (self.config.one_value == OneValue::Error).then(|| batch * problem.view.group_len())
    }
}

impl NormLayer for GroupNorm {
    fn problem(&self, x: &TensorDesc, _: Mode) -> Result<Problem, ShapeError> {
        let (layer, config) = (Self::NAME, &self.config);
        if x.shape.len() < 2 {
            let expected = "2 (N, C) or more";
            return Err(ShapeError::Rank { layer, expected, got: x.shape.clone() });
        }
        let map = Map::new(layer, x, 1, config.num_channels)?;
        Ok(Problem {
            weight: config.affine.has_weight(),
            bias: config.affine.has_bias(),
            // Divides the channels, which 32 bits hold.
            ..Problem::new(map.group(config.num_groups as u32), x.dtype, config.eps)
        })
    }

    fn channel_axis(&self, _: &TensorDesc) -> Option<usize> {
        Some(1)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// PyTorch's text: `GroupNorm(3, 6, eps=1e-05, affine=True, bias=True)`.
impl fmt::Display for GroupNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupNormConfig { num_groups, num_channels, eps, .. } = self.config;
        let affine = repr::Parameters("affine", self.config.affine);
        write!(f, "GroupNorm({num_groups}, {num_channels}, eps={}, {affine})", Float(eps))
    }
}
