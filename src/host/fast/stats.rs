//! Mean and variance of blocks, in one read where a good guess of the mean is at hand.

use super::super::columns::Columns;
use super::super::reduce::Merge;
use super::super::stats::Moments;
use super::super::walk::Walk;
use super::columns::{self, Rows};
use super::lanes::{
    EMPTY_TILE, TILE, Terms, Tile, Values, Work, as_f32, empty_batch, sums, vectorized, widen,
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
/// The same of a column, whose elements are far from each other.
const COLUMN_SAMPLES: usize = 8;
/// How much larger the squares of distances from the guess may be than those from the mean: m2 loses
/// two bits at most.
pub(super) const GOOD: f64 = 4.0;
/// Guesses until a key is left to f64. The second is the mean as the first one saw it.
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
        if let Some(all) = block.columns() {
            for columns in all {
                of_columns(simd, &columns, x, centered, moments, lost);
            }
            return;
        }
        if !block.axes[3].is_reduced() {
            // Elements of one pixel.
            for columns in block.cuts(3, TILE).flat_map(|part| part.pixels()) {
                of_columns(simd, &columns, x, centered, moments, lost);
            }
            return;
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
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
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
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
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

/// The moments of keys that are columns. What is found for one key does not depend on the others.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
fn of_columns<T: Element, S: Simd>(
    simd: S,
    columns: &Columns,
    x: &[T],
    centered: bool,
    moments: &mut [Moments],
    lost: &mut Vec<usize>,
) {
    let first = columns.each.base.key;
    // Of each column.
    let key: Vec<usize> = columns.operands().map(|at| at.key - first).collect();
    let keys = columns.each.keys();
    let each = key.len() / keys;
    let mut guess = vec![0.0; keys];
    if centered {
        let values = &x[columns.each.base.data..];
        key.iter().zip(values).rev().for_each(|(&key, x)| guess[key] = x.to_f32());
        let samples = &columns.samples(COLUMN_SAMPLES);
        let [offsets] = key_sums(simd, samples, &key, x, &guess, &Offset);
        let count = (each * samples.count()) as f64;
        guess.iter_mut().zip(offsets).for_each(|(guess, sum)| *guess += (sum / count) as f32);
    }
    let count = (each * columns.count()) as f64;
    let mut found = vec![Moments::default(); keys];
    let mut open: Vec<usize> = (0..keys).collect();
    for _ in 0..GUESSES {
        let [sums, squares] = key_sums(simd, columns, &key, x, &guess, &OffsetAndSquare);
        let mut tiny = Vec::new();
        open.retain(|&key| {
            let (sum, squares) = (sums[key], squares[key]);
            if squares.is_nan() || squares == f64::INFINITY {
                lost.push(first + key);
                return false;
            }
            if squares < count * TINY {
                tiny.push(key);
                found[key] = Moments { count, mean: f64::from(guess[key]), m2: 0.0 };
                return false;
            }
            found[key] = match centered {
                true => about(count, guess[key], sum, squares),
                false => Moments { count, mean: 0.0, m2: squares },
            };
            let good = !centered || squares <= GOOD * found[key].m2;
            if !good {
                guess[key] = found[key].mean as f32;
            }
            !good
        });
        if !tiny.is_empty() {
            // Constant, or too small for f32?
            let [distances] = key_sums(simd, columns, &key, x, &guess, &Distance);
            let lost_keys = tiny.into_iter().filter(|&key| distances[key] != 0.0);
            lost.extend(lost_keys.map(|key| first + key));
        }
        if open.is_empty() {
            break;
        }
    }
    lost.extend(open.into_iter().map(|key| first + key));
    for (all, found) in moments[first..].iter_mut().zip(found) {
        *all = std::mem::take(all).merge(found);
    }
}

/// Sums over every key of what the terms make of x and the key's guess.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
fn key_sums<T: Element, S: Simd, const K: usize>(
    simd: S,
    columns: &Columns,
    key: &[usize],
    x: &[T],
    guess: &[f32],
    terms: &impl Terms<2, K>,
) -> [Vec<f64>; K] {
    let mut guesses: Vec<f32> = key.iter().map(|&key| guess[key]).collect();
    columns.repeat(&mut guesses);
    let mut sums = columns::Sums::new(columns.row());
    let mut tile = empty_batch();
    for batch in columns.rows(0).flat_map(columns::batches::<T>) {
        let values = [Rows::of(x, &batch, &mut tile), Rows::table(&guesses)];
        sums.add(simd, values, &batch, terms);
    }
    sums.finish().map(|sums| {
        let sums = columns.fold(sums);
        if guess.len() == key.len() {
            return sums;
        }
        let mut of_keys = vec![0.0; guess.len()];
        key.iter().zip(sums).for_each(|(&key, sum)| of_keys[key] += sum);
        of_keys
    })
}

/// From the guess.
struct Offset;

impl Terms<2, 1> for Offset {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [v, guess]: [S::f32s; 2], [sum]: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.add_f32s(sum, simd.sub_f32s(v, guess))]
    }
}

struct Distance;

impl Terms<2, 1> for Distance {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [v, guess]: [S::f32s; 2], [sum]: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.add_f32s(sum, simd.abs_f32s(simd.sub_f32s(v, guess)))]
    }
}

struct OffsetAndSquare;

impl Terms<2, 2> for OffsetAndSquare {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        simd: S,
        [v, guess]: [S::f32s; 2],
        [sum, squares]: [S::f32s; 2],
    ) -> [S::f32s; 2] {
        let offset = simd.sub_f32s(v, guess);
        [simd.add_f32s(sum, offset), simd.mul_add_e_f32s(offset, offset, squares)]
    }
}
