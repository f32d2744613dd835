//! Tensors, whose data lie on the host or on a GPU.

use crate::desc::{DType, Element, MemoryOrder, Shape, TensorDesc, sealed};
#[cfg(feature = "gpu")]
use crate::gpu::{GpuData, Readback};
use crate::host::{self, Block};
use crate::{Context, Error, OperandError, RunError, ShapeError};
use half::{bf16, f16};
use std::{fmt, sync::Arc};

/// Host elements of one type, borrowed from the caller or shared between clones.
#[derive(Clone)]
pub enum Values<'a, T: sealed::Element> {
    Borrowed(&'a [T]),
    Shared(Arc<Block<T>>),
}

impl<T: sealed::Element> From<Vec<T>> for Values<'_, T> {
    fn from(data: Vec<T>) -> Self {
        Values::Shared(Arc::new(data.into()))
    }
}

impl<T: sealed::Element> Values<'_, T> {
    pub fn as_slice(&self) -> &[T] {
        match self {
            Values::Borrowed(data) => data,
            Values::Shared(data) => data,
        }
    }

    fn into_owned(self) -> Values<'static, T> {
        Values::Shared(match self {
            Values::Borrowed(data) => Arc::new(data.to_vec().into()),
            Values::Shared(data) => data,
        })
    }
}

/// Host data of any element type.
#[derive(Clone)]
pub enum HostData<'a> {
    F32(Values<'a, f32>),
    F16(Values<'a, f16>),
    BF16(Values<'a, bf16>),
    F64(Values<'a, f64>),
}

/// Runs `$body` with `$values` the typed slice of host data.
macro_rules! each_type {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            $crate::tensor::HostData::F32($values) => $body,
            $crate::tensor::HostData::F16($values) => $body,
            $crate::tensor::HostData::BF16($values) => $body,
            $crate::tensor::HostData::F64($values) => $body,
        }
    };
}
pub(crate) use each_type;

impl HostData<'_> {
    /// The elements, converted: widened exactly, narrowed to nearest even.
    pub(crate) fn convert<T: Element>(&self) -> Vec<T> {
        if let Some(values) = T::unwrap(self) {
            return values.to_vec();
        }
        each_type!(self, values => values.as_slice().iter().map(|&v| T::narrow(convert(v))).collect())
    }

    /// The elements of `values` in the given type.
    pub(crate) fn narrow(values: &[f64], dtype: DType) -> HostData<'static> {
        fn of<T: Element>(values: &[f64]) -> HostData<'static> {
            T::wrap(values.iter().map(|&v| T::narrow(v)).collect::<Vec<T>>().into())
        }
        match dtype {
            DType::F32 => of::<f32>(values),
            DType::F16 => of::<f16>(values),
            DType::BF16 => of::<bf16>(values),
            DType::F64 => of::<f64>(values),
        }
    }

    fn zeros(len: usize, dtype: DType) -> Result<HostData<'static>, RunError> {
        fn of<T: Element>(len: usize) -> Result<HostData<'static>, RunError> {
            Ok(T::wrap(host::zeros::<T>(len)?.into()))
        }
        match dtype {
            DType::F32 => of::<f32>(len),
            DType::F16 => of::<f16>(len),
            DType::BF16 => of::<bf16>(len),
            DType::F64 => of::<f64>(len),
        }
    }

    /// The bytes as they lie in memory.
    #[cfg(feature = "gpu")]
    pub(crate) fn bytes(&self) -> &[u8] {
        each_type!(self, values => bytemuck::cast_slice(values.as_slice()))
    }

    /// Whether there is room to be nobody else's, where that needs a copy.
    fn check_room_to_own(&self) -> Result<(), RunError> {
        each_type!(self, values => match values {
            Values::Borrowed(values) => host::check_memory(size_of_val(*values) as u64),
            Values::Shared(_) => Ok(()),
        })
    }

    /// Whether no other tensor has them, nor the caller.
    fn is_alone(&self) -> bool {
        each_type!(self, values => matches!(values, Values::Shared(data) if Arc::strong_count(data) == 1))
    }

    fn into_owned(self) -> HostData<'static> {
        match self {
            HostData::F32(values) => HostData::F32(values.into_owned()),
            HostData::F16(values) => HostData::F16(values.into_owned()),
            HostData::BF16(values) => HostData::BF16(values.into_owned()),
            HostData::F64(values) => HostData::F64(values.into_owned()),
        }
    }
}

fn convert<T: Element>(v: T) -> f64 {
    v.widen()
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
        Self::from_slice_of(shape, data)
    }

    /// Takes host data, row-major in `shape`.
    ///
    /// # Errors
    /// As [`from_slice`](Self::from_slice).
    pub fn from_vec(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self, ShapeError> {
        Self::from_vec_of(shape, data)
    }

    /// [`from_slice`](Self::from_slice) of any element type: `f32`, `f64`, [`struct@f16`] or [`bf16`].
    ///
    /// # Errors
    /// As [`from_slice`](Self::from_slice).
    pub fn from_slice_of<T: Element>(
        shape: impl Into<Shape>,
        data: &'a [T],
    ) -> Result<Self, ShapeError> {
        let desc = TensorDesc::new(shape)?.with_dtype(T::DTYPE);
        desc.check_len(data.len())?;
        Ok(Tensor { desc, storage: Storage::Host(T::wrap(Values::Borrowed(data))) })
    }

    /// [`from_vec`](Self::from_vec) of any element type.
    ///
    /// # Errors
    /// As [`from_slice`](Self::from_slice).
    pub fn from_vec_of<T: Element>(
        shape: impl Into<Shape>,
        data: Vec<T>,
    ) -> Result<Self, ShapeError> {
        let desc = TensorDesc::new(shape)?.with_dtype(T::DTYPE);
        desc.check_len(data.len())?;
        Ok(Tensor { desc, storage: Storage::Host(T::wrap(data.into())) })
    }

    /// Host data of the type and length that `desc` says.
    pub(crate) fn host(desc: TensorDesc, data: HostData<'a>) -> Self {
        Tensor { desc, storage: Storage::Host(data) }
    }

    /// Declares the data to lie in another memory order, whose channel axis the layer knows (see
    /// [`MemoryOrder::ChannelsLast`]). Moves nothing.
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

    /// The data, if they are f32 and lie on the host.
    pub fn as_slice(&self) -> Option<&[f32]> {
        self.as_slice_of()
    }

    /// The data, if they are of this type and lie on the host.
    pub fn as_slice_of<T: Element>(&self) -> Option<&[T]> {
        match &self.storage {
            Storage::Host(data) => T::unwrap(data),
            #[cfg(feature = "gpu")]
            Storage::Gpu(_) => None,
        }
    }

    /// Whether the data lie on the host.
    pub fn is_on_host(&self) -> bool {
        matches!(self.storage, Storage::Host(_))
    }

    #[cfg_attr(not(feature = "gpu"), expect(unused_variables, reason = "all data are on the host"))]
    pub(crate) fn host_data(&self, operand: &'static str) -> Result<&HostData<'a>, OperandError> {
        match &self.storage {
            Storage::Host(data) => Ok(data),
            #[cfg(feature = "gpu")]
            Storage::Gpu(_) => {
                Err(OperandError::Elsewhere { operand, expected: crate::Backend::Host })
            }
        }
    }

    /// Whether the data are on the host, and nobody else has them.
    pub(crate) fn can_lend(&self) -> bool {
        matches!(&self.storage, Storage::Host(data) if data.is_alone())
    }

    /// The data themselves, if [they can be had](Self::can_lend); the tensor is left with none.
    pub(crate) fn take_host(&mut self) -> Option<HostData<'a>> {
        match &mut self.storage {
            Storage::Host(data) if data.is_alone() => {
                Some(std::mem::replace(data, HostData::F32(Vec::new().into())))
            }
            _ => None,
        }
    }

    /// The same tensor with data of its own, borrowed from nobody.
    pub fn into_owned(self) -> Tensor<'static> {
        let storage = match self.storage {
            Storage::Host(data) => Storage::Host(data.into_owned()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Storage::Gpu(data),
        };
        Tensor { desc: self.desc, storage }
    }

    /// The data on the host as f32, in memory order. 16-bit elements are widened, f64 rounded; see
    /// [`to_vec_of`](Self::to_vec_of).
    ///
    /// On the GPU this submits a copy behind all work submitted so far and waits for it. On a
    /// device that [`Context::open`] made the wait needs nobody's help; on an application's device
    /// ([`Context::from_device`]) it completes when the application polls the device, as browsers
    /// do by themselves.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device is lost or the copy fails.
    pub async fn to_vec(&self) -> Result<Vec<f32>, Error> {
        self.to_vec_of().await
    }

    /// [`to_vec`](Self::to_vec) in another element type: widened exactly, narrowed to nearest even.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub async fn to_vec_of<T: Element>(&self) -> Result<Vec<T>, Error> {
        self.check_room::<T>()?;
        match &self.storage {
            Storage::Host(data) => Ok(data.convert()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Ok(self.decode(&data.gpu().read(&[data])?.wait().await?)),
        }
    }

    /// [`to_vec`](Self::to_vec) that blocks this thread, polling the device meanwhile. Native only:
    /// a browser's page must not block.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_vec_blocking(&self) -> Result<Vec<f32>, Error> {
        self.to_vec_of_blocking()
    }

    /// [`to_vec_of`](Self::to_vec_of) that blocks this thread. Native only.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_vec_of_blocking<T: Element>(&self) -> Result<Vec<T>, Error> {
        self.check_room::<T>()?;
        match &self.storage {
            Storage::Host(data) => Ok(data.convert()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(data) => Ok(self.decode(&data.gpu().read(&[data])?.wait_blocking()?)),
        }
    }

    /// Whether there is room for the elements as these; from a GPU also for what was copied, and for its values.
    fn check_room<T: Element>(&self) -> Result<(), RunError> {
        let copies = if self.is_on_host() { 0 } else { 2 * self.desc.bytes() };
        host::check_memory(copies + self.desc.shape.elements() * size_of::<T>() as u64)
    }

    /// This tensor's elements from the words that hold them.
    #[cfg(feature = "gpu")]
    fn decode<T: Element>(&self, words: &[u8]) -> Vec<T> {
        fn of<S: Element, T: Element>(bytes: &[u8]) -> Vec<T> {
            let data = S::wrap(bytemuck::pod_collect_to_vec::<u8, S>(bytes).into());
            match S::DTYPE == T::DTYPE {
                true => T::own(data).expect("it is of this type, and new").into_vec(),
                false => data.convert(),
            }
        }
        let bytes = &words[..self.desc.bytes() as usize];
        match self.dtype() {
            DType::F32 => of::<f32, T>(bytes),
            DType::F16 => of::<f16, T>(bytes),
            DType::BF16 => of::<bf16, T>(bytes),
            DType::F64 => of::<f64, T>(bytes),
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
            self.check_gpu_type("tensor")?;
            let data = match &self.storage {
                Storage::Host(data) => gpu.upload(data.bytes())?,
                Storage::Gpu(data) => data.on(gpu, "tensor")?.clone(),
            };
            return Ok(Tensor { desc: self.desc.clone(), storage: Storage::Gpu(data) });
        }
        let _ = context;
        self.host_data("tensor")?.check_room_to_own()?;
        Ok(self.clone().into_owned())
    }

    /// The same values in another element type, on the host: widened exactly, narrowed to nearest
    /// even.
    ///
    /// # Errors
    /// [`OperandError::Elsewhere`] for a tensor on a GPU, [`RunError::OutOfMemory`](crate::RunError::OutOfMemory).
    pub fn cast(&self, dtype: DType) -> Result<Tensor<'static>, Error> {
        let data = self.host_data("tensor")?;
        let data = if dtype == self.dtype() {
            data.check_room_to_own()?;
            data.clone().into_owned()
        } else {
            // In f64 on the way.
            host::check_memory(self.desc.shape.elements() * (8 + dtype.size() as u64))?;
            HostData::narrow(&data.convert::<f64>(), dtype)
        };
        Ok(Tensor::host(self.desc.clone().with_dtype(dtype), data))
    }

    /// A tensor of f32 zeros where `context` works.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`], [`PlanError`](crate::PlanError) if it is larger than the device's
    /// buffers, [`RunError`](crate::RunError) if the device fails.
    pub fn zeros(context: &Context, shape: impl Into<Shape>) -> Result<Tensor<'static>, Error> {
        Self::zeros_of(context, TensorDesc::new(shape)?)
    }

    /// A tensor of zeros of any description.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros), and [`OperandError::NoF64`] for f64 on a GPU.
    pub fn zeros_of(context: &Context, desc: TensorDesc) -> Result<Tensor<'static>, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            if desc.dtype == DType::F64 {
                return Err(OperandError::NoF64 { operand: "tensor" }.into());
            }
            let data = gpu.zeros(desc.bytes())?;
            return Ok(Tensor::gpu(desc, data));
        }
        let _ = context;
        let data = HostData::zeros(desc.shape.elements() as usize, desc.dtype)?;
        Ok(Tensor::host(desc, data))
    }
}

/// The values of tensors on one GPU, of one moment: nothing that is submitted meanwhile comes between them.
pub(crate) async fn read_together(tensors: &[Tensor<'static>]) -> Result<Vec<Vec<f32>>, Error> {
    #[cfg(feature = "gpu")]
    if let Some(readback) = readback(tensors)? {
        return Ok(decode(tensors, &readback.wait().await?));
    }
    debug_assert!(tensors.is_empty(), "these are on a GPU");
    Ok(Vec::new())
}

/// [`read_together`] that blocks this thread, polling the device meanwhile.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn read_together_blocking(tensors: &[Tensor<'static>]) -> Result<Vec<Vec<f32>>, Error> {
    #[cfg(feature = "gpu")]
    if let Some(readback) = readback(tensors)? {
        return Ok(decode(tensors, &readback.wait_blocking()?));
    }
    debug_assert!(tensors.is_empty(), "these are on a GPU");
    Ok(Vec::new())
}

#[cfg(feature = "gpu")]
fn readback(tensors: &[Tensor<'static>]) -> Result<Option<Readback>, Error> {
    let data = tensors.iter().filter_map(|tensor| match &tensor.storage {
        Storage::Gpu(data) => Some(data),
        Storage::Host(_) => None,
    });
    let data: Vec<&GpuData> = data.collect();
    data.first().map(|first| first.gpu().read(&data)).transpose()
}

#[cfg(feature = "gpu")]
fn decode(tensors: &[Tensor<'static>], mut words: &[u8]) -> Vec<Vec<f32>> {
    let mut of_one = |tensor: &Tensor<'static>| {
        let values = tensor.decode(words);
        words = &words[tensor.desc.bytes().next_multiple_of(4) as usize..];
        values
    };
    tensors.iter().map(&mut of_one).collect()
}

#[cfg(feature = "gpu")]
impl Tensor<'static> {
    pub(crate) fn gpu(desc: TensorDesc, data: GpuData) -> Self {
        Tensor { desc, storage: Storage::Gpu(data) }
    }

    /// Views a range of the application's own buffer: `offset` bytes in, as long as `shape`, f32,
    /// channels first. See [`from_buffer_of`](Self::from_buffer_of) for other descriptions.
    ///
    /// The buffer must belong to `context`'s device, be unmapped and not destroyed when commands
    /// that use it are submitted: wgpu gives no way to ask, so this is the caller's promise. Where it is
    /// broken, calls that submit return [`RunError::Rejected`](crate::RunError::Rejected), and recorded
    /// work is refused where the application finishes or submits it; a buffer of another
    /// `wgpu::Instance`'s device not even wgpu knows from its own. As
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
        Self::from_buffer_of(context, buffer, offset, TensorDesc::new(shape)?)
    }

    /// [`from_buffer`](Self::from_buffer) of any description. 16-bit elements are packed by two into
    /// little-endian 32-bit words; if their number is odd, the other half of the last word is kept
    /// as it is.
    ///
    /// # Errors
    /// As [`from_buffer`](Self::from_buffer), and [`OperandError::NoF64`].
    pub fn from_buffer_of(
        context: &Context,
        buffer: wgpu::Buffer,
        offset: u64,
        desc: TensorDesc,
    ) -> Result<Self, Error> {
        let gpu = context.gpu().ok_or(OperandError::HostContext)?;
        if desc.dtype == DType::F64 {
            return Err(OperandError::NoF64 { operand: "tensor" }.into());
        }
        // Whole words are bound.
        let data = GpuData::foreign(gpu, buffer, offset, desc.bytes().next_multiple_of(4))?;
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

    /// f64 has no place on a GPU.
    pub(crate) fn check_gpu_type(&self, operand: &'static str) -> Result<(), OperandError> {
        match self.dtype() {
            DType::F64 => Err(OperandError::NoF64 { operand }),
            _ => Ok(()),
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
        let place = if self.is_on_host() { "host" } else { "GPU" };
        write!(f, "Tensor {:?} {:?} {:?} on the {place}", self.shape(), self.dtype(), self.order())
    }
}
