//! PyTorch's text of a layer.

use super::Affine;
use crate::{Momentum, Shape};
use std::fmt;

/// A float as Python prints it: `1e-05`, `0.1`, `1.0`.
pub(super) struct Float(pub f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both languages print the shortest digits that read back the same.
        let digits = format!("{:e}", self.0);
        match digits.split_once('e') {
            Some((mantissa, exponent)) => match exponent.parse() {
                Ok(-4i32..16) => write!(f, "{:?}", self.0),
                Ok(exponent) => {
                    let sign = if exponent < 0 { '-' } else { '+' };
                    write!(f, "{mantissa}e{sign}{:02}", exponent.unsigned_abs())
                }
                Err(_) => f.write_str(&digits),
            },
            None => f.write_str(&digits.to_ascii_lowercase()),
        }
    }
}

/// `True` or `False`.
pub(super) struct Bool(pub bool);

impl fmt::Display for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "True" } else { "False" })
    }
}

/// A Python tuple: `(6,)`, `(3, 5)`.
pub(super) struct Tuple<'a>(pub &'a Shape);

impl fmt::Display for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0[..] {
            [size] => write!(f, "({size},)"),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// `affine=…, bias=…`, as PyTorch prints them from 2.15 on; before there was no `bias=…`.
pub(super) struct Parameters(pub &'static str, pub Affine);

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parameters(name, affine) = *self;
        write!(f, "{name}={}, bias={}", Bool(affine.has_weight()), Bool(affine.has_bias()))
    }
}

/// The factor, or None where PyTorch's layer would have it.
pub(super) struct Step {
    pub momentum: Momentum,
    /// What the layer does with `momentum=None`.
    pub none: Momentum,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.momentum {
            Momentum::Factor(factor) => write!(f, "{}", Float(factor)),
            momentum if momentum == self.none => f.write_str("None"),
            Momentum::Cumulative => f.write_str("cumulative"),
            Momentum::Frozen => f.write_str("frozen"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        for (value, text) in [
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e-4, "0.0001"),
            (0.1, "0.1"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-1.2, "-1.2"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (2.5e100, "2.5e+100"),
            (1.1920928955078125e-07, "1.1920928955078125e-07"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(Float(value).to_string(), text);
        }
    }
}
