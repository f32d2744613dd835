//! Instance normalization.

use super::{Affine, NormLayer, Parameters};
use crate::desc::{MemoryOrder, TensorDesc};
use crate::problem::{Estimator, Mode, Momentum, Problem, RunningUpdate, StatSource};
use crate::{Activation, ConfigError, Context, Error, ShapeError, View};
use std::{fmt, ops};

/// What a layer does with an input that has one value per statistic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OneValue {
    /// [`ShapeError::OneValue`], as PyTorch: almost always a mistake.
    #[default]
    Error,
    /// The output is `bias`, as MXNet, OneFlow and Lucid; `running_var` takes 0.
    Bias,
}

/// Settings of an [`InstanceNormNd`]. Defaults follow PyTorch.
#[derive(Clone, Debug, PartialEq)]
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
    /// See [`with_track_running_stats`](Self::with_track_running_stats).
    pub track_running_stats: bool,
    /// See [`with_estimator`](Self::with_estimator).
    pub estimator: Estimator,
    /// See [`with_one_value`](Self::with_one_value).
    pub one_value: OneValue,
}

impl<const D: usize> InstanceNormConfig<D> {
    /// eps 1e-5, momentum 0.1, no affine parameters, no running statistics.
    pub fn new(num_features: usize) -> Self {
        InstanceNormConfig {
            num_features,
            eps: 1e-5,
            momentum: Momentum::Factor(0.1),
            affine: Affine::None,
            track_running_stats: false,
            estimator: Estimator::Unbiased,
            one_value: OneValue::Error,
        }
    }

    /// Added to the variance inside the root; unit of x². Finite and not negative.
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// How far running statistics move per training step.
    pub fn with_momentum(mut self, momentum: Momentum) -> Self {
        self.momentum = momentum;
        self
    }

    /// Which affine parameters there are.
    pub fn with_affine(mut self, affine: Affine) -> Self {
        self.affine = affine;
        self
    }

    /// Whether running statistics are kept, updated in training and used in evaluation.
    pub fn with_track_running_stats(mut self, track: bool) -> Self {
        self.track_running_stats = track;
        self
    }

    /// Which variance enters `running_var`.
    pub fn with_estimator(mut self, estimator: Estimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// What to do with one value per statistic.
    pub fn with_one_value(mut self, one_value: OneValue) -> Self {
        self.one_value = one_value;
        self
    }

    /// Builds the layer, its parameters on `context`: weight 1, bias 0, running mean 0, variance 1.
    ///
    /// # Errors
    /// [`ConfigError`] for zero channels, an `eps` that is negative or not finite, a momentum that
    /// is not finite; [`RunError`](crate::RunError) if the device fails.
    pub fn init(self, context: &Context) -> Result<InstanceNormNd<D>, Error> {
        let layer = InstanceNormNd::<D>::NAME;
        if self.num_features == 0 {
            return Err(ConfigError::ZeroFeatures { layer }.into());
        }
        if self.num_features > u32::MAX as usize {
            let (got, limit) = (self.num_features, u32::MAX);
            return Err(ConfigError::TooManyFeatures { layer, got, limit }.into());
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(ConfigError::Eps { layer, got: self.eps }.into());
        }
        if let Momentum::Factor(got) = self.momentum
            && !(got as f32).is_finite()
        {
            return Err(ConfigError::Momentum { layer, got }.into());
        }
        let tracks = self.track_running_stats;
        let parameters = Parameters::new(layer, context, self.num_features, self.affine, tracks)?;
        Ok(InstanceNormNd { config: self, parameters })
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
///   N; channels first. Empty inputs give empty outputs and leave running statistics alone.
/// - `weight`, `bias`: `(C,)`, as the [`Affine`] setting has them
/// - `running_mean`, `running_var`: `(C,)`, updated with the mean over the samples of their means and
///   (unbiased, see [`Estimator`]) variances
///
/// # Numerics
/// f32 in and out. The host computes in f64. The GPU takes distances from a first mean and corrects
/// its rounding (never E\[x²\] − E\[x\]²), so a large common offset does not cancel; sums of
/// squared distances must stay within f32 there: distances below about 1e19/√M, and with eps 0 above
/// about 1e-18. A constant plane gives exactly `bias`. NaN and infinity spoil their own channel of their own sample.
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::Channels`] (always, where PyTorch without
/// parameters only warns), [`ShapeError::OneValue`] for one spatial position with batch statistics
/// unless [`OneValue::Bias`] is set, [`ShapeError::Order`] for channels-last memory.
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
    const NAME: &'static str = match D {
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

    /// The settings this layer was built from.
    pub fn settings(&self) -> &InstanceNormConfig<D> {
        &self.config
    }
}

/// Parameters are set and read directly on the layer.
impl<const D: usize> ops::Deref for InstanceNormNd<D> {
    type Target = Parameters;
    fn deref(&self) -> &Parameters {
        &self.parameters
    }
}

impl<const D: usize> ops::DerefMut for InstanceNormNd<D> {
    fn deref_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }
}

impl<const D: usize> super::sealed::Sealed for InstanceNormNd<D> {}

impl<const D: usize> NormLayer for InstanceNormNd<D> {
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError> {
        let layer = Self::NAME;
        let config = &self.config;
        let rank = x.shape.len();
        if rank != D + 1 && rank != D + 2 {
            return Err(ShapeError::Rank { layer, expected: Self::RANKS, got: x.shape.clone() });
        }
        let axis = rank - D - 1;
        let (expected, got) = (config.num_features, x.shape[axis]);
        if got != expected {
            return Err(ShapeError::Channels { layer, axis, expected, got });
        }
        if x.order != MemoryOrder::ChannelsFirst {
            let (expected, got) = (MemoryOrder::ChannelsFirst, x.order);
            return Err(ShapeError::Order { layer, operand: "x", expected, got });
        }
        let tracks = config.track_running_stats;
        let source = match mode {
            Mode::Eval if tracks => StatSource::Running,
            _ => StatSource::Batch,
        };
        // Saturating: in an empty tensor the other sizes may be anything.
        let spatial = x.shape[axis + 1..].iter().fold(1, |n: usize, &size| n.saturating_mul(size));
        let empty = x.shape.elements() == 0;
        let one_value = spatial == 1 && !empty && source == StatSource::Batch;
        if one_value && config.one_value == OneValue::Error {
            return Err(ShapeError::OneValue { layer, got: x.shape.clone() });
        }
        // TensorDesc holds at most u32::MAX elements, so all of this fits where it matters.
        let size = |n: usize| if empty { 0 } else { n as u32 };
        let [n, c, s] = [if axis == 1 { size(x.shape[0]) } else { 1 }, size(got), size(spatial)];
        let moves = tracks && mode == Mode::Train && config.momentum != Momentum::Frozen;
        Ok(Problem {
            view: View {
                extent: [n, c, 1, s],
                data: [c * s, s, 0, 1],
                param: [0, 1, 0, 0],
                stat: [if source == StatSource::Running { 0 } else { c }, 1, 0, 0],
            },
            source,
            eps: config.eps,
            weight: config.affine.has_weight(),
            bias: config.affine.has_bias(),
            addend: false,
            activation: Activation::None,
            update: moves.then_some(RunningUpdate {
                momentum: config.momentum,
                estimator: config.estimator,
            }),
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

impl<const D: usize> fmt::Debug for InstanceNormNd<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(Self::NAME).field("config", &self.config).finish_non_exhaustive()
    }
}
