//! The case of op `network`: a PyTorch network from its state dict, in evaluation, one training step
//! (forward and backward), and evaluation again, its norms this crate's.
//!
//! Two places of it magnify rounding: the input of head.0 is 1 up to 1e-5, so that eps is its
//! variance and 1/√eps = 316 the factor; and of the gradient behind norm2 only what its backward pass
//! leaves of 50·xhat − 50·xhat·mean(xhat²), 1e-5 of it. PyTorch's own gradients are off there by more
//! than the recorded tolerance. So the whole network is also computed in f64 with the oracle's norms:
//! against that, values may be off by the tolerance and a multiple of what PyTorch's are off.

use super::Run;
use super::index::{Case, Golden};
use super::network_graph::{Gradients, Graph, Norms, Values};
use super::network_layers::{self, Settings};
use crate::common::data::{self, Layout};
use crate::common::layer::Layer;
use crate::common::oracle::{Kind, Norm, Source};
use serde_json::Value;
use std::collections::BTreeMap;
use wgnorm::{
    BatchNorm2d, Context, DType, Error, GroupNorm, InstanceNorm2d, LayerNorm, LoadOptions,
    MemoryOrder, Mode, Momentum, RmsNorm, Saved, StateDict, StateValue, Tensor,
};

/// Where the leaves' inputs come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Inputs {
    /// From the leaf before.
    Chain,
    /// As recorded, so that every leaf is held to the tolerance by itself.
    Recorded,
}

/// How many times PyTorch's own error is allowed (in other folders, for gradients, the largest of all of a phase's): on the host (measured: 2.7), on a GPU, whose factors
/// (inverseSqrt) and sums are a few roundings off where PyTorch's are one (measured: 5.3 at most, on
/// three drivers).
const SLACK: [f64; 2] = [4.0, 8.0];

/// What PyTorch's values may be off the oracle's network, or the two are not the same network: forward, gradients. What
/// this crate's may be off does not depend on it.
const RECORDED: [f64; 2] = [2e-4, 5e-4];

/// The same for networks of other folders, in shares of a tensor's largest value (1 at least): how far rounding is magnified
/// depends on the parameters. (Measured with PyTorch on 96 networks of 4 to 32 channels: 7.3e-4, 1.6e-3.)
const RECORDED_ELSEWHERE: [f64; 2] = [3e-3, 6e-3];

/// What f64 tensors may be off it: 1e-15, magnified as said above.
const DOUBLE: f64 = 1e-9;

pub fn run(run: &Run<'_>) -> Result<f64, String> {
    let mut worst = 0f64;
    for order in [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast] {
        for inputs in [Inputs::Recorded, Inputs::Chain] {
            worst = worst.max(phases(run, order, inputs, DType::F32)?);
        }
        if !run.on_gpu() {
            worst = worst.max(phases(run, order, Inputs::Chain, DType::F64)?);
        }
    }
    Ok(worst)
}

fn phases(run: &Run<'_>, order: MemoryOrder, inputs: Inputs, dtype: DType) -> Result<f64, String> {
    let (golden, case) = (run.golden, run.case);
    let file = case.state_dict.as_deref().ok_or("no state dict")?;
    let graph = |stored| Graph::load(golden, file, case.shape()?, stored);
    let (graph, exact) = (graph(dtype)?, graph(DType::F64)?);
    let told = |error: Error| error.to_string();
    let norms = network_layers::norms(case)?;
    let mut ours = Layers {
        context: run.context,
        layers: layers(run.context, dtype, &norms, &golden.state_dict(file)?).map_err(told)?,
        samples: graph.samples,
        space: graph.space,
        order,
        dtype,
        saved: BTreeMap::new(),
    };
    let mut truth = Oracle::load(golden, file, norms, graph.samples)?;
    let x = golden.input(case, "x")?.ok_or("no x")?.values;
    let mut worst = 0f64;
    let phases = case.phases.as_deref().unwrap_or_default();
    if phases.is_empty() {
        return Err("the network has no phases".into());
    }
    for phase in phases {
        let recorded = Recorded::new(run, phase, dtype)?;
        let told = |error| format!("{order:?} {inputs:?} {dtype} {phase}: {error}");
        let given = |leaf: &str, own| match inputs {
            Inputs::Chain => Ok(own),
            Inputs::Recorded => recorded.read(&format!("{leaf}.in")),
        };
        let compute = |graph: &Graph, norms: &mut dyn Norms| -> Result<Values, String> {
            let train = is_training(phase)?;
            let mode = if train { Mode::Train } else { Mode::Eval };
            let pass = graph.forward(norms, &given, &x, mode)?;
            let mut values = Values::new();
            if train {
                values = graph.backward(norms, &pass, &recorded.read("dout")?)?;
                values.extend(norms.state()?);
            }
            values.extend(pass.leaves);
            Ok(values)
        };
        let got = compute(&graph, &mut ours).map_err(told)?;
        let want = compute(&exact, &mut truth).map_err(told)?;
        worst = worst.max(recorded.compare(&got, &want).map_err(told)?);
    }
    Ok(worst)
}

/// Phases are numbered: `eval0`, `train1`.
fn is_training(phase: &str) -> Result<bool, String> {
    match phase.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "train" => Ok(true),
        "eval" => Ok(false),
        _ => Err(format!("unknown phase {phase}")),
    }
}

/// Every recorded value of a network's training step, off by a little, is seen; so is a missing one.
pub fn perturbed_values_are_seen(golden: &Golden) -> Result<Vec<String>, String> {
    let mut steps = 0;
    for case in golden.cases.iter().filter(|case| case.op == "network") {
        for phase in case.phases.iter().flatten() {
            if is_training(phase)? {
                perturbed_step_is_seen(golden, case, phase)
                    .map_err(|error| format!("{} {phase}: {error}", case.id))?;
                steps += 1;
            }
        }
    }
    let missing = (steps == 0).then(|| "a network's training step".to_owned());
    Ok(missing.into_iter().collect())
}

fn perturbed_step_is_seen(golden: &Golden, case: &Case, phase: &str) -> Result<(), String> {
    let run = &Run { golden, case, context: &Context::host() };
    let recorded = Recorded::new(run, phase, DType::F32)?;
    let names = golden.file(recorded.file)?.names();
    let names = names.into_iter().filter_map(|name| name.strip_prefix(&*recorded.prefix));
    let mut truth = Values::new();
    for name in names {
        truth.insert(name.to_owned(), recorded.read(name)?);
    }
    recorded.compare(&truth, &truth)?;
    for name in truth.keys().filter(|name| *name != "dout") {
        let passes = |edit: &dyn Fn(&mut Values)| {
            let mut got = truth.clone();
            edit(&mut got);
            recorded.compare(&got, &truth).is_ok()
        };
        let off = |got: &mut Values| {
            got.entry(name.clone()).and_modify(|v| v[0] += 1e-4 * v[0].abs().max(1.0));
        };
        let missing = |got: &mut Values| drop(got.remove(name));
        if passes(&off) || passes(&missing) {
            return Err(format!("{name} may be wrong or missing"));
        }
    }
    Ok(())
}

/// What PyTorch computed in a phase.
struct Recorded<'a> {
    golden: &'a Golden,
    file: &'a str,
    /// Of its names in the file.
    prefix: String,
    atol: f64,
    rtol: f64,
    slack: f64,
    dtype: DType,
}

impl<'a> Recorded<'a> {
    fn new(run: &Run<'a>, phase: &str, dtype: DType) -> Result<Self, String> {
        let tol = run.case.tol.as_ref().ok_or("no tolerance")?;
        let bound = |name| tol.get(name).and_then(Value::as_f64).ok_or(format!("no {name}"));
        Ok(Recorded {
            golden: run.golden,
            file: run.case.file()?,
            prefix: format!("{}/{phase}/", run.case.id),
            atol: bound("atol")?,
            rtol: bound("rtol")?,
            slack: SLACK[usize::from(run.on_gpu())],
            dtype,
        })
    }

    fn read(&self, name: &str) -> Result<Vec<f64>, String> {
        let name = format!("{}{name}", self.prefix);
        match name.ends_with("num_batches_tracked") {
            true => Ok(self.golden.integers(self.file, &name)?.iter().map(|&n| n as f64).collect()),
            false => self.golden.values(self.file, &name),
        }
    }

    /// Every recorded value but the gradient handed in. The result is the largest share of its bound
    /// that one needs.
    fn compare(&self, got: &Values, truth: &Values) -> Result<f64, String> {
        let mut worst = 0f64;
        let names = self.golden.file(self.file)?.names();
        let mut names: Vec<_> =
            names.into_iter().filter_map(|name| name.strip_prefix(&*self.prefix)).collect();
        // By name, so that of several failures always the same is told.
        names.sort_unstable();
        // What PyTorch's gradients are off, as a share of a tensor's largest value.
        let mut pooled = 0f64;
        let mut tensors = Vec::new();
        for name in names.into_iter().filter(|name| *name != "dout") {
            let recorded = self.read(name)?;
            let computed = |of: &Values| {
                let values = of.get(name).ok_or_else(|| format!("nothing computes {name}"))?;
                match values.len() == recorded.len() {
                    true => Ok(values.clone()),
                    false => Err(format!("{name} has {} values", values.len())),
                }
            };
            let (got, truth) = (computed(got)?, computed(truth)?);
            let off = recorded.iter().zip(&truth).map(|(a, b)| (a - b).abs());
            // A NaN must count, max would forget it.
            let off = off.fold(0.0, |a: f64, b| if a > b || a.is_nan() { a } else { b });
            let is_gradient = name.starts_with("grad.");
            let largest = truth.iter().fold(1.0, |largest: f64, v| largest.max(v.abs()));
            let elsewhere = RECORDED_ELSEWHERE[usize::from(is_gradient)] * largest;
            let own = RECORDED[usize::from(is_gradient)];
            let most = self.atol + if self.golden.own { own } else { elsewhere };
            if off.is_nan() || off > most {
                return Err(format!("{name} is recorded {off:e} off the f64 network"));
            }
            if is_gradient && !self.golden.own {
                pooled = pooled.max(off / largest);
            }
            tensors.push((name, got, truth, off, if is_gradient { largest } else { 0.0 }));
        }
        for (name, got, truth, off, largest) in tensors {
            // Where there are few values, one system's error may be small by luck.
            let off = off.max(pooled * largest);
            for (i, (&got, &want)) in got.iter().zip(&truth).enumerate() {
                let bound = match self.dtype {
                    DType::F64 => DOUBLE * want.abs().max(1.0),
                    _ => self.atol + self.rtol * want.abs() + self.slack * off,
                };
                let share = (got - want).abs() / bound;
                if share.is_nan() || share > 1.0 {
                    return Err(format!("{name}[{i}] is {got:e}, expected {want:e} ± {bound:e}"));
                }
                worst = worst.max(share);
            }
        }
        Ok(worst)
    }
}

/// This crate's layers.
struct Layers<'a> {
    context: &'a Context,
    layers: BTreeMap<&'static str, Box<dyn Layer>>,
    samples: usize,
    /// Height and width of the maps.
    space: [usize; 2],
    order: MemoryOrder,
    dtype: DType,
    saved: BTreeMap<&'static str, Saved<'static>>,
}

/// From PyTorch's state dict.
fn layers(
    context: &Context,
    dtype: DType,
    norms: &BTreeMap<&'static str, Settings>,
    state: &StateDict,
) -> Result<BTreeMap<&'static str, Box<dyn Layer>>, Error> {
    let mut named = BTreeMap::new();
    for (&name, settings) in norms {
        let &Settings { kind, channels, eps, momentum, affine } = settings;
        macro_rules! tracking {
            ($layer:ident) => {{
                let config = $layer::config(channels).with_eps(eps).with_affine(affine);
                let config = config.with_track_running_stats(momentum.is_some());
                let config = config.with_momentum(momentum.unwrap_or(Momentum::Frozen));
                Box::new(config.init(context)?.cast_blocking(dtype)?)
            }};
        }
        macro_rules! plain {
            ($config:expr) => {
                Box::new($config.with_affine(affine).init(context)?.cast_blocking(dtype)?)
            };
        }
        let mut layer: Box<dyn Layer> = match kind {
            Kind::Instance => tracking!(InstanceNorm2d),
            Kind::Batch => tracking!(BatchNorm2d),
            Kind::Group(groups) => plain!(GroupNorm::config(groups, channels).with_eps(eps)),
            Kind::Layer => plain!(LayerNorm::config([channels]).with_eps(eps)),
            Kind::Rms => plain!(RmsNorm::config([channels]).with_eps(Some(eps))),
        };
        let options = LoadOptions::strict().with_prefix(format!("{name}."));
        layer.load_state_dict(state, &options)?;
        named.insert(name, layer);
    }
    Ok(named)
}

impl Layers<'_> {
    /// A tensor of the head has no spatial axes; all others are maps.
    fn shape(&self, name: &str, len: usize) -> (Vec<usize>, Layout) {
        let [h, w] = if name.starts_with("head") { [1, 1] } else { self.space };
        let (n, c) = (self.samples, len / (self.samples * h * w));
        let shape = if name.starts_with("head") { vec![n, c] } else { vec![n, c, h, w] };
        (shape, Layout::of([n, c, h * w], self.order))
    }

    fn place(&self, name: &str, values: &[f64]) -> Result<Tensor<'static>, Error> {
        let (shape, layout) = self.shape(name, values.len());
        // Two axes have but one order.
        let order = if shape.len() == 2 { MemoryOrder::default() } else { self.order };
        data::place(self.context, shape, self.dtype, order, &layout.to_memory(values))
    }

    fn read(&self, name: &str, tensor: &Tensor<'_>) -> Result<Vec<f64>, Error> {
        let memory = data::read(tensor)?;
        Ok(self.shape(name, memory.len()).1.to_logical(&memory))
    }
}

impl Norms for Layers<'_> {
    fn forward(&mut self, name: &'static str, x: &[f64], mode: Mode) -> Result<Vec<f64>, String> {
        let call = || -> Result<_, Error> {
            let x = self.place(name, x)?;
            let (y, saved) = self.layers[name].forward_saved(self.context, &x, mode)?;
            Ok((self.read(name, &y)?, saved))
        };
        let (y, saved) = call().map_err(|error| format!("{name}: {error}"))?;
        self.saved.insert(name, saved);
        Ok(y)
    }

    fn backward(&self, name: &'static str, dy: &[f64]) -> Result<Gradients, String> {
        let call = || -> Result<_, Error> {
            let dy = self.place(name, dy)?;
            let grads = self.layers[name].backward(self.context, &self.saved[name], &dy)?;
            let param = |tensor: Option<_>| tensor.as_ref().map(data::read).transpose();
            let (dweight, dbias) = (param(grads.dweight)?, param(grads.dbias)?);
            Ok(Gradients { dx: self.read(name, &grads.dx)?, dweight, dbias })
        };
        call().map_err(|error| format!("{name}: {error}"))
    }

    /// Through the layers' state dicts.
    fn state(&self) -> Result<Values, String> {
        let mut state = StateDict::new();
        for (name, layer) in &self.layers {
            let dict = layer.state_dict_blocking().map_err(|e| e.to_string())?;
            state.insert_all(&format!("{name}."), dict);
        }
        let mut values = Values::new();
        for (name, value) in state.iter() {
            let value = match value {
                StateValue::Tensor(tensor) => data::read(tensor).map_err(|e| e.to_string())?,
                StateValue::Count(count) => vec![*count as f64],
                other => return Err(format!("{name} is {other:?}")),
            };
            values.insert(format!("after.{name}"), value);
        }
        Ok(values)
    }
}

/// The same norms by textbook loops in f64.
struct Oracle {
    norms: BTreeMap<&'static str, Settings>,
    samples: usize,
    /// Parameters and running statistics by their names in the state dict.
    values: Values,
    inputs: BTreeMap<&'static str, (Vec<f64>, Mode)>,
}

impl Oracle {
    fn load(
        golden: &Golden,
        file: &str,
        norms: BTreeMap<&'static str, Settings>,
        samples: usize,
    ) -> Result<Self, String> {
        let mut values = Values::new();
        for name in golden.file(file)?.names() {
            let value = match name.ends_with("num_batches_tracked") {
                true => golden.integers(file, name)?.iter().map(|&n| n as f64).collect(),
                false => golden.values(file, name)?,
            };
            values.insert(name.to_owned(), value);
        }
        Ok(Oracle { norms, samples, values, inputs: BTreeMap::new() })
    }

    /// The oracle's norm for an input of this many values.
    fn norm(&self, name: &str, len: usize, mode: Mode) -> Norm<'_> {
        let value = |part: &str| self.values.get(&format!("{name}.{part}")).map(Vec::as_slice);
        let Settings { kind, channels, eps, .. } = self.norms[name];
        let shape = match kind {
            Kind::Layer | Kind::Rms => [self.samples, 1, channels],
            _ => [self.samples, channels, len / (self.samples * channels)],
        };
        Norm {
            eps,
            weight: value("weight"),
            bias: value("bias"),
            source: match (mode, value("running_mean"), value("running_var")) {
                (Mode::Eval, Some(mean), Some(var)) => Source::Running(mean, var),
                _ => Source::Batch,
            },
            ..Norm::new(kind, shape)
        }
    }
}

impl Norms for Oracle {
    fn forward(&mut self, name: &'static str, x: &[f64], mode: Mode) -> Result<Vec<f64>, String> {
        let Settings { kind, momentum, .. } = self.norms[name];
        let norm = self.norm(name, x.len(), mode);
        let y = norm.forward(x).y;
        let [mean_name, var_name] =
            ["running_mean", "running_var"].map(|part| format!("{name}.{part}"));
        if let (Mode::Train, Some(momentum), Some(mean), Some(var)) =
            (mode, momentum, self.values.get(&mean_name), self.values.get(&var_name))
        {
            // InstanceNorm does not count.
            let steps = match self.values.get(&format!("{name}.num_batches_tracked")) {
                Some(count) if kind == Kind::Batch => count[0] + 1.0,
                _ => 0.0,
            };
            let factor = match momentum {
                Momentum::Factor(factor) => factor,
                Momentum::Cumulative => 1.0 / steps,
                Momentum::Frozen => 0.0,
                other => return Err(format!("{name}: unknown momentum {other:?}")),
            };
            let (mean, var) = norm.running(x, factor, true, mean, var);
            self.values.insert(mean_name, mean);
            self.values.insert(var_name, var);
            if kind == Kind::Batch {
                let count = format!("{name}.num_batches_tracked");
                self.values.entry(count).and_modify(|count| count[0] = steps);
            }
        }
        self.inputs.insert(name, (x.to_vec(), mode));
        Ok(y)
    }

    fn backward(&self, name: &'static str, dy: &[f64]) -> Result<Gradients, String> {
        let (x, mode) = &self.inputs[name];
        let norm = self.norm(name, x.len(), *mode);
        let gradients = norm.backward(x, dy);
        let dweight = norm.weight.map(|_| gradients.dweight);
        Ok(Gradients { dx: gradients.dx, dweight, dbias: norm.bias.map(|_| gradients.dbias) })
    }

    fn state(&self) -> Result<Values, String> {
        Ok(self.values.iter().map(|(name, v)| (format!("after.{name}"), v.clone())).collect())
    }
}
