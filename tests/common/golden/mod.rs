//! The golden vectors (`tests/golden/GOLDEN.md`): reading them, comparing with them, and one module
//! per family of ops that runs its cases.

mod adain;
mod batch_norm;
mod behaviour;
pub mod compare;
#[cfg(not(target_arch = "wasm32"))]
pub mod folders;
mod group_norm;
pub mod index;
mod instance_norm;
mod layer_norm;
#[cfg(not(target_arch = "wasm32"))]
mod network;
#[cfg(not(target_arch = "wasm32"))]
mod network_graph;
#[cfg(not(target_arch = "wasm32"))]
mod network_layers;
#[cfg(not(target_arch = "wasm32"))]
pub mod self_test;
mod values;

use index::{Case, Golden};
use std::pin::Pin;
use wgnorm::{Backend, Context, DType, Error, OperandError};

/// One case on one device.
pub struct Run<'a> {
    pub golden: &'a Golden,
    pub case: &'a Case,
    pub context: &'a Context,
}

impl Run<'_> {
    pub fn on_gpu(&self) -> bool {
        self.context.backend() == Backend::Gpu
    }
}

/// Runs a case. The result is the largest share of a tolerance that any value needed, or what is
/// wrong.
pub type Runner = for<'a> fn(&'a Run<'a>) -> Running<'a>;

/// Ready at once, but in a browser, where reading back waits for the page's other work.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<f64, String>> + 'a>>;

/// What runs the cases of an op.
fn runner(op: &str) -> Option<Runner> {
    match op {
        "instance_norm" => Some(|run| Box::pin(instance_norm::torch(run))),
        "lucid_instance_norm" => Some(|run| Box::pin(instance_norm::lucid(run))),
        "mxnet_instance_norm" => Some(|run| Box::pin(instance_norm::mxnet(run))),
        "batch_norm" => Some(|run| Box::pin(batch_norm::plain(run))),
        "fused_batch_norm_relu" => Some(|run| Box::pin(batch_norm::fused(run))),
        "group_norm" => Some(|run| Box::pin(group_norm::run(run))),
        "layer_norm" => Some(|run| Box::pin(layer_norm::layer(run))),
        "rms_norm" => Some(|run| Box::pin(layer_norm::rms(run))),
        "adain_params" => Some(|run| Box::pin(adain::tables(run))),
        "adain_style" => Some(|run| Box::pin(adain::style(run))),
        "conditional_instance_norm" => Some(|run| Box::pin(adain::conditional(run))),
        // A chain of layers that are tested one by one as well.
        #[cfg(not(target_arch = "wasm32"))]
        "network" => Some(|run| Box::pin(std::future::ready(network::run(run)))),
        _ => None,
    }
}

/// What runs this case, or why it is left out. What is unknown is run, and fails.
pub fn supported(golden: &Golden, case: &Case, on_gpu: bool) -> Result<Runner, String> {
    let Some(runner) = runner(&case.op).filter(|_| case.unknown().is_none()) else {
        return Ok(|run| Box::pin(std::future::ready(unknown(run))));
    };
    if on_gpu && instance_norm::overflows_on_gpu(golden, case) {
        return Err("squares overflow f32 on the GPU (documented)".into());
    }
    if on_gpu && case.dtype_name() == "float64" {
        return Ok(|run| Box::pin(std::future::ready(no_f64(run))));
    }
    Ok(runner)
}

fn unknown(run: &Run<'_>) -> Result<f64, String> {
    Err(run.case.unknown().unwrap_or_else(|| format!("op {} is unknown", run.case.op)))
}

/// What float64 cases of every op show on a GPU: refused by name, before any work.
fn no_f64(run: &Run<'_>) -> Result<f64, String> {
    let x = wgnorm::Tensor::from_slice_of([1], &[0.5f64]).map_err(|e| e.to_string())?;
    let refused = Error::from(OperandError::NoF64 { operand: "tensor" });
    behaviour::same_refusal(x.to_context(run.context).map(|_| ()), &refused)?;
    behaviour::same_refusal(
        wgnorm::Tensor::zeros_of(run.context, x.desc().clone().with_dtype(DType::F64)).map(|_| ()),
        &refused,
    )?;
    Ok(0.0)
}

/// Asserted as this crate decides, not as the recorded system does: (case, what happens here).
pub const DEVIATIONS: [(&str, &str); 18] = [
    ("lucid_check_rank3", "unbatched input accepted, as PyTorch does"),
    ("of_check_in_rank3", "unbatched input accepted, as PyTorch does"),
    ("mx_check_float16", "accepted; MXNet has float32 alone"),
    ("mx_check_float64", "accepted on the host; MXNet has float32 alone"),
    ("of_check_fbn_momentum_None", "a cumulative average; OneFlow fails"),
    ("of_check_fbn_affine_False", "accepted; OneFlow fails"),
    ("of_check_bn_momentum_None", "a cumulative average; OneFlow fails"),
    ("check_zero_batch_affine", "empty output; PyTorch crashes"),
    ("check_zero_batch_train_track_state", "running statistics stay; PyTorch's turn NaN"),
    ("check_channels_noaffine", "refused; PyTorch only warns"),
    ("check_channels_unbatched_noaffine", "refused; PyTorch only warns"),
    ("check_bn_channels_noaff_notrack", "refused; PyTorch accepts"),
    ("of_check_in_channels_noaffine", "refused; OneFlow accepts"),
    ("check_zero_channels", "refused; PyTorch accepts"),
    ("of_check_fbn_nan", "ReLU keeps NaN; OneFlow's turns it into 0"),
    ("of_check_bn_offset_1e4", "the right value; OneFlow's is NaN"),
    ("of_in_track_train_ignored", "tracking works; OneFlow ignores the setting"),
    ("of_in_track_eval_ignored", "tracking works; OneFlow ignores the setting"),
];

/// Whether this case is one of [`DEVIATIONS`], or of their kind under another name.
pub fn deviates(case: &Case) -> bool {
    let oneflow = case.source.starts_with("oneflow");
    let param = |name| case.params.get(name);
    let Some(expect) = &case.expect else {
        let tracks = param("track_running_stats").and_then(|v| v.as_bool()) == Some(true);
        return oneflow && case.op == "instance_norm" && tracks;
    };
    if let Some(message) = &expect.message {
        let pytorch = case.source.starts_with("pytorch");
        let unbatched = !pytorch && message.contains("expected 4D input (got 3D input)");
        let spoken = ["Unsupported data type", "not <class 'NoneType'>", "tensor of size [0]"];
        return unbatched && case.op.ends_with("instance_norm")
            || spoken.iter().any(|part| message.contains(part));
    }
    // Channels that the layer is not made for, or none at all.
    let features = param("num_features").and_then(|v| v.as_u64());
    let shape = case.shape.as_deref().unwrap_or_default();
    let class = param("cls").and_then(|v| v.as_str());
    let axis = match (case.op.as_str(), instance_norm::dims(None, class)) {
        ("instance_norm", Ok(dims)) => shape.len().saturating_sub(dims + 1),
        _ => 1,
    };
    let found = shape.get(axis).map(|&side| side as u64);
    let channels = features.is_some_and(|n| n == 0 || found != Some(n));
    let of_nan = oneflow && case.id.ends_with("_nan");
    let nan = expect.value.as_ref().is_some_and(|value| value.is_string());
    channels || of_nan || nan || expect.running_mean_becomes.is_some()
}
