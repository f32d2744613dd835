//! What the crate's own tests share.
#![allow(dead_code, unused_imports, unused_macros, reason = "fuzzing uses its own part of it")]

#[path = "../common/data.rs"]
pub mod data;
#[path = "../common/layer.rs"]
pub mod layer;
#[path = "../common/oracle/mod.rs"]
pub mod oracle;
#[path = "../common/random.rs"]
pub mod random;
#[path = "../common/suite/mod.rs"]
pub mod suite;
#[path = "../common/tolerance.rs"]
pub mod tolerance;
