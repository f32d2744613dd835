//! Which positions count: variable lengths, padded pictures.

#[cfg(feature = "gpu")]
use crate::gpu::{Gpu, GpuData};
use crate::{Context, Error, OperandError, Shape, ShapeError, View, host};
use std::{fmt, sync::Arc};

/// Which positions of each sample count, the same for all channels: one u8 per sample and position,
/// 0 where the value is to be ignored.
///
/// Ignored inputs are never read into a result (NaN there is harmless); `y`, `dx` and `daddend` are
/// 0 there. A statistic covers the counted elements of its group alone. A group without any gives 0
/// and does not enter running statistics (a training step of nothing else still counts as a step); a group with one is as one value per statistic: refused, or
/// the bias, as the layer's [`OneValue`](crate::OneValue) says. A mask that counts everything gives
/// the bits of no mask.
#[derive(Clone)]
pub struct Mask {
    shape: Shape,
    /// How many positions of each sample count.
    counts: Arc<[u32]>,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Host(Arc<Vec<u8>>),
    #[cfg(feature = "gpu")]
    Gpu(GpuData),
}

impl Mask {
    /// A mask over `(N, spatial…)`, row-major in PyTorch's logical order whatever x's memory order.
    /// For an unbatched input N is 1.
    ///
    /// # Errors
    /// [`ShapeError::Length`] if `values` is not as long as `shape` says, [`ShapeError::TooLarge`].
    pub fn from_slice(shape: impl Into<Shape>, values: &[u8]) -> Result<Self, ShapeError> {
        let desc = crate::TensorDesc::new(shape)?;
        desc.check_len(values.len())?;
        Ok(Self::of(desc.shape, values.to_vec()))
    }

    /// As many values as the shape says.
    fn of(shape: Shape, values: Vec<u8>) -> Self {
        // An empty mask may have any number of samples.
        let samples = if values.is_empty() { 0 } else { shape.first().copied().unwrap_or(1) };
        let len = values.len() / samples.max(1);
        let sample = |n: usize| values[n * len..][..len].iter().filter(|&&v| v != 0).count() as u32;
        let counts = (0..samples).map(sample).collect();
        Mask { shape, counts, storage: Storage::Host(Arc::new(values)) }
    }

    /// Counts, of each sample, the first `lengths[n]` positions along the spatial axis `axis` of
    /// `shape`, which is `(N, spatial…)`: axis 1 is the first spatial one.
    ///
    /// # Errors
    /// [`ShapeError::Axis`] if `axis` is 0 or not in `shape`, [`ShapeError::Length`] if there is not
    /// one length per sample, or one is longer than the axis, [`RunError::OutOfMemory`](crate::RunError::OutOfMemory).
    pub fn from_lengths(
        shape: impl Into<Shape>,
        axis: usize,
        lengths: &[u32],
    ) -> Result<Self, Error> {
        let shape = crate::TensorDesc::new(shape)?.shape;
        if axis == 0 || axis >= shape.len() {
            return Err(ShapeError::Axis { layer: "Mask", axis: axis as i64, got: shape }.into());
        }
        let (samples, size) = (shape[0], shape[axis]);
        let length = |expected, got| ShapeError::Length { shape: shape.clone(), expected, got };
        if lengths.len() != samples {
            return Err(length(samples as u64, lengths.len() as u64).into());
        }
        if let Some(&long) = lengths.iter().find(|&&n| n as usize > size) {
            return Err(length(size as u64, long.into()).into());
        }
        if shape.elements() == 0 {
            return Ok(Self::of(shape, Vec::new()));
        }
        // A byte each, and as they are packed.
        host::check_memory(2 * shape.elements())?;
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[1..axis].iter().product();
        let mut values = Vec::with_capacity(shape.elements() as usize);
        for &counted in lengths {
            for _ in 0..outer {
                for position in 0..size {
                    let counts = u8::from(position < counted as usize);
                    values.extend(std::iter::repeat_n(counts, inner));
                }
            }
        }
        Ok(Self::of(shape, values))
    }

    /// Whether some group of this view, of the whole batch or of a sample, keeps a single value.
    pub(crate) fn leaves_one(&self, view: &View) -> bool {
        if self.counts.is_empty() || view.elements() == 0 {
            return false;
        }
        let axes = (0..2).filter(|&axis| view.mask[axis] != 0 && view.extent[axis] > 1);
        if axes.count() > 0 || self.counts.len() == 1 {
            // Groups of one sample each: of as many channels as they have elements per position.
            let per_sample = self.shape.elements() / self.counts.len() as u64;
            return u64::from(view.group_len()) == per_sample && self.counts.contains(&1);
        }
        self.counts.iter().map(|&n| u64::from(n)).sum::<u64>() == 1
    }

    /// `(N, spatial…)`.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The same mask where `context` works, as the calls there want it.
    ///
    /// # Errors
    /// [`OperandError::Elsewhere`] for a mask on another GPU; as [`Tensor::to_context`](crate::Tensor::to_context).
    pub fn to_context(&self, context: &Context) -> Result<Mask, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let data = match &self.storage {
                Storage::Host(values) => gpu.upload(values)?,
                Storage::Gpu(data) => data.on(gpu, "mask")?.clone(),
            };
            return Ok(Mask { storage: Storage::Gpu(data), ..self.clone() });
        }
        let _ = context;
        self.host()?;
        Ok(self.clone())
    }

    /// The values on the host.
    pub(crate) fn host(&self) -> Result<&[u8], OperandError> {
        match &self.storage {
            Storage::Host(values) => Ok(values),
            #[cfg(feature = "gpu")]
            Storage::Gpu(_) => {
                Err(OperandError::Elsewhere { operand: "mask", expected: crate::Backend::Host })
            }
        }
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn gpu_data(&self, gpu: &Arc<Gpu>) -> Result<&GpuData, OperandError> {
        match &self.storage {
            Storage::Gpu(data) => data.on(gpu, "mask"),
            Storage::Host(_) => {
                Err(OperandError::Elsewhere { operand: "mask", expected: crate::Backend::Gpu })
            }
        }
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask {:?}", self.shape)
    }
}
