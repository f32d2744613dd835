//! The backward pass of groups that are contiguous and follow each other: sums and dx of one after the
//! other, so that the second read is from the nearest cache.

use super::super::grads::{Differentiator, Outputs, Sums};
use super::super::walk::{Indices, Walk};
use super::apply::{is_safe, is_small};
use super::grads::{Products, Slope};
use super::lanes::{
    BATCH, Sink, TILE, Values, Work, as_f32_mut, empty_batch, finish_stream, prefetch_all, put,
    sums, target, vectorized, widened,
};
use super::rows::{GROUPS, Groups};
use crate::{Activation, DType, Element};
use pulp::Simd;

/// Elements of x that are worked on together: they, those of dy, what is written, and what is fetched
/// meanwhile for the next ones stay in a core's first cache.
const TOGETHER: usize = BATCH / 2;

/// Writes a part of dx that is whole groups, and gives their sums; `None` if their elements are not
/// contiguous, or not for lanes. A group whose numbers f32 does not hold is left to `other`.
pub(in super::super) fn backward<T: Element>(
    differentiator: &Differentiator<'_, T>,
    part: &Walk,
    centered: bool,
    outputs: &mut Outputs<'_, T>,
    other: impl Fn(&Walk, &mut Outputs<'_, T>) -> Sums,
) -> Option<Vec<Sums>> {
    let normalizer = &differentiator.normalizer;
    let plan = &normalizer.fast;
    let simple = normalizer.activation == Activation::None && plan.inside().is_none();
    if !plan.is_possible() || !simple {
        return None;
    }
    let groups = &Groups::of(part)?;
    if T::DTYPE != DType::F32 && groups.len() > TOGETHER {
        return None;
    }
    let mut sums = Vec::with_capacity(part.keys());
    vectorized(Backward { differentiator, groups, centered, outputs, other, sums: &mut sums });
    Some(sums)
}

struct Backward<'a, 'o, T, F> {
    differentiator: &'a Differentiator<'a, T>,
    groups: &'a Groups,
    centered: bool,
    outputs: &'a mut Outputs<'o, T>,
    other: F,
    sums: &'a mut Vec<Sums>,
}

impl<T: Element, F: Fn(&Walk, &mut Outputs<'_, T>) -> Sums> Work for Backward<'_, '_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Backward { differentiator, groups, centered, outputs, other, sums } = self;
        let Differentiator { normalizer, dy, .. } = differentiator;
        let len = groups.len();
        let stream = normalizer.fast.streams(len);
        let (mut wide_x, mut wide_g, mut tile) = (empty_batch(), empty_batch(), empty_batch());
        for (at, some) in groups.batches((TOGETHER / len).clamp(1, GROUPS)) {
            let count = some * len;
            let (x, dy) = (&normalizer.x[at.data..], &dy[at.data..]);
            let (values, g) = (widened(x, count, &mut wide_x), widened(dy, count, &mut wide_g));
            let mut all = Batch::new(differentiator, groups, at, some);
            for i in 0..some {
                all.sum(simd, i, &values[i * len..], &g[i * len..], len);
            }
            all.find_slopes(centered);
            let dx = &mut outputs.dx[at.data - groups.base.data..];
            if count > TOGETHER {
                let y = as_f32_mut(&mut *dx).expect("long groups of f32 alone");
                let sink = Sink { y, len, stream, ahead: len };
                sink.fill(simd, values, [g], &all.slope(0));
            } else {
                let to = target(dx, stream, &mut tile);
                for i in 0..some {
                    prefetch_all(&x[i * len..], count, len);
                    prefetch_all(&dy[i * len..], count, len);
                    let y = &mut to[i * len..];
                    let sink = Sink { y, len, stream: false, ahead: 0 };
                    sink.fill(simd, &values[i * len..], [&g[i * len..]], &all.slope(i));
                }
                put(simd, &tile, dx, count, stream);
            }
            for i in 0..some {
                sums.push(match all.hold[i] {
                    true => Sums { count: len as f64, u: all.g[i], u_xhat: all.g_xhat[i] },
                    false => {
                        let dx = &mut dx[i * len..][..len];
                        other(&groups.group(at, i), &mut Outputs { dx, daddend: None })
                    }
                });
            }
        }
        if stream {
            finish_stream();
        }
    }
}

/// Groups that are worked on together. In arrays, so that what is computed once per group is computed
/// for several in one register.
struct Batch {
    mean: [f64; GROUPS],
    rstd: [f64; GROUPS],
    weight: [f64; GROUPS],
    /// How many elements the statistics are of.
    count: [f64; GROUPS],
    /// Σg.
    g: [f64; GROUPS],
    /// Σg·xhat.
    g_xhat: [f64; GROUPS],
    level: [f32; GROUPS],
    scale: [f32; GROUPS],
    slope: [f32; GROUPS],
    shift: [f32; GROUPS],
    /// Whether f32 holds them.
    hold: [bool; GROUPS],
}

impl Batch {
    #[inline(always)]
    fn new<T: Element>(
        differentiator: &Differentiator<'_, T>,
        groups: &Groups,
        at: Indices,
        some: usize,
    ) -> Batch {
        let [mut mean, mut rstd, g, g_xhat] = [[0.0; GROUPS]; 4];
        let [mut weight, mut count] = [[1.0; GROUPS]; 2];
        for i in 0..some {
            let at = at.along(groups.each.stride, i);
            [mean[i], rstd[i]] = differentiator.table.of(at.stat);
            weight[i] = differentiator.normalizer.weight(at.param);
            count[i] = differentiator.moments[at.key].count;
        }
        let [level, scale, slope, shift] = [[0.0; GROUPS]; 4];
        let hold = [false; GROUPS];
        Batch { mean, rstd, weight, count, g, g_xhat, level, scale, slope, shift, hold }
    }

    /// The sums of the `i`th group.
    #[inline(always)]
    fn sum<S: Simd>(&mut self, simd: S, i: usize, x: &[f32], g: &[f32], len: usize) {
        let (mean, scale) = (self.mean[i] as f32, self.rstd[i] as f32);
        let shift = ((f64::from(mean) - self.mean[i]) * self.rstd[i]) as f32;
        let terms = Products { mean, scale, shift };
        for start in (0..len).step_by(TILE) {
            let some = TILE.min(len - start);
            let values = [Values::new(&x[start..], some), Values::new(&g[start..], some)];
            let [g, g_xhat] = sums(simd, values, [mean, 0.0], &terms);
            self.g[i] += f64::from(g);
            self.g_xhat[i] += f64::from(g_xhat);
        }
    }

    /// From the sums, as `Slopes` has them.
    #[inline(always)]
    fn find_slopes(&mut self, centered: bool) {
        for i in 0..GROUPS {
            let share = 1.0 / self.count[i];
            let level = if centered { self.g[i] * share } else { 0.0 };
            let scale = self.weight[i] * self.rstd[i];
            let slope = -self.rstd[i] * scale * self.g_xhat[i] * share;
            let rounded = [level, self.mean[i]].map(|v| v - f64::from(v as f32));
            let shift = -rounded[1] * slope - rounded[0] * scale;
            self.level[i] = level as f32;
            self.scale[i] = scale as f32;
            self.slope[i] = slope as f32;
            self.shift[i] = shift as f32;
            self.hold[i] = is_safe(scale)
                & is_safe(slope)
                & is_safe(self.rstd[i])
                & is_small(level)
                & is_small(self.mean[i])
                & is_small(shift);
        }
    }

    #[inline(always)]
    fn slope(&self, i: usize) -> Slope {
        Slope {
            level: self.level[i],
            scale: self.scale[i],
            mean: self.mean[i] as f32,
            slope: self.slope[i],
            shift: self.shift[i],
        }
    }
}
