//! Batch normalization.

use super::params::Blueprint;
use super::repr::{self, Bool, Float};
use super::rows::Map;
use super::sealed::Sealed;
use super::settings::{Tracking, check_eps, check_features, settings};
use super::{Affine, Init, NormLayer, OneValue, Parameters, layer};
use crate::desc::TensorDesc;
use crate::problem::{Estimator, Mode, Momentum, Problem};
use crate::{ConfigError, Context, DType, Error, ShapeError};
use std::fmt;

/// Settings of a [`BatchNormNd`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BatchNormConfig<const D: usize> {
    /// Channels of the input.
    pub num_features: usize,
    /// See [`with_eps`](Self::with_eps).
    pub eps: f64,
    /// See [`with_momentum`](Self::with_momentum).
    pub momentum: Momentum,
    /// See [`with_affine`](Self::with_affine).
    pub affine: Affine,
    /// See [`with_frozen`](Self::with_frozen).
    pub frozen: Affine,
    /// See [`with_weight_init`](Self::with_weight_init).
    pub weight_init: Init,
    /// See [`with_bias_init`](Self::with_bias_init).
    pub bias_init: Init,
    /// See [`with_track_running_stats`](Self::with_track_running_stats).
    pub track_running_stats: bool,
    /// See [`with_estimator`](Self::with_estimator).
    pub estimator: Estimator,
    /// See [`with_one_value`](Self::with_one_value).
    pub one_value: OneValue,
    /// See [`with_dtype`](Self::with_dtype).
    #[cfg_attr(feature = "serde", serde(default))]
    pub dtype: DType,
}

impl<const D: usize> BatchNormConfig<D> {
    /// eps 1e-5, momentum 0.1, weight and bias, running statistics.
    pub fn new(num_features: usize) -> Self {
        BatchNormConfig {
            num_features,
            eps: 1e-5,
            momentum: Momentum::Factor(0.1),
            affine: Affine::Both,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            track_running_stats: true,
            estimator: Estimator::Unbiased,
            one_value: OneValue::Error,
            dtype: DType::F32,
        }
    }

    /// As PyTorch's layer: [`new`](Self::new). Its `momentum=None` is [`Momentum::Cumulative`].
    pub fn torch(num_features: usize) -> Self {
        Self::new(num_features)
    }

    /// As OneFlow's layer: PyTorch's, but one value per statistic gives the bias.
    pub fn oneflow(num_features: usize) -> Self {
        Self::new(num_features).with_one_value(OneValue::Bias)
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

    fn tracking(&self) -> Tracking {
        Tracking {
            tracks: self.track_running_stats,
            momentum: self.momentum,
            estimator: self.estimator,
            counts_all: true,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_as(BatchNormNd::<D>::NAME)
    }

    pub(super) fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError> {
        self.channel_axis_as(BatchNormNd::<D>::NAME, x)
    }

    pub(super) fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr_as(BatchNormNd::<D>::NAME, f)
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for zero channels, an `eps` that is negative or not finite, a momentum or an
    /// initializer that is not finite; [`RunError`](crate::RunError) if the device fails.
    pub fn init(self, context: &Context) -> Result<BatchNormNd<D>, Error> {
        self.check()?;
        let parameters = Parameters::new(context, self.blueprint_as(BatchNormNd::<D>::NAME))?;
        Ok(BatchNormNd { config: self, parameters })
    }
}

/// What a layer of another name shares.
impl<const D: usize> BatchNormConfig<D> {
    pub(super) fn check_as(&self, layer: &'static str) -> Result<(), ConfigError> {
        check_features(layer, self.num_features)?;
        check_eps(layer, self.eps)?;
        self.tracking().check(layer)
    }

    pub(super) fn blueprint_as(&self, layer: &'static str) -> Blueprint {
        Blueprint {
            shape: [self.num_features].into(),
            affine: self.affine,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            tracked: self.track_running_stats.then_some(self.num_features),
            ..Blueprint::new(layer)
        }
    }

    pub(super) fn channel_axis_as(
        &self,
        layer: &'static str,
        x: &TensorDesc,
    ) -> Result<usize, ShapeError> {
        let (rank, expected) = (x.shape.len(), BatchNormNd::<D>::RANKS);
        if rank == D + 2 || (D, rank) == (1, 2) {
            return Ok(1);
        }
        Err(ShapeError::Rank { layer, expected, got: x.shape.clone() })
    }

    pub(super) fn problem_as(
        &self,
        layer: &'static str,
        x: &TensorDesc,
        mode: Mode,
    ) -> Result<Problem, ShapeError> {
        let axis = self.channel_axis_as(layer, x)?;
        let view = Map::new(layer, x, axis, self.num_features)?.batch();
        let problem = Problem {
            weight: self.affine.has_weight(),
            bias: self.affine.has_bias(),
            ..Problem::new(view, x.dtype, self.eps)
        };
        Ok(self.tracking().apply(problem, mode))
    }

    pub(super) fn counted_values(&self, problem: &Problem) -> Option<u32> {
        (self.one_value == OneValue::Error).then(|| problem.view.group_len())
    }

    pub(super) fn repr_as(&self, layer: &'static str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchNormConfig { num_features, eps, momentum, .. } = *self;
        let momentum = repr::Step { momentum, none: Momentum::Cumulative };
        let affine = repr::Parameters("affine", self.affine);
        let track = Bool(self.track_running_stats);
        write!(f, "{layer}({num_features}, eps={}, momentum={momentum}, ", Float(eps))?;
        write!(f, "{affine}, track_running_stats={track})")
    }
}

/// Batch normalization: each channel is normalized to zero mean and unit variance over the batch and
/// all spatial positions, then scaled and shifted.
///
/// `y = (x − μ) / √(σ² + eps) · weight[c] + bias[c]`, with μ and the *population* variance σ² over
/// all samples and positions of one channel. In [`Mode::Train`] they are the batch's own, and running
/// statistics follow them; in [`Mode::Eval`] they are the running ones, unless none are tracked.
///
/// # Shapes
/// - `x`, `y`: `(N, C)` or `(N, C, L)`, `(N, C, H, W)`, `(N, C, D, H, W)` for 1d, 2d, 3d; either
///   memory order. An empty input gives an empty output and leaves the running statistics alone; in
///   training it counts in `num_batches_tracked`, as in PyTorch.
/// - `weight`, `bias`: `(C,)`, as the [`Affine`] setting has them
/// - `running_mean`, `running_var`: `(C,)`; the variance is unbiased, see [`Estimator`]
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd). Each training step counts in `num_batches_tracked`,
/// but for [`Momentum::Frozen`], with which nothing moves. An eps of 0 is accepted in training, where
/// PyTorch refuses it: a constant channel gives the bias. Devices or machines that share a batch
/// merge their [`Statistics`](crate::Statistics).
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`] (there is no unbatched form), [`ShapeError::Channels`],
/// [`ShapeError::OneValue`] for one value per channel with batch statistics unless
/// [`OneValue::Bias`] is set. Of the settings: see [`init`](BatchNormConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{BatchNorm1d, Context, Mode, NormLayer, Tensor};
///
/// let context = Context::host();
/// let norm = BatchNorm1d::config(1).init(&context)?;
/// let x = Tensor::from_slice([3, 1], &[1.0, 2.0, 3.0])?;
/// let y = norm.forward(&context, &x, Mode::Train)?;
/// assert!((y.as_slice().unwrap()[2] - 1.22474).abs() < 1e-4);
/// assert_eq!(norm.running_mean()?.to_vec_blocking()?, [0.2]); // a tenth of the way from 0 to 2
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
/// arXiv:1502.03167; settings and defaults follow `torch.nn.BatchNorm1d/2d/3d`.
pub struct BatchNormNd<const D: usize> {
    config: BatchNormConfig<D>,
    parameters: Parameters,
}

/// Over `(N, C)` or `(N, C, L)`.
pub type BatchNorm1d = BatchNormNd<1>;
/// Over `(N, C, H, W)`.
pub type BatchNorm2d = BatchNormNd<2>;
/// Over `(N, C, D, H, W)`.
pub type BatchNorm3d = BatchNormNd<3>;

impl<const D: usize> BatchNormNd<D> {
    pub(super) const NAME: &'static str = match D {
        1 => "BatchNorm1d",
        2 => "BatchNorm2d",
        3 => "BatchNorm3d",
        _ => panic!("BatchNorm has 1, 2 or 3 spatial axes"),
    };
    const RANKS: &'static str = match D {
        1 => "2 (N, C) or 3 (N, C, L)",
        2 => "4 (N, C, H, W)",
        _ => "5 (N, C, D, H, W)",
    };

    /// Settings for `num_features` channels, to be refined and built.
    pub fn config(num_features: usize) -> BatchNormConfig<D> {
        BatchNormConfig::new(num_features)
    }
}

layer!(BatchNormNd<D>, BatchNormConfig<D>, const D);

impl<const D: usize> Sealed for BatchNormNd<D> {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        self.config.counted_values(problem)
    }
}

impl<const D: usize> NormLayer for BatchNormNd<D> {
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError> {
        self.config.problem_as(Self::NAME, x, mode)
    }

    fn channel_axis(&self, _: &TensorDesc) -> Option<usize> {
        Some(1)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// PyTorch's text: `BatchNorm2d(100, eps=1e-05, momentum=0.1, affine=True, bias=True,
/// track_running_stats=True)`.
impl<const D: usize> fmt::Display for BatchNormNd<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.repr(f)
    }
}
