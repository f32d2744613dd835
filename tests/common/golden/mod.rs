//! The golden vectors (`tests/golden/GOLDEN.md`): reading them, comparing with them, and one module
//! per op that runs its cases.

pub mod compare;
pub mod index;
pub mod instance_norm;
mod instance_norm_behaviour;
pub mod self_test;

use index::{Case, Golden};
use wgnorm::{Backend, Context, DType};

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
pub type Runner = fn(&Run<'_>) -> Result<f64, String>;

/// What runs the cases of an op.
fn runner(op: &str) -> Option<Runner> {
    match op {
        "instance_norm" => Some(instance_norm::run),
        _ => None,
    }
}

/// What runs this case, or why nothing does yet.
pub fn supported(case: &Case, on_gpu: bool) -> Result<Runner, String> {
    let runner = runner(&case.op).ok_or_else(|| format!("op {} not supported yet", case.op))?;
    // A behaviour case of another element type asserts how it is refused.
    if case.expect.is_none() {
        let dtype = case.dtype.as_deref().unwrap_or("float32");
        if dtype.parse::<DType>().is_err() {
            return Err(format!("dtype {dtype} not supported yet"));
        }
        if case.layout.as_deref() == Some("nhwc") {
            return Err("channels last not supported yet".into());
        }
    }
    if on_gpu && instance_norm::OVERFLOW_ON_GPU.contains(&case.id.as_str()) {
        return Err("squares overflow f32 on the GPU (documented)".into());
    }
    Ok(runner)
}

/// Asserted as this crate decides, not as the recorded system does: (case, what happens here).
pub fn deviations() -> impl Iterator<Item = (&'static str, &'static str)> {
    instance_norm::DEVIATIONS.into_iter()
}

/// Whether this case is one of [`deviations`].
pub fn deviates(id: &str) -> bool {
    deviations().any(|(case, _)| case == id)
}

/// Expected names that no runner computes yet.
pub const NOT_COMPARED: [&str; 3] = ["dx", "dgamma", "dbeta"];
