//! The operations behind the layers: operands are checked here, then the GPU or the host works.

#[cfg(feature = "gpu")]
use crate::gpu::{self, CallCache, Gpu, GpuData};
use crate::host::{self, HostRunning};
use crate::layers::{Extras, Grads, Saved};
use crate::problem::{Estimator, Problem, StatSource};
use crate::statistics::{GroupSums, Statistics};
use crate::tensor::HostData;
use crate::{
    ConfigError, Context, DType, Error, Mask, RunError, Shape, ShapeError, Tensor, TensorDesc,
    trace,
};
#[cfg(feature = "gpu")]
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

/// Running statistics stay where they are used, and are updated there.
pub(crate) enum Running {
    Host(Mutex<HostRunning>),
    /// `running_mean` then `running_var` in one buffer, and the count of steps in another.
    #[cfg(feature = "gpu")]
    Gpu {
        stats: GpuData,
        tracked: GpuData,
    },
}

impl Running {
    /// The element type, where it decides which input goes with them: a GPU has f32 for all input.
    fn dtype(&self) -> Option<DType> {
        let running = self.host()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(running.dtype)
    }

    fn host(&self) -> Option<&Mutex<HostRunning>> {
        match self {
            Running::Host(running) => Some(running),
            #[cfg(feature = "gpu")]
            Running::Gpu { .. } => None,
        }
    }
}

/// A normalization with its operands, checked against each other.
pub(crate) struct Inputs<'a, 't> {
    pub layer: &'static str,
    pub problem: Problem,
    pub x: &'a Tensor<'t>,
    pub weight: Option<&'a Tensor<'static>>,
    pub bias: Option<&'a Tensor<'static>>,
    pub running: Option<&'a Running>,
    pub extras: &'a Extras<'t>,
    /// The channel axis of x, if its groups run over positions, which a mask can name.
    pub channel_axis: Option<usize>,
    /// Which parameters want a gradient: `weight`, `bias`.
    pub wants: [bool; 2],
    #[cfg(feature = "gpu")]
    pub calls: &'a CallCache,
}

impl<'a, 't> Inputs<'a, 't> {
    /// Takes the extras into the problem, and checks the operands against x.
    pub fn check(mut self) -> Result<Self, Error> {
        let (layer, x, extras) = (self.layer, self.x, self.extras);
        let problem = &mut self.problem;
        if let Some(addend) = &extras.addend {
            same_desc(layer, "addend", x.desc(), addend.desc())?;
            problem.addend = true;
        }
        if let Some(activation) = extras.activation {
            problem.activation = activation;
        }
        let slope = problem.activation.slope();
        if !slope.is_finite() {
            return Err(ConfigError::Slope { layer, got: slope }.into());
        }
        if let Some(mask) = &extras.mask {
            let axis = self.channel_axis.ok_or(ShapeError::NoMask { layer })?;
            let (expected, got) = (mask_shape(x.shape(), axis), mask.shape().clone());
            if got != expected {
                return Err(ShapeError::Mask { layer, expected, got }.into());
            }
            problem.masked = true;
        }
        if let Some((statistics, differentiable)) = &extras.statistics {
            // As those of a batch are laid out, also where running ones would have been used.
            problem.view.stat = [problem.view.extent[1], 1, 0, 0];
            let (differentiable, parts) = (*differentiable, statistics.parts());
            let entries = problem.view.statistics() as usize;
            let expected = match statistics.tensor.shape().len() {
                3 => [entries, parts as usize, 4].into(),
                _ => [entries, 4].into(),
            };
            check_entries(layer, "statistics", expected, &statistics.tensor)?;
            problem.source = StatSource::Given { differentiable, parts };
        }
        // Parameters and running statistics of 16-bit tensors may be 16-bit or f32; of f64 tensors they are f64.
        let double = x.dtype() == DType::F64;
        for (operand, dtype) in [
            ("weight", self.weight.map(Tensor::dtype)),
            ("bias", self.bias.map(Tensor::dtype)),
            ("running_mean", self.running.and_then(Running::dtype)),
        ] {
            if let Some(got) = dtype
                && (got == DType::F64) != double
            {
                let expected = if double { DType::F64 } else { DType::F32 };
                return Err(ShapeError::DType { layer, operand, expected, got }.into());
            }
        }
        Ok(self)
    }

    /// Whether the operands are where `context` works.
    pub fn check_places(&self, context: &Context) -> Result<(), Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return self.gpu_operands(gpu).map(drop);
        }
        let _ = context;
        self.host_operands().map(drop)
    }

    /// The statistics of x, not yet used for anything.
    pub fn statistics(&self, context: &Context) -> Result<Statistics, Error> {
        let _span = trace::span("statistics", self.layer, self.x.desc());
        let groups = self.problem.view.groups() as usize;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let tensor = gpu::statistics(gpu, self)?;
            return Ok(Statistics { tensor });
        }
        let _ = context;
        check_groups(&self.problem)?;
        let operands = self.host_operands()?;
        let moments = host::statistics(&self.problem, &operands);
        Ok(Statistics { tensor: Tensor::from_vec_of([groups, 4], moments)? })
    }

    pub fn forward(&self, context: &Context) -> Result<Tensor<'static>, Error> {
        let _span = trace::span("forward", self.layer, self.x.desc());
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return gpu::forward(gpu, self);
        }
        let pool = context.host_pool();
        let y = host::forward(pool, &self.problem, &self.host_operands()?, None)?;
        Ok(Tensor::host(self.x.desc().clone(), y))
    }

    /// [`forward`](Self::forward) into y's memory, if nobody shares it.
    pub fn forward_into(&self, context: &Context, y: &mut Tensor<'static>) -> Result<(), Error> {
        let _span = trace::span("forward_into", self.layer, self.x.desc());
        same_desc(self.layer, "y", self.x.desc(), y.desc())?;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return gpu::forward_into(gpu, self, y);
        }
        y.host_data("y")?;
        let operands = self.host_operands()?;
        let data = host::forward(context.host_pool(), &self.problem, &operands, y.take_host())?;
        *y = Tensor::host(self.x.desc().clone(), data);
        Ok(())
    }

    /// What takes x's place: on a GPU x's memory written over, if nobody shares it.
    pub fn forward_in_place(&self, context: &Context) -> Result<Tensor<'static>, Error> {
        let _span = trace::span("forward_in_place", self.layer, self.x.desc());
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return gpu::forward_in_place(gpu, self);
        }
        self.forward(context)
    }

    pub fn forward_saved(&self, context: &Context) -> Result<(Tensor<'static>, Saved<'t>), Error> {
        let _span = trace::span("forward_saved", self.layer, self.x.desc());
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let (y, moments) = gpu::forward_saved(gpu, self)?;
            return Ok((y, self.saved(moments)));
        }
        check_groups(&self.problem)?;
        let pool = context.host_pool();
        let (y, moments) = host::forward_saved(pool, &self.problem, &self.host_operands()?)?;
        let moments = Tensor::from_vec_of([moments.len() / 4, 4], moments)?;
        Ok((Tensor::host(self.x.desc().clone(), y), self.saved(moments)))
    }

    fn saved(&self, moments: Tensor<'static>) -> Saved<'t> {
        let epilogue = self.problem.activation != crate::Activation::None;
        let source = match self.problem.source {
            // Those of parts have been merged.
            StatSource::Given { differentiable, .. } => {
                StatSource::Given { differentiable, parts: 1 }
            }
            other => other,
        };
        Saved {
            layer: self.layer,
            problem: Problem { update: None, source, ..self.problem },
            x: self.x.clone(),
            // Without an activation the addend's gradient is dy.
            addend: self.extras.addend.clone().filter(|_| epilogue),
            weight: self.weight.cloned(),
            bias: self.bias.cloned(),
            mask: self.extras.mask.clone(),
            moments,
            wants: self.wants,
        }
    }

    fn host_operands(&self) -> Result<host::Operands<'_>, Error> {
        let param = |tensor: Option<&'a Tensor<'static>>, name| {
            tensor.map(|tensor| tensor.host_data(name)).transpose()
        };
        let given = self.extras.statistics.as_ref().map(|(given, _)| &given.tensor);
        Ok(host::Operands {
            x: self.x.host_data("x")?,
            addend: self.extras.addend.as_ref().map(|a| a.host_data("addend")).transpose()?,
            weight: param(self.weight, "weight")?,
            bias: param(self.bias, "bias")?,
            running: self.running.and_then(Running::host),
            mask: self.extras.mask.as_ref().map(Mask::host).transpose()?,
            moments: given.map(|given| host_f64(given, "statistics")).transpose()?,
        })
    }
}

/// Whether the host has room for an entry of each group: tensors of few elements, or none, may have billions of them.
fn check_groups(problem: &Problem) -> Result<(), RunError> {
    // In the host's own form, and as a tensor.
    host::check_memory(u64::from(problem.view.groups()) * (3 + 4) * 8)
}

/// What a backward pass is asked for, besides dx.
pub(crate) struct Backward<'a, 't> {
    pub saved: &'a Saved<'t>,
    pub dy: &'a Tensor<'a>,
    /// Sums over the whole groups, where they reach beyond x.
    pub sums: Option<&'a GroupSums>,
    /// Gradients to add to.
    pub accumulate: Option<&'a Grads>,
    #[cfg(feature = "gpu")]
    pub calls: &'a CallCache,
}

impl Backward<'_, '_> {
    fn check(&self) -> Result<(), Error> {
        let saved = self.saved;
        same_desc(saved.layer, "dy", saved.x.desc(), self.dy.desc())?;
        if let Some(sums) = self.sums {
            let expected = [saved.problem.view.groups() as usize, 4].into();
            check_entries(saved.layer, "sums", expected, &sums.tensor)?;
        }
        Ok(())
    }

    fn host_operands(&self) -> Result<host::Operands<'_>, Error> {
        let saved = self.saved;
        Ok(host::Operands {
            x: saved.x.host_data("x")?,
            addend: saved.addend.as_ref().map(|a| a.host_data("addend")).transpose()?,
            weight: saved.weight.as_ref().map(|w| w.host_data("weight")).transpose()?,
            bias: saved.bias.as_ref().map(|b| b.host_data("bias")).transpose()?,
            running: None,
            mask: saved.mask.as_ref().map(Mask::host).transpose()?,
            moments: Some(host_f64(&saved.moments, "saved statistics")?),
        })
    }

    /// `(count, Σγg, Σγg·xhat)` of every group of x.
    pub fn group_sums(&self, context: &Context) -> Result<GroupSums, Error> {
        let _span = trace::span("group_sums", self.saved.layer, self.saved.x.desc());
        self.check()?;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            let tensor = gpu::group_sums(gpu, self)?;
            return Ok(GroupSums { tensor });
        }
        let _ = context;
        check_groups(&self.saved.problem)?;
        let dy = self.dy.host_data("dy")?;
        let sums = host::group_sums(&self.saved.problem, &self.host_operands()?, dy);
        Ok(GroupSums { tensor: Tensor::from_vec_of([sums.len() / 4, 4], sums)? })
    }

    /// The gradients; of x and the addend into the memory of `into`, if nobody shares it.
    pub fn run(self, context: &Context, into: Option<&mut Grads>) -> Result<Grads, Error> {
        let _span = trace::span("backward", self.saved.layer, self.saved.x.desc());
        self.check()?;
        if let Some(into) = &into {
            same_desc(self.saved.layer, "dx", self.saved.x.desc(), into.dx.desc())?;
        }
        if let Some(grads) = self.accumulate {
            grads.check_accumulate(self.saved, self.saved.wanted_shapes())?;
        }
        #[cfg(feature = "gpu")]
        if let Some(gpu) = context.gpu() {
            return Ok(gpu::backward(gpu, &self, into.as_deref())?.keeping(self.accumulate));
        }
        let saved = self.saved;
        let sums = self.sums.map(|sums| host_f64(&sums.tensor, "sums")).transpose()?;
        let dy = self.dy.host_data("dy")?;
        let operands = self.host_operands()?;
        check_groups(&saved.problem)?;
        let pool = context.host_pool();
        // Where one gradient is lent and the other is not: before anything is taken, so that with an error who lends
        // keeps it.
        let lends = |grad: Option<&Tensor<'_>>| grad.is_some_and(Tensor::can_lend);
        let lent = into.as_ref().map(|grads| [Some(&grads.dx), grads.daddend.as_ref()].map(lends));
        let [dx, daddend] = lent.unwrap_or_default();
        if dx != daddend && (saved.problem.addend_differs() || !dx) {
            host::check_memory(saved.x.desc().bytes())?;
        }
        let into = into.map_or([None, None], |grads| {
            [grads.dx.take_host(), grads.daddend.as_mut().and_then(Tensor::take_host)]
        });
        let request = host::Request { wants: saved.wants, sums, into };
        let grads = host::backward(pool, &saved.problem, &operands, dy, request)?;
        let param = |grad: Option<Vec<f64>>,
                     old: Option<&Tensor<'static>>,
                     like: Option<&Tensor<'static>>| {
            let (Some(mut grad), Some(like)) = (grad, like) else { return Ok(None) };
            if let Some(old) = old {
                let old = old.host_data("gradient")?.convert::<f64>();
                grad.iter_mut().zip(old).for_each(|(new, old)| *new += old);
            }
            let dtype = saved.gradient_type();
            let desc = like.desc().clone().with_dtype(dtype);
            Ok::<_, Error>(Some(Tensor::host(desc, HostData::narrow(&grad, dtype))))
        };
        let old = self.accumulate;
        let dweight =
            param(grads.dweight, old.and_then(|g| g.dweight.as_ref()), saved.weight.as_ref())?;
        let dbias = param(grads.dbias, old.and_then(|g| g.dbias.as_ref()), saved.bias.as_ref())?;
        let like = |data| Tensor::host(saved.x.desc().clone(), data);
        let daddend = match grads.daddend {
            Some(data) => Some(like(data)),
            None if saved.problem.addend => Some(self.dy.clone().into_owned()),
            None => None,
        };
        Ok(Grads { dx: like(grads.dx), dweight, dbias, daddend }.keeping(old))
    }
}

/// What [`merge`] does with two vectors of four numbers per group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Merge {
    /// Chan's formula.
    Moments,
    /// The sum.
    Sums,
}

pub(crate) fn merge(
    context: &Context,
    a: &Tensor<'static>,
    b: &Tensor<'static>,
    how: Merge,
) -> Result<Tensor<'static>, Error> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = context.gpu() {
        return gpu::merge(gpu, a, b, how);
    }
    let _ = context;
    host::check_memory(a.desc().bytes())?;
    let merged = host::merge(host_f64(a, "statistics")?, host_f64(b, "other")?, how);
    Ok(Tensor::from_vec_of(a.shape(), merged)?)
}

/// AdaIn's tables from the statistics of a style: its deviations `√(var + eps)` and its means, each of
/// `shape`, f32 (f64 of f64 statistics).
pub(crate) fn style_tables(
    context: &Context,
    statistics: &Statistics,
    eps: f64,
    estimator: Estimator,
    shape: [usize; 2],
) -> Result<(Tensor<'static>, Tensor<'static>), Error> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = context.gpu() {
        return gpu::style_tables(gpu, &statistics.tensor, eps, estimator, shape);
    }
    let _ = context;
    let moments = host_f64(&statistics.tensor, "style statistics")?;
    let (deviations, means) = host::style_tables(moments, eps, estimator);
    Ok((Tensor::from_vec_of(shape, deviations)?, Tensor::from_vec_of(shape, means)?))
}

/// The style's gradient from those of its tables:
/// `dstyle = dμ/M + dσ·(style − μ)/(D·σ)` with D = M, or M − 1 for the unbiased estimator.
/// `problem` is that of the style alone (batch statistics, no parameters).
pub(crate) fn style_gradient(
    context: &Context,
    problem: &Problem,
    style: &Tensor<'_>,
    statistics: &Statistics,
    [dsigma, dmu]: [&Tensor<'static>; 2],
    estimator: Estimator,
) -> Result<Tensor<'static>, Error> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = context.gpu() {
        let operands = [&statistics.tensor, dsigma, dmu];
        return gpu::style_gradient(gpu, problem, style, operands, estimator);
    }
    let moments = host_f64(&statistics.tensor, "style statistics")?;
    let tables = [dsigma, dmu].map(|t| t.host_data("table").map(HostData::convert::<f64>));
    let [dsigma, dmu] = tables;
    let x = style.host_data("style")?;
    let data = host::style_gradient(
        context.host_pool(),
        problem,
        x,
        moments,
        [&dsigma?, &dmu?],
        estimator,
    )?;
    Ok(Tensor::host(style.desc().clone(), data))
}

/// `out[i, j] = old[i, j] + Σ_k mix[i, k] · rows[k, j]`: styles blended, and their gradients gathered.
/// Sums run in order of k. `old`, if there is one, is as the result.
pub(crate) fn mix(
    context: &Context,
    mix: &Tensor<'_>,
    rows: &Tensor<'_>,
    transposed: bool,
    old: Option<&Tensor<'static>>,
) -> Result<Tensor<'static>, Error> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = context.gpu() {
        return gpu::mix(gpu, mix, rows, transposed, old);
    }
    let _ = context;
    let [m, n] = mix.shape()[..] else { unreachable!("a matrix of weights") };
    let (outputs, inner) = if transposed { (n, m) } else { (m, n) };
    let columns = rows.shape()[1];
    let desc = TensorDesc::new([outputs, columns])?;
    // All in f64, and the result in its own type.
    let values = mix.desc().shape.elements() + rows.desc().shape.elements() + desc.shape.elements();
    host::check_memory(values.saturating_mul(2 * 8))?;
    let weights = mix.host_data("weights")?.convert::<f64>();
    let values = rows.host_data("styles")?.convert::<f64>();
    let mut out = match old {
        Some(old) => old.host_data("gradient")?.convert::<f64>(),
        None => vec![0.0f64; outputs * columns],
    };
    for (i, row) in out.chunks_mut(columns.max(1)).enumerate() {
        for k in 0..inner {
            let weight = weights[if transposed { k * n + i } else { i * n + k }];
            // A row that nobody asks for is not touched: it may hold NaN.
            if weight != 0.0 {
                row.iter_mut().zip(&values[k * columns..]).for_each(|(out, v)| *out += weight * v);
            }
        }
    }
    // As on a GPU: a blend of 16-bit styles is not rounded to 16 bits.
    let dtype = if rows.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(Tensor::host(desc.with_dtype(dtype), HostData::narrow(&out, dtype)))
}

/// (N, spatial…): x without its channels, N = 1 where it is unbatched.
fn mask_shape(x: &Shape, channel_axis: usize) -> Shape {
    let samples = if channel_axis == 0 { 1 } else { x[0] };
    let spatial = x.iter().enumerate().filter(|&(i, _)| i != 0 && i != channel_axis);
    std::iter::once(samples).chain(spatial.map(|(_, &size)| size)).collect::<Vec<_>>().into()
}

/// Four numbers per entry.
fn check_entries(
    layer: &'static str,
    operand: &'static str,
    expected: Shape,
    tensor: &Tensor<'_>,
) -> Result<(), ShapeError> {
    if *tensor.shape() == expected {
        return Ok(());
    }
    Err(ShapeError::Operand { layer, operand, expected, got: tensor.shape().clone() })
}

fn host_f64<'a>(tensor: &'a Tensor<'static>, operand: &'static str) -> Result<&'a [f64], Error> {
    let data = tensor.host_data(operand)?;
    match data {
        HostData::F64(values) => Ok(values.as_slice()),
        _ => unreachable!("statistics on the host are f64"),
    }
}

/// `other` must be as x is.
pub(crate) fn same_desc(
    layer: &'static str,
    operand: &'static str,
    x: &TensorDesc,
    other: &TensorDesc,
) -> Result<(), ShapeError> {
    if other.shape != x.shape {
        let (expected, got) = (x.shape.clone(), other.shape.clone());
        return Err(ShapeError::Operand { layer, operand, expected, got });
    }
    if other.dtype != x.dtype {
        let (expected, got) = (x.dtype, other.dtype);
        return Err(ShapeError::DType { layer, operand, expected, got });
    }
    if other.order != x.order {
        let (expected, got) = (x.order, other.order);
        return Err(ShapeError::Order { layer, operand, expected, got });
    }
    Ok(())
}

/// Operands on a GPU, see [`gpu`].
#[cfg(feature = "gpu")]
impl Inputs<'_, '_> {
    pub fn gpu_operands<'b>(&'b self, gpu: &Arc<Gpu>) -> Result<gpu::Operands<'b>, Error> {
        let mut operands = gpu::Operands::default();
        operands.add(gpu::Operand::X, self.x.gpu_data(gpu, "x")?);
        for (operand, name, tensor) in
            [(gpu::Operand::Weight, "weight", self.weight), (gpu::Operand::Bias, "bias", self.bias)]
        {
            if let Some(tensor) = tensor {
                operands.add(operand, tensor.gpu_data(gpu, name)?);
            }
        }
        if let Some(addend) = &self.extras.addend {
            operands.add(gpu::Operand::Addend, addend.gpu_data(gpu, "addend")?);
        }
        if let Some(mask) = &self.extras.mask {
            operands.add(gpu::Operand::Mask, mask.gpu_data(gpu)?);
        }
        if let Some((given, _)) = &self.extras.statistics {
            operands.add(gpu::Operand::Moments, given.tensor.gpu_data(gpu, "statistics")?);
        }
        if let Some(Running::Gpu { stats, tracked }) = self.running {
            operands.running = Some((stats, tracked));
        }
        Ok(operands)
    }
}

#[cfg(feature = "gpu")]
impl Backward<'_, '_> {
    pub fn gpu_operands<'b>(&'b self, gpu: &Arc<Gpu>) -> Result<gpu::Operands<'b>, Error> {
        let saved = self.saved;
        let mut operands = gpu::Operands::default();
        for (operand, name, tensor) in [
            (gpu::Operand::X, "x", Some(&saved.x)),
            (gpu::Operand::Dy, "dy", Some(self.dy)),
            (gpu::Operand::Addend, "addend", saved.addend.as_ref()),
        ] {
            if let Some(tensor) = tensor {
                operands.add(operand, tensor.gpu_data(gpu, name)?);
            }
        }
        for (operand, name, tensor) in [
            (gpu::Operand::Weight, "weight", saved.weight.as_ref()),
            (gpu::Operand::Bias, "bias", saved.bias.as_ref()),
            (gpu::Operand::Moments, "saved statistics", Some(&saved.moments)),
            (gpu::Operand::Sums, "sums", self.sums.map(|sums| &sums.tensor)),
        ] {
            if let Some(tensor) = tensor {
                operands.add(operand, tensor.gpu_data(gpu, name)?);
            }
        }
        if let Some(mask) = &saved.mask {
            operands.add(gpu::Operand::Mask, mask.gpu_data(gpu)?);
        }
        Ok(operands)
    }
}
