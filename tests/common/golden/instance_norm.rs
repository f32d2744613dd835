//! The cases of op `instance_norm`.

use super::compare::Wanted;
use super::instance_norm_layer::Params;
use super::{NOT_COMPARED, Run, deviates, instance_norm_behaviour};
use crate::common::oracle;
use std::collections::BTreeMap;
use wgnorm::{Error, InstanceNormNd, Mode, NormLayer, Tensor};

/// Finite inputs whose squares are above the f32 maximum, which the GPU documents not to normalize.
pub const OVERFLOW_ON_GPU: [&str; 4] =
    ["in2d_huge_1.5e+19", "in2d_huge_1e+20", "in2d_huge_1e+30", "in2d_huge_1e+38"];

/// Asserted as decided here: (case, what happens).
pub const DEVIATIONS: [(&str, &str); 9] = [
    ("of_in_track_train_ignored", "tracking works; OneFlow ignores the setting"),
    ("of_in_track_eval_ignored", "tracking works; OneFlow ignores the setting"),
    ("of_check_in_rank3", "unbatched input accepted, as PyTorch does"),
    ("check_zero_batch_affine", "empty output; PyTorch crashes"),
    ("check_zero_batch_train_track_state", "running statistics stay; PyTorch's turn NaN"),
    ("check_channels_noaffine", "refused; PyTorch only warns"),
    ("check_channels_unbatched_noaffine", "refused; PyTorch only warns"),
    ("of_check_in_channels_noaffine", "refused; OneFlow accepts"),
    ("check_zero_channels", "refused; PyTorch accepts"),
];

pub fn run(run: &Run<'_>) -> Result<f64, String> {
    let params = Params::parse(run.case)?;
    let behaviour = run.case.expect.is_some();
    match (params.dims()?, behaviour) {
        (1, false) => values::<1>(run, &params),
        (2, false) => values::<2>(run, &params),
        (3, false) => values::<3>(run, &params),
        (1, true) => instance_norm_behaviour::run::<1>(run, &params),
        (2, true) => instance_norm_behaviour::run::<2>(run, &params),
        (3, true) => instance_norm_behaviour::run::<3>(run, &params),
        (dims, _) => Err(format!("{dims} spatial axes")),
    }
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

/// What a case of values computed, under the names it expects.
#[derive(Default)]
struct Outputs {
    tensors: BTreeMap<String, Vec<f32>>,
    counts: BTreeMap<String, u64>,
    /// The same from a plain f64 formula, restarted each step from the state before it.
    truths: BTreeMap<String, Vec<f64>>,
}

/// Running mean and variance, and the steps counted.
#[derive(Clone, PartialEq)]
pub struct State {
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
    pub tracked: u64,
}

pub fn state<const D: usize>(norm: &InstanceNormNd<D>) -> Result<State, Error> {
    Ok(State {
        mean: norm.running_mean()?.to_vec_blocking()?,
        var: norm.running_var()?.to_vec_blocking()?,
        tracked: norm.num_batches_tracked_blocking()?,
    })
}

fn values<const D: usize>(run: &Run<'_>, params: &Params) -> Result<f64, String> {
    let mut worst = 0f64;
    if let Some(steps) = &run.case.steps {
        let mut norm = prepared::<D>(run, params)?;
        let mut outputs = Outputs::default();
        for (k, mode) in steps.iter().enumerate() {
            let [mode] = modes(Some(mode))?[..] else { return Err("a step has one mode".into()) };
            // Steps have inputs of their own, or share one.
            let own = format!("x_{k}");
            let x = if run.case.inputs.contains_key(&own) { own } else { "x".into() };
            step(run, params, &mut norm, &x, mode, &format!("_{k}"), &mut outputs)?;
        }
        return compare(run, &outputs);
    }
    for mode in modes(run.case.mode.as_deref())? {
        let mut norm = prepared::<D>(run, params)?;
        let mut outputs = Outputs::default();
        step(run, params, &mut norm, "x", mode, "", &mut outputs)?;
        worst = worst.max(compare(run, &outputs)?);
    }
    Ok(worst)
}

/// The case's layer with the case's parameters.
fn prepared<const D: usize>(run: &Run<'_>, params: &Params) -> Result<InstanceNormNd<D>, String> {
    let c = params.num_features.ok_or("no num_features")?;
    let mut norm = params.layer::<D>(run, c).map_err(|e| e.to_string())?;
    if run.case.fresh_module {
        return Ok(norm);
    }
    let read = |name| match &run.case.state_dict {
        Some(file) => run.golden.f32s(file, name).map(Some),
        None => run.golden.input(run.case, name),
    };
    let tensor = |values| Tensor::from_vec([c], values).map_err(|e| e.to_string());
    if let Some(weight) = read("weight")? {
        norm.set_weight(&tensor(weight)?).map_err(|e| e.to_string())?;
    }
    if let Some(bias) = read("bias")? {
        norm.set_bias(&tensor(bias)?).map_err(|e| e.to_string())?;
    }
    if let (Some(mean), Some(var)) = (read("running_mean")?, read("running_var")?) {
        let tracked = match &run.case.state_dict {
            Some(file) => run.golden.i64s(file, "num_batches_tracked")?[0] as u64,
            None => 0,
        };
        norm.set_running_stats(&mean, &var, tracked).map_err(|e| e.to_string())?;
    }
    Ok(norm)
}

/// One call; its results get names that end in `suffix`.
fn step<const D: usize>(
    run: &Run<'_>,
    params: &Params,
    norm: &mut InstanceNormNd<D>,
    x_name: &str,
    mode: Mode,
    suffix: &str,
    outputs: &mut Outputs,
) -> Result<(), String> {
    let values = run.golden.input(run.case, x_name)?.ok_or("no x")?;
    // A step's x may have another shape than the case.
    let shape = run.case.inputs[x_name].shape.as_deref().ok_or("no shape")?;
    let call = || -> Result<_, Error> {
        let before = if params.track_running_stats { Some(state(norm)?) } else { None };
        let x = Tensor::from_slice(shape, &values)?.to_context(run.context)?;
        let y = norm.forward(run.context, &x, mode)?.to_vec_blocking()?;
        let after = if params.track_running_stats { Some(state(norm)?) } else { None };
        let vec = |t: Option<&Tensor<'_>>| t.map(|t| t.to_vec_blocking()).transpose();
        Ok((before, y, after, vec(norm.weight())?, vec(norm.bias())?))
    };
    let (before, y, after, weight, bias) = call().map_err(|e| e.to_string())?;
    let split = shape.len() - D;
    let (n, c) = (if split == 2 { shape[0] } else { 1 }, shape[split - 1]);
    let s = shape[split..].iter().product();
    let running = before.as_ref().filter(|_| mode == Mode::Eval);
    let formula = oracle::InstanceNorm {
        n,
        c,
        s,
        eps: params.eps,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        running: running.map(|state| (&state.mean[..], &state.var[..])),
        addend: None,
        relu: false,
    };
    if running.is_none() {
        constant_planes(&values, &y, &formula)?;
    }
    if let (Some(before), Some(after)) = (&before, &after) {
        if mode == Mode::Eval && before != after {
            return Err("evaluation changed the running statistics".into());
        }
        if mode == Mode::Train {
            let momentum = params.momentum.unwrap_or(0.0);
            let (mean, var) =
                oracle::running(&formula, &values, momentum, &before.mean, &before.var);
            outputs.truths.insert(format!("running_mean_out{suffix}"), mean);
            outputs.truths.insert(format!("running_var_out{suffix}"), var);
        }
        // Without a number: after all steps.
        for suffix in [suffix, ""] {
            let name = |part: &str| format!("{part}_out{suffix}");
            outputs.tensors.insert(name("running_mean"), after.mean.clone());
            outputs.tensors.insert(name("running_var"), after.var.clone());
            outputs.counts.insert(name("num_batches_tracked"), after.tracked);
        }
    }
    outputs.truths.insert(format!("y{suffix}"), formula.forward(&values));
    outputs.tensors.insert(format!("y{suffix}"), y);
    Ok(())
}

/// A plane of one value gives exactly the bias, bit for bit.
fn constant_planes(x: &[f32], y: &[f32], of: &oracle::InstanceNorm<'_>) -> Result<(), String> {
    for (plane, (x, y)) in x.chunks(of.s).zip(y.chunks(of.s)).enumerate() {
        if x[0].is_finite() && x.iter().all(|v| v == &x[0]) {
            let bias = of.bias.map_or(0.0, |bias| bias[plane % of.c]);
            if let Some(y) = y.iter().find(|y| y.to_bits() != bias.to_bits()) {
                return Err(format!("constant plane {plane} gives {y:e}, the bias is {bias:e}"));
            }
        }
    }
    Ok(())
}

fn compare(run: &Run<'_>, outputs: &Outputs) -> Result<f64, String> {
    let mut worst = 0f64;
    for (name, expected) in &run.case.expected {
        let told = |error: String| format!("{name}: {error}");
        if let Some(got) = outputs.tensors.get(name) {
            // These were recorded from a system that this crate deviates from, except for y of a
            // training step, which tracking does not touch.
            let theirs = deviates(&run.case.id) && !(name == "y" && run.case.mode_is("train"));
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
        } else if !NOT_COMPARED.contains(&name.as_str()) {
            return Err(format!("nothing computes {name}"));
        }
    }
    Ok(worst)
}
