//! The one type an application meets: a network on a context, run on picture after picture.

use wgnorm::{Backend, Context};

use crate::error::Error;
use crate::error::PictureError;
use crate::gpu::GpuNet;
use crate::host::HostNet;
use crate::net::{SMALLEST_SIDE, TransformerNet};
use crate::picture::{Picture, Planes};

/// How far a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage that was finished last.
    pub stage: &'static str,
    /// How many are finished.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

/// A style, ready to run. Expensive to make (weights are uploaded, kernels compiled), cheap to use again, the more so
/// with pictures of one size, whose buffers are kept.
pub struct Stylizer {
    executor: Executor,
}

enum Executor {
    Host(HostNet),
    Gpu(Box<GpuNet>),
}

impl Stylizer {
    /// Prepares `net` on the back end that `context` stands for.
    pub async fn new(context: &Context, net: &TransformerNet) -> Result<Stylizer, Error> {
        let executor = match context.backend() {
            Backend::Host => Executor::Host(HostNet::new(context, net)?),
            Backend::Gpu => Executor::Gpu(Box::new(GpuNet::new(context, net).await?)),
        };
        Ok(Stylizer { executor })
    }

    /// Paints a picture; it comes back in its own size.
    pub async fn stylize(
        &mut self,
        picture: &Picture,
        progress: impl FnMut(Progress),
    ) -> Result<Picture, Error> {
        let output = self.run(&picture.to_planes()?, progress).await?;
        Ok(Picture::from_planes(&output, picture.size()))
    }

    /// The network alone: its raw output, sides rounded up to multiples of four, values neither clamped nor rounded.
    ///
    /// # Errors
    /// [`PictureError::TooSmall`] below [`SMALLEST_SIDE`]; [`crate::GpuError::TooLarge`] before anything runs if an
    /// activation exceeds the device's limits.
    pub async fn run(
        &mut self,
        input: &Planes,
        progress: impl FnMut(Progress),
    ) -> Result<Planes, Error> {
        if input.size.height.min(input.size.width) < SMALLEST_SIDE {
            return Err(PictureError::TooSmall(input.size).into());
        }
        match &mut self.executor {
            Executor::Host(net) => net.run(input, progress),
            Executor::Gpu(net) => net.run(input, progress).await,
        }
    }
}
