//! Instance normalization.

use super::params::Blueprint;
use super::repr::{self, Bool, Float};
use super::rows::Map;
use super::sealed::Sealed;
use super::settings::{Tracking, check_eps, check_features, settings};
use super::{Affine, Init, NormLayer, OneValue, Parameters, layer};
#[cfg(doc)]
use crate::MemoryOrder;
use crate::desc::TensorDesc;
use crate::problem::{Estimator, Mode, Momentum, Problem};
use crate::{ConfigError, Context, DType, Error, ShapeError};
use std::fmt;

/// Settings of an [`InstanceNormNd`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct InstanceNormConfig<const D: usize> {
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

impl<const D: usize> InstanceNormConfig<D> {
    /// eps 1e-5, momentum 0.1, no affine parameters, no running statistics.
    pub fn new(num_features: usize) -> Self {
        InstanceNormConfig {
            num_features,
            eps: 1e-5,
            momentum: Momentum::Factor(0.1),
            affine: Affine::None,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            track_running_stats: false,
            estimator: Estimator::Unbiased,
            one_value: OneValue::Error,
            dtype: DType::F32,
        }
    }

    /// As PyTorch's layer: [`new`](Self::new). Its `momentum=None` is [`Momentum::Frozen`].
    pub fn torch(num_features: usize) -> Self {
        Self::new(num_features)
    }

    /// As OneFlow's layer: PyTorch's, but one value per statistic gives the bias.
    pub fn oneflow(num_features: usize) -> Self {
        Self::new(num_features).with_one_value(OneValue::Bias)
    }

    /// As MXNet's layer over axis 1 (`center=True, scale=False`): both parameters, the weight frozen;
    /// one value per statistic gives the bias. Other axes: [`InstanceNorm`](super::InstanceNorm).
    pub fn mxnet(num_features: usize) -> Self {
        let both = Self::oneflow(num_features).with_affine(Affine::Both);
        both.with_frozen(Affine::Weight)
    }

    /// As Lucid's layer: affine parameters, running statistics, the biased variance in
    /// `running_var`; one value per statistic gives the bias. Its `momentum=None` is 0.1.
    pub fn lucid(num_features: usize) -> Self {
        Self::oneflow(num_features)
            .with_affine(Affine::Both)
            .with_track_running_stats(true)
            .with_estimator(Estimator::Biased)
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
            counts_all: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let layer = InstanceNormNd::<D>::NAME;
        check_features(layer, self.num_features)?;
        check_eps(layer, self.eps)?;
        self.tracking().check(layer)
    }

    /// The channel axis of an input.
    pub(super) fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError> {
        match x.shape.len() {
            rank if rank == D + 1 || rank == D + 2 => Ok(rank - D - 1),
            _ => {
                let (layer, expected) = (InstanceNormNd::<D>::NAME, InstanceNormNd::<D>::RANKS);
                Err(ShapeError::Rank { layer, expected, got: x.shape.clone() })
            }
        }
    }

    pub(super) fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InstanceNormConfig { num_features, eps, momentum, .. } = *self;
        let name = InstanceNormNd::<D>::NAME;
        let momentum = repr::Step { momentum, none: Momentum::Frozen };
        let affine = repr::Parameters("affine", self.affine);
        let track = Bool(self.track_running_stats);
        write!(f, "{name}({num_features}, eps={}, momentum={momentum}, ", Float(eps))?;
        write!(f, "{affine}, track_running_stats={track})")
    }

    /// Builds the layer, its parameters on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for zero channels, an `eps` that is negative or not finite, a momentum or an
    /// initializer that is not finite; [`RunError`](crate::RunError) if the device fails.
    pub fn init(self, context: &Context) -> Result<InstanceNormNd<D>, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: [self.num_features].into(),
            affine: self.affine,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            tracked: self.track_running_stats.then_some(self.num_features),
            ..Blueprint::new(InstanceNormNd::<D>::NAME)
        };
        Ok(InstanceNormNd { parameters: Parameters::new(context, blueprint)?, config: self })
    }
}

/// Instance normalization: each channel of each sample is normalized to zero mean and unit variance
/// over its spatial positions, then scaled and shifted per channel.
///
/// `y = (x − μ) / √(σ² + eps) · weight[c] + bias[c]`, with μ and the *population* variance σ² over
/// the spatial positions of one channel of one sample.
///
/// With running statistics it normalizes by the sample in [`Mode::Train`] and by them in
/// [`Mode::Eval`], where it then behaves like batch normalization: one mean and variance per channel
/// for all samples. Without them both modes are the same.
///
/// # Shapes
/// - `x`, `y`: `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)` for 1d, 2d, 3d, or the same without
///   N; either memory order, which of an unbatched input moves axis 0 ([`MemoryOrder::ChannelsLast`]). An
///   empty input gives an empty output, also `(0, C, 1)`, which PyTorch refuses for its one position; it
///   leaves the running statistics alone, and a cumulative average counts it as a step.
/// - `weight`, `bias`: `(C,)`, as the [`Affine`] setting has them
/// - `running_mean`, `running_var`: `(C,)`, updated with the mean over the samples of their means and
///   (unbiased, see [`Estimator`]) variances
///
/// # Numerics
/// f32, f16, bf16, on the host also f64; 16-bit results are rounded once, from f32. Statistics never
/// come from E\[x²\] − E\[x\]²: distances are taken from a first mean, whose rounding is corrected,
/// so a large common offset does not cancel. Sums of squared distances must stay within f32 on a GPU:
/// distances below about 1e19/√M, and with eps 0 above about 1e-18; the host then goes on in f64. A
/// constant plane gives exactly `bias`. NaN and infinity spoil their own channel of their own sample.
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::Channels`] (always, where PyTorch without
/// parameters only warns), [`ShapeError::OneValue`] for one spatial position with batch statistics
/// unless [`OneValue::Bias`] is set. Of the settings: see [`init`](InstanceNormConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{Affine, Context, InstanceNorm2d, Mode, NormLayer, Tensor};
///
/// let context = Context::host();
/// let norm = InstanceNorm2d::config(1).with_affine(Affine::Both).init(&context)?;
/// let x = Tensor::from_slice([1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])?;
/// let y = norm.forward(&context, &x, Mode::Eval)?;
/// assert!((y.as_slice().unwrap()[0] + 1.34164).abs() < 1e-5);
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Instance Normalization: The Missing Ingredient for Fast Stylization", arXiv:1607.08022; settings
/// and defaults follow `torch.nn.InstanceNorm1d/2d/3d`.
pub struct InstanceNormNd<const D: usize> {
    config: InstanceNormConfig<D>,
    parameters: Parameters,
}

/// Over `(N, C, L)` or `(C, L)`.
pub type InstanceNorm1d = InstanceNormNd<1>;
/// Over `(N, C, H, W)` or `(C, H, W)`.
pub type InstanceNorm2d = InstanceNormNd<2>;
/// Over `(N, C, D, H, W)` or `(C, D, H, W)`.
pub type InstanceNorm3d = InstanceNormNd<3>;

impl<const D: usize> InstanceNormNd<D> {
    pub(super) const NAME: &'static str = match D {
        1 => "InstanceNorm1d",
        2 => "InstanceNorm2d",
        3 => "InstanceNorm3d",
        _ => panic!("InstanceNorm has 1, 2 or 3 spatial axes"),
    };
    const RANKS: &'static str = match D {
        1 => "2 (C, L) or 3 (N, C, L)",
        2 => "3 (C, H, W) or 4 (N, C, H, W)",
        _ => "4 (C, D, H, W) or 5 (N, C, D, H, W)",
    };

    /// Settings for `num_features` channels, to be refined and built.
    pub fn config(num_features: usize) -> InstanceNormConfig<D> {
        InstanceNormConfig::new(num_features)
    }
}

layer!(InstanceNormNd<D>, InstanceNormConfig<D>, const D);

impl<const D: usize> Sealed for InstanceNormNd<D> {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        (self.config.one_value == OneValue::Error).then(|| problem.view.group_len())
    }
}

impl<const D: usize> NormLayer for InstanceNormNd<D> {
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError> {
        let config = &self.config;
        let axis = config.channel_axis(x)?;
        let view = Map::new(Self::NAME, x, axis, config.num_features)?.instance();
        let problem = Problem {
            weight: config.affine.has_weight(),
            bias: config.affine.has_bias(),
            ..Problem::new(view, x.dtype, config.eps)
        };
        Ok(config.tracking().apply(problem, mode))
    }

    fn channel_axis(&self, x: &TensorDesc) -> Option<usize> {
        self.config.channel_axis(x).ok()
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// PyTorch's text: `InstanceNorm2d(100, eps=1e-05, momentum=0.1, affine=False, bias=False,
/// track_running_stats=False)`.
impl<const D: usize> fmt::Display for InstanceNormNd<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.repr(f)
    }
}
