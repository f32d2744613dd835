//! The host path: the same problems on slices, threaded. No wgpu, runs anywhere.
//!
//! Arithmetic is f64 throughout: memory, not the multiplier, is the limit here, and f32 values
//! cannot overflow or cancel in it. Work is cut into blocks by size alone, so the bits do not depend
//! on the number of threads.

mod parallel;
mod running;
mod stats;

pub(crate) use running::HostRunning;

use crate::PlanError;
use crate::problem::{Activation, Problem, StatSource};
use parallel::BLOCK;
use std::sync::Mutex;

/// The operands of one call.
pub(crate) struct Operands<'a> {
    pub x: &'a [f32],
    pub addend: Option<&'a [f32]>,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub running: Option<&'a Mutex<HostRunning>>,
}

/// Runs `problem`, filling `y`. All operands are as long as the view says.
pub(crate) fn forward(
    problem: &Problem,
    operands: &Operands<'_>,
    y: &mut [f32],
) -> Result<(), PlanError> {
    let view = &problem.view;
    if view.extent.contains(&0) {
        return Ok(());
    }
    if !view.has_dense_rows() {
        return Err(PlanError::View { strides: view.data });
    }
    let len = view.group_len() as usize;
    let running = || operands.running.expect("a layer that uses running statistics has them");
    match problem.source {
        StatSource::Running => {
            let running = running::snapshot(running());
            parallel::for_each_chunk(y, len, |group, y| {
                let at = view.stat_index(group as u32) as usize;
                let mean = f64::from(running.mean[at]);
                normalize(problem, operands, group, mean, f64::from(running.var[at]), y);
            });
        }
        StatSource::Batch => {
            let moments = parallel::map_chunks(y, len, |group, y| {
                let moments = stats::moments(&operands.x[group * len..][..len]);
                normalize(problem, operands, group, moments.mean, moments.variance(), y);
                moments
            });
            if let Some(update) = &problem.update {
                running::update(running(), update, view, &moments);
            }
        }
    }
    Ok(())
}

/// Writes one group, in blocks that threads share where the group is long.
fn normalize(
    problem: &Problem,
    operands: &Operands<'_>,
    group: usize,
    mean: f64,
    variance: f64,
    y: &mut [f32],
) {
    let param = problem.view.param_index(group as u32) as usize;
    let scale = rstd(variance, problem.eps) * operands.weight.map_or(1.0, |w| f64::from(w[param]));
    let shift = operands.bias.map_or(0.0, |b| f64::from(b[param]));
    let start = group * y.len();
    parallel::for_each_chunk(y, BLOCK, |block, y| {
        let start = start + block * BLOCK;
        let x = &operands.x[start..][..y.len()];
        let addend = operands.addend.map(|a| &a[start..][..y.len()]);
        let norm = |x: f32| (f64::from(x) - mean) * scale + shift;
        match problem.activation {
            Activation::None => write(x, addend, y, norm, |v| v),
            // A comparison keeps NaN, max would not.
            Activation::Relu => write(x, addend, y, norm, |v| if v < 0.0 { 0.0 } else { v }),
        }
    });
}

/// The inner loop, once per combination so that each is free of branches.
fn write(
    x: &[f32],
    addend: Option<&[f32]>,
    y: &mut [f32],
    norm: impl Fn(f32) -> f64,
    activate: impl Fn(f64) -> f64,
) {
    match addend {
        None => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = activate(norm(x)) as f32;
            }
        }
        Some(addend) => {
            for ((y, &x), &a) in y.iter_mut().zip(x).zip(addend) {
                *y = activate(norm(x) + f64::from(a)) as f32;
            }
        }
    }
}

/// 1/√(var + eps); 0 for a constant group with eps 0, so that xhat is 0 there, not NaN.
fn rstd(variance: f64, eps: f64) -> f64 {
    let v = variance + eps;
    if v == 0.0 { 0.0 } else { 1.0 / v.sqrt() }
}
