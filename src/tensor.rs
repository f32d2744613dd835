//! Shapes, memory orders, and tensors whose data lie on the host or on a GPU.

#[cfg(feature = "gpu")]
use crate::gpu::GpuData;
use crate::{ConfigError, Context, Error, OperandError, ShapeError};
use smallvec::SmallVec;
use std::{fmt, ops::Deref, str::FromStr, sync::Arc};

/// The sizes of a tensor's axes, in PyTorch's logical order (batch, channels, space) whatever the
/// memory order. Derefs to `&[usize]`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
        }
    }
}

/// Parses PyTorch's (`float32`) and safetensors' (`F32`) names.
impl FromStr for DType {
    type Err = ConfigError;
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "float32" | "float" | "F32" | "f32" => Ok(DType::F32),
            _ => Err(ConfigError::DType { name: name.to_owned() }),
        }
    }
}

/// The order of a tensor's elements in memory. Its [`Shape`] is logical and does not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemoryOrder {
    /// NCHW: each channel's positions side by side (PyTorch's contiguous format).
    #[default]
    ChannelsFirst,
    /// NHWC: each position's channels side by side (PyTorch's `channels_last`).
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

    /// Bytes of the data.
    pub fn bytes(&self) -> u64 {
        self.shape.elements() * self.dtype.size() as u64
    }

    fn check_len(&self, got: usize) -> Result<(), ShapeError> {
        let expected = self.shape.elements();
        if got as u64 != expected {
            let shape = self.shape.clone();
            return Err(ShapeError::Length { shape, expected, got: got as u64 });
        }
        Ok(())
    }
}

/// Host data, borrowed from the caller or shared between clones.
#[derive(Clone)]
pub(crate) enum HostData<'a> {
    Borrowed(&'a [f32]),
    Shared(Arc<Vec<f32>>),
}

impl HostData<'_> {
    pub(crate) fn as_slice(&self) -> &[f32] {
        match self {
            HostData::Borrowed(data) => data,
            HostData::Shared(data) => data,
        }
    }
}

#[derive(Clone)]
pub(crate) enum Storage<'a> {
    Host(HostData<'a>),
    #[cfg(feature = "gpu")]
    Gpu(GpuData),
}

/// A tensor: a description, and data on the host or on a GPU.
///
/// It owns its data or borrows it: a slice of the caller's, or a range of the application's own
/// `wgpu::Buffer`. Clones share the data and cost no copy.
///
/// A GPU tensor made by this crate returns its memory to its context's pool when the last clone is
/// dropped, unless somebody outside has seen the buffer.
#[derive(Clone)]
pub struct Tensor<'a> {
    desc: TensorDesc,
    storage: Storage<'a>,
}

impl<'a> Tensor<'a> {
    /// Borrows host data, row-major in `shape`.
    ///
    /// # Errors
    /// [`ShapeError::Length`] if `data` is not as long as `shape` says, [`ShapeError::TooLarge`]
    /// above `u32::MAX` elements.
    pub fn from_slice(shape: impl Into<Shape>, data: &'a [f32]) -> Result<Self, ShapeError> {
        let desc = TensorDesc::new(shape)?;
        desc.check_len(data.len())?;
        Ok(Tensor { desc, storage: Storage::Host(HostData::Borrowed(data)) })
    }

    /// Takes host data, row-major in `shape`.
    ///
    /// # Errors
    /// As [`from_slice`](Self::from_slice).
    pub fn from_vec(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self, ShapeError> {
        let desc = TensorDesc::new(shape)?;
        desc.check_len(data.len())?;
        Ok(Self::host(desc, data))
    }

    pub(crate) fn host(desc: TensorDesc, data: Vec<f32>) -> Self {
        Tensor { desc, storage: Storage::Host(HostData::Shared(Arc::new(data))) }
    }

    /// Declares the data to lie in another memory order. Moves nothing.
    pub fn with_order(mut self, order: MemoryOrder) -> Self {
        self.desc.order = order;
        self
    }

    /// Shape, element type and memory order.
    pub fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.desc.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.desc.dtype
    }

    /// Order in memory.
    pub fn order(&self) -> MemoryOrder {
        self.desc.order
    }

    /// The data, if they lie on the host.
    pub fn as_slice(&self) -> Option<&[f32]> {
        match &self.storage {
            Storage::Host(data) => Some(data.as_slice()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(_) => None,
        }
    }

    pub(crate) fn host_slice(&self, operand: &'static str) -> Result<&[f32], OperandError> {
        let elsewhere = OperandError::Elsewhere { operand, expected: crate::Backend::Host };
        self.as_slice().ok_or(elsewhere)
    }

    /// The same tensor with data of its own, borrowed from nobody.
    pub fn into_owned(self) -> Tensor<'static> {
        let storage = match self.storage {
            Storage::Host(HostData::Borrowed(data)) => {
                Storage::Host(HostData::Shared(Arc::new(data.to_vec())))
            }
            Storage::Host(HostData::Shared(data)) => Storage::Host(HostData::Shared(data)),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Storage::Gpu(data),
        };
        Tensor { desc: self.desc, storage }
    }

    /// The data on the host, in memory order.
    ///
    /// On the GPU this submits a copy behind all work submitted so far and waits for it. On a
    /// device that [`Context::open`] made the wait needs nobody's help; on an application's device
    /// ([`Context::from_device`]) it completes when the application polls the device, as browsers
    /// do by themselves.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device is lost or the copy fails.
    pub async fn to_vec(&self) -> Result<Vec<f32>, Error> {
        match &self.storage {
            Storage::Host(data) => Ok(data.as_slice().to_vec()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Ok(data.read(self.desc.bytes())?.wait().await?),
        }
    }

    /// [`to_vec`](Self::to_vec) that blocks this thread, polling the device meanwhile. Native only:
    /// a browser's page must not block.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_vec_blocking(&self) -> Result<Vec<f32>, Error> {
        match &self.storage {
            Storage::Host(data) => Ok(data.as_slice().to_vec()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Ok(data.read(self.desc.bytes())?.wait_blocking()?),
        }
    }
}

impl<'a> Tensor<'a> {
    /// The same values where `context` works: a copy on its GPU, or for a host context the host
    /// data themselves.
    ///
    /// # Errors
    /// [`OperandError::Elsewhere`] for a tensor on a GPU that is not `context`'s (read it back with
    /// [`to_vec`](Self::to_vec) first), [`PlanError`](crate::PlanError) if it is larger than the
    /// device's buffers, [`RunError`](crate::RunError) if the device fails.
    pub fn to_context(&self, context: &Context) -> Result<Tensor<'static>, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let data = match &self.storage {
                Storage::Host(data) => gpu.upload(data.as_slice())?,
                Storage::Gpu(data) => data.on(gpu, "tensor")?.clone(),
            };
            return Ok(Tensor { desc: self.desc.clone(), storage: Storage::Gpu(data) });
        }
        let _ = context;
        self.host_slice("tensor")?;
        Ok(self.clone().into_owned())
    }

    /// A tensor of zeros where `context` works.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`], [`PlanError`](crate::PlanError) if it is larger than the device's
    /// buffers, [`RunError`](crate::RunError) if the device fails.
    pub fn zeros(context: &Context, shape: impl Into<Shape>) -> Result<Tensor<'static>, Error> {
        let desc = TensorDesc::new(shape)?;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return Ok(Tensor::gpu(desc.clone(), gpu.zeros(desc.bytes())?));
        }
        let _ = context;
        let len = desc.shape.elements() as usize;
        Ok(Tensor::host(desc, vec![0.0; len]))
    }
}

#[cfg(feature = "gpu")]
impl Tensor<'static> {
    pub(crate) fn gpu(desc: TensorDesc, data: GpuData) -> Self {
        Tensor { desc, storage: Storage::Gpu(data) }
    }

    /// Views a range of the application's own buffer: `offset` bytes in, as long as `shape`, f32,
    /// channels first.
    ///
    /// The buffer must belong to `context`'s device, be unmapped and not destroyed when commands
    /// that use it are submitted: wgpu gives no way to ask, so this is the caller's promise. As
    /// `x`, an addend or a parameter it needs `BufferUsages::STORAGE`; to be read back,
    /// `COPY_SRC`. Any offset that is a multiple of 4 works; multiples of 16 are faster.
    ///
    /// # Errors
    /// [`OperandError`] for a host context, a missing `STORAGE` usage, an odd offset, or a buffer
    /// that ends before the tensor does.
    pub fn from_buffer(
        context: &Context,
        buffer: wgpu::Buffer,
        offset: u64,
        shape: impl Into<Shape>,
    ) -> Result<Self, Error> {
        let desc = TensorDesc::new(shape)?;
        let gpu = context.gpu().ok_or(OperandError::HostContext)?;
        let data = GpuData::foreign(gpu, buffer, offset, desc.bytes())?;
        Ok(Tensor { desc, storage: Storage::Gpu(data) })
    }
}

#[cfg(feature = "gpu")]
impl Tensor<'_> {
    /// The buffer and the byte offset of the first element, if the data lie on a GPU.
    ///
    /// The buffer may be recorded, bound and copied as the application likes; its memory then no
    /// longer returns to the pool.
    pub fn buffer(&self) -> Option<(&wgpu::Buffer, u64)> {
        match &self.storage {
            Storage::Host(_) => None,
            Storage::Gpu(data) => {
                data.escape();
                Some((data.buffer(), data.offset()))
            }
        }
    }

    pub(crate) fn gpu_data(
        &self,
        gpu: &Arc<crate::gpu::Gpu>,
        operand: &'static str,
    ) -> Result<&GpuData, OperandError> {
        match &self.storage {
            Storage::Gpu(data) => data.on(gpu, operand),
            Storage::Host(_) => {
                Err(OperandError::Elsewhere { operand, expected: crate::Backend::Gpu })
            }
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.as_slice().is_some() { "host" } else { "GPU" };
        write!(f, "Tensor {:?} {:?} {:?} on the {place}", self.shape(), self.dtype(), self.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert!(Tensor::from_slice([2, 3], &[0.0; 6]).is_ok());
        assert!(matches!(
            Tensor::from_slice([2, 3], &[0.0; 5]),
            Err(ShapeError::Length { expected: 6, got: 5, .. })
        ));
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
