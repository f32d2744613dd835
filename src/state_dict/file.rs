//! States as safetensors files.

use super::{OtherTensor, StateDict, StateValue};
use crate::tensor::each_type;
use crate::{DType, Element, Error, Shape, StateError, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Bytes of a header that the format's readers take.
const HEADER_MAX: usize = 100_000_000;

impl StateDict {
    /// The values and the [metadata](Self::metadata) of a safetensors file, as PyTorch's users have
    /// them. An int64 without axes that is not negative is a count; other types that tensors here lack
    /// are kept as they are.
    ///
    /// # Errors
    /// [`StateError::Format`] for bytes that are no safetensors file;
    /// [`ShapeError::TooLarge`](crate::ShapeError::TooLarge) for a tensor above `u32::MAX` elements.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, Error> {
        let (header, file) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let data = &bytes[size_of::<u64>() + header..];
        let mut state = StateDict::new();
        for (name, info) in file.tensors() {
            let (start, end) = info.data_offsets;
            state.insert(name, read(info.dtype, info.shape[..].into(), &data[start..end])?)?;
        }
        state
            .metadata
            .extend(file.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        Ok(state)
    }

    /// A safetensors file of the values and the [metadata](Self::metadata), which PyTorch loads. Where
    /// there is no metadata it says `format: pt`, without which Hugging Face's transformers refuse a
    /// file. The same state always gives the same bytes.
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
        let pt = || BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = if self.metadata.is_empty() { &pt() } else { &self.metadata };
        let mut file = safetensors::serialize(self.iter(), None).map_err(format)?;
        add_metadata(&mut file, metadata).map_err(format)?;
        Ok(file)
    }
}

/// Gives a file without metadata some, in the order of its keys: the format's own writer takes a hash map,
/// whose order changes from run to run.
fn add_metadata(
    file: &mut Vec<u8>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), SafeTensorError> {
    let (length, rest) = file.split_first_chunk().ok_or(SafeTensorError::HeaderTooSmall)?;
    let old = rest.get(..u64::from_le_bytes(*length) as usize);
    let old = old.ok_or(SafeTensorError::InvalidHeaderLength)?;
    let end = length.len() + old.len();
    let mut header = serde_json::to_vec(&BTreeMap::from([("__metadata__", metadata)]))?;
    // Its closing brace is that of the tensors, `{}` or `{"name":…}` with spaces after it.
    header.pop();
    let tensors = &old.trim_ascii_end()[1..];
    if tensors != b"}" {
        header.push(b',');
    }
    header.extend_from_slice(tensors);
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    if header.len() > HEADER_MAX {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let length = (header.len() as u64).to_le_bytes();
    file.splice(..end, length.into_iter().chain(header));
    Ok(())
}

fn format(error: SafeTensorError) -> StateError {
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
