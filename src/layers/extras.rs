//! What a call takes besides x.

use crate::{Activation, Mask, Statistics, Tensor};

/// What a call takes besides x: the fused epilogue `act(value + addend)`, a mask, statistics from
/// elsewhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Extras<'a> {
    /// Added before the activation; x's shape, element type and memory order.
    pub addend: Option<Tensor<'a>>,
    /// Applied last; `None` is the layer's own (none, but for FusedBatchNorm).
    pub activation: Option<Activation>,
    /// Which positions count.
    pub mask: Option<Mask>,
    /// Used instead of x's own, and whether they depend on x, see
    /// [`with_statistics`](Self::with_statistics).
    pub statistics: Option<(Statistics, bool)>,
}

impl<'a> Extras<'a> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor of x's description (a residual branch), in the same pass over memory.
    pub fn with_addend(mut self, addend: &Tensor<'a>) -> Self {
        self.addend = Some(addend.clone());
        self
    }

    /// Applies an activation, in the same pass over memory.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Ignores the positions that `mask` does not count.
    pub fn with_mask(mut self, mask: &Mask) -> Self {
        self.mask = Some(mask.clone());
        self
    }

    /// Normalizes with these statistics instead of x's own, in either mode. They are part of the
    /// graph (merged from shards or tiles of which x is one): dx has mean terms, from
    /// [`GroupSums`](crate::GroupSums) merged likewise. In [`Mode::Train`](crate::Mode::Train) running statistics move towards them.
    pub fn with_statistics(mut self, statistics: &Statistics) -> Self {
        self.statistics = Some((statistics.clone(), true));
        self
    }

    /// As [`with_statistics`](Self::with_statistics), but constants: dx has no mean terms.
    pub fn with_constant_statistics(mut self, statistics: &Statistics) -> Self {
        self.statistics = Some((statistics.clone(), false));
        self
    }
}
