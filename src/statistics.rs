//! Statistics as data: what tiles, shards and other kernels exchange.

use crate::{Context, Error, ShapeError, Tensor, ops};

/// `(count, mean, m2)` of every group, m2 being Σ(x−mean)²: enough to merge the statistics of parts
/// of a group into those of the whole (Chan's formula), and to normalize with.
///
/// Produced by [`NormLayer::statistics`](crate::NormLayer::statistics), used through
/// [`Extras::with_statistics`](crate::Extras::with_statistics).
#[derive(Clone, Debug)]
pub struct Statistics {
    pub(crate) tensor: Tensor<'static>,
}

/// `(count, Σγg, Σγg·xhat)` of every group, g being the gradient behind the epilogue: what dx needs
/// to know of its whole group.
///
/// Produced by [`NormLayer::group_sums`](crate::NormLayer::group_sums), used through
/// [`NormLayer::backward_with_sums`](crate::NormLayer::backward_with_sums).
#[derive(Clone, Debug)]
pub struct GroupSums {
    pub(crate) tensor: Tensor<'static>,
}

impl Statistics {
    /// Statistics computed elsewhere, for example by a convolution's epilogue: shape `(groups, 4)`,
    /// each group's `(count, mean, residual, m2)`, where the mean is `mean + residual` (0 where one
    /// float is enough). f32 on a GPU, f64 on the host. Groups in the order of the layer's
    /// statistics: `n·C + c` for InstanceNorm, `c` for BatchNorm, `n·G + g` for GroupNorm; for LayerNorm
    /// and RmsNorm rows in their order in memory, so that only those of one memory order may be merged.
    /// Four zeros are the statistics of nothing: they add nothing to others, and normalize as mean 0 and
    /// variance 0.
    ///
    /// Or shape `(groups, parts, 4)`, of as many parts of each group, at least one: whoever normalizes with
    /// them merges them, in their order.
    ///
    /// # Errors
    /// [`ShapeError`] for another shape or element type.
    pub fn from_tensor(tensor: Tensor<'static>) -> Result<Self, ShapeError> {
        check_tensor("Statistics", &tensor, 3)?;
        Ok(Statistics { tensor })
    }

    /// How many parts of each group these are of.
    pub fn parts(&self) -> u32 {
        match self.tensor.shape()[..] {
            [_, parts, _] => parts as u32,
            _ => 1,
        }
    }

    /// The data, as [`from_tensor`](Self::from_tensor) describes them.
    pub fn tensor(&self) -> &Tensor<'static> {
        &self.tensor
    }

    /// The statistics of both sets of elements together, group by group.
    ///
    /// # Errors
    /// [`ShapeError::Operand`] for another number of groups,
    /// [`OperandError`](crate::OperandError) if either is not on `context`.
    pub fn merge(&self, context: &Context, other: &Statistics) -> Result<Statistics, Error> {
        same_groups("Statistics", &self.tensor, &other.tensor)?;
        let tensor = ops::merge(context, &self.tensor, &other.tensor, ops::Merge::Moments)?;
        Ok(Statistics { tensor })
    }
}

impl GroupSums {
    /// Sums computed elsewhere: shape `(groups, 4)`, each group's `(count, Σγg, Σγg·xhat, 0)`.
    ///
    /// # Errors
    /// [`ShapeError`] for another shape or element type.
    pub fn from_tensor(tensor: Tensor<'static>) -> Result<Self, ShapeError> {
        check_tensor("GroupSums", &tensor, 2)?;
        Ok(GroupSums { tensor })
    }

    /// The data, as [`from_tensor`](Self::from_tensor) describes them.
    pub fn tensor(&self) -> &Tensor<'static> {
        &self.tensor
    }

    /// The sums over both sets of elements.
    ///
    /// # Errors
    /// As [`Statistics::merge`].
    pub fn merge(&self, context: &Context, other: &GroupSums) -> Result<GroupSums, Error> {
        same_groups("GroupSums", &self.tensor, &other.tensor)?;
        let tensor = ops::merge(context, &self.tensor, &other.tensor, ops::Merge::Sums)?;
        Ok(GroupSums { tensor })
    }
}

/// Entries of four numbers, in a tensor of two axes or as many as `most`.
fn check_tensor(layer: &'static str, tensor: &Tensor<'_>, most: usize) -> Result<(), ShapeError> {
    let expected = if tensor.is_on_host() { crate::DType::F64 } else { crate::DType::F32 };
    if tensor.dtype() != expected {
        let got = tensor.dtype();
        return Err(ShapeError::DType { layer, operand: "tensor", expected, got });
    }
    let expected =
        if most == 3 { "2 (groups, 4) or 3 (groups, parts, 4)" } else { "2 (groups, 4)" };
    match tensor.shape()[..] {
        [_, 4] => Ok(()),
        [_, parts, 4] if most == 3 && parts > 0 => Ok(()),
        _ => Err(ShapeError::Rank { layer, expected, got: tensor.shape().clone() }),
    }
}

fn same_groups(layer: &'static str, a: &Tensor<'_>, b: &Tensor<'_>) -> Result<(), ShapeError> {
    if a.shape() == b.shape() {
        return Ok(());
    }
    let (expected, got) = (a.shape().clone(), b.shape().clone());
    Err(ShapeError::Operand { layer, operand: "other", expected, got })
}
