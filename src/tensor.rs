//! Tensors, whose data lie on the host or on a GPU.

use crate::desc::{DType, MemoryOrder, Shape, TensorDesc};
#[cfg(feature = "gpu")]
use crate::gpu::GpuData;
use crate::{Context, Error, OperandError, ShapeError};
use std::{fmt, sync::Arc};

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

impl Tensor<'_> {
    /// Keeps GPU memory out of the pool from now on: others may use it when this crate cannot know.
    pub(crate) fn escape(&self) {
        #[cfg(feature = "gpu")]
        if let Storage::Gpu(data) = &self.storage {
            data.escape();
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.as_slice().is_some() { "host" } else { "GPU" };
        write!(f, "Tensor {:?} {:?} {:?} on the {place}", self.shape(), self.dtype(), self.order())
    }
}
