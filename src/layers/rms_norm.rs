//! Root mean square normalization.

use super::params::Blueprint;
use super::repr::{Bool, Float, Tuple};
use super::rows::trailing;
use super::sealed::Sealed;
use super::settings::{check_eps, check_shape, settings};
use super::{Affine, Init, NormLayer, Parameters, layer};
use crate::desc::TensorDesc;
use crate::problem::{Mode, Problem};
use crate::{ConfigError, Context, DType, Error, Shape, ShapeError};
use std::fmt;

/// Settings of an [`RmsNorm`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RmsNormConfig {
    /// Sizes of the input's trailing axes, which are normalized together.
    pub normalized_shape: Shape,
    /// See [`with_eps`](Self::with_eps).
    pub eps: Option<f64>,
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

impl RmsNormConfig {
    /// eps None, a weight.
    pub fn new(normalized_shape: impl Into<Shape>) -> Self {
        RmsNormConfig {
            normalized_shape: normalized_shape.into(),
            eps: None,
            affine: Affine::Weight,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            dtype: DType::F32,
        }
    }

    /// Added to the mean square inside the root; unit of x². Finite and not negative. `None` is the
    /// machine epsilon of the arithmetic: that of f64 for f64 input, else that of f32.
    pub fn with_eps(mut self, eps: impl Into<Option<f64>>) -> Self {
        self.eps = eps.into();
        self
    }

    settings!(affine, frozen, init, dtype);

    fn check(&self) -> Result<(), ConfigError> {
        check_shape(RmsNorm::NAME, &self.normalized_shape)?;
        self.eps.map_or(Ok(()), |eps| check_eps(RmsNorm::NAME, eps))
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for a normalized shape without axes or with one of size 0, an `eps` that is
    /// negative or not finite, an initializer that is not finite; [`RunError`](crate::RunError) if
    /// the device fails.
    pub fn init(self, context: &Context) -> Result<RmsNorm, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: self.normalized_shape.clone(),
            affine: self.affine,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            ..Blueprint::new(RmsNorm::NAME)
        };
        Ok(RmsNorm { parameters: Parameters::new(context, blueprint)?, config: self })
    }
}

/// Root mean square normalization: the trailing axes of each sample (or token) are divided by their
/// root mean square, then scaled per element. The mean is not subtracted.
///
/// `y = x / √(mean(x²) + eps) · weight`, the mean over the axes of `normalized_shape`. Both modes are
/// the same.
///
/// # Shapes
/// As [`LayerNorm`](super::LayerNorm).
///
/// # Numerics
/// f32, f16, bf16, on the host also f64; 16-bit results are rounded once, from f32. Squares must stay
/// within f32 on a GPU; the host otherwise goes on in f64.
///
/// # Errors
/// As [`LayerNorm`](super::LayerNorm).
///
/// # Example
/// ```
/// use wgnorm::{Context, Mode, NormLayer, RmsNorm, Tensor};
///
/// let context = Context::host();
/// let norm = RmsNorm::config([2]).init(&context)?;
/// let tokens = Tensor::from_slice([1, 2], &[3.0, 4.0])?;
/// let y = norm.forward(&context, &tokens, Mode::Eval)?.to_vec_blocking()?;
/// assert!((y[0] / y[1] - 0.75).abs() < 1e-6);
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Root Mean Square Layer Normalization", arXiv:1910.07467; settings and defaults follow
/// `torch.nn.RMSNorm`, which has no bias.
pub struct RmsNorm {
    config: RmsNormConfig,
    parameters: Parameters,
}

impl RmsNorm {
    const NAME: &'static str = "RmsNorm";

    /// Settings for these trailing axes, to be refined and built.
    pub fn config(normalized_shape: impl Into<Shape>) -> RmsNormConfig {
        RmsNormConfig::new(normalized_shape)
    }
}

layer!(RmsNorm, RmsNormConfig);

impl Sealed for RmsNorm {}

impl NormLayer for RmsNorm {
    fn problem(&self, x: &TensorDesc, _: Mode) -> Result<Problem, ShapeError> {
        let config = &self.config;
        let view = trailing(Self::NAME, x, &config.normalized_shape)?;
        let epsilon = if x.dtype == DType::F64 { f64::EPSILON } else { f32::EPSILON.into() };
        Ok(Problem {
            centered: false,
            weight: config.affine.has_weight(),
            bias: config.affine.has_bias(),
            ..Problem::new(view, x.dtype, config.eps.unwrap_or(epsilon))
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// PyTorch's text: `RMSNorm((6,), eps=None, elementwise_affine=True)`, and `bias=True` where there is
/// one.
impl fmt::Display for RmsNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RmsNormConfig { normalized_shape, eps, affine, .. } = &self.config;
        let eps = eps.map_or("None".to_owned(), |eps| Float(eps).to_string());
        let (shape, weight) = (Tuple(normalized_shape), Bool(affine.has_weight()));
        write!(f, "RMSNorm({shape}, eps={eps}, elementwise_affine={weight}")?;
        f.write_str(if affine.has_bias() { ", bias=True)" } else { ")" })
    }
}
