//! A plan and its operands become pipelines, bind groups and dispatches.

use super::{Gpu, kernels::Role, memory::GpuData, pipelines::PipelineKey};
use crate::plan::{Offsets, Plan, Stage, Window, binding_range};
use crate::{Error, OperandError, Problem};
use std::sync::{Arc, Mutex, PoisonError};

/// Calls that a layer keeps ready: training and evaluation over a ring of buffers.
const CALLS_MAX: usize = 32;
/// Calls hold their buffers alive. Beyond this many bytes only the latest [`CALLS_MIN`] are kept: an
/// application that changes its sizes must not pay for all of its past. A call prepared again costs
/// some microseconds.
const CALLS_BYTES: u64 = 512 << 20;
/// Training and evaluation with double-buffered operands.
const CALLS_MIN: usize = 4;

/// Something commands can be recorded into: a command encoder, or a compute pass under way.
///
/// Implemented for [`wgpu::CommandEncoder`] and [`wgpu::ComputePass`]. Into an encoder a layer
/// records one pass of its own; into a pass only dispatches, which wgpu keeps in order. The pass's
/// pipeline and bind group 0 are changed.
pub trait Recorder {
    /// Calls `record` with a compute pass.
    #[doc(hidden)]
    fn with_pass(&mut self, record: &mut dyn FnMut(&mut wgpu::ComputePass<'_>));
}

impl Recorder for wgpu::CommandEncoder {
    fn with_pass(&mut self, record: &mut dyn FnMut(&mut wgpu::ComputePass<'_>)) {
        let descriptor =
            wgpu::ComputePassDescriptor { label: Some("wgnorm"), timestamp_writes: None };
        record(&mut self.begin_compute_pass(&descriptor));
    }
}

impl Recorder for wgpu::ComputePass<'_> {
    fn with_pass(&mut self, record: &mut dyn FnMut(&mut wgpu::ComputePass<'_>)) {
        record(self);
    }
}

/// The operands of one call, on this device.
pub(crate) struct Operands<'a> {
    pub x: &'a GpuData,
    pub y: &'a GpuData,
    pub addend: Option<&'a GpuData>,
    pub weight: Option<&'a GpuData>,
    pub bias: Option<&'a GpuData>,
    /// `running_mean` then `running_var`, and the count of steps.
    pub running: Option<(&'a wgpu::Buffer, &'a wgpu::Buffer)>,
    /// Bytes of `weight` and of `bias`.
    pub param_bytes: u64,
}

impl Operands<'_> {
    fn offsets(&self) -> Offsets {
        let of = |data: Option<&GpuData>| data.map_or(0, GpuData::offset);
        Offsets {
            x: self.x.offset(),
            y: self.y.offset(),
            addend: of(self.addend),
            weight: of(self.weight),
            bias: of(self.bias),
        }
    }

    /// A buffer that is read and written in one dispatch is an error in WebGPU, even where the
    /// ranges are disjoint.
    fn check_shared(&self) -> Result<(), OperandError> {
        let reads = [
            ("x", Some(self.x.buffer())),
            ("addend", self.addend.map(GpuData::buffer)),
            ("weight", self.weight.map(GpuData::buffer)),
            ("bias", self.bias.map(GpuData::buffer)),
            ("running statistics", self.running.map(|(stats, _)| stats)),
        ];
        for (operand, buffer) in reads {
            if buffer == Some(self.y.buffer()) {
                return Err(OperandError::SharedBuffer { operand });
            }
        }
        Ok(())
    }
}

/// A call with everything wgpu needs for it: recording it creates nothing.
pub(crate) struct Call {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
}

impl Call {
    pub fn record(&self, recorder: &mut dyn Recorder) {
        if self.steps.is_empty() {
            return;
        }
        recorder.with_pass(&mut |pass| {
            for (pipeline, bind_group, [x, y, z]) in &self.steps {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        });
    }
}

/// What distinguishes a layer's calls from each other.
#[derive(PartialEq)]
struct CallKey {
    problem: Problem,
    offsets: Offsets,
    buffers: [Option<wgpu::Buffer>; 3],
}

/// The latest calls of one layer, most recent last.
#[derive(Default)]
pub(crate) struct CallCache {
    calls: Mutex<Vec<(CallKey, Arc<Call>)>>,
}

impl CallCache {
    /// Forgets all calls.
    pub fn clear(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The call with these operands, prepared now if it is not among the latest.
    pub fn get(
        &self,
        gpu: &Gpu,
        problem: &Problem,
        operands: &Operands<'_>,
    ) -> Result<Arc<Call>, Error> {
        let key = CallKey {
            problem: *problem,
            offsets: operands.offsets(),
            buffers: [Some(operands.x), Some(operands.y), operands.addend]
                .map(|data| data.map(|data| data.buffer().clone())),
        };
        {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = calls.iter().rposition(|(kept, _)| *kept == key) {
                let found = calls.remove(at);
                let call = found.1.clone();
                calls.push(found);
                return Ok(call);
            }
        }
        // Not under the lock: compiling takes milliseconds. Two threads may prepare the same call;
        // either will do.
        operands.check_shared()?;
        let plan = Plan::forward(problem, &gpu.caps, &key.offsets)?;
        let call = Arc::new(gpu.prepare(&plan, operands)?);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push((key, call.clone()));
        while calls.len() > CALLS_MAX || (calls.len() > CALLS_MIN && held(&calls) > CALLS_BYTES) {
            calls.remove(0);
        }
        Ok(call)
    }
}

/// Bytes of the operands that these calls keep alive.
fn held(calls: &[(CallKey, Arc<Call>)]) -> u64 {
    let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
    for buffer in calls.iter().flat_map(|(key, _)| key.buffers.iter().flatten()) {
        if !buffers.contains(&buffer) {
            buffers.push(buffer);
        }
    }
    buffers.iter().map(|buffer| buffer.size()).sum()
}

impl Gpu {
    fn prepare(&self, plan: &Plan, operands: &Operands<'_>) -> Result<Call, Error> {
        let scratch = self.scratch(plan.scratch)?;
        let mut steps = Vec::with_capacity(plan.stages.len());
        for stage in &plan.stages {
            let (pipeline, layout) = self.pipelines.get(&self.device, PipelineKey::from(stage))?;
            let task = self.task(&stage.task)?;
            let mut entries = Vec::new();
            if stage.kernel.has_task() {
                let resource = task.as_entire_binding();
                entries.push(wgpu::BindGroupEntry { binding: Role::Task as u32, resource });
            }
            for &(role, _) in stage.kernel.bindings() {
                let resource =
                    wgpu::BindingResource::Buffer(self.bind(role, stage, operands, &scratch));
                entries.push(wgpu::BindGroupEntry { binding: role as u32, resource });
            }
            let label = format!("wgnorm {}", stage.kernel.entry_point());
            let bind_group = self.device.scoped(&label, 0, || {
                self.device.count();
                self.device.wgpu().create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&label),
                    layout: &layout,
                    entries: &entries,
                })
            })?;
            steps.push((pipeline, bind_group, stage.workgroups));
        }
        Ok(Call { steps })
    }

    /// The range of the buffer that plays a role in a stage.
    fn bind<'a>(
        &'a self,
        role: Role,
        stage: &Stage,
        operands: &Operands<'a>,
        scratch: &'a wgpu::Buffer,
    ) -> wgpu::BufferBinding<'a> {
        let whole =
            |buffer: &'a wgpu::Buffer| wgpu::BufferBinding { buffer, offset: 0, size: None };
        let absent = || whole(&self.absent);
        let part = |data: &'a GpuData, window: &Window| {
            let (offset, size) = binding_range(data.offset(), window, self.caps.offset_alignment);
            wgpu::BufferBinding {
                buffer: data.buffer(),
                offset,
                size: wgpu::BufferSize::new(size.next_multiple_of(4)),
            }
        };
        let params = Window { first: 0, len: (operands.param_bytes / 4) as u32 };
        match role {
            Role::Task => unreachable!("the task is bound by prepare"),
            Role::X => part(operands.x, &stage.window),
            Role::Y => part(operands.y, &stage.window),
            Role::Addend => operands.addend.map_or_else(absent, |data| part(data, &stage.window)),
            Role::Weight => operands.weight.map_or_else(absent, |data| part(data, &params)),
            Role::Bias => operands.bias.map_or_else(absent, |data| part(data, &params)),
            Role::Moments => whole(scratch),
            Role::Running => operands.running.map_or_else(absent, |(stats, _)| whole(stats)),
            Role::Tracked => operands.running.map_or_else(absent, |(_, steps)| whole(steps)),
        }
    }
}
