//! What the integration tests share. Each test binary uses its own part of it.
#![allow(dead_code)]

pub mod device;
pub mod oracle;
pub mod random;
pub mod suite;
pub mod tolerance;
