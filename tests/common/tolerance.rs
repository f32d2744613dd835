//! Every tolerance of the tests that compare with the oracle, each with its reason. The golden set
//! brings its own.

use wgnorm::DType;

/// Of y from batch statistics, relative to max(1, |y|). f32 rounds to 6e-8; y is a product of a
/// distance (one rounding), a factor (inverseSqrt: 2 ULP in WGSL, product: 1) and a sum: 5 roundings
/// at |xhat| up to about 5, and a GPU's mean is off by another rounding of the distances' scale.
pub const Y: f64 = 2e-6;

/// Of running statistics, relative to max(1, |value|): a blend of two f32 values (three roundings)
/// and a mean over samples.
pub const RUNNING: f64 = 1e-6;

/// Of dx, relative to the sizes of its three terms: as y, and each of the two sums over the group is
/// a tree of f32 sums, off by less than ten roundings of the sizes that it sums.
pub const DX: f64 = 4e-6;

/// Of dweight and dbias, relative to the sizes that they sum: sums of f32 in blocks (below twenty
/// roundings on the longest path), xhat off as in y.
pub const DPARAM: f64 = 3e-6;

/// Of f64 against the oracle, which is no better itself, as a share of the tolerances above: 2^-53
/// is 2e-9 of 2^-24, and long plain sums lose two digits more.
const DOUBLE: f64 = 2e-7;

/// Of central differences in f64, relative to max(1, |gradient|): steps of 1e-5 leave the third
/// derivative's 1e-10, and 1e-16 of y over the step is 1e-11; sums over some hundred elements.
pub const DIFFERENCES: f64 = 1e-6;

/// What a value may be off.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Relative to max(1, scale).
    pub relative: f64,
    /// The type it is stored in, whose rounding is allowed on top.
    pub stored: DType,
}

impl Bound {
    /// Of a value computed as an `arithmetic` call does it, and stored as `stored`.
    pub fn new(relative: f64, arithmetic: DType, stored: DType) -> Bound {
        let share = if arithmetic == DType::F64 { DOUBLE } else { 1.0 };
        Bound { relative: relative * share, stored }
    }

    fn of(&self, want: f64, scale: f64) -> f64 {
        self.relative * scale.abs().max(1.0) + half_ulp(self.stored, want)
    }

    /// The first element that is off, in words, if any is. `scale` of each element, or one per value
    /// where it is the value itself.
    pub fn compare(&self, got: &[f64], want: &[f64], scale: &[f64]) -> Result<(), String> {
        if got.len() != want.len() || scale.len() != want.len() {
            return Err(format!("{} values, expected {}", got.len(), want.len()));
        }
        for (i, ((&g, &w), &scale)) in got.iter().zip(want).zip(scale).enumerate() {
            let bound = self.of(w, scale);
            // Half-way to the power of two behind the largest value, f16 rounds to infinity.
            let overflows = self.stored == DType::F16
                && w.abs() + bound >= 65_520.0
                && g == f64::INFINITY.copysign(w);
            let same = (g - w).abs() <= bound || (g.is_nan() && w.is_nan()) || g == w || overflows;
            if !same {
                return Err(format!("[{i}] is {g}, expected {w} within {bound:e}"));
            }
        }
        Ok(())
    }
}

/// Half a unit in the last place of a 16-bit type at this value, subnormals included; 0 of the types
/// that arithmetic is done in.
pub fn half_ulp(dtype: DType, value: f64) -> f64 {
    let (digits, smallest) = match dtype {
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        _ => return 0.0,
    };
    let exponent = if value == 0.0 { smallest } else { value.abs().log2().floor() as i32 };
    2f64.powi(exponent.max(smallest) - digits - 1)
}

/// The first element that is off, in words, if any is.
pub fn compare(got: &[f32], want: &[f64], tolerance: f64) -> Result<(), String> {
    let got: Vec<f64> = got.iter().map(|&v| f64::from(v)).collect();
    Bound { relative: tolerance, stored: DType::F32 }.compare(&got, want, want)
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    if let Err(difference) = compare(got, want, tolerance) {
        panic!("{what}: {difference}");
    }
}
