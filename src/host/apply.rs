//! Normalize, affine, epilogue; twin of `shaders/apply.wgsl`.

use super::parallel;
use super::stats::Moments;
use super::walk::{Pair, Run, Walk};
use super::{Operands, activation, fast};
use crate::problem::Problem;
use crate::tensor::HostData;
use crate::{Activation, Element};

/// Elements that are worked on at a time: their f64 intermediates stay in a core's first cache.
pub(super) const TILE: usize = 1 << 8;

/// Intermediates of a run.
pub(super) type Tile = [f64; TILE];

/// The operands of a normalization whose elements are `T`.
pub(super) struct Normalizer<'a, T> {
    pub x: &'a [T],
    pub mask: Option<&'a [u8]>,
    pub activation: Activation,
    pub addend: Option<&'a [T]>,
    /// `weight` and `bias`, 1 or 0 where only the other is there.
    pub affine: Option<[Vec<f64>; 2]>,
    pub fast: fast::Plan,
}

/// Mean and 1/√(var + eps) of consecutive statistics.
pub(super) struct Table {
    first: usize,
    mean: Vec<f64>,
    rstd: Vec<f64>,
}

impl Table {
    /// Of the statistics from the `first` on.
    pub fn new(first: usize, moments: &[Moments], eps: f64) -> Self {
        let (mean, rstd) = moments.iter().map(|m| (m.mean, rstd(m.variance(), eps))).unzip();
        Table { first, mean, rstd }
    }

    /// `[mean, rstd]` of a statistic.
    pub fn of(&self, stat: usize) -> [f64; 2] {
        [self.mean[stat - self.first], self.rstd[stat - self.first]]
    }

    /// `(mean, rstd)` along a run.
    pub fn along(&self, run: &Run) -> Pair<'_> {
        Pair::new([&self.mean, &self.rstd], run.at.stat - self.first, run.step.stat, run.len)
    }
}

/// 1/√(var + eps); 0 for a constant group with eps 0, so that xhat is 0 there, not NaN.
pub(super) fn rstd(variance: f64, eps: f64) -> f64 {
    let v = variance + eps;
    if v == 0.0 { 0.0 } else { 1.0 / v.sqrt() }
}

impl<'a, T: Element> Normalizer<'a, T> {
    pub fn new(problem: &Problem, operands: &Operands<'a>, x: &'a [T]) -> Self {
        let param = |data: Option<&HostData<'_>>| data.map(HostData::convert::<f64>);
        let affine = match (param(operands.weight), param(operands.bias)) {
            (None, None) => None,
            (Some(weight), None) => Some([vec![0.0; weight.len()], weight]).map(|[b, w]| [w, b]),
            (None, Some(bias)) => Some([vec![1.0; bias.len()], bias]),
            (Some(weight), Some(bias)) => Some([weight, bias]),
        };
        Normalizer {
            x,
            mask: operands.mask,
            activation: problem.activation,
            addend: operands.addend.map(typed),
            fast: fast::Plan::new(problem, operands.mask.is_some(), affine.as_ref(), x),
            affine,
        }
    }

    /// `(weight, bias)` along a run.
    pub fn affine(&self, run: &Run) -> Option<Pair<'_>> {
        let [weight, bias] = self.affine.as_ref()?;
        Some(Pair::new([weight, bias], run.at.param, run.step.param, run.len))
    }

    /// The weight of a parameter.
    pub fn weight(&self, param: usize) -> f64 {
        self.affine.as_ref().map_or(1.0, |[weight, _]| weight[param])
    }

    /// `(x − mean) · rstd` of a run.
    pub fn normalize(&self, run: &Run, table: &Table, xhat: &mut [f64]) {
        let x = run.slice(self.x);
        table.along(run).zip(xhat, x, |_, x, mean, rstd| (x.widen() - mean) * rstd);
    }

    /// What the activation is applied to, from `(x − mean) · rstd`.
    pub fn complete(&self, run: &Run, z: &mut [f64]) {
        if let Some(affine) = self.affine(run) {
            affine.map(z, |xhat, weight, bias| xhat * weight + bias);
        }
        if let Some(addend) = self.addend {
            z.iter_mut().zip(run.slice(addend)).for_each(|(z, &a)| *z += a.widen());
        }
    }

    /// All of y, or a contiguous part of it. What lies `ahead` elements behind it is read next, if that
    /// is not 0.
    pub fn forward(&self, walk: &Walk, table: &Table, ahead: usize, y: &mut [T]) {
        let elements = y.len();
        let parts = walk.parts(walk.block());
        let pieces = parallel::split(y, parts.iter().map(Walk::len));
        let tasks = parts.iter().zip(pieces).collect();
        parallel::map(tasks, elements, |(part, y)| self.write(part, table, ahead, y));
    }

    /// One contiguous part of y.
    pub fn write(&self, part: &Walk, table: &Table, ahead: usize, y: &mut [T]) {
        if !self.fast.write(self, part, table, ahead, y) {
            self.write_exactly(part, table, y);
        }
    }

    /// The same in f64.
    pub fn write_exactly(&self, part: &Walk, table: &Table, y: &mut [T]) {
        let mut tile: Tile = [0.0; TILE];
        for run in part.runs(TILE) {
            let z = &mut tile[..run.len];
            self.normalize(&run, table, z);
            self.complete(&run, z);
            activation::apply(self.activation, z);
            let y = &mut y[run.at.data - part.base.data..][..run.len];
            store(z, y);
            run.clear(self.mask, y, T::narrow(0.0));
        }
    }
}

/// Rounds values to the element type.
pub(super) fn store<T: Element>(values: &[f64], out: &mut [T]) {
    out.iter_mut().zip(values).for_each(|(out, &v)| *out = T::narrow(v));
}

/// The elements of an operand that has x's type.
pub(super) fn typed<'t, T: Element>(data: &'t HostData<'_>) -> &'t [T] {
    T::unwrap(data).expect("addend and dy are of x's type")
}
