//! A state into a layer: everything is checked before anything changes.

use super::{COUNT, Names, StateDict, StateValue};
use crate::layers::Parameters;
use crate::{Error, Shape, StateError, Tensor};
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
            Mismatch::DType { expected, got } => write!(f, "must be {expected}, got {got}"),
            Mismatch::Count { got, limit } => write!(f, "{got} is above {limit}"),
        }
    }
}

impl StateValue {
    fn kind(&self) -> String {
        match self {
            StateValue::Tensor(tensor) => format!("a {} tensor", tensor.dtype()),
            StateValue::Count(_) => "an int64".to_owned(),
            #[cfg(feature = "safetensors")]
            StateValue::Other(other) => format!("a {} tensor", other.dtype()),
        }
    }

    fn tensor(&self, expected: Shape) -> Result<&Tensor<'static>, Mismatch> {
        let StateValue::Tensor(tensor) = self else {
            return Err(Mismatch::DType { expected: "a float tensor", got: self.kind() });
        };
        if *tensor.shape() != expected {
            return Err(Mismatch::Shape { expected, got: tensor.shape().clone() });
        }
        Ok(tensor)
    }

    fn count(&self) -> Result<u32, Mismatch> {
        let StateValue::Count(got) = *self else {
            return Err(Mismatch::DType { expected: "an int64 without axes", got: self.kind() });
        };
        u32::try_from(got).map_err(|_| Mismatch::Count { got, limit: u32::MAX })
    }
}

/// Values that fit a layer.
#[derive(Default)]
pub(crate) struct Fitting<'a> {
    /// By PyTorch's names.
    tensors: Vec<(&'static str, &'a Tensor<'static>)>,
    pub count: Option<u32>,
}

impl<'a> Fitting<'a> {
    pub fn tensor(&self, name: &str) -> Option<&'a Tensor<'static>> {
        self.tensors.iter().find(|(of, _)| *of == name).map(|(_, tensor)| *tensor)
    }
}

impl Parameters {
    /// Takes a state's values, converted to the element types that the layer has, as PyTorch does.
    /// Running statistics on a GPU are overwritten with the next submission, before everything in it.
    ///
    /// A state without `num_batches_tracked` leaves the count as it is and misses nothing: old
    /// checkpoints, MXNet's and OneFlow's have none. So does PyTorch with states that do not tell their
    /// version, which no safetensors file does.
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
        let mut fitting = Fitting::default();
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
            let fits = match shape {
                Some(shape) => value.tensor(shape).map(|t| fitting.tensors.push((torch, t))),
                None => value.count().map(|count| fitting.count = Some(count)),
            };
            match fits {
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
        self.apply(fitting)?;
        Ok(report)
    }
}

impl StateDict {
    /// The number of channels, told by any value that has one for each.
    pub(crate) fn num_features(&self, options: &LoadOptions) -> Option<usize> {
        ["weight", "bias", "running_mean", "running_var"].into_iter().find_map(
            |torch| match options.find(self, torch).ok()?.1 {
                StateValue::Tensor(tensor) if tensor.shape().len() == 1 => Some(tensor.shape()[0]),
                _ => None,
            },
        )
    }
}
