//! Parameters and buffers by name: read, set, filled, reset.

use super::{Init, Parameters};
#[cfg(feature = "gpu")]
use crate::gpu::CallCache;
use crate::ops::Running;
use crate::state_dict::{COUNT, Fitting};
use crate::{Backend, Context, DType, Error, MemoryOrder, Shape, ShapeError, StateError, Tensor};

/// PyTorch's names of the parameters.
pub(super) const NAMES: [&str; 2] = ["weight", "bias"];
/// PyTorch's names of the running statistics.
pub(crate) const BUFFERS: [&str; 2] = ["running_mean", "running_var"];

/// Where a parameter belongs.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub layer: &'static str,
    pub name: &'static str,
    pub shape: &'a Shape,
    /// What values are rounded to; on a GPU they are then kept as f32, which the kernels read.
    pub dtype: DType,
    pub context: &'a Context,
}

impl Place<'_> {
    /// The tensor as a parameter of this place.
    pub fn place(self, tensor: &Tensor<'_>) -> Result<Tensor<'static>, Error> {
        let Place { layer, name: operand, shape, dtype, context } = self;
        check_shape(layer, operand, shape, tensor)?;
        let on_gpu = context.backend() == Backend::Gpu;
        let placed = match tensor.is_on_host() {
            true if on_gpu => tensor.cast(dtype)?.cast(DType::F32)?.to_context(context)?,
            true => tensor.cast(dtype)?,
            false => {
                let (expected, got) = (DType::F32, tensor.dtype());
                if got != expected {
                    return Err(ShapeError::DType { layer, operand, expected, got }.into());
                }
                tensor.to_context(context)?
            }
        };
        // Work recorded with a parameter may outlive it in the layer: its memory is never recycled.
        placed.escape();
        Ok(placed)
    }
}

/// Parameters and buffers are read in the order of their shape.
fn check_shape(
    layer: &'static str,
    operand: &'static str,
    expected: &Shape,
    tensor: &Tensor<'_>,
) -> Result<(), Error> {
    let (got, order) = (tensor.shape(), tensor.order());
    if got != expected {
        let (expected, got) = (expected.clone(), got.clone());
        return Err(StateError::Shape { layer, name: operand, expected, got }.into());
    }
    let expected = MemoryOrder::ChannelsFirst;
    if order != expected && got.len() > 2 {
        return Err(ShapeError::Order { layer, operand, expected, got: order }.into());
    }
    Ok(())
}

/// A parameter of a layer, to be changed; from
/// [`named_parameters_mut`](Parameters::named_parameters_mut).
pub struct ParameterMut<'a> {
    place: Place<'a>,
    init: Init,
    parameter: &'a mut Tensor<'static>,
    #[cfg(feature = "gpu")]
    calls: &'a CallCache,
}

impl ParameterMut<'_> {
    /// Its value.
    pub fn tensor(&self) -> &Tensor<'static> {
        self.parameter
    }

    /// Replaces it. A tensor on the host is copied to the layer's context, its values converted to the
    /// layer's [element type](Parameters::dtype). A tensor on the
    /// layer's GPU must be f32 and is shared, so that an optimizer may update it there. Work already
    /// recorded keeps the old one.
    ///
    /// # Errors
    /// [`StateError::Shape`] for another shape, [`OperandError`](crate::OperandError) if it is on
    /// another device, [`ShapeError::DType`] for one on a GPU that is not f32.
    pub fn set(&mut self, tensor: &Tensor<'_>) -> Result<(), Error> {
        *self.parameter = self.place.place(tensor)?;
        #[cfg(feature = "gpu")]
        self.calls.clear();
        Ok(())
    }

    /// Replaces it by `value(i)` at each row-major index.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device fails.
    pub fn fill(&mut self, value: impl FnMut(usize) -> f32) -> Result<(), Error> {
        let len = self.place.shape.elements() as usize;
        let tensor = Tensor::from_vec(self.place.shape, (0..len).map(value).collect())?;
        self.set(&tensor)
    }

    fn reset(&mut self) -> Result<(), Error> {
        let tensor = self.init.tensor(self.place.shape, self.place.dtype)?;
        self.set(&tensor)
    }
}

/// A running statistic of a layer, to be changed; from
/// [`named_buffers_mut`](Parameters::named_buffers_mut).
pub struct BufferMut<'a> {
    layer: &'static str,
    part: usize,
    context: &'a Context,
    running: &'a Running,
    dtype: DType,
}

impl BufferMut<'_> {
    /// Overwrites it with a tensor on the host. On a GPU work that is recorded and not yet submitted
    /// sees the new values.
    ///
    /// # Errors
    /// [`StateError::Shape`] for another shape, [`OperandError::Elsewhere`](crate::OperandError::Elsewhere) for a tensor on a GPU,
    /// [`RunError`](crate::RunError) if the device fails.
    pub fn set(&mut self, tensor: &Tensor<'_>) -> Result<(), Error> {
        let name = BUFFERS[self.part];
        check_shape(self.layer, name, &[self.running.features()].into(), tensor)?;
        let values = tensor.host_data(name)?.convert();
        self.running.write(self.context, self.part, &values, self.dtype)
    }
}

impl Parameters {
    /// `weight` and `bias` by name, as far as the layer has them.
    pub fn named_parameters(&self) -> impl Iterator<Item = (&'static str, &Tensor<'static>)> {
        let named = NAMES.into_iter().zip(&self.affine);
        named.filter_map(|(name, parameter)| Some((name, parameter.as_ref()?)))
    }

    /// `weight` and `bias` by name, to be changed. A tensor is replaced as a whole, because on a GPU
    /// it may be in use.
    pub fn named_parameters_mut(
        &mut self,
    ) -> impl Iterator<Item = (&'static str, ParameterMut<'_>)> {
        let Parameters {
            layer,
            context,
            shape,
            dtype,
            inits,
            affine,
            #[cfg(feature = "gpu")]
            calls,
            ..
        } = self;
        let (layer, context, shape, dtype) = (*layer, &*context, &*shape, *dtype);
        #[cfg(feature = "gpu")]
        let calls = &*calls;
        NAMES.into_iter().zip(affine).zip(&*inits).filter_map(move |((name, parameter), &init)| {
            let place = Place { layer, name, shape, dtype, context };
            let parameter = parameter.as_mut()?;
            let mutable = ParameterMut {
                place,
                init,
                parameter,
                #[cfg(feature = "gpu")]
                calls,
            };
            Some((name, mutable))
        })
    }

    /// `running_mean` and `running_var` by name, if the layer keeps them: on a GPU views of the live
    /// values, on the host copies. (The count of steps is no tensor of a type that tensors here have:
    /// [`num_batches_tracked`](Self::num_batches_tracked).)
    pub fn named_buffers(&self) -> impl Iterator<Item = (&'static str, Tensor<'static>)> {
        // They fail to be read only where there are none.
        let parts = [self.running_mean(), self.running_var()];
        BUFFERS.into_iter().zip(parts).filter_map(|(name, part)| Some((name, part.ok()?)))
    }

    /// `running_mean` and `running_var` by name, to be overwritten.
    pub fn named_buffers_mut(&mut self) -> impl Iterator<Item = (&'static str, BufferMut<'_>)> {
        let Parameters { layer, context, running, dtype, .. } = self;
        let (layer, context, dtype) = (*layer, &*context, *dtype);
        let parts = running.iter().flat_map(|running| [(0, running), (1, running)]);
        parts.map(move |(part, running)| {
            (BUFFERS[part], BufferMut { layer, part, context, running, dtype })
        })
    }

    fn parameter_mut(&mut self, name: &'static str) -> Result<ParameterMut<'_>, StateError> {
        let absent = StateError::Absent { layer: self.layer, name };
        self.named_parameters_mut().find(|named| named.0 == name).map(|p| p.1).ok_or(absent)
    }

    /// Replaces `weight`, see [`ParameterMut::set`].
    ///
    /// # Errors
    /// [`StateError::Absent`] if the layer has no weight, and as [`ParameterMut::set`].
    pub fn set_weight(&mut self, weight: &Tensor<'_>) -> Result<(), Error> {
        self.parameter_mut(NAMES[0])?.set(weight)
    }

    /// Replaces `bias`, see [`ParameterMut::set`].
    ///
    /// # Errors
    /// As [`set_weight`](Self::set_weight).
    pub fn set_bias(&mut self, bias: &Tensor<'_>) -> Result<(), Error> {
        self.parameter_mut(NAMES[1])?.set(bias)
    }

    /// Replaces `weight` by `value(i)` at each row-major index.
    ///
    /// # Errors
    /// As [`set_weight`](Self::set_weight).
    pub fn fill_weight(&mut self, value: impl FnMut(usize) -> f32) -> Result<(), Error> {
        self.parameter_mut(NAMES[0])?.fill(value)
    }

    /// Replaces `bias` by `value(i)` at each row-major index.
    ///
    /// # Errors
    /// As [`set_weight`](Self::set_weight).
    pub fn fill_bias(&mut self, value: impl FnMut(usize) -> f32) -> Result<(), Error> {
        self.parameter_mut(NAMES[1])?.fill(value)
    }

    /// `weight` and `bias` as they were built: by the settings' initializers. Running statistics are
    /// reset too, as PyTorch does.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device fails.
    pub fn reset_parameters(&mut self) -> Result<(), Error> {
        for (_, mut parameter) in self.named_parameters_mut() {
            parameter.reset()?;
        }
        self.reset_running_stats()
    }

    /// Overwrites the running statistics: on a GPU with the next submission, before everything in it.
    ///
    /// # Errors
    /// [`StateError`] if the layer tracks none, for another shape, or a count above `u32::MAX`.
    pub fn set_running_stats(
        &mut self,
        running_mean: &[f32],
        running_var: &[f32],
        num_batches_tracked: u64,
    ) -> Result<(), Error> {
        let layer = self.layer;
        let features = [self.running()?.features()].into();
        for (name, values) in BUFFERS.into_iter().zip([running_mean, running_var]) {
            check_shape(layer, name, &features, &Tensor::from_slice([values.len()], values)?)?;
        }
        let (got, limit) = (num_batches_tracked, u32::MAX);
        let tracked = u32::try_from(got).map_err(|_| StateError::Count { layer, got, limit })?;
        let widen = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        self.write_running(&widen(running_mean), &widen(running_var), tracked)
    }

    /// Running mean 0, running variance 1, count 0, as [`set_running_stats`](Self::set_running_stats).
    /// Without running statistics, nothing.
    ///
    /// # Errors
    /// [`RunError`](crate::RunError) if the device fails.
    pub fn reset_running_stats(&mut self) -> Result<(), Error> {
        let Ok(features) = self.running().map(Running::features) else { return Ok(()) };
        self.write_running(&vec![0.0; features], &vec![1.0; features], 0)
    }

    fn write_running(&self, mean: &[f64], var: &[f64], tracked: u32) -> Result<(), Error> {
        let running = self.running()?;
        running.write(&self.context, 0, mean, self.dtype)?;
        running.write(&self.context, 1, var, self.dtype)?;
        running.write_count(&self.context, tracked)
    }

    /// What a state has of this layer: names, and shapes of all but the count.
    pub(crate) fn layout(&self) -> Vec<(&'static str, Option<Shape>)> {
        let affine = self.named_parameters().map(|(name, t)| (name, Some(t.shape().clone())));
        let mut layout: Vec<_> = affine.collect();
        if let Some(running) = &self.running {
            let shape: Shape = [running.features()].into();
            layout.extend(BUFFERS.map(|name| (name, Some(shape.clone()))));
            layout.push((COUNT, None));
        }
        layout
    }

    /// Takes values that fit the layout. Parameters are replaced once all have a place.
    pub(crate) fn apply(&mut self, fitting: &Fitting) -> Result<(), Error> {
        let Parameters { layer, context, shape, dtype, affine, running, .. } = self;
        let (layer, context, shape, dtype) = (*layer, &*context, &*shape, *dtype);
        let mut placed = [None, None];
        for (i, name) in NAMES.into_iter().enumerate() {
            if let Some(tensor) = fitting.tensor(name) {
                let place = Place { layer, name, shape, dtype, context };
                placed[i] = Some(place.place(tensor)?);
            }
        }
        if let Some(running) = running {
            for (part, name) in BUFFERS.into_iter().enumerate() {
                if let Some(tensor) = fitting.tensor(name) {
                    let values = tensor.host_data(name)?.convert();
                    running.write(context, part, &values, dtype)?;
                }
            }
            if let Some(count) = fitting.count {
                running.write_count(context, count)?;
            }
        }
        for (old, new) in affine.iter_mut().zip(placed) {
            *old = new.or(old.take());
        }
        #[cfg(feature = "gpu")]
        self.calls.clear();
        Ok(())
    }
}
