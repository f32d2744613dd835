//! The backward pass of groups that are contiguous and follow each other: sums and dx of one after the
//! other, so that the second read is from the nearest cache. The gradients of parameters that vary
//! within groups are summed on the way.

use super::super::grads::{Differentiator, Outputs, Sums};
use super::super::walk::{Indices, Walk};
use super::apply::{STREAM_RUN, is_safe, is_small};
use super::columns;
use super::grad_sums::Products;
use super::grads::Slope;
use super::lanes::{
    BATCH, Map, Sink, TILE, Terms, Values, Work, as_f32_mut, empty_batch, finish_stream,
    prefetch_all, put, sums, target, vectorized, widened,
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
    params: &mut Params,
    outputs: &mut Outputs<'_, T>,
    other: impl Fn(&Walk, &mut Outputs<'_, T>) -> Sums,
) -> Option<Vec<Sums>> {
    let normalizer = &differentiator.normalizer;
    let plan = &normalizer.fast;
    if !plan.is_possible::<T>() || normalizer.activation != Activation::None {
        return None;
    }
    let groups = &Groups::of(part)?;
    if T::DTYPE != DType::F32 && groups.len() > TOGETHER {
        return None;
    }
    let mut sums = Vec::with_capacity(part.keys());
    vectorized(Backward {
        differentiator,
        groups,
        centered,
        params,
        outputs,
        other,
        sums: &mut sums,
    });
    Some(sums)
}

struct Backward<'a, 'o, T, F> {
    differentiator: &'a Differentiator<'a, T>,
    groups: &'a Groups,
    centered: bool,
    params: &'a mut Params,
    outputs: &'a mut Outputs<'o, T>,
    other: F,
    sums: &'a mut Vec<Sums>,
}

impl<T: Element, F: Fn(&Walk, &mut Outputs<'_, T>) -> Sums> Work for Backward<'_, '_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Backward { differentiator, groups, centered, params, outputs, other, sums } = self;
        let Differentiator { normalizer, dy, .. } = differentiator;
        let weight = normalizer.fast.inside().map(|[weight, _]| weight);
        let len = groups.len();
        let stream = normalizer.fast.streams(len);
        let (mut wide_x, mut wide_g, mut tile) = (empty_batch(), empty_batch(), empty_batch());
        for (at, some) in groups.batches((TOGETHER / len).clamp(1, GROUPS)) {
            let count = some * len;
            let (x, dy) = (&normalizer.x[at.data..], &dy[at.data..]);
            let (values, g) = (widened(x, count, &mut wide_x), widened(dy, count, &mut wide_g));
            let mut all = Batch::new(differentiator, groups, at, some);
            for i in 0..some {
                for run in groups.runs(at, i) {
                    let from = run.at.data - at.data;
                    let (x, g) = (&values[from..], &g[from..]);
                    let Some(weight) = weight else {
                        let [g, g_xhat] = all.terms(i).sum(simd, x, g, run.len);
                        (all.g[i], all.g_xhat[i]) = (g, g_xhat);
                        continue;
                    };
                    let param = run.at.param;
                    let sums = if run.step.param == 1 {
                        let weight = &weight[param..];
                        params.add_run(simd, [x, g, weight], run.len, param, &all.terms(i))
                    } else {
                        let weight = f64::from(weight[param]);
                        let sums = all.terms(i).sum(simd, x, g, run.len);
                        params.add(param, sums);
                        sums.map(|sum| weight * sum)
                    };
                    all.g[i] += sums[0];
                    all.g_xhat[i] += sums[1];
                }
            }
            all.find_slopes(centered);
            let dx = &mut outputs.dx[at.data - groups.base.data..];
            let long = count > TOGETHER;
            let to = match long {
                true => as_f32_mut(&mut *dx).expect("long groups of f32 alone"),
                false => target(dx, stream, &mut tile),
            };
            for i in 0..some {
                if !long {
                    prefetch_all(&x[i * len..], count, len);
                    prefetch_all(&dy[i * len..], count, len);
                }
                let slope = all.slope(i);
                for run in groups.runs(at, i) {
                    let from = run.at.data - at.data;
                    let (x, g, y) = (&values[from..], &g[from..], &mut to[from..]);
                    let stream = long && normalizer.fast.streams_gradient(run.len, STREAM_RUN);
                    let sink = Sink { y, len: run.len, stream, ahead: if long { len } else { 0 } };
                    match weight {
                        None => sink.fill(simd, x, [g], &slope),
                        Some(weight) if run.step.param == 1 => {
                            sink.fill(simd, x, [g, &weight[run.at.param..]], &slope);
                        }
                        Some(weight) => {
                            let weight = weight[run.at.param];
                            sink.fill(simd, x, [g], &Weighted { weight, slope: &slope });
                        }
                    }
                }
            }
            if !long {
                put(simd, &tile, dx, count, stream);
            }
            for i in 0..some {
                sums.push(match all.hold[i] {
                    true => Sums { count: len as f64, u: all.g[i], u_xhat: all.g_xhat[i] },
                    false => {
                        params.lost = true;
                        let dx = &mut dx[i * len..][..len];
                        other(&groups.group(at, i), &mut Outputs { dx, daddend: None })
                    }
                });
            }
        }
        finish_stream();
    }
}

/// u and u · xhat of x, g and the weight, u being their product.
struct WeightedProducts<'a>(&'a Products);

impl Terms<3, 2> for WeightedProducts<'_> {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [x, g, w]: [S::f32s; 3], sums: [S::f32s; 2]) -> [S::f32s; 2] {
        self.0.add(simd, [x, simd.mul_f32s(g, w)], sums)
    }
}

impl Products {
    /// Of the first `len` values: Σg and Σg·xhat.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, x: &[f32], g: &[f32], len: usize) -> [f64; 2] {
        let mut totals = [0.0; 2];
        for start in (0..len).step_by(TILE) {
            let values = [x, g].map(|values| Values::new(&values[start..], TILE.min(len - start)));
            add_to(&mut totals, sums(simd, values, [self.mean, 0.0], self));
        }
        totals
    }
}

#[inline(always)]
fn add_to(totals: &mut [f64; 2], sums: [f32; 2]) {
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total += f64::from(sum);
    }
}

/// Σg and Σg·xhat of parameters that vary within groups.
pub(in super::super) struct Params {
    wanted: bool,
    sums: columns::Sums<2>,
    /// Whether a group's are not all in them.
    lost: bool,
}

impl Params {
    /// Of so many, 0 if they are not wanted.
    pub fn new(params: usize) -> Params {
        Params { wanted: params > 0, sums: columns::Sums::new(params), lost: false }
    }

    /// `None` if f32 did not hold all of them. Of how many elements they are, nobody asks.
    pub fn finish(self) -> Option<Vec<Sums>> {
        let [g, g_xhat] = self.sums.finish();
        let sums = g.into_iter().zip(g_xhat);
        let sums: Vec<_> = sums.map(|(u, u_xhat)| Sums { count: 0.0, u, u_xhat }).collect();
        let lost = self.lost || sums.iter().any(Sums::is_not_finite);
        (!(self.wanted && lost)).then_some(sums)
    }

    /// Those of one parameter.
    #[inline(always)]
    fn add(&mut self, param: usize, sums: [f64; 2]) {
        if self.wanted {
            self.sums.add_to(param, sums);
        }
    }

    /// Those of neighbouring parameters, the first of which is `param`, from as many x, g and weights.
    /// Gives Σγg and Σγg·xhat of the run.
    #[inline(always)]
    fn add_run<S: Simd>(
        &mut self,
        simd: S,
        all: [&[f32]; 3],
        len: usize,
        param: usize,
        terms: &Products,
    ) -> [f64; 2] {
        let mut totals = [0.0; 2];
        for start in (0..len).step_by(TILE) {
            let (all, some) = (all.map(|values| &values[start..]), TILE.min(len - start));
            let values = all.map(|values| Values::new(values, some));
            let fill = [terms.mean, 0.0, 0.0];
            add_to(&mut totals, sums(simd, values, fill, &WeightedProducts(terms)));
            if self.wanted {
                // While they are in a core's first cache.
                self.sums.add_piece(simd, param + start, [all[0], all[1]], some, terms);
            }
        }
        self.sums.end_row();
        totals
    }
}

/// Groups that are worked on together. In arrays, so that what is computed once per group is computed
/// for several in one register.
struct Batch {
    mean: [f64; GROUPS],
    rstd: [f64; GROUPS],
    /// As far as it does not vary within groups.
    weight: [f64; GROUPS],
    /// How many elements the statistics are of.
    count: [f64; GROUPS],
    /// Σg, or Σγg if the weight varies within groups.
    g: [f64; GROUPS],
    /// The same times xhat.
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
        let normalizer = &differentiator.normalizer;
        let varies = normalizer.fast.inside().is_some();
        let [mut mean, mut rstd, g, g_xhat] = [[0.0; GROUPS]; 4];
        let [mut weight, mut count] = [[1.0; GROUPS]; 2];
        for i in 0..some {
            let at = at.along(groups.each.stride, i);
            [mean[i], rstd[i]] = differentiator.table.of(at.stat);
            weight[i] = if varies { 1.0 } else { normalizer.weight(at.param) };
            count[i] = differentiator.moments[at.key].count;
        }
        let [level, scale, slope, shift] = [[0.0; GROUPS]; 4];
        let hold = [false; GROUPS];
        Batch { mean, rstd, weight, count, g, g_xhat, level, scale, slope, shift, hold }
    }

    /// What is summed of the `i`th group.
    #[inline(always)]
    fn terms(&self, i: usize) -> Products {
        let (mean, scale) = (self.mean[i] as f32, self.rstd[i] as f32);
        let shift = ((f64::from(mean) - self.mean[i]) * self.rstd[i]) as f32;
        Products { mean, scale, shift }
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

/// A slope of g times a weight.
struct Weighted<'a> {
    weight: f32,
    slope: &'a Slope,
}

impl Map<1> for Weighted<'_> {
    const AS_X: usize = 1;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [g]: [S::f32s; 1]) -> S::f32s {
        let u = simd.mul_f32s(g, simd.splat_f32s(self.weight));
        Map::<1>::of(self.slope, simd, x, [u])
    }
}
