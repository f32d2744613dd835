//! The usual cases in f32 lanes: no mask, elements of at most 32 bits, numbers whose squares f32 holds.
//! The rest is left, block by block or group by group, to the loops in f64 around this folder.

mod apply;
mod columns;
mod grad_sums;
mod grads;
mod lanes;
mod row_grads;
mod rows;
mod short;
mod stats;

pub(super) use apply::Plan;
pub(super) use grad_sums::block_sums;
pub(super) use grads::write as write_gradients;
pub(super) use row_grads::{Params, backward};
pub(super) use rows::forward;
pub(super) use stats::moments;
