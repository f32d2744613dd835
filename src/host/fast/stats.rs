//! Mean and variance of blocks, in one read where a good guess of the mean is at hand.

use super::super::reduce::Merge;
use super::super::stats::Moments;
use super::super::walk::Walk;
use super::lanes::{
    EMPTY_TILE, RUNS, TILE, Terms, Tile, Values, Work, as_f32, sums, vectorized, widen,
};
use crate::Element;
use pulp::Simd;

/// Elements up to which a run's mean is found by a pass of its own, which then costs no more than
/// looking at samples.
pub(super) const SHORT: usize = 256;
/// Elements that are summed in f32 before the sum goes on in f64: 16 additions to a lane of the
/// narrowest chains, which lose about 2e-7 of a sum of squares.
const SPAN: usize = TILE;
/// Elements that are looked at for a guess.
const SAMPLES: usize = 16;
/// How much larger the squares of distances from the guess may be than those from the mean: m2 loses
/// two bits at most.
pub(super) const GOOD: f64 = 4.0;
/// Guesses until the block is left to f64. The second is the mean as the first one saw it.
const GUESSES: usize = 3;
/// A mean square below which f32 squares may have underflowed.
pub(super) const TINY: f64 = 1e-30;

/// The moments of every key of a block, and the keys whose sums f32 does not hold; `None` if the block is
/// not for lanes.
pub(in super::super) fn moments<T: Element>(
    block: &Walk,
    x: &[T],
    centered: bool,
) -> Option<(Vec<Moments>, Vec<usize>)> {
    if !T::IS_NARROW || !block.is_sliced() {
        return None;
    }
    let mut moments = vec![Moments::default(); block.keys()];
    let mut lost = Vec::new();
    let (to, lost_to) = (&mut moments, &mut lost);
    vectorized(Stats { block, x, centered, moments: to, lost: lost_to });
    Some((moments, lost))
}

struct Stats<'a, T> {
    block: &'a Walk,
    x: &'a [T],
    centered: bool,
    moments: &'a mut [Moments],
    lost: &'a mut Vec<usize>,
}

impl<T: Element> Work for Stats<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Stats { block, x, centered, moments, lost } = self;
        if !block.axes[3].is_reduced() {
            return columns(block, x, centered, moments, lost);
        }
        let mut tile = EMPTY_TILE;
        let len = block.axes[3].extent;
        if centered && len <= SHORT && len * moments.len() < block.len() {
            return short_runs(simd, block, x, moments, lost, &mut tile);
        }
        // Runs of one key each.
        for run in block.runs(usize::MAX) {
            let Some(part) = row(simd, &x[run.at.data..], run.len, centered, &mut tile) else {
                lost.push(run.at.key);
                continue;
            };
            let all = &mut moments[run.at.key];
            *all = std::mem::take(all).merge(part);
        }
    }
}

/// Several short runs of each key: distances are all from one guess, so that sums need not be merged.
#[inline(always)]
fn short_runs<T: Element, S: Simd>(
    simd: S,
    block: &Walk,
    x: &[T],
    moments: &mut [Moments],
    lost: &mut Vec<usize>,
    tile: &mut Tile,
) {
    let keys = moments.len();
    let count = (block.len() / keys) as f64;
    let mut guess = vec![0.0; keys];
    let mut open = vec![false; keys];
    for run in block.runs(usize::MAX) {
        let key = run.at.key;
        if !std::mem::replace(&mut open[key], true) {
            guess[key] = self::guess(simd, &x[run.at.data..], run.len, true, tile);
        }
    }
    for _ in 0..GUESSES {
        let mut totals = vec![[0.0; 2]; keys];
        for run in block.runs(usize::MAX).filter(|run| open[run.at.key]) {
            let (guess, total) = (guess[run.at.key], &mut totals[run.at.key]);
            let sums = distances(simd, &x[run.at.data..], run.len, &Distances(guess), guess, tile);
            total.iter_mut().zip(sums).for_each(|(total, sum): (_, f64)| *total += sum);
        }
        for key in 0..keys {
            if !open[key] {
                continue;
            }
            let [sum, squares] = totals[key];
            moments[key] = about(count, guess[key], sum, squares);
            let held = squares >= count * TINY && squares < f64::INFINITY;
            open[key] = !(held && squares <= GOOD * moments[key].m2);
            if open[key] && held {
                guess[key] = moments[key].mean as f32;
            }
        }
        if !open.contains(&true) {
            return;
        }
    }
    lost.extend((0..keys).filter(|&key| open[key]));
}

/// The moments of the first `len` values.
#[inline(always)]
fn row<T: Element, S: Simd>(
    simd: S,
    x: &[T],
    len: usize,
    centered: bool,
    tile: &mut Tile,
) -> Option<Moments> {
    let guess = guess(simd, x, len, centered, tile);
    row_about(simd, x, len, centered, guess, tile)
}

/// A number near the mean of the first `len` values; exactly it where all are the same.
#[inline(always)]
pub(super) fn guess<T: Element, S: Simd>(
    simd: S,
    x: &[T],
    len: usize,
    centered: bool,
    tile: &mut Tile,
) -> f32 {
    if !centered {
        return 0.0;
    }
    if len > SHORT {
        return sampled_mean(&x[..len]);
    }
    let first = x[0].to_f32();
    let [sum] = distances::<T, S, 1>(simd, x, len, &FromFirst(first), first, tile);
    first + sum as f32 / len as f32
}

/// The moments of the first `len` values, from a guess of their mean.
#[inline(always)]
pub(super) fn row_about<T: Element, S: Simd>(
    simd: S,
    x: &[T],
    len: usize,
    centered: bool,
    mut guess: f32,
    tile: &mut Tile,
) -> Option<Moments> {
    for _ in 0..GUESSES {
        let [sum, squares] = distances::<T, S, 2>(simd, x, len, &Distances(guess), guess, tile);
        match judge(&x[..len], guess, sum, squares, centered) {
            Ok(moments) => return moments,
            Err(better) => guess = better,
        }
    }
    None
}

pub(super) struct FromFirst(pub f32);

impl Terms<1, 1> for FromFirst {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [v]: [S::f32s; 1], [sum]: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.add_f32s(sum, simd.sub_f32s(v, simd.splat_f32s(self.0)))]
    }
}

pub(super) struct Distances(pub f32);

impl Terms<1, 2> for Distances {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [v]: [S::f32s; 1], [sum, q]: [S::f32s; 2]) -> [S::f32s; 2] {
        let distance = simd.sub_f32s(v, simd.splat_f32s(self.0));
        [simd.add_f32s(sum, distance), simd.mul_add_e_f32s(distance, distance, q)]
    }
}

/// Sums of distances from `guess`.
#[inline(always)]
fn distances<T: Element, S: Simd, const K: usize>(
    simd: S,
    x: &[T],
    len: usize,
    terms: &impl Terms<1, K>,
    guess: f32,
    tile: &mut Tile,
) -> [f64; K] {
    let mut totals = [0.0; K];
    for start in (0..len).step_by(SPAN) {
        let some = SPAN.min(len - start);
        let values = match as_f32(&x[start..]) {
            Some(x) => x,
            None => {
                widen(&x[start..start + some], tile);
                &*tile
            }
        };
        let sums = sums(simd, [Values::new(values, some)], [guess], terms);
        for k in 0..K {
            totals[k] += f64::from(sums[k]);
        }
    }
    totals
}

/// The moments; `None` if f32 does not hold the sums, and a better guess if this one was too far from
/// the mean.
#[inline(always)]
fn judge<T: Element>(
    x: &[T],
    guess: f32,
    sum: f64,
    squares: f64,
    centered: bool,
) -> Result<Option<Moments>, f32> {
    let count = x.len() as f64;
    if !(squares >= count * TINY && squares < f64::INFINITY) {
        let constant = Moments { count, mean: f64::from(guess), m2: 0.0 };
        let same = squares < 1.0 && x.iter().all(|v| v.to_f32() == guess);
        return Ok(same.then_some(constant));
    }
    if !centered {
        return Ok(Some(Moments { count, mean: 0.0, m2: squares }));
    }
    let moments = about(count, guess, sum, squares);
    if squares <= GOOD * moments.m2 { Ok(Some(moments)) } else { Err(moments.mean as f32) }
}

/// The mean of some values; exactly the value where all are the same.
#[inline(always)]
fn sampled_mean<T: Element>(x: &[T]) -> f32 {
    let samples = x.iter().step_by(x.len() / SAMPLES).take(SAMPLES);
    (samples.map(|v| f64::from(v.to_f32())).sum::<f64>() / SAMPLES as f64) as f32
}

/// Moments from sums of distances from a guess.
#[inline(always)]
fn about(count: f64, guess: f32, sum: f64, squares: f64) -> Moments {
    let offset = sum / count;
    Moments { count, mean: f64::from(guess) + offset, m2: squares - sum * offset }
}

/// Runs along which keys lie side by side. What is found for one key does not depend on the others.
#[inline(always)]
fn columns<T: Element>(
    block: &Walk,
    x: &[T],
    centered: bool,
    moments: &mut [Moments],
    lost: &mut Vec<usize>,
) {
    let keys = moments.len();
    let count = (block.len() / keys) as f64;
    let mut guess = vec![0.0; keys];
    if centered {
        guess_columns(block, x, &mut guess);
    }
    let mut open: Vec<usize> = (0..keys).collect();
    for _ in 0..GUESSES {
        let totals = column_sums(block, x, &guess, |d| [d, d * d]);
        let mut tiny = Vec::new();
        open.retain(|&key| {
            let [sum, squares] = totals[key];
            if squares.is_nan() || squares == f64::INFINITY {
                lost.push(key);
                return false;
            }
            if squares < count * TINY {
                tiny.push(key);
                moments[key] = Moments { count, mean: f64::from(guess[key]), m2: 0.0 };
                return false;
            }
            moments[key] = match centered {
                true => about(count, guess[key], sum, squares),
                false => Moments { count, mean: 0.0, m2: squares },
            };
            let good = !centered || squares <= GOOD * moments[key].m2;
            if !good {
                guess[key] = moments[key].mean as f32;
            }
            !good
        });
        if !tiny.is_empty() {
            // Constant, or too small for f32?
            let distances = column_sums(block, x, &guess, |d| [d.abs(), 0.0]);
            lost.extend(tiny.into_iter().filter(|&key| distances[key][0] != 0.0));
        }
        if open.is_empty() {
            return;
        }
    }
    lost.append(&mut open);
}

/// Means of some runs of each key; exactly the value where all are the same.
#[inline(always)]
fn guess_columns<T: Element>(block: &Walk, x: &[T], guess: &mut [f32]) {
    let [mut sum, mut seen] = [0; 2].map(|_| vec![0.0f32; guess.len()]);
    let runs = block.len() / block.axes[3].extent;
    for run in block.runs(usize::MAX).step_by((runs / SAMPLES).max(1)) {
        let keys = run.at.key..run.at.key + run.len;
        let x = run.slice(x);
        if seen[run.at.key] == 0.0 {
            guess[keys.clone()].iter_mut().zip(x).for_each(|(first, x)| *first = x.to_f32());
        }
        for ((sum, first), x) in sum[keys.clone()].iter_mut().zip(&guess[keys.clone()]).zip(x) {
            *sum += x.to_f32() - first;
        }
        seen[keys].iter_mut().for_each(|seen| *seen += 1.0);
    }
    for ((guess, sum), seen) in guess.iter_mut().zip(sum).zip(seen) {
        *guess += sum / seen.max(1.0);
    }
}

/// Sums over every key of what `f` makes of the distances from its guess.
#[inline(always)]
fn column_sums<T: Element>(
    block: &Walk,
    x: &[T],
    guess: &[f32],
    f: impl Fn(f32) -> [f32; 2],
) -> Vec<[f64; 2]> {
    let [mut a, mut b] = [0; 2].map(|_| vec![0.0f32; guess.len()]);
    let mut totals = vec![[0.0; 2]; guess.len()];
    let mut flush = |a: &mut [f32], b: &mut [f32]| {
        for ((total, a), b) in totals.iter_mut().zip(a).zip(b) {
            total[0] += f64::from(std::mem::take(a));
            total[1] += f64::from(std::mem::take(b));
        }
    };
    for (i, run) in block.runs(usize::MAX).enumerate() {
        let keys = run.at.key..run.at.key + run.len;
        let sums = a[keys.clone()].iter_mut().zip(&mut b[keys.clone()]);
        for (((a, b), &guess), x) in sums.zip(&guess[keys]).zip(run.slice(x)) {
            let [da, db] = f(x.to_f32() - guess);
            *a += da;
            *b += db;
        }
        if i % RUNS == RUNS - 1 {
            flush(&mut a, &mut b);
        }
    }
    flush(&mut a, &mut b);
    totals
}
