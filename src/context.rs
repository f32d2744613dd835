//! Where the work is done: a GPU that we open, the application's GPU, or the host.

use crate::OpenError;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
use crate::TuningError;
#[cfg(feature = "gpu")]
use crate::gpu::{self, Gpu};
use crate::host::HostPool;
#[cfg(feature = "gpu")]
use crate::plan::Caps;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
use crate::plan::Tunings;
use std::{fmt, sync::Arc};

/// The two ways a layer can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Threads of this process, on slices.
    Host,
    /// Compute shaders through wgpu.
    Gpu,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Host => "host",
            Backend::Gpu => "GPU",
        })
    }
}

/// Which back end [`Context::open_with`] should take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preference {
    /// The best GPU; the host where there is none.
    #[default]
    Auto,
    /// The best adapter, software ones included; an error where there is none.
    Gpu,
    /// The host.
    Host,
}

/// How [`Context::open_with`] chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextOptions {
    /// GPU or host.
    pub preference: Preference,
    /// Whether a software adapter (lavapipe, SwiftShader, WARP) may be taken. Off by default: the
    /// host path is many times faster than they are.
    pub allow_software: bool,
    /// Part of the wanted adapter's name with its back end (`"Vulkan: llvmpipe"`, as a context prints it), in any case.
    /// `None` asks the environment variable `WGNORM_ADAPTER`. A named adapter may be a software one. OpenGL's adapters
    /// are searched if no other back end has one of that name.
    pub adapter: Option<String>,
}

/// Where layers run, and everything kept for that: device, compiled shaders, memory to reuse.
///
/// Expensive; make one and clone it (clones share everything). `Send + Sync` natively.
///
/// Which back end it uses is decided once, here, and told by [`backend`](Self::backend) and
/// [`fallback_reason`](Self::fallback_reason). No call changes it later.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    #[cfg(feature = "gpu")]
    gpu: Option<Arc<Gpu>>,
    fallback: Option<OpenError>,
    /// Memory of outputs on the host.
    host: Arc<HostPool>,
}

impl Context {
    /// A context that runs on the host.
    pub fn host() -> Self {
        Self::without_gpu(None)
    }

    fn without_gpu(fallback: Option<OpenError>) -> Self {
        let inner = Inner {
            #[cfg(feature = "gpu")]
            gpu: None,
            fallback,
            host: Arc::default(),
        };
        Context { inner: Arc::new(inner) }
    }

    #[cfg(feature = "gpu")]
    fn with_gpu(gpu: Gpu) -> Self {
        let (gpu, host) = (Some(Arc::new(gpu)), Arc::default());
        Context { inner: Arc::new(Inner { gpu, fallback: None, host }) }
    }

    /// Opens the best GPU, or else the host: where there is no adapter, no compute support, only a
    /// software adapter, or limits too small. [`fallback_reason`](Self::fallback_reason) says which.
    /// No window is needed, and no connection to a display server is made. wgpu's variable `WGPU_BACKEND` restricts the
    /// back ends (`vulkan`, `metal`, `dx12`, `gl`, or several, separated by commas).
    ///
    /// In JavaScript, WebGPU is used in windows, in dedicated, shared and service workers, and in Deno. Every other scope
    /// (Node's, a worklet's) gets the host, with the reason [`OpenError::NoWebGpu`].
    pub async fn open() -> Self {
        match Self::open_with(&ContextOptions::default()).await {
            Ok(context) => context,
            Err(reason) => Self::without_gpu(Some(reason)),
        }
    }

    /// Opens what `options` ask for.
    ///
    /// # Errors
    /// [`OpenError`] with [`Preference::Gpu`] only; with [`Preference::Auto`] the reason becomes
    /// the context's [`fallback_reason`](Self::fallback_reason).
    pub async fn open_with(options: &ContextOptions) -> Result<Self, OpenError> {
        if options.preference == Preference::Host {
            return Ok(Self::host());
        }
        #[cfg(feature = "gpu")]
        let reason = match gpu::open(options).await {
            Ok(gpu) => return Ok(Self::with_gpu(gpu)),
            Err(reason) => reason,
        };
        #[cfg(not(feature = "gpu"))]
        let reason = OpenError::NoBackend;
        match options.preference {
            Preference::Gpu => Err(reason),
            _ => Ok(Self::without_gpu(Some(reason))),
        }
    }

    /// [`open`](Self::open) that blocks this thread. Native only.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking() -> Self {
        pollster::block_on(Self::open())
    }

    /// [`open_with`](Self::open_with) that blocks this thread. Native only.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with_blocking(options: &ContextOptions) -> Result<Self, OpenError> {
        pollster::block_on(Self::open_with(options))
    }

    /// Runs on the application's own device, and on the queue that came with it (wgpu gives no way to
    /// tell, so that they belong together is the caller's promise). Its limits are taken as they are; its error and loss
    /// callbacks stay the application's, and nothing here polls it but the blocking helpers.
    ///
    /// # Errors
    /// [`OpenError::Limits`] if the device was opened with limits below what the kernels need. The
    /// host would not do: the application's tensors are on this device.
    #[cfg(feature = "gpu")]
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self, OpenError> {
        Ok(Self::with_gpu(Gpu::foreign(device, queue)?))
    }

    /// Lets go of the free memory kept for reuse. Layers keep their latest calls, see
    /// [`Parameters::trim`](crate::Parameters::trim).
    pub fn trim(&self) {
        self.inner.host.clear();
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.gpu() {
            gpu.trim();
        }
    }

    pub(crate) fn host_pool(&self) -> &Arc<HostPool> {
        &self.inner.host
    }

    /// Where the work is done.
    pub fn backend(&self) -> Backend {
        #[cfg(feature = "gpu")]
        if self.inner.gpu.is_some() {
            return Backend::Gpu;
        }
        Backend::Host
    }

    /// Whether a layer built on one of the two runs on the other.
    pub(crate) fn same_device(&self, other: &Context) -> bool {
        #[cfg(feature = "gpu")]
        if let (Some(a), Some(b)) = (self.gpu(), other.gpu()) {
            return Arc::ptr_eq(a, b);
        }
        self.backend() == other.backend()
    }

    /// Why the work is done on the host though it was not asked to be; `None` on a GPU and for
    /// [`host`](Self::host).
    pub fn fallback_reason(&self) -> Option<&OpenError> {
        self.inner.fallback.as_ref()
    }
}

#[cfg(feature = "gpu")]
impl Context {
    pub(crate) fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.inner.gpu.as_ref()
    }

    /// What the planner knows of the GPU, for asking it what a call would cost
    /// ([`Plan::traffic`](crate::plan::Plan::traffic)). `None` on the host.
    pub fn caps(&self) -> Option<Caps> {
        self.gpu().map(|gpu| gpu.caps())
    }

    /// Tells how large the GPU's last cache before memory is, in bytes, where a caller knows better than the
    /// table by vendor that is used otherwise; 0 has every tensor worked on in whole passes. For calls that
    /// are prepared from now on. No effect on the host.
    pub fn set_cache_bytes(&self, bytes: u64) {
        if let Some(gpu) = self.gpu() {
            gpu.set_cache(bytes);
        }
    }

    /// Compiles pipelines through the application's cache from now on, so that its next run finds them compiled.
    /// It is of this context's device, which needs [`wgpu::Features::PIPELINE_CACHE`]; the application makes,
    /// keeps and stores it ([`wgpu::Device::create_pipeline_cache`], [`wgpu::PipelineCache::get_data`]).
    /// Without one pipelines are compiled when they are first used in a context (by each of the threads that come at once). No effect on the host.
    pub fn set_pipeline_cache(&self, cache: Option<wgpu::PipelineCache>) {
        if let Some(gpu) = self.gpu() {
            gpu.set_pipeline_cache(cache);
        }
    }

    /// Whether calls that are prepared from now on measure the few plans they could have
    /// ([`Tuning`](crate::plan::Tuning)), once per kind of call (what is computed, shapes, alignment), and
    /// then take the fastest. Off by default: the first call of each kind waits for the device, for about a
    /// second in all on a fast one, and is not to be made while one of its buffers is mapped. What calls
    /// write is not touched by it; memory of the same size is needed meanwhile. That holds for
    /// [`NormLayer::record`](crate::NormLayer::record), too, which then submits to the queue and polls the
    /// device. A call that comes while another is measured takes the planner's plan; one that cannot be measured is tried
    /// again when it is next prepared. No effect on the host. Native only: a browser's thread cannot wait.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn set_autotune(&self, on: bool) {
        if let Some(gpu) = self.gpu() {
            gpu.set_autotune(on);
        }
    }

    /// What has been measured, or brought along, so far; `None` on the host. Native only.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn tunings(&self) -> Option<Tunings> {
        self.gpu().map(|gpu| gpu.tunings())
    }

    /// Puts what was measured in an earlier run, 4096 calls of it at most, in place of what is known, for calls that
    /// are prepared from now on. No effect on the host. Native only.
    ///
    /// # Errors
    /// [`TuningError`] if they are of another device or driver, or of another version of this crate; nothing
    /// is taken over then.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn set_tunings(&self, tunings: &Tunings) -> Result<(), TuningError> {
        self.gpu().map_or(Ok(()), |gpu| gpu.set_tunings(tunings))
    }

    /// The adapter and its driver, on a GPU.
    pub fn adapter_info(&self) -> Option<wgpu::AdapterInfo> {
        Some(self.gpu()?.device.wgpu().adapter_info())
    }

    /// The device, on a GPU.
    pub fn device(&self) -> Option<&wgpu::Device> {
        Some(self.gpu()?.device.wgpu())
    }

    /// The queue, on a GPU.
    pub fn queue(&self) -> Option<&wgpu::Queue> {
        Some(self.gpu()?.device.queue())
    }

    /// How many wgpu objects this context has created so far, command encoders excepted. It stops
    /// growing once the same calls repeat (per layer up to 32 sets of operands).
    pub fn objects_created(&self) -> u64 {
        self.gpu().map_or(0, |gpu| gpu.device.created())
    }
}

/// Back end and adapter, and the reason if it fell back.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "gpu")]
        if let Some(info) = self.adapter_info() {
            return f.write_str(&gpu::label(&info));
        }
        match self.fallback_reason() {
            None => f.write_str("host"),
            Some(reason) => write!(f, "host: {reason}"),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({self})")
    }
}
