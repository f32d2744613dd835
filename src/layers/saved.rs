//! What a forward pass leaves for its backward pass, and what that returns.

use crate::problem::Problem;
use crate::{DType, Mask, Shape, ShapeError, Tensor};

/// What a backward pass needs of its forward pass: x, the statistics, and where there is an
/// activation the addend and the parameters. Explicit: there is no hidden tape.
///
/// It shares x's data and does not copy them; x must not be overwritten before the backward pass.
/// Parameters set on the layer meanwhile do not change it.
#[derive(Clone, Debug)]
pub struct Saved<'a> {
    pub(crate) layer: &'static str,
    pub(crate) problem: Problem,
    pub(crate) x: Tensor<'a>,
    pub(crate) addend: Option<Tensor<'a>>,
    pub(crate) weight: Option<Tensor<'static>>,
    pub(crate) bias: Option<Tensor<'static>>,
    pub(crate) mask: Option<Mask>,
    /// `(count, mean, residual, m2)` per statistic; of running ones `(1, mean, 0, variance)`.
    pub(crate) moments: Tensor<'static>,
    /// Which parameters want a gradient: `weight`, `bias`.
    pub(crate) wants: [bool; 2],
}

impl Saved<'_> {
    /// What was computed.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The shapes of the parameter gradients that are wanted.
    pub(crate) fn wanted_shapes(&self) -> [Option<&Shape>; 2] {
        let [weight, bias] = self.wants;
        [self.weight.as_ref().filter(|_| weight), self.bias.as_ref().filter(|_| bias)]
            .map(|param| param.map(Tensor::shape))
    }

    /// The element type of parameter gradients: f32, or f64 of f64 tensors.
    pub(crate) fn gradient_type(&self) -> DType {
        if self.x.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
    }
}

/// The gradients of a layer's operands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grads {
    /// Of x, as x is.
    pub dx: Tensor<'static>,
    /// Of `weight`, its shape; f32 (f64 of f64 tensors). None without a weight or if it is frozen.
    pub dweight: Option<Tensor<'static>>,
    /// Of `bias`, as [`dweight`](Self::dweight).
    pub dbias: Option<Tensor<'static>>,
    /// Of the addend, as x is; none without an addend.
    pub daddend: Option<Tensor<'static>>,
}

impl Grads {
    /// Whether gradients of these shapes, where there are any, can be added to these.
    pub(crate) fn check_accumulate(
        &self,
        saved: &Saved<'_>,
        shapes: [Option<&Shape>; 2],
    ) -> Result<(), ShapeError> {
        let layer = saved.layer;
        let grads = [("dweight", &self.dweight), ("dbias", &self.dbias)];
        for ((operand, grad), shape) in grads.into_iter().zip(shapes) {
            let (Some(grad), Some(shape)) = (grad, shape) else { continue };
            if grad.shape() != shape {
                let (expected, got) = (shape.clone(), grad.shape().clone());
                return Err(ShapeError::Operand { layer, operand, expected, got });
            }
            if grad.dtype() != saved.gradient_type() {
                let (expected, got) = (saved.gradient_type(), grad.dtype());
                return Err(ShapeError::DType { layer, operand, expected, got });
            }
        }
        Ok(())
    }

    /// With those of `old` parameters of which there are none here.
    pub(crate) fn keeping(self, old: Option<&Grads>) -> Grads {
        let kept = |new: Option<Tensor<'static>>, old: Option<&Tensor<'static>>| {
            new.or_else(|| old.cloned())
        };
        let dweight = kept(self.dweight, old.and_then(|old| old.dweight.as_ref()));
        let dbias = kept(self.dbias, old.and_then(|old| old.dbias.as_ref()));
        Grads { dweight, dbias, ..self }
    }
}
