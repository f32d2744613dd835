//! Batch normalization with a residual and ReLU in the same pass.

use super::batch_norm::BatchNormConfig;
use super::sealed::Sealed;
use super::settings::settings;
use super::{Extras, NormLayer, Parameters, layer};
use crate::desc::TensorDesc;
use crate::problem::{Activation, Mode, Problem};
use crate::{ConfigError, Context, Error, ShapeError, Tensor};
use std::{fmt, ops};

/// Settings of a [`FusedBatchNormNd`]: those of a [`BatchNormConfig`], to which it derefs.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct FusedBatchNormConfig<const D: usize>(BatchNormConfig<D>);

impl<const D: usize> FusedBatchNormConfig<D> {
    /// eps 1e-5, momentum 0.1, weight and bias, running statistics.
    pub fn new(num_features: usize) -> Self {
        BatchNormConfig::new(num_features).into()
    }

    /// As OneFlow's layer: one value per statistic gives the bias.
    pub fn oneflow(num_features: usize) -> Self {
        BatchNormConfig::oneflow(num_features).into()
    }

    settings!(
        eps,
        momentum,
        affine,
        frozen,
        init,
        track_running_stats,
        estimator,
        one_value,
        dtype
    );

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// As [`BatchNormConfig::init`].
    pub fn init(self, context: &Context) -> Result<FusedBatchNormNd<D>, Error> {
        self.check()?;
        let blueprint = self.0.blueprint_as(FusedBatchNormNd::<D>::NAME);
        Ok(FusedBatchNormNd { parameters: Parameters::new(context, blueprint)?, config: self })
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.0.check_as(FusedBatchNormNd::<D>::NAME)
    }

    pub(super) fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError> {
        self.0.channel_axis_as(FusedBatchNormNd::<D>::NAME, x)
    }

    pub(super) fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.repr_as(FusedBatchNormNd::<D>::NAME, f)
    }
}

impl<const D: usize> From<BatchNormConfig<D>> for FusedBatchNormConfig<D> {
    fn from(config: BatchNormConfig<D>) -> Self {
        FusedBatchNormConfig(config)
    }
}

impl<const D: usize> ops::Deref for FusedBatchNormConfig<D> {
    type Target = BatchNormConfig<D>;
    fn deref(&self) -> &BatchNormConfig<D> {
        &self.0
    }
}

impl<const D: usize> ops::DerefMut for FusedBatchNormConfig<D> {
    fn deref_mut(&mut self) -> &mut BatchNormConfig<D> {
        &mut self.0
    }
}

/// Batch normalization, a residual and ReLU in one pass over memory:
/// `y = max(BatchNorm(x) + addend, 0)`, the addend optional.
///
/// # Shapes
/// As [`BatchNormNd`](super::BatchNormNd); the addend exactly as x: shape, element type, memory order.
///
/// # Numerics
/// As [`BatchNormNd`](super::BatchNormNd). NaN stays NaN (OneFlow's ReLU makes it 0). An activation
/// given in [`Extras`] replaces the ReLU.
///
/// # Errors
/// As [`BatchNormNd`](super::BatchNormNd); [`ShapeError::Operand`], [`ShapeError::DType`],
/// [`ShapeError::Order`] for an addend that is not as x.
///
/// # Example
/// ```
/// use wgnorm::{Context, FusedBatchNorm2d, Mode, Tensor};
///
/// let context = Context::host();
/// let norm = FusedBatchNorm2d::config(1).init(&context)?;
/// let x = Tensor::from_slice([1, 1, 1, 2], &[1.0, 3.0])?;
/// let residual = Tensor::from_slice([1, 1, 1, 2], &[0.5f32, 0.5])?;
/// let y = norm.forward_add(&context, &x, Some(&residual), Mode::Train)?;
/// let y = y.to_vec_blocking()?;
/// assert!(y[0] == 0.0 && (y[1] - 1.5).abs() < 1e-4);
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// Settings and defaults follow `oneflow.nn.FusedBatchNorm1d/2d/3d`, where a momentum of None and
/// missing parameters, documented and failing there, work too. Batch normalization itself:
/// arXiv:1502.03167.
pub struct FusedBatchNormNd<const D: usize> {
    config: FusedBatchNormConfig<D>,
    parameters: Parameters,
}

/// Over `(N, C)` or `(N, C, L)`.
pub type FusedBatchNorm1d = FusedBatchNormNd<1>;
/// Over `(N, C, H, W)`.
pub type FusedBatchNorm2d = FusedBatchNormNd<2>;
/// Over `(N, C, D, H, W)`.
pub type FusedBatchNorm3d = FusedBatchNormNd<3>;

impl<const D: usize> FusedBatchNormNd<D> {
    pub(super) const NAME: &'static str = match D {
        1 => "FusedBatchNorm1d",
        2 => "FusedBatchNorm2d",
        3 => "FusedBatchNorm3d",
        _ => panic!("FusedBatchNorm has 1, 2 or 3 spatial axes"),
    };

    /// Settings for `num_features` channels, to be refined and built.
    pub fn config(num_features: usize) -> FusedBatchNormConfig<D> {
        FusedBatchNormConfig::new(num_features)
    }

    /// [`forward`](NormLayer::forward) with an optional addend; the other calls take it in
    /// [`Extras`].
    ///
    /// # Errors
    /// As [`forward_with`](NormLayer::forward_with).
    pub fn forward_add<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        addend: Option<&Tensor<'a>>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        let extras = Extras { addend: addend.cloned(), ..Extras::new() };
        self.forward_with(context, x, &extras, mode)
    }
}

layer!(FusedBatchNormNd<D>, FusedBatchNormConfig<D>, const D);

impl<const D: usize> Sealed for FusedBatchNormNd<D> {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        self.config.counted_values(problem)
    }
}

impl<const D: usize> NormLayer for FusedBatchNormNd<D> {
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError> {
        let norm = self.config.problem_as(Self::NAME, x, mode)?;
        Ok(Problem { activation: Activation::Relu, ..norm })
    }

    fn channel_axis(&self, _: &TensorDesc) -> Option<usize> {
        Some(1)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// As PyTorch prints a BatchNorm, under this layer's name.
impl<const D: usize> fmt::Display for FusedBatchNormNd<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.repr(f)
    }
}
