//! Every tolerance of the tests that compare with the oracle, each with its reason. The golden set
//! brings its own.

/// Of y from batch statistics, relative to max(1, |y|). f32 rounds to 6e-8; y is a product of a
/// distance (one rounding), a factor (inverseSqrt: 2 ULP in WGSL, product: 1) and a sum: 5 roundings
/// at |xhat| up to about 5, and a GPU's mean is off by another rounding of the distances' scale.
pub const Y: f64 = 2e-6;

/// Of running statistics, relative to max(1, |value|): a blend of two f32 values (three roundings)
/// and a mean over samples.
pub const RUNNING: f64 = 1e-6;

/// The first element that is off, in words, if any is.
pub fn compare(got: &[f32], want: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} values, expected {}", got.len(), want.len()));
    }
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = tolerance * w.abs().max(1.0);
        let same = (f64::from(g) - w).abs() <= bound || (g.is_nan() && w.is_nan());
        if !same {
            return Err(format!("[{i}] is {g}, expected {w} within {bound:e}"));
        }
    }
    Ok(())
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    if let Err(difference) = compare(got, want, tolerance) {
        panic!("{what}: {difference}");
    }
}
