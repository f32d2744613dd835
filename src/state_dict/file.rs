//! States as safetensors files.

use super::{StateDict, StateValue};
use crate::tensor::each_type;
use crate::{DType, Element, Error, Shape, StateError, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::sync::Arc;

/// A tensor of an element type that is no number here (integers, booleans, 8-bit floats), as a file
/// has it.
#[derive(Clone, Debug)]
pub struct OtherTensor {
    dtype: Dtype,
    shape: Shape,
    bytes: Arc<[u8]>,
}

impl OtherTensor {
    /// The element type by the format's name, `U8`.
    pub fn dtype(&self) -> String {
        self.dtype.to_string()
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The elements as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl StateDict {
    /// The values of a safetensors file, as PyTorch's users have them. An int64 without axes is a
    /// count; other types that tensors here lack are kept as they are.
    ///
    /// # Errors
    /// [`StateError::Format`] for bytes that are no safetensors file;
    /// [`ShapeError::TooLarge`](crate::ShapeError::TooLarge) for a tensor above `u32::MAX` elements.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(format)?;
        let mut state = StateDict::new();
        for (name, view) in file.iter() {
            let (dtype, shape, bytes) = (view.dtype(), Shape::from(view.shape()), view.data());
            state.insert(name, read(dtype, shape, bytes)?)?;
        }
        Ok(state)
    }

    /// A safetensors file of the values, which PyTorch loads.
    ///
    /// # Errors
    /// [`StateError::Format`] for what the format cannot hold: a count above `i64::MAX`, or the name
    /// it keeps for itself, `__metadata__`.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, Error> {
        let refused = |reason: &str| StateError::Format { reason: reason.to_owned() };
        for (name, value) in self.iter() {
            if name == "__metadata__" {
                return Err(refused("__metadata__ is the format's own name").into());
            }
            if matches!(value, StateValue::Count(count) if i64::try_from(*count).is_err()) {
                return Err(refused("a count above int64").into());
            }
        }
        Ok(safetensors::serialize(self.iter(), None).map_err(format)?)
    }
}

fn format(error: safetensors::SafeTensorError) -> StateError {
    StateError::Format { reason: error.to_string() }
}

fn read(dtype: Dtype, shape: Shape, bytes: &[u8]) -> Result<StateValue, Error> {
    /// Files are little-endian whatever this machine is.
    fn tensor<T: Element, const SIZE: usize>(
        shape: Shape,
        bytes: &[u8],
        element: fn([u8; SIZE]) -> T,
    ) -> Result<StateValue, Error> {
        let values = bytes.as_chunks().0.iter().map(|&bytes| element(bytes)).collect();
        Ok(Tensor::from_vec_of(shape, values)?.into())
    }
    match dtype {
        Dtype::F32 => tensor(shape, bytes, f32::from_le_bytes),
        Dtype::F16 => tensor(shape, bytes, f16::from_le_bytes),
        Dtype::BF16 => tensor(shape, bytes, bf16::from_le_bytes),
        Dtype::F64 => tensor(shape, bytes, f64::from_le_bytes),
        _ => {
            let count = bytes.try_into().ok().map(i64::from_le_bytes);
            if let (Dtype::I64, true, Some(count)) = (dtype, shape.is_empty(), count)
                && let Ok(count) = u64::try_from(count)
            {
                return Ok(count.into());
            }
            Ok(StateValue::Other(OtherTensor { dtype, shape, bytes: bytes.into() }))
        }
    }
}

impl View for &StateValue {
    fn dtype(&self) -> Dtype {
        match self {
            StateValue::Tensor(tensor) => match tensor.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::F64 => Dtype::F64,
            },
            StateValue::Count(_) => Dtype::I64,
            StateValue::Other(other) => other.dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            StateValue::Tensor(tensor) => tensor.shape(),
            StateValue::Count(_) => &[],
            StateValue::Other(other) => &other.shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            StateValue::Tensor(tensor) => {
                let data = tensor.host_data("state").expect("insert takes tensors on the host");
                Cow::Owned(each_type!(data, values => {
                    values.as_slice().iter().flat_map(|v| v.to_le_bytes()).collect()
                }))
            }
            StateValue::Count(count) => Cow::Owned(count.to_le_bytes().to_vec()),
            StateValue::Other(other) => Cow::Borrowed(&other.bytes),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            StateValue::Tensor(tensor) => tensor.desc().bytes() as usize,
            StateValue::Count(_) => size_of::<u64>(),
            StateValue::Other(other) => other.bytes.len(),
        }
    }
}
