//! The host path.

use crate::cases::Case;
use crate::{Times, copy};
use std::error::Error;
use std::time::{Duration, Instant};
use wgnorm::{Context, DType, Element, Extras, Tensor, TensorDesc, bf16, f16};

/// Bytes of tensors that inputs and outputs rotate over.
const ROTATED: usize = 192 << 20;

pub struct Bench {
    context: Context,
    threads: usize,
}

impl Bench {
    pub fn new(threads: usize) -> Result<Bench, Box<dyn Error>> {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        Ok(Bench { context: Context::host(), threads })
    }

    pub fn device(&self) -> String {
        format!("host-{}t", self.threads)
    }

    pub fn run(&self, case: &Case, budget: Duration) -> Result<Times, Box<dyn Error>> {
        match case.dtype {
            DType::F32 => self.typed::<f32>(case, budget),
            DType::F16 => self.typed::<f16>(case, budget),
            DType::BF16 => self.typed::<bf16>(case, budget),
            _ => self.typed::<f64>(case, budget),
        }
    }

    fn typed<T: Element>(&self, case: &Case, budget: Duration) -> Result<Times, Box<dyn Error>> {
        let context = &self.context;
        let layer = case.layer(context)?;
        let (mode, extras) = (case.mode(), Extras::new());
        let rotated = (ROTATED / case.floor_bytes()).max(3);
        let desc = TensorDesc::new(case.shape)?.with_dtype(case.dtype).with_order(case.order);
        let mut random = fastrand::Rng::with_seed(7);
        let values: Vec<f64> = (0..case.elements()).map(|_| random.f64() * 4.0 - 1.0).collect();
        let first = Tensor::from_vec_of(case.shape, values)?.cast(case.dtype)?;
        let input = || -> Result<Tensor<'static>, wgnorm::Error> {
            let copied = first.as_slice_of::<T>().expect("of this type").to_vec();
            Ok(Tensor::from_vec_of(case.shape, copied)?.with_order(case.order))
        };
        let inputs: Vec<_> = (0..rotated).map(|_| input()).collect::<Result<_, _>>()?;
        let mut outputs = inputs
            .iter()
            .map(|_| Tensor::zeros_of(context, desc.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut norm: Box<dyn FnMut(usize) -> Result<(), wgnorm::Error>> = if case.is_backward() {
            let dy = input()?;
            let mut calls = Vec::new();
            for x in &inputs {
                let (_, saved) = layer.forward_saved(context, x, mode)?;
                let grads = layer.backward(context, &saved, &dy)?;
                calls.push((saved, grads, input()?));
            }
            Box::new(move |i| {
                let (saved, grads, dy) = &mut calls[i];
                layer.backward_into(context, saved, dy, grads)
            })
        } else {
            Box::new(move |i| {
                layer.forward_into(context, &inputs[i], &extras, mode, &mut outputs[i])
            })
        };
        let mut from: Vec<Vec<u8>> = vec![vec![1; case.bytes()]; rotated];
        let mut to = from.clone();
        let mut copy = |i: usize, stream| copy::best(self.threads, &from[i], &mut to[i], stream);
        for i in 0..rotated {
            norm(i)?;
            copy(i, false);
        }
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        let started = Instant::now();
        while started.elapsed() < budget || times[0].len() < 2 * rotated {
            for i in 0..rotated {
                let mut timed = |which: usize, f: &mut dyn FnMut()| {
                    let start = Instant::now();
                    f();
                    times[which].push(start.elapsed().as_secs_f64() * 1e3);
                };
                let mut result = Ok(());
                timed(0, &mut || result = norm(i));
                result?;
                timed(1, &mut || copy((i + rotated / 3) % rotated, false));
                timed(2, &mut || copy((i + 2 * rotated / 3) % rotated, true));
            }
        }
        from.clear();
        let [norm, plain, stream] = times;
        let faster = |mut a: Vec<f64>, mut b: Vec<f64>| {
            if crate::median(&mut a) <= crate::median(&mut b) { a } else { b }
        };
        Ok(Times { norm, copy: faster(plain, stream), rotated, traffic_ratio: None })
    }
}
