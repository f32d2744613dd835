//! What the layers' settings have in common: enums, builder methods, checks.

use crate::problem::{Mode, Momentum, Problem, RunningUpdate, StatSource};
use crate::{ConfigError, DType, Element, Estimator, Shape, ShapeError, Tensor, error};

/// Which affine parameters there are, or which of them are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Affine {
    /// None: the output is the normalized input.
    #[default]
    None,
    /// `weight` only (PyTorch's `bias=False`).
    Weight,
    /// `bias` only.
    Bias,
    /// `weight` and `bias`.
    Both,
}

impl Affine {
    /// Whether there is a `weight`.
    pub fn has_weight(self) -> bool {
        matches!(self, Affine::Weight | Affine::Both)
    }

    /// Whether there is a `bias`.
    pub fn has_bias(self) -> bool {
        matches!(self, Affine::Bias | Affine::Both)
    }

    pub(super) fn of(weight: bool, bias: bool) -> Self {
        match (weight, bias) {
            (false, false) => Affine::None,
            (true, false) => Affine::Weight,
            (false, true) => Affine::Bias,
            (true, true) => Affine::Both,
        }
    }
}

/// What a layer does with an input that has one value per statistic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum OneValue {
    /// [`ShapeError::OneValue`](crate::ShapeError::OneValue), as PyTorch: almost always a mistake.
    #[default]
    Error,
    /// The output is `bias`, as MXNet, OneFlow and Lucid; `running_var` takes 0.
    Bias,
}

/// What a parameter holds before it is trained or loaded. For a closure see
/// [`Parameters::fill_weight`](super::Parameters::fill_weight).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Init {
    /// 0 everywhere.
    Zeros,
    /// 1 everywhere.
    Ones,
    /// One value everywhere.
    Constant(f64),
    /// Drawn evenly between two values.
    Uniform {
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
        /// The same seed gives the same values.
        seed: u64,
    },
    /// Drawn from a normal distribution.
    Normal {
        /// Its mean.
        mean: f64,
        /// Its standard deviation, not negative.
        std: f64,
        /// The same seed gives the same values.
        seed: u64,
    },
}

impl Init {
    /// The values for a parameter of this element type: f64 ones, or f32 ones to be rounded to 16 bits.
    pub(super) fn tensor(self, shape: &Shape, dtype: DType) -> Result<Tensor<'static>, ShapeError> {
        let len = shape.elements() as usize;
        match dtype {
            DType::F64 => Tensor::from_vec_of(shape, self.values(len, |v| v)),
            _ => Tensor::from_vec_of(shape, self.values(len, |v| v as f32)),
        }
    }

    /// So many values, row-major.
    fn values<T: Element>(self, len: usize, narrow: fn(f64) -> T) -> Vec<T> {
        let draw = |seed, one: &dyn Fn(&mut fastrand::Rng) -> f64| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..len).map(|_| narrow(one(&mut rng))).collect()
        };
        match self {
            Init::Zeros => vec![narrow(0.0); len],
            Init::Ones => vec![narrow(1.0); len],
            Init::Constant(value) => vec![narrow(value); len],
            Init::Uniform { low, high, seed } => draw(seed, &|rng| low + (high - low) * rng.f64()),
            // Box and Muller's transform; 1 − u is never 0.
            Init::Normal { mean, std, seed } => draw(seed, &|rng| {
                let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
                mean + std * radius * (std::f64::consts::TAU * rng.f64()).cos()
            }),
        }
    }

    pub(super) fn check(
        self,
        layer: &'static str,
        setting: &'static str,
    ) -> Result<(), ConfigError> {
        let finite = |v: f64| (v as f32).is_finite();
        let fits = match self {
            Init::Zeros | Init::Ones => true,
            Init::Constant(value) => finite(value),
            Init::Uniform { low, high, .. } => finite(low) && finite(high) && low <= high,
            Init::Normal { mean, std, .. } => finite(mean) && finite(std) && std >= 0.0,
        };
        if fits { Ok(()) } else { Err(ConfigError::Init { layer, setting, got: self }) }
    }
}

pub(super) fn check_features(layer: &'static str, got: usize) -> Result<(), ConfigError> {
    if got == 0 {
        return Err(ConfigError::ZeroFeatures { layer });
    }
    check_size(layer, error::channels(layer), got)
}

/// Whether 32 bits can name so many channels or elements.
pub(super) fn check_size(
    layer: &'static str,
    setting: &'static str,
    got: usize,
) -> Result<(), ConfigError> {
    let limit = u32::MAX;
    match u32::try_from(got) {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::TooManyFeatures { layer, setting, got, limit }),
    }
}

/// A normalized shape: at least one axis, none of size 0.
pub(super) fn check_shape(layer: &'static str, shape: &Shape) -> Result<(), ConfigError> {
    if shape.is_empty() || shape.contains(&0) {
        return Err(ConfigError::NormalizedShape { layer, got: shape.clone() });
    }
    let elements = usize::try_from(shape.elements()).unwrap_or(usize::MAX);
    check_size(layer, "the product of normalized_shape", elements)
}

pub(super) fn check_eps(layer: &'static str, got: f64) -> Result<(), ConfigError> {
    // Kernels compute in f32.
    if (got as f32).is_finite() && got >= 0.0 {
        Ok(())
    } else {
        Err(ConfigError::Eps { layer, got })
    }
}

/// How a layer keeps running statistics.
#[derive(Clone, Copy)]
pub(super) struct Tracking {
    pub tracks: bool,
    pub momentum: Momentum,
    pub estimator: Estimator,
    /// Whether every step counts; otherwise those of a cumulative momentum.
    pub counts_all: bool,
}

impl Tracking {
    pub fn check(self, layer: &'static str) -> Result<(), ConfigError> {
        match self.momentum {
            Momentum::Factor(got) if !(got as f32).is_finite() => {
                Err(ConfigError::Momentum { layer, got })
            }
            _ => Ok(()),
        }
    }

    /// The problem as it is in this mode: running statistics used in evaluation, moved in training.
    pub fn apply(self, problem: Problem, mode: Mode) -> Problem {
        let Tracking { momentum, estimator, .. } = self;
        let mut problem = problem;
        match mode {
            Mode::Eval if self.tracks => {
                problem.source = StatSource::Running;
                // One per channel, the same for all samples.
                problem.view.stat = [0, 1, 0, 0];
            }
            Mode::Train if self.tracks && momentum != Momentum::Frozen => {
                let counts = self.counts_all || momentum == Momentum::Cumulative;
                problem.update = Some(RunningUpdate { momentum, estimator, counts });
            }
            _ => {}
        }
        problem
    }
}

/// The builder methods of the settings named, so that all layers have the same with the same words.
macro_rules! settings {
    ($($name:ident),* $(,)?) => { $($crate::layers::settings::setting!($name);)* };
}

macro_rules! setting {
    (eps) => {
        /// Added to the variance inside the root; unit of x². Finite and not negative.
        pub fn with_eps(mut self, eps: f64) -> Self {
            self.eps = eps;
            self
        }
    };
    (momentum) => {
        /// How far running statistics move per training step.
        pub fn with_momentum(mut self, momentum: $crate::Momentum) -> Self {
            self.momentum = momentum;
            self
        }
    };
    (affine) => {
        /// Which affine parameters there are.
        pub fn with_affine(mut self, affine: $crate::Affine) -> Self {
            self.affine = affine;
            self
        }
    };
    (track_running_stats) => {
        /// Whether running statistics are kept, updated in training and used in evaluation.
        pub fn with_track_running_stats(mut self, track: bool) -> Self {
            self.track_running_stats = track;
            self
        }
    };
    (estimator) => {
        /// Which variance enters `running_var`.
        pub fn with_estimator(mut self, estimator: $crate::Estimator) -> Self {
            self.estimator = estimator;
            self
        }
    };
    (one_value) => {
        /// What to do with one value per statistic.
        pub fn with_one_value(mut self, one_value: $crate::OneValue) -> Self {
            self.one_value = one_value;
            self
        }
    };
    (dtype) => {
        /// The element type of parameters and running statistics (f32). f64 input wants f64, on the
        /// host alone; all other input takes f32 and 16-bit ones. A layer that was
        /// [cast](crate::InstanceNormNd::cast) since has another
        /// [`dtype`](crate::Parameters::dtype).
        pub fn with_dtype(mut self, dtype: $crate::DType) -> Self {
            self.dtype = dtype;
            self
        }
    };
    (frozen) => {
        /// Which of the affine parameters are applied but get no gradient.
        pub fn with_frozen(mut self, frozen: $crate::Affine) -> Self {
            self.frozen = frozen;
            self
        }
    };
    (init) => {
        $crate::layers::settings::setting!(weight_init);
        /// What `bias` starts with (0).
        pub fn with_bias_init(mut self, init: $crate::Init) -> Self {
            self.bias_init = init;
            self
        }
    };
    (weight_init) => {
        /// What `weight` starts with (1).
        pub fn with_weight_init(mut self, init: $crate::Init) -> Self {
            self.weight_init = init;
            self
        }
    };
}

pub(super) use {setting, settings};
