//! AdaIn's tables from the statistics of a style, and the style's gradient from theirs.

use super::apply::{self, TILE, Tile};
use super::parallel::{self, BLOCK};
use super::running::freedom;
use super::stats::Moments;
use super::walk::{Pair, Walk};
use super::{Block, HostPool, own};
use crate::problem::{Estimator, Problem};
use crate::tensor::{HostData, each_type};
use crate::{Element, RunError};
use std::sync::Arc;

/// Of each statistic the deviation √(var + eps) and the mean; see [`crate::ops::style_tables`].
pub(crate) fn style_tables(
    moments: &[f64],
    eps: f64,
    estimator: Estimator,
) -> (Vec<f64>, Vec<f64>) {
    let moments = moments.as_chunks().0.iter().map(Moments::read);
    moments.map(|m| (deviation(m, eps, estimator), m.mean)).unzip()
}

fn deviation(moments: Moments, eps: f64, estimator: Estimator) -> f64 {
    (moments.m2 / freedom(moments.count, estimator) + eps).sqrt()
}

/// See [`crate::ops::style_gradient`]; the tables are indexed as the statistics are.
pub(crate) fn style_gradient(
    pool: &Arc<HostPool>,
    problem: &Problem,
    style: &HostData<'_>,
    moments: &[f64],
    [dsigma, dmu]: [&[f64]; 2],
    estimator: Estimator,
) -> Result<HostData<'static>, RunError> {
    // dstyle = offset + slope · (style − mean)
    let moments = moments.as_chunks().0.iter().map(Moments::read);
    let (mut means, mut slopes, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for ((m, dsigma), dmu) in moments.zip(dsigma).zip(dmu) {
        let sigma = deviation(m, problem.eps, estimator);
        means.push(m.mean);
        // A constant style without eps has no slope.
        slopes.push(if sigma == 0.0 {
            0.0
        } else {
            dsigma / (freedom(m.count, estimator) * sigma)
        });
        offsets.push(dmu / m.count.max(1.0));
    }
    each_type!(style, style => {
        Ok(own(lines(pool, problem, style.as_slice(), [&means, &slopes, &offsets])?))
    })
}

/// `offset + slope · (x − mean)` with those of each element's statistic.
fn lines<T: Element>(
    pool: &Arc<HostPool>,
    problem: &Problem,
    x: &[T],
    [means, slopes, offsets]: [&[f64]; 3],
) -> Result<Block<T>, RunError> {
    let mut out = pool.take(x.len())?;
    if x.is_empty() {
        return Ok(out);
    }
    let parts = Walk::new(problem, [0; 4]).parts(BLOCK);
    let pieces = parallel::split(&mut out, parts.iter().map(Walk::len));
    let tasks = parts.iter().zip(pieces).collect();
    parallel::map(tasks, x.len(), |(part, out): (&Walk, &mut [T])| {
        let mut tile: Tile = [0.0; TILE];
        for run in part.runs(TILE) {
            let values = &mut tile[..run.len];
            let along = |tables| Pair::new(tables, run.at.stat, run.step.stat, run.len);
            along([means, slopes])
                .zip(values, run.slice(x), |_, x, mean, slope| (x.widen() - mean) * slope);
            along([offsets, offsets]).map(values, |v, offset, _| v + offset);
            let out = &mut out[run.at.data - part.base.data..][..run.len];
            apply::store(values, out);
        }
    });
    Ok(out)
}
