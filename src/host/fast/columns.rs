//! Sums down columns.

use super::super::walk::Walk;
use super::lanes::{BATCH, BatchTile, LANES_MAX, Terms, Values, as_f32};
use crate::{DType, Element};
use pulp::Simd;

/// Rows that are added to f32 sums before those go on in f64.
const RUNS: usize = 32;

/// Some rows of the same length.
pub(super) struct Batch {
    at: usize,
    stride: usize,
    len: usize,
    count: usize,
}

/// Whether rows of this length fit a tile, or need not.
pub(super) fn fit<T: Element>(len: usize) -> bool {
    T::DTYPE == DType::F32 || len <= BATCH
}

/// Rows that [`fit`], as many at a time as a tile holds where they are to be converted.
#[inline(always)]
pub(super) fn batches<T: Element>(rows: Walk) -> impl Iterator<Item = Batch> {
    let [.., down, row] = rows.axes;
    let (len, all, stride) = (row.extent, down.extent, down.stride.data);
    let most = if T::DTYPE == DType::F32 { all } else { BATCH / len };
    let first = rows.base.data;
    (0..all).step_by(most).map(move |row| Batch {
        at: first + row * stride,
        stride,
        len,
        count: most.min(all - row),
    })
}

/// Values of several rows, or the same of each.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    from: &'a [f32],
    /// From row to row.
    stride: usize,
}

impl<'a> Rows<'a> {
    /// The same of each row.
    #[inline(always)]
    pub fn table(from: &'a [f32]) -> Self {
        Rows { from, stride: 0 }
    }

    /// Those of a tensor, in a tile if they are not f32.
    #[inline(always)]
    pub fn of<T: Element>(from: &'a [T], batch: &Batch, tile: &'a mut BatchTile) -> Self {
        let &Batch { at, stride, len, count } = batch;
        if let Some(from) = as_f32(&from[at..]) {
            return Rows { from, stride };
        }
        if stride == len {
            T::to_f32s(&from[at..][..count * len], &mut tile[..count * len]);
        } else {
            for row in 0..count {
                T::to_f32s(&from[at + row * stride..][..len], &mut tile[row * len..][..len]);
            }
        }
        Rows { from: tile, stride: len }
    }
}

/// `K` sums of each of several columns: of some rows in f32, of all in f64.
pub(super) struct Sums<const K: usize> {
    some: [Vec<f32>; K],
    all: [Vec<f64>; K],
    rows: usize,
}

impl<const K: usize> Sums<K> {
    pub fn new(columns: usize) -> Self {
        Sums {
            some: std::array::from_fn(|_| vec![0.0; columns + LANES_MAX]),
            all: std::array::from_fn(|_| vec![0.0; columns]),
            rows: 0,
        }
    }

    /// Adds to the sums of one column.
    #[inline(always)]
    pub fn add_to(&mut self, column: usize, sums: [f64; K]) {
        for (all, sum) in self.all.iter_mut().zip(sums) {
            all[column] += sum;
        }
    }

    /// Adds the terms of rows. One after the other: of four at a time, each sum then being read and
    /// written once, memory gives 12 GB/s instead of 16.
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    pub fn add<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        values: [Rows<'_>; N],
        batch: &Batch,
        terms: &impl Terms<N, K>,
    ) {
        for row in 0..batch.count {
            let values = values.map(|Rows { from, stride }| &from[row * stride..]);
            self.add_piece(simd, 0, values, batch.len, terms);
            self.end_row();
        }
    }

    /// Adds the terms of a part of a row, to the sums of the columns from the `first` on.
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    pub fn add_piece<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        first: usize,
        values: [&[f32]; N],
        len: usize,
        terms: &impl Terms<N, K>,
    ) {
        let whole = len / S::F32_LANES;
        let mut all = [Values::new(&[], 0); N];
        let mut registers: [&[S::f32s]; N] = [&[]; N];
        for n in 0..N {
            all[n] = Values::new(values[n], len);
            registers[n] = &all[n].whole::<S>()[..whole];
        }
        // Behind the last one are as many as a register holds.
        let sums = self.some.each_mut().map(|sums| {
            let to = &mut sums[first..][..(whole + 1) * S::F32_LANES];
            bytemuck::cast_slice_mut::<f32, S::f32s>(to).split_at_mut(whole)
        });
        let zero = simd.splat_f32s(0.0);
        let (mut now, mut to) = ([zero; N], [zero; K]);
        let mut c = 0;
        while c < whole {
            for n in 0..N {
                now[n] = registers[n][c];
            }
            for k in 0..K {
                to[k] = sums[k].0[c];
            }
            to = terms.add(simd, now, to);
            for k in 0..K {
                sums[k].0[c] = to[k];
            }
            c += 1;
        }
        if !len.is_multiple_of(S::F32_LANES) {
            for n in 0..N {
                now[n] = all[n].rest(simd, 0.0);
            }
            for k in 0..K {
                to[k] = sums[k].1[0];
            }
            to = terms.add(simd, now, to);
            for k in 0..K {
                sums[k].1[0] = to[k];
            }
        }
    }

    /// After the last part of a row.
    #[inline(always)]
    pub fn end_row(&mut self) {
        self.rows += 1;
        if self.rows == RUNS {
            self.flush();
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        for (all, some) in self.all.iter_mut().zip(&mut self.some) {
            for (all, some) in all.iter_mut().zip(some) {
                *all += f64::from(*some);
                *some = 0.0;
            }
        }
        self.rows = 0;
    }

    #[inline(always)]
    pub fn finish(mut self) -> [Vec<f64>; K] {
        self.flush();
        self.all
    }
}
