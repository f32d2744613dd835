//! One call of any layer, forward and backward, against the oracle: the table of layers from which
//! parity, properties and gradients are tested. A new layer is one more [`Family`].

mod call;
mod case;
mod compare;
mod numbers;

pub use call::{Outcome, extras, forward, run};
pub use case::{ACTIVATIONS, Case, Family, From, Masking};
pub use compare::{check, compare};
pub use numbers::Data;

/// How far running statistics move in these tests.
pub const RATE: f64 = 0.3;
