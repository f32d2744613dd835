//! The GPU: the only folder that names wgpu's objects.
//!
//! [`kernels`] is the table of shaders, [`pipelines`] compiles them, [`encode`] turns a plan and its
//! operands into bind groups and dispatches, [`tune`] knows which plans were measured to be the
//! fastest, [`run`] makes outputs and submits, [`readback`] is the one way back to the host.

mod device;
mod encode;
pub(crate) mod kernels;
#[cfg(not(target_arch = "wasm32"))]
mod measure;
mod memory;
mod open;
mod pipelines;
mod readback;
#[cfg(target_arch = "wasm32")]
mod reports;
mod run;
#[cfg(not(target_arch = "wasm32"))]
mod tune;
mod wgsl;

pub(crate) use crate::plan::Operand;
pub use encode::Recorder;
pub(crate) use encode::{CallCache, Operands};
pub(crate) use memory::GpuData;
pub(crate) use open::{label, open};
pub(crate) use readback::Readback;
pub(crate) use run::{
    backward, forward, forward_in_place, forward_into, forward_saved, group_sums, merge, mix,
    record, statistics, style_gradient, style_tables,
};

use crate::plan::{Caps, Role, Task, Tuning};
use crate::{OpenError, RunError};
use device::Device;
use memory::Pool;
use pipelines::PipelineCache;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
#[cfg(not(target_arch = "wasm32"))]
use tune::Tuner;
use wgpu::BufferUsages as Usage;

/// Most storage bindings of the kernels that cannot be done without; WebGPU devices have as many.
const STORAGE_BUFFERS: u32 = 8;
/// Bytes of the uniform block.
const TASK_BYTES: u64 = size_of::<Task>() as u64;
/// Uniform buffers kept for calls that are prepared again: those that are kept have their own. A network's in training and
/// evaluation.
const TASKS_MAX: usize = 256;

/// A device with everything this crate keeps on it.
pub(crate) struct Gpu {
    pub device: Device,
    /// But for the cache, which can be told.
    caps: Caps,
    cache: AtomicU64,
    pipelines: PipelineCache,
    /// Uniform buffers by content. Written once: a rewrite would reach work recorded but not yet
    /// submitted.
    tasks: Mutex<HashMap<[u8; size_of::<Task>()], wgpu::Buffer>>,
    scratch: Mutex<Scratch>,
    /// Calls that belong to no layer: statistics merged, tables made.
    calls: CallCache,
    #[cfg(not(target_arch = "wasm32"))]
    tuner: Tuner,
    /// Another one after an error in a browser, which may have left invalid buffers anywhere.
    tensors: Mutex<Arc<Pool>>,
    staging: Pool,
    /// Errors of the browser's of which nothing is left in the caches.
    #[cfg(target_arch = "wasm32")]
    heeded: AtomicU64,
}

/// Buffers that all calls share.
#[derive(Clone)]
struct Scratch {
    /// Partials between the dispatches of a call, and what is gathered from them: a queue runs command
    /// buffers one after another, and every call writes what it reads.
    partials: wgpu::Buffer,
    gathered: wgpu::Buffer,
    /// Bound in place of absent operands: layouts are fixed per kernel.
    absent: wgpu::Buffer,
    /// The same where a kernel would write: one dispatch must not read and write a buffer.
    sink: wgpu::Buffer,
}

impl Scratch {
    fn new(device: &Device) -> Result<Self, RunError> {
        let storage = |label, size| device.create_buffer(label, size, Usage::STORAGE);
        Ok(Scratch {
            partials: storage("wgnorm partials", 4096)?,
            gathered: storage("wgnorm gathered", 4096)?,
            absent: storage("wgnorm absent", 16)?,
            sink: storage("wgnorm sink", 16)?,
        })
    }
}

impl Gpu {
    pub fn new(device: Device) -> Result<Self, OpenError> {
        let caps = caps_of(&device.wgpu().limits())?;
        let scratch = Scratch::new(&device).map_err(|error| OpenError::NoDevice {
            name: label(&device.wgpu().adapter_info()),
            reason: error.to_string(),
        })?;
        Ok(Gpu {
            caps,
            cache: AtomicU64::new(last_level_cache(&device.wgpu().adapter_info())),
            pipelines: PipelineCache::default(),
            tasks: Mutex::default(),
            scratch: Mutex::new(scratch),
            calls: CallCache::default(),
            #[cfg(not(target_arch = "wasm32"))]
            tuner: Tuner::default(),
            tensors: Mutex::new(Pool::of_tensors()),
            staging: Pool::new("wgnorm readback", Usage::MAP_READ | Usage::COPY_DST),
            #[cfg(target_arch = "wasm32")]
            heeded: AtomicU64::new(0),
            device,
        })
    }

    /// What the planner may count on.
    pub fn caps(&self) -> Caps {
        Caps { cache: self.cache.load(Ordering::Relaxed), ..self.caps }
    }

    /// For calls prepared from here on.
    pub fn set_cache(&self, bytes: u64) {
        self.cache.store(bytes, Ordering::Relaxed);
    }

    pub fn set_pipeline_cache(&self, cache: Option<wgpu::PipelineCache>) {
        self.pipelines.set_compiled(cache);
    }

    /// A context's GPU on the application's device.
    pub fn foreign(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self, OpenError> {
        Gpu::new(Device::foreign(device, queue))
    }

    /// Lets go of all memory that is free now.
    pub fn trim(&self) {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.staging.clear();
        self.calls.clear();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets what may be invalid if the browser has reported an error since the last time.
    #[cfg(target_arch = "wasm32")]
    pub fn heed_faults(&self) -> Result<(), RunError> {
        let faulted = self.device.reports.faulted();
        if self.heeded.swap(faulted, Ordering::Relaxed) != faulted {
            self.trim();
            self.pipelines.clear();
            // What tensors hold now is not to come back.
            *self.tensors.lock().unwrap_or_else(PoisonError::into_inner) = Pool::of_tensors();
            *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) =
                Scratch::new(&self.device)?;
        }
        Ok(())
    }

    // What follows makes objects outside of its lock: a driver that turns out to have lost its device calls the
    // application back from there.

    /// The uniform buffer with this content.
    fn task(&self, task: &Task) -> Result<wgpu::Buffer, RunError> {
        let content: [u8; size_of::<Task>()] = bytemuck::cast(*task);
        let tasks = || self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = tasks().get(&content) {
            return Ok(buffer.clone());
        }
        let size = content.len() as u64;
        let usage = Usage::UNIFORM | Usage::COPY_DST;
        let buffer = self.device.create_buffer("wgnorm task", size, usage)?;
        self.device.scoped("a task", size, || {
            self.device.queue().write_buffer(&buffer, 0, &content);
        })?;
        let mut tasks = tasks();
        if tasks.len() == TASKS_MAX {
            tasks.clear();
        }
        tasks.insert(content, buffer.clone());
        Ok(buffer)
    }

    /// Scratch of at least these sizes. A larger one replaces it; recorded work keeps the old one.
    fn scratch(&self, partials: u64, gathered: u64) -> Result<Scratch, RunError> {
        let current = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = current().clone();
        let Scratch { partials: first, gathered: second, .. } = &mut scratch;
        let mut grown = false;
        for (buffer, bytes) in [(first, partials), (second, gathered)] {
            if buffer.size() < bytes {
                // Doubling, so that slowly growing inputs do not replace it each time.
                let size = bytes.next_power_of_two().min(self.caps.max_binding);
                *buffer = self.device.create_buffer("wgnorm scratch", size, Usage::STORAGE)?;
                grown = true;
            }
        }
        if grown {
            // Of two threads' the last one's: who finds it too small replaces it again.
            *current() = scratch.clone();
        }
        Ok(scratch)
    }
}

/// Bytes of the last cache before memory, of a device of this kind: WebGPU does not tell. Too large a
/// guess costs the time of a few dispatches; too small a one more of them. The vendor's smaller models of
/// recent years are taken, or 0 where some have none.
fn last_level_cache(info: &wgpu::AdapterInfo) -> u64 {
    use wgpu::DeviceType::{Cpu, DiscreteGpu};
    let mib = match (info.device_type, info.vendor) {
        (Cpu, _) => 16,              // of a server's core complex; a laptop's whole processor
        (DiscreteGpu, 0x10DE) => 24, // NVIDIA: 24 (AD107) to 96, and 50 (H100)
        (DiscreteGpu, 0x1002) => 32, // AMD: 32 (Navi 23) to 128 of Infinity Cache
        (DiscreteGpu, 0x8086) => 16, // Intel: 16 (A770) to 18
        (_, 0x106B) => 8,            // Apple: 8 (M1) to 96
        _ => 0,
    };
    mib << 20
}

/// What the planner needs of a device's limits, or which of them is too small for any kernel.
pub(crate) fn caps_of(limits: &wgpu::Limits) -> Result<Caps, OpenError> {
    let need = |limit_name, got: u64, needed: u64| {
        if got < needed { Err(OpenError::Limits { limit_name, needed, got }) } else { Ok(()) }
    };
    let lanes =
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
    need("max_compute_invocations_per_workgroup", lanes.into(), 1)?;
    let storage_buffers = limits.max_storage_buffers_per_shader_stage;
    need("max_storage_buffers_per_shader_stage", storage_buffers.into(), STORAGE_BUFFERS.into())?;
    let shared = limits.max_compute_workgroup_storage_size;
    need("max_compute_workgroup_storage_size", shared.into(), 16)?;
    need("max_uniform_buffer_binding_size", limits.max_uniform_buffer_binding_size, TASK_BYTES)?;
    let bindings = limits.max_bindings_per_bind_group;
    need("max_bindings_per_bind_group", bindings.into(), Role::Gradient as u64 + 1)?;
    // Below a few hundred elements a window is all overhead.
    need("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size, 1 << 12)?;
    need(
        "max_compute_workgroups_per_dimension",
        limits.max_compute_workgroups_per_dimension.into(),
        1,
    )?;
    Ok(Caps {
        // One vec4 of workgroup memory a lane.
        lanes: lanes.min(shared / 16),
        max_binding: limits.max_storage_buffer_binding_size & !255,
        max_grid: limits.max_compute_workgroups_per_dimension,
        offset_alignment: limits.min_storage_buffer_offset_alignment.into(),
        storage_buffers,
        cache: 0,
        tuning: Tuning::Planned,
    })
}
