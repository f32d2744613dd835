//! A list of stages on a GPU: each is one convolution of ours and one fused normalization of wgnorm's or a pooling,
//! recorded into the same compute pass. Activations never leave the device.

mod conv;
mod device;
mod pool;
mod slots;

use std::collections::VecDeque;

use wgnorm::{Activation, Context, Extras, Mode, NormLayer, Statistics, Tensor};
use wgpu::{BufferUsages, Device, Queue};

use crate::error::{Error, GpuError};
use crate::executor::size_of;
use crate::net::{Finish, Size, Stage};
use crate::norms::{Norm, norm_of};
use conv::{Conv, Kernels, Window};
use device::{Owned, Ticket, guarded};
use pool::{Pool, Pooling};
use slots::SlotPlan;

/// Multiplications of one submission, at least: below that, submitting costs more than it tells.
const SUBMISSION_WORK: u64 = 1 << 30;

/// Bytes bound where no moments are written: one entry.
const NO_MOMENTS: u64 = 16;

/// Stages with their weights on the device.
pub(crate) struct GpuNet {
    context: Context,
    device: Device,
    queue: Queue,
    stages: Vec<Stage>,
    convs: Vec<Conv>,
    norms: Vec<Option<Norm>>,
    pool: Pool,
    /// Buffers and bindings of the size that ran last.
    fitted: Option<Fitted>,
}

/// Everything that depends on the input's size.
struct Fitted {
    size: Size,
    /// The first holds the input.
    slots: Vec<Owned>,
    stages: Vec<FittedStage>,
    /// What the stages' statistics lie in.
    _moments: Owned,
}

/// A stage's dispatches and its norm's operands.
struct FittedStage {
    windows: Vec<Window>,
    pooling: Option<Pooling>,
    convolved: Tensor<'static>,
    output: Tensor<'static>,
    addend: Option<Tensor<'static>>,
    /// What the convolution found out for the norm.
    statistics: Option<Statistics>,
}

impl GpuNet {
    pub async fn new(context: &Context, stages: &[Stage]) -> Result<GpuNet, Error> {
        let missing = || GpuError::Device("the context has no device".to_owned());
        let device = context.device().ok_or_else(missing)?.clone();
        let queue = context.queue().ok_or_else(missing)?.clone();
        let made = guarded(&device, || {
            let mut kernels = Kernels::new(&device, &queue);
            let convs = stages.iter().map(|stage| Conv::new(&mut kernels, stage));
            Ok::<_, GpuError>((convs.collect::<Result<_, _>>()?, Pool::new(&device, &queue)))
        });
        let (convs, pool) = made.await??;
        let norms = stages.iter().map(|stage| norm_of(stage, context)).collect::<Result<_, _>>()?;
        let (context, stages) = (context.clone(), stages.to_vec());
        Ok(GpuNet { context, device, queue, stages, convs, norms, pool, fitted: None })
    }

    /// How many stages there are.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// The stages, and their norms.
    pub fn norms(&mut self) -> (&[Stage], &mut [Option<Norm>]) {
        (&self.stages, &mut self.norms)
    }

    /// What the stages make of `input`, of shape `(1, C, H, W)`, on the host or on this device. The next run overwrites
    /// it, and it is gone with this value.
    pub async fn run(
        &mut self,
        input: &Tensor<'_>,
        finished: impl FnMut(usize, &'static str),
    ) -> Result<Tensor<'static>, Error> {
        let size = size_of(input);
        // Buffers of another size are gone before new ones are made.
        let kept = self.fitted.take().filter(|fitted| fitted.size == size);
        let fitted = match kept {
            Some(fitted) => fitted,
            None => self.prepare(size).await?,
        };
        guarded(&self.device, || self.load(input, &fitted.slots[0])).await?;
        self.submit(&fitted, finished).await?;
        let fitted = self.fitted.insert(fitted);
        Ok(fitted.stages.last().expect("the network has stages").output.clone())
    }

    fn load(&self, input: &Tensor<'_>, buffer: &wgpu::Buffer) {
        if let Some(values) = input.as_slice() {
            self.queue.write_buffer(buffer, 0, bytemuck::cast_slice(values));
        } else if let Some((source, offset)) = input.buffer() {
            let bytes = 4 * input.shape().iter().product::<usize>() as u64;
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(source, offset, buffer, 0, bytes);
            self.queue.submit([encoder.finish()]);
        }
    }

    /// Whether the device's limits hold a picture of this size.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self, size: Size) -> Result<(), Error> {
        Ok(check_size(&self.stages, size, &self.device.limits())?)
    }

    async fn prepare(&self, size: Size) -> Result<Fitted, Error> {
        let plan = SlotPlan::new(&self.stages, size);
        check(&self.stages, &plan, size, &self.device.limits())?;
        let made = guarded(&self.device, || {
            let slots = plan.capacity.iter().map(|&values| {
                Owned(self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("activations"),
                    size: 4 * values,
                    usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }))
            });
            let slots: Vec<_> = slots.collect();
            // Of one convolution after the other, where a norm follows.
            let moments = plan.stages.iter().zip(&self.convs).zip(&self.stages);
            let moments = moments.filter(|(_, stage)| stage.finish.has_norm());
            let moments = moments.map(|((at, conv), _)| conv.moments(at.sizes[0])).max();
            let moments = Owned(self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("moments"),
                size: moments.unwrap_or(NO_MOMENTS),
                usage: BufferUsages::STORAGE,
                mapped_at_creation: false,
            }));
            let stage = |((at, conv), stage): ((&slots::StageSlots, &Conv), &Stage)| {
                let windows =
                    conv.prepare(at.sizes[0], &slots[at.input], &slots[at.convolved], &moments);
                let pooling = (stage.finish == Finish::ReluPool).then(|| {
                    let (x, y) = (&slots[at.convolved], &slots[at.output]);
                    self.pool.prepare(stage.geometry.out_channels, at.sizes[1], x, y)
                });
                (windows, pooling)
            };
            let stages = plan.stages.iter().zip(&self.convs).zip(&self.stages).map(stage);
            let stages: Vec<_> = stages.collect();
            (slots, moments, stages)
        });
        let (slots, moments, dispatches) = made.await?;

        let mut stages = Vec::new();
        for (((at, (windows, pooling)), stage), conv) in
            plan.stages.iter().zip(dispatches).zip(&self.stages).zip(&self.convs)
        {
            let tensor = |slot: usize, size: Size| -> Result<_, Error> {
                let shape = [1, stage.geometry.out_channels, size.height, size.width];
                Ok(Tensor::from_buffer(&self.context, slots[slot].0.clone(), 0, shape)?)
            };
            let shape = [stage.geometry.out_channels, conv.parts(at.sizes[0]), 4];
            let statistics = || -> Result<_, Error> {
                let tensor = Tensor::from_buffer(&self.context, moments.0.clone(), 0, shape)?;
                Ok(Statistics::from_tensor(tensor)?)
            };
            stages.push(FittedStage {
                statistics: stage.finish.has_norm().then(statistics).transpose()?,
                windows,
                pooling,
                convolved: tensor(at.convolved, at.sizes[1])?,
                output: tensor(at.output, at.sizes[2])?,
                addend: at.addend.map(|slot| tensor(slot, at.sizes[2])).transpose()?,
            });
        }
        Ok(Fitted { size, slots, stages, _moments: moments })
    }

    /// Records and submits stage after stage. While one submission runs the next is recorded; `finished` hears how
    /// many are done, and the last one's name.
    async fn submit(
        &self,
        fitted: &Fitted,
        mut finished: impl FnMut(usize, &'static str),
    ) -> Result<(), Error> {
        let total = fitted.stages.len();
        let mut chunk = Chunk::new(&self.device);
        let mut running: VecDeque<(Ticket, Option<usize>)> = VecDeque::new();
        for (index, stage) in fitted.stages.iter().enumerate() {
            for (number, window) in stage.windows.iter().enumerate() {
                chunk.work += window.work;
                window.record(&mut chunk.pass);
                let last = number + 1 == stage.windows.len();
                if last {
                    self.record_finish(index, stage, &mut chunk.pass)?;
                }
                let end = last && index + 1 == total;
                if chunk.work >= SUBMISSION_WORK || end {
                    let full = std::mem::replace(&mut chunk, Chunk::new(&self.device));
                    let ticket = guarded(&self.device, || full.submit(&self.queue)).await?;
                    running.push_back((ticket, last.then_some(index)));
                }
                while running.len() > usize::from(!end) {
                    let (ticket, stage) = running.pop_front().expect("it is not empty");
                    ticket.finished(&self.device).await?;
                    if let Some(stage) = stage {
                        finished(stage + 1, self.stages[stage].name);
                    }
                }
            }
        }
        Ok(())
    }

    /// What follows the convolution and is not part of it.
    fn record_finish(
        &self,
        index: usize,
        stage: &FittedStage,
        pass: &mut wgpu::ComputePass<'static>,
    ) -> Result<(), Error> {
        if let Some(pooling) = &stage.pooling {
            pooling.record(pass);
        }
        let Some(norm) = &self.norms[index] else { return Ok(()) };
        let extras = match (&stage.addend, self.stages[index].finish) {
            (Some(addend), Finish::NormAddBlockInput) => Extras::new().with_addend(addend),
            _ => Extras::new().with_activation(Activation::Relu),
        };
        let extras = match &stage.statistics {
            Some(statistics) => extras.with_statistics(statistics),
            None => extras,
        };
        let (x, y) = (&stage.convolved, &stage.output);
        Ok(norm.record(&self.context, pass, x, y, &extras, Mode::Eval)?)
    }
}

/// Whether a device with these limits holds a picture of this size.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn check_size(
    stages: &[Stage],
    size: Size,
    limits: &wgpu::Limits,
) -> Result<(), GpuError> {
    check(stages, &SlotPlan::new(stages, size), size, limits)
}

/// Refuses pictures whose activations exceed the device's limits, before anything is allocated.
fn check(
    stages: &[Stage],
    plan: &SlotPlan,
    picture: Size,
    limits: &wgpu::Limits,
) -> Result<(), GpuError> {
    let named = [
        ("maxStorageBufferBindingSize", limits.max_storage_buffer_binding_size),
        ("maxBufferSize", limits.max_buffer_size),
        // Ours: the kernel counts elements of four bytes in 31 bits.
        ("largest addressable size", 1 << 33),
    ];
    let (limit_name, limit) = named.into_iter().min_by_key(|named| named.1).expect("three limits");
    let needed = plan.largest();
    if needed <= limit {
        return Ok(());
    }
    let suggestion = slots::longest_side_within(stages, picture, limit);
    Err(GpuError::TooLarge { size: picture, needed, limit_name, limit, suggestion })
}

/// Commands that are submitted together.
struct Chunk {
    encoder: wgpu::CommandEncoder,
    pass: wgpu::ComputePass<'static>,
    work: u64,
}

impl Chunk {
    fn new(device: &Device) -> Chunk {
        let mut encoder = device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("stylize") });
        let pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime();
        Chunk { encoder, pass, work: 0 }
    }

    fn submit(self, queue: &Queue) -> Ticket {
        drop(self.pass); // ends it: an open pass locks its encoder
        Ticket::submit(queue, self.encoder.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::styles::STYLES;

    #[test]
    fn a_picture_beyond_the_limits_is_refused_with_both_numbers_and_the_way_out() {
        let net = STYLES[0].net().unwrap();
        let limits = wgpu::Limits::default();
        let tried = |height, width| {
            let picture = Size::new(height, width);
            check(net.stages(), &SlotPlan::new(net.stages(), picture), picture, &limits)
        };
        // 16 channels of four bytes: 128 MiB are 2^21 pixels.
        assert!(tried(1024, 2048).is_ok());
        let message = tried(1500, 3000).unwrap_err().to_string();
        for expected in
            ["3000x1500", "288000000", "maxStorageBufferBindingSize is 134217728", "--size 2048"]
        {
            assert!(message.contains(expected), "{expected:?} is not in {message}");
        }
    }
}
