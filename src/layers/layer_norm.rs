//! Layer normalization.

use super::params::Blueprint;
use super::repr::{self, Float, Tuple};
use super::rows::trailing;
use super::sealed::Sealed;
use super::settings::{check_eps, check_shape, settings};
use super::{Affine, Init, NormLayer, Parameters, layer};
use crate::desc::TensorDesc;
use crate::problem::{Mode, Problem};
use crate::{ConfigError, Context, DType, Error, Shape, ShapeError};
use std::fmt;

/// Settings of a [`LayerNorm`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LayerNormConfig {
    /// Sizes of the input's trailing axes, which are normalized together.
    pub normalized_shape: Shape,
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
    /// See [`with_dtype`](Self::with_dtype).
    #[cfg_attr(feature = "serde", serde(default))]
    pub dtype: DType,
}

impl LayerNormConfig {
    /// eps 1e-5, weight and bias.
    pub fn new(normalized_shape: impl Into<Shape>) -> Self {
        LayerNormConfig {
            normalized_shape: normalized_shape.into(),
            eps: 1e-5,
            affine: Affine::Both,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            dtype: DType::F32,
        }
    }

    settings!(eps, affine, frozen, init, dtype);

    fn check(&self) -> Result<(), ConfigError> {
        check_shape(LayerNorm::NAME, &self.normalized_shape)?;
        check_eps(LayerNorm::NAME, self.eps)
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for a normalized shape without axes or with one of size 0, an `eps` that is
    /// negative or not finite, an initializer that is not finite; [`RunError`](crate::RunError) if
    /// the device fails.
    pub fn init(self, context: &Context) -> Result<LayerNorm, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: self.normalized_shape.clone(),
            affine: self.affine,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            ..Blueprint::new(LayerNorm::NAME)
        };
        Ok(LayerNorm { parameters: Parameters::new(context, blueprint)?, config: self })
    }
}

/// Layer normalization: the trailing axes of each sample (or token) are normalized together to zero
/// mean and unit variance, then scaled and shifted per element.
///
/// `y = (x − μ) / √(σ² + eps) · weight + bias`, with μ and the *population* variance σ² over the axes
/// of `normalized_shape`. Both modes are the same.
///
/// # Shapes
/// - `x`, `y`: `(…, normalized_shape)`, its logical trailing axes whatever the memory order. Channels
///   last is walked as it lies; only a batch of several samples normalized as a whole must be
///   channels first.
/// - `weight`, `bias`: `normalized_shape`, as the [`Affine`] setting has them. A `normalized_shape` with an
///   axis of size 0 is refused, where PyTorch accepts it: it normalizes nothing.
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd). One value per row is no error and gives `bias`, as
/// in PyTorch.
///
/// # Errors
/// Of the calls: [`ShapeError::Normalized`] if the trailing axes have other sizes,
/// [`ShapeError::Order`] as said under shapes, [`ShapeError::NoMask`] for a mask. Of the settings: see
/// [`init`](LayerNormConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{Context, LayerNorm, Mode, NormLayer, Tensor};
///
/// let context = Context::host();
/// let norm = LayerNorm::config([2]).init(&context)?;
/// let tokens = Tensor::from_slice([2, 2], &[1.0, 3.0, 100.0, 300.0])?;
/// let y = norm.forward(&context, &tokens, Mode::Eval)?.to_vec_blocking()?;
/// assert!(y.iter().zip([-1.0, 1.0, -1.0, 1.0]).all(|(y, want)| (y - want).abs() < 1e-4));
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Layer Normalization", arXiv:1607.06450; settings and defaults follow `torch.nn.LayerNorm`.
pub struct LayerNorm {
    config: LayerNormConfig,
    parameters: Parameters,
}

impl LayerNorm {
    const NAME: &'static str = "LayerNorm";

    /// Settings for these trailing axes, to be refined and built.
    pub fn config(normalized_shape: impl Into<Shape>) -> LayerNormConfig {
        LayerNormConfig::new(normalized_shape)
    }
}

layer!(LayerNorm, LayerNormConfig);

impl Sealed for LayerNorm {}

impl NormLayer for LayerNorm {
    fn problem(&self, x: &TensorDesc, _: Mode) -> Result<Problem, ShapeError> {
        let config = &self.config;
        let view = trailing(Self::NAME, x, &config.normalized_shape)?;
        Ok(Problem {
            weight: config.affine.has_weight(),
            bias: config.affine.has_bias(),
            ..Problem::new(view, x.dtype, config.eps)
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// PyTorch's text: `LayerNorm((6,), eps=1e-05, elementwise_affine=True, bias=True)`.
impl fmt::Display for LayerNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shape, eps) = (Tuple(&self.config.normalized_shape), Float(self.config.eps));
        let affine = repr::Parameters("elementwise_affine", self.config.affine);
        write!(f, "LayerNorm({shape}, eps={eps}, {affine})")
    }
}
