//! Calls of which only the behaviour is recorded: accepted or refused.

use super::index::{Case, Expect};
use super::values::{Subject, modes};
use super::{Run, deviates};
use crate::common::data::{self, Layout};
use crate::common::oracle::{Norm, Source};
use crate::common::random;
use crate::common::tolerance::{self, Bound};
use serde::Deserialize;
use wgnorm::{ConfigError, DType, Error, Extras, MemoryOrder, Mode, ShapeError};

/// What a layer's refusals name.
pub struct Refusal {
    pub layer: &'static str,
    /// The numbers of axes that it takes, in its words.
    pub ranks: &'static str,
    /// Where it looks for its channels, and how many.
    pub axis: usize,
    pub channels: usize,
    /// What parts of messages that only this op has mean.
    pub own: Vec<(&'static str, Error)>,
}

pub async fn run(
    run: &Run<'_>,
    refusal: &Refusal,
    fresh: impl AsyncFn() -> Result<Subject, Error>,
) -> Result<f64, String> {
    let refusal = refusal.of(run.case)?;
    for mode in modes(run.case.mode.as_deref())? {
        match (&refusal, call(run, &fresh, mode).await) {
            (None, Ok(wrong)) => wrong?,
            (None, Err(error)) => return Err(format!("{mode:?}: refused with {error:?}")),
            (Some(refusal), got) => same_refusal(got.map(|_| ()), refusal)?,
        }
    }
    Ok(0.0)
}

pub fn same_refusal(got: Result<(), Error>, expected: &Error) -> Result<(), String> {
    match got {
        Err(error) if error == *expected => Ok(()),
        Err(error) => Err(format!("refused with {error:?}, expected {expected:?}")),
        Ok(()) => Err(format!("accepted, expected {expected:?}")),
    }
}

impl Refusal {
    /// The error that this crate answers with, if any: from the recorded system's message, or as
    /// decided here.
    pub fn of(&self, case: &Case) -> Result<Option<Error>, String> {
        let layer = self.layer;
        let shape = case.shape()?;
        let got = || shape.into();
        let channels = || {
            let (axis, expected, got) = (self.axis, self.channels, shape[self.axis]);
            Error::from(ShapeError::Channels { layer, axis, expected, got })
        };
        let expect = case.expect.as_ref().ok_or("a case of values")?;
        let deviates = deviates(case);
        match case.params.get("num_features").and_then(|n| n.as_u64()) {
            Some(0) => return Ok(Some(ConfigError::ZeroFeatures { layer }.into())),
            // Accepted there.
            _ if deviates && expect.ok && shape.get(self.axis) != Some(&self.channels) => {
                return Ok(Some(channels()));
            }
            // Accepted there, or here alone.
            _ if expect.ok | deviates => return Ok(None),
            _ => {}
        }
        let message = expect.message.as_deref().ok_or("refused without a message")?;
        if let Some((_, error)) = self.own.iter().find(|(part, _)| message.contains(part)) {
            return Ok(Some(error.clone()));
        }
        let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        let error: Error =
            if says(&["more than 1 spatial element", "more than 1 value per channel"]) {
                ShapeError::OneValue { layer, got: got() }.into()
            } else if says(&[
                "to match num_features",
                "running_mean should contain",
                "reshape size must match",
                "number of channels in input",
            ]) {
                channels()
            } else if says(&["D input (got", "input tensors of rank", "shape cannot be inferred"]) {
                ShapeError::Rank { layer, expected: self.ranks, got: got() }.into()
            } else if says(&["same datatype"]) {
                let (expected, got) = (DType::F64, DType::F32);
                ShapeError::DType { layer, operand: "weight", expected, got }.into()
            } else if says(&["not implemented for"]) {
                // No tensor of these types can be made, so the refusal is at their name.
                ConfigError::DType { name: case.dtype_name().to_owned() }.into()
            } else if !addend_shape(case).is_empty() {
                let (expected, got) = (got(), addend_shape(case).as_slice().into());
                ShapeError::Operand { layer, operand: "addend", expected, got }.into()
            } else {
                return Err(format!("no refusal known for {message:?}"));
            };
        Ok(Some(error))
    }
}

/// An addend of another shape than x, which OneFlow's message says: `((1,3,1,1) vs (2,3,4,4))`. Otherwise nothing.
fn addend_shape(case: &Case) -> Vec<usize> {
    let message = case.expect.as_ref().and_then(|expect| expect.message.as_deref());
    let addend = message.and_then(|message| message.strip_prefix("((")?.split_once(") vs ("));
    let sides = addend.map(|(addend, _)| addend.split(',').map(str::parse).collect());
    sides.and_then(Result::ok).unwrap_or_default()
}

/// The input: nearly normal, or what the case is about.
fn input(case: &Case, len: usize) -> Vec<f64> {
    let offset = if case.id.contains("offset_1e4") { 1e4 } else { 0.0 };
    let mut values = data::rounded(DType::F32, &random::gauss4_f64(len, 1, 1.0, offset));
    if case.id.ends_with("_nan") {
        values[0] = f64::NAN;
    }
    values
}

/// Makes the call. The inner result is what is wrong with an accepted one.
pub async fn call(
    run: &Run<'_>,
    fresh: &impl AsyncFn() -> Result<Subject, Error>,
    mode: Mode,
) -> Result<Result<(), String>, Error> {
    let (case, context) = (run.case, run.context);
    let dtype = case.dtype_name().parse::<DType>()?;
    let subject = fresh().await?;
    let shape = case.shape.as_deref().unwrap_or_default();
    let values = data::rounded(dtype, &input(case, shape.iter().product()));
    let order = MemoryOrder::ChannelsFirst;
    let x = data::place(context, shape, dtype, order, &values)?;
    let mut extras = Extras::new();
    let addend = addend_shape(case);
    if !addend.is_empty() {
        let values = vec![0.5; addend.iter().product()];
        extras =
            extras.with_addend(&data::place(context, addend.as_slice(), dtype, order, &values)?);
    }
    let before = subject.state().await?;
    let y = subject.layer.forward_with(context, &x, &extras, mode)?;
    let (got, after) = (data::fetch(&y).await?, subject.state().await?);
    // An empty batch moves nothing, and is a step of BatchNorm all the same.
    let mut still = before.clone();
    if let (Some(state), Mode::Train, true) = (&mut still, mode, case.op.contains("batch_norm")) {
        state.tracked += 1;
    }
    if after != still && (mode == Mode::Eval || values.is_empty()) {
        return Ok(Err(format!("running statistics {before:?} became {after:?}")));
    }
    let output_shape = case.expect.as_ref().and_then(|expect| expect.output_shape.as_deref());
    if **y.shape() != *output_shape.unwrap_or(shape) || got.len() != values.len() {
        return Ok(Err(format!("shape {}, expected {output_shape:?}", y.shape())));
    }
    let layout =
        if values.is_empty() { Layout::first([0; 3]) } else { subject.layout(shape, false) };
    // Parameters are the defaults: weight 1, bias 0.
    let norm = Norm {
        eps: subject.eps,
        source: match &before {
            Some(state) if mode == Mode::Eval => Source::Running(&state.mean, &state.var),
            _ => Source::Batch,
        },
        activation: subject.activation,
        ..Norm::new(subject.kind, layout.logical())
    };
    // Values are of batch statistics.
    if let (Some(expect), Source::Batch, false) = (&case.expect, norm.source, deviates(case))
        && let Err(wrong) = expect.same_values(&got)
    {
        return Ok(Err(wrong));
    }
    let truth = norm.forward(&layout.to_logical(&values));
    let bound = Bound::new(tolerance::Y, dtype, dtype);
    Ok(bound.compare(&layout.to_logical(&got), &truth.y, &truth.scale))
}

impl Expect {
    /// Whether these are the values recorded, if any are.
    fn same_values(&self, got: &[f64]) -> Result<(), String> {
        let Some(value) = &self.value else { return Ok(()) };
        let want = Vec::<f64>::deserialize(value).map_err(|e| e.to_string())?;
        Bound { relative: 0.0, stored: DType::F32 }.compare(got, &want, &want)
    }
}
