//! What is to be computed, as data. Layers write it, the planner and the host path read it.

use crate::{DType, View};
use std::hash::{Hash, Hasher};

/// Whether a layer is learning or being used.
///
/// An argument of every call, never a hidden state of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mode {
    /// Statistics of the batch; running statistics, where tracked, are updated.
    Train,
    /// Running statistics where tracked, else those of the batch. Nothing is updated.
    Eval,
}

/// Where the mean and variance come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatSource {
    /// The groups of `x` itself.
    Batch,
    /// `running_mean` and `running_var`.
    Running,
    /// Handed in by the caller.
    Given {
        /// Whether they depend on `x` (merged from shards or tiles), so that dx has its mean terms;
        /// otherwise they are constants.
        differentiable: bool,
        /// Entries of each statistic, of parts of its group: they are merged. At least 1.
        parts: u32,
    },
}

impl StatSource {
    /// Whether the statistics do not depend on `x`: dx then has no mean terms.
    pub fn is_constant(self) -> bool {
        matches!(self, StatSource::Running | StatSource::Given { differentiable: false, .. })
    }
}

/// Applied to every output element, last. All of them keep NaN. At infinity they give what PyTorch gives in f64: SiLU and
/// both GELUs are NaN at −∞ and +∞ at +∞, and their gradients are NaN at either infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Activation {
    /// The value as it is.
    #[default]
    None,
    /// `max(v, 0)`.
    Relu,
    /// `v` where it is above 0, else `slope · v` (PyTorch's default slope is 0.01). Finite.
    LeakyRelu(f32),
    /// `v · sigmoid(v)`.
    Silu,
    /// `v · Φ(v)` with the normal distribution's Φ through erf, PyTorch's default GELU.
    Gelu,
    /// `v/2 · (1 + tanh(√(2/π)·(v + 0.044715·v³)))`, PyTorch's `approximate="tanh"`.
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(−v))`.
    Sigmoid,
}

impl Activation {
    /// The number that the shaders know it by.
    pub(crate) fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::LeakyRelu(_) => 2,
            Activation::Silu => 3,
            Activation::Gelu => 4,
            Activation::GeluTanh => 5,
            Activation::Tanh => 6,
            Activation::Sigmoid => 7,
        }
    }

    /// The slope of a leaky ReLU, else 0.
    pub(crate) fn slope(self) -> f32 {
        match self {
            Activation::LeakyRelu(slope) => slope,
            _ => 0.0,
        }
    }
}

// A slope that is not finite is refused before it becomes part of a key.
impl Eq for Activation {}

impl Hash for Activation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.code().hash(state);
        (self.slope() + 0.0).to_bits().hash(state);
    }
}

/// Which variance enters `running_var`. The batch is always normalized with the population
/// variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Estimator {
    /// Σ(x−mean)²/(M−1), as PyTorch. A single value counts as variance 0.
    #[default]
    Unbiased,
    /// Σ(x−mean)²/M, as Lucid and burn.
    Biased,
}

/// How far running statistics move with each training step.
///
/// `running = (1 − factor) · running + factor · batch`
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Momentum {
    /// A fixed factor (PyTorch's `momentum`, default 0.1). Finite; 0..=1 is usual, not required.
    Factor(f64),
    /// The average of all steps so far: factor `1 / num_batches_tracked`, counted up first.
    Cumulative,
    /// Never moved. What PyTorch's InstanceNorm does with `momentum=None`.
    Frozen,
}

// A factor that is not finite is refused before it becomes part of a key.
impl Eq for Momentum {}

impl Hash for Momentum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        if let Momentum::Factor(factor) = self {
            (factor + 0.0).to_bits().hash(state); // -0 equals 0
        }
    }
}

/// The update of running statistics that follows a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunningUpdate {
    /// How far to move.
    pub momentum: Momentum,
    /// Which variance is averaged.
    pub estimator: Estimator,
    /// Whether this step is counted in `num_batches_tracked`, be it one of no elements: BatchNorm always,
    /// InstanceNorm only with a cumulative momentum.
    pub counts: bool,
}

/// One normalization: statistics over groups, normalize, affine, epilogue.
///
/// `y = act((x − mean) / √(var + eps) · weight + bias + addend)`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// How the tensor is walked.
    pub view: View,
    /// Element type of `x`, `y` and the addend.
    pub dtype: DType,
    /// Whether the mean is subtracted; RmsNorm does not, and its "variance" is the mean square.
    pub centered: bool,
    /// Where mean and variance come from.
    pub source: StatSource,
    /// Added to the variance inside the root; same unit as x². Finite and not negative.
    pub eps: f64,
    /// Whether there is a `weight`.
    pub weight: bool,
    /// Whether there is a `bias`.
    pub bias: bool,
    /// Whether a tensor of x's shape is added before the activation.
    pub addend: bool,
    /// Whether a mask says which elements count.
    pub masked: bool,
    /// The last step.
    pub activation: Activation,
    /// Set when running statistics follow this batch.
    pub update: Option<RunningUpdate>,
}

impl Problem {
    /// Whether the addend has a gradient of its own: otherwise it is dy.
    pub(crate) fn addend_differs(&self) -> bool {
        self.addend && (self.activation != Activation::None || self.masked)
    }

    /// Batch statistics, centered, nothing else: what a layer refines.
    pub(crate) fn new(view: View, dtype: DType, eps: f64) -> Self {
        Problem {
            view,
            dtype,
            centered: true,
            source: StatSource::Batch,
            eps,
            weight: false,
            bias: false,
            addend: false,
            masked: false,
            activation: Activation::None,
            update: None,
        }
    }
}

// An eps that is not finite is refused before it becomes part of a key.
impl Eq for Problem {}

impl Hash for Problem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view.hash(state);
        (self.dtype, self.centered, self.source).hash(state);
        (self.eps + 0.0).to_bits().hash(state);
        (self.weight, self.bias, self.addend, self.masked).hash(state);
        self.activation.hash(state);
        self.update.hash(state);
    }
}
