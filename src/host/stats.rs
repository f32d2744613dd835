//! Mean and variance of groups, in f64; twin of `shaders/stats_row.wgsl`.

use super::fast;
use super::reduce::{self, Merge};
use super::walk::{Counts, Run, Walk};
use crate::Element;

/// Count, mean, and sum of squared deviations from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub count: f64,
    pub mean: f64,
    pub m2: f64,
}

impl Moments {
    /// From `count, mean, residual, m2`.
    pub fn read(&[count, mean, residual, m2]: &[f64; 4]) -> Self {
        Moments { count, mean: mean + residual, m2 }
    }

    /// As `count, mean, residual, m2`.
    pub fn write(self) -> [f64; 4] {
        [self.count, self.mean, 0.0, self.m2]
    }

    /// Population variance; of nothing 0.
    pub fn variance(self) -> f64 {
        if self.count == 0.0 { 0.0 } else { self.m2 / self.count }
    }
}

impl Merge for Moments {
    /// "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
    /// STAN-CS-79-773.
    fn merge(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        let count = self.count + other.count;
        let share = other.count / count;
        let delta = other.mean - self.mean;
        // An infinite mean stays that infinity.
        let mean =
            if delta.is_finite() { self.mean + delta * share } else { self.mean + other.mean };
        Moments { count, mean, m2: self.m2 + other.m2 + delta * delta * self.count * share }
    }
}

/// The moments of every key of `walk`: exact two-pass blocks that stay in cache, merged in order.
/// Without centering the mean is 0 and m2 the sum of squares.
pub(super) fn moments<T: Element>(
    walk: &Walk,
    x: &[T],
    mask: Option<&[u8]>,
    centered: bool,
) -> Vec<Moments> {
    let exactly = |block: &Walk| {
        let mut part = Block::new(block.keys(), centered);
        let runs =
            || block.runs(usize::MAX).filter(|run| !matches!(run.counts(mask), Counts::None));
        runs().for_each(|run| part.add_values(run, x, mask));
        part.take_means();
        runs().for_each(|run| part.add_squares(run, x, mask));
        part.moments()
    };
    reduce::reduce(walk, |block| {
        let fast = if mask.is_none() { fast::moments(block, x, centered) } else { None };
        let Some((mut moments, lost)) = fast else { return exactly(block) };
        if !lost.is_empty() {
            let exact = exactly(block);
            lost.into_iter().for_each(|key| moments[key] = exact[key]);
        }
        moments
    })
}

/// Sums over a block, by key.
struct Block {
    centered: bool,
    count: Vec<f64>,
    /// A value of the key, then the mean. Distances from it make a constant's mean exactly its value.
    origin: Vec<f64>,
    /// Σ(x − origin).
    sum: Vec<f64>,
    /// Σ(x − origin)².
    squares: Vec<f64>,
}

impl Block {
    fn new(keys: usize, centered: bool) -> Self {
        let [count, origin, sum, squares] = [0; 4].map(|_| vec![0.0; keys]);
        Block { centered, count, origin, sum, squares }
    }

    /// First pass over a run: counts, and where centered distances from the first value.
    fn add_values<T: Element>(&mut self, run: Run, x: &[T], mask: Option<&[u8]>) {
        let (key, x) = (run.at.key, run.slice(x));
        if run.step.key == 0 {
            let counts = run.counts(mask);
            if self.centered {
                if self.count[key] == 0.0 {
                    self.origin[key] = counts.first(x).map_or(0.0, origin);
                }
                let origin = self.origin[key];
                let [sum] = sums(x, &counts, |v| [v - origin]);
                self.sum[key] += sum;
            }
            self.count[key] += counts.number(run.len) as f64;
        } else {
            let keys = key..key + run.len;
            if self.centered {
                let origins = &mut self.origin[keys.clone()];
                if self.count[key] == 0.0 {
                    origins.iter_mut().zip(x).for_each(|(o, &v)| *o = origin(v.widen()));
                }
                for ((sum, &origin), &v) in self.sum[keys.clone()].iter_mut().zip(&*origins).zip(x)
                {
                    *sum += v.widen() - origin;
                }
            }
            self.count[keys].iter_mut().for_each(|count| *count += 1.0);
        }
    }

    /// Between the passes: distances are from the mean from here on.
    fn take_means(&mut self) {
        for ((origin, sum), &count) in self.origin.iter_mut().zip(&mut self.sum).zip(&self.count) {
            if count > 0.0 {
                *origin += *sum / count;
            }
            *sum = 0.0;
        }
    }

    /// Second pass over a run.
    fn add_squares<T: Element>(&mut self, run: Run, x: &[T], mask: Option<&[u8]>) {
        let (key, x) = (run.at.key, run.slice(x));
        if run.step.key == 0 {
            let mean = self.origin[key];
            let distances = |v| [v - mean, (v - mean) * (v - mean)];
            let [sum, squares] = sums(x, &run.counts(mask), distances);
            self.sum[key] += sum;
            self.squares[key] += squares;
        } else {
            let keys = key..key + run.len;
            let sums = self.sum[keys.clone()].iter_mut().zip(&mut self.squares[keys.clone()]);
            for (((sum, squares), &mean), &v) in sums.zip(&self.origin[keys]).zip(x) {
                let distance = v.widen() - mean;
                *sum += distance;
                *squares += distance * distance;
            }
        }
    }

    fn moments(self) -> Vec<Moments> {
        let sums = self.sum.into_iter().zip(self.squares);
        let keys = self.count.into_iter().zip(self.origin).zip(sums);
        keys.map(|((count, mean), (sum, m2))| {
            // What rounding left in the mean; not a number beside an infinity.
            let residual = sum / count;
            if self.centered && residual.is_finite() {
                Moments { count, mean: mean + residual, m2: m2 - residual * sum }
            } else {
                Moments { count, mean, m2 }
            }
        })
        .collect()
    }
}

/// What distances are taken from. Not from an infinity: the mean is that infinity, not NaN.
fn origin(first: f64) -> f64 {
    if first.is_finite() { first } else { 0.0 }
}

/// Σ f(v) over the values that count, in a fixed order of eight partial sums, which vectorize.
#[inline(always)]
pub(super) fn sums<T: Element, const K: usize>(
    x: &[T],
    counts: &Counts<'_>,
    f: impl Fn(f64) -> [f64; K],
) -> [f64; K] {
    const LANES: usize = 8;
    let mut lanes = [[0.0f64; LANES]; K];
    let mut add = |lane: usize, terms: [f64; K]| {
        for (lanes, term) in lanes.iter_mut().zip(terms) {
            lanes[lane] += term;
        }
    };
    let (whole, rest) = x.as_chunks::<LANES>();
    match counts {
        Counts::None => {}
        Counts::All => {
            for values in whole {
                for (lane, &v) in values.iter().enumerate() {
                    add(lane, f(v.widen()));
                }
            }
            for (lane, &v) in rest.iter().enumerate() {
                add(lane, f(v.widen()));
            }
        }
        Counts::Some(mask) => {
            for (i, (&v, &counts)) in x.iter().zip(*mask).enumerate() {
                add(i % LANES, if counts == 0 { [0.0; K] } else { f(v.widen()) });
            }
        }
    }
    lanes.map(|[a, b, c, d, e, f, g, h]| ((a + e) + (b + f)) + ((c + g) + (d + h)))
}
