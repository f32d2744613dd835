//! What keeps wgpu from panicking or hanging: error scopes around whatever can fail, uploads, memory that is given back,
//! and waiting for a submission.

use std::ops::Deref;

use wgpu::{Device, ErrorFilter, Queue};

use crate::error::GpuError;

/// Runs `make` with all of wgpu's errors caught. Without a scope they would reach the application's handler, whose
/// default is to panic.
pub(super) async fn guarded<T>(device: &Device, make: impl FnOnce() -> T) -> Result<T, GpuError> {
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(ErrorFilter::Validation);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    let value = make();
    // The scopes are a stack of this thread: all popped, in reverse, before anything is awaited.
    let (internal, validation, memory) = (internal.pop(), validation.pop(), memory.pop());
    let errors = [memory.await, validation.await, internal.await];
    match errors.into_iter().flatten().next() {
        None => Ok(value),
        Some(wgpu::Error::OutOfMemory { .. }) => Err(GpuError::OutOfMemory),
        Some(error) => Err(GpuError::Device(error.to_string())),
    }
}

/// A buffer with these contents. Not `create_buffer_init`, which panics once the device is lost.
pub(super) fn upload(
    device: &Device,
    queue: &Queue,
    usage: wgpu::BufferUsages,
    contents: &[u8],
) -> wgpu::Buffer {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("constants"),
        size: contents.len() as u64,
        usage: usage | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    queue.write_buffer(&buffer, 0, contents);
    buffer
}

/// A large buffer, whose memory is given back with this value; submissions under way keep what they use. A browser would
/// otherwise wait for its garbage collector, which does not know how much of a GPU's memory a handle stands for.
pub(super) struct Owned(pub wgpu::Buffer);

impl Deref for Owned {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// A submission under way.
#[cfg(not(target_arch = "wasm32"))]
pub(super) struct Ticket(wgpu::SubmissionIndex);

#[cfg(not(target_arch = "wasm32"))]
impl Ticket {
    pub fn submit(queue: &Queue, commands: wgpu::CommandBuffer) -> Ticket {
        Ticket(queue.submit([commands]))
    }

    pub async fn finished(self, device: &Device) -> Result<(), GpuError> {
        let wait = wgpu::PollType::Wait { submission_index: Some(self.0), timeout: None };
        device.poll(wait).map(drop).map_err(|error| GpuError::Device(error.to_string()))
    }
}

/// A submission under way. In a browser nobody can wait but the event loop, which calls back.
#[cfg(target_arch = "wasm32")]
pub(super) struct Ticket(futures_intrusive::channel::shared::OneshotReceiver<()>);

#[cfg(target_arch = "wasm32")]
impl Ticket {
    pub fn submit(queue: &Queue, commands: wgpu::CommandBuffer) -> Ticket {
        queue.submit([commands]);
        let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
        queue.on_submitted_work_done(move || drop(sender.send(())));
        Ticket(receiver)
    }

    pub async fn finished(self, _device: &Device) -> Result<(), GpuError> {
        self.0.receive().await.ok_or_else(|| GpuError::Device("the device was lost".to_owned()))
    }
}
