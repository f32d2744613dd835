//! The application's or our own `wgpu::Device`: errors as values, a count of what is created.

#[cfg(target_arch = "wasm32")]
use super::reports::Reports;
use crate::RunError;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// A device and its queue.
pub(crate) struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Whether we opened it: then polling it is up to us, where polling is needed.
    #[cfg(not(target_arch = "wasm32"))]
    owned: bool,
    created: AtomicU64,
    fault: Arc<Mutex<Option<RunError>>>,
    /// What the browser says of groups of calls, once it does.
    #[cfg(target_arch = "wasm32")]
    pub reports: Reports,
}

impl Device {
    /// A device of the application's. Its one slot each for error and loss callbacks stays its own;
    /// in a browser a loss is told to everybody who asks.
    pub fn foreign(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let fault: Arc<Mutex<Option<RunError>>> = Arc::default();
        #[cfg(target_arch = "wasm32")]
        keep_loss(device, &fault);
        Device {
            device: device.clone(),
            queue: queue.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            owned: false,
            created: AtomicU64::new(0),
            fault,
            #[cfg(target_arch = "wasm32")]
            reports: Reports::default(),
        }
    }

    /// A device we opened. What it reports of others' work, which is the application's, is logged, where wgpu's
    /// default is to panic; our own calls are told of theirs.
    pub fn owned(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let fault: Arc<Mutex<Option<RunError>>> = Arc::default();
        device.on_uncaptured_error(Arc::new(|error: wgpu::Error| log::error!("wgnorm: {error}")));
        keep_loss(&device, &fault);
        Device {
            device,
            queue,
            #[cfg(not(target_arch = "wasm32"))]
            owned: true,
            created: AtomicU64::new(0),
            fault,
            #[cfg(target_arch = "wasm32")]
            reports: Reports::default(),
        }
    }

    pub fn wgpu(&self) -> &wgpu::Device {
        &self.device
    }

    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// Counts one wgpu object about to be created. Command encoders are not counted: they are what
    /// a steady state may create.
    pub fn count(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// What the device has reported meanwhile, if anything: a loss for ever, another error once.
    pub fn check(&self) -> Result<(), RunError> {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take() {
            Some(lost @ RunError::DeviceLost { .. }) => {
                *slot = Some(lost.clone());
                Err(lost)
            }
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// Runs a fallible group of wgpu calls and returns what they reported instead of letting wgpu
    /// panic. `bytes` is what an out-of-memory report names.
    ///
    /// A browser's answer comes later, to [`Reports`].
    pub fn scoped<T>(
        &self,
        what: &str,
        bytes: u64,
        create: impl FnOnce() -> T,
    ) -> Result<T, RunError> {
        self.check()?;
        let scopes = [
            wgpu::ErrorFilter::OutOfMemory,
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::Validation,
        ]
        .map(|filter| self.device.push_error_scope(filter));
        let created = create();
        self.hear(scopes, what, bytes)?;
        Ok(created)
    }

    /// The answers of error scopes, popped in the order that wgpu asks for.
    #[cfg(not(target_arch = "wasm32"))]
    fn hear(
        &self,
        scopes: [wgpu::ErrorScopeGuard; 3],
        what: &str,
        bytes: u64,
    ) -> Result<(), RunError> {
        let answers = scopes.into_iter().rev().map(|scope| ready(scope.pop()).flatten());
        let Some(error) = answers.fold(None, |report, answer| answer.or(report)) else {
            return Ok(());
        };
        let error = to_run_error(error, what, bytes);
        if matches!(error, RunError::DeviceLost { .. }) {
            keep_first(&self.fault, error.clone());
        }
        Err(error)
    }

    #[cfg(target_arch = "wasm32")]
    fn hear(
        &self,
        [memory, internal, validation]: [wgpu::ErrorScopeGuard; 3],
        what: &str,
        bytes: u64,
    ) -> Result<(), RunError> {
        let answers = [validation.pop(), internal.pop(), memory.pop()];
        let what = what.to_owned();
        self.reports.expect(async move {
            let mut report = None;
            for answer in answers {
                report = answer.await.or(report);
            }
            report.map(|error| to_run_error(error, &what, bytes))
        });
        Ok(())
    }

    /// Lets a device of ours report a loss, which submitting to it does not (measured: submit
    /// returns, no scope catches anything), at the latest once its queue has drained. An
    /// application's device is for the application to poll.
    pub fn check_alive(&self) -> Result<(), RunError> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.owned {
            let poll = || self.device.poll(wgpu::PollType::Poll);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)).is_err() {
                return Err(RunError::DeviceLost { reason: "polling failed".into() });
            }
        }
        self.check()
    }

    pub fn create_buffer(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, RunError> {
        self.scoped(label, size, || {
            self.count();
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }
}

/// Keeps word of a loss.
fn keep_loss(device: &wgpu::Device, slot: &Arc<Mutex<Option<RunError>>>) {
    let slot = Arc::clone(slot);
    device.set_device_lost_callback(move |reason, message| {
        // Dropping the last handle also "loses" the device; nobody is left to be told.
        if reason != wgpu::DeviceLostReason::Destroyed {
            log::error!("wgnorm: device lost: {message}");
        }
        keep_first(&slot, RunError::DeviceLost { reason: message });
    });
}

/// The first error names the cause; a loss replaces it, since nothing works after it.
fn keep_first(slot: &Mutex<Option<RunError>>, error: RunError) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() || matches!(error, RunError::DeviceLost { .. }) {
        *slot = Some(error);
    }
}

fn to_run_error(error: wgpu::Error, what: &str, bytes: u64) -> RunError {
    let reason = error.to_string();
    // After a loss creation raises no error and gives invalid objects; only their first use says so.
    // What we created (all of it labelled so) can be invalid for no other reason.
    let invalid =
        reason.split_once("' label is invalid").and_then(|(head, _)| head.rsplit('\'').next());
    let lost = invalid.is_some_and(|label| label.starts_with("wgnorm "));
    match error {
        wgpu::Error::OutOfMemory { .. } => RunError::OutOfMemory { bytes },
        _ if lost || reason.contains("device is lost") => RunError::DeviceLost { reason },
        _ => RunError::Rejected { what: what.to_owned(), reason },
    }
}

/// The value of a future that is ready at once, as wgpu's error scopes are natively.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
