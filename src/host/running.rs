//! Running statistics on the host, twin of `shaders/update_running.wgsl`.

use super::stats::Moments;
use crate::View;
use crate::problem::{Estimator, Momentum, RunningUpdate};
use std::sync::{Mutex, PoisonError};

/// Running statistics of a layer.
#[derive(Clone, Debug)]
pub(crate) struct HostRunning {
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
    pub tracked: u32,
}

/// The statistics as they are now. An update is whole or not there.
pub(crate) fn snapshot(running: &Mutex<HostRunning>) -> HostRunning {
    running.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// `running = (1 − factor)·running + factor·batch`, where a channel's batch value is the mean over
/// the outer groups (InstanceNorm: the samples) of their means and variances.
pub(super) fn update(
    running: &Mutex<HostRunning>,
    update: &RunningUpdate,
    view: &View,
    moments: &[Moments],
) {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    let factor = match update.momentum {
        Momentum::Factor(factor) => factor,
        Momentum::Cumulative => {
            running.tracked = running.tracked.saturating_add(1);
            1.0 / f64::from(running.tracked)
        }
        Momentum::Frozen => return,
    };
    let [outer, channels, ..] = view.extent.map(|size| size as usize);
    let blend = |old: f32, new: f64| ((1.0 - factor) * f64::from(old) + factor * new) as f32;
    for c in 0..channels {
        let (mut mean, mut var) = (0.0, 0.0);
        for group in (0..outer).map(|sample| moments[sample * channels + c]) {
            let freedom = match update.estimator {
                // A single value has variance 0.
                Estimator::Unbiased => (group.count - 1.0).max(1.0),
                Estimator::Biased => group.count,
            };
            mean += group.mean;
            var += group.m2 / freedom;
        }
        running.mean[c] = blend(running.mean[c], mean / outer as f64);
        running.var[c] = blend(running.var[c], var / outer as f64);
    }
}
