//! Normalize, affine, epilogue.

use super::super::activation;
use super::super::apply::{Normalizer, Table};
use super::super::columns::Columns;
use super::super::small::SMALL;
use super::super::walk::{Run, Walk};
use super::lanes::{
    BATCH, Itself, Map, PAST_CACHES, Scratch, Sink, TILE, Tile, Work, as_f32, as_f32_mut,
    empty_batch, finish_stream, narrow, registers, to_line, vectorized, widen, widened,
};
use crate::problem::Problem;
use crate::{Activation, DType, Element, View};
use pulp::Simd;
use std::ops::Range;

/// Bytes of y from which on it is written past the caches: with x it no longer fits the last one. Smaller
/// ones are faster by ordinary stores, LayerNorm of 4096×768 by half.
const STREAM: usize = 16 << 20;
/// The same of dx, whose groups are written right after they were read: InstanceNorm of 8 MB is faster by
/// an eighth so.
const STREAM_GRADIENT: usize = 4 << 20;
/// Shortest run that is worth streaming: it begins and ends in the middle of cache lines.
pub(super) const STREAM_RUN: usize = 1 << 9;
/// Elements of columns that are fetched ahead: with tables in the first cache, rows have 37 GB/s then
/// instead of 30.
const AHEAD: usize = 1 << 8;
/// Numbers that f32 arithmetic may multiply and square without fear.
pub(super) const SAFE: Range<f64> = 1e-30..1e30;

/// How lanes go about a problem.
pub(in super::super) struct Plan {
    /// Whether they can, with elements that f32 holds.
    possible: bool,
    /// `weight` and `bias` where they vary within groups.
    inside: Option<[Vec<f32>; 2]>,
    /// Of x, and of what is written.
    bytes: usize,
    view: View,
}

impl Plan {
    pub fn new<T>(
        problem: &Problem,
        masked: bool,
        affine: Option<&[Vec<f64>; 2]>,
        x: &[T],
    ) -> Plan {
        let View { extent, stat, param, .. } = problem.view;
        let inside = affine.filter(|_| problem.view.params_inside());
        let walk = Walk::new(problem, [0; 4]);
        // Tables of parameters are indexed by the statistic, or by the element.
        let by_both = inside.is_some() && walk.axes[3].stride.stat != 0;
        let per_sample = affine.is_some() && stat[0] == 0 && param[0] != 0 && extent[0] > 1;
        let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
        Plan {
            possible: !masked && walk.is_sliced() && !by_both && !per_sample,
            inside: inside.map(|affine| affine.each_ref().map(narrow)),
            bytes: size_of_val(x),
            view: problem.view,
        }
    }

    /// Whether lanes can. Known to the compiler where f32 does not hold the elements: all that would follow is
    /// not compiled for them.
    #[inline(always)]
    pub fn is_possible<T: Element>(&self) -> bool {
        T::IS_NARROW && self.possible
    }

    pub(super) fn inside(&self) -> Option<[&[f32]; 2]> {
        self.inside.as_ref().map(|[weight, bias]| [&**weight, &**bias])
    }

    /// Whether a run of this length is written past the caches.
    #[inline(always)]
    pub(super) fn streams(&self, len: usize) -> bool {
        PAST_CACHES && self.bytes >= STREAM && len >= STREAM_RUN
    }

    /// The same of a gradient, whose runs are worth it from `least` elements on.
    pub(super) fn streams_gradient(&self, len: usize, least: usize) -> bool {
        self.streams(len) || (PAST_CACHES && self.bytes >= STREAM_GRADIENT && len >= least)
    }

    /// `[weight, bias]` of a statistic, as far as they do not vary within its groups.
    pub(super) fn affine_of(&self, affine: Option<&[Vec<f64>; 2]>, stat: usize) -> [f64; 2] {
        match affine {
            Some([weight, bias]) if self.inside.is_none() => {
                let [outer, inner, ..] = self.view.stat;
                // Statistics are numbered as groups are, or one serves all samples.
                let group = if outer == 0 { stat / inner.max(1) as usize } else { stat };
                let param = self.view.param_index(group as u32) as usize;
                [weight[param], bias[param]]
            }
            _ => [1.0, 0.0],
        }
    }

    /// Writes one contiguous part of y; false if the numbers are not for f32. What lies `ahead` elements
    /// behind x is read next, if that is not 0.
    pub fn write<T: Element>(
        &self,
        normalizer: &Normalizer<'_, T>,
        part: &Walk,
        table: &Table,
        ahead: usize,
        y: &mut [T],
    ) -> bool {
        if !self.is_possible::<T>() {
            return false;
        }
        let affine = normalizer.affine.as_ref();
        if let Some(mut columns) = part.columns() {
            return columns.all(|columns| {
                let lines = Lines::of_columns(table, &columns, affine);
                let Some(lines) = &lines else { return false };
                let start = columns.each.base.data - part.base.data;
                let streams = self.streams(columns.row());
                for rows in columns.rows(if streams { to_line(&y[start..]) } else { 0 }) {
                    let y = &mut y[rows.base.data - part.base.data..][..rows.len()];
                    let ahead = if ahead == 0 { AHEAD } else { ahead };
                    vectorized(Write { normalizer, part: &rows, lines, ahead, y });
                }
                true
            });
        }
        let lines = Lines::new(table, part.stats(), |stat| self.affine_of(affine, stat));
        let Some(lines) = lines else { return false };
        vectorized(Write { normalizer, part, lines: &lines, ahead, y });
        true
    }
}

/// Mean, scale and shift of `(x − mean) · scale + shift`, as f32; `None` if f32 does not hold them.
/// Statistics that are no numbers make NaN of everything, and are no reason to leave the lanes: what
/// becomes of a group must not depend on its neighbours.
#[inline(always)]
pub(super) fn line(mean: f64, rstd: f64, [weight, bias]: [f64; 2]) -> Option<[f32; 3]> {
    if !mean.is_finite() || rstd.is_nan() {
        return Some([f32::NAN; 3]);
    }
    let scale = rstd * weight;
    // What f32 rounds off the mean.
    let shift = bias - (mean - f64::from(mean as f32)) * scale;
    let holds = mean.abs() < SAFE.end && is_safe(scale) && shift.abs() < SAFE.end;
    holds.then_some([mean as f32, scale as f32, shift as f32])
}

/// Whether f32 holds a factor and its products. Without branches, so that several are asked at once.
#[inline(always)]
pub(super) fn is_safe(v: f64) -> bool {
    (v == 0.0) | ((v.abs() >= SAFE.start) & is_small(v))
}

/// Whether f32 holds a summand.
#[inline(always)]
pub(super) fn is_small(v: f64) -> bool {
    v.abs() < SAFE.end
}

/// Lines of consecutive statistics.
#[derive(Default)]
pub(super) struct Lines {
    first: usize,
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Lines {
    pub fn new(
        table: &Table,
        stats: Range<usize>,
        affine: impl Fn(usize) -> [f64; 2],
    ) -> Option<Lines> {
        let first = stats.start;
        Lines::of_each(table, first, stats.len(), stats.map(|stat| (stat, affine(stat))))
    }

    /// Those of the columns along a row, which number them from 0.
    pub fn of_columns(
        table: &Table,
        columns: &Columns,
        affine: Option<&[Vec<f64>; 2]>,
    ) -> Option<Lines> {
        let params = |param: usize| affine.map_or([1.0, 0.0], |[w, b]| [w[param], b[param]]);
        let each = columns.operands().map(|at| (at.stat, params(at.param)));
        let mut lines = Lines::of_each(table, 0, columns.row(), each)?;
        let Lines { mean, scale, shift, .. } = &mut lines;
        [mean, scale, shift].into_iter().for_each(|table| columns.repeat(table));
        Some(lines)
    }

    /// Of statistics and what follows the normalization.
    #[inline(always)]
    fn of_each(
        table: &Table,
        first: usize,
        len: usize,
        each: impl Iterator<Item = (usize, [f64; 2])>,
    ) -> Option<Lines> {
        let [mean, scale, shift] = [0; 3].map(|_| Vec::with_capacity(len));
        let mut lines = Lines { first, mean, scale, shift };
        for (stat, affine) in each {
            let [mean, rstd] = table.of(stat);
            let [mean, scale, shift] = line(mean, rstd, affine)?;
            lines.mean.push(mean);
            lines.scale.push(scale);
            lines.shift.push(shift);
        }
        Some(lines)
    }

    /// Mean, scale, shift.
    pub fn tables(&self) -> [&[f32]; 3] {
        [&self.mean, &self.scale, &self.shift]
    }

    #[inline(always)]
    pub fn along(&self, run: &Run) -> Along<'_> {
        let stat = run.at.stat - self.first;
        if run.step.stat == 1 {
            let Lines { mean, scale, shift, .. } = self;
            return Along::Each([&mean[stat..], &scale[stat..], &shift[stat..]]);
        }
        Along::Same([self.mean[stat], self.scale[stat], self.shift[stat]])
    }
}

/// Lines along a run: mean, scale, shift.
#[derive(Clone, Copy)]
pub(super) enum Along<'t> {
    Same([f32; 3]),
    Each([&'t [f32]; 3]),
    /// And then `weight` and `bias` of each element.
    Inside([f32; 3], [&'t [f32]; 2]),
}

impl<'t> Along<'t> {
    /// With the parameters that vary within groups.
    #[inline(always)]
    pub fn with(self, plan: &'t Plan, run: &Run) -> Self {
        match (self, plan.inside()) {
            (Along::Same(line), Some(tables)) if run.step.param == 1 => {
                let [weight, bias] = tables;
                Along::Inside(line, [&weight[run.at.param..], &bias[run.at.param..]])
            }
            (Along::Same([mean, scale, shift]), Some([weight, bias])) => {
                let (weight, bias) = (weight[run.at.param], bias[run.at.param]);
                Along::Same([mean, scale * weight, shift * weight + bias])
            }
            (along, _) => along,
        }
    }

    #[inline(always)]
    fn part(self, start: usize) -> Self {
        match self {
            Along::Same(line) => Along::Same(line),
            Along::Each([a, b, c]) => Along::Each([&a[start..], &b[start..], &c[start..]]),
            Along::Inside(line, [a, b]) => Along::Inside(line, [&a[start..], &b[start..]]),
        }
    }

    /// The normalized `x`, or its ReLU, into `sink`.
    #[inline(always)]
    pub fn fill<S: Simd, const RELU: bool>(self, simd: S, x: &[f32], sink: Sink<'_>) {
        match self {
            Along::Same([mean, scale, shift]) => {
                sink.fill(simd, x, [], &Same::<RELU> { mean, scale, shift });
            }
            Along::Each(tables) => sink.fill(simd, x, tables, &Each::<RELU>),
            Along::Inside([mean, scale, shift], tables) => {
                sink.fill(simd, x, tables, &Inside::<RELU> { mean, scale, shift });
            }
        }
    }
}

/// 0 in place of what is below 0; NaN stays, as it would not with max.
#[inline(always)]
fn relu<S: Simd, const RELU: bool>(simd: S, v: S::f32s) -> S::f32s {
    if !RELU {
        return v;
    }
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(v, zero), zero, v)
}

struct Same<const RELU: bool> {
    mean: f32,
    scale: f32,
    shift: f32,
}

impl<const RELU: bool> Map<0> for Same<RELU> {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, _: [S::f32s; 0]) -> S::f32s {
        let distance = simd.sub_f32s(x, simd.splat_f32s(self.mean));
        let (scale, shift) = (simd.splat_f32s(self.scale), simd.splat_f32s(self.shift));
        relu::<S, RELU>(simd, simd.mul_add_e_f32s(distance, scale, shift))
    }
}

struct Each<const RELU: bool>;

impl<const RELU: bool> Map<3> for Each<RELU> {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [mean, scale, shift]: [S::f32s; 3]) -> S::f32s {
        relu::<S, RELU>(simd, simd.mul_add_e_f32s(simd.sub_f32s(x, mean), scale, shift))
    }
}

struct Inside<const RELU: bool> {
    mean: f32,
    scale: f32,
    shift: f32,
}

impl<const RELU: bool> Map<2> for Inside<RELU> {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [weight, bias]: [S::f32s; 2]) -> S::f32s {
        let Inside { mean, scale, shift } = *self;
        let normalized = Same::<false> { mean, scale, shift }.of(simd, x, []);
        relu::<S, RELU>(simd, simd.mul_add_e_f32s(normalized, weight, bias))
    }
}

struct Write<'a, T> {
    normalizer: &'a Normalizer<'a, T>,
    part: &'a Walk,
    lines: &'a Lines,
    ahead: usize,
    y: &'a mut [T],
}

impl<T: Element> Work for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Write { normalizer, part, lines, ahead, y } = self;
        let short = T::DTYPE != DType::F32 && part.axes[3].extent < STREAM_RUN;
        match normalizer.activation {
            Activation::None if short && normalizer.addend.is_none() => {
                return write_short::<T, S, false>(simd, normalizer, part, lines, y);
            }
            Activation::Relu if short && normalizer.addend.is_none() => {
                return write_short::<T, S, true>(simd, normalizer, part, lines, y);
            }
            _ => {}
        }
        let mut scratch = Scratch::EMPTY;
        for run in part.runs(usize::MAX) {
            let along = lines.along(&run).with(&normalizer.fast, &run);
            let y = &mut y[run.at.data - part.base.data..];
            write_run(simd, normalizer, &run, along, ahead, &mut scratch, y);
        }
        if normalizer.fast.streams(usize::MAX) {
            finish_stream();
        }
    }
}

/// A part of y whose runs are short and not f32: converted a tile at a time.
#[inline(always)]
fn write_short<T: Element, S: Simd, const RELU: bool>(
    simd: S,
    normalizer: &Normalizer<'_, T>,
    part: &Walk,
    lines: &Lines,
    y: &mut [T],
) {
    let (mut wide, mut tile) = (empty_batch(), empty_batch());
    let together = BATCH / part.axes[3].extent;
    let mut runs = part.runs(usize::MAX).peekable();
    while let Some(first) = runs.peek() {
        let at = first.at.data;
        let y = &mut y[at - part.base.data..];
        let count = y.len().min(together * first.len);
        let x = widened(&normalizer.x[at..], count, &mut wide);
        for run in runs.by_ref().take(together) {
            let along = lines.along(&run).with(&normalizer.fast, &run);
            let start = run.at.data - at;
            let sink = Sink { y: &mut tile[start..], len: run.len, stream: false, ahead: 0 };
            along.fill::<S, RELU>(simd, &x[start..], sink);
        }
        T::from_f32s(&tile[..count], &mut y[..count]);
    }
}

/// A run of y, at the start of `y`.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(super) fn write_run<T: Element, S: Simd>(
    simd: S,
    normalizer: &Normalizer<'_, T>,
    run: &Run,
    along: Along<'_>,
    ahead: usize,
    scratch: &mut Scratch,
    y: &mut [T],
) {
    let stream = normalizer.fast.streams(run.len);
    let simple = normalizer.addend.is_none()
        && match normalizer.activation {
            Activation::None => true,
            Activation::Relu => !SMALL,
            _ => false,
        };
    if simple
        && let Some(x) = as_f32(&normalizer.x[run.at.data..])
        && let Some(y) = as_f32_mut(y)
    {
        let sink = Sink { y, len: run.len, stream, ahead };
        return match normalizer.activation {
            Activation::None => along.fill::<S, false>(simd, x, sink),
            _ => along.fill::<S, true>(simd, x, sink),
        };
    }
    let Scratch { x, z } = scratch;
    for start in (0..run.len).step_by(TILE) {
        let run = run.part(start, TILE.min(run.len - start));
        preactivation(simd, normalizer, &run, along.part(start), x, z);
        let z = match normalizer.activation {
            Activation::None => &*z,
            activation => {
                activate(simd, activation, z, x, run.len);
                &*x
            }
        };
        let y = &mut y[start..];
        match as_f32_mut(&mut *y) {
            Some(y) => {
                let sink = Sink { y, len: run.len, stream, ahead: 0 };
                sink.fill(simd, z, [], &Itself);
            }
            None => narrow(z, &mut y[..run.len]),
        }
    }
}

/// What the activation is applied to, in `z`; of a run as long as a tile at most.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(super) fn preactivation<T: Element, S: Simd>(
    simd: S,
    normalizer: &Normalizer<'_, T>,
    run: &Run,
    along: Along<'_>,
    x: &mut Tile,
    z: &mut Tile,
) {
    let values = match as_f32(&normalizer.x[run.at.data..]) {
        Some(values) => values,
        None => {
            widen(run.slice(normalizer.x), x);
            x
        }
    };
    along.fill::<S, false>(simd, values, Sink { y: z, len: run.len, stream: false, ahead: 0 });
    if let Some(addend) = normalizer.addend {
        for (z, a) in z.iter_mut().zip(run.slice(addend)) {
            *z += a.to_f32();
        }
    }
}

/// The activation of the first `len` values, in another tile: selections in place become masked stores,
/// which are slow on AMD's processors (f16 with ReLU had half its speed).
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
fn activate<S: Simd>(simd: S, activation: Activation, z: &Tile, y: &mut Tile, len: usize) {
    match activation {
        Activation::Relu => {
            for (z, y) in registers::<S>(z, y, len) {
                *y = relu::<S, true>(simd, *z);
            }
        }
        Activation::LeakyRelu(slope) => {
            let (zero, slope) = (simd.splat_f32s(0.0), simd.splat_f32s(slope));
            for (z, y) in registers::<S>(z, y, len) {
                let positive = simd.greater_than_f32s(*z, zero);
                *y = simd.select_f32s(positive, *z, simd.mul_f32s(slope, *z));
            }
        }
        activation => {
            let mut wide = [0.0f64; TILE];
            let wide = &mut wide[..len];
            wide.iter_mut().zip(z).for_each(|(wide, &z)| *wide = f64::from(z));
            activation::apply(activation, wide);
            y.iter_mut().zip(&*wide).for_each(|(y, &wide)| *y = wide as f32);
        }
    }
}
