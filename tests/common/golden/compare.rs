//! The bar of `GOLDEN.md`, point 3.

use super::Run;
use super::index::{Expected, Stats};
use crate::common::{data, tolerance};
use wgnorm::DType;

/// Values that cannot meet the bar for an honest reason. They are held to
/// min(2·err_f64, atol), the recorded system's own accuracy.
pub struct Exception {
    pub case: &'static str,
    pub name: &'static str,
    pub reason: &'static str,
}

pub const EXCEPTIONS: [Exception; 0] = [];

/// What a tensor should be, and how close.
pub struct Wanted {
    /// Of the whole tensor, or of the sampled elements.
    pub values: Vec<f64>,
    /// Flat indices of the sampled elements of a large output.
    pub sampled: Option<Vec<usize>>,
    pub atol: f64,
    pub rtol: f64,
    /// The type it is stored in.
    dtype: DType,
    len: usize,
    stats: Option<Stats>,
    /// How far the recorded system's output, which `stats` are of, is from the truth.
    err_f64: f64,
}

impl Wanted {
    /// What the golden set wants of `name`.
    pub fn load(run: &Run<'_>, name: &str) -> Result<Wanted, String> {
        let (golden, file) = (run.golden, run.case.file()?);
        let expected = run.expected(name)?;
        let tol = expected.tol.ok_or("no tolerance")?;
        let len = expected.shape.as_ref().ok_or("no shape")?.iter().product();
        let stored = || golden.values(file, expected.tensor.as_ref().ok_or("no stored tensor")?);
        let truth = expected.truth_f64.as_ref().or(expected.sample_f64.as_ref());
        if expected.prefer.as_deref().is_some_and(|prefer| prefer != "truth_f64") {
            return Err(format!("{name}: unknown preference {:?}", expected.prefer));
        }
        let good = run.good(expected)?;
        let values = truth.map(|truth| golden.values(file, truth)).transpose()?;
        let (values, atol, rtol) = match values {
            Some(truth) => match run.case.tier.as_str() {
                "core" => (truth, good.0, good.1),
                // Outside the bar, but whoever gets it right at all gets it as right.
                _ => (truth, good.0.min(tol.atol), good.1),
            },
            None => (stored()?, tol.atol, tol.rtol),
        };
        let excepted = EXCEPTIONS.iter().any(|e| e.case == run.case.id && e.name == name);
        let atol = if excepted { tol.atol.min(2.0 * tol.err_f64) } else { atol };
        let sampled = match &expected.sample_index {
            None => None,
            Some(index) => Some(golden.integers(file, index)?),
        };
        let (dtype, stats) = (expected.dtype()?, expected.stats.clone());
        Ok(Wanted { values, sampled, atol, rtol, dtype, len, stats, err_f64: tol.err_f64 })
    }

    /// A truth computed by the test, held to the bar of `name`.
    pub fn truth(run: &Run<'_>, name: &str, values: Vec<f64>) -> Result<Wanted, String> {
        let expected = run.expected(name)?;
        let (atol, rtol) = run.good(expected)?;
        let (dtype, len) = (expected.dtype()?, values.len());
        Ok(Wanted { values, sampled: None, atol, rtol, dtype, len, stats: None, err_f64: 0.0 })
    }

    /// For tests of the comparison of elements alone.
    pub fn forget_stats(&mut self) {
        self.stats = None;
    }

    pub fn bound(&self, want: f64) -> f64 {
        self.atol + self.rtol * want.abs() + tolerance::half_ulp(self.dtype, want)
    }

    /// The largest share of its bound that a value needs, or what is off.
    pub fn check(&self, got: &[f64]) -> Result<f64, String> {
        if got.len() != self.len {
            return Err(format!("{} values, expected {}", got.len(), self.len));
        }
        let (mut wrong, mut first, mut worst) = (0, None, 0f64);
        for (i, &want) in self.values.iter().enumerate() {
            let at = self.sampled.as_ref().map_or(i, |index| index[i]);
            let share = self.share(got[at], want);
            // Not `share > 1`: a NaN must count.
            if share <= 1.0 {
                worst = worst.max(share);
            } else {
                wrong += 1;
                first.get_or_insert((at, got[at], want));
            }
        }
        if let Some((at, got, want)) = first {
            let (of, bound) = (self.values.len(), self.bound(want));
            return Err(format!(
                "[{at}] is {got:e}, expected {want:e} within {bound:e} ({wrong} of {of} are off)"
            ));
        }
        self.check_stats(got)?;
        Ok(worst)
    }

    /// Error over bound; infinite where a special value does not match.
    fn share(&self, got: f64, want: f64) -> f64 {
        let same = |same: bool| if same { 0.0 } else { f64::INFINITY };
        if want.is_nan() || got.is_nan() {
            return same(want.is_nan() && got.is_nan());
        }
        // A truth beyond the type's largest value is an infinity there.
        let rounded = data::round(self.dtype, want);
        if rounded.is_infinite() || got.is_infinite() {
            return same(got == rounded);
        }
        let error = (got - want).abs();
        if error == 0.0 { 0.0 } else { error / self.bound(want) }
    }

    /// The elements that were not sampled, through sums: if every element is within `d` of the
    /// recorded system's, so are the extremes, and the sums are within the sum of that.
    fn check_stats(&self, got: &[f64]) -> Result<(), String> {
        let Some(stats) = &self.stats else {
            return Ok(());
        };
        let d = self.atol + self.err_f64;
        let (mut sum, mut sum_abs, mut sum_sq) = (0.0, 0.0, 0.0);
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for &v in got {
            sum += v;
            sum_abs += v.abs();
            sum_sq += v * v;
            min = min.min(v);
            max = max.max(v);
        }
        let count = stats.count as f64;
        let of_sum = count * d + self.rtol * stats.sum_abs;
        let of_squares = 2.0 * d * stats.sum_abs + count * d * d + 2.0 * self.rtol * stats.sum_sq;
        let of_extreme = |v: f64| d + self.rtol * v.abs();
        for (name, got, want, bound) in [
            ("count", got.len() as f64, count, 0.0),
            ("sum", sum, stats.sum, of_sum),
            ("sum of |y|", sum_abs, stats.sum_abs, of_sum),
            ("sum of y²", sum_sq, stats.sum_sq, of_squares),
            ("minimum", min, stats.min, of_extreme(stats.min)),
            ("maximum", max, stats.max, of_extreme(stats.max)),
        ] {
            let close = (got - want).abs() <= bound;
            if !close {
                return Err(format!("the {name} is {got:e}, expected {want:e} within {bound:e}"));
            }
        }
        Ok(())
    }
}

impl Expected {
    fn dtype(&self) -> Result<DType, String> {
        self.dtype.as_deref().unwrap_or("float32").parse::<DType>().map_err(|e| format!("{e}"))
    }
}

impl<'a> Run<'a> {
    pub fn expected(&self, name: &str) -> Result<&'a Expected, String> {
        let missing = || format!("{} expects no {name}", self.case.id);
        self.case.expected.get(name).ok_or_else(missing)
    }

    /// wgnorm's bar around a truth: (absolute, relative).
    fn good(&self, expected: &Expected) -> Result<(f64, f64), String> {
        let tol = expected.tol.ok_or("no tolerance")?;
        // WGSL's division and inverseSqrt are a few ULP off.
        let slack = if self.on_gpu() { 2.0 } else { 1.0 };
        Ok((slack * tol.atol_good, slack * tol.rtol))
    }
}
