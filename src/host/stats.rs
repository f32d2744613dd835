//! Mean and variance of a group, twin of `shaders/stats_row.wgsl`.

use super::parallel::{self, BLOCK};

/// Count, mean, and sum of squared deviations from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub count: f64,
    pub mean: f64,
    pub m2: f64,
}

impl Moments {
    /// Population variance.
    pub fn variance(&self) -> f64 {
        self.m2 / self.count
    }

    /// "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
    /// STAN-CS-79-773.
    fn merge(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
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

/// Moments of a group: exact two-pass blocks that stay in cache, merged in order.
pub(super) fn moments(x: &[f32]) -> Moments {
    if x.len() <= BLOCK {
        return block_moments(x);
    }
    let blocks = parallel::map_blocks(x, block_moments);
    blocks.into_iter().fold(Moments::default(), Moments::merge)
}

fn block_moments(x: &[f32]) -> Moments {
    let count = x.len() as f64;
    // Distances from the first value: a constant block has exactly its value as mean. Not from an
    // infinite one: the mean is that infinity, not NaN.
    let origin = if x[0].is_finite() { f64::from(x[0]) } else { 0.0 };
    let mean = origin + sum(x, |v| v - origin) / count;
    let m2 = sum(x, |v| (v - mean) * (v - mean));
    Moments { count, mean, m2 }
}

/// Σ f(v) in a fixed order of eight partial sums, which vectorize.
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for values in whole {
        for (sum, &v) in sums.iter_mut().zip(values) {
            *sum += f(f64::from(v));
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum += f(f64::from(v));
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_merge_to_the_whole() {
        let x: Vec<f32> = (0..3 * BLOCK + 17).map(|i| 1e6 + (i % 1009) as f32).collect();
        let all = moments(&x);
        let n = x.len() as f64;
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let m2: f64 = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        assert_eq!(all.count, n);
        approx::assert_relative_eq!(all.mean, mean, max_relative = 1e-14);
        approx::assert_relative_eq!(all.m2, m2, max_relative = 1e-12);
    }

    #[test]
    fn an_infinity_is_the_mean_wherever_it_stands() {
        for at in [0, 1, BLOCK, 2 * BLOCK + 2] {
            let mut x = vec![1.0f32; 2 * BLOCK + 3];
            x[at] = f32::NEG_INFINITY;
            let all = moments(&x);
            assert_eq!(all.mean, f64::NEG_INFINITY);
            assert!(all.m2.is_nan());
            x[BLOCK + 5] = f32::INFINITY;
            assert!(moments(&x).mean.is_nan());
        }
    }

    #[test]
    fn a_constant_is_its_own_mean() {
        let all = moments(&vec![0.1f32; 2 * BLOCK + 3]);
        assert_eq!((all.mean, all.m2), (f64::from(0.1f32), 0.0));
    }
}
