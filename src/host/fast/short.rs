//! Many short groups, one behind the other: what is computed once per group is computed for several
//! groups in one register, and 16-bit elements are converted for several groups at once.
//!
//! y is not written past the caches: through a tile in whole lines that gave 27 % of a copy's speed for
//! 64×512×7×7, stores as they come 37 %.

use super::super::apply::{Normalizer, rstd};
use super::super::stats::Moments;
use super::apply::{Along, SAFE, line};
use super::lanes::{
    BATCH, EMPTY_TILE, Sink, Values, Work, empty_batch, prefetch_all, put, sums, target,
    vectorized, widened,
};
use super::rows::{GROUPS, Groups};
use super::stats::{Distances, FromFirst, GOOD, SHORT, TINY, row_about};
use crate::{Activation, Element};
use pulp::Simd;

/// Writes a part of y that is `groups`; false if they are not short, or if y is not a line of x or its
/// ReLU.
pub(super) fn forward<T: Element>(
    normalizer: &Normalizer<'_, T>,
    groups: &Groups,
    eps: f64,
    y: &mut [T],
    kept: &mut Option<&mut Vec<Moments>>,
) -> bool {
    let eps_holds = eps == 0.0 || SAFE.contains(&eps);
    if groups.len() > SHORT || !eps_holds || normalizer.addend.is_some() {
        return false;
    }
    match normalizer.activation {
        Activation::None => vectorized(Short::<T, false> { normalizer, groups, eps, y, kept }),
        Activation::Relu => vectorized(Short::<T, true> { normalizer, groups, eps, y, kept }),
        _ => return false,
    }
    true
}

struct Short<'a, 'k, T, const RELU: bool> {
    normalizer: &'a Normalizer<'a, T>,
    groups: &'a Groups,
    eps: f64,
    y: &'a mut [T],
    kept: &'a mut Option<&'k mut Vec<Moments>>,
}

impl<T: Element, const RELU: bool> Work for Short<'_, '_, T, RELU> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Short { normalizer, groups, eps, y, kept } = self;
        let len = groups.len();
        let affine = normalizer.affine.as_ref().filter(|_| normalizer.fast.inside().is_none());
        let mut wide = empty_batch();
        let mut tile = empty_batch();
        let mut scratch = EMPTY_TILE;
        for (at, some) in groups.batches((BATCH / len).min(GROUPS)) {
            let x = &normalizer.x[at.data..];
            let values = widened(x, some * len, &mut wide);
            let rows = Found::new(simd, values, len, some);
            let mut params = [[1.0; GROUPS], [0.0; GROUPS]];
            for (to, from) in params.iter_mut().zip(affine.into_iter().flatten()) {
                for (i, to) in to[..some].iter_mut().enumerate() {
                    *to = from[at.param + i * groups.each.stride.param] as f32;
                }
            }
            let mut lines = rows.lines(eps as f32, &params);
            let mut exact = [false; GROUPS];
            for i in 0..some {
                let mut moments = rows.moments(i);
                if !lines.hold[i] {
                    // Constant, far from the guess, or not for f32.
                    let found =
                        row_about(simd, &x[i * len..], len, true, rows.guess[i], &mut scratch);
                    let param = params.map(|param| f64::from(param[i]));
                    let line = found.and_then(|m| line(m.mean, rstd(m.variance(), eps), param));
                    exact[i] = line.is_none();
                    moments = found.unwrap_or_default();
                    let [mean, scale, shift] = line.unwrap_or_default();
                    (lines.mean[i], lines.scale[i], lines.shift[i]) = (mean, scale, shift);
                }
                if let Some(kept) = kept {
                    kept.push(moments);
                }
            }
            let y = &mut y[at.data - groups.base.data..];
            let to = target(y, false, &mut tile);
            for i in 0..some {
                prefetch_all(&x[i * len..], some * len, len);
                let line = Along::Same([lines.mean[i], lines.scale[i], lines.shift[i]]);
                for run in groups.runs(at, i) {
                    let along = line.with(&normalizer.fast, &run);
                    let y = &mut to[run.at.data - at.data..];
                    let sink = Sink { y, len: run.len, stream: false, ahead: 0 };
                    along.fill::<S, RELU>(simd, &values[run.at.data - at.data..], sink);
                }
            }
            put(simd, &tile, y, some * len, false);
            for i in (0..some).filter(|&i| exact[i]) {
                let moments = groups.exactly(normalizer, at, i, eps, true, &mut y[i * len..]);
                if let Some(kept) = kept {
                    let first = kept.len() - some;
                    kept[first + i] = moments;
                }
            }
        }
    }
}

/// What is found of several groups, in f32.
struct Found {
    len: usize,
    /// Near the mean.
    guess: [f32; GROUPS],
    /// What the mean is above that.
    offset: [f32; GROUPS],
    m2: [f32; GROUPS],
    /// Whether that is so: the guess was good, and f32 holds the sums.
    found: [bool; GROUPS],
}

/// The lines of several groups.
struct Lines {
    mean: [f32; GROUPS],
    scale: [f32; GROUPS],
    shift: [f32; GROUPS],
    /// Whether f32 holds them.
    hold: [bool; GROUPS],
}

impl Found {
    /// Of the first `some` groups in `x`: the mean by a pass of its own, then distances from that.
    #[inline(always)]
    fn new<S: Simd>(simd: S, x: &[f32], len: usize, some: usize) -> Found {
        let share = 1.0 / len as f32;
        let [mut guess, mut sum, mut squares] = [[0.0; GROUPS]; 3];
        for i in 0..some {
            let x = &x[i * len..];
            let [sum] = sums(simd, [Values::new(x, len)], [x[0]], &FromFirst(x[0]));
            guess[i] = x[0] + sum * share;
        }
        for i in 0..some {
            let values = Values::new(&x[i * len..], len);
            [sum[i], squares[i]] = sums(simd, [values], [guess[i]], &Distances(guess[i]));
        }
        let [mut offset, mut m2] = [[0.0; GROUPS]; 2];
        let mut found = [false; GROUPS];
        let tiny = (len as f64 * TINY) as f32;
        for i in 0..GROUPS {
            offset[i] = sum[i] * share;
            m2[i] = squares[i] - sum[i] * offset[i];
            let held = (squares[i] >= tiny) & (squares[i] < f32::INFINITY);
            found[i] = held & (squares[i] <= GOOD as f32 * m2[i]);
        }
        Found { len, guess, offset, m2, found }
    }

    fn moments(&self, i: usize) -> Moments {
        let mean = f64::from(self.guess[i]) + f64::from(self.offset[i]);
        Moments { count: self.len as f64, mean, m2: self.m2[i].into() }
    }

    #[inline(always)]
    fn lines(&self, eps: f32, [weight, bias]: &[[f32; GROUPS]; 2]) -> Lines {
        let share = 1.0 / self.len as f32;
        let [mut scale, mut shift] = [[0.0; GROUPS]; 2];
        let mut hold = [false; GROUPS];
        for i in 0..GROUPS {
            scale[i] = weight[i] / (self.m2[i] * share + eps).sqrt();
            shift[i] = bias[i] - self.offset[i] * scale[i];
            let large = SAFE.end as f32;
            let numbers = (self.guess[i].abs() < large) & (shift[i].abs() < large);
            let size = scale[i].abs();
            let safe = (size == 0.0) | ((size >= SAFE.start as f32) & (size < large));
            hold[i] = self.found[i] & numbers & safe;
        }
        Lines { mean: self.guess, scale, shift, hold }
    }
}
