//! The layers. Each is a row of extents and strides over the four axes of a [`View`](crate::View):
//!
//! | layer | extents | data strides | parameter strides | statistics strides |
//! |---|---|---|---|---|
//! | InstanceNorm, channels first | N, C, 1, S | C·S, S, 0, 1 | 0, 1, 0, 0 | C, 1, 0, 0 |
//! | the same with running statistics | N, C, 1, S | C·S, S, 0, 1 | 0, 1, 0, 0 | 0, 1, 0, 0 |
//!
//! N batch, C channels, S spatial positions. What all layers share, their parameters and the ways
//! to run them, is here; a layer's own file turns its settings and an input's shape into a
//! [`Problem`].

mod instance_norm;
mod params;

pub use instance_norm::{
    InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, InstanceNormConfig, InstanceNormNd, OneValue,
};
pub use params::{Affine, Parameters};

use crate::desc::TensorDesc;
use crate::problem::{Activation, Mode, Problem};
use crate::{Context, Error, ShapeError, Tensor, host};
#[cfg(feature = "gpu")]
use crate::{
    OperandError,
    gpu::{self, Recorder},
};

/// What happens to a normalized value before it is written: `act(value + addend)`, in the same pass
/// over memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added first; exactly x's shape.
    pub addend: Option<&'a Tensor<'a>>,
    /// Applied last.
    pub activation: Activation,
}

impl<'a> Epilogue<'a> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor of x's shape (a residual branch).
    pub fn with_addend(mut self, addend: &'a Tensor<'a>) -> Self {
        self.addend = Some(addend);
        self
    }

    /// Applies an activation.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }
}

/// Keeps [`NormLayer`] to this crate.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// What every layer offers. Bring it into scope to call `forward` and `record`.
///
/// A layer itself only says what is to be computed ([`problem`](Self::problem)) and holds its
/// [`Parameters`]. Implemented by this crate's layers alone: both back ends rely on the two fitting
/// each other.
pub trait NormLayer: sealed::Sealed {
    /// What this layer computes for an input of this description, as data.
    ///
    /// # Errors
    /// [`ShapeError`] if the input does not fit the layer.
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError>;

    /// The layer's parameters and running statistics.
    fn parameters(&self) -> &Parameters;

    /// Normalizes `x`, on the back end of `context`.
    ///
    /// On a GPU the work is submitted and not waited for; the output's memory is reused from
    /// earlier outputs that were dropped.
    ///
    /// # Errors
    /// [`ShapeError`] if `x` does not fit the layer, [`OperandError`] if it or the layer is not on
    /// `context`, [`PlanError`](crate::PlanError) for a device limit, [`RunError`](crate::RunError)
    /// if the device fails. Shapes, places and limits are checked before any work is done.
    fn forward(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_with(context, x, Epilogue::new(), mode)
    }

    /// As [`forward`](Self::forward), with an addend and an activation in the same pass.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`ShapeError::Operand`] for an addend of another shape.
    fn forward_with(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        epilogue: Epilogue<'_>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        let problem = checked_problem(self, context, x, &epilogue, mode)?;
        let parameters = self.parameters();
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let operands = gpu_operands(gpu, parameters, x, None, &epilogue)?;
            let y = gpu.allocate(x.desc().bytes())?;
            let operands = gpu::Operands { y: &y, ..operands };
            let call = parameters.calls.get(gpu, &problem, &operands)?;
            gpu.submit("forward", |encoder| {
                call.record(encoder);
                Ok(())
            })?;
            return Ok(Tensor::gpu(x.desc().clone(), y));
        }
        let mut y = vec![0.0; x.desc().shape.elements() as usize];
        let operands = host::Operands {
            x: x.host_slice("x")?,
            addend: epilogue.addend.map(|a| a.host_slice("addend")).transpose()?,
            weight: parameters.weight().and_then(Tensor::as_slice),
            bias: parameters.bias().and_then(Tensor::as_slice),
            running: parameters.host_running(),
        };
        host::forward(&problem, &operands, &mut y)?;
        Ok(Tensor::host(x.desc().clone(), y))
    }

    /// Records this layer into the application's command encoder or compute pass, on the
    /// application's buffers. Submits nothing, waits for nothing, maps nothing.
    ///
    /// `y` has x's shape and a buffer of its own. In [`Mode::Train`] the running statistics move
    /// when the commands run, as often as they are run.
    ///
    /// What wgpu cannot tell us is reported by wgpu at `finish` or `submit`: buffers of another
    /// device, destroyed or mapped ones.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with); [`OperandError::HostContext`] on a host context,
    /// [`OperandError::SharedBuffer`] if `y` lies in the buffer of another operand. After an error
    /// nothing has been recorded.
    #[cfg(feature = "gpu")]
    fn record(
        &self,
        context: &Context,
        recorder: &mut dyn Recorder,
        x: &Tensor<'_>,
        y: &Tensor<'_>,
        epilogue: Epilogue<'_>,
        mode: Mode,
    ) -> Result<(), Error> {
        let gpu = context.gpu().ok_or(OperandError::HostContext)?;
        let problem = checked_problem(self, context, x, &epilogue, mode)?;
        same_desc(self.parameters().layer(), "y", x, y)?;
        let parameters = self.parameters();
        let operands = gpu_operands(gpu, parameters, x, Some(y), &epilogue)?;
        let call = parameters.calls.get(gpu, &problem, &operands)?;
        // From here on the application decides when this memory is used.
        for data in [Some(operands.x), Some(operands.y), operands.addend].into_iter().flatten() {
            data.escape();
        }
        call.record(recorder);
        Ok(())
    }
}

fn checked_problem<L: NormLayer + ?Sized>(
    layer: &L,
    context: &Context,
    x: &Tensor<'_>,
    epilogue: &Epilogue<'_>,
    mode: Mode,
) -> Result<Problem, Error> {
    let parameters = layer.parameters();
    parameters.check_context(context)?;
    let mut problem = layer.problem(x.desc(), mode)?;
    if let Some(addend) = epilogue.addend {
        same_desc(parameters.layer(), "addend", x, addend)?;
    }
    problem.addend = epilogue.addend.is_some();
    problem.activation = epilogue.activation;
    Ok(problem)
}

fn same_desc(
    layer: &'static str,
    operand: &'static str,
    x: &Tensor<'_>,
    other: &Tensor<'_>,
) -> Result<(), ShapeError> {
    if other.shape() != x.shape() {
        let (expected, got) = (x.shape().clone(), other.shape().clone());
        return Err(ShapeError::Operand { layer, operand, expected, got });
    }
    if other.order() != x.order() {
        let (expected, got) = (x.order(), other.order());
        return Err(ShapeError::Order { layer, operand, expected, got });
    }
    Ok(())
}

/// The operands on this device. Without `y`, x stands in its place until there is one.
#[cfg(feature = "gpu")]
fn gpu_operands<'a>(
    gpu: &std::sync::Arc<gpu::Gpu>,
    parameters: &'a Parameters,
    x: &'a Tensor<'_>,
    y: Option<&'a Tensor<'_>>,
    epilogue: &Epilogue<'a>,
) -> Result<gpu::Operands<'a>, OperandError> {
    let param = |tensor: Option<&'a Tensor<'static>>, name| {
        tensor.map(|tensor| tensor.gpu_data(gpu, name)).transpose()
    };
    let x = x.gpu_data(gpu, "x")?;
    Ok(gpu::Operands {
        x,
        y: y.map(|y| y.gpu_data(gpu, "y")).transpose()?.unwrap_or(x),
        addend: epilogue.addend.map(|a| a.gpu_data(gpu, "addend")).transpose()?,
        weight: param(parameters.weight(), "weight")?,
        bias: param(parameters.bias(), "bias")?,
        running: parameters.gpu_running(),
        param_bytes: parameters.bytes(),
    })
}
