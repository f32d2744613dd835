//! What a layer owns: affine parameters, running statistics, and on a GPU its latest calls.

use super::named::{NAMES, Place};
use super::observer::Observer;
use super::{Affine, Extras, Init};
#[cfg(feature = "gpu")]
use crate::gpu::CallCache;
use crate::host::{self, HostRunning};
use crate::ops::{Inputs, Running};
use crate::problem::Problem;
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::read_together_blocking;
use crate::tensor::{HostData, read_together};
use crate::{Backend, Context, DType, Error, OperandError, Shape, StateError, Tensor};
use std::sync::Arc;

/// A layer's parameters and running statistics, where its context keeps them. Layers deref to it.
///
/// See also [`state_dict`](Self::state_dict) and [`load_state_dict`](Self::load_state_dict).
pub struct Parameters {
    pub(super) layer: &'static str,
    pub(super) context: Context,
    /// Of `weight` and `bias`.
    pub(super) shape: Shape,
    /// Whether `weight` and `bias` want gradients.
    trained: [bool; 2],
    pub(super) inits: [Init; 2],
    /// `weight` and `bias`.
    pub(super) affine: [Option<Tensor<'static>>; 2],
    pub(super) running: Option<Running>,
    /// What values are rounded to, and written to checkpoints as; running statistics on a GPU when they
    /// are written.
    pub(super) dtype: DType,
    observer: Option<Arc<dyn Observer>>,
    #[cfg(feature = "gpu")]
    pub(crate) calls: CallCache,
}

/// What a layer is built with.
pub(super) struct Blueprint {
    pub layer: &'static str,
    /// Of `weight` and `bias`.
    pub shape: Shape,
    pub affine: Affine,
    pub frozen: Affine,
    /// Of `weight` and `bias`.
    pub inits: [Init; 2],
    /// Features with running statistics, if any are kept.
    pub tracked: Option<usize>,
    pub dtype: DType,
}

impl Blueprint {
    /// No parameters, no running statistics.
    pub fn new(layer: &'static str) -> Self {
        Blueprint {
            layer,
            shape: Shape::default(),
            affine: Affine::None,
            frozen: Affine::None,
            inits: [Init::Ones, Init::Zeros],
            tracked: None,
            dtype: DType::F32,
        }
    }
}

/// A layer's values on the host, in the element types they are stored with.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// `weight` and `bias`.
    pub affine: [Option<Tensor<'static>>; 2],
    pub running: Option<HostRunning>,
}

impl Parameters {
    pub(super) fn new(context: &Context, blueprint: Blueprint) -> Result<Self, Error> {
        let Blueprint { layer, shape, affine, frozen, inits, tracked, dtype } = blueprint;
        check_dtype(layer, dtype, context)?;
        for (init, setting) in inits.into_iter().zip(["weight_init", "bias_init"]) {
            init.check(layer, setting)?;
        }
        let present = [affine.has_weight(), affine.has_bias()];
        // What is drawn is copied into its place; two running statistics are f64.
        let drawn = if dtype == DType::F64 { 8 } else { 4 };
        let drawn = if affine == Affine::None { 0 } else { 2 * 2 * drawn };
        let drawn = shape.elements().saturating_mul(drawn);
        host::check_memory(drawn.saturating_add(tracked.unwrap_or(0) as u64 * 2 * 8))?;
        let running = match tracked {
            Some(n) => Some(Running::new(context, HostRunning::new(n, dtype))?),
            None => None,
        };
        let mut parameters = Parameters {
            layer,
            context: context.clone(),
            shape,
            trained: [!frozen.has_weight(), !frozen.has_bias()],
            inits,
            affine: [None, None],
            running,
            dtype,
            observer: None,
            #[cfg(feature = "gpu")]
            calls: CallCache::default(),
        };
        let Parameters { shape, context, affine: places, .. } = &mut parameters;
        for (i, name) in NAMES.into_iter().enumerate().filter(|&(i, _)| present[i]) {
            let tensor = inits[i].tensor(shape, dtype)?;
            places[i] = Some(Place { layer, name, shape, dtype, context }.place(&tensor)?);
        }
        Ok(parameters)
    }

    /// A call of this layer with its operands, to be checked.
    pub(super) fn inputs<'a, 't>(
        &'a self,
        x: &'a Tensor<'t>,
        extras: &'a Extras<'t>,
        problem: Problem,
        channel_axis: Option<usize>,
    ) -> Inputs<'a, 't> {
        Inputs {
            layer: self.layer,
            problem,
            x,
            weight: self.weight(),
            bias: self.bias(),
            running: self.running.as_ref(),
            extras,
            channel_axis,
            wants: self.trained,
            #[cfg(feature = "gpu")]
            calls: &self.calls,
        }
    }

    /// The element type of parameters and running statistics: that of the settings (f32), unless the
    /// layer was cast. A GPU keeps their values as f32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The layer's name, as errors give it.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// Where the layer works.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn check_context(&self, context: &Context) -> Result<(), OperandError> {
        if self.context.same_device(context) {
            Ok(())
        } else {
            Err(OperandError::OtherContext { layer: self.layer })
        }
    }

    /// `weight`, if the layer has one: shape `(C,)`, or as the layer says.
    pub fn weight(&self) -> Option<&Tensor<'static>> {
        self.affine[0].as_ref()
    }

    /// `bias`, if the layer has one, as [`weight`](Self::weight).
    pub fn bias(&self) -> Option<&Tensor<'static>> {
        self.affine[1].as_ref()
    }

    /// Calls `observer` with the input and output of every forward call from now on, in place of an
    /// earlier observer (PyTorch's forward hook). Recorded calls have no output yet: they are not
    /// seen.
    ///
    /// ```
    /// use wgnorm::{Context, LayerNorm, Mode, NormLayer, Tensor};
    ///
    /// let context = Context::host();
    /// let mut norm = LayerNorm::config([2]).init(&context)?;
    /// norm.set_observer(|x, y| println!("{x:?} became {y:?}"));
    /// norm.forward(&context, &Tensor::from_slice([1, 2], &[1.0, 2.0])?, Mode::Eval)?;
    /// # Ok::<(), wgnorm::Error>(())
    /// ```
    pub fn set_observer(&mut self, observer: impl Observer) {
        self.observer = Some(Arc::new(observer));
    }

    /// Lets go of the observer.
    pub fn clear_observer(&mut self) {
        self.observer = None;
    }

    pub(super) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    pub(super) fn observe(&self, x: &Tensor<'_>, y: &Tensor<'_>) {
        if let Some(observer) = &self.observer {
            observer(x, y);
        }
    }

    /// Bytes of the parameters and running statistics where they are kept. Calls kept ready on a GPU
    /// ([`trim`](Self::trim)) are not counted.
    pub fn memory_usage(&self) -> u64 {
        let affine = self.affine.iter().flatten();
        affine.map(|tensor| tensor.desc().bytes()).sum::<u64>()
            + self.running.as_ref().map_or(0, Running::bytes)
    }

    /// Forgets the calls kept ready for reuse, and so lets go of the buffers they hold. They are kept
    /// for up to 32 sets of operands, for fewer above 512 MiB.
    pub fn trim(&self) {
        #[cfg(feature = "gpu")]
        self.calls.clear();
    }

    /// `running_mean`, shape `(C,)`. On a GPU a view of the live values, read whenever it is read
    /// back; on the host a copy.
    ///
    /// # Errors
    /// [`StateError::Absent`] if the layer tracks none.
    pub fn running_mean(&self) -> Result<Tensor<'static>, Error> {
        self.running()?.part(&self.context, 0)
    }

    /// `running_var`, as [`running_mean`](Self::running_mean).
    ///
    /// # Errors
    /// As [`running_mean`](Self::running_mean).
    pub fn running_var(&self) -> Result<Tensor<'static>, Error> {
        self.running()?.part(&self.context, 1)
    }

    /// Training steps counted so far, those of empty batches among them. InstanceNorm counts only with a
    /// cumulative momentum; PyTorch's has none, and its count stays 0. On an application's device the call
    /// completes when the application polls, as [`Tensor::to_vec`] does.
    ///
    /// # Errors
    /// [`StateError::Absent`] if the layer tracks none, [`RunError`](crate::RunError) if the device
    /// fails.
    pub async fn num_batches_tracked(&self) -> Result<u64, Error> {
        let count = self.running()?.count(&self.context)?;
        Ok(count_in(&count.to_vec().await?))
    }

    /// [`num_batches_tracked`](Self::num_batches_tracked) that blocks this thread, polling the device
    /// meanwhile. Native only.
    ///
    /// # Errors
    /// As [`num_batches_tracked`](Self::num_batches_tracked).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn num_batches_tracked_blocking(&self) -> Result<u64, Error> {
        let count = self.running()?.count(&self.context)?;
        Ok(count_in(&count.to_vec_blocking()?))
    }

    pub(super) fn running(&self) -> Result<&Running, StateError> {
        let absent = StateError::Absent { layer: self.layer, name: "running statistics" };
        self.running.as_ref().ok_or(absent)
    }

    /// All values, brought to the host; of running statistics an update is whole in them or not there.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(self.assemble(read_together(&self.on_device()?).await?))
    }

    /// [`snapshot`](Self::snapshot) that blocks this thread, polling the device meanwhile.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn snapshot_blocking(&self) -> Result<Snapshot, Error> {
        Ok(self.assemble(read_together_blocking(&self.on_device()?)?))
    }

    /// What [`assemble`](Self::assemble) needs read: nothing on the host.
    fn on_device(&self) -> Result<Vec<Tensor<'static>>, Error> {
        let affine = self.affine.iter().flatten().filter(|tensor| !tensor.is_on_host());
        let mut tensors: Vec<_> = affine.cloned().collect();
        if let Some(running) = &self.running {
            tensors.extend(running.on_device(&self.context)?);
        }
        Ok(tensors)
    }

    fn assemble(&self, values: Vec<Vec<f32>>) -> Snapshot {
        let mut values = values.into_iter();
        let affine = self.affine.each_ref().map(|tensor| {
            let tensor = tensor.as_ref()?;
            if tensor.is_on_host() {
                return Some(tensor.clone());
            }
            let values: Vec<f64> = values.next()?.into_iter().map(f64::from).collect();
            let desc = tensor.desc().clone().with_dtype(self.dtype);
            Some(Tensor::host(desc, HostData::narrow(&values, self.dtype)))
        });
        let running = self.running.as_ref().map(|r| r.assemble(&mut values, self.dtype));
        Snapshot { affine, running }
    }

    /// A layer like this with these values, rounded to `dtype`, on `context`.
    pub(super) fn rebuild(
        &self,
        snapshot: Snapshot,
        context: &Context,
        dtype: DType,
    ) -> Result<Self, Error> {
        let (layer, shape) = (self.layer, &self.shape);
        check_dtype(layer, dtype, context)?;
        let mut affine = [None, None];
        for (i, name) in NAMES.into_iter().enumerate() {
            if let Some(tensor) = &snapshot.affine[i] {
                affine[i] = Some(Place { layer, name, shape, dtype, context }.place(tensor)?);
            }
        }
        let running = match snapshot.running {
            Some(running) => Some(Running::new(context, running.rounded(dtype))?),
            None => None,
        };
        Ok(Parameters {
            layer: self.layer,
            context: context.clone(),
            shape: self.shape.clone(),
            trained: self.trained,
            inits: self.inits,
            affine,
            running,
            dtype,
            observer: self.observer.clone(),
            #[cfg(feature = "gpu")]
            calls: CallCache::default(),
        })
    }
}

/// Whether a layer here can have this element type.
pub(super) fn check_dtype(
    layer: &'static str,
    dtype: DType,
    context: &Context,
) -> Result<(), OperandError> {
    match (dtype, context.backend()) {
        (DType::F64, Backend::Gpu) => Err(OperandError::NoF64 { operand: layer }),
        _ => Ok(()),
    }
}

/// The count whose bits were read as one f32.
fn count_in(bits: &[f32]) -> u64 {
    bits.iter().map(|bits| u64::from(bits.to_bits())).sum()
}
