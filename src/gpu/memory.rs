//! GPU memory: buffers that tensors own or view, and the pools they return to.

use super::Gpu;
#[cfg(target_arch = "wasm32")]
use super::reports::{Span, Spans};
use crate::{Backend, Error, OperandError, PlanError, RunError};
use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

/// Free buffers a pool keeps. A network has about two sizes of activations in flight per stage.
const POOL_MAX: usize = 16;
/// Bytes of free buffers a pool keeps, the latest buffer excepted: an application that changes its
/// sizes must not pay for all of its past.
const POOL_BYTES: u64 = 512 << 20;

/// Buffers of one usage, handed out again by exact size, the latest first.
///
/// Reuse right after a drop is safe: one queue runs command buffers one after another, and only
/// buffers whose every use has been submitted come back (see [`Memory`]).
pub(crate) struct Pool {
    label: &'static str,
    usage: wgpu::BufferUsages,
    free: Mutex<Vec<wgpu::Buffer>>,
}

impl Pool {
    pub fn new(label: &'static str, usage: wgpu::BufferUsages) -> Self {
        Pool { label, usage, free: Mutex::default() }
    }

    fn take(&self, size: u64) -> Option<wgpu::Buffer> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.iter().rposition(|buffer| buffer.size() == size)?;
        Some(free.remove(at))
    }

    pub fn of_tensors() -> Arc<Self> {
        Arc::new(Pool::new("wgnorm tensor", TENSOR_USAGE))
    }

    pub fn put(&self, buffer: wgpu::Buffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
        let mut bytes: u64 = free.iter().map(wgpu::Buffer::size).sum();
        while free.len() > POOL_MAX || (bytes > POOL_BYTES && free.len() > 1) {
            let buffer = free.remove(0);
            bytes -= buffer.size();
            buffer.destroy();
        }
    }

    /// In a browser memory would else wait for the garbage collector, natively for the calls that are
    /// kept ready for it.
    pub fn clear(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.drain(..).for_each(|buffer| buffer.destroy());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.clear();
    }
}

const TENSOR_USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// One buffer, shared by the clones of a tensor.
struct Memory {
    buffer: wgpu::Buffer,
    /// Where it returns to; none for an application's buffer or a layer's.
    pool: Option<Weak<Pool>>,
    /// Whether it is the application's.
    foreign: bool,
    /// Set once anybody outside could use the buffer in work that we do not submit. Such work may
    /// be submitted long after the tensor is dropped, so the memory must not be handed out again.
    escaped: AtomicBool,
    /// The groups of calls that made the buffer.
    #[cfg(target_arch = "wasm32")]
    born: Span,
    /// Those that made its contents, as far as they were doubtful at the time.
    #[cfg(target_arch = "wasm32")]
    made: Mutex<Spans>,
    /// Of a layer's state those that were to update it: failing, they leave it as it was, which is told once.
    #[cfg(target_arch = "wasm32")]
    updated: Mutex<Spans>,
}

impl Memory {
    fn new(buffer: wgpu::Buffer, pool: Option<Weak<Pool>>, foreign: bool) -> Self {
        Memory {
            buffer,
            escaped: AtomicBool::new(pool.is_none()),
            pool,
            foreign,
            #[cfg(target_arch = "wasm32")]
            born: 0..0,
            #[cfg(target_arch = "wasm32")]
            made: Mutex::default(),
            #[cfg(target_arch = "wasm32")]
            updated: Mutex::default(),
        }
    }
}

#[cfg(target_arch = "wasm32")]
impl Memory {
    fn born(mut self, born: Span) -> Self {
        self.born = born;
        self
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if *self.escaped.get_mut() {
            return;
        }
        match self.pool.as_ref().and_then(Weak::upgrade) {
            Some(pool) => pool.put(self.buffer.clone()),
            None => self.buffer.destroy(),
        }
    }
}

/// A tensor's data on a GPU: a buffer and where in it they start.
#[derive(Clone)]
pub(crate) struct GpuData {
    gpu: Arc<Gpu>,
    memory: Arc<Memory>,
    offset: u64,
    bytes: u64,
}

impl GpuData {
    /// A view of the application's buffer.
    pub fn foreign(
        gpu: &Arc<Gpu>,
        buffer: wgpu::Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, OperandError> {
        let operand = "tensor";
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(OperandError::Usage { operand, missing: "STORAGE" });
        }
        if !offset.is_multiple_of(4) {
            return Err(OperandError::Misaligned { operand, offset, alignment: 4 });
        }
        if offset.checked_add(bytes).is_none_or(|end| end > buffer.size()) {
            let got = buffer.size();
            return Err(OperandError::TooShort { operand, needed: bytes, offset, got });
        }
        let memory = Memory::new(buffer, None, true);
        Ok(GpuData { gpu: gpu.clone(), memory: Arc::new(memory), offset, bytes })
    }

    /// A part of a layer's state.
    pub fn part(&self, offset: u64, bytes: u64) -> Self {
        GpuData { offset, bytes, ..self.clone() }
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.memory.buffer
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the data, whole words.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Another tensor's data in the same buffer are the same, or lie elsewhere in it.
    pub fn check_overlap(&self, y: &GpuData) -> Result<(), OperandError> {
        let (x, y, bytes) = (self.offset, y.offset, self.bytes);
        if x != y && x < y + bytes && y < x + bytes {
            return Err(OperandError::Overlap { x, y, bytes });
        }
        Ok(())
    }

    /// Whether it is of a layer's state, which only that layer's calls write.
    pub fn is_state(&self) -> bool {
        self.memory.pool.is_none() && !self.memory.foreign
    }

    /// Whether a result may replace the data: nobody else's values would change but those of an
    /// application that asked for it.
    pub fn may_be_written(&self) -> bool {
        let own = self.memory.pool.is_some() && Arc::strong_count(&self.memory) == 1;
        self.memory.foreign || own
    }

    pub fn escape(&self) {
        self.memory.escaped.store(true, Ordering::Relaxed);
    }

    /// The groups of calls that what is there depends on.
    #[cfg(target_arch = "wasm32")]
    pub fn made(&self) -> Spans {
        let mut made = self.memory.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        made.add(self.memory.born.clone());
        made
    }

    /// It has been written by these groups.
    #[cfg(target_arch = "wasm32")]
    pub fn set_made(&self, made: Spans) {
        *self.memory.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
    }

    /// It has been updated by this group, if that does not fail.
    #[cfg(target_arch = "wasm32")]
    pub fn add_update(&self, group: Span) {
        let mut updated = self.memory.updated.lock().unwrap_or_else(PoisonError::into_inner);
        updated.retain(|span| self.gpu.device.reports.is_doubtful(span));
        updated.add(group);
    }

    /// An error that kept it from being updated, once.
    #[cfg(target_arch = "wasm32")]
    pub fn missed_update(&self) -> Option<RunError> {
        let mut updated = self.memory.updated.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = self.gpu.device.reports.fault(updated.iter());
        if missed.is_some() {
            updated.clear();
        }
        missed
    }

    /// Memory as large, aligned alike.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn alike(&self, alignment: u64) -> Result<GpuData, Error> {
        let offset = self.offset % alignment;
        let data = self.gpu.allocate(offset + self.bytes)?;
        Ok(GpuData { offset, bytes: self.bytes, ..data })
    }

    /// The data, if they belong to this context. Devices cannot be compared instead: those of two
    /// wgpu instances may be equal.
    pub fn on(&self, gpu: &Arc<Gpu>, operand: &'static str) -> Result<&Self, OperandError> {
        if Arc::ptr_eq(&self.gpu, gpu) {
            Ok(self)
        } else {
            Err(OperandError::Elsewhere { operand, expected: Backend::Gpu })
        }
    }
}

impl Gpu {
    /// A buffer for a tensor, from the pool if one of this size is free. Its contents are anything.
    pub fn allocate(self: &Arc<Self>, bytes: u64) -> Result<GpuData, Error> {
        // An empty tensor still needs a buffer to be a tensor on this device.
        let size = bytes.next_multiple_of(4).max(4);
        let limit = self.device.wgpu().limits().max_buffer_size;
        if size > limit {
            let limit_name = "max_buffer_size";
            return Err(PlanError::Limit { what: "tensor", needed: size, limit_name, limit }.into());
        }
        #[cfg(target_arch = "wasm32")]
        self.heed_faults()?;
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        let tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let buffer = match tensors.take(size) {
            Some(buffer) => buffer,
            None => self.device.create_buffer(tensors.label, size, tensors.usage)?,
        };
        let memory = Memory::new(buffer, Some(Arc::downgrade(&tensors)), false);
        #[cfg(target_arch = "wasm32")]
        let memory = memory.born(first..self.device.reports.next());
        Ok(GpuData { gpu: self.clone(), memory: Arc::new(memory), offset: 0, bytes: size })
    }

    pub fn upload(self: &Arc<Self>, bytes: &[u8]) -> Result<GpuData, Error> {
        let data = self.allocate(bytes.len() as u64)?;
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        // wgpu writes whole words.
        let (words, rest) = bytes.split_at(bytes.len() - bytes.len() % 4);
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.device.scoped("an upload", bytes.len() as u64, || {
            self.device.queue().write_buffer(data.buffer(), 0, words);
            if !rest.is_empty() {
                self.device.queue().write_buffer(data.buffer(), words.len() as u64, &last);
            }
        })?;
        self.device.check_alive()?;
        #[cfg(target_arch = "wasm32")]
        data.set_made(Spans::from(first..self.device.reports.next()));
        Ok(data)
    }

    /// A layer's state: memory of its own, outside the pool.
    pub fn state(self: &Arc<Self>, bytes: &[u8]) -> Result<GpuData, Error> {
        let size = bytes.len() as u64;
        let limit = self.caps.max_binding;
        if size > limit {
            let limit_name = "max_storage_buffer_binding_size";
            let what = "running statistics";
            return Err(PlanError::Limit { what, needed: size, limit_name, limit }.into());
        }
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        let memory = Memory::new(
            self.device.create_buffer("wgnorm state", size, TENSOR_USAGE)?,
            None,
            false,
        );
        #[cfg(target_arch = "wasm32")]
        let memory = memory.born(first..self.device.reports.next());
        let data = GpuData { gpu: self.clone(), memory: Arc::new(memory), offset: 0, bytes: size };
        self.write_state(&data, 0, bytes)?;
        Ok(data)
    }

    /// Overwrites a part of a layer's state with the next submission, before everything in it.
    pub fn write_state(&self, state: &GpuData, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        self.device.scoped("state", bytes.len() as u64, || {
            self.device.queue().write_buffer(state.buffer(), offset, bytes);
        })?;
        #[cfg(target_arch = "wasm32")]
        {
            // Of the other parts what is open stays so; what has failed is taken to be what is repaired now.
            let mut made = self.doubts(&[state]).unwrap_or_default();
            made.add(first..self.device.reports.next());
            state.set_made(made);
        }
        Ok(())
    }

    pub fn zeros(self: &Arc<Self>, bytes: u64) -> Result<GpuData, Error> {
        let data = self.allocate(bytes)?;
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        // The pool hands out used memory.
        self.submit("clear", |encoder| {
            encoder.clear_buffer(data.buffer(), 0, None);
            Ok(())
        })?;
        #[cfg(target_arch = "wasm32")]
        data.set_made(Spans::from(first..self.device.reports.next()));
        Ok(data)
    }

    /// A copy of data on this device.
    pub fn copy(self: &Arc<Self>, from: &GpuData) -> Result<GpuData, Error> {
        if !from.buffer().usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(OperandError::Usage { operand: "gradient", missing: "COPY_SRC" }.into());
        }
        let data = self.allocate(from.bytes())?;
        #[cfg(target_arch = "wasm32")]
        let (mut made, first) = (self.doubts(&[from])?, self.device.reports.next());
        self.submit("a copy", |encoder| {
            let (buffer, offset) = (from.buffer(), from.offset());
            encoder.copy_buffer_to_buffer(buffer, offset, data.buffer(), 0, from.bytes());
            Ok(())
        })?;
        #[cfg(target_arch = "wasm32")]
        {
            made.add(first..self.device.reports.next());
            data.set_made(made);
        }
        Ok(data)
    }

    /// Records with an encoder of our own and submits it.
    pub fn submit(
        &self,
        what: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<wgpu::SubmissionIndex, Error> {
        let device = &self.device;
        let result = device.scoped(what, 0, || {
            let mut encoder = device
                .wgpu()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("wgnorm") });
            record(&mut encoder).map(|()| device.queue().submit([encoder.finish()]))
        });
        let submission = result??;
        device.check_alive()?;
        Ok(submission)
    }

    /// The groups of calls that may yet turn out to have spoiled what is about to be read, or the error that has.
    #[cfg(target_arch = "wasm32")]
    pub fn doubts(&self, read: &[&GpuData]) -> Result<Spans, RunError> {
        let (reports, mut doubts) = (&self.device.reports, Spans::default());
        for data in read {
            let made = data.made();
            reports.fault(made.iter()).map_or(Ok(()), Err)?;
            made.iter().filter(|span| reports.is_open(span)).for_each(|s| doubts.add(s.clone()));
        }
        Ok(doubts)
    }

    pub fn take_staging(&self, size: u64) -> Result<wgpu::Buffer, RunError> {
        match self.staging.take(size) {
            Some(buffer) => Ok(buffer),
            None => self.device.create_buffer(self.staging.label, size, self.staging.usage),
        }
    }
}
