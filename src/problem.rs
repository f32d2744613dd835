//! What is to be computed, as data. Layers write it, the planner and the host path read it.

use crate::View;
use std::hash::{Hash, Hasher};

/// Whether a layer is learning or being used.
///
/// An argument of every call, never a hidden state of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
}

/// Applied to every output element, last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// The value as it is.
    #[default]
    None,
    /// `max(v, 0)`; NaN stays NaN, as in PyTorch.
    Relu,
}

/// Which variance enters `running_var`. The batch is always normalized with the population
/// variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
}

/// One normalization: statistics over groups, normalize, affine, epilogue.
///
/// `y = act((x − mean) / √(var + eps) · weight + bias + addend)`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// How the tensor is walked.
    pub view: View,
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
    /// The last step.
    pub activation: Activation,
    /// Set when running statistics follow this batch.
    pub update: Option<RunningUpdate>,
}

// An eps that is not finite is refused before it becomes part of a key.
impl Eq for Problem {}

impl Hash for Problem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view.hash(state);
        self.source.hash(state);
        (self.eps + 0.0).to_bits().hash(state);
        (self.weight, self.bias, self.addend).hash(state);
        self.activation.hash(state);
        self.update.hash(state);
    }
}
