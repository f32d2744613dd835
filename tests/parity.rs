//! Both back ends against the f64 oracle: one suite, every regime of the planner.

mod common;

use common::{device, suite::check, tolerance};
use wgnorm::{Context, Tensor};

/// Around warp, workgroup, tile and slice sizes; primes; one beyond a workgroup's registers; one
/// of many slices.
const LENGTHS: [usize; 24] = [
    2, 3, 4, 5, 16, 31, 32, 33, 64, 127, 255, 256, 257, 1023, 1024, 1575, 4096, 4099, 16383, 16384,
    16385, 20000, 65537, 300_004,
];

fn lengths(context: &Context) {
    for (i, s) in LENGTHS.into_iter().enumerate() {
        let [n, c] = if s > 10_000 { [1, 2] } else { [2, 3] };
        // Settings walk through all 32 combinations over the lengths; each length gets two.
        check(context, [n, c, s], (i * 5) % 32, 0.5);
        check(context, [n, c, s], (i * 5 + 19) % 32, 100.0);
    }
    check(context, [2, 3, 1], 3, 0.0);
}

#[test]
fn host_lengths() {
    lengths(&Context::host());
}

#[test]
fn gpu_lengths() {
    if let Some(context) = device::gpu() {
        lengths(&context);
    }
}

/// All 32 combinations of affine, addend, ReLU and mode on one shape of each regime.
fn settings(context: &Context) {
    for setting in 0..32 {
        check(context, [2, 3, 49], setting, 3.0);
    }
    for setting in 0..32 {
        check(context, [1, 2, 17_003], setting, 3.0);
    }
}

#[test]
fn host_settings() {
    settings(&Context::host());
}

#[test]
fn gpu_settings() {
    if let Some(context) = device::gpu() {
        settings(&context);
    }
}

/// More groups than a grid has workgroups along one dimension, in both row layouts.
fn many_groups(context: &Context) {
    check(context, [1, 70_000, 2], 3, 0.0);
    check(context, [70_000, 1, 5], 3, 0.0);
}

#[test]
fn host_many_groups() {
    many_groups(&Context::host());
}

#[test]
fn gpu_many_groups() {
    if let Some(context) = device::gpu() {
        many_groups(&context);
    }
}

/// The comparison itself must be able to fail.
#[test]
fn a_wrong_value_is_seen() {
    assert!(tolerance::compare(&[1.0, 2.0], &[1.0, 2.0], tolerance::Y).is_ok());
    assert!(tolerance::compare(&[1.0, 2.00002], &[1.0, 2.0], tolerance::Y).is_err());
    assert!(tolerance::compare(&[1.0, f32::NAN], &[1.0, 2.0], tolerance::Y).is_err());
    assert!(tolerance::compare(&[1.0], &[1.0, 2.0], tolerance::Y).is_err());
}

/// Threads that share a context: one thread's poll may collect another's answer.
#[test]
fn gpu_threads_read_back_at_once() {
    let Some(context) = device::gpu() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let context = &context;
            scope.spawn(move || {
                for i in 0..150u32 {
                    let values = [thread as f32, i as f32];
                    let x = Tensor::from_slice([2], &values).unwrap().to_context(context).unwrap();
                    assert_eq!(x.to_vec_blocking().unwrap(), values);
                }
            });
        }
    });
}
