//! The network on a GPU: each stage is one convolution of ours and one fused normalization of wgnorm's, recorded into
//! the same compute pass. Activations never leave the device.

mod conv;
mod device;
mod slots;

use std::collections::VecDeque;

use wgnorm::{Activation, Context, Epilogue, Mode, NormLayer, Tensor};
use wgpu::{BufferUsages, Device, Queue};

use crate::error::{Error, GpuError};
use crate::net::{Finish, Size, TransformerNet};
use crate::norms::{Norm, norm_of};
use crate::picture::Planes;
use crate::stylizer::Progress;
use conv::{Conv, Kernels, Window};
use device::{Ticket, guarded};
use slots::SlotPlan;

/// Multiplications of one submission, at least: below that, submitting costs more than it tells.
const SUBMISSION_WORK: u64 = 1 << 30;

/// A network with its weights on the device.
pub(crate) struct GpuNet {
    context: Context,
    device: Device,
    queue: Queue,
    net: TransformerNet,
    convs: Vec<Conv>,
    norms: Vec<Option<Norm>>,
    /// Buffers and bindings of the size that ran last.
    fitted: Option<Fitted>,
}

/// Everything that depends on the picture's size.
struct Fitted {
    picture: Size,
    input: wgpu::Buffer,
    stages: Vec<FittedStage>,
    output: Tensor<'static>,
    output_size: Size,
}

/// A stage's dispatches and its norm's operands.
struct FittedStage {
    windows: Vec<Window>,
    convolved: Tensor<'static>,
    normalized: Tensor<'static>,
    addend: Option<Tensor<'static>>,
}

impl GpuNet {
    pub async fn new(context: &Context, net: &TransformerNet) -> Result<GpuNet, Error> {
        let missing = || GpuError::Device("the context has no device".to_owned());
        let device = context.device().ok_or_else(missing)?.clone();
        let queue = context.queue().ok_or_else(missing)?.clone();
        let convs = guarded(&device, || {
            let mut kernels = Kernels::new(&device, &queue);
            let conv = |stage: &crate::Stage| {
                Conv::new(&mut kernels, &stage.geometry, &stage.weight, &stage.bias)
            };
            net.stages().iter().map(conv).collect::<Result<Vec<_>, _>>()
        });
        let convs = convs.await??;
        let norms =
            net.stages().iter().map(|stage| norm_of(stage, context)).collect::<Result<_, _>>()?;
        Ok(GpuNet {
            context: context.clone(),
            device,
            queue,
            net: net.clone(),
            convs,
            norms,
            fitted: None,
        })
    }

    pub async fn run(
        &mut self,
        input: &Planes,
        progress: impl FnMut(Progress),
    ) -> Result<Planes, Error> {
        let fitted = match self.fitted.take() {
            Some(fitted) if fitted.picture == input.size => fitted,
            // The old buffers are dropped before the new ones are made.
            _ => self.prepare(input.size).await?,
        };
        self.queue.write_buffer(&fitted.input, 0, bytemuck::cast_slice(&input.data));
        self.submit(&fitted, progress).await?;
        let data = fitted.output.to_vec().await?;
        let size = fitted.output_size;
        self.fitted = Some(fitted);
        Ok(Planes { size, data })
    }

    async fn prepare(&self, picture: Size) -> Result<Fitted, Error> {
        let plan = SlotPlan::new(&self.net, picture);
        check(&self.net, &plan, picture, &self.device.limits())?;
        let made = guarded(&self.device, || {
            let slots = plan.capacity.iter().map(|&values| {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("activations"),
                    size: 4 * values,
                    usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            });
            let slots: Vec<_> = slots.collect();
            let stage = |(at, conv): (&slots::StageSlots, &Conv)| {
                conv.prepare(at.sizes.0, &slots[at.input], &slots[at.convolved])
            };
            let windows: Vec<_> = plan.stages.iter().zip(&self.convs).map(stage).collect();
            (slots, windows)
        });
        let (slots, windows) = made.await?;

        let mut stages = Vec::new();
        for ((at, windows), stage) in plan.stages.iter().zip(windows).zip(self.net.stages()) {
            let shape = [1, stage.geometry.out_channels, at.sizes.1.height, at.sizes.1.width];
            let tensor = |slot: usize| -> Result<_, Error> {
                Ok(Tensor::from_buffer(&self.context, slots[slot].clone(), 0, shape)?)
            };
            let addend = at.addend.map(tensor).transpose()?;
            stages.push(FittedStage {
                windows,
                convolved: tensor(at.convolved)?,
                normalized: tensor(at.output)?,
                addend,
            });
        }
        let last = plan.stages.last().expect("the network has stages");
        let output_size = last.sizes.1;
        let shape = [3, output_size.height, output_size.width];
        let output = Tensor::from_buffer(&self.context, slots[last.output].clone(), 0, shape)?;
        Ok(Fitted { picture, input: slots[0].clone(), stages, output, output_size })
    }

    /// Records and submits stage after stage. While one submission runs the next is recorded; `progress` hears of those
    /// that are finished.
    async fn submit(
        &self,
        fitted: &Fitted,
        mut progress: impl FnMut(Progress),
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
                    self.record_norm(index, stage, &mut chunk.pass)?;
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
                        progress(Progress {
                            stage: self.net.stages()[stage].name,
                            done: stage + 1,
                            total,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn record_norm(
        &self,
        index: usize,
        stage: &FittedStage,
        pass: &mut wgpu::ComputePass<'static>,
    ) -> Result<(), Error> {
        let Some(norm) = &self.norms[index] else { return Ok(()) };
        let epilogue = match (&stage.addend, self.net.stages()[index].finish) {
            (Some(addend), Finish::NormAddBlockInput) => Epilogue::new().with_addend(addend),
            _ => Epilogue::new().with_activation(Activation::Relu),
        };
        let (x, y) = (&stage.convolved, &stage.normalized);
        Ok(norm.record(&self.context, pass, x, y, epilogue, Mode::Eval)?)
    }
}

/// Refuses pictures whose activations exceed the device's limits, before anything is allocated.
fn check(
    net: &TransformerNet,
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
    let suggestion = slots::longest_side_within(net, picture, limit);
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
            check(&net, &SlotPlan::new(&net, picture), picture, &limits)
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
