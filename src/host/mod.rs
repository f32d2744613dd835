//! The host path: the same problems on slices, threaded. No wgpu, runs anywhere.
//!
//! The usual cases run in vector registers of f32 with sums in f64 ([`fast`]); f64 tensors, masks, and
//! numbers whose squares f32 does not hold run in f64 throughout (the other files). Work is cut into
//! blocks by size alone, so the bits do not depend on the number of threads.

mod activation;
mod apply;
mod columns;
mod fast;
mod grads;
mod memory;
mod parallel;
mod reduce;
mod running;
mod small;
mod stats;
mod style;
mod walk;

pub(crate) use memory::{Block, Free, HostPool, check as check_memory, zeros};
pub(crate) use running::HostRunning;
pub(crate) use style::{style_gradient, style_tables};

use crate::ops;
use crate::problem::{Problem, StatSource};
use crate::tensor::{HostData, Values, each_type};
use crate::{Element, RunError};
use apply::{Normalizer, Table};
use grads::{Differentiator, Outputs, Sums};
use reduce::Merge;
use small::{Widened, each_width};
use stats::Moments;
use std::sync::{Arc, Mutex};
use walk::{Spread, Walk, group_strides};

/// The operands of one call, as long as the view says.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub x: &'a HostData<'a>,
    pub addend: Option<&'a HostData<'a>>,
    pub weight: Option<&'a HostData<'a>>,
    pub bias: Option<&'a HostData<'a>>,
    pub running: Option<&'a Mutex<HostRunning>>,
    /// Not 0 where an element counts, see [`View::mask`](crate::View).
    pub mask: Option<&'a [u8]>,
    /// Given or saved statistics: `count, mean, residual, m2` of each.
    pub moments: Option<&'a [f64]>,
}

/// A mask that counts everything is none, so that it gives the same bits.
fn counting<'a>(problem: &Problem, operands: &Operands<'a>) -> (Problem, Operands<'a>) {
    let mask = operands.mask.filter(|mask| mask.contains(&0));
    (Problem { masked: mask.is_some(), ..*problem }, Operands { mask, ..*operands })
}

/// What a backward pass gives. Parameter gradients in the order of `weight`.
pub(crate) struct Gradients {
    pub dx: HostData<'static>,
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
    /// Where it is not dy itself.
    pub daddend: Option<HostData<'static>>,
}

/// `count, mean, 0, m2` of every group of x.
pub(crate) fn statistics(problem: &Problem, operands: &Operands<'_>) -> Vec<f64> {
    if let Some(wide) = Widened::of(operands) {
        return statistics(problem, &wide.operands());
    }
    let (problem, operands) = &counting(problem, operands);
    let moments = each_width!(operands.x, x => batch_moments(problem, operands, x.as_slice()));
    flat(moments.into_iter().map(Moments::write))
}

/// y. Updates the running statistics if the problem says so. y lies in `into`, if that fits and nobody
/// else has it.
pub(crate) fn forward(
    pool: &Arc<HostPool>,
    problem: &Problem,
    operands: &Operands<'_>,
    into: Option<HostData<'static>>,
) -> Result<HostData<'static>, RunError> {
    // Nothing is updated with statistics of nothing.
    let keep = problem.update.is_some() && problem.view.elements() > 0;
    Ok(forward_and(pool, problem, operands, into, keep)?.0)
}

/// y, and the statistics it was made with, as [`statistics`] has them; of running ones
/// `1, mean, 0, variance`.
pub(crate) fn forward_saved(
    pool: &Arc<HostPool>,
    problem: &Problem,
    operands: &Operands<'_>,
) -> Result<(HostData<'static>, Vec<f64>), RunError> {
    let (y, moments) = forward_and(pool, problem, operands, None, true)?;
    Ok((y, flat(moments.into_iter().map(Moments::write))))
}

/// y, and, if they shall be kept, its statistics.
fn forward_and(
    pool: &Arc<HostPool>,
    problem: &Problem,
    operands: &Operands<'_>,
    into: Option<HostData<'static>>,
    keep: bool,
) -> Result<(HostData<'static>, Vec<Moments>), RunError> {
    if let Some(wide) = Widened::of(operands) {
        let (y, moments) = forward_and(pool, problem, &wide.operands(), None, keep)?;
        return Ok((wide.narrow(y), moments));
    }
    let (problem, operands) = &counting(problem, operands);
    let (y, moments) = each_width!(operands.x, x => {
        let x = x.as_slice();
        let mut y = output(pool, x, into)?;
        let moments = forward_of(problem, operands, x, &mut y, keep);
        (own(y), moments)
    });
    // An empty batch is a step too, and an empty shard of a batch learns what the whole batch's statistics are.
    if let Some(update) = &problem.update {
        running::update(running(operands), update, &problem.view, &moments);
    }
    Ok((y, moments))
}

fn forward_of<T: Element>(
    problem: &Problem,
    operands: &Operands<'_>,
    x: &[T],
    y: &mut [T],
    keep: bool,
) -> Vec<Moments> {
    if x.is_empty() {
        return match problem.source {
            StatSource::Given { .. } => read_moments(problem, operands),
            _ if !keep => Vec::new(),
            _ => vec![Moments::default(); problem.view.statistics() as usize],
        };
    }
    let normalizer = Normalizer::new(problem, operands, x);
    let walk = Walk::new(problem, group_strides(&problem.view));
    let is_batch = matches!(problem.source, StatSource::Batch);
    if is_batch && let Some(spread) = walk.spread_parts() {
        return spread_forward(problem, operands, &normalizer, &spread, y);
    }
    let parts = match problem.source {
        StatSource::Batch => walk.resident_parts(),
        _ => None,
    };
    let Some(parts) = parts else {
        let moments = match problem.source {
            StatSource::Batch => {
                // Long groups one after the other, so that the second read is from a cache.
                let parts = walk.cached_parts().unwrap_or_else(|| vec![walk.clone()]);
                let pieces = parallel::split(y, parts.iter().map(Walk::len));
                let run = |(part, y): (Walk, &mut [T])| {
                    let of_part = part.of_data_and_keys();
                    let moments = stats::moments(&of_part, x, operands.mask, problem.centered);
                    let table = Table::new(part.base.key, &moments, problem.eps);
                    normalizer.forward(&part, &table, part.len(), y);
                    moments
                };
                return parts.into_iter().zip(pieces).flat_map(run).collect();
            }
            StatSource::Running => running::snapshot(running(operands)),
            StatSource::Given { .. } => read_moments(problem, operands),
        };
        normalizer.forward(&walk, &Table::new(0, &moments, problem.eps), 0, y);
        return moments;
    };
    // Statistics, and y while x is in the cache.
    let pieces = parallel::split(y, parts.iter().map(Walk::len));
    let tasks = parts.into_iter().zip(pieces).collect();
    let moments = parallel::map(tasks, x.len(), |(part, y)| {
        let Problem { eps, centered, .. } = *problem;
        let mut moments = Vec::with_capacity(if keep { part.keys() } else { 0 });
        let kept = keep.then_some(&mut moments);
        if fast::forward(&normalizer, &part, eps, centered, y, kept) {
            return moments;
        }
        let moments = stats::moments(&part.of_data_and_keys(), x, operands.mask, centered);
        normalizer.write(&part, &Table::new(part.base.key, &moments, eps), 0, y);
        if keep { moments } else { Vec::new() }
    });
    moments.concat()
}

/// As [`forward_of`], of groups that are spread over a batch: statistics, and y while x is in the cache.
fn spread_forward<T: Element>(
    problem: &Problem,
    operands: &Operands<'_>,
    normalizer: &Normalizer<'_, T>,
    spread: &Spread,
    y: &mut [T],
) -> Vec<Moments> {
    let elements = y.len();
    let tasks = spread.by_part(parallel::split(y, spread.lens()));
    let moments = parallel::map(tasks, elements, |(part, pieces)| {
        let of_part = part.of_data_and_keys();
        let moments = stats::moments(&of_part, normalizer.x, operands.mask, problem.centered);
        let table = Table::new(part.base.key, &moments, problem.eps);
        for (piece, y) in spread.pieces(part).zip(pieces) {
            // The next part's pieces lie right behind these.
            normalizer.write(&piece, &table, piece.len(), y);
        }
        moments
    });
    moments.concat()
}

fn batch_moments<T: Element>(problem: &Problem, operands: &Operands<'_>, x: &[T]) -> Vec<Moments> {
    if x.is_empty() {
        return vec![Moments::default(); problem.view.groups() as usize];
    }
    stats::moments(&Walk::of_groups(problem), x, operands.mask, problem.centered)
}

fn running<'a>(operands: &Operands<'a>) -> &'a Mutex<HostRunning> {
    operands.running.expect("a layer that uses running statistics has them")
}

/// Given or saved statistics.
fn read_moments(problem: &Problem, operands: &Operands<'_>) -> Vec<Moments> {
    let moments = operands.moments.expect("given statistics are an operand");
    let parts = match problem.source {
        StatSource::Given { parts, .. } => parts as usize,
        _ => 1,
    };
    let merged = |of_group: &[[f64; 4]]| {
        of_group.iter().map(Moments::read).reduce(Merge::merge).unwrap_or_default()
    };
    moments.as_chunks().0.chunks(parts).map(merged).collect()
}

/// `count, Σγg, Σγg·xhat, 0` of every group.
pub(crate) fn group_sums(
    problem: &Problem,
    operands: &Operands<'_>,
    dy: &HostData<'_>,
) -> Vec<f64> {
    if let Some(wide) = Widened::of(operands) {
        return group_sums(problem, &wide.operands(), &small::widen(dy));
    }
    let (problem, operands) = &counting(problem, operands);
    if problem.view.elements() == 0 {
        return vec![0.0; problem.view.groups() as usize * 4];
    }
    let walk = Walk::new(problem, group_strides(&problem.view));
    let sums = each_width!(operands.x, x => {
        differentiator(problem, operands, x.as_slice(), dy).sums(&walk, true)
    });
    flat(sums.into_iter().map(|sums| [sums.count, sums.u, sums.u_xhat, 0.0]))
}

fn differentiator<'a, T: Element>(
    problem: &Problem,
    operands: &Operands<'a>,
    x: &'a [T],
    dy: &'a HostData<'_>,
) -> Differentiator<'a, T> {
    let moments = read_moments(problem, operands);
    Differentiator {
        normalizer: Normalizer::new(problem, operands, x),
        dy: apply::typed(dy),
        table: Table::new(0, &moments, problem.eps),
        moments,
    }
}

/// What a backward pass is asked for.
#[derive(Default)]
pub(crate) struct Request<'a> {
    /// The gradients of weight and bias.
    pub wants: [bool; 2],
    /// Replace the groups' own sums.
    pub sums: Option<&'a [f64]>,
    /// Memory for the gradients of x and the addend.
    pub into: [Option<HostData<'static>>; 2],
}

/// The gradients.
pub(crate) fn backward(
    pool: &Arc<HostPool>,
    problem: &Problem,
    operands: &Operands<'_>,
    dy: &HostData<'_>,
    request: Request<'_>,
) -> Result<Gradients, RunError> {
    if let Some(wide) = Widened::of(operands) {
        let request = Request { into: [None, None], ..request };
        let grads = backward(pool, problem, &wide.operands(), &small::widen(dy), request)?;
        let daddend = grads.daddend.map(|daddend| wide.narrow(daddend));
        return Ok(Gradients { dx: wide.narrow(grads.dx), daddend, ..grads });
    }
    let (problem, operands) = &counting(problem, operands);
    each_width!(operands.x, x => backward_of(pool, problem, operands, x.as_slice(), dy, request))
}

fn backward_of<T: Element>(
    pool: &Arc<HostPool>,
    problem: &Problem,
    operands: &Operands<'_>,
    x: &[T],
    dy: &HostData<'_>,
    request: Request<'_>,
) -> Result<Gradients, RunError> {
    let Request { wants, sums, into: [into_dx, into_daddend] } = request;
    let mut dx = output(pool, x, into_dx)?;
    let daddend = problem.addend_differs().then(|| output(pool, x, into_daddend));
    let mut daddend = daddend.transpose()?;
    let wanted = |data: Option<&HostData<'_>>, wanted| {
        data.filter(|_| wanted)
            .map(|data| vec![0.0; each_type!(data, values => values.as_slice().len())])
    };
    let mut dweight = wanted(operands.weight, wants[0]);
    let mut dbias = wanted(operands.bias, wants[1]);
    if !x.is_empty() {
        let differentiator = differentiator(problem, operands, x, dy);
        let outputs = Outputs { dx: &mut dx, daddend: daddend.as_deref_mut() };
        let wants_sums = dweight.is_some() || dbias.is_some();
        let params = differentiator.gradients(problem, sums, wants_sums, outputs);
        let fill = |grad: Option<&mut Vec<f64>>, sum: fn(&Sums) -> f64| {
            grad.into_iter().flatten().zip(&params).for_each(|(grad, sums)| *grad = sum(sums));
        };
        fill(dweight.as_mut(), |sums| sums.u_xhat);
        fill(dbias.as_mut(), |sums| sums.u);
    }
    Ok(Gradients { dx: own(dx), dweight, dbias, daddend: daddend.map(own) })
}

/// Four numbers per group, merged.
pub(crate) fn merge(a: &[f64], b: &[f64], how: ops::Merge) -> Vec<f64> {
    let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
    match how {
        ops::Merge::Moments => {
            flat(pairs.map(|(a, b)| Moments::read(a).merge(Moments::read(b)).write()))
        }
        ops::Merge::Sums => a.iter().zip(b).map(|(a, b)| a + b).collect(),
    }
}

fn flat(fours: impl Iterator<Item = [f64; 4]>) -> Vec<f64> {
    fours.flatten().collect()
}

/// Memory for a result of x's length: `into`, if that fits and nobody else has it.
fn output<T: Element>(
    pool: &Arc<HostPool>,
    x: &[T],
    into: Option<HostData<'static>>,
) -> Result<Block<T>, RunError> {
    let fitting = into.and_then(T::own).filter(|block: &Block<T>| block.len() == x.len());
    fitting.map_or_else(|| pool.take(x.len()), Ok)
}

/// Data as a tensor holds them.
fn own<T: Element>(block: Block<T>) -> HostData<'static> {
    T::wrap(Values::Shared(Arc::new(block)))
}

#[cfg(test)]
mod tests;
