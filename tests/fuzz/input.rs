//! Choices from bytes.

/// What is left of the bytes; zeros behind their end, so that any bytes are choices.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    /// The next bytes, the lowest first where they are a number.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        bytes[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Of a byte, so of 256 at most.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    pub fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    pub fn float(&mut self) -> f64 {
        match self.byte() {
            // Any bits: NaN, infinities and subnormals as well.
            255 => f64::from_bits(u64::from_le_bytes(self.bytes())),
            at => {
                let at = usize::from(at) % SPECIAL.len();
                SPECIAL[at]
            }
        }
    }
}

/// Numbers at which arithmetic changes its ways.
pub const SPECIAL: [f64; 18] = [
    1e-5,
    0.1,
    0.0,
    1.0,
    -1e-5,
    -0.0,
    -2.5,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    5e-324,
    f64::MIN_POSITIVE,
    f32::MIN_POSITIVE as f64,
    1e-40,
    f32::MAX as f64,
    1e30,
    1e300,
    f64::MAX,
];
