//! Runs the cases that hold values of layers with one input: in steps, forward and backward.

use super::compare::Wanted;
use super::index::Array;
use super::{Run, deviates};
use crate::common::data::{self, Layout, fetch};
use crate::common::layer::{Layer, tracked};
use crate::common::oracle::{self, Kind, Norm, Source};
use std::collections::BTreeMap;
use wgnorm::{
    Activation, DType, Error, Estimator, Extras, LoadOptions, MemoryOrder, Mode, Momentum, Tensor,
};

/// A layer under test, and what the oracle has to know about it.
pub struct Subject {
    pub layer: Box<dyn Layer>,
    pub kind: Kind,
    /// Where the channels are in x.
    pub channels: Channels,
    pub eps: f64,
    pub momentum: Momentum,
    pub estimator: Estimator,
    pub activation: Activation,
    /// Which of weight and bias get gradients, if they are there.
    pub trained: [bool; 2],
}

/// How the golden set's arrays are cut into samples, channels and positions.
#[derive(Clone, Copy, Debug)]
pub enum Channels {
    /// On this axis, or last where the case is `nhwc`.
    Axis(usize),
    /// Nowhere: rows of so many elements.
    Rows(usize),
}

impl Subject {
    /// Of batch statistics, eps 1e-5, every parameter trained.
    pub fn new(layer: Box<dyn Layer>, kind: Kind, channels: Channels) -> Subject {
        Subject {
            layer,
            kind,
            channels,
            eps: 1e-5,
            momentum: Momentum::Factor(0.1),
            estimator: Estimator::Unbiased,
            activation: Activation::None,
            trained: [true; 2],
        }
    }

    pub fn layout(&self, shape: &[usize], nhwc: bool) -> Layout {
        let axis = match self.channels {
            Channels::Rows(len) => {
                return Layout::first([shape.iter().product::<usize>() / len.max(1), 1, len]);
            }
            Channels::Axis(_) if nhwc => shape.len() - 1,
            Channels::Axis(axis) => axis,
        };
        Layout {
            n: if axis == 0 { 1 } else { shape[0] },
            before: shape[axis.min(1)..axis].iter().product(),
            c: shape[axis],
            after: shape[axis + 1..].iter().product(),
        }
    }

    /// How far running statistics move in the step after so many.
    pub fn rate(&self, tracked: u64) -> f64 {
        match self.momentum {
            Momentum::Factor(factor) => factor,
            Momentum::Cumulative => 1.0 / (tracked + 1) as f64,
            _ => 0.0,
        }
    }

    pub async fn state(&self) -> Result<Option<State>, Error> {
        let Ok(mean) = self.layer.running_mean() else { return Ok(None) };
        Ok(Some(State {
            mean: fetch(&mean).await?,
            var: fetch(&self.layer.running_var()?).await?,
            tracked: tracked(self.layer.as_ref()).await?,
        }))
    }
}

/// Running mean and variance, and the steps counted.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    pub tracked: u64,
}

/// What a case of values computed, under the names it expects.
#[derive(Default)]
pub struct Outputs {
    pub tensors: BTreeMap<String, Vec<f64>>,
    pub counts: BTreeMap<String, u64>,
    /// The same from the oracle, restarted each step from the state before it.
    pub truths: BTreeMap<String, Vec<f64>>,
}

impl Outputs {
    pub fn insert(&mut self, name: &str, got: Vec<f64>, truth: Vec<f64>) {
        self.tensors.insert(name.to_owned(), got);
        self.truths.insert(name.to_owned(), truth);
    }
}

/// Which of a layer's calls.
#[derive(Clone, Copy, PartialEq)]
pub enum Pass {
    /// `forward_with`.
    Forward,
    /// `forward_saved_with` and `backward`.
    Saved,
}

/// The modes to try, one after the other on fresh layers.
pub fn modes(mode: Option<&str>) -> Result<Vec<Mode>, String> {
    match mode {
        Some("train") => Ok(vec![Mode::Train]),
        Some("eval") => Ok(vec![Mode::Eval]),
        Some("any") | None => Ok(vec![Mode::Train, Mode::Eval]),
        Some(other) => Err(format!("unknown mode {other}")),
    }
}

/// All of a case's values, through either way to compute them.
pub async fn run(
    run: &Run<'_>,
    fresh: impl AsyncFn() -> Result<Subject, Error>,
) -> Result<f64, String> {
    let mut worst = 0f64;
    for pass in [Pass::Forward, Pass::Saved] {
        if let Some(steps) = &run.case.steps {
            let subject = prepared(run, &fresh).await?;
            let mut outputs = Outputs::default();
            for (k, mode) in steps.iter().enumerate() {
                for mode in modes(Some(mode))? {
                    step(run, &subject, mode, pass, &format!("_{k}"), &mut outputs).await?;
                }
            }
            worst = worst.max(compare(run, &outputs, pass)?);
            continue;
        }
        for mode in modes(run.case.mode.as_deref())? {
            let subject = prepared(run, &fresh).await?;
            let mut outputs = Outputs::default();
            step(run, &subject, mode, pass, "", &mut outputs).await?;
            worst = worst.max(compare(run, &outputs, pass)?);
        }
    }
    Ok(worst)
}

/// The case's layer with the case's parameters.
async fn prepared(
    run: &Run<'_>,
    fresh: &impl AsyncFn() -> Result<Subject, Error>,
) -> Result<Subject, String> {
    let mut subject = fresh().await.map_err(|e| e.to_string())?;
    load(run, &mut subject)?;
    Ok(subject)
}

/// Its parameters and running statistics, in their types.
fn load(run: &Run<'_>, subject: &mut Subject) -> Result<(), String> {
    let (golden, case) = (run.golden, run.case);
    let told = |e: Error| e.to_string();
    if let Some(file) = &case.state_dict {
        let dict = golden.state_dict(file)?;
        let loaded = subject.layer.load_state_dict(&dict, &LoadOptions::strict());
        return loaded.map(|_| ()).map_err(told);
    }
    let read = |names: [&str; 2]| -> Result<Option<Array>, String> {
        Ok(golden.input(case, names[0])?.or(golden.input(case, names[1])?))
    };
    let (weight, bias) = (read(["weight", "gamma"])?, read(["bias", "beta"])?);
    let statistics = (read(["running_mean", ""])?, read(["running_var", ""])?);
    if case.fresh_module {
        return Ok(());
    }
    if let Some(weight) = weight {
        subject.layer.set_weight(&weight.tensor()?).map_err(told)?;
    }
    if let Some(bias) = bias {
        subject.layer.set_bias(&bias.tensor()?).map_err(told)?;
    }
    if let (Some(mean), Some(var)) = statistics {
        for ((_, mut buffer), values) in subject.layer.named_buffers_mut().zip([mean, var]) {
            buffer.set(&values.tensor()?).map_err(told)?;
        }
    }
    Ok(())
}

/// One call; its inputs and results have names that end in `suffix`.
async fn step(
    run: &Run<'_>,
    subject: &Subject,
    mode: Mode,
    pass: Pass,
    suffix: &str,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let (golden, case) = (run.golden, run.case);
    // Steps have inputs of their own, or share one.
    let read = |name: &str| -> Result<Option<Array>, String> {
        Ok(golden.input(case, &format!("{name}{suffix}"))?.or(golden.input(case, name)?))
    };
    let x = read("x")?.ok_or("no x")?;
    let (addend, dy) = (read("addend")?, read("dy")?);
    let before = subject.state().await.map_err(|e| e.to_string())?;
    let call = || -> Result<_, Error> {
        let place = |array: &Array| array.logical(case.is_nhwc())?.to_context(run.context);
        let tensor = place(&x)?;
        let mut extras = Extras::new();
        if let Some(addend) = &addend {
            extras = extras.with_addend(&place(addend)?);
        }
        let (layer, context) = (subject.layer.as_ref(), run.context);
        let (y, grads) = match pass {
            Pass::Forward => (layer.forward_with(context, &tensor, &extras, mode)?, None),
            Pass::Saved => {
                let (y, saved) = layer.forward_saved_with(context, &tensor, &extras, mode)?;
                let dy = dy.as_ref().map(&place).transpose()?;
                (y, dy.map(|dy| layer.backward(context, &saved, &dy)).transpose()?)
            }
        };
        Ok((tensor, y, grads))
    };
    let (tensor, y, grads) = call().map_err(|e| e.to_string())?;
    if y.desc() != tensor.desc() {
        return Err(format!("x is {tensor:?}, y {y:?}"));
    }
    let vec = async |tensor: &Tensor<'_>| fetch(tensor).await.map_err(|e| e.to_string());
    let parameter = async |tensor: Option<&Tensor<'static>>| match tensor {
        Some(tensor) => vec(tensor).await.map(Some),
        None => Ok(None),
    };
    let weight = parameter(subject.layer.weight()).await?;
    let bias = parameter(subject.layer.bias()).await?;
    let layout = subject.layout(&x.shape, case.is_nhwc());
    let logical = layout.to_logical(&x.values);
    let logical_addend = addend.as_ref().map(|a| layout.to_logical(&a.values));
    let norm = Norm {
        eps: subject.eps,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        source: match &before {
            Some(state) if mode == Mode::Eval => Source::Running(&state.mean, &state.var),
            _ => Source::Batch,
        },
        addend: logical_addend.as_deref(),
        activation: subject.activation,
        ..Norm::new(subject.kind, layout.logical())
    };
    let named = |part: &str| format!("{part}{suffix}");
    let got = vec(&y).await?;
    constant_groups(&norm, &logical, &layout.to_logical(&got), y.dtype())?;
    outputs.insert(&named("y"), got, layout.to_memory(&norm.forward(&logical).y));

    if let (Some(grads), Some(dy)) = (grads, dy) {
        let truth = norm.backward(&logical, &layout.to_logical(&dy.values));
        if grads.dx.desc() != tensor.desc() {
            return Err(format!("x is {tensor:?}, dx {:?}", grads.dx));
        }
        outputs.insert(&named("dx"), vec(&grads.dx).await?, layout.to_memory(&truth.dx));
        if grads.daddend.is_some() != addend.is_some() {
            return Err(format!("daddend is {:?}", grads.daddend));
        }
        if let Some(daddend) = &grads.daddend {
            let truth = layout.to_memory(&truth.daddend);
            outputs.insert(&named("daddend"), vec(daddend).await?, truth);
        }
        for (name, got, of, trained, truth) in [
            ("dgamma", grads.dweight, subject.layer.weight(), subject.trained[0], truth.dweight),
            ("dbeta", grads.dbias, subject.layer.bias(), subject.trained[1], truth.dbias),
        ] {
            let wanted = of.filter(|_| trained).map(|of| of.shape());
            if got.as_ref().map(|got| got.shape()) != wanted {
                return Err(format!("{name} is {got:?}, of {of:?}"));
            }
            if let Some(got) = got {
                outputs.insert(&named(name), vec(&got).await?, truth);
            }
        }
    }

    let after = subject.state().await.map_err(|e| e.to_string())?;
    if mode == Mode::Eval && before != after {
        return Err("evaluation changed the running statistics".into());
    }
    if let (Some(before), Some(after)) = (&before, after) {
        if mode == Mode::Train {
            let unbiased = subject.estimator == Estimator::Unbiased;
            let rate = subject.rate(before.tracked);
            let (mean, var) = norm.running(&logical, rate, unbiased, &before.mean, &before.var);
            outputs.truths.insert(named("running_mean_out"), mean);
            outputs.truths.insert(named("running_var_out"), var);
        }
        // Without a number: after all steps.
        for suffix in [suffix, ""] {
            let name = |part: &str| format!("{part}_out{suffix}");
            outputs.tensors.insert(name("running_mean"), after.mean.clone());
            outputs.tensors.insert(name("running_var"), after.var.clone());
            outputs.counts.insert(name("num_batches_tracked"), after.tracked);
        }
    }
    Ok(())
}

/// A group of one value gives exactly the activated bias.
fn constant_groups(norm: &Norm<'_>, x: &[f64], y: &[f64], dtype: DType) -> Result<(), String> {
    if !matches!(norm.source, Source::Batch) || norm.kind == Kind::Rms || norm.addend.is_some() {
        return Ok(());
    }
    let moments = norm.moments(x);
    for (i, n, c, s) in norm.elements() {
        let of = moments[norm.group(n, c)];
        if of.var == 0.0 && x[i] == of.mean {
            let bias = norm.bias.map_or(0.0, |bias| bias[norm.param(n, c, s)]);
            let bias = data::round(dtype, oracle::activate(norm.activation, bias));
            if y[i] != bias {
                let got = y[i];
                return Err(format!("[{i}] of a constant group is {got:e}, the bias {bias:e}"));
            }
        }
    }
    Ok(())
}

/// Everything that the case expects and the pass computes.
pub fn compare(run: &Run<'_>, outputs: &Outputs, pass: Pass) -> Result<f64, String> {
    let mut worst = 0f64;
    for (name, expected) in &run.case.expected {
        let told = |error: String| format!("{name}: {error}");
        if let Some(got) = outputs.tensors.get(name) {
            // These were recorded from a system that this crate deviates from, except for y of a
            // training step, which tracking does not touch.
            let theirs = deviates(run.case) && !(name == "y" && run.case.mode_is("train"));
            if !theirs {
                let share = Wanted::load(run, name)?.check(got).map_err(told)?;
                worst = worst.max(share);
            }
            // The golden set stores a truth only where the recorded system needs one. Elsewhere it
            // is computed here, for all elements.
            if let Some(truth) = outputs.truths.get(name)
                && expected.truth_f64.is_none() | theirs
            {
                let wanted = Wanted::truth(run, name, truth.clone())?;
                let told = |error: String| format!("{name}, plain f64 formula: {error}");
                worst = worst.max(wanted.check(got).map_err(told)?);
            }
        } else if let Some(got) = outputs.counts.get(name) {
            if expected.value != Some(*got) {
                return Err(format!("{name} is {got}, expected {:?}", expected.value));
            }
        } else if pass == Pass::Saved || !name.starts_with('d') {
            return Err(format!("nothing computes {name}"));
        }
    }
    Ok(worst)
}

impl Array {
    /// As it is stored, on the host.
    pub fn tensor(&self) -> Result<Tensor<'static>, String> {
        let order = MemoryOrder::ChannelsFirst;
        data::host(self.shape.as_slice(), self.dtype, order, &self.values)
            .map_err(|e| e.to_string())
    }

    /// With the logical shape of its memory order, on the host.
    pub fn logical(&self, nhwc: bool) -> Result<Tensor<'static>, Error> {
        let mut shape = self.shape.clone();
        let mut order = MemoryOrder::ChannelsFirst;
        if nhwc {
            shape[1..].rotate_right(1);
            order = MemoryOrder::ChannelsLast;
        }
        Ok(data::host(shape, self.dtype, order, &self.values)?)
    }
}
