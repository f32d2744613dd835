//! The backward pass; twin of `shaders/epilogue_grad.wgsl`, `shaders/sums_row.wgsl` and
//! `shaders/input_grad.wgsl`.
//!
//! With g the gradient behind the epilogue and γ the weight,
//! `dx = rstd · (γg − Σγg/n − xhat · Σγg·xhat/n)`, `dbias = Σ g`, `dweight = Σ g·xhat`.

use super::apply::{self, Normalizer, TILE, Table, Tile};
use super::parallel;
use super::reduce::{self, Merge};
use super::stats::{self, Moments};
use super::walk::{Counts, Indices, Pair, Run, Walk, group_strides};
use super::{activation, fast};
use crate::problem::Problem;
use crate::{Activation, Element};
use std::ops::Range;

/// How many elements, Σu and Σu·xhat, u being g or γg.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub count: f64,
    pub u: f64,
    pub u_xhat: f64,
}

impl Sums {
    pub fn is_not_finite(&self) -> bool {
        !(self.u.is_finite() && self.u_xhat.is_finite())
    }
}

impl Merge for Sums {
    fn merge(self, other: Sums) -> Sums {
        Sums {
            count: self.count + other.count,
            u: self.u + other.u,
            u_xhat: self.u_xhat + other.u_xhat,
        }
    }
}

/// The mean terms of dx, of consecutive groups.
pub(super) struct MeanTerms {
    first: usize,
    /// Σγg/n, 0 where nothing is centered.
    u: Vec<f64>,
    /// Σγg·xhat/n.
    u_xhat: Vec<f64>,
}

impl MeanTerms {
    /// From `(n, Σγg, Σγg·xhat)` of the groups from the `first` on.
    fn new(first: usize, centered: bool, sums: impl Iterator<Item = Sums>) -> Self {
        let mean = |sum: f64, n: f64| if n == 0.0 { 0.0 } else { sum / n };
        let means =
            |s: Sums| (if centered { mean(s.u, s.count) } else { 0.0 }, mean(s.u_xhat, s.count));
        let (u, u_xhat) = sums.map(means).unzip();
        MeanTerms { first, u, u_xhat }
    }

    /// Both of a statistic.
    pub fn of(&self, stat: usize) -> [f64; 2] {
        [self.u[stat - self.first], self.u_xhat[stat - self.first]]
    }

    fn along(&self, run: &Run) -> Pair<'_> {
        Pair::new([&self.u, &self.u_xhat], run.at.stat - self.first, run.step.stat, run.len)
    }
}

/// Strips of a tensor that each have sums of all parameters: enough for the threads of a large machine to
/// share, whatever their number is.
const STRIPS: usize = 64;

/// What is written: contiguous parts of dx, and of the addend's gradient where it is not dy.
pub(super) struct Outputs<'a, T> {
    pub dx: &'a mut [T],
    pub daddend: Option<&'a mut [T]>,
}

impl<'a, T> Outputs<'a, T> {
    /// Pieces of these lengths, one behind the other.
    fn split(self, lens: impl Iterator<Item = usize> + Clone) -> Vec<Outputs<'a, T>> {
        let dx = parallel::split(self.dx, lens.clone());
        let mut daddend = self.daddend.map(|d| parallel::split(d, lens).into_iter());
        let mut next = || daddend.as_mut().and_then(Iterator::next);
        dx.into_iter().map(|dx| Outputs { dx, daddend: next() }).collect()
    }

    /// Some of them.
    pub fn part(&mut self, range: Range<usize>) -> Outputs<'_, T> {
        let daddend = self.daddend.as_deref_mut();
        Outputs { dx: &mut self.dx[range.clone()], daddend: daddend.map(|d| &mut d[range]) }
    }
}

/// The operands of a backward pass.
pub(super) struct Differentiator<'a, T> {
    pub normalizer: Normalizer<'a, T>,
    pub dy: &'a [T],
    /// All statistics, and what they normalize with.
    pub moments: Vec<Moments>,
    pub table: Table,
}

impl<T: Element> Differentiator<'_, T> {
    /// xhat and g of a run; 0 where an element does not count.
    fn evaluate(&self, run: &Run, xhat: &mut [f64], g: &mut [f64]) {
        let normalizer = &self.normalizer;
        normalizer.normalize(run, &self.table, xhat);
        g.iter_mut().zip(run.slice(self.dy)).for_each(|(g, &dy)| *g = dy.widen());
        if normalizer.activation != Activation::None {
            let mut tile: Tile = [0.0; TILE];
            let z = &mut tile[..run.len];
            z.copy_from_slice(xhat);
            normalizer.complete(run, z);
            activation::chain(normalizer.activation, z, g);
        }
        run.clear(normalizer.mask, xhat, 0.0);
        run.clear(normalizer.mask, g, 0.0);
    }

    /// g becomes γg.
    fn weigh(&self, run: &Run, g: &mut [f64]) {
        if let Some(affine) = self.normalizer.affine(run) {
            affine.map(g, |g, weight, _| g * weight);
        }
    }

    /// The sums of every key of `walk`, with γ in them if they are `weighted`.
    pub fn sums(&self, walk: &Walk, weighted: bool) -> Vec<Sums> {
        reduce::reduce(walk, |block| {
            let Some(mut sums) = fast::block_sums(self, block, weighted) else {
                return self.exact_sums(block, weighted);
            };
            // Sums in f32 may have overflowed; what a key has must not depend on its neighbours.
            if sums.iter().any(Sums::is_not_finite) {
                let exact = self.exact_sums(block, weighted);
                let both = sums.iter_mut().zip(exact);
                both.filter(|(sums, _)| sums.is_not_finite()).for_each(|(sums, e)| *sums = e);
            }
            sums
        })
    }

    /// The sums of every group, and of every parameter within groups, from one pass; `None` if channels
    /// are not side by side in memory.
    fn sums_of_both(&self, walk: &Walk) -> Option<[Vec<Sums>; 2]> {
        let each: Vec<Indices> =
            walk.columns()?.flat_map(|columns| columns.operands().collect::<Vec<_>>()).collect();
        let sums = self.sums(&walk.by_column(), false);
        debug_assert_eq!(each.len(), sums.len());
        let mut groups = vec![Sums::default(); walk.keys()];
        let mut params = vec![Sums::default(); walk.by_param().keys()];
        for (at, sums) in each.into_iter().zip(sums) {
            let weight = self.normalizer.weight(at.param);
            let weighted = Sums { u: weight * sums.u, u_xhat: weight * sums.u_xhat, ..sums };
            let (group, param) = (at.key - walk.base.key, at.param - walk.base.param);
            groups[group] = groups[group].merge(weighted);
            params[param] = params[param].merge(sums);
        }
        Some([groups, params])
    }

    /// The sums of every key of a block, in f64.
    fn exact_sums(&self, block: &Walk, weighted: bool) -> Vec<Sums> {
        let mut sums = vec![Sums::default(); block.keys()];
        let (mut xhat, mut g): (Tile, Tile) = ([0.0; TILE], [0.0; TILE]);
        for run in block.runs(TILE) {
            let (xhat, g) = (&mut xhat[..run.len], &mut g[..run.len]);
            self.evaluate(&run, xhat, g);
            if weighted {
                self.weigh(&run, g);
            }
            let counted = run.counts(self.normalizer.mask).number(run.len) as f64;
            if run.step.key == 0 {
                xhat.iter_mut().zip(&*g).for_each(|(xhat, &u)| *xhat *= u);
                let [u] = stats::sums(g, &Counts::All, |u| [u]);
                let [u_xhat] = stats::sums(xhat, &Counts::All, |u_xhat| [u_xhat]);
                let sums = &mut sums[run.at.key];
                *sums = sums.merge(Sums { count: counted, u, u_xhat });
            } else {
                let sums = &mut sums[run.at.key..][..run.len];
                for ((sums, &u), &xhat) in sums.iter_mut().zip(&*g).zip(&*xhat) {
                    sums.count += counted / run.len as f64;
                    sums.u += u;
                    sums.u_xhat += u * xhat;
                }
            }
        }
        sums
    }

    /// Fills the outputs and, if wanted, returns the sums of g and g·xhat of every parameter. `given`
    /// sums replace the groups' own.
    pub fn gradients(
        &self,
        problem: &Problem,
        given: Option<&[f64]>,
        wants_params: bool,
        outputs: Outputs<'_, T>,
    ) -> Vec<Sums> {
        // Parameters that vary in a group have sums of their own.
        let inside = problem.view.params_inside();
        let has_inner = wants_params && inside;
        let walk = Walk::new(problem, group_strides(&problem.view));
        let needs_own = given.is_none() && !problem.source.is_constant();
        let resident = match has_inner {
            true => walk.large_resident_parts(),
            false => walk.resident_parts(),
        };
        let (groups, mut params) = if needs_own && let Some(parts) = resident {
            let pieces = outputs.split(parts.iter().map(Walk::len));
            let mut parts: Vec<_> = parts.into_iter().zip(pieces).collect();
            // Strips of parts, so that sums of parameters are few.
            let strip = if has_inner { parts.len().div_ceil(STRIPS) } else { 1 };
            let strips = parts.chunks_mut(strip).collect();
            let keys = if has_inner { walk.by_param().keys() } else { 0 };
            let results =
                parallel::map(strips, walk.len(), |strip| self.strip(problem, strip, keys));
            let (mut groups, mut params) = (Vec::new(), vec![Sums::default(); keys]);
            for (of_strip, params_of_strip) in results {
                groups.extend(of_strip);
                reduce::merge(&mut params, params_of_strip);
            }
            (groups, params)
        } else if needs_own
            && !has_inner
            && let Some(parts) = walk.cached_parts()
        {
            // Long groups one after the other, so that the second read is from a cache.
            let pieces = outputs.split(parts.iter().map(Walk::len));
            let of_part = |(part, outputs): (Walk, Outputs<'_, T>)| {
                let sums = self.sums(&part, inside);
                let terms = self.own_terms(problem, part.base.key, &sums);
                self.backward(&part, Some(&terms), outputs);
                sums
            };
            (parts.into_iter().zip(pieces).flat_map(of_part).collect(), Vec::new())
        } else {
            let both = if needs_own && has_inner { self.sums_of_both(&walk) } else { None };
            let [groups, params] = match both {
                Some(both) => both,
                None if needs_own || (wants_params && !inside) => {
                    [self.sums(&walk, inside), Vec::new()]
                }
                None => [Vec::new(), Vec::new()],
            };
            let terms = match given {
                _ if problem.source.is_constant() => None,
                None => Some(self.own_terms(problem, 0, &groups)),
                Some(given) => {
                    let sums = given.as_chunks().0.iter();
                    let sums = sums.map(|&[count, u, u_xhat, _]| Sums { count, u, u_xhat });
                    Some(MeanTerms::new(0, problem.centered, sums))
                }
            };
            self.backward(&walk, terms.as_ref(), outputs);
            (groups, params)
        };
        match (wants_params, inside) {
            (false, _) => Vec::new(),
            (true, true) if !params.is_empty() => params,
            (true, true) => self.sums(&Walk::new(problem, problem.view.param), false),
            (true, false) => {
                params.resize(walk.by_param().keys(), Sums::default());
                for (group, sums) in groups.into_iter().enumerate() {
                    let param = &mut params[problem.view.param_index(group as u32) as usize];
                    *param = param.merge(sums);
                }
                params
            }
        }
    }

    /// Parts of whole groups that are small enough to be read again from a cache: their outputs and the
    /// sums of their groups, and of `params` parameters that vary within those.
    fn strip(
        &self,
        problem: &Problem,
        strip: &mut [(Walk, Outputs<'_, T>)],
        params: usize,
    ) -> (Vec<Sums>, Vec<Sums>) {
        let wants_params = params > 0;
        let (mut groups, mut params) = (Vec::new(), vec![Sums::default(); params]);
        let mut on_the_way = fast::Params::new(params.len());
        let add_params_of = |part: &Walk, params: &mut [Sums]| {
            let part = part.by_param();
            reduce::merge(&mut params[part.base.key..], self.sums(&part, false));
        };
        let weighted = problem.view.params_inside();
        let finish = |part: &Walk, sums: &[Sums], outputs: &mut Outputs<'_, T>| {
            let terms = self.own_terms(problem, part.base.key, sums);
            self.write(part, Some(&terms), outputs);
        };
        let of_part = |part: &Walk, outputs: &mut Outputs<'_, T>| {
            let sums = self.sums(part, weighted);
            finish(part, &sums, outputs);
            sums
        };
        for (part, outputs) in &mut *strip {
            let one = |group: &Walk, outputs: &mut Outputs<'_, T>| of_part(group, outputs)[0];
            let centered = problem.centered;
            let of_rows = fast::backward(self, part, centered, &mut on_the_way, outputs, one);
            if let Some(sums) = of_rows {
                groups.extend(sums);
            } else if wants_params && let Some([sums, of_params]) = self.sums_of_both(part) {
                finish(part, &sums, outputs);
                groups.extend(sums);
                reduce::merge(&mut params[part.base.param..], of_params);
            } else {
                groups.extend(of_part(part, outputs));
                if wants_params {
                    // While x and dy are in the cache.
                    add_params_of(part, &mut params);
                }
            }
        }
        match on_the_way.finish() {
            Some(sums) => reduce::merge(&mut params, sums),
            None => {
                params.fill(Sums::default());
                strip.iter().for_each(|(part, _)| add_params_of(part, &mut params));
            }
        }
        (groups, params)
    }

    /// Of consecutive groups, as they have n elements each.
    fn own_terms(&self, problem: &Problem, first: usize, sums: &[Sums]) -> MeanTerms {
        let inside = problem.view.params_inside();
        let weigh = |(i, sums): (usize, &Sums)| {
            let weight = if inside { 1.0 } else { self.group_weight(problem, first + i) };
            let count = self.moments[first + i].count;
            Sums { count, u: weight * sums.u, u_xhat: weight * sums.u_xhat }
        };
        MeanTerms::new(first, problem.centered, sums.iter().enumerate().map(weigh))
    }

    /// The weight of a group within which it is constant.
    fn group_weight(&self, problem: &Problem, group: usize) -> f64 {
        self.normalizer.weight(problem.view.param_index(group as u32) as usize)
    }

    /// All outputs.
    fn backward(&self, walk: &Walk, terms: Option<&MeanTerms>, outputs: Outputs<'_, T>) {
        let parts = walk.parts(walk.block());
        let pieces = outputs.split(parts.iter().map(Walk::len));
        let tasks = parts.iter().zip(pieces).collect();
        parallel::map(tasks, walk.len(), |(part, mut outputs)| {
            self.write(part, terms, &mut outputs)
        });
    }

    /// One contiguous part of the outputs.
    fn write(&self, part: &Walk, terms: Option<&MeanTerms>, outputs: &mut Outputs<'_, T>) {
        if fast::write_gradients(self, part, terms, outputs) {
            return;
        }
        let (mut xhat, mut g): (Tile, Tile) = ([0.0; TILE], [0.0; TILE]);
        for run in part.runs(TILE) {
            let (xhat, g) = (&mut xhat[..run.len], &mut g[..run.len]);
            self.evaluate(&run, xhat, g);
            let store = |values: &[f64], output: &mut [T]| {
                let output = &mut output[run.at.data - part.base.data..][..run.len];
                apply::store(values, output);
                run.clear(self.normalizer.mask, output, T::narrow(0.0));
            };
            if let Some(daddend) = &mut outputs.daddend {
                store(g, daddend);
            }
            self.weigh(&run, g);
            if let Some(terms) = terms {
                terms.along(&run).zip(g, xhat, |u, xhat, mean, slope| u - mean - xhat * slope);
            }
            self.table.along(&run).map(g, |u, _, rstd| u * rstd);
            store(g, &mut *outputs.dx);
        }
    }
}
