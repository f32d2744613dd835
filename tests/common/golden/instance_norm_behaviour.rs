//! Calls of op `instance_norm` of which only the behaviour is recorded: accepted or refused.

use super::Run;
use super::index::Case;
use super::instance_norm::{Params, modes, state};
use crate::common::{oracle, random, tolerance};
use serde::Deserialize;
use wgnorm::{ConfigError, DType, Error, Mode, NormLayer, ShapeError, Tensor};

pub fn run<const D: usize>(run: &Run<'_>, params: &Params) -> Result<f64, String> {
    let refusal = refusal::<D>(run.case, params)?;
    for mode in modes(run.case.mode.as_deref())? {
        match (&refusal, call::<D>(run, params, mode)) {
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

/// The error that this crate answers with, if any: from the recorded system's message, or as
/// decided here.
pub fn refusal<const D: usize>(case: &Case, params: &Params) -> Result<Option<Error>, String> {
    let layer = ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"][D - 1];
    let shape = case.shape()?;
    let got = || shape.into();
    let channels = || {
        let axis = shape.len() - D - 1;
        let expected = num_features::<D>(case, params);
        Error::from(ShapeError::Channels { layer, axis, expected, got: shape[axis] })
    };
    let expect = case.expect.as_ref().ok_or("a case of values")?;
    match case.id.as_str() {
        "of_check_in_rank3" | "check_zero_batch_affine" => return Ok(None),
        "check_channels_noaffine"
        | "check_channels_unbatched_noaffine"
        | "of_check_in_channels_noaffine" => return Ok(Some(channels())),
        "check_zero_channels" => return Ok(Some(ConfigError::ZeroFeatures { layer }.into())),
        _ if expect.ok => return Ok(None),
        _ => {}
    }
    let message = expect.message.as_deref().ok_or("refused without a message")?;
    let says = |part: &str| message.contains(part);
    let error: Error = if says("more than 1 spatial element") {
        ShapeError::OneValue { layer, got: got() }.into()
    } else if says("to match num_features") || says("running_mean should contain") {
        channels()
    } else if says("D input (got") {
        let expected = match D {
            1 => "2 (C, L) or 3 (N, C, L)",
            2 => "3 (C, H, W) or 4 (N, C, H, W)",
            _ => "4 (C, D, H, W) or 5 (N, C, D, H, W)",
        };
        ShapeError::Rank { layer, expected, got: got() }.into()
    } else if says("not implemented for") || says("same datatype") {
        // No tensor of these types can be made, so the refusal is at their name.
        ConfigError::DType { name: case.dtype.clone().ok_or("no dtype")? }.into()
    } else {
        return Err(format!("no refusal known for {message:?}"));
    };
    Ok(Some(error))
}

/// Some cases leave it open: then it is right.
fn num_features<const D: usize>(case: &Case, params: &Params) -> usize {
    let shape = case.shape.as_deref().unwrap_or_default();
    let axis = shape.len().saturating_sub(D + 1);
    params.num_features.unwrap_or_else(|| shape.get(axis).copied().unwrap_or(1))
}

/// Makes the call. The inner result is what is wrong with an accepted one.
pub fn call<const D: usize>(
    run: &Run<'_>,
    params: &Params,
    mode: Mode,
) -> Result<Result<(), String>, Error> {
    let (case, context) = (run.case, run.context);
    case.dtype.as_deref().unwrap_or("float32").parse::<DType>()?;
    let norm = params.layer::<D>(run, num_features::<D>(case, params))?;
    let shape = case.shape.as_deref().unwrap_or_default();
    let values = random::gauss4(shape.iter().product(), 1, 1.0, 0.0);
    let before = if params.track_running_stats { Some(state(&norm)?) } else { None };
    let x = Tensor::from_slice(shape, &values)?.to_context(context)?;
    let y = norm.forward(context, &x, mode)?;
    let got = y.to_vec_blocking()?;
    let after = if params.track_running_stats { Some(state(&norm)?) } else { None };
    if before != after && (mode == Mode::Eval || values.is_empty()) {
        return Ok(Err("the running statistics changed".into()));
    }
    let expect = case.expect.as_ref();
    let recorded = expect.and_then(|expect| expect.output_shape.as_deref()).unwrap_or(shape);
    if **y.shape() != *recorded || got.len() != values.len() {
        return Ok(Err(format!("shape {}, expected {recorded:?}", y.shape())));
    }
    if let Some(value) = expect.and_then(|expect| expect.value.as_ref()) {
        let same = Vec::<f64>::deserialize(value)
            .map_err(|error| error.to_string())
            .and_then(|value| tolerance::compare(&got, &value, 0.0));
        if same.is_err() {
            return Ok(same);
        }
    }
    // Parameters are the defaults: weight 1, bias 0.
    let split = shape.len() - D;
    let running = before.as_ref().filter(|_| mode == Mode::Eval);
    let formula = oracle::InstanceNorm {
        n: if split == 2 { shape[0] } else { 1 },
        c: shape[split - 1],
        s: shape[split..].iter().product(),
        eps: params.eps,
        weight: None,
        bias: None,
        running: running.map(|state| (&state.mean[..], &state.var[..])),
        addend: None,
        relu: false,
    };
    Ok(tolerance::compare(&got, &formula.forward(&values), tolerance::Y))
}
