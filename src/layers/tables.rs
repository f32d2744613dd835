//! Instance normalization whose weight and bias are tables, a value per sample and channel: what
//! AdaIn and ConditionalInstanceNorm have in common.

use super::rows::Map;
use super::{Extras, OneValue, Parameters, refuse_one_value};
use crate::desc::TensorDesc;
use crate::ops::Inputs;
use crate::problem::Problem;
use crate::{Backend, Context, DType, Error, ShapeError, Tensor};

/// Weight and bias, each `(N, C)` or `(1, C)`.
pub(super) type Tables = [Tensor<'static>; 2];

/// How content is normalized.
pub(super) struct Content<'a> {
    pub parameters: &'a Parameters,
    pub eps: f64,
    pub one_value: OneValue,
    /// Channels, if the layer was built for so many.
    pub features: Option<usize>,
}

impl<'a> Content<'a> {
    /// The problem without tables: a statistic per sample and channel.
    pub fn problem(&self, x: &TensorDesc) -> Result<Problem, ShapeError> {
        let layer = self.parameters.layer();
        if x.shape.len() < 2 {
            let expected = "2 (N, C) or more";
            return Err(ShapeError::Rank { layer, expected, got: x.shape.clone() });
        }
        let map = Map::new(layer, x, 1, self.features.unwrap_or(x.shape[1]))?;
        Ok(Problem::new(map.instance(), x.dtype, self.eps))
    }

    pub fn counted_values(&self, problem: &Problem) -> Option<u32> {
        (self.one_value == OneValue::Error).then(|| problem.view.group_len())
    }

    /// The operands of a call.
    pub fn inputs<'b, 't>(
        &self,
        context: &Context,
        x: &'b Tensor<'t>,
        tables: &'b Tables,
        extras: &'b Extras<'t>,
    ) -> Result<Inputs<'b, 't>, Error>
    where
        'a: 'b,
    {
        let layer = self.parameters.layer();
        let mut problem = self.problem(x.desc())?;
        if extras.statistics.is_none() {
            refuse_one_value(layer, x, self.counted_values(&problem))?;
        }
        let [n, c] = [x.shape()[0], x.shape()[1]];
        let rows = if tables[0].shape()[..] == [1, c] { 1 } else { n };
        for (operand, table) in ["weight", "bias"].into_iter().zip(tables) {
            let (expected, got) = ([rows, c].into(), table.shape().clone());
            if got != expected {
                return Err(ShapeError::Operand { layer, operand, expected, got }.into());
            }
            let (expected, got) = (DType::F32, table.dtype());
            if context.backend() == Backend::Gpu && got != expected {
                return Err(ShapeError::DType { layer, operand, expected, got }.into());
            }
        }
        problem.weight = true;
        problem.bias = true;
        // A row for each sample, or the same for all.
        problem.view.param[0] = if rows == 1 { 0 } else { problem.view.extent[1] };
        self.parameters.check_context(context)?;
        let inputs = self.parameters.inputs(x, extras, problem, Some(1));
        Inputs { weight: Some(&tables[0]), bias: Some(&tables[1]), ..inputs }.check()
    }
}
