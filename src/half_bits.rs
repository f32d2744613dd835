//! Conversions of the 16-bit element types, by integer operations that compilers vectorize.
//!
//! Not those of the `half` crate: where the processor has f16 instructions, it rounds f64 twice, and
//! otherwise it takes a value just beside a tie for the tie.

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

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn f16_of(v: f64) -> u16 {
        narrow_f16(round_to_odd(v))
    }

    fn bf16_of(v: f64) -> u16 {
        narrow_bf16(round_to_odd(v))
    }

    /// `f` of the values at, and just beside, every number of the type and every tie between two.
    fn beside_all(widen: fn(u16) -> f32, largest: u16, f: impl Fn(f64, u16)) {
        for bits in 0..largest {
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
        for bits in 0..=u16::MAX {
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
        for bits in 0..=u16::MAX {
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
}
