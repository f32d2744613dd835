//! Groups that are contiguous and follow each other: statistics and y of one after the other, so that
//! the second read is from the nearest cache.

use super::super::apply::{Normalizer, Table, rstd};
use super::super::stats::{self, Moments};
use super::super::walk::{Axis, Run, Walk};
use super::apply::{Along, line, write_run};
use super::lanes::{Scratch, Work, as_f32, finish_stream, vectorized};
use super::stats::{SHORT, guess, row_about, short_row};
use crate::Element;
use pulp::Simd;

/// Elements of groups that are worked on step by step together: what one group waits for, another does
/// not. They stay in a core's first cache.
const BATCH: usize = 1 << 12;
/// The most groups.
const GROUPS: usize = 16;

/// Writes a part of y that is whole groups, and their moments where those shall be kept; false if their
/// elements are not contiguous, or not for lanes.
pub(in super::super) fn forward<T: Element>(
    normalizer: &Normalizer<'_, T>,
    part: &Walk,
    eps: f64,
    centered: bool,
    y: &mut [T],
    kept: Option<&mut Vec<Moments>>,
) -> bool {
    let [outer @ .., middle, inner] = &part.axes;
    let contiguous = !middle.is_reduced() || middle.stride.data == inner.extent;
    let rows = inner.is_reduced()
        && contiguous
        && outer.iter().all(|axis| axis.extent == 1 || !axis.is_reduced());
    if !normalizer.fast.is_possible() || !rows {
        return false;
    }
    vectorized(Rows { normalizer, part, eps, centered, y, kept });
    true
}

struct Rows<'a, T> {
    normalizer: &'a Normalizer<'a, T>,
    part: &'a Walk,
    eps: f64,
    centered: bool,
    y: &'a mut [T],
    kept: Option<&'a mut Vec<Moments>>,
}

impl<T: Element> Work for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows { normalizer, part, eps, centered, y, mut kept } = self;
        let [a, b, mut c, inner] = part.axes;
        // Runs of a group, one behind the other, of different parameters.
        let mut runs = Axis::NONE;
        if c.is_reduced() {
            std::mem::swap(&mut c, &mut runs);
        }
        let len = runs.extent * inner.extent;
        let affine = normalizer.affine.as_ref().filter(|_| normalizer.fast.inside().is_none());
        let mut scratch = Scratch::EMPTY;
        let some = (BATCH / len).clamp(1, GROUPS);
        for i in 0..a.extent * b.extent {
            let at = part.base.along(a.stride, i / b.extent);
            let at = at.along(b.stride, i % b.extent);
            for start in (0..c.extent).step_by(some) {
                let at = at.along(c.stride, start);
                let groups = some.min(c.extent - start);
                let x = |i: usize| &normalizer.x[at.data + i * c.stride.data..];
                let mut guesses = [0.0; GROUPS];
                let mut found = [None; GROUPS];
                let mut lines = [None; GROUPS];
                if let Some(x) = as_f32(x(0)).filter(|_| centered && len <= SHORT) {
                    for (i, to) in found[..groups].iter_mut().enumerate() {
                        *to = short_row(simd, &x[i * c.stride.data..], len);
                    }
                } else {
                    for (i, to) in guesses[..groups].iter_mut().enumerate() {
                        *to = guess(simd, x(i), len, centered, &mut scratch.x);
                    }
                    for i in 0..groups {
                        let guess = guesses[i];
                        found[i] = row_about(simd, x(i), len, centered, guess, &mut scratch.x);
                    }
                }
                for i in 0..groups {
                    let Some(m) = &found[i] else { continue };
                    let param = at.param + i * c.stride.param;
                    let params = match affine {
                        Some([weight, bias]) => [weight[param], bias[param]],
                        None => [1.0, 0.0],
                    };
                    lines[i] = line(m.mean, rstd(m.variance(), eps), params);
                }
                for i in 0..groups {
                    let at = at.along(c.stride, i);
                    let y = &mut y[at.data - part.base.data..];
                    let (Some(found), Some(line)) = (found[i], lines[i]) else {
                        let axes = [Axis::NONE, Axis::NONE, runs, inner];
                        let walk = Walk { axes, base: at };
                        let y = &mut y[..len];
                        let moments = exactly(normalizer, &walk, eps, centered, y);
                        kept.iter_mut().for_each(|kept| kept.push(moments));
                        continue;
                    };
                    kept.iter_mut().for_each(|kept| kept.push(found));
                    for i in 0..runs.extent {
                        let at = at.along(runs.stride, i);
                        let run = Run { len: inner.extent, at, step: inner.stride };
                        let along = Along::Same(line).with(&normalizer.fast, &run);
                        let y = &mut y[i * inner.extent..];
                        write_run(simd, normalizer, &run, along, groups * len, &mut scratch, y);
                    }
                }
            }
        }
        if normalizer.fast.streams(usize::MAX) {
            finish_stream();
        }
    }
}

/// A group in f64.
#[cold]
#[inline(never)]
fn exactly<T: Element>(
    normalizer: &Normalizer<'_, T>,
    group: &Walk,
    eps: f64,
    centered: bool,
    y: &mut [T],
) -> Moments {
    let moments = stats::moments(&group.of_data_and_keys(), normalizer.x, None, centered);
    let table = Table::new(group.base.stat, &moments, eps);
    normalizer.write_exactly(group, &table, y);
    moments[0]
}
