//! What the integration tests share.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its own part of it"
)]

pub mod activations;
pub mod data;
pub mod device;
pub mod layer;
pub mod oracle;
pub mod random;
pub mod suite;
pub mod tolerance;
