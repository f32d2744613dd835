//! The sums of the backward pass.

use super::super::columns::Columns;
use super::super::grads::{Differentiator, Sums};
use super::super::reduce::Merge;
use super::super::walk::Walk;
use super::apply::Along;
use super::columns::{self, Rows};
use super::grads::{Operands, Product};
use super::lanes::{EMPTY_TILE, Sink, TILE, Terms, Values, Work, empty_batch, sums, vectorized};
use crate::{Activation, Element};
use pulp::Simd;

/// The sums of every key of a block, as [`Differentiator::sums`] has them; `None` if lanes cannot. Not
/// finite where f32 does not hold them.
pub(in super::super) fn block_sums<T: Element>(
    differentiator: &Differentiator<'_, T>,
    block: &Walk,
    weighted: bool,
) -> Option<Vec<Sums>> {
    let mut sums = vec![Sums::default(); block.keys()];
    if let Some(columns) = block.columns() {
        for columns in columns {
            let operands = &Operands::of_columns(differentiator, &columns, true)?;
            let sums = &mut sums;
            vectorized(SumColumns { operands, columns: &columns, weighted, sums });
        }
        return Some(sums);
    }
    let operands = Operands::new(differentiator, block)?;
    // Weights of neighbouring keys are for those who ask for sums alone.
    let has_weight = differentiator.normalizer.affine.is_some();
    if weighted && has_weight && !block.axes[3].is_reduced() {
        return None;
    }
    vectorized(SumUp { operands: &operands, block, weighted, sums: &mut sums });
    Some(sums)
}

struct SumUp<'a, T> {
    operands: &'a Operands<'a, T>,
    block: &'a Walk,
    weighted: bool,
    sums: &'a mut [Sums],
}

impl<T: Element> Work for SumUp<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let SumUp { operands, block, weighted, sums } = self;
        let weight = operands.plan().inside().filter(|_| weighted);
        let neighbours = !block.axes[3].is_reduced();
        let [mut x_tile, mut z_tile, mut g_tile, mut u_tile, mut xhat] = [EMPTY_TILE; 5];
        let mut totals = columns::Sums::new(if neighbours { sums.len() } else { 0 });
        let mut of_all = 0.0;
        for whole in block.runs(usize::MAX) {
            if neighbours && whole.len == sums.len() {
                of_all += 1.0;
            } else if neighbours {
                sums[whole.at.key..][..whole.len].iter_mut().for_each(|sums| sums.count += 1.0);
            }
            for start in (0..whole.len).step_by(TILE) {
                let run = whole.part(start, TILE.min(whole.len - start));
                let mut u = operands.g(simd, &run, [&mut x_tile, &mut z_tile], &mut g_tile);
                let mut factor = 1.0;
                match weight {
                    Some([weight, _]) if run.step.param == 1 => {
                        let sink = Sink { y: &mut u_tile, len: run.len, stream: false, ahead: 0 };
                        sink.fill(simd, u, [&weight[run.at.param..]], &Product);
                        u = &u_tile;
                    }
                    Some([weight, _]) => factor = f64::from(weight[run.at.param]),
                    None if weighted => factor = operands.weight(run.at.stat),
                    None => {}
                }
                let x = operands.x(&run, &mut x_tile);
                let along = operands.plain.along(&run);
                if neighbours {
                    let sink = Sink { y: &mut xhat, len: run.len, stream: false, ahead: 0 };
                    along.fill::<S, false>(simd, x, sink);
                    let values = [&xhat[..], u];
                    totals.add_piece(simd, run.at.key, values, run.len, &WithXhat);
                    continue;
                }
                let Along::Same([mean, scale, shift]) = along else { unreachable!("rows") };
                let terms = Products { mean, scale, shift };
                let values = [Values::new(x, run.len), Values::new(u, run.len)];
                let [sum, sum_xhat] = self::sums(simd, values, [mean, 0.0], &terms);
                let sums = &mut sums[run.at.key];
                sums.count += run.len as f64;
                sums.u += factor * f64::from(sum);
                sums.u_xhat += factor * f64::from(sum_xhat);
            }
            totals.end_row();
        }
        let [u, u_xhat] = totals.finish();
        for ((sums, u), u_xhat) in sums.iter_mut().zip(u).zip(u_xhat) {
            *sums = sums.merge(Sums { count: of_all, u, u_xhat });
        }
    }
}

/// As [`SumUp`], down columns.
struct SumColumns<'a, T> {
    operands: &'a Operands<'a, T>,
    columns: &'a Columns,
    weighted: bool,
    sums: &'a mut [Sums],
}

impl<T: Element> Work for SumColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let SumColumns { operands, columns, weighted, sums } = self;
        let Differentiator { normalizer, dy, .. } = operands.differentiator;
        let tables = operands.plain.tables();
        let mut totals = columns::Sums::new(columns.row());
        if normalizer.activation == Activation::None && columns::fit::<T>(columns.row()) {
            let (mut x_tile, mut g_tile) = (empty_batch(), empty_batch());
            for batch in columns.rows(0).flat_map(columns::batches::<T>) {
                let [mean, scale, shift] = tables.map(Rows::table);
                let x = Rows::of(normalizer.x, &batch, &mut x_tile);
                let g = Rows::of(dy, &batch, &mut g_tile);
                totals.add(simd, [x, g, mean, scale, shift], &batch, &EachProduct);
            }
        } else {
            let [mut x_tile, mut z_tile, mut g_tile] = [EMPTY_TILE; 3];
            for rows in columns.rows(0) {
                for whole in rows.runs(usize::MAX) {
                    for start in (0..whole.len).step_by(TILE) {
                        let run = whole.part(start, TILE.min(whole.len - start));
                        let g = operands.g(simd, &run, [&mut x_tile, &mut z_tile], &mut g_tile);
                        let x = operands.x(&run, &mut x_tile);
                        let [mean, scale, shift] = tables.map(|table| &table[start..]);
                        let values = [x, g, mean, scale, shift];
                        totals.add_piece(simd, start, values, run.len, &EachProduct);
                    }
                    totals.end_row();
                }
            }
        }
        let [g, g_xhat] = totals.finish().map(|row| columns.fold(row));
        for ((at, g), g_xhat) in columns.operands().zip(g).zip(g_xhat) {
            let weight = if weighted { normalizer.weight(at.param) } else { 1.0 };
            let all = &mut sums[at.key];
            let count = columns.count() as f64;
            *all = all.merge(Sums { count, u: weight * g, u_xhat: weight * g_xhat });
        }
    }
}

/// u and u · xhat.
pub(super) struct Products {
    pub mean: f32,
    pub scale: f32,
    pub shift: f32,
}

impl Terms<2, 2> for Products {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [x, u]: [S::f32s; 2], [a, b]: [S::f32s; 2]) -> [S::f32s; 2] {
        let distance = simd.sub_f32s(x, simd.splat_f32s(self.mean));
        let (scale, shift) = (simd.splat_f32s(self.scale), simd.splat_f32s(self.shift));
        let xhat = simd.mul_add_e_f32s(distance, scale, shift);
        WithXhat.add(simd, [xhat, u], [a, b])
    }
}

/// As [`Products`], of lines of each value.
struct EachProduct;

impl Terms<5, 2> for EachProduct {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        simd: S,
        [x, u, mean, scale, shift]: [S::f32s; 5],
        [a, b]: [S::f32s; 2],
    ) -> [S::f32s; 2] {
        let xhat = simd.mul_add_e_f32s(simd.sub_f32s(x, mean), scale, shift);
        WithXhat.add(simd, [xhat, u], [a, b])
    }
}

struct WithXhat;

impl Terms<2, 2> for WithXhat {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, [xhat, u]: [S::f32s; 2], [a, b]: [S::f32s; 2]) -> [S::f32s; 2] {
        [simd.add_f32s(a, u), simd.mul_add_e_f32s(u, xhat, b)]
    }
}
