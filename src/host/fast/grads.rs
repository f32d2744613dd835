//! The backward pass: the gradients of x and the addend.

use super::super::activation;
use super::super::apply::Table;
use super::super::columns::Columns;
use super::super::grads::{Differentiator, MeanTerms, Outputs};
use super::super::walk::{Run, Walk};
use super::apply::{Lines, Plan, is_safe, is_small, preactivation};
use super::lanes::{
    EMPTY_TILE, Itself, Map, Sink, TILE, Tile, Work, as_f32, as_f32_mut, finish_stream, narrow,
    registers, to_line, vectorized, widen,
};
use crate::{Activation, Element};
use pulp::Simd;

/// Shortest run of a small tensor that is worth streaming: runs of 1024 to 4096 are faster by ordinary
/// stores, by a tenth to a fifth, those of 65536 slower by a tenth.
const STREAM_LONG: usize = 1 << 13;

/// Writes one contiguous part of the outputs; false if lanes cannot.
pub(in super::super) fn write<T: Element>(
    differentiator: &Differentiator<'_, T>,
    part: &Walk,
    terms: Option<&MeanTerms>,
    outputs: &mut Outputs<'_, T>,
) -> bool {
    let constant = terms.is_none();
    let table = &differentiator.table;
    if let Some(mut columns) = part.columns() {
        return columns.all(|columns| {
            let operands = Operands::of_columns(differentiator, &columns, false);
            let Some(operands) = &operands else { return false };
            let weight = |param| differentiator.normalizer.weight(param);
            let each = columns.operands().map(|at| (at.stat, weight(at.param)));
            let slopes = Slopes::of_each(table, 0, columns.row(), each, terms);
            let Some(mut slopes) = slopes else { return false };
            slopes.tables().into_iter().for_each(|table| columns.repeat(table));
            let start = columns.each.base.data - part.base.data;
            let streams = operands.plan().streams(columns.row());
            for rows in columns.rows(if streams { to_line(&outputs.dx[start..]) } else { 0 }) {
                let start = rows.base.data - part.base.data;
                let outputs = &mut outputs.part(start..start + rows.len());
                vectorized(Write { operands, part: &rows, slopes: &slopes, constant, outputs });
            }
            true
        });
    }
    let Some(operands) = Operands::new(differentiator, part) else { return false };
    let each = part.stats().map(|stat| (stat, operands.weight(stat)));
    let slopes = Slopes::of_each(table, part.base.stat, part.stats().len(), each, terms);
    let Some(slopes) = slopes else { return false };
    vectorized(Write { operands: &operands, part, slopes: &slopes, constant, outputs });
    true
}

/// What the loops read.
pub(super) struct Operands<'a, T> {
    pub differentiator: &'a Differentiator<'a, T>,
    /// Of what the activation is applied to.
    lines: Lines,
    /// Of xhat.
    pub plain: Lines,
}

impl<'a, T: Element> Operands<'a, T> {
    pub fn new(differentiator: &'a Differentiator<'a, T>, part: &Walk) -> Option<Self> {
        let normalizer = &differentiator.normalizer;
        let plan = &normalizer.fast;
        if !plan.is_possible::<T>() || !part.is_sliced() {
            return None;
        }
        let affine = normalizer.affine.as_ref();
        let (table, stats) = (&differentiator.table, part.stats());
        let plain = Lines::new(table, stats.clone(), |_| [1.0, 0.0])?;
        let lines = Lines::new(table, stats, |stat| plan.affine_of(affine, stat))?;
        Some(Operands { differentiator, lines, plain })
    }

    /// With tables along the rows of some columns, of xhat where that is asked for.
    pub fn of_columns(
        differentiator: &'a Differentiator<'a, T>,
        columns: &Columns,
        wants_xhat: bool,
    ) -> Option<Self> {
        let Differentiator { normalizer, table, .. } = differentiator;
        if !normalizer.fast.is_possible::<T>() {
            return None;
        }
        let lines = |wanted, affine| match wanted {
            true => Lines::of_columns(table, columns, affine),
            false => Some(Lines::default()),
        };
        let plain = lines(wants_xhat, None)?;
        let is_chained = normalizer.activation != Activation::None;
        let lines = lines(is_chained, normalizer.affine.as_ref())?;
        Some(Operands { differentiator, lines, plain })
    }

    pub fn plan(&self) -> &Plan {
        &self.differentiator.normalizer.fast
    }

    /// The weight of a statistic, as far as it does not vary within its groups.
    pub fn weight(&self, stat: usize) -> f64 {
        self.plan().affine_of(self.differentiator.normalizer.affine.as_ref(), stat)[0]
    }

    /// Whether a run can be taken at once, or else tile by tile.
    pub fn longest(&self) -> usize {
        let simple = self.differentiator.normalizer.activation == Activation::None;
        if simple && T::DTYPE == crate::DType::F32 { usize::MAX } else { TILE }
    }

    /// x of a run.
    #[inline(always)]
    pub fn x<'t>(&'t self, run: &Run, tile: &'t mut Tile) -> &'t [f32] {
        values(&self.differentiator.normalizer.x[run.at.data..], run.len, tile)
    }

    /// The gradient behind the epilogue.
    #[inline(always)]
    pub fn g<'t, S: Simd>(
        &'t self,
        simd: S,
        run: &Run,
        [x, wide]: [&mut Tile; 2],
        g: &'t mut Tile,
    ) -> &'t [f32] {
        let normalizer = &self.differentiator.normalizer;
        let dy = &self.differentiator.dy[run.at.data..];
        if normalizer.activation == Activation::None {
            return values(dy, run.len, g);
        }
        let along = self.lines.along(run).with(self.plan(), run);
        preactivation(simd, normalizer, run, along, x, g);
        widen(&dy[..run.len], wide);
        chain(simd, normalizer.activation, wide, g, run.len);
        g
    }
}

/// The first `len` values and, where they are f32, all behind them.
#[inline(always)]
fn values<'t, T: Element>(from: &'t [T], len: usize, tile: &'t mut Tile) -> &'t [f32] {
    match as_f32(from) {
        Some(values) => values,
        None => {
            widen(&from[..len], tile);
            tile
        }
    }
}

/// Each of the first `len` values `z` becomes `g · act'(z)`. Not g, see [`super::apply`]'s `activate`.
#[inline(always)]
fn chain<S: Simd>(simd: S, activation: Activation, g: &Tile, z: &mut Tile, len: usize) {
    let zero = simd.splat_f32s(0.0);
    match activation {
        Activation::Relu => {
            for (g, z) in registers::<S>(g, z, len) {
                let negative = simd.less_than_or_equal_f32s(*z, zero);
                *z = simd.select_f32s(negative, zero, *g);
            }
        }
        Activation::LeakyRelu(slope) => {
            let slope = simd.splat_f32s(slope);
            for (g, z) in registers::<S>(g, z, len) {
                let positive = simd.greater_than_f32s(*z, zero);
                *z = simd.select_f32s(positive, *g, simd.mul_f32s(slope, *g));
            }
        }
        activation => {
            let (mut wide_z, mut wide_g) = ([0.0f64; TILE], [0.0f64; TILE]);
            let (wide_z, wide_g) = (&mut wide_z[..len], &mut wide_g[..len]);
            wide_z.iter_mut().zip(&*z).for_each(|(wide, &z)| *wide = f64::from(z));
            wide_g.iter_mut().zip(g).for_each(|(wide, &g)| *wide = f64::from(g));
            activation::chain(activation, wide_z, wide_g);
            z.iter_mut().zip(&*wide_g).for_each(|(z, &wide)| *z = wide as f32);
        }
    }
}

/// x times a table.
pub(super) struct Product;

impl Map<1> for Product {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [weight]: [S::f32s; 1]) -> S::f32s {
        simd.mul_f32s(x, weight)
    }
}

/// What makes dx of x and g, of consecutive statistics: `(g − level) · scale + (x − mean) · slope + shift`.
struct Slopes {
    first: usize,
    level: Vec<f32>,
    scale: Vec<f32>,
    mean: Vec<f32>,
    slope: Vec<f32>,
    shift: Vec<f32>,
}

impl Slopes {
    /// Of `len` statistics and weights; `None` if f32 does not hold them.
    fn of_each(
        table: &Table,
        first: usize,
        len: usize,
        each: impl Iterator<Item = (usize, f64)>,
        terms: Option<&MeanTerms>,
    ) -> Option<Slopes> {
        let [level, scale, mean, slope, shift] = [0; 5].map(|_| Vec::with_capacity(len));
        let mut slopes = Slopes { first, level, scale, mean, slope, shift };
        for (stat, weight) in each {
            let [mean, rstd] = table.of(stat);
            let [mean_u, mean_u_xhat] = terms.map_or([0.0; 2], |terms| terms.of(stat));
            // dx = (u − mean_u − xhat · mean_u_xhat) · rstd with u = weight · g. The level is taken off g
            // first: the difference may be small.
            let level = if weight == 0.0 { 0.0 } else { mean_u / weight };
            if level.is_finite() && !is_small(level) {
                return None;
            }
            let level = level as f32;
            let scale = weight * rstd;
            let slope = -rstd * rstd * mean_u_xhat;
            let rest = (mean_u - f64::from(level) * weight) * rstd;
            let shift = -(mean - f64::from(mean as f32)) * slope - rest;
            let level = f64::from(level);
            let all = [level, scale, mean, slope, shift];
            // As in lines: what is no number stays in its group.
            let all = if all.iter().all(|v| v.is_finite()) { all } else { [f64::NAN; 5] };
            let holds = is_safe(scale) && is_safe(slope) && is_small(mean) && is_small(shift);
            if !(holds || all[0].is_nan()) {
                return None;
            }
            for (to, v) in slopes.tables().into_iter().zip(all) {
                to.push(v as f32);
            }
        }
        Some(slopes)
    }

    fn tables(&mut self) -> [&mut Vec<f32>; 5] {
        let Slopes { level, scale, mean, slope, shift, .. } = self;
        [level, scale, mean, slope, shift]
    }
}

struct Write<'a, 'o, T> {
    operands: &'a Operands<'a, T>,
    part: &'a Walk,
    slopes: &'a Slopes,
    constant: bool,
    outputs: &'a mut Outputs<'o, T>,
}

impl<T: Element> Work for Write<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Write { operands, part, slopes, constant, outputs } = self;
        let [mut x_tile, mut z_tile, mut g_tile, mut dx_tile] = [EMPTY_TILE; 4];
        for whole in part.runs(usize::MAX) {
            let stream = operands.plan().streams_gradient(whole.len, STREAM_LONG);
            let longest = operands.longest().min(whole.len);
            for start in (0..whole.len).step_by(longest) {
                let run = whole.part(start, longest.min(whole.len - start));
                let at = run.at.data - part.base.data;
                let g = operands.g(simd, &run, [&mut x_tile, &mut z_tile], &mut g_tile);
                if let Some(daddend) = &mut outputs.daddend {
                    let y = &mut daddend[at..];
                    match as_f32_mut(&mut *y) {
                        Some(y) => {
                            let sink = Sink { y, len: run.len, stream, ahead: 0 };
                            sink.fill(simd, g, [], &Itself);
                        }
                        None => narrow(&g[..run.len], &mut y[..run.len]),
                    }
                }
                let x = operands.x(&run, &mut x_tile);
                let y = &mut outputs.dx[at..];
                match as_f32_mut(&mut *y) {
                    Some(y) => {
                        let sink = Sink { y, len: run.len, stream, ahead: 0 };
                        input_gradient(simd, operands, slopes, &run, constant, x, g, sink);
                    }
                    None => {
                        let sink = Sink { y: &mut dx_tile, len: run.len, stream: false, ahead: 0 };
                        input_gradient(simd, operands, slopes, &run, constant, x, g, sink);
                        narrow(&dx_tile[..run.len], &mut y[..run.len]);
                    }
                }
            }
        }
        finish_stream();
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call, in two forms")]
fn input_gradient<T: Element, S: Simd>(
    simd: S,
    operands: &Operands<'_, T>,
    slopes: &Slopes,
    run: &Run,
    constant: bool,
    x: &[f32],
    g: &[f32],
    sink: Sink<'_>,
) {
    let stat = run.at.stat - slopes.first;
    let inside = operands.plan().inside();
    if run.step.stat == 1 {
        let Slopes { level, scale, mean, slope, shift, .. } = slopes;
        if constant {
            return sink.fill(simd, g, [&scale[stat..]], &Product);
        }
        let tables =
            [g, &level[stat..], &scale[stat..], &mean[stat..], &slope[stat..], &shift[stat..]];
        return sink.fill(simd, x, tables, &EachSlope);
    }
    let mut slope = Slope {
        level: slopes.level[stat],
        scale: slopes.scale[stat],
        mean: slopes.mean[stat],
        slope: slopes.slope[stat],
        shift: slopes.shift[stat],
    };
    match inside {
        Some([weight, _]) if run.step.param == 1 => {
            let weight = &weight[run.at.param..];
            match constant {
                true => sink.fill(simd, g, [weight], &ScaledProduct(slope.scale)),
                false => sink.fill(simd, x, [g, weight], &slope),
            }
        }
        _ => {
            if let Some([weight, _]) = inside {
                let weight = weight[run.at.param];
                if weight == 0.0 {
                    slope.shift -= slope.level * slope.scale;
                    slope.level = 0.0;
                } else {
                    slope.level /= weight;
                }
                slope.scale *= weight;
            }
            match constant {
                true => sink.fill(simd, g, [], &Scaled(slope.scale)),
                false => sink.fill(simd, x, [g], &slope),
            }
        }
    }
}

struct Scaled(f32);

impl Map<0> for Scaled {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, g: S::f32s, _: [S::f32s; 0]) -> S::f32s {
        simd.mul_f32s(g, simd.splat_f32s(self.0))
    }
}

struct ScaledProduct(f32);

impl Map<1> for ScaledProduct {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, g: S::f32s, [weight]: [S::f32s; 1]) -> S::f32s {
        simd.mul_f32s(simd.mul_f32s(g, weight), simd.splat_f32s(self.0))
    }
}

/// A slope that is the same along a run.
pub(super) struct Slope {
    pub level: f32,
    pub scale: f32,
    pub mean: f32,
    pub slope: f32,
    pub shift: f32,
}

/// Of g.
impl Map<1> for Slope {
    const AS_X: usize = 1;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [g]: [S::f32s; 1]) -> S::f32s {
        let all = [self.level, self.scale, self.mean, self.slope, self.shift];
        let [level, scale, mean, slope, shift] = splat(simd, all);
        EachSlope.of(simd, x, [g, level, scale, mean, slope, shift])
    }
}

/// Of g times the weight.
impl Map<2> for Slope {
    const AS_X: usize = 1;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, x: S::f32s, [g, weight]: [S::f32s; 2]) -> S::f32s {
        Map::<1>::of(self, simd, x, [simd.mul_f32s(g, weight)])
    }
}

#[inline(always)]
fn splat<S: Simd, const K: usize>(simd: S, values: [f32; K]) -> [S::f32s; K] {
    let mut all = [simd.splat_f32s(0.0); K];
    for k in 0..K {
        all[k] = simd.splat_f32s(values[k]);
    }
    all
}

/// A slope of each element.
struct EachSlope;

impl Map<6> for EachSlope {
    #[inline(always)]
    fn of<S: Simd>(
        &self,
        simd: S,
        x: S::f32s,
        [g, level, scale, mean, slope, shift]: [S::f32s; 6],
    ) -> S::f32s {
        let line = simd.mul_add_e_f32s(simd.sub_f32s(x, mean), slope, shift);
        simd.mul_add_e_f32s(simd.sub_f32s(g, level), scale, line)
    }
}
