//! A list of stages, ready to run on the back end that its context stands for.

use wgnorm::{Backend, Context, Tensor};

use crate::error::Error;
use crate::gpu::GpuNet;
use crate::host::HostNet;
use crate::net::{Size, Stage};
use crate::norms::Norm;

/// A network's stages with their weights where they are used.
pub(crate) enum Executor {
    Host(HostNet),
    Gpu(Box<GpuNet>),
}

impl Executor {
    pub async fn new(context: &Context, stages: &[Stage]) -> Result<Executor, Error> {
        Ok(match context.backend() {
            Backend::Host => Executor::Host(HostNet::new(context, stages)?),
            Backend::Gpu => Executor::Gpu(Box::new(GpuNet::new(context, stages).await?)),
        })
    }

    /// Whether a GPU runs the stages.
    pub fn on_gpu(&self) -> bool {
        matches!(self, Executor::Gpu(_))
    }

    /// How many stages there are.
    pub fn stages(&self) -> usize {
        match self {
            Executor::Host(net) => net.stages(),
            Executor::Gpu(net) => net.stages(),
        }
    }

    /// The norms, each with its stage's name, in order.
    pub fn norms(&mut self) -> impl Iterator<Item = (&'static str, &mut Norm)> {
        let (stages, norms) = match self {
            Executor::Host(net) => net.norms(),
            Executor::Gpu(net) => net.norms(),
        };
        let pairs = stages.iter().zip(norms);
        pairs.filter_map(|(stage, norm)| Some((stage.name, norm.as_mut()?)))
    }

    /// Checks before the work whether a picture of this size can be run. What only the work shows is not found.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self, size: Size) -> Result<(), Error> {
        match self {
            Executor::Host(net) => net.check(size),
            Executor::Gpu(net) => net.check(size),
        }
    }

    /// What the stages make of `input`, of shape `(1, C, H, W)`, on the host or where the stages run. What comes out of
    /// a GPU is overwritten by the next run. `finished` hears how many stages are done, and the last one's name.
    pub async fn run(
        &mut self,
        input: Tensor<'_>,
        finished: impl FnMut(usize, &'static str),
    ) -> Result<Tensor<'static>, Error> {
        match self {
            Executor::Host(net) => net.run(input, finished),
            Executor::Gpu(net) => net.run(&input, finished).await,
        }
    }
}

/// Checks before anything is prepared whether a picture of this size can be run on `context`.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn check(context: &Context, stages: &[Stage], size: Size) -> Result<(), Error> {
    match context.device() {
        None => crate::host::check(stages, size),
        Some(device) => Ok(crate::gpu::check_size(stages, size, &device.limits())?),
    }
}

/// Height and width of a tensor of shape `(1, C, H, W)`.
pub(crate) fn size_of(tensor: &Tensor<'_>) -> Size {
    let shape = tensor.shape();
    Size::new(shape[2], shape[3])
}
