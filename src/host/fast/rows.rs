//! Groups that are contiguous and follow each other: statistics and y of one after the other, so that
//! the second read is from the nearest cache.

use super::super::apply::{Normalizer, Table, rstd};
use super::super::small::SMALL;
use super::super::stats::{self, Moments};
use super::super::walk::{Axis, Indices, Run, Walk};
use super::apply::{Along, line, write_run};
use super::lanes::{BATCH, Scratch, Work, finish_stream, vectorized};
use super::short;
use super::stats::{guess, row_about};
use crate::Element;
use pulp::Simd;

/// The most groups that are worked on step by step together: what one group waits for, another does not.
pub(super) const GROUPS: usize = 16;

/// The groups of a part, which are contiguous and follow each other.
pub(super) struct Groups {
    outer: [Axis; 2],
    /// From group to group.
    pub each: Axis,
    /// From run to run of a group, one behind the other, of different parameters.
    runs: Axis,
    inner: Axis,
    pub base: Indices,
}

impl Groups {
    /// `None` if they are not such.
    pub fn of(part: &Walk) -> Option<Groups> {
        let [outer @ .., middle, inner] = &part.axes;
        // A lone group has no axis of groups and is one run.
        let contiguous =
            middle.extent == 1 || !middle.is_reduced() || middle.stride.data == inner.extent;
        let rows = inner.is_reduced()
            && contiguous
            && outer.iter().all(|axis| axis.extent == 1 || !axis.is_reduced());
        let (each, runs) =
            if middle.is_reduced() { (Axis::NONE, *middle) } else { (*middle, Axis::NONE) };
        rows.then_some(Groups { outer: *outer, each, runs, inner: *inner, base: part.base })
    }

    /// Elements of a group.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.runs.extent * self.inner.extent
    }

    /// All of them, up to `most` at a time: where the first begins, and how many they are.
    #[inline(always)]
    pub fn batches(&self, most: usize) -> impl Iterator<Item = (Indices, usize)> {
        let [a, b] = self.outer;
        (0..a.extent * b.extent).flat_map(move |i| {
            let at = self.base.along(a.stride, i / b.extent).along(b.stride, i % b.extent);
            let starts = (0..self.each.extent).step_by(most);
            starts.map(move |start| {
                (at.along(self.each.stride, start), most.min(self.each.extent - start))
            })
        })
    }

    /// The runs of the `i`th group of a batch.
    #[inline(always)]
    pub fn runs(&self, at: Indices, i: usize) -> impl Iterator<Item = Run> {
        let at = at.along(self.each.stride, i);
        (0..self.runs.extent).map(move |i| {
            let at = at.along(self.runs.stride, i);
            Run { len: self.inner.extent, at, step: self.inner.stride }
        })
    }

    /// The `i`th group of a batch.
    pub fn group(&self, at: Indices, i: usize) -> Walk {
        let axes = [Axis::NONE, Axis::NONE, self.runs, self.inner];
        Walk { axes, base: at.along(self.each.stride, i) }
    }

    /// y of the `i`th group of a batch, in f64.
    #[cold]
    #[inline(never)]
    pub fn exactly<T: Element>(
        &self,
        normalizer: &Normalizer<'_, T>,
        at: Indices,
        i: usize,
        eps: f64,
        centered: bool,
        y: &mut [T],
    ) -> Moments {
        let group = self.group(at, i);
        let moments = stats::moments(&group.of_data_and_keys(), normalizer.x, None, centered);
        let table = Table::new(group.base.stat, &moments, eps);
        normalizer.write_exactly(&group, &table, &mut y[..self.len()]);
        moments[0]
    }
}

/// Writes a part of y that is whole groups, and their moments where those shall be kept; false if their
/// elements are not contiguous, or not for lanes.
pub(in super::super) fn forward<T: Element>(
    normalizer: &Normalizer<'_, T>,
    part: &Walk,
    eps: f64,
    centered: bool,
    y: &mut [T],
    mut kept: Option<&mut Vec<Moments>>,
) -> bool {
    // In two passes over a part, see `stats` and `apply`, it is the same.
    if SMALL || !normalizer.fast.is_possible::<T>() {
        return false;
    }
    let Some(groups) = Groups::of(part) else { return false };
    let groups = &groups;
    if !(centered && short::forward(normalizer, groups, eps, y, &mut kept)) {
        vectorized(Rows { normalizer, groups, eps, centered, y, kept });
    }
    true
}

struct Rows<'a, T> {
    normalizer: &'a Normalizer<'a, T>,
    groups: &'a Groups,
    eps: f64,
    centered: bool,
    y: &'a mut [T],
    kept: Option<&'a mut Vec<Moments>>,
}

impl<T: Element> Work for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows { normalizer, groups, eps, centered, y, mut kept } = self;
        let len = groups.len();
        let affine = normalizer.affine.as_ref().filter(|_| normalizer.fast.inside().is_none());
        let mut scratch = Scratch::EMPTY;
        for (at, some) in groups.batches((BATCH / len).clamp(1, GROUPS)) {
            let x = |i: usize| &normalizer.x[at.data + i * len..];
            let mut guesses = [0.0; GROUPS];
            let mut found = [None; GROUPS];
            let mut lines = [None; GROUPS];
            for (i, to) in guesses[..some].iter_mut().enumerate() {
                *to = guess(simd, x(i), len, centered, &mut scratch.x);
            }
            for i in 0..some {
                let guess = guesses[i];
                found[i] = row_about(simd, x(i), len, centered, guess, &mut scratch.x);
            }
            for i in 0..some {
                let Some(m) = &found[i] else { continue };
                let param = at.param + i * groups.each.stride.param;
                let params = match affine {
                    Some([weight, bias]) => [weight[param], bias[param]],
                    None => [1.0, 0.0],
                };
                lines[i] = line(m.mean, rstd(m.variance(), eps), params);
            }
            let y = &mut y[at.data - groups.base.data..];
            for i in 0..some {
                let (Some(found), Some(line)) = (found[i], lines[i]) else {
                    let y = &mut y[i * len..];
                    let moments = groups.exactly(normalizer, at, i, eps, centered, y);
                    kept.iter_mut().for_each(|kept| kept.push(moments));
                    continue;
                };
                kept.iter_mut().for_each(|kept| kept.push(found));
                for run in groups.runs(at, i) {
                    let along = Along::Same(line).with(&normalizer.fast, &run);
                    let y = &mut y[run.at.data - at.data..];
                    write_run(simd, normalizer, &run, along, some * len, &mut scratch, y);
                }
            }
        }
        if normalizer.fast.streams(usize::MAX) {
            finish_stream();
        }
    }
}
