//! Comparing outputs with PyTorch's, on every device.

use std::collections::BTreeMap;
use std::sync::Mutex;

use libtest_mimic::{Failed, Trial};
use safetensors::{Dtype, tensor::TensorView};
use style_transfer::{Planes, Size};
use wgnorm::{Context, ContextOptions, Preference};

/// Of 255. PyTorch's own f32 differs from its f64 by up to 0.019; a right f32 implementation stays within these.
pub const MAX_ERROR: f64 = 0.1;
pub const MEAN_ERROR: f64 = 0.005;

/// The host, and the GPU if there is one; if not, a trial that says so, or fails where one is required.
pub fn devices(trials: &mut Vec<Trial>) -> Vec<(&'static str, Context)> {
    let mut devices = vec![("host", Context::host())];
    let options = ContextOptions {
        preference: Preference::Gpu,
        allow_software: true,
        ..ContextOptions::default()
    };
    match Context::open_with_blocking(&options) {
        Ok(context) => {
            println!("gpu is {context}");
            devices.push(("gpu", context));
        }
        Err(error) if std::env::var_os("WGNORM_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            trials.push(Trial::test("gpu/adapter", move || Err(error.into())));
        }
        Err(error) => {
            println!("SKIPPED: no GPU ({error}): networks are tested on the host only");
            let reason = "gpu/networks (ignored: no adapter)";
            trials.push(Trial::test(reason, || Ok(())).with_ignored_flag(true));
        }
    }
    devices
}

/// For the last line of each device: how many outputs passed, and their largest errors.
static WORST: Mutex<BTreeMap<&str, (usize, Errors)>> = Mutex::new(BTreeMap::new());

/// Takes note of an output that passed.
pub fn passed(device: &'static str, errors: Errors) {
    let mut worst = WORST.lock().expect("no test panics while it holds this");
    let (outputs, worst) = worst.entry(device).or_default();
    *outputs += 1;
    *worst = worst.max(errors);
}

/// Says what passed where.
pub fn summarize() {
    for (device, (outputs, worst)) in
        WORST.lock().expect("no test panics while it holds this").iter()
    {
        println!("{device}: {outputs} outputs, worst {worst} of 255");
    }
}

/// The largest and the mean error of a comparison.
#[derive(Clone, Copy, Default)]
pub struct Errors {
    pub max: f64,
    pub mean: f64,
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max {:.5}, mean {:.6}", self.max, self.mean)
    }
}

impl Errors {
    /// The larger of each.
    pub fn max(self, other: Errors) -> Errors {
        Errors { max: self.max.max(other.max), mean: self.mean.max(other.mean) }
    }

    /// Whether a right f32 implementation stays within these.
    pub fn check(self, what: &str) -> Result<Errors, Failed> {
        if self.max > MAX_ERROR || self.mean > MEAN_ERROR {
            return Err(format!("{what}: {self}, allowed {MAX_ERROR} and {MEAN_ERROR}").into());
        }
        Ok(self)
    }
}

/// An f16 has 11 bits: rounding to it moves a value by at most half a step.
pub fn half_f16_step(value: f64) -> f64 {
    value.abs().max(2f64.powi(-14)).log2().floor().exp2() / 1024.0 / 2.0
}

/// Errors beyond `slack(expected)` of the window of `output` at `(top, left)`. The expected values are in units of
/// `unit`: 1, or 255 where white is 1.
pub fn compare_window(
    output: &Planes,
    expected: &TensorView<'_>,
    unit: f64,
    (top, left): (usize, usize),
    slack: impl Fn(f64) -> f64,
) -> Result<Errors, Failed> {
    let &[1, 3, rows, columns] = expected.shape() else {
        return Err(format!("a reference of shape {:?}", expected.shape()).into());
    };
    let Size { height, width } = output.size;
    if top + rows > height
        || left + columns > width
        || (top == 0 && left == 0 && rows > 64 && rows != height)
    {
        return Err(
            format!("the output is {}, the reference {rows} x {columns}", output.size).into()
        );
    }
    let value = |index: usize| match expected.dtype() {
        Dtype::F32 => {
            let bytes = &expected.data()[4 * index..][..4];
            f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        _ => {
            let bytes = &expected.data()[2 * index..][..2];
            half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64()
        }
    };
    let (mut max, mut sum) = (0f64, 0.0);
    for index in 0..3 * rows * columns {
        let (plane, row, column) =
            (index / (rows * columns), index / columns % rows, index % columns);
        let found = output.data[(plane * height + top + row) * width + left + column];
        let expected = unit * value(index);
        let error = (f64::from(found) - expected).abs();
        if error.is_nan() {
            return Err(format!("value {index} is {found}, expected {expected}").into());
        }
        max = max.max(error - unit * slack(value(index)));
        sum += error;
    }
    Ok(Errors { max, mean: sum / (3 * rows * columns) as f64 })
}
