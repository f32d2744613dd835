//! The one door back to the host: copy to a mappable buffer, map it, await.

#[cfg(target_arch = "wasm32")]
use super::reports::Spans;
use super::{Gpu, memory::GpuData};
use crate::{Error, OperandError, RunError};
use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};
use std::sync::Arc;

type Mapped = Result<(), wgpu::BufferAsyncError>;

/// A copy under way.
pub(crate) struct Readback {
    gpu: Arc<Gpu>,
    staging: wgpu::Buffer,
    mapped: OneshotReceiver<Mapped>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "browsers poll by themselves"))]
    submission: wgpu::SubmissionIndex,
    /// Copied: whole words.
    bytes: u64,
    #[cfg(target_arch = "wasm32")]
    data: Vec<GpuData>,
    /// The groups of calls that made the data and that fetch them, and the end of them.
    #[cfg(target_arch = "wasm32")]
    groups: (Spans, u64),
}

impl Gpu {
    /// Submits a copy of all these data to the host, whole words of each behind another's: nothing that is submitted
    /// meanwhile comes between them.
    pub fn read(self: &Arc<Self>, data: &[&GpuData]) -> Result<Readback, Error> {
        if data.iter().any(|data| !data.buffer().usage().contains(wgpu::BufferUsages::COPY_SRC)) {
            return Err(OperandError::Usage { operand: "tensor", missing: "COPY_SRC" }.into());
        }
        let bytes = data.iter().map(|data| data.bytes()).sum::<u64>();
        #[cfg(target_arch = "wasm32")]
        self.heed_faults()?;
        #[cfg(target_arch = "wasm32")]
        let first = self.device.reports.next();
        let staging = self.take_staging(bytes.max(4))?;
        let submission = self.submit("a readback", |encoder| {
            let mut to = 0;
            for data in data {
                let (buffer, offset) = (data.buffer(), data.offset());
                encoder.copy_buffer_to_buffer(buffer, offset, &staging, to, data.bytes());
                to += data.bytes();
            }
            Ok(())
        })?;
        let (sender, mapped) = oneshot_channel();
        self.device.scoped("a readback", 0, || {
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                // The receiver may be gone: the caller dropped the future.
                let _ = sender.send(result);
            });
        })?;
        #[cfg(target_arch = "wasm32")]
        let groups = {
            let end = self.device.reports.next();
            let mut groups = Spans::from(first..end);
            data.iter()
                .for_each(|data| data.made().iter().for_each(|span| groups.add(span.clone())));
            (groups, end)
        };
        Ok(Readback {
            gpu: self.clone(),
            staging,
            mapped,
            submission,
            bytes,
            #[cfg(target_arch = "wasm32")]
            data: data.iter().map(|data| (*data).clone()).collect(),
            #[cfg(target_arch = "wasm32")]
            groups,
        })
    }
}

impl Readback {
    pub async fn wait(self) -> Result<Vec<u8>, RunError> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.gpu.device.is_owned() {
            self.poll_elsewhere();
        }
        let mapped = self.mapped.receive().await;
        #[cfg(target_arch = "wasm32")]
        {
            let (reports, (groups, end)) = (&self.gpu.device.reports, &self.groups);
            reports.known(*end).await;
            let missed = || self.data.iter().find_map(GpuData::missed_update);
            if let Some(fault) = reports.fault(groups.iter()).or_else(missed) {
                self.staging.destroy();
                return Err(fault);
            }
        }
        self.finish(mapped)
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait_blocking(self) -> Result<Vec<u8>, RunError> {
        let polled = poll_until_done(self.gpu.device.wgpu(), self.submission.clone());
        let mapped = match polled {
            // Another thread's poll may have taken our callback and not called it yet.
            Ok(()) => pollster::block_on(self.mapped.receive()),
            Err(error) => match super::device::ready(self.mapped.receive()).flatten() {
                None => return Err(error),
                answer => answer,
            },
        };
        self.finish(mapped)
    }

    /// Nobody polls a device that we opened but us, and an executor's thread must not block.
    #[cfg(not(target_arch = "wasm32"))]
    fn poll_elsewhere(&self) {
        let device = self.gpu.device.wgpu().clone();
        let submission = self.submission.clone();
        let poll = move || {
            // An error also drops the sender, and the waiting side learns of it there.
            let _ = poll_until_done(&device, submission);
        };
        let thread = std::thread::Builder::new().name("wgnorm-readback".into());
        if thread.spawn(poll.clone()).is_err() {
            poll();
        }
    }

    fn finish(self, mapped: Option<Mapped>) -> Result<Vec<u8>, RunError> {
        // Of a buffer of our own, which nobody destroys, only a device that is gone has no answer and no memory.
        // Whoever polls may be told so before the loss itself is.
        let lost =
            |reason| self.gpu.device.check().err().unwrap_or(RunError::DeviceLost { reason });
        match mapped {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(lost(error.to_string())),
            None => return Err(lost("no answer to a map request".into())),
        }
        let range = self.staging.get_mapped_range(..self.bytes);
        let view = range.map_err(|error| lost(error.to_string()))?;
        let values = view.to_vec();
        drop(view);
        self.staging.unmap();
        self.gpu.staging.put(self.staging);
        Ok(values)
    }
}

/// Waits for a submission in steps: a device that is lost meanwhile ends the wait.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn poll_until_done(
    device: &wgpu::Device,
    submission: wgpu::SubmissionIndex,
) -> Result<(), RunError> {
    use std::{panic, time::Duration};
    const STEP: Duration = Duration::from_secs(1);
    loop {
        let wait = wgpu::PollType::Wait {
            submission_index: Some(submission.clone()),
            timeout: Some(STEP),
        };
        // wgpu panics on a device error while polling; nothing of ours is changed by then.
        match panic::catch_unwind(panic::AssertUnwindSafe(|| device.poll(wait))) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(wgpu::PollError::Timeout)) => continue,
            Ok(Err(error)) => return Err(RunError::Readback { reason: error.to_string() }),
            Err(_) => return Err(RunError::DeviceLost { reason: "polling failed".into() }),
        }
    }
}
