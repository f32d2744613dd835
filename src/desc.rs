//! What a tensor is, without its data: shape, element type, memory order.

use crate::{ConfigError, ShapeError};
use half::{bf16, f16};
use smallvec::SmallVec;
use std::{fmt, ops::Deref, str::FromStr};

/// The sizes of a tensor's axes, in PyTorch's logical order (batch, channels, space) whatever the
/// memory order. Derefs to `&[usize]`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// Number of elements, `u64::MAX` where that overflows.
    pub fn elements(&self) -> u64 {
        // A zero anywhere wins over an overflow elsewhere.
        if self.contains(&0) {
            return 0;
        }
        self.iter().fold(1u64, |n, &size| n.saturating_mul(size as u64))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(sizes: &[usize]) -> Self {
        Shape(SmallVec::from_slice(sizes))
    }
}

impl From<Vec<usize>> for Shape {
    fn from(sizes: Vec<usize>) -> Self {
        Shape(SmallVec::from_vec(sizes))
    }
}

impl<const K: usize> From<[usize; K]> for Shape {
    fn from(sizes: [usize; K]) -> Self {
        Shape(SmallVec::from_slice(&sizes))
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

/// As `(2, 3, 4)`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, size) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{size}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The element types a tensor can have. Integers and complex numbers are not representable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision.
    #[default]
    F32,
    /// IEEE 754 half precision, a storage type: arithmetic widens it. Packed by two on a GPU.
    F16,
    /// The upper half of an f32, a storage type as [`F16`](Self::F16).
    BF16,
    /// IEEE 754 double precision, on the host alone: WGSL has none.
    F64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::F64 => 8,
        }
    }

    /// A value as this type holds it: rounded to nearest, ties to even.
    pub fn round(self, v: f64) -> f64 {
        fn round<T: Element>(v: f64) -> f64 {
            T::narrow(v).widen()
        }
        match self {
            DType::F32 => round::<f32>(v),
            DType::F16 => round::<f16>(v),
            DType::BF16 => round::<bf16>(v),
            DType::F64 => v,
        }
    }
}

/// PyTorch's name, `float32`.
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F64 => "float64",
        })
    }
}

/// Parses PyTorch's (`float32`) and safetensors' (`F32`) names.
impl FromStr for DType {
    type Err = ConfigError;
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "float32" | "float" | "F32" | "f32" => Ok(DType::F32),
            "float16" | "half" | "F16" | "f16" => Ok(DType::F16),
            "bfloat16" | "BF16" | "bf16" => Ok(DType::BF16),
            "float64" | "double" | "F64" | "f64" => Ok(DType::F64),
            _ => Err(ConfigError::DType { name: name.to_owned() }),
        }
    }
}

/// A Rust type that a tensor's elements can have: `f32`, [`struct@f16`], [`bf16`], `f64`.
pub trait Element: sealed::Element {
    /// The type as data.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}

pub(crate) mod sealed {
    use crate::half_bits;
    use crate::host::{Block, Free, HostPool};
    use crate::tensor::{HostData, Values};
    use half::{bf16, f16};
    use std::sync::Arc;

    /// What the crate itself needs of an element. Widening is exact; narrowing rounds to nearest even.
    pub trait Element: bytemuck::Pod + PartialEq + Send + Sync {
        /// Whether f32 holds every value.
        const IS_NARROW: bool;
        fn widen(self) -> f64;
        fn narrow(v: f64) -> Self;
        /// As [`widen`](Self::widen) of narrow ones.
        fn to_f32(self) -> f32;
        /// As [`narrow`](Self::narrow).
        fn from_f32(v: f32) -> Self;
        /// [`to_f32`](Self::to_f32) of each.
        #[inline(always)]
        fn to_f32s(from: &[Self], to: &mut [f32]) {
            to.iter_mut().zip(from).for_each(|(to, v)| *to = v.to_f32());
        }
        /// [`from_f32`](Self::from_f32) of each.
        #[inline(always)]
        fn from_f32s(from: &[f32], to: &mut [Self]) {
            to.iter_mut().zip(from).for_each(|(to, &v)| *to = Self::from_f32(v));
        }
        fn wrap(values: Values<'_, Self>) -> HostData<'_>;
        fn unwrap<'t>(data: &'t HostData<'_>) -> Option<&'t [Self]>;
        /// The data themselves, if they are of this type and nobody else's.
        fn own(data: HostData<'static>) -> Option<Block<Self>>;
        /// A pool's blocks of this type.
        fn free(pool: &HostPool) -> &Free<Self>;
    }

    macro_rules! element {
        ($type:ty, $variant:ident, $free:ident, $widen:expr, $narrow:expr, $to_f32:expr, $from_f32:expr $(, $to_f32s:path, $from_f32s:path)?) => {
            impl Element for $type {
                const IS_NARROW: bool = size_of::<$type>() <= 4;
                #[inline(always)]
                fn widen(self) -> f64 {
                    $widen(self)
                }
                #[inline(always)]
                fn narrow(v: f64) -> Self {
                    $narrow(v)
                }
                #[inline(always)]
                fn to_f32(self) -> f32 {
                    $to_f32(self)
                }
                #[inline(always)]
                fn from_f32(v: f32) -> Self {
                    $from_f32(v)
                }
                $(
                    #[inline(always)]
                    fn to_f32s(from: &[Self], to: &mut [f32]) {
                        $to_f32s(from, to);
                    }
                    #[inline(always)]
                    fn from_f32s(from: &[f32], to: &mut [Self]) {
                        $from_f32s(from, to);
                    }
                )?
                fn wrap(values: Values<'_, Self>) -> HostData<'_> {
                    HostData::$variant(values)
                }
                fn unwrap<'t>(data: &'t HostData<'_>) -> Option<&'t [Self]> {
                    match data {
                        HostData::$variant(values) => Some(values.as_slice()),
                        _ => None,
                    }
                }
                fn own(data: HostData<'static>) -> Option<Block<Self>> {
                    match data {
                        HostData::$variant(Values::Shared(data)) => Arc::into_inner(data),
                        _ => None,
                    }
                }
                fn free(pool: &HostPool) -> &Free<Self> {
                    &pool.$free
                }
            }
        };
    }
    element!(f32, F32, f32, f64::from, |v| v as f32, |v| v, |v| v);
    element!(
        f16,
        F16,
        f16,
        |v: f16| f64::from(half_bits::widen_f16(v.to_bits())),
        |v| f16::from_bits(half_bits::narrow_f16(half_bits::round_to_odd(v))),
        |v: f16| half_bits::widen_f16(v.to_bits()),
        |v| f16::from_bits(half_bits::narrow_f16(v)),
        half_bits::widen_f16s,
        half_bits::narrow_f16s
    );
    element!(
        bf16,
        BF16,
        bf16,
        |v: bf16| f64::from(half_bits::widen_bf16(v.to_bits())),
        |v| bf16::from_bits(half_bits::narrow_bf16(half_bits::round_to_odd(v))),
        |v: bf16| half_bits::widen_bf16(v.to_bits()),
        |v| bf16::from_bits(half_bits::narrow_bf16(v))
    );
    element!(f64, F64, f64, |v| v, |v| v, |v| v as f32, f64::from);
}

/// The order of a tensor's elements in memory. Its [`Shape`] is logical and does not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MemoryOrder {
    /// NCHW: each channel's positions side by side (PyTorch's contiguous format).
    #[default]
    ChannelsFirst,
    /// NHWC: each position's channels side by side. The layer says which axis holds the channels: axis
    /// 1, as PyTorch's `channels_last`, but axis 0 of an unbatched input. An unbatched `(C, H, W)` lies as
    /// `(H, W, C)` then, and the four axes `(C, D, H, W)` of InstanceNorm3d as `(D, H, W, C)`, while
    /// `torch.channels_last` of a tensor of four axes moves axis 1.
    ChannelsLast,
}

/// Everything about a tensor but its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// Sizes of the axes.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// Order in memory.
    pub order: MemoryOrder,
}

impl TensorDesc {
    /// An f32, channels-first tensor of this shape.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`] above `u32::MAX` elements: the kernels index with 32 bits.
    pub fn new(shape: impl Into<Shape>) -> Result<Self, ShapeError> {
        let shape = shape.into();
        let elements = shape.elements();
        if elements > u64::from(u32::MAX) {
            return Err(ShapeError::TooLarge { shape, elements, limit: u32::MAX });
        }
        Ok(TensorDesc { shape, dtype: DType::F32, order: MemoryOrder::ChannelsFirst })
    }

    /// The same of another element type.
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same in another memory order.
    pub fn with_order(mut self, order: MemoryOrder) -> Self {
        self.order = order;
        self
    }

    /// Bytes of the data.
    pub fn bytes(&self) -> u64 {
        self.shape.elements() * self.dtype.size() as u64
    }

    pub(crate) fn check_len(&self, got: usize) -> Result<(), ShapeError> {
        let expected = self.shape.elements();
        if got as u64 != expected {
            let shape = self.shape.clone();
            return Err(ShapeError::Length { shape, expected, got: got as u64 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let six = TensorDesc::new([2, 3]).unwrap();
        assert!(six.check_len(6).is_ok());
        assert!(matches!(six.check_len(5), Err(ShapeError::Length { expected: 6, got: 5, .. })));
        assert!(matches!(
            TensorDesc::new([usize::MAX, usize::MAX]),
            Err(ShapeError::TooLarge { elements: u64::MAX, .. })
        ));
        assert_eq!(Shape::from([usize::MAX, usize::MAX, 0]).elements(), 0);
        assert_eq!(Shape::from([2, 3]).to_string(), "(2, 3)");
    }

    #[test]
    fn integers_are_no_element_type() {
        assert_eq!("float32".parse(), Ok(DType::F32));
        assert!("int32".parse::<DType>().is_err());
    }
}
