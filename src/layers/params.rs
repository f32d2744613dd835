//! What a layer owns: affine parameters, running statistics, and on a GPU its latest calls.

#[cfg(feature = "gpu")]
use crate::gpu::{CallCache, GpuData};
use crate::host::HostRunning;
use crate::{Context, Error, OperandError, StateError, Tensor};
use std::sync::{Mutex, PoisonError};

/// Which affine parameters a layer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affine {
    /// None: the output is the normalized input.
    #[default]
    None,
    /// `weight` only (PyTorch's `bias=False`).
    Weight,
    /// `bias` only.
    Bias,
    /// `weight` and `bias`.
    Both,
}

impl Affine {
    /// Whether there is a `weight`.
    pub fn has_weight(self) -> bool {
        matches!(self, Affine::Weight | Affine::Both)
    }

    /// Whether there is a `bias`.
    pub fn has_bias(self) -> bool {
        matches!(self, Affine::Bias | Affine::Both)
    }
}

/// A layer's parameters and running statistics, where its context keeps them.
pub struct Parameters {
    layer: &'static str,
    context: Context,
    channels: usize,
    weight: Option<Tensor<'static>>,
    bias: Option<Tensor<'static>>,
    running: Option<Running>,
    #[cfg(feature = "gpu")]
    pub(crate) calls: CallCache,
}

/// Running statistics stay where they are used, and are updated there.
enum Running {
    Host(Mutex<HostRunning>),
    /// `running_mean` then `running_var` in one buffer, and the count of steps in another.
    #[cfg(feature = "gpu")]
    Gpu {
        stats: wgpu::Buffer,
        tracked: wgpu::Buffer,
    },
}

impl Parameters {
    /// weight 1, bias 0, running mean 0, running variance 1, count 0.
    pub(super) fn new(
        layer: &'static str,
        context: &Context,
        channels: usize,
        affine: Affine,
        tracks: bool,
    ) -> Result<Self, Error> {
        // Work recorded with a parameter may outlive it in the layer: its memory is never recycled.
        let constant = |value: f32| {
            let tensor = Tensor::from_vec([channels], vec![value; channels])?;
            tensor.to_context(context).inspect(Tensor::escape)
        };
        let running = if tracks {
            Some(Running::new(context, &vec![0.0; channels], &vec![1.0; channels], 0)?)
        } else {
            None
        };
        Ok(Parameters {
            layer,
            context: context.clone(),
            channels,
            weight: affine.has_weight().then(|| constant(1.0)).transpose()?,
            bias: affine.has_bias().then(|| constant(0.0)).transpose()?,
            running,
            #[cfg(feature = "gpu")]
            calls: CallCache::default(),
        })
    }

    /// The layer's name, as errors give it.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// `weight`, shape `(C,)`, if the layer has one.
    pub fn weight(&self) -> Option<&Tensor<'static>> {
        self.weight.as_ref()
    }

    /// `bias`, shape `(C,)`, if the layer has one.
    pub fn bias(&self) -> Option<&Tensor<'static>> {
        self.bias.as_ref()
    }

    /// Replaces `weight`. A tensor on the host is copied to the layer's context; one on its GPU is
    /// shared, so that an optimizer may update it there. Work already recorded keeps the old one.
    ///
    /// # Errors
    /// [`StateError`] if the layer has no weight or it has another shape, [`OperandError`] if it is
    /// on another device.
    pub fn set_weight(&mut self, weight: &Tensor<'_>) -> Result<(), Error> {
        let placed = self.place("weight", self.weight.is_some(), weight)?;
        self.weight = Some(placed);
        Ok(())
    }

    /// Replaces `bias`, as [`set_weight`](Self::set_weight).
    ///
    /// # Errors
    /// As [`set_weight`](Self::set_weight).
    pub fn set_bias(&mut self, bias: &Tensor<'_>) -> Result<(), Error> {
        let placed = self.place("bias", self.bias.is_some(), bias)?;
        self.bias = Some(placed);
        Ok(())
    }

    fn place(
        &mut self,
        name: &'static str,
        present: bool,
        tensor: &Tensor<'_>,
    ) -> Result<Tensor<'static>, Error> {
        if !present {
            return Err(StateError::Absent { layer: self.layer, name }.into());
        }
        self.check_shape(name, tensor)?;
        let placed = tensor.to_context(&self.context).inspect(Tensor::escape)?;
        #[cfg(feature = "gpu")]
        self.calls.clear();
        Ok(placed)
    }

    fn check_shape(&self, name: &'static str, tensor: &Tensor<'_>) -> Result<(), StateError> {
        let expected = [self.channels].into();
        if *tensor.shape() == expected {
            return Ok(());
        }
        Err(StateError::Shape { layer: self.layer, name, expected, got: tensor.shape().clone() })
    }

    /// Replaces the running statistics. Work already recorded keeps using the old ones.
    ///
    /// # Errors
    /// [`StateError`] if the layer tracks none, for another shape, or a count above `u32::MAX`.
    pub fn set_running_stats(
        &mut self,
        running_mean: &[f32],
        running_var: &[f32],
        num_batches_tracked: u64,
    ) -> Result<(), Error> {
        let layer = self.layer;
        self.running()?;
        self.check_shape("running_mean", &Tensor::from_slice([running_mean.len()], running_mean)?)?;
        self.check_shape("running_var", &Tensor::from_slice([running_var.len()], running_var)?)?;
        let tracked = u32::try_from(num_batches_tracked).map_err(|_| StateError::Count {
            layer,
            got: num_batches_tracked,
            limit: u32::MAX,
        })?;
        self.running = Some(Running::new(&self.context, running_mean, running_var, tracked)?);
        #[cfg(feature = "gpu")]
        self.calls.clear();
        Ok(())
    }

    /// Running mean 0, running variance 1, count 0. Without running statistics, nothing.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device fails.
    pub fn reset_running_stats(&mut self) -> Result<(), Error> {
        if self.running.is_none() {
            return Ok(());
        }
        self.set_running_stats(&vec![0.0; self.channels], &vec![1.0; self.channels], 0)
    }

    /// `running_mean`, shape `(C,)`. On a GPU a view of the live values, read whenever it is read
    /// back; on the host a copy.
    ///
    /// # Errors
    /// [`StateError::Absent`] if the layer tracks none.
    pub fn running_mean(&self) -> Result<Tensor<'static>, Error> {
        self.running_part(0)
    }

    /// `running_var`, as [`running_mean`](Self::running_mean).
    ///
    /// # Errors
    /// As [`running_mean`](Self::running_mean).
    pub fn running_var(&self) -> Result<Tensor<'static>, Error> {
        self.running_part(1)
    }

    /// Training steps counted so far. InstanceNorm counts only with a cumulative momentum, as in
    /// PyTorch. On an application's device it completes when the application polls, as
    /// [`Tensor::to_vec`] does.
    ///
    /// # Errors
    /// [`StateError::Absent`] if the layer tracks none, [`RunError`](crate::RunError) if the device
    /// fails.
    pub async fn num_batches_tracked(&self) -> Result<u64, Error> {
        count_in(&self.tracked()?.to_vec().await?)
    }

    /// [`num_batches_tracked`](Self::num_batches_tracked) that blocks this thread, polling the device
    /// meanwhile. Native only.
    ///
    /// # Errors
    /// As [`num_batches_tracked`](Self::num_batches_tracked).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn num_batches_tracked_blocking(&self) -> Result<u64, Error> {
        count_in(&self.tracked()?.to_vec_blocking()?)
    }

    /// The count of steps, its bits in an f32.
    fn tracked(&self) -> Result<Tensor<'static>, Error> {
        match self.running()? {
            Running::Host(running) => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Tensor::from_vec([1], vec![f32::from_bits(running.tracked)])?)
            }
            #[cfg(feature = "gpu")]
            Running::Gpu { tracked, .. } => self.gpu_view(tracked, 0, 1),
        }
    }

    /// Forgets the calls kept ready for reuse, and so lets go of the buffers they hold. They are kept
    /// for up to 32 sets of operands, for fewer above 512 MiB.
    pub fn trim(&self) {
        #[cfg(feature = "gpu")]
        self.calls.clear();
    }

    /// A view of a buffer of this layer's.
    #[cfg(feature = "gpu")]
    fn gpu_view(
        &self,
        buffer: &wgpu::Buffer,
        offset: usize,
        len: usize,
    ) -> Result<Tensor<'static>, Error> {
        let gpu = self.context.gpu().expect("GPU statistics belong to a GPU context");
        let data = GpuData::shared(gpu, buffer.clone(), offset as u64 * 4);
        Ok(Tensor::gpu(crate::TensorDesc::new([len])?, data))
    }

    fn running(&self) -> Result<&Running, StateError> {
        let absent = StateError::Absent { layer: self.layer, name: "running statistics" };
        self.running.as_ref().ok_or(absent)
    }

    fn running_part(&self, part: usize) -> Result<Tensor<'static>, Error> {
        match self.running()? {
            Running::Host(running) => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                let values = if part == 0 { &running.mean } else { &running.var };
                Ok(Tensor::from_vec([self.channels], values.clone())?)
            }
            #[cfg(feature = "gpu")]
            Running::Gpu { stats, .. } => self.gpu_view(stats, part * self.channels, self.channels),
        }
    }

    pub(super) fn check_context(&self, context: &Context) -> Result<(), OperandError> {
        if self.context.same_device(context) {
            Ok(())
        } else {
            Err(OperandError::OtherContext { layer: self.layer })
        }
    }

    pub(super) fn host_running(&self) -> Option<&Mutex<HostRunning>> {
        match self.running.as_ref()? {
            Running::Host(running) => Some(running),
            #[cfg(feature = "gpu")]
            Running::Gpu { .. } => None,
        }
    }

    #[cfg(feature = "gpu")]
    pub(super) fn gpu_running(&self) -> Option<(&wgpu::Buffer, &wgpu::Buffer)> {
        match self.running.as_ref()? {
            Running::Host(_) => None,
            Running::Gpu { stats, tracked } => Some((stats, tracked)),
        }
    }

    #[cfg(feature = "gpu")]
    pub(super) fn bytes(&self) -> u64 {
        self.channels as u64 * 4
    }
}

fn count_in(bits: &[f32]) -> Result<u64, Error> {
    Ok(bits.iter().map(|bits| u64::from(bits.to_bits())).sum())
}

impl Running {
    fn new(context: &Context, mean: &[f32], var: &[f32], tracked: u32) -> Result<Self, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return Ok(Running::Gpu {
                stats: gpu.fixed(bytemuck::cast_slice(&[mean, var].concat()))?,
                tracked: gpu.fixed(&tracked.to_ne_bytes())?,
            });
        }
        let _ = context;
        let (mean, var) = (mean.to_vec(), var.to_vec());
        Ok(Running::Host(Mutex::new(HostRunning { mean, var, tracked })))
    }
}
