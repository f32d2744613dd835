//! The order in which the host visits a view: as the elements lie in memory, run by run.

use super::parallel::BLOCK;
use crate::Element;
use crate::problem::Problem;
use crate::view::{View, sort_axes};
use std::ops::Range;

/// Elements of x (512 KiB of f32) that a core's cache still holds when a second pass reads them.
const RESIDENT: usize = 1 << 17;

/// Elements of x (8 MiB of f32) that the cache which cores share still holds when a second pass reads
/// them.
const CACHED: usize = 1 << 21;

/// Elements of groups that are spread over a batch and taken together: 128 KiB of f32, and as many that
/// are fetched meanwhile, stay in a core's cache. 8×256×32×32 has 43 % of a copy's speed so; 28 % with
/// twice as many and nothing fetched meanwhile.
const SPREAD: usize = 1 << 15;

/// Elements that a piece of a spread group has at least: each has costs of its own. In pieces of 490,
/// 64×512×7×7 was slower than in two passes.
const PIECE: usize = 1 << 10;

/// A position in each operand, or a stride.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Indices {
    pub data: usize,
    pub stat: usize,
    pub param: usize,
    pub mask: usize,
    /// Of what a reduction gives.
    pub key: usize,
}

impl Indices {
    /// `n` steps on.
    pub fn along(self, stride: Indices, n: usize) -> Indices {
        Indices {
            data: self.data + n * stride.data,
            stat: self.stat + n * stride.stat,
            param: self.param + n * stride.param,
            mask: self.mask + n * stride.mask,
            key: self.key + n * stride.key,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub extent: usize,
    pub stride: Indices,
}

impl Axis {
    pub const NONE: Axis =
        Axis { extent: 1, stride: Indices { data: 0, stat: 0, param: 0, mask: 0, key: 0 } };

    /// Whether a reduction sums along this axis.
    pub fn is_reduced(&self) -> bool {
        self.stride.key == 0
    }
}

/// A view, or a box cut out of one, with its axes in the order of memory.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub axes: [Axis; 4],
    pub base: Indices,
}

/// The strides by which groups are numbered.
pub(super) fn group_strides(view: &View) -> [u32; 4] {
    [view.extent[1], 1, 0, 0]
}

impl Walk {
    /// All operands of a problem, and `key` as strides of what a reduction gives.
    pub fn new(problem: &Problem, key: [u32; 4]) -> Walk {
        let view = &problem.view;
        let param = if problem.weight || problem.bias { view.param } else { [0; 4] };
        Walk::with_strides(problem, view.stat, param, key)
    }

    /// Only what statistics need, which lets more axes be one.
    pub fn of_groups(problem: &Problem) -> Walk {
        Walk::with_strides(problem, [0; 4], [0; 4], group_strides(&problem.view))
    }

    fn with_strides(problem: &Problem, stat: [u32; 4], param: [u32; 4], key: [u32; 4]) -> Walk {
        let view = &problem.view;
        let mask = if problem.masked { view.mask } else { [0; 4] };
        let mut sorted = [0, 1, 2, 3].map(|d| Axis {
            extent: view.extent[d] as usize,
            stride: Indices {
                data: view.data[d] as usize,
                stat: stat[d] as usize,
                param: param[d] as usize,
                mask: mask[d] as usize,
                key: key[d] as usize,
            },
        });
        sort_axes(&mut sorted, |axis| std::cmp::Reverse(axis.stride.data));
        Walk::merged(sorted)
    }

    /// Of axes in the order of memory; those that all operands step through as one become one.
    fn merged(sorted: [Axis; 4]) -> Walk {
        // Innermost last.
        let (mut axes, mut free) = ([Axis::NONE; 4], 4);
        for axis in sorted.into_iter().rev().filter(|axis| axis.extent != 1) {
            if let Some(inner) = axes.get_mut(free)
                && Indices::default().along(inner.stride, inner.extent) == axis.stride
            {
                inner.extent *= axis.extent;
            } else {
                free -= 1;
                axes[free] = axis;
            }
        }
        Walk { axes, base: Indices::default() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.axes.iter().map(|axis| axis.extent).product()
    }

    /// Number of keys from the first to the last.
    pub fn keys(&self) -> usize {
        1 + self.axes.iter().map(|axis| (axis.extent - 1) * axis.stride.key).sum::<usize>()
    }

    /// The statistics from the first to the last.
    pub fn stats(&self) -> Range<usize> {
        let last = self.axes.iter().map(|axis| (axis.extent - 1) * axis.stride.stat).sum::<usize>();
        self.base.stat..self.base.stat + last + 1
    }

    /// The part of it within `range` along `axis`.
    pub fn cut(&self, axis: usize, range: Range<usize>) -> Walk {
        let mut part = self.clone();
        part.base = part.base.along(part.axes[axis].stride, range.start);
        part.axes[axis].extent = range.len();
        part
    }

    /// All parts of `len` along `axis`, the last one maybe shorter.
    pub fn cuts(&self, axis: usize, len: usize) -> impl Iterator<Item = Walk> {
        let extent = self.axes[axis].extent;
        (0..extent).step_by(len).map(move |at| self.cut(axis, at..extent.min(at + len)))
    }

    /// Contiguous boxes in the order of memory, of at most `limit` elements.
    pub fn parts(&self, limit: usize) -> Vec<Walk> {
        let mut parts = vec![self.clone()];
        let mut slice = self.len();
        for (d, axis) in self.axes.iter().enumerate() {
            if slice <= limit {
                break;
            }
            slice /= axis.extent;
            let len = (limit / slice).max(1);
            parts = parts.iter().flat_map(|part| part.cuts(d, len)).collect();
        }
        parts
    }

    /// Contiguous parts of whole groups, each small enough to be read again from a core's cache, in
    /// the order of memory. `None` where groups are long or all lie between each other.
    pub fn resident_parts(&self) -> Option<Vec<Walk>> {
        self.whole_groups(BLOCK, RESIDENT)
    }

    /// The same, as long as they may be: for what has its costs by the part.
    pub fn large_resident_parts(&self) -> Option<Vec<Walk>> {
        self.whole_groups(RESIDENT / 2, RESIDENT)
    }

    /// Contiguous parts of whole groups, each small enough to be read again from the cache that cores
    /// share, or of one group. `None` where all groups lie between each other.
    pub fn cached_parts(&self) -> Option<Vec<Walk>> {
        self.whole_groups(CACHED, usize::MAX)
    }

    /// Contiguous parts of about `len` elements, but of whole groups, of which none may be longer than
    /// `longest`. Groups that lie between each other count as one.
    fn whole_groups(&self, len: usize, longest: usize) -> Option<Vec<Walk>> {
        let mut parts = vec![self.clone()];
        let mut slice = self.len();
        for (d, axis) in self.axes.iter().enumerate() {
            if slice <= len || self.axes[d..].iter().all(Axis::is_reduced) {
                break;
            }
            if axis.extent > 1 && axis.is_reduced() {
                break;
            }
            slice /= axis.extent;
            let count = (len / slice).max(1);
            parts = parts.iter().flat_map(|part| part.cuts(d, count)).collect();
        }
        // Groups that are not yet apart must not lie between each other, unless there are several such.
        let inner = self.axes.iter().skip_while(|axis| axis.extent == 1 || !axis.is_reduced());
        let apart = inner.clone().all(|axis| axis.extent == 1 || axis.is_reduced());
        ((apart || parts.len() > 1) && slice <= longest.max(len)).then_some(parts)
    }

    /// Parts of whole groups that are spread over an outermost axis (the samples of a batch): ranges of
    /// groups, each of which lies in one piece per sample and is small enough to be read again from a
    /// core's cache. `None` where groups lie otherwise, are long, or have short pieces.
    pub fn spread_parts(&self) -> Option<Spread> {
        let samples = self.axes.iter().position(|axis| axis.extent > 1)?;
        let [outer, groups, inner @ ..] = &self.axes[samples..] else { return None };
        if !outer.is_reduced() || groups.is_reduced() || !inner.iter().all(Axis::is_reduced) {
            return None;
        }
        let piece: usize = inner.iter().map(|axis| axis.extent).product();
        let len = outer.extent * piece;
        let some = (SPREAD / len).clamp(1, groups.extent);
        let fits = len <= RESIDENT && some * piece >= PIECE;
        fits.then(|| Spread { samples, parts: self.cuts(samples + 1, some).collect() })
    }

    /// The same with neither statistics nor parameters, so that more axes are one.
    pub fn of_data_and_keys(&self) -> Walk {
        let without = |at: Indices| Indices { stat: 0, param: 0, ..at };
        let axes = self.axes.map(|axis| Axis { stride: without(axis.stride), ..axis });
        Walk { base: without(self.base), ..Walk::merged(axes) }
    }

    /// The same with a key for each parameter.
    pub fn by_param(&self) -> Walk {
        let keyed = |at: Indices| Indices { key: at.param, ..at };
        let axes = self.axes.map(|axis| Axis { stride: keyed(axis.stride), ..axis });
        Walk { axes, base: keyed(self.base) }
    }

    /// Whether runs are as long as the innermost axis, and slices of every operand; otherwise they are
    /// of one element each. A run of several keys is masked as a whole.
    pub fn is_sliced(&self) -> bool {
        let Indices { data, stat, param, mask, key } = self.axes[3].stride;
        data <= 1 && stat <= 1 && param <= 1 && mask <= 1 && key <= 1 && mask & key == 0
    }

    /// All elements, in runs of at most `longest`.
    pub fn runs(&self, longest: usize) -> Runs<'_> {
        let (step, longest) =
            if self.is_sliced() { (self.axes[3].stride, longest) } else { (Indices::default(), 1) };
        Runs { walk: self, index: [0; 4], at: [self.base; 4], left: self.len(), step, longest }
    }
}

/// Parts that each lie in one piece per sample.
pub(super) struct Spread {
    /// The axis of samples.
    samples: usize,
    pub parts: Vec<Walk>,
}

impl Spread {
    /// The pieces of a part.
    pub fn pieces(&self, part: &Walk) -> impl Iterator<Item = Walk> {
        part.cuts(self.samples, 1)
    }

    /// How long all pieces of all parts are, in the order of memory.
    pub fn lens(&self) -> impl Iterator<Item = usize> + Clone {
        let samples = self.parts[0].axes[self.samples].extent;
        let of_sample = self.parts.iter().map(move |part| part.len() / samples);
        std::iter::repeat_n(of_sample, samples).flatten()
    }

    /// What belongs to each part, of what belongs to all pieces in the order of memory.
    pub fn by_part<P>(&self, pieces: Vec<P>) -> Vec<(&Walk, Vec<P>)> {
        let mut all: Vec<_> = self.parts.iter().map(|part| (part, Vec::new())).collect();
        let parts = all.len();
        pieces.into_iter().enumerate().for_each(|(i, piece)| all[i % parts].1.push(piece));
        all
    }
}

/// Elements side by side in memory, whose other operands are each the same or side by side too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub len: usize,
    pub at: Indices,
    /// 0 or 1 each.
    pub step: Indices,
}

impl Run {
    /// `len` elements from the `start`th on.
    pub fn part(&self, start: usize, len: usize) -> Run {
        Run { len, at: self.at.along(self.step, start), ..*self }
    }

    /// The run's part of a tensor.
    pub fn slice<'t, T>(&self, tensor: &'t [T]) -> &'t [T] {
        &tensor[self.at.data..][..self.len]
    }

    /// Which elements count, where they do not all.
    pub fn counts<'m>(&self, mask: Option<&'m [u8]>) -> Counts<'m> {
        let Some(mask) = mask else { return Counts::All };
        match self.step.mask {
            0 if mask[self.at.mask] == 0 => Counts::None,
            0 => Counts::All,
            _ => Counts::Some(&mask[self.at.mask..][..self.len]),
        }
    }

    /// Puts `zero` where an element does not count.
    pub fn clear<V: Copy>(&self, mask: Option<&[u8]>, values: &mut [V], zero: V) {
        match self.counts(mask) {
            Counts::All => {}
            Counts::None => values.fill(zero),
            Counts::Some(mask) => {
                for (value, _) in values.iter_mut().zip(mask).filter(|(_, counts)| **counts == 0) {
                    *value = zero;
                }
            }
        }
    }
}

/// The elements of a run that a mask counts.
pub(super) enum Counts<'m> {
    All,
    None,
    /// Those that are not 0.
    Some(&'m [u8]),
}

impl Counts<'_> {
    /// How many of `len` elements.
    pub fn number(&self, len: usize) -> usize {
        match self {
            Counts::All => len,
            Counts::None => 0,
            Counts::Some(mask) => mask.iter().filter(|&&counts| counts != 0).count(),
        }
    }

    /// The first of the values that counts.
    pub fn first<T: Element>(&self, values: &[T]) -> Option<f64> {
        let at = match self {
            Counts::All => 0,
            Counts::None => return None,
            Counts::Some(mask) => mask.iter().position(|&counts| counts != 0)?,
        };
        values.get(at).map(|v| v.widen())
    }
}

pub(super) struct Runs<'w> {
    walk: &'w Walk,
    index: [usize; 4],
    /// The position up to each axis, those inside it at their start.
    at: [Indices; 4],
    left: usize,
    step: Indices,
    longest: usize,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    #[inline]
    fn next(&mut self) -> Option<Run> {
        if self.left == 0 {
            return None;
        }
        let inner = &self.walk.axes[3];
        let len = (inner.extent - self.index[3]).min(self.left).min(self.longest);
        let run = Run { len, at: self.at[3], step: self.step };
        self.left -= len;
        self.index[3] += len;
        if self.index[3] < inner.extent {
            self.at[3] = run.at.along(inner.stride, len);
        } else {
            self.carry();
        }
        Some(run)
    }
}

impl Runs<'_> {
    /// To the start of the next innermost row.
    fn carry(&mut self) {
        for d in (0..3).rev() {
            self.index[d + 1] = 0;
            self.index[d] += 1;
            if self.index[d] < self.walk.axes[d].extent {
                let at = self.at[d].along(self.walk.axes[d].stride, 1);
                self.at[d..].fill(at);
                return;
            }
        }
    }
}

/// Two tables along a run.
#[derive(Clone, Copy)]
pub(super) enum Pair<'t> {
    Same([f64; 2]),
    Each([&'t [f64]; 2]),
}

impl<'t> Pair<'t> {
    /// `len` entries from `at` on, or one for all.
    pub fn new(tables: [&'t [f64]; 2], at: usize, step: usize, len: usize) -> Self {
        match step {
            0 => Pair::Same(tables.map(|table| table[at])),
            _ => Pair::Each(tables.map(|table| &table[at..][..len])),
        }
    }

    /// Every value `v` becomes `f(v, a, b)`.
    #[inline(always)]
    pub fn map(self, values: &mut [f64], f: impl Fn(f64, f64, f64) -> f64) {
        match self {
            Pair::Same([a, b]) => values.iter_mut().for_each(|v| *v = f(*v, a, b)),
            Pair::Each([a, b]) => {
                for ((v, &a), &b) in values.iter_mut().zip(a).zip(b) {
                    *v = f(*v, a, b);
                }
            }
        }
    }

    /// Every value `v` becomes `f(o, a, b)` of another one, `o`.
    #[inline(always)]
    pub fn zip<O: Copy>(
        self,
        values: &mut [f64],
        others: &[O],
        f: impl Fn(f64, O, f64, f64) -> f64,
    ) {
        match self {
            Pair::Same([a, b]) => {
                values.iter_mut().zip(others).for_each(|(v, &o)| *v = f(*v, o, a, b));
            }
            Pair::Each([a, b]) => {
                for (((v, &o), &a), &b) in values.iter_mut().zip(others).zip(a).zip(b) {
                    *v = f(*v, o, a, b);
                }
            }
        }
    }
}
