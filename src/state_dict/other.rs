//! Values of a file whose element types tensors here lack, and what they are as numbers.

use super::load::Number;
use crate::half_bits::widen_f16;
use crate::{DType, Error, Shape, Tensor, host};
use safetensors::Dtype;
use std::sync::Arc;

/// A tensor of an element type that tensors here cannot have (integers, booleans, 8-bit floats, complex
/// numbers), as a file has it. A layer that loads one takes its values as PyTorch's `copy_` does: see
/// [`Parameters::load_state_dict`](crate::Parameters::load_state_dict).
#[derive(Clone, Debug)]
pub struct OtherTensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    pub(super) bytes: Arc<[u8]>,
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

    /// The elements in turn, or nothing if they are not real numbers of whole bytes.
    pub(super) fn numbers(&self) -> Option<impl Iterator<Item = Number> + '_> {
        let number = reader(self.dtype)?;
        Some(self.bytes.chunks_exact(self.dtype.bitsize() / 8).map(number))
    }

    /// The [`numbers`](Self::numbers) as a tensor: f64 if that is what the layer has, else f32, from
    /// which 16-bit layers round once more, as PyTorch does.
    pub(super) fn to_tensor(&self, dtype: DType) -> Result<Tensor<'static>, Error> {
        host::check_memory(self.shape.elements().saturating_mul(8))?;
        let numbers = self.numbers().into_iter().flatten();
        Ok(match dtype {
            DType::F64 => Tensor::from_vec_of(&self.shape, numbers.map(Number::as_f64).collect()),
            _ => Tensor::from_vec_of(&self.shape, numbers.map(Number::as_f32).collect()),
        }?)
    }
}

impl Number {
    /// The nearest one, ties to even.
    fn as_f32(self) -> f32 {
        match self {
            Number::Integer(value) => value as f32,
            Number::Float(value) => value as f32,
        }
    }

    /// As [`as_f32`](Self::as_f32).
    fn as_f64(self) -> f64 {
        match self {
            Number::Integer(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

/// How one element of this type is read, if it is a real number of whole bytes.
fn reader(dtype: Dtype) -> Option<fn(&[u8]) -> Number> {
    macro_rules! integer {
        ($type:ty) => {
            |bytes| {
                let bytes = bytes.try_into().expect("the bytes of one element");
                Number::Integer(<$type>::from_le_bytes(bytes).into())
            }
        };
    }
    Some(match dtype {
        Dtype::BOOL => |bytes| Number::Integer((bytes[0] != 0).into()),
        Dtype::U8 => integer!(u8),
        Dtype::I8 => integer!(i8),
        Dtype::U16 => integer!(u16),
        Dtype::I16 => integer!(i16),
        Dtype::U32 => integer!(u32),
        Dtype::I32 => integer!(i32),
        Dtype::U64 => integer!(u64),
        Dtype::I64 => integer!(i64),
        // The upper byte of an f16.
        Dtype::F8_E5M2 => |bytes| Number::Float(widen_f16(u16::from(bytes[0]) << 8).into()),
        // No infinities; all ones are NaN.
        Dtype::F8_E4M3 => |bytes| match bytes[0] & 0x7F {
            0x7F => Number::Float(f64::NAN),
            _ => small_float(bytes[0], 3, 7),
        },
        // Neither infinities nor a negative zero, whose place is NaN's.
        Dtype::F8_E4M3FNUZ => |bytes| match bytes[0] {
            0x80 => Number::Float(f64::NAN),
            bits => small_float(bits, 3, 8),
        },
        Dtype::F8_E5M2FNUZ => |bytes| match bytes[0] {
            0x80 => Number::Float(f64::NAN),
            bits => small_float(bits, 2, 16),
        },
        // An exponent alone.
        Dtype::F8_E8M0 => |bytes| match bytes[0] {
            0xFF => Number::Float(f64::NAN),
            bits => Number::Float(power_of_two(i32::from(bits) - 127)),
        },
        _ => return None,
    })
}

/// A finite 8-bit float: a sign, an exponent with this bias, so many bits of mantissa.
fn small_float(bits: u8, mantissa_bits: u32, bias: i32) -> Number {
    let exponent = i32::from((bits & 0x7F) >> mantissa_bits);
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1));
    let implied = if exponent == 0 { 0.0 } else { f64::from(1 << mantissa_bits) };
    let unit = power_of_two(exponent.max(1) - bias - mantissa_bits as i32);
    let magnitude = (implied + mantissa) * unit;
    Number::Float(if bits & 0x80 == 0 { magnitude } else { -magnitude })
}

/// Exactly; the exponent is one of a normal f64.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}
