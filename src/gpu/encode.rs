//! A plan and its operands become pipelines, bind groups and dispatches.

#[cfg(target_arch = "wasm32")]
use super::reports::{Span, Spans};
use super::{Gpu, Scratch, memory::GpuData, pipelines::PipelineKey};
#[cfg(target_arch = "wasm32")]
use crate::RunError;
use crate::plan::{Caps, Keep, Offsets, Operand, Plan, Role, Small, Wants, Window, binding_range};
use crate::{Error, Estimator, OperandError, PlanError, Problem};
use smallvec::SmallVec;
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
#[derive(Default)]
pub(crate) struct Operands<'a> {
    list: SmallVec<[(Operand, &'a GpuData); 12]>,
    /// `running_mean` then `running_var`, and the count of steps.
    pub running: Option<(&'a GpuData, &'a GpuData)>,
}

impl<'a> Operands<'a> {
    pub fn add(&mut self, operand: Operand, data: &'a GpuData) {
        self.list.push((operand, data));
    }

    pub fn get(&self, operand: Operand) -> Option<&'a GpuData> {
        self.list.iter().find(|(named, _)| *named == operand).map(|(_, data)| *data)
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn iter(&self) -> impl Iterator<Item = (Operand, &'a GpuData)> {
        self.list.iter().copied()
    }

    /// The groups of calls that may yet turn out to have spoiled what a call reads, or the error that has.
    #[cfg(target_arch = "wasm32")]
    pub fn doubts(&self, gpu: &Gpu, call: &Call) -> Result<Spans, RunError> {
        let read = self.list.iter().filter(|(operand, _)| match operand {
            Operand::WeightOut | Operand::BiasOut => call.accumulates,
            _ => !call.written.contains(operand),
        });
        let running = self.running.into_iter().flat_map(|(stats, steps)| [stats, steps]);
        let read: SmallVec<[_; 12]> = read.map(|(_, data)| *data).chain(running).collect();
        gpu.doubts(&read)
    }

    /// A call that depends on these groups has written what it writes, its own being `group`.
    #[cfg(target_arch = "wasm32")]
    fn set_made(&self, call: &Call, doubts: &Spans, group: Span) {
        let mut made = doubts.clone();
        made.add(group.clone());
        for (_, data) in self.list.iter().filter(|(operand, _)| call.written.contains(operand)) {
            data.set_made(made.clone());
        }
        // Both are updated in one submission, and what both missed is told once.
        if let Some((stats, steps)) = self.running {
            if call.written.contains(&Operand::Running) {
                stats.add_update(group);
            } else if call.written.contains(&Operand::Tracked) {
                steps.add_update(group);
            }
        }
    }

    /// Keeps the memory of all operands out of the pool: the application decides when it is used.
    pub fn escape(&self) {
        self.list.iter().for_each(|(_, data)| data.escape());
    }

    pub fn offsets(&self) -> Offsets {
        let of = |operand| self.get(operand).map_or(0, GpuData::offset);
        Offsets {
            x: of(Operand::X),
            y: of(Operand::Y),
            addend: of(Operand::Addend),
            dy: of(Operand::Dy),
            weight: of(Operand::Weight),
            bias: of(Operand::Bias),
            shared: self.shares(Operand::X),
        }
    }

    /// Whether it lies in y's buffer.
    fn shares(&self, operand: Operand) -> bool {
        let buffer = |operand| self.get(operand).map(GpuData::buffer);
        buffer(operand).is_some_and(|given| buffer(Operand::Y) == Some(given))
    }

    /// A buffer that is read and written in one dispatch is an error in WebGPU, even where the
    /// ranges are disjoint; x forward has kernels for it.
    fn check(&self, gpu: &Gpu) -> Result<(), OperandError> {
        use Operand::{BiasOut, Gradient, Moments, Sums, WeightOut, Y};
        let written = [Y, Gradient, WeightOut, BiasOut];
        let buffers = written.map(|operand| self.get(operand).map(GpuData::buffer));
        let forward = self.get(Operand::Dy).is_none();
        for &(operand, data) in &self.list {
            let name = operand.name();
            if forward && operand == Operand::X && self.shares(operand) {
                self.get(Operand::Y).map_or(Ok(()), |y| data.check_overlap(y))?;
                continue;
            }
            let shares = |(to, buffer): (Operand, Option<&wgpu::Buffer>)| {
                operand != to && buffer == Some(data.buffer())
            };
            if written.into_iter().zip(buffers).any(shares) {
                return Err(OperandError::SharedBuffer { operand: name });
            }
            // These are bound where they start: their kernels know no offset.
            let alignment = gpu.caps.offset_alignment;
            if matches!(operand, Moments | Sums | Gradient | WeightOut | BiasOut)
                && !data.offset().is_multiple_of(alignment)
            {
                let offset = data.offset();
                return Err(OperandError::Misaligned { operand: name, offset, alignment });
            }
        }
        let running = self.running.map(|(stats, _)| Some(stats.buffer()));
        if running.is_some_and(|stats| buffers.contains(&stats))
            || self.get(Y).is_some_and(GpuData::is_state)
        {
            return Err(OperandError::SharedBuffer { operand: "running statistics" });
        }
        Ok(())
    }
}

impl Operand {
    fn name(self) -> &'static str {
        match self {
            Operand::X => "x",
            Operand::Y => "y",
            Operand::Addend => "addend",
            Operand::Weight => "weight",
            Operand::Bias => "bias",
            Operand::Moments => "statistics",
            Operand::Dy => "dy",
            Operand::Sums => "sums",
            Operand::Mask => "mask",
            Operand::Gradient => "daddend",
            Operand::WeightOut => "dweight",
            Operand::BiasOut => "dbias",
            _ => "scratch",
        }
    }
}

/// A call with everything wgpu needs for it: recording it creates nothing.
pub(crate) struct Call {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
    #[cfg(target_arch = "wasm32")]
    written: SmallVec<[Operand; 4]>,
    /// Whether parameters' gradients are added to what is there.
    #[cfg(target_arch = "wasm32")]
    accumulates: bool,
    /// Errors of the browser's before it was prepared.
    #[cfg(target_arch = "wasm32")]
    faulted: u64,
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

/// What a call computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Job {
    Forward(Problem, Keep),
    Statistics(Problem),
    Backward(Problem, Wants),
    GroupSums(Problem),
    StyleGradient(Problem, Estimator),
    Small(Small),
}

impl Job {
    pub fn plan(&self, caps: &Caps, offsets: &Offsets) -> Result<Plan, PlanError> {
        match self {
            Job::Forward(problem, keep) => Plan::forward(problem, caps, offsets, *keep),
            Job::Statistics(problem) => Plan::statistics(problem, caps, offsets),
            Job::Backward(problem, wants) => Plan::backward(problem, caps, offsets, *wants),
            Job::GroupSums(problem) => Plan::group_sums(problem, caps, offsets),
            Job::StyleGradient(problem, estimator) => {
                Plan::style_gradient(problem, caps, offsets, *estimator)
            }
            Job::Small(small) => Plan::small(small, caps, offsets),
        }
    }

    /// Bytes of an element of x.
    pub fn element(&self) -> u64 {
        match self {
            Job::Forward(problem, _)
            | Job::Statistics(problem)
            | Job::Backward(problem, _)
            | Job::GroupSums(problem)
            | Job::StyleGradient(problem, _) => problem.dtype.size() as u64,
            Job::Small(_) => 4,
        }
    }
}

/// What distinguishes calls from each other.
struct CallKey {
    job: Job,
    /// Each in its buffer, from this byte on.
    places: SmallVec<[(Operand, wgpu::Buffer, u64); 12]>,
}

impl CallKey {
    fn new(job: &Job, operands: &Operands<'_>) -> Self {
        let place = |&(operand, data): &(Operand, &GpuData)| {
            (operand, data.buffer().clone(), data.offset())
        };
        CallKey { job: *job, places: operands.list.iter().map(place).collect() }
    }

    fn is(&self, job: &Job, operands: &Operands<'_>) -> bool {
        let same = |((operand, buffer, offset), (named, data)): (
            &(Operand, wgpu::Buffer, u64),
            &(Operand, &GpuData),
        )| {
            operand == named && *offset == data.offset() && buffer == data.buffer()
        };
        self.places.len() == operands.list.len()
            && std::iter::zip(&self.places, &operands.list).all(same)
            && self.job == *job
    }
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
    pub fn get(&self, gpu: &Gpu, job: &Job, operands: &Operands<'_>) -> Result<Arc<Call>, Error> {
        #[cfg(target_arch = "wasm32")]
        gpu.heed_faults()?;
        {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            #[cfg(target_arch = "wasm32")]
            calls.retain(|(_, call)| call.faulted == gpu.device.reports.faulted());
            if let Some(at) = calls.iter().rposition(|(kept, _)| kept.is(job, operands)) {
                let found = calls.remove(at);
                let call = found.1.clone();
                calls.push(found);
                return Ok(call);
            }
        }
        // Not under the lock: compiling takes milliseconds. Two threads may prepare the same call;
        // either will do.
        operands.check(gpu)?;
        let plan = gpu.plan(job, operands)?;
        let call = Arc::new(gpu.prepare(&plan, operands, job.element())?);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push((CallKey::new(job, operands), call.clone()));
        while calls.len() > CALLS_MAX || (calls.len() > CALLS_MIN && held(&calls) > CALLS_BYTES) {
            calls.remove(0);
        }
        Ok(call)
    }
}

impl Gpu {
    /// Submits the call with these operands.
    pub fn run(
        &self,
        what: &str,
        calls: &CallCache,
        job: &Job,
        operands: &Operands<'_>,
    ) -> Result<(), Error> {
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        let call = calls.get(self, job, operands)?;
        #[cfg(target_arch = "wasm32")]
        let doubts = operands.doubts(self, &call)?;
        self.submit(what, |encoder| {
            call.record(encoder);
            Ok(())
        })?;
        #[cfg(target_arch = "wasm32")]
        operands.set_made(&call, &doubts, first..self.device.reports.next());
        Ok(())
    }
}

/// Bytes of the operands that these calls keep alive.
fn held(calls: &[(CallKey, Arc<Call>)]) -> u64 {
    let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
    for (_, buffer, _) in calls.iter().flat_map(|(key, _)| &key.places) {
        if !buffers.contains(&buffer) {
            buffers.push(buffer);
        }
    }
    buffers.iter().map(|buffer| buffer.size()).sum()
}

impl Gpu {
    /// The plan of a call. A browser's thread cannot wait for the device, so nothing is measured there.
    #[cfg(target_arch = "wasm32")]
    fn plan(&self, job: &Job, operands: &Operands<'_>) -> Result<Plan, Error> {
        Ok(job.plan(&self.caps(), &operands.offsets())?)
    }

    pub fn prepare(
        &self,
        plan: &Plan,
        operands: &Operands<'_>,
        element: u64,
    ) -> Result<Call, Error> {
        let scratch = self.scratch(plan.partials, plan.gathered)?;
        let mut steps = Vec::with_capacity(plan.stages.len());
        #[cfg(target_arch = "wasm32")]
        let mut all_written = SmallVec::new();
        for stage in &plan.stages {
            let (pipeline, layout) = self.pipelines.get(&self.device, PipelineKey::from(stage))?;
            let task = self.task(&stage.task)?;
            let mut entries: SmallVec<[_; 9]> = SmallVec::new();
            let resource = task.as_entire_binding();
            entries.push(wgpu::BindGroupEntry { binding: Role::Task as u32, resource });
            for (&(role, written), &operand) in stage.kernel.bindings().iter().zip(&stage.operands)
            {
                let window = role.is_data().then_some((&stage.window, element));
                let also = match role {
                    Role::Y if stage.overrides.shared => operands.get(Operand::X),
                    _ => None,
                };
                let absent = if written { &scratch.sink } else { &scratch.absent };
                #[cfg(target_arch = "wasm32")]
                if written {
                    all_written.push(operand);
                }
                let resource = wgpu::BindingResource::Buffer(
                    self.bind(operand, also, window, operands, &scratch).unwrap_or(whole(absent)),
                );
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
        Ok(Call {
            steps,
            #[cfg(target_arch = "wasm32")]
            written: all_written,
            #[cfg(target_arch = "wasm32")]
            accumulates: plan.stages.iter().any(|stage| stage.overrides.accumulate),
            #[cfg(target_arch = "wasm32")]
            faulted: self.device.reports.faulted(),
        })
    }

    /// The range of an operand that a stage binds: of tensors a window, else all of it. None if it
    /// is absent. `also` lies in the same buffer and is reached through the same binding.
    fn bind<'a>(
        &self,
        operand: Operand,
        also: Option<&GpuData>,
        window: Option<(&Window, u64)>,
        operands: &'a Operands<'_>,
        scratch: &'a Scratch,
    ) -> Option<wgpu::BufferBinding<'a>> {
        let given = operands.get(operand);
        match operand {
            Operand::Partials => return Some(whole(&scratch.partials)),
            Operand::Gathered if given.is_none() => return Some(whole(&scratch.gathered)),
            Operand::Running => return operands.running.map(|(stats, _)| whole(stats.buffer())),
            Operand::Tracked => return operands.running.map(|(_, steps)| whole(steps.buffer())),
            _ => {}
        }
        let data = given?;
        let alignment = self.caps.offset_alignment;
        let all = Window { first: 0, len: (data.bytes() / 4) as u32 };
        let (window, element) = window.unwrap_or((&all, 4));
        let offsets = [data.offset(), also.unwrap_or(data).offset()];
        let (offset, size) = binding_range(offsets, window, alignment, element);
        let size = wgpu::BufferSize::new(size.next_multiple_of(4));
        Some(wgpu::BufferBinding { buffer: data.buffer(), offset, size })
    }
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset: 0, size: None }
}
