//! A state into a layer: everything is checked before anything changes.

use super::{COUNT, Names, StateDict, StateValue};
use crate::layers::Parameters;
use crate::{DType, Error, Shape, StateError, Tensor};
use std::{collections::BTreeSet, fmt};

/// How [`Parameters::load_state_dict`] takes a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    lenient: bool,
    prefix: String,
    names: Names,
}

impl LoadOptions {
    /// The state must fit exactly; the default.
    pub fn strict() -> Self {
        Self::default()
    }

    /// What fits is loaded, the rest reported.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// Only names that start so are the layer's, without the prefix; the others are of other layers.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whose names the state has.
    pub fn with_names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// The state's value for one of PyTorch's names, under the name it has, or the usual name.
    fn find<'a>(
        &self,
        state: &'a StateDict,
        torch: &'static str,
    ) -> Result<(String, &'a StateValue), String> {
        let names = self.names.of(torch);
        let mut full = names.iter().map(|name| format!("{}{name}", self.prefix));
        full.find_map(|name| Some((name.clone(), state.get(&name)?)))
            .ok_or_else(|| format!("{}{}", self.prefix, names[0]))
    }
}

/// What [`Parameters::load_state_dict`] found, by the state's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Loaded. Of a state that was refused, nothing.
    pub loaded: Vec<String>,
    /// In the layer and not in the state.
    pub missing: Vec<String>,
    /// In the state, under the prefix, and not in the layer.
    pub unexpected: Vec<String>,
    /// In both, but not fitting.
    pub mismatched: Vec<(String, Mismatch)>,
}

impl LoadReport {
    /// Whether everything fitted.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

/// `missing weight, bias; unexpected running_mean; weight must have shape (3), got (4)`
impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        }
        parts.extend(self.mismatched.iter().map(|(name, why)| format!("{name} {why}")));
        if parts.is_empty() {
            return write!(f, "{} values loaded", self.loaded.len());
        }
        f.write_str(&parts.join("; "))
    }
}

/// Why a value does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// Another shape.
    Shape {
        /// The layer's.
        expected: Shape,
        /// The state's.
        got: Shape,
    },
    /// Another kind of element.
    DType {
        /// What can be loaded.
        expected: &'static str,
        /// The type found.
        got: String,
    },
    /// Another value: a count that is negative, no whole number or not finite.
    Value {
        /// What can be loaded.
        expected: &'static str,
        /// The state's.
        got: String,
    },
    /// A count above what the device-resident counter holds.
    Count {
        /// The state's.
        got: u64,
        /// The largest.
        limit: u32,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Shape { expected, got } => write!(f, "must have shape {expected}, got {got}"),
            Mismatch::DType { expected, got } | Mismatch::Value { expected, got } => {
                write!(f, "must be {expected}, got {got}")
            }
            Mismatch::Count { got, limit } => {
                write!(f, "must be a whole number from 0 to {limit}, got {got}")
            }
        }
    }
}

/// A value of a state, exactly.
#[derive(Clone, Copy)]
pub(super) enum Number {
    /// In an i128, which holds every integer type of a file.
    #[cfg(feature = "safetensors")]
    Integer(i128),
    /// A value of any float type: f64 holds them all.
    Float(f64),
}

impl Number {
    /// The count of steps that it is, if the device-resident counter holds it.
    fn count(self) -> Result<u32, Mismatch> {
        let whole = match self {
            #[cfg(feature = "safetensors")]
            Number::Integer(value) => u32::try_from(value).ok(),
            // Exact: a u32 is one of the numbers of f64, and a cast saturates.
            Number::Float(value) => Some(value as u32).filter(|&count| f64::from(count) == value),
        };
        let expected = "a whole number from 0 to 4294967295";
        whole.ok_or_else(|| Mismatch::Value { expected, got: self.to_string() })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "safetensors")]
            Number::Integer(value) => write!(f, "{value}"),
            Number::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// A type whose elements are not one real number each.
#[cfg(feature = "safetensors")]
fn no_number(other: &super::OtherTensor) -> Mismatch {
    let expected = "of a float, integer or boolean type of at least 8 bits";
    Mismatch::DType { expected, got: other.dtype() }
}

impl StateValue {
    /// Sizes of the axes; a count has none.
    fn shape(&self) -> Shape {
        match self {
            StateValue::Tensor(tensor) => tensor.shape().clone(),
            StateValue::Count(_) => Shape::default(),
            #[cfg(feature = "safetensors")]
            StateValue::Other(other) => other.shape().clone(),
        }
    }

    /// Whether it is a tensor of real numbers and has this shape.
    fn check(&self, expected: Shape) -> Result<(), Mismatch> {
        let got = self.shape();
        if got != expected {
            return Err(Mismatch::Shape { expected, got });
        }
        #[cfg(feature = "safetensors")]
        if let StateValue::Other(other) = self
            && other.numbers().is_none()
        {
            return Err(no_number(other));
        }
        Ok(())
    }

    /// A [checked](Self::check) one as a tensor for a layer of this element type.
    fn tensor(&self, dtype: DType) -> Result<Tensor<'static>, Error> {
        let _ = dtype;
        match self {
            StateValue::Tensor(tensor) => Ok(tensor.clone()),
            StateValue::Count(_) => unreachable!("a layer has no values without axes"),
            #[cfg(feature = "safetensors")]
            StateValue::Other(other) => other.to_tensor(dtype),
        }
    }

    /// The count of steps. PyTorch 0.3 wrote it with an axis of size 1, and training in another element
    /// type leaves it in that type.
    fn count(&self) -> Result<u32, Mismatch> {
        let got = self.shape();
        if !matches!(got[..], [] | [1]) {
            return Err(Mismatch::Shape { expected: Shape::default(), got });
        }
        match self {
            StateValue::Tensor(tensor) => {
                let data = tensor.host_data("state").expect("insert takes tensors on the host");
                Number::Float(data.convert::<f64>()[0]).count()
            }
            StateValue::Count(got) => {
                let (got, limit) = (*got, u32::MAX);
                u32::try_from(got).map_err(|_| Mismatch::Count { got, limit })
            }
            #[cfg(feature = "safetensors")]
            StateValue::Other(other) => {
                let number = other.numbers().and_then(|mut numbers| numbers.next());
                number.ok_or_else(|| no_number(other))?.count()
            }
        }
    }
}

/// Values that fit a layer.
pub(crate) struct Fitting {
    /// By PyTorch's names.
    tensors: Vec<(&'static str, Tensor<'static>)>,
    pub count: Option<u32>,
}

impl Fitting {
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'static>> {
        self.tensors.iter().find(|(of, _)| *of == name).map(|(_, tensor)| tensor)
    }
}

impl Parameters {
    /// Takes a state's values, converted to the element types that the layer has, as PyTorch does:
    /// floats of 8 to 64 bits, integers and booleans, rounded to nearest, ties to even. Complex numbers
    /// and types below 8 bits are refused. Running statistics on a GPU are overwritten with the next
    /// submission, before everything in it.
    ///
    /// `num_batches_tracked` may be of any of these types and of shape `()` or `(1)`, as PyTorch 0.3
    /// wrote it, if its value is a whole number from 0 to `u32::MAX`. (PyTorch cuts a fraction off and
    /// takes a negative count; here both are refused with their value.)
    ///
    /// A state without `num_batches_tracked` leaves the count as it is and misses nothing: old
    /// checkpoints, MXNet's and OneFlow's have none. PyTorch does the same with a state that has no
    /// version, and no safetensors file has one.
    ///
    /// # Errors
    /// [`StateError::Load`] if the state does not fit exactly and the options are strict: nothing is
    /// changed then. [`RunError`](crate::RunError) if the device fails.
    pub fn load_state_dict(
        &mut self,
        state: &StateDict,
        options: &LoadOptions,
    ) -> Result<LoadReport, Error> {
        let mut report = LoadReport::default();
        let (mut fits, mut count) = (Vec::new(), None);
        let mut known = BTreeSet::new();
        for (torch, shape) in self.layout() {
            let (name, value) = match options.find(state, torch) {
                Ok(found) => found,
                Err(_) if torch == COUNT => continue,
                Err(name) => {
                    report.missing.push(name);
                    continue;
                }
            };
            let fitted = match shape {
                Some(shape) => value.check(shape).map(|()| fits.push((torch, value))),
                None => value.count().map(|steps| count = Some(steps)),
            };
            match fitted {
                Ok(()) => report.loaded.push(name.clone()),
                Err(why) => report.mismatched.push((name.clone(), why)),
            }
            known.insert(name);
        }
        let ours = state.iter().map(|(name, _)| name);
        let ours = ours.filter(|name| name.starts_with(&options.prefix));
        report.unexpected = ours.filter(|&name| !known.contains(name)).map(str::to_owned).collect();
        if !options.lenient && !report.is_complete() {
            report.loaded.clear();
            let (layer, report) = (self.layer(), Box::new(report));
            return Err(StateError::Load { layer, report }.into());
        }
        let dtype = self.dtype();
        let tensors = fits.into_iter().map(|(torch, value)| Ok((torch, value.tensor(dtype)?)));
        let tensors = tensors.collect::<Result<_, Error>>()?;
        self.apply(&Fitting { tensors, count })?;
        Ok(report)
    }
}

impl StateDict {
    /// The number of channels, told by any value that has one for each.
    pub(crate) fn num_features(&self, options: &LoadOptions) -> Option<usize> {
        self.lengths(options, |value| value.check(value.shape().clone()).is_ok())
    }

    /// As [`num_features`](Self::num_features), also of values that cannot be loaded for their type: a layer of so many
    /// channels reports what is wrong with them.
    pub(crate) fn intended_features(&self, options: &LoadOptions) -> Option<usize> {
        self.lengths(options, |_| true)
    }

    fn lengths(&self, options: &LoadOptions, fits: impl Fn(&StateValue) -> bool) -> Option<usize> {
        ["weight", "bias", "running_mean", "running_var"].into_iter().find_map(|torch| {
            let value = options.find(self, torch).ok()?.1;
            let shape = value.shape();
            (shape.len() == 1 && shape[0] > 0 && fits(value)).then(|| shape[0])
        })
    }
}
