//! The operations of [`crate::ops`] on a GPU: outputs, calls, submissions.

use super::encode::{Job, Recorder};
use super::{Gpu, GpuData, Operand, Operands};
use crate::ops::{Backward, Inputs, Merge};
use crate::plan::{Keep, Small, Wants};
use crate::{
    Error, Estimator, Grads, Problem, StatSource, Statistics, Tensor, TensorDesc, View, trace,
};
use std::sync::Arc;

type Output = Tensor<'static>;

impl Gpu {
    /// A tensor for a result: `into`, if it fits and a result may replace it.
    fn output_into(
        self: &Arc<Self>,
        desc: TensorDesc,
        into: Option<&Output>,
    ) -> Result<(Output, GpuData), Error> {
        if let Some(tensor) = into.filter(|tensor| *tensor.desc() == desc)
            && let Ok(data) = tensor.gpu_data(self, "output")
            && data.may_be_written()
        {
            return Ok((tensor.clone(), data.clone()));
        }
        self.output(desc)
    }

    /// A tensor for a result.
    fn output(self: &Arc<Self>, desc: TensorDesc) -> Result<(Output, GpuData), Error> {
        let data = self.allocate(desc.bytes())?;
        Ok((Tensor::gpu(desc, data.clone()), data))
    }

    /// So many times four numbers, about a problem; of nothing they are zeros.
    fn entries(
        self: &Arc<Self>,
        problem: &Problem,
        entries: u32,
    ) -> Result<(Output, GpuData), Error> {
        let desc = TensorDesc::new([entries as usize, 4])?;
        if problem.view.elements() > 0 {
            return self.output(desc);
        }
        let data = self.zeros(desc.bytes())?;
        Ok((Tensor::gpu(desc, data.clone()), data))
    }

    /// A call of this context's own, not of a layer.
    fn call(&self, job: &Job, operands: &Operands<'_>) -> Result<(), Error> {
        self.run("a call", &self.calls, job, operands)
    }
}

impl Inputs<'_, '_> {
    fn submit(&self, gpu: &Gpu, job: &Job, operands: &Operands<'_>) -> Result<(), Error> {
        gpu.run("forward", self.calls, job, operands)
    }
}

pub(crate) fn statistics(gpu: &Arc<Gpu>, inputs: &Inputs<'_, '_>) -> Result<Output, Error> {
    let (tensor, moments) = gpu.entries(&inputs.problem, inputs.problem.view.statistics())?;
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Moments, &moments);
    inputs.submit(gpu, &Job::Statistics(inputs.problem), &operands)?;
    Ok(tensor)
}

pub(crate) fn forward(gpu: &Arc<Gpu>, inputs: &Inputs<'_, '_>) -> Result<Output, Error> {
    let (tensor, y) = gpu.output(inputs.x.desc().clone())?;
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Y, &y);
    inputs.submit(gpu, &Job::Forward(inputs.problem, Keep::Nothing), &operands)?;
    Ok(tensor)
}

/// Into y's memory, if it is the application's or nobody shares it.
pub(crate) fn forward_into(
    gpu: &Arc<Gpu>,
    inputs: &Inputs<'_, '_>,
    y: &mut Output,
) -> Result<(), Error> {
    y.gpu_data(gpu, "y")?;
    let (tensor, data) = gpu.output_into(inputs.x.desc().clone(), Some(y))?;
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Y, &data);
    inputs.submit(gpu, &Job::Forward(inputs.problem, Keep::Nothing), &operands)?;
    *y = tensor;
    Ok(())
}

/// Into x's memory, as [`forward_into`]. What takes x's place.
pub(crate) fn forward_in_place(gpu: &Arc<Gpu>, inputs: &Inputs<'_, '_>) -> Result<Output, Error> {
    let x = inputs.x.gpu_data(gpu, "x")?;
    let desc = inputs.x.desc().clone();
    let (tensor, y) = match x.may_be_written() {
        true => (Tensor::gpu(desc, x.clone()), x.clone()),
        false => gpu.output(desc)?,
    };
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Y, &y);
    inputs.submit(gpu, &Job::Forward(inputs.problem, Keep::Nothing), &operands)?;
    Ok(tensor)
}

/// One entry per group.
fn merged(gpu: &Arc<Gpu>, given: &Statistics) -> Result<Output, Error> {
    if given.tensor.shape().len() == 2 {
        return Ok(given.tensor.clone());
    }
    let (entries, parts) = (given.tensor.shape()[0], given.parts());
    let (tensor, out) = gpu.output(TensorDesc::new([entries, 4])?)?;
    let mut operands = Operands::default();
    operands.add(Operand::Moments, given.tensor.gpu_data(gpu, "statistics")?);
    operands.add(Operand::Gathered, &out);
    let small = Small::Gather { entries: entries as u32, parts };
    gpu.call(&Job::Small(small), &operands)?;
    Ok(tensor)
}

/// y, and the statistics it was made with.
pub(crate) fn forward_saved(
    gpu: &Arc<Gpu>,
    inputs: &Inputs<'_, '_>,
) -> Result<(Output, Output), Error> {
    if let Some((given, _)) = &inputs.extras.statistics {
        return Ok((forward(gpu, inputs)?, merged(gpu, given)?));
    }
    let (tensor, y) = gpu.output(inputs.x.desc().clone())?;
    let (saved, moments) = gpu.entries(&inputs.problem, inputs.problem.view.statistics())?;
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Y, &y);
    operands.add(Operand::Moments, &moments);
    inputs.submit(gpu, &Job::Forward(inputs.problem, Keep::Moments), &operands)?;
    Ok((tensor, saved))
}

pub(crate) fn record(
    gpu: &Arc<Gpu>,
    inputs: &Inputs<'_, '_>,
    y: &Tensor<'_>,
    recorder: &mut dyn Recorder,
) -> Result<(), Error> {
    let _span = trace::span("record", inputs.layer, inputs.x.desc());
    let mut operands = inputs.gpu_operands(gpu)?;
    operands.add(Operand::Y, y.gpu_data(gpu, "y")?);
    let job = Job::Forward(inputs.problem, Keep::Nothing);
    let call = inputs.calls.get(gpu, &job, &operands)?;
    #[cfg(target_arch = "wasm32")]
    operands.doubts(gpu, &call)?;
    // From here on the application decides when this memory is used.
    operands.escape();
    call.record(recorder);
    Ok(())
}

pub(crate) fn group_sums(gpu: &Arc<Gpu>, pass: &Backward<'_, '_>) -> Result<Output, Error> {
    let saved = pass.saved;
    let (tensor, sums) = gpu.entries(&saved.problem, saved.problem.view.groups())?;
    let mut operands = pass.gpu_operands(gpu)?;
    operands.add(Operand::Sums, &sums);
    gpu.run("group sums", pass.calls, &Job::GroupSums(saved.problem), &operands)?;
    Ok(tensor)
}

/// The tensor for the addend's gradient, where that is not dy.
fn gradient(
    gpu: &Arc<Gpu>,
    pass: &Backward<'_, '_>,
    into: Option<&Output>,
) -> Result<Option<(Output, GpuData)>, Error> {
    let saved = pass.saved;
    saved.problem.has_gradient().then(|| gpu.output_into(saved.x.desc().clone(), into)).transpose()
}

/// Into the memory of dx and daddend of `into`, if nobody shares it.
pub(crate) fn backward(
    gpu: &Arc<Gpu>,
    pass: &Backward<'_, '_>,
    into: Option<&Grads>,
) -> Result<Grads, Error> {
    let saved = pass.saved;
    let (dx, dx_data) = gpu.output_into(saved.x.desc().clone(), into.map(|grads| &grads.dx))?;
    let gradient = gradient(gpu, pass, into.and_then(|grads| grads.daddend.as_ref()))?;
    let accumulate = pass.accumulate;
    let empty = saved.x.shape().elements() == 0;
    type Param = fn(&Grads) -> Option<&Output>;
    let param = |wanted: bool, like: Option<&Output>, of: Param| -> Result<_, Error> {
        let Some(like) = like.filter(|_| wanted) else { return Ok(None) };
        let desc = TensorDesc::new(like.shape())?;
        let bytes = desc.bytes();
        let data = match accumulate.and_then(of) {
            // A copy: others may hold the old one.
            Some(old) => gpu.copy(old.gpu_data(gpu, "gradient")?)?,
            // Nothing to sum, or to be added to.
            None if empty || accumulate.is_some() => gpu.zeros(bytes)?,
            None => return Ok(Some(gpu.output_into(desc, into.and_then(of))?.0)),
        };
        Ok(Some(Tensor::gpu(desc, data)))
    };
    let [weight, bias] = saved.wants;
    let dweight = param(weight, saved.weight.as_ref(), |grads| grads.dweight.as_ref())?;
    let dbias = param(bias, saved.bias.as_ref(), |grads| grads.dbias.as_ref())?;
    let mut operands = pass.gpu_operands(gpu)?;
    operands.add(Operand::Y, &dx_data);
    if let Some((_, data)) = &gradient {
        operands.add(Operand::Gradient, data);
    }
    for (operand, name, tensor) in
        [(Operand::WeightOut, "dweight", &dweight), (Operand::BiasOut, "dbias", &dbias)]
    {
        if let Some(tensor) = tensor {
            operands.add(operand, tensor.gpu_data(gpu, name)?);
        }
    }
    let wants = Wants {
        weight: dweight.is_some(),
        bias: dbias.is_some(),
        accumulate: accumulate.is_some(),
        given_sums: pass.sums.is_some(),
    };
    gpu.run("backward", pass.calls, &Job::Backward(saved.problem, wants), &operands)?;
    drop(operands);
    let daddend = saved.problem.addend.then(|| match gradient {
        Some((tensor, _)) => tensor,
        None => pass.dy.clone().into_owned(),
    });
    Ok(Grads { dx, dweight, dbias, daddend })
}

pub(crate) fn merge(gpu: &Arc<Gpu>, a: &Output, b: &Output, how: Merge) -> Result<Output, Error> {
    let (tensor, out) = gpu.output(a.desc().clone())?;
    let mut operands = Operands::default();
    operands.add(Operand::Moments, a.gpu_data(gpu, "statistics")?);
    operands.add(Operand::Sums, b.gpu_data(gpu, "other")?);
    operands.add(Operand::Gathered, &out);
    let entries = (a.shape().elements() / 4) as u32;
    let small = Small::Merge { entries, add: how == Merge::Sums };
    gpu.call(&Job::Small(small), &operands)?;
    Ok(tensor)
}

/// `mix` and `rows` are matrices.
pub(crate) fn mix(
    gpu: &Arc<Gpu>,
    mix: &Tensor<'_>,
    rows: &Tensor<'_>,
    transposed: bool,
    old: Option<&Output>,
) -> Result<Output, Error> {
    let [m, n] = [mix.shape()[0] as u32, mix.shape()[1] as u32];
    let (outputs, terms, strides) = if transposed { (n, m, [1, n]) } else { (m, n, [n, 1]) };
    let columns = rows.shape()[1] as u32;
    let desc = TensorDesc::new([outputs as usize, columns as usize])?;
    let out = match old {
        // A copy: others may hold the old one.
        Some(old) => gpu.copy(old.gpu_data(gpu, "gradient")?)?,
        None => gpu.allocate(desc.bytes())?,
    };
    let tensor = Tensor::gpu(desc, out.clone());
    let mut operands = Operands::default();
    operands.add(Operand::Weight, mix.gpu_data(gpu, "weights")?);
    operands.add(Operand::Bias, rows.gpu_data(gpu, "styles")?);
    operands.add(Operand::WeightOut, &out);
    let add = old.is_some();
    let small = Small::Mix { extent: [outputs, columns, terms], strides, add };
    gpu.call(&Job::Small(small), &operands)?;
    Ok(tensor)
}

pub(crate) fn style_tables(
    gpu: &Arc<Gpu>,
    moments: &Output,
    eps: f64,
    estimator: Estimator,
    shape: [usize; 2],
) -> Result<(Output, Output), Error> {
    let (deviations, weight) = gpu.output(TensorDesc::new(shape)?)?;
    let (means, bias) = gpu.output(TensorDesc::new(shape)?)?;
    let mut operands = Operands::default();
    operands.add(Operand::Moments, moments.gpu_data(gpu, "style statistics")?);
    operands.add(Operand::WeightOut, &weight);
    operands.add(Operand::BiasOut, &bias);
    let entries = moments.shape()[0] as u32;
    gpu.call(&Job::Small(Small::StyleTables { entries, eps, estimator }), &operands)?;
    Ok((deviations, means))
}

/// `[moments, dσ, dμ]` of the style.
pub(crate) fn style_gradient(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    style: &Tensor<'_>,
    [moments, dsigma, dmu]: [&Output; 3],
    estimator: Estimator,
) -> Result<Output, Error> {
    let source = StatSource::Given { differentiable: false, parts: 1 };
    // The tables have a value per statistic.
    let view = View { param: problem.view.stat, ..problem.view };
    let problem = Problem { view, source, weight: true, bias: true, ..*problem };
    let (tensor, out) = gpu.output(style.desc().clone())?;
    let mut operands = Operands::default();
    operands.add(Operand::X, style.gpu_data(gpu, "style")?);
    operands.add(Operand::Moments, moments.gpu_data(gpu, "style statistics")?);
    operands.add(Operand::Weight, dsigma.gpu_data(gpu, "table")?);
    operands.add(Operand::Bias, dmu.gpu_data(gpu, "table")?);
    operands.add(Operand::Y, &out);
    gpu.call(&Job::StyleGradient(problem, estimator), &operands)?;
    Ok(tensor)
}
