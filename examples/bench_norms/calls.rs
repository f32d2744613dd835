//! A case on one of the crate's back ends: the layer, and the tensors that its calls rotate over.

use crate::Failure;
use crate::answer::Answer;
use crate::cases::Case;
use wgnorm::plan::{Caps, Keep, Offsets, Plan, Traffic, Wants};
use wgnorm::{
    Context, DType, Error, Extras, Grads, MemoryOrder, Mode, NormLayer, Saved, Tensor, TensorDesc,
};

/// Bytes of tensors that calls rotate over: more than caches hold.
const ROTATED: usize = 192 << 20;

/// The values of a case, as its element type holds them.
pub struct Data {
    pub x: Vec<f64>,
    pub dy: Vec<f64>,
}

impl Data {
    pub fn of(case: &Case) -> Data {
        let mut random = fastrand::Rng::with_seed(7);
        let x = (0..case.elements()).map(|_| case.dtype.round(random.f64() * 4.0 - 1.0)).collect();
        let mut data = Data { x, dy: Vec::new() };
        if case.op.is_backward() {
            // It leans on x: the weight's gradient is then no sum of terms that cancel.
            let dy = data.x.iter().map(|x| case.dtype.round(random.f64() - 0.5 * x));
            data.dy = dy.collect();
        }
        data
    }
}

pub struct Calls {
    context: Context,
    layer: Box<dyn NormLayer>,
    extras: Extras<'static>,
    mode: Mode,
    work: Work,
}

enum Work {
    /// x, y.
    Forward(Vec<(Tensor<'static>, Tensor<'static>)>),
    /// x with its statistics, dy, dx with the parameters' gradients.
    Backward(Vec<(Saved<'static>, Tensor<'static>, Grads)>),
}

impl Calls {
    /// As many tensors as are rotated over: three at least, and no more than a layer keeps calls
    /// ready for.
    pub fn rotating(case: &Case, context: &Context, data: &Data) -> Result<Calls, Error> {
        Calls::new(case, context, data, (ROTATED / case.floor_bytes()).clamp(3, 32))
    }

    pub fn new(case: &Case, context: &Context, data: &Data, count: usize) -> Result<Calls, Error> {
        let (layer, mode) = (case.layer(context)?, case.mode());
        let tensor = |values: &[f64]| tensor(values, case.shape, case.dtype, case.order, context);
        let work = if case.op.is_backward() {
            let call = |_| {
                let dy = tensor(&data.dy)?;
                let (_, saved) = layer.forward_saved(context, &tensor(&data.x)?, mode)?;
                let grads = layer.backward(context, &saved, &dy)?;
                Ok((saved, dy, grads))
            };
            Work::Backward((0..count).map(call).collect::<Result<_, Error>>()?)
        } else {
            let desc = TensorDesc::new(case.shape)?.with_dtype(case.dtype).with_order(case.order);
            let call = |_| Ok((tensor(&data.x)?, Tensor::zeros_of(context, desc.clone())?));
            Work::Forward((0..count).map(call).collect::<Result<_, Error>>()?)
        };
        Ok(Calls { context: context.clone(), layer, extras: case.extras(), mode, work })
    }

    pub fn len(&self) -> usize {
        match &self.work {
            Work::Forward(calls) => calls.len(),
            Work::Backward(calls) => calls.len(),
        }
    }

    /// Runs a call; on a GPU, submits it.
    pub fn run(&mut self, i: usize) -> Result<(), Error> {
        let Calls { context, layer, extras, mode, .. } = self;
        match &mut self.work {
            Work::Forward(calls) => {
                let (x, y) = &mut calls[i];
                layer.forward_into(context, x, extras, *mode, y)
            }
            Work::Backward(calls) => {
                let (saved, dy, grads) = &mut calls[i];
                layer.backward_into(context, saved, dy, grads)
            }
        }
    }

    /// Records a forward call. (Backward ones submit themselves.)
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, i: usize) -> Result<(), Error> {
        let Work::Forward(calls) = &self.work else { unreachable!("a backward call") };
        let (x, y) = &calls[i];
        self.layer.record(&self.context, pass, x, y, &self.extras, self.mode)
    }

    /// Bytes that a call's plan moves of its tensors and of everything else, on a GPU.
    pub fn traffic(&self, caps: &Caps) -> Result<u64, Failure> {
        let offsets = Offsets::default();
        let plan = match &self.work {
            Work::Forward(calls) => {
                let problem = self.layer.problem(calls[0].0.desc(), self.mode)?;
                Plan::forward(&problem, caps, &offsets, Keep::Nothing)?
            }
            Work::Backward(calls) => {
                let problem = self.layer.problem(calls[0].1.desc(), self.mode)?;
                let wants =
                    Wants { weight: problem.weight, bias: problem.bias, ..Wants::default() };
                Plan::backward(&problem, caps, &offsets, wants)?
            }
        };
        let Traffic { read, written, entries, .. } = plan.traffic();
        Ok(read + written + entries)
    }

    /// A tensor that a call reads, and the one of the same size that it writes.
    pub fn tensors(&self) -> Vec<(&Tensor<'static>, &Tensor<'static>)> {
        match &self.work {
            Work::Forward(calls) => calls.iter().map(|(x, y)| (x, y)).collect(),
            Work::Backward(calls) => calls.iter().map(|(_, dy, grads)| (dy, &grads.dx)).collect(),
        }
    }

    /// What the first call has given.
    pub fn answer(&self) -> Result<Answer, Error> {
        let given = match &self.work {
            Work::Forward(calls) => vec![("y", Some(&calls[0].1))],
            Work::Backward(calls) => {
                let Grads { dx, dweight, dbias, .. } = &calls[0].2;
                vec![("dx", Some(dx)), ("dweight", dweight.as_ref()), ("dbias", dbias.as_ref())]
            }
        };
        let read = |(name, tensor): (_, Option<&Tensor<'_>>)| {
            Some(tensor?.to_vec_of_blocking::<f64>().map(|values| (name, values)))
        };
        given.into_iter().filter_map(read).collect()
    }
}

/// A tensor in memory of its own.
fn tensor(
    values: &[f64],
    shape: &[usize],
    dtype: DType,
    order: MemoryOrder,
    context: &Context,
) -> Result<Tensor<'static>, Error> {
    let values = Tensor::from_slice_of(shape, values)?;
    values.cast(dtype)?.with_order(order).to_context(context)
}
