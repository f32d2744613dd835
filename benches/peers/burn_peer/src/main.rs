//! Times burn on its wgpu back end: a JSON line per operation and shape.
//!
//! `burn_peer shapes.json`; the environment has BUDGET_S (seconds per measurement) and ROTATE_MB (bytes of
//! distinct inputs). Data are on the device, and every call ends with a wait for its queue.

use burn::nn::{BatchNormConfig, InstanceNormConfig};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use std::time::Instant;

type Shape = [usize; 4];

fn variable(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Sorted milliseconds of what `call` times itself.
fn timed(mut call: impl FnMut(usize) -> f64) -> Vec<f64> {
    (0..3).for_each(|turn| drop(call(turn)));
    let budget = variable("BUDGET_S", 1.0);
    let (mut times, started) = (Vec::new(), Instant::now());
    while times.len() < 5 || started.elapsed().as_secs_f64() < budget {
        times.push(call(times.len()));
    }
    times.sort_by(f64::total_cmp);
    times
}

fn print(op: &str, shape: Shape, rotated: usize, times: &[f64]) {
    let line = serde_json::json!({
        "peer": "burn", "version": "0.22.1", "device": "wgpu", "op": op, "shape": shape, "dtype": "f32", "layout": "nchw",
        "ms_median": times[times.len() / 2], "ms_min": times[0], "scope": "device-only", "rotated": rotated,
        "reps": times.len(),
    });
    println!("{line}");
}

fn inputs(shape: Shape, device: &Device) -> Vec<Tensor<4>> {
    let bytes = 4.0 * shape.iter().product::<usize>() as f64;
    let count = (1e6 * variable("ROTATE_MB", 192.0) / bytes).clamp(3.0, 48.0) as usize;
    let normal = Distribution::Normal(0.5, 2.0);
    let inputs = (0..count).map(|_| Tensor::random(shape, normal, device)).collect();
    device.sync().expect("a live device");
    inputs
}

/// Milliseconds until the device is done with `work`; the result is dropped untimed.
fn until_done<T>(device: &Device, work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    let result = work();
    device.sync().expect("a live device");
    let ms = start.elapsed().as_secs_f64() * 1e3;
    drop(result);
    ms
}

/// Every plane must have mean 0 and variance 1.
fn check(y: Tensor<4>, [n, c, h, w]: Shape) {
    let planes = y.reshape([n * c, h * w]);
    let mean: f32 = planes.clone().mean_dim(1).abs().max().into_scalar();
    let variance: f32 =
        (planes.clone() * planes).mean_dim(1).sub_scalar(1.0).abs().max().into_scalar();
    assert!(mean < 1e-2 && variance < 1e-2, "wrong: mean {mean}, variance off by {variance}");
}

fn measure(shape: Shape) {
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let xs = inputs(shape, &device);
    let norm = InstanceNormConfig::new(shape[1]).init(&device);
    check(norm.forward(xs[0].clone()), shape);
    let input = |turn: usize| xs[turn % xs.len()].clone();
    let times = timed(|turn| until_done(&device, || norm.forward(input(turn))));
    print("in_fwd", shape, xs.len(), &times);

    // Training statistics are only taken on a device that records gradients.
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let xs = inputs(shape, &device);
    let input = |turn: usize| xs[turn % xs.len()].clone();
    let norm = BatchNormConfig::new(shape[1]).init(&device);
    let times = timed(|turn| until_done(&device, || norm.forward(input(turn))));
    print("bn_train_fwd", shape, xs.len(), &times);
    let norm = InstanceNormConfig::new(shape[1]).init(&device);
    let times = timed(|turn| {
        let x = input(turn).require_grad();
        let y = norm.forward(x.clone());
        device.sync().expect("a live device");
        until_done(&device, || x.grad(&y.backward()))
    });
    print("in_bwd", shape, xs.len(), &times);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("burn_peer shapes.json")?;
    let shapes: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let planes: Vec<Shape> = serde_json::from_value(shapes["planes"].clone())?;
    planes.into_iter().for_each(measure);
    Ok(())
}
