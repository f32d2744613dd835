//! The layers. Each is a row of extents and strides over the four axes of a [`View`](crate::View),
//! `group_outer, group_inner, reduce_outer, reduce_inner`:
//!
//! | layer | extents | data strides | parameter strides | statistics strides |
//! |---|---|---|---|---|
//! | InstanceNorm, channels first | N, C, 1, S | C·S, S, 0, 1 | 0, 1, 0, 0 | C, 1, 0, 0 |
//! | InstanceNorm, channels last | N, C, 1, S | S·C, 1, 0, C | 0, 1, 0, 0 | C, 1, 0, 0 |
//! | InstanceNorm, memory (N, A, C, B) | N, C, A, B | A·C·B, B, C·B, 1 | 0, 1, 0, 0 | C, 1, 0, 0 |
//! | BatchNorm, channels first | 1, C, N, S | 0, S, C·S, 1 | 0, 1, 0, 0 | 0, 1, 0, 0 |
//! | BatchNorm, channels last or S = 1 | 1, C, 1, N·S | 0, 1, 0, C | 0, 1, 0, 0 | 0, 1, 0, 0 |
//! | GroupNorm, channels first | N, G, Q, S | C·S, Q·S, S, 1 | 0, Q, 1, 0 | G, 1, 0, 0 |
//! | GroupNorm, channels last | N, G, S, Q | S·C, Q, C, 1 | 0, Q, 0, 1 | G, 1, 0, 0 |
//! | LayerNorm, RmsNorm | 1, R, 1, D | 0, D, 0, 1 | 0, 0, 0, 1 | 0, 1, 0, 0 |
//! | the same, channels last, over channels and space | 1, N, S, C | 0, C·S, C, 1 | 0, 0, 1, S | N, 1, 0, 0 |
//! | the same, channels last, over space of size D | R, C, 1, D | D·C, 1, 0, C | 0, 0, 0, 1 | C, 1, 0, 0 |
//!
//! N batch, C channels, S spatial positions, G groups of Q channels, R rows of D elements. An axis of
//! extent 1 may have any stride. Running statistics have strides 0, 1, 0, 0. RmsNorm is not centered.
//! FusedBatchNorm is BatchNorm with a ReLU; AdaIn and ConditionalInstanceNorm are InstanceNorm with
//! tables for parameters, strides C, 1, 0, 0, or 0, 1, 0, 0 where one row serves all samples.
//!
//! What all layers share, their parameters and the ways to run them, is here; a layer's own file turns
//! its settings and an input's shape into a [`Problem`].

mod adain;
mod batch_norm;
mod conditional;
mod extras;
mod fused_batch_norm;
mod group_norm;
mod instance_norm;
mod instance_norm_axis;
mod layer;
mod layer_norm;
mod lazy;
mod named;
mod observer;
mod params;
mod repr;
mod rms_norm;
mod rows;
mod running;
mod saved;
mod settings;
mod style;
mod tables;

pub use adain::{AdaIn, AdaInConfig};
pub use batch_norm::{BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormConfig, BatchNormNd};
pub use conditional::{
    ConditionalInstanceNorm, ConditionalInstanceNormConfig, ConditionalInstanceNormSaved,
};
pub use extras::Extras;
pub use fused_batch_norm::{
    FusedBatchNorm1d, FusedBatchNorm2d, FusedBatchNorm3d, FusedBatchNormConfig, FusedBatchNormNd,
};
pub use group_norm::{GroupNorm, GroupNormConfig};
pub use instance_norm::{
    InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, InstanceNormConfig, InstanceNormNd,
};
pub use instance_norm_axis::{InstanceNorm, InstanceNormAxisConfig};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use lazy::{
    Lazy, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d, LazyConfig, LazyFusedBatchNorm1d,
    LazyFusedBatchNorm2d, LazyFusedBatchNorm3d, LazyInstanceNorm, LazyInstanceNorm1d,
    LazyInstanceNorm2d, LazyInstanceNorm3d,
};
pub use named::{BufferMut, ParameterMut};
pub use observer::Observer;
pub use params::Parameters;
pub(crate) use params::Snapshot;
pub use rms_norm::{RmsNorm, RmsNormConfig};
pub use saved::{Grads, Saved};
pub use settings::{Affine, Init, OneValue};
pub use style::{AdaInGrads, AdaInSaved};

use layer::layer;

use crate::desc::TensorDesc;
#[cfg(feature = "gpu")]
use crate::ops;
use crate::ops::{Backward, Inputs};
use crate::problem::{Mode, Problem, StatSource};
use crate::{Context, Error, GroupSums, Mask, ShapeError, Statistics, Tensor};
#[cfg(feature = "gpu")]
use crate::{
    OperandError,
    gpu::{self, Recorder},
};

/// Keeps [`NormLayer`] to this crate.
pub(crate) mod sealed {
    use crate::Problem;

    pub trait Sealed {
        /// How many values stand behind each batch statistic, where a single one is refused.
        fn counted_values(&self, problem: &Problem) -> Option<u32> {
            let _ = problem;
            None
        }
    }
}

/// What every layer offers. Bring it into scope to call `forward` and the others.
///
/// A layer itself only says what is to be computed ([`problem`](Self::problem)) and holds its
/// [`Parameters`]. Implemented by this crate's layers alone: both back ends rely on the two fitting
/// each other.
pub trait NormLayer: sealed::Sealed {
    /// What this layer computes for an input of this description, as data.
    ///
    /// # Errors
    /// [`ShapeError`] if the input does not fit the layer. (One value per statistic is refused by the
    /// calls, which know whether the statistics are the input's own.)
    fn problem(&self, x: &TensorDesc, mode: Mode) -> Result<Problem, ShapeError>;

    /// The layer's parameters and running statistics.
    fn parameters(&self) -> &Parameters;

    /// The channel axis of an input that fits the layer, where statistics run over positions, so that
    /// a [`Mask`] can name them.
    fn channel_axis(&self, x: &TensorDesc) -> Option<usize> {
        let _ = x;
        None
    }

    /// Normalizes `x`, on the back end of `context`.
    ///
    /// On a GPU the work is submitted and not waited for; the output's memory is reused from
    /// earlier outputs that were dropped.
    ///
    /// # Errors
    /// [`ShapeError`] if `x` does not fit the layer, an [operand's](crate::OperandError) if it or
    /// the layer is not on `context`, [`PlanError`](crate::PlanError) for a device limit,
    /// [`RunError`](crate::RunError) if the device fails. Shapes, places and limits are checked before
    /// any work is done.
    fn forward(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_with(context, x, &Extras::new(), mode)
    }

    /// As [`forward`](Self::forward), with an addend, an activation, a mask, statistics.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`ShapeError`] for extras that do not fit x.
    fn forward_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        extras: &Extras<'a>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        let y = inputs(self, context, x, extras, mode)?.forward(context)?;
        self.parameters().observe(x, &y);
        Ok(y)
    }

    /// As [`forward_with`](Self::forward_with), into memory that the caller keeps: `y`, of x's
    /// description, becomes the output. An application's [buffer](Tensor::from_buffer) is written in any
    /// case; memory of this crate or a `Vec` is written if no clone of `y` shares it, and otherwise
    /// left to the clones.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with), and [`ShapeError`] if `y` is not as x is,
    /// [`OperandError`] if it is elsewhere or in the buffer of another operand. `y` is
    /// then as it was.
    fn forward_into<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        extras: &Extras<'a>,
        mode: Mode,
        y: &mut Tensor<'static>,
    ) -> Result<(), Error> {
        inputs(self, context, x, extras, mode)?.forward_into(context, y)?;
        self.parameters().observe(x, y);
        Ok(())
    }

    /// As [`forward_with`](Self::forward_with), with the output in the place of the input: `x` becomes
    /// the output. On a GPU it is written over where it lies, without other memory, if it is the
    /// application's [buffer](Tensor::from_buffer) or no clone of `x` shares its memory; other clones, what a
    /// [`forward_saved`](Self::forward_saved) has kept among them, are left as they were. On the host, and
    /// where an [observer](crate::Parameters::set_observer) looks on, the output is other memory, and the
    /// input's is kept for the next.
    ///
    /// An application that records calls gives [`record`](Self::record) the same buffer as `x` and `y`.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with); `x` is then as it was.
    fn forward_in_place(
        &self,
        context: &Context,
        x: &mut Tensor<'static>,
        extras: &Extras<'_>,
        mode: Mode,
    ) -> Result<(), Error> {
        let inputs = inputs(self, context, x, extras, mode)?;
        // An observer is shown what the input was.
        let y = match self.parameters().is_observed() {
            true => inputs.forward(context)?,
            false => inputs.forward_in_place(context)?,
        };
        self.parameters().observe(x, &y);
        *x = y;
        Ok(())
    }

    /// As [`forward`](Self::forward), and also returns what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        mode: Mode,
    ) -> Result<(Tensor<'static>, Saved<'a>), Error> {
        self.forward_saved_with(context, x, &Extras::new(), mode)
    }

    /// As [`forward_with`](Self::forward_with), and also returns what [`backward`](Self::backward)
    /// needs.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    fn forward_saved_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        extras: &Extras<'a>,
        mode: Mode,
    ) -> Result<(Tensor<'static>, Saved<'a>), Error> {
        let (y, saved) = inputs(self, context, x, extras, mode)?.forward_saved(context)?;
        self.parameters().observe(x, &y);
        Ok((y, saved))
    }

    /// The gradients of a forward pass, from the gradient `dy` of its output.
    ///
    /// # Errors
    /// [`ShapeError`] if `dy` is not as y was, an [operand's](crate::OperandError) if it is not on
    /// `context`, otherwise as [`forward`](Self::forward).
    fn backward(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
    ) -> Result<Grads, Error> {
        backward(self.parameters(), saved, dy).run(context, None)
    }

    /// As [`backward`](Self::backward), into memory that the caller keeps: `grads`, earlier ones of an
    /// input like this, become the new ones. The memory of dx and daddend is written if no clone shares
    /// it, and otherwise left to the clones.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`ShapeError`] if dx is not as x is. After an error `grads`
    /// are as they were.
    fn backward_into(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
        grads: &mut Grads,
    ) -> Result<(), Error> {
        let new = backward(self.parameters(), saved, dy).run(context, Some(grads))?;
        *grads = new;
        Ok(())
    }

    /// As [`backward`](Self::backward), adding `grads`' parameter gradients to the new ones; its dx and
    /// daddend are replaced, gradients of parameters that get none stay.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`ShapeError`] for gradients of other parameters. After
    /// an error `grads` are as they were.
    fn backward_accumulate(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
        grads: &mut Grads,
    ) -> Result<(), Error> {
        let call = Backward { accumulate: Some(&*grads), ..backward(self.parameters(), saved, dy) };
        let sum = call.run(context, None)?;
        *grads = sum;
        Ok(())
    }

    /// The statistics of `x` as data, to be merged with others'. Nothing is updated.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn statistics(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        mask: Option<&Mask>,
    ) -> Result<Statistics, Error> {
        let extras = Extras { mask: mask.cloned(), ..Extras::new() };
        // Those of the batch, whatever is tracked. One value is fine: others may be merged with it.
        let problem = self.problem(x.desc(), Mode::Train)?;
        operands(self, context, x, &extras, problem)?.check()?.statistics(context)
    }

    /// The sums that dx needs over its whole group, to be merged with other shards'.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    fn group_sums(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
    ) -> Result<GroupSums, Error> {
        backward(self.parameters(), saved, dy).group_sums(context)
    }

    /// As [`backward`](Self::backward), with sums merged from all shards of the groups. `dweight` and
    /// `dbias` are this shard's alone; the shards' add up to those of the whole batch.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`ShapeError::Operand`] for sums of other groups.
    fn backward_with_sums(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
        sums: &GroupSums,
    ) -> Result<Grads, Error> {
        Backward { sums: Some(sums), ..backward(self.parameters(), saved, dy) }.run(context, None)
    }

    /// Records this layer into the application's command encoder or compute pass, on the
    /// application's buffers. Submits nothing, waits for nothing, maps nothing, unless
    /// [`Context::set_autotune`](crate::Context::set_autotune) is on.
    ///
    /// `y` has x's shape. It may be at x's place, or elsewhere in x's buffer (both are then bound at once,
    /// so not further apart than the device's largest binding); no other operand may be in its buffer. In
    /// [`Mode::Train`] the running statistics move when the commands run, as often as they are run.
    ///
    /// What wgpu cannot tell us is reported by wgpu at `finish` or `submit`: buffers of another
    /// device, destroyed or mapped ones.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with); [`OperandError::HostContext`] on a host context,
    /// [`OperandError::SharedBuffer`] if `y` lies in the buffer of another operand, or
    /// [`OperandError::Overlap`] with a part of x. After an error nothing has been recorded.
    #[cfg(feature = "gpu")]
    fn record<'a>(
        &self,
        context: &Context,
        recorder: &mut dyn Recorder,
        x: &Tensor<'a>,
        y: &Tensor<'_>,
        extras: &Extras<'a>,
        mode: Mode,
    ) -> Result<(), Error> {
        let gpu = context.gpu().ok_or(OperandError::HostContext)?;
        let inputs = inputs(self, context, x, extras, mode)?;
        ops::same_desc(self.parameters().layer(), "y", x.desc(), y.desc())?;
        gpu::record(gpu, &inputs, y, recorder)
    }
}

fn inputs<'a, 't, L: NormLayer + ?Sized>(
    layer: &'a L,
    context: &Context,
    x: &'a Tensor<'t>,
    extras: &'a Extras<'t>,
    mode: Mode,
) -> Result<Inputs<'a, 't>, Error> {
    let problem = layer.problem(x.desc(), mode)?;
    let counted = layer.counted_values(&problem);
    let inputs = operands(layer, context, x, extras, problem)?.check()?;
    if extras.statistics.is_none() && problem.source == StatSource::Batch {
        let single = extras.mask.as_ref().is_some_and(|mask| mask.leaves_one(&problem.view));
        let counted = counted.map(|values| if single { 1 } else { values });
        refuse_one_value(layer.parameters().layer(), x, counted)?;
    }
    Ok(inputs)
}

/// Whether a forward call would be accepted: all checks, nothing done.
fn check_call<L: NormLayer + ?Sized>(
    layer: &L,
    context: &Context,
    x: &Tensor<'_>,
    extras: &Extras<'_>,
    mode: Mode,
) -> Result<(), Error> {
    inputs(layer, context, x, extras, mode)?.check_places(context)
}

/// The operands of a problem, not yet checked against each other.
fn operands<'a, 't, L: NormLayer + ?Sized>(
    layer: &'a L,
    context: &Context,
    x: &'a Tensor<'t>,
    extras: &'a Extras<'t>,
    problem: Problem,
) -> Result<Inputs<'a, 't>, Error> {
    let parameters = layer.parameters();
    parameters.check_context(context)?;
    Ok(parameters.inputs(x, extras, problem, layer.channel_axis(x.desc())))
}

fn refuse_one_value(
    layer: &'static str,
    x: &Tensor<'_>,
    values: Option<u32>,
) -> Result<(), ShapeError> {
    match values {
        Some(1) => Err(ShapeError::OneValue { layer, got: x.shape().clone() }),
        _ => Ok(()),
    }
}

fn backward<'a, 't>(
    parameters: &'a Parameters,
    saved: &'a Saved<'t>,
    dy: &'a Tensor<'a>,
) -> Backward<'a, 't> {
    let _ = parameters;
    Backward {
        saved,
        dy,
        sums: None,
        accumulate: None,
        #[cfg(feature = "gpu")]
        calls: &parameters.calls,
    }
}
