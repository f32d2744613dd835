//! Checkpoints: names and values of a layer, or of all layers of a network.

#[cfg(feature = "safetensors")]
mod file;
mod load;
#[cfg(feature = "safetensors")]
mod other;

pub(crate) use load::Fitting;
pub use load::{LoadOptions, LoadReport, Mismatch};
#[cfg(feature = "safetensors")]
pub use other::OtherTensor;

use crate::layers::{Parameters, Snapshot};
use crate::{Error, MemoryOrder, ShapeError, Tensor};
use std::collections::BTreeMap;

/// The values of a layer, or of the layers of a network under prefixes (`"block.1.weight"`), by the
/// names PyTorch gives them: `weight`, `bias`, `running_mean`, `running_var`, `num_batches_tracked`.
/// Ordered by name. Tensors lie on the host.
///
/// ```
/// use wgnorm::{BatchNorm2d, Context, LoadOptions, StateDict};
///
/// let context = Context::host();
/// let mut first = BatchNorm2d::config(3).init(&context)?;
/// first.fill_weight(|channel| channel as f32)?;
/// let mut network = StateDict::new();
/// network.insert_all("norm1.", first.state_dict_blocking()?);
///
/// let mut second = BatchNorm2d::config(3).init(&context)?;
/// second.load_state_dict(&network, &LoadOptions::strict().with_prefix("norm1."))?;
/// assert_eq!(second.weight().unwrap().as_slice().unwrap(), [0.0, 1.0, 2.0]);
/// # Ok::<(), wgnorm::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    entries: BTreeMap<String, StateValue>,
    metadata: BTreeMap<String, String>,
}

/// A value in a [`StateDict`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StateValue {
    /// Of an element type that tensors here have.
    Tensor(Tensor<'static>),
    /// A count of steps, in a file an int64 without axes.
    Count(u64),
    /// Anything else that a file has: kept as it is, so that it can be written again. A layer takes
    /// integers, booleans and 8-bit floats from it.
    #[cfg(feature = "safetensors")]
    Other(OtherTensor),
}

impl From<Tensor<'static>> for StateValue {
    fn from(tensor: Tensor<'static>) -> Self {
        StateValue::Tensor(tensor)
    }
}

impl From<u64> for StateValue {
    fn from(count: u64) -> Self {
        StateValue::Count(count)
    }
}

/// By which names a checkpoint has a layer's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Names {
    /// `weight`, `bias`, `running_mean`, `running_var`, `num_batches_tracked`.
    #[default]
    Torch,
    /// `gamma`, `beta`, `running_mean` or `moving_mean`, `running_var` or `moving_var`; no count.
    Mxnet,
    /// PyTorch's, without the count.
    Oneflow,
}

/// PyTorch's name of the count of steps.
pub(crate) const COUNT: &str = "num_batches_tracked";

impl Names {
    /// What one of PyTorch's names may be here; the first is the usual one.
    fn of(self, torch: &'static str) -> &'static [&'static str] {
        match (self, torch) {
            (Names::Mxnet, "weight") => &["gamma"],
            (Names::Mxnet, "bias") => &["beta"],
            (Names::Mxnet, "running_mean") => &["running_mean", "moving_mean"],
            (Names::Mxnet, "running_var") => &["running_var", "moving_var"],
            (_, "weight") => &["weight"],
            (_, "bias") => &["bias"],
            (_, "running_mean") => &["running_mean"],
            (_, "running_var") => &["running_var"],
            _ => &[COUNT],
        }
    }
}

impl StateDict {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, or replaces the one of this name.
    ///
    /// # Errors
    /// [`OperandError::Elsewhere`](crate::OperandError::Elsewhere) for a tensor on a GPU,
    /// [`ShapeError::Order`] for a channels-last one: files are row-major.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<StateValue>,
    ) -> Result<(), Error> {
        let value = value.into();
        if let StateValue::Tensor(tensor) = &value {
            tensor.host_data("state")?;
            let (expected, got) = (MemoryOrder::ChannelsFirst, tensor.order());
            if got != expected && tensor.shape().len() > 2 {
                let (layer, operand) = ("StateDict", "tensor");
                return Err(ShapeError::Order { layer, operand, expected, got }.into());
            }
        }
        self.entries.insert(name.into(), value);
        Ok(())
    }

    /// Adds all values of another state, each name after `prefix`, which includes its separator (`"norm1."`).
    /// [Metadata](Self::metadata) of the other state is added where this one has no such key.
    pub fn insert_all(&mut self, prefix: &str, other: StateDict) {
        for (key, value) in other.metadata {
            self.metadata.entry(key).or_insert(value);
        }
        let named =
            other.entries.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value));
        self.entries.extend(named);
    }

    /// What a safetensors file says about itself (`__metadata__`): texts by name, such as `format: pt`. A
    /// file that is read and written again keeps it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// [`metadata`](Self::metadata), to be changed.
    pub fn metadata_mut(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.metadata
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&StateValue> {
        self.entries.get(name)
    }

    /// Takes the value of this name out.
    pub fn remove(&mut self, name: &str) -> Option<StateValue> {
        self.entries.remove(name)
    }

    /// All values, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StateValue)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A layer's state (no prefix, PyTorch's names) by another framework's names.
    pub fn with_names(mut self, names: Names) -> Self {
        if names != Names::Torch {
            self.entries.remove(COUNT);
        }
        for torch in ["weight", "bias"] {
            if let Some(value) = self.entries.remove(torch) {
                self.entries.insert(names.of(torch)[0].to_owned(), value);
            }
        }
        self
    }

    fn of(snapshot: Snapshot) -> Result<Self, Error> {
        let mut state = StateDict::new();
        for (name, tensor) in ["weight", "bias"].into_iter().zip(snapshot.affine) {
            if let Some(tensor) = tensor {
                state.insert(name, tensor)?;
            }
        }
        if let Some(running) = snapshot.running {
            let stats = [("running_mean", running.mean), ("running_var", running.var)];
            for (name, values) in stats {
                let tensor = Tensor::from_vec_of([values.len()], values)?;
                state.insert(name, tensor.cast(running.dtype)?)?;
            }
            state.insert(COUNT, u64::from(running.tracked))?;
        }
        Ok(state)
    }
}

impl Parameters {
    /// The layer's values by PyTorch's names, copied to the host, in the element types they were set
    /// or [cast](crate::InstanceNormNd::cast) to. On an application's device it completes when the
    /// application polls, as [`Tensor::to_vec`] does.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device fails.
    pub async fn state_dict(&self) -> Result<StateDict, Error> {
        StateDict::of(self.snapshot().await?)
    }

    /// [`state_dict`](Self::state_dict) that blocks this thread, polling the device meanwhile. Native
    /// only.
    ///
    /// # Errors
    /// As [`state_dict`](Self::state_dict).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn state_dict_blocking(&self) -> Result<StateDict, Error> {
        StateDict::of(self.snapshot_blocking()?)
    }
}
