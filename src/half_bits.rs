//! Conversions of the 16-bit element types, by integer operations that compilers vectorize.
//!
//! Not those of the `half` crate: where the processor has f16 instructions, it rounds f64 twice, and
//! otherwise it takes a value just beside a tie for the tie.

use half::f16;

/// An f16 as f32, exactly.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    // The exponent's bias is 112 less than that of f32; the product is exact, also below the normals.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let magnitude = if magnitude >= 0x0F80_0000 { magnitude | 0x7F80_0000 } else { finite };
    f32::from_bits(magnitude | u32::from(bits & 0x8000) << 16)
}

/// A bf16 as f32, exactly.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest f16, ties to even; from 65520 on infinity.
#[inline(always)]
pub(crate) fn narrow_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let (magnitude, sign) = (bits & 0x7FFF_FFFF, bits >> 16 & 0x8000);
    // Adding 1/2 leaves the f16's bits below the normals, rounded, at the end of the f32.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
    let normal =
        magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + (magnitude >> 13 & 1)) >> 13;
    // One after another, not a match: compilers then use no branches.
    let mut bits = if magnitude < 0x3880_0000 { small } else { normal };
    if magnitude >= 0x477F_F000 {
        bits = 0x7C00;
    }
    if magnitude > 0x7F80_0000 {
        bits = 0x7E00;
    }
    (bits | sign) as u16
}

/// The nearest bf16, ties to even.
#[inline(always)]
pub(crate) fn narrow_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let bits = if v.is_nan() { bits >> 16 | 0x40 } else { rounded };
    bits as u16
}

/// The f32 next to `v` towards zero, its last bit set if that is not `v` itself: rounding it again, to
/// fewer bits, is as rounding `v` at once. NaN stays NaN.
#[inline(always)]
pub(crate) fn round_to_odd(v: f64) -> f32 {
    let near = v as f32;
    let back = f64::from(near);
    let beyond = u32::from(back.abs() > v.abs());
    f32::from_bits((near.to_bits() - beyond) | u32::from(back != v))
}

/// As many elements of both types, as f32; the faster of [`widen_f16`] and the processor's own.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "instructions that not every processor has")
)]
pub(crate) fn widen_f16s(from: &[f16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if f16c::is_there() {
        // SAFETY: these instructions are there.
        return unsafe { f16c::widen(from, to) };
    }
    to.iter_mut().zip(from).for_each(|(to, v)| *to = widen_f16(v.to_bits()));
}

/// As many elements of both types, the nearest f16; the faster of [`narrow_f16`] and the processor's own,
/// which rounds f32 alike.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "instructions that not every processor has")
)]
pub(crate) fn narrow_f16s(from: &[f32], to: &mut [f16]) {
    #[cfg(target_arch = "x86_64")]
    if f16c::is_there() {
        // SAFETY: these instructions are there.
        return unsafe { f16c::narrow(from, to) };
    }
    to.iter_mut().zip(from).for_each(|(to, &v)| *to = f16::from_bits(narrow_f16(v)));
}

/// x86-64's conversions of eight at a time.
#[cfg(target_arch = "x86_64")]
mod f16c {
    use half::f16;
    use std::arch::x86_64::{
        __m128i, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps,
        _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_storeu_ps,
    };

    /// Whether the others may be called.
    #[inline(always)]
    pub fn is_there() -> bool {
        is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx")
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn widen(from: &[f16], to: &mut [f32]) {
        let (from, from_rest) = from.as_chunks();
        let (to, to_rest) = to.as_chunks_mut();
        for (from, to) in from.iter().zip(to) {
            widen_eight(from, to);
        }
        let (mut eight, mut wide) = ([f16::ZERO; 8], [0.0; 8]);
        let rest = from_rest.len().min(to_rest.len());
        eight[..rest].copy_from_slice(&from_rest[..rest]);
        widen_eight(&eight, &mut wide);
        to_rest[..rest].copy_from_slice(&wide[..rest]);
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn narrow(from: &[f32], to: &mut [f16]) {
        let (from, from_rest) = from.as_chunks();
        let (to, to_rest) = to.as_chunks_mut();
        for (from, to) in from.iter().zip(to) {
            narrow_eight(from, to);
        }
        let (mut wide, mut eight) = ([0.0; 8], [f16::ZERO; 8]);
        let rest = from_rest.len().min(to_rest.len());
        wide[..rest].copy_from_slice(&from_rest[..rest]);
        narrow_eight(&wide, &mut eight);
        to_rest[..rest].copy_from_slice(&eight[..rest]);
    }

    #[target_feature(enable = "avx,f16c")]
    #[expect(unsafe_code, reason = "loads and stores of vectors")]
    fn widen_eight(from: &[f16; 8], to: &mut [f32; 8]) {
        // SAFETY: 16 bytes are read and 32 written, at any alignment.
        unsafe {
            let words = _mm_loadu_si128(from.as_ptr().cast::<__m128i>());
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(words));
        }
    }

    #[target_feature(enable = "avx,f16c")]
    #[expect(unsafe_code, reason = "loads and stores of vectors")]
    fn narrow_eight(from: &[f32; 8], to: &mut [f16; 8]) {
        // SAFETY: 32 bytes are read and 16 written, at any alignment.
        unsafe {
            let wide = _mm256_loadu_ps(from.as_ptr());
            let words = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide);
            _mm_storeu_si128(to.as_mut_ptr().cast::<__m128i>(), words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// All values but under Miri, which is slower a thousand times.
    const STEP: usize = if cfg!(miri) { 251 } else { 1 };

    fn f16_of(v: f64) -> u16 {
        narrow_f16(round_to_odd(v))
    }

    fn bf16_of(v: f64) -> u16 {
        narrow_bf16(round_to_odd(v))
    }

    /// `f` of the values at, and just beside, every number of the type and every tie between two.
    fn beside_all(widen: fn(u16) -> f32, largest: u16, f: impl Fn(f64, u16)) {
        for bits in (0..largest).step_by(STEP) {
            let (low, high) = (f64::from(widen(bits)), f64::from(widen(bits + 1)));
            let tie = (low + high) / 2.0;
            let even = bits + (bits & 1);
            for (v, expected) in [
                (low, bits),
                (low.next_up(), bits),
                (tie.next_down(), bits),
                (tie, even),
                (tie.next_up(), bits + 1),
                (high.next_down(), bits + 1),
            ] {
                f(v, expected);
                f(-v, expected | 0x8000);
            }
        }
    }

    #[test]
    fn f16_is_exact_and_rounds_once() {
        for bits in (0..=u16::MAX).step_by(STEP) {
            let expected = f16::from_bits(bits).to_f32();
            let got = widen_f16(bits);
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()));
        }
        beside_all(widen_f16, 0x7BFF, |v, expected| assert_eq!(f16_of(v), expected, "{v:e}"));
        for (v, expected) in [
            (65519.999999, 0x7BFF),
            (65520.0, 0x7C00),
            (1e300, 0x7C00),
            (-f64::INFINITY, 0xFC00),
            (5e-324, 0),
        ] {
            assert_eq!(f16_of(v), expected, "{v:e}");
        }
        assert!(f16::from_bits(f16_of(f64::NAN)).is_nan());
        assert!(f16::from_bits(f16_of(-f64::NAN)).is_nan());
    }

    #[test]
    fn bf16_is_exact_and_rounds_once() {
        for bits in (0..=u16::MAX).step_by(STEP) {
            let expected = bf16::from_bits(bits).to_f32();
            let got = widen_bf16(bits);
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()));
        }
        beside_all(widen_bf16, 0x7F7F, |v, expected| assert_eq!(bf16_of(v), expected, "{v:e}"));
        assert_eq!(bf16_of(1e300), 0x7F80);
        assert_eq!(bf16_of(f64::NEG_INFINITY), 0xFF80);
        assert!(bf16::from_bits(bf16_of(f64::NAN)).is_nan());
        assert!(bf16::from_bits(bf16_of(-f64::NAN)).is_nan());
    }

    /// Every f16: slices give what single values give.
    #[test]
    fn slices_are_widened_alike() {
        let all: Vec<f16> = (0..=u16::MAX).step_by(STEP).map(f16::from_bits).collect();
        let mut wide = vec![0.0; all.len() - 3];
        widen_f16s(&all[..wide.len()], &mut wide);
        for (v, wide) in all.iter().zip(&wide) {
            let expected = widen_f16(v.to_bits());
            assert!(wide.to_bits() == expected.to_bits() || (wide.is_nan() && v.is_nan()));
        }
    }

    /// Every f32 halfway between two f16 and beside.
    #[test]
    fn slices_are_narrowed_alike() {
        let beside = |bits: u32| (-2..=2).map(move |step: i32| bits.wrapping_add_signed(step));
        let halfway = (0..=u32::MAX >> 12).step_by(16 * STEP - 15).map(|i| i << 12);
        let values: Vec<f32> = halfway.flat_map(beside).map(f32::from_bits).collect();
        let mut narrow = vec![f16::ZERO; values.len()];
        narrow_f16s(&values, &mut narrow);
        for (&v, narrow) in values.iter().zip(narrow) {
            let expected = f16::from_bits(narrow_f16(v));
            let same = narrow.to_bits() == expected.to_bits();
            assert!(same || (narrow.is_nan() && expected.is_nan()), "{v:e}: {narrow}");
        }
    }
}
