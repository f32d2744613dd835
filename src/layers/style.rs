//! [`AdaIn`] with a style tensor.

use super::{AdaIn, Extras, NormLayer, Saved};
use crate::desc::TensorDesc;
use crate::ops;
use crate::problem::{Estimator, Mode};
use crate::{Backend, Context, DType, Error, ShapeError, Statistics, Tensor};

/// What the backward pass of [`AdaIn::forward_style_saved`] needs. As [`Saved`] it shares x's and the
/// style's data.
#[derive(Clone, Debug)]
pub struct AdaInSaved<'a> {
    content: Saved<'a>,
    style: Tensor<'a>,
    statistics: Statistics,
}

/// The gradients of [`AdaIn`]'s operands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdaInGrads {
    /// Of x, as x is.
    pub dx: Tensor<'static>,
    /// Of the style, as it is.
    pub dstyle: Tensor<'static>,
    /// Of the addend, as x is; none without an addend.
    pub daddend: Option<Tensor<'static>>,
}

impl AdaIn {
    /// Gives `x` the style's deviations and means.
    ///
    /// # Errors
    /// See [`AdaIn`]; [`OperandError`](crate::OperandError) if an operand is not on `context`.
    pub fn forward_style(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        style: &Tensor<'_>,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_style_with(context, x, style, &Extras::new())
    }

    /// As [`forward_style`](Self::forward_style), with an addend, an activation, a mask, statistics
    /// of x.
    ///
    /// # Errors
    /// As [`forward_style`](Self::forward_style), and [`ShapeError`] for extras that do not fit x.
    pub fn forward_style_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        style: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<Tensor<'static>, Error> {
        check_style(x.desc(), style.desc())?;
        let (weight, bias) = self.style_tables(context, style)?;
        self.forward_tables_with(context, x, &weight, &bias, extras)
    }

    /// As [`forward_style`](Self::forward_style), and also returns what
    /// [`backward_style`](Self::backward_style) needs.
    ///
    /// # Errors
    /// As [`forward_style`](Self::forward_style).
    pub fn forward_style_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        style: &Tensor<'a>,
    ) -> Result<(Tensor<'static>, AdaInSaved<'a>), Error> {
        self.forward_style_saved_with(context, x, style, &Extras::new())
    }

    /// As [`forward_style_with`](Self::forward_style_with), and also returns what
    /// [`backward_style`](Self::backward_style) needs.
    ///
    /// # Errors
    /// As [`forward_style_with`](Self::forward_style_with).
    pub fn forward_style_saved_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        style: &Tensor<'a>,
        extras: &Extras<'a>,
    ) -> Result<(Tensor<'static>, AdaInSaved<'a>), Error> {
        check_style(x.desc(), style.desc())?;
        let statistics = self.style_statistics(context, style)?;
        let (weight, bias) = self.tables_of(context, style, &statistics)?;
        let (y, content) = self.forward_tables_saved_with(context, x, &weight, &bias, extras)?;
        Ok((y, AdaInSaved { content, style: style.clone(), statistics }))
    }

    /// The gradients of x and the style, from the gradient `dy` of the output.
    ///
    /// # Errors
    /// As [`NormLayer::backward`].
    pub fn backward_style(
        &self,
        context: &Context,
        saved: &AdaInSaved<'_>,
        dy: &Tensor<'_>,
    ) -> Result<AdaInGrads, Error> {
        let grads = self.backward(context, &saved.content, dy)?;
        let tables = [grads.dweight, grads.dbias].map(|g| g.expect("tables are never frozen"));
        let dstyle = ops::style_gradient(
            context,
            &self.problem(saved.style.desc(), Mode::Eval)?,
            &saved.style,
            &saved.statistics,
            tables.each_ref(),
            self.settings().style_estimator,
        )?;
        Ok(AdaInGrads { dx: grads.dx, dstyle, daddend: grads.daddend })
    }

    /// A style's tables: of each sample and channel the deviation (`weight`) and the mean (`bias`),
    /// both `(N, C)`, to be kept, blended, used again with [`forward_tables`](Self::forward_tables).
    ///
    /// # Errors
    /// As [`forward_style`](Self::forward_style).
    pub fn style_tables(
        &self,
        context: &Context,
        style: &Tensor<'_>,
    ) -> Result<(Tensor<'static>, Tensor<'static>), Error> {
        let statistics = self.style_statistics(context, style)?;
        self.tables_of(context, style, &statistics)
    }

    fn style_statistics(&self, context: &Context, style: &Tensor<'_>) -> Result<Statistics, Error> {
        let view = self.problem(style.desc(), Mode::Eval)?.view;
        let needed = match self.settings().style_estimator {
            Estimator::Biased => 1,
            Estimator::Unbiased => 2,
        };
        if view.groups() > 0 && view.group_len() < needed {
            let (layer, operand, got) = (Self::NAME, "style", style.shape().clone());
            return Err(ShapeError::FewValues { layer, operand, needed, got }.into());
        }
        self.statistics(context, style, None)
    }

    fn tables_of(
        &self,
        context: &Context,
        style: &Tensor<'_>,
        statistics: &Statistics,
    ) -> Result<(Tensor<'static>, Tensor<'static>), Error> {
        let (eps, estimator) = (self.settings().eps, self.settings().style_estimator);
        let shape = [style.shape()[0], style.shape()[1]];
        let (weight, bias) = ops::style_tables(context, statistics, eps, estimator, shape)?;
        match (context.backend(), style.dtype()) {
            (Backend::Gpu, _) | (_, DType::F64) => Ok((weight, bias)),
            // The host has them in f64.
            _ => Ok((weight.cast(DType::F32)?, bias.cast(DType::F32)?)),
        }
    }
}

/// A style is as x but for its size, and one for all samples or one for each.
fn check_style(x: &TensorDesc, style: &TensorDesc) -> Result<(), ShapeError> {
    let (layer, operand) = (AdaIn::NAME, "style");
    if let ([n, c, ..], [styles, _, ..]) = (&x.shape[..], &style.shape[..]) {
        let mut expected = style.shape.to_vec();
        expected[0] = if *styles == 1 { 1 } else { *n };
        expected[1] = *c;
        if style.shape[..] != expected[..] {
            let (expected, got) = (expected.into(), style.shape.clone());
            return Err(ShapeError::Operand { layer, operand, expected, got });
        }
    }
    if style.dtype != x.dtype {
        return Err(ShapeError::DType { layer, operand, expected: x.dtype, got: style.dtype });
    }
    if style.order != x.order {
        return Err(ShapeError::Order { layer, operand, expected: x.order, got: style.order });
    }
    Ok(())
}
