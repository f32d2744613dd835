//! Running statistics where the layer's context keeps them.

#[cfg(feature = "gpu")]
use crate::gpu::GpuData;
use crate::host::HostRunning;
use crate::ops::Running;
use crate::{Context, DType, Error, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock(running: &Mutex<HostRunning>) -> MutexGuard<'_, HostRunning> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostRunning {
    /// Mean 0, variance 1, count 0.
    pub(super) fn new(features: usize, dtype: DType) -> Self {
        HostRunning { mean: vec![0.0; features], var: vec![1.0; features], tracked: 0, dtype }
    }

    /// The same in another element type.
    pub(super) fn rounded(mut self, dtype: DType) -> Self {
        self.mean.iter_mut().chain(&mut self.var).for_each(|v| *v = dtype.round(*v));
        HostRunning { dtype, ..self }
    }

    fn part(&mut self, part: usize) -> &mut Vec<f64> {
        if part == 0 { &mut self.mean } else { &mut self.var }
    }
}

/// Part 0 is the mean, part 1 the variance.
impl Running {
    pub(super) fn new(context: &Context, values: HostRunning) -> Result<Self, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let stats = values.mean.iter().chain(&values.var).map(|&v| v as f32);
            return Ok(Running::Gpu {
                stats: gpu.state(bytemuck::cast_slice(&stats.collect::<Vec<f32>>()))?,
                tracked: gpu.state(&values.tracked.to_ne_bytes())?,
            });
        }
        let _ = context;
        Ok(Running::Host(Mutex::new(values)))
    }

    /// Features that have statistics.
    pub(super) fn features(&self) -> usize {
        match self {
            Running::Host(running) => lock(running).mean.len(),
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, .. } => stats.bytes() as usize / 8,
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Running::Host(_) => (2 * self.features() * size_of::<f64>() + size_of::<u32>()) as u64,
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, tracked } => stats.bytes() + tracked.bytes(),
        }
    }

    /// On a GPU a view of the live values, on the host a copy.
    pub(super) fn part(&self, context: &Context, part: usize) -> Result<Tensor<'static>, Error> {
        let _ = context;
        match self {
            Running::Host(running) => {
                let mut running = lock(running);
                let dtype = running.dtype;
                let values = running.part(part).clone();
                Tensor::from_vec_of([values.len()], values)?.cast(dtype)
            }
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, .. } => {
                let len = self.features();
                gpu_view(stats, part * len, len)
            }
        }
    }

    /// The count of steps, its bits in an f32.
    pub(super) fn count(&self, context: &Context) -> Result<Tensor<'static>, Error> {
        let _ = context;
        match self {
            Running::Host(running) => {
                Ok(Tensor::from_vec([1], vec![f32::from_bits(lock(running).tracked)])?)
            }
            #[cfg(feature = "gpu")]
            Running::Gpu { tracked, .. } => gpu_view(tracked, 0, 1),
        }
    }

    /// What [`assemble`](Self::assemble) needs read: nothing on the host.
    pub(super) fn on_device(&self, context: &Context) -> Result<Vec<Tensor<'static>>, Error> {
        let _ = context;
        match self {
            Running::Host(_) => Ok(Vec::new()),
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, tracked } => {
                Ok(vec![gpu_view(stats, 0, 2 * self.features())?, gpu_view(tracked, 0, 1)?])
            }
        }
    }

    /// The values on the host, from what was read of the device.
    pub(super) fn assemble(
        &self,
        read: &mut impl Iterator<Item = Vec<f32>>,
        dtype: DType,
    ) -> HostRunning {
        let _ = (&read, dtype);
        match self {
            Running::Host(running) => lock(running).clone(),
            #[cfg(feature = "gpu")]
            Running::Gpu { .. } => {
                let mut next = || read.next().expect("on_device's tensors were read");
                let (stats, count) = (next(), next());
                let stats: Vec<f64> = stats.into_iter().map(|v| dtype.round(v.into())).collect();
                let (mean, var) = stats.split_at(self.features());
                let (mean, var, tracked) = (mean.to_vec(), var.to_vec(), count[0].to_bits());
                HostRunning { mean, var, tracked, dtype }
            }
        }
    }

    /// Overwrites one part, as long as there are features. On a GPU with the next submission, before
    /// everything in it.
    pub(super) fn write(
        &self,
        context: &Context,
        part: usize,
        values: &[f64],
        dtype: DType,
    ) -> Result<(), Error> {
        let values = values.iter().map(|&v| dtype.round(v));
        match self {
            Running::Host(running) => *lock(running).part(part) = values.collect(),
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, .. } => {
                let values: Vec<f32> = values.map(|v| v as f32).collect();
                let bytes = bytemuck::cast_slice(&values);
                stats.gpu().write_state(stats, (part * bytes.len()) as u64, bytes)?;
            }
        }
        let _ = context;
        Ok(())
    }

    /// Overwrites the count, as [`write`](Self::write).
    pub(super) fn write_count(&self, context: &Context, count: u32) -> Result<(), Error> {
        match self {
            Running::Host(running) => lock(running).tracked = count,
            #[cfg(feature = "gpu")]
            Running::Gpu { tracked, .. } => {
                tracked.gpu().write_state(tracked, 0, &count.to_ne_bytes())?;
            }
        }
        let _ = context;
        Ok(())
    }
}

/// `len` elements of one of our buffers, from element `first`.
#[cfg(feature = "gpu")]
fn gpu_view(state: &GpuData, first: usize, len: usize) -> Result<Tensor<'static>, Error> {
    let data = state.part(first as u64 * 4, len as u64 * 4);
    Ok(Tensor::gpu(crate::TensorDesc::new([len])?, data))
}
