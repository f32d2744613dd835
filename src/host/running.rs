//! Running statistics on the host, twin of `shaders/update_running.wgsl`.

use super::stats::Moments;
use crate::problem::{Estimator, Momentum, RunningUpdate};
use crate::{DType, View};
use std::sync::{Mutex, PoisonError};

/// Running statistics of a layer, rounded to `dtype` at every update.
#[derive(Clone, Debug)]
pub(crate) struct HostRunning {
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    pub tracked: u32,
    pub dtype: DType,
}

/// The statistics as they are now, as those of one value each. An update is whole or not there.
pub(super) fn snapshot(running: &Mutex<HostRunning>) -> Vec<Moments> {
    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
    let channels = running.mean.iter().zip(&running.var);
    channels.map(|(&mean, &m2)| Moments { count: 1.0, mean, m2 }).collect()
}

/// `running = (1 − factor)·running + factor·batch`, where a channel's batch value is the mean over
/// the outer groups (InstanceNorm: the samples) of their means and variances. Groups of nothing, because
/// the batch is empty or a mask counts nothing in them, are left out, and a channel that has no others
/// stays. The step counts all the same, as PyTorch counts empty batches.
pub(super) fn update(
    running: &Mutex<HostRunning>,
    update: &RunningUpdate,
    view: &View,
    moments: &[Moments],
) {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    let running = &mut *running;
    if update.counts {
        running.tracked = running.tracked.saturating_add(1);
    }
    let factor = match update.momentum {
        Momentum::Factor(factor) => factor,
        Momentum::Cumulative => 1.0 / f64::from(running.tracked),
        Momentum::Frozen => return,
    };
    let dtype = running.dtype;
    let blend = |old: &mut f64, new: f64| *old = dtype.round((1.0 - factor) * *old + factor * new);
    let channels = view.extent[1] as usize;
    for (c, (mean, var)) in running.mean.iter_mut().zip(&mut running.var).enumerate() {
        let groups = moments.iter().skip(c).step_by(channels).filter(|group| group.count > 0.0);
        let (mut outer, mut means, mut vars) = (0.0, 0.0, 0.0);
        for group in groups {
            outer += 1.0;
            means += group.mean;
            vars += group.m2 / freedom(group.count, update.estimator);
        }
        if outer > 0.0 {
            blend(mean, means / outer);
            blend(var, vars / outer);
        }
    }
}

/// What Σ(x−mean)² is divided by. A single value has variance 0.
pub(super) fn freedom(count: f64, estimator: Estimator) -> f64 {
    match estimator {
        Estimator::Unbiased => (count - 1.0).max(1.0),
        Estimator::Biased => count.max(1.0),
    }
}
