//! Kernels over a few numbers per group, beside the layers' own passes.

use super::geometry::{ENTRY, Geometry, check_limit};
use super::{Caps, Kernel, Offsets, Operand, Overrides, Plan};
use crate::{DType, Estimator, PlanError, Problem, View};

/// Work on statistics, tables and banks: one dispatch each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Small {
    /// [`Operand::Moments`] and [`Operand::Sums`] merged entry by entry into [`Operand::Gathered`].
    Merge {
        /// Number of entries.
        entries: u32,
        /// Summed, not merged as moments.
        add: bool,
    },
    /// [`Operand::Moments`] of parts of groups, merged into [`Operand::Gathered`].
    Gather {
        /// Number of groups.
        entries: u32,
        /// Parts of each.
        parts: u32,
    },
    /// Deviations and means of [`Operand::Moments`] into [`Operand::WeightOut`] and
    /// [`Operand::BiasOut`].
    StyleTables {
        /// Number of entries.
        entries: u32,
        /// Added to the variance inside the root.
        eps: f64,
        /// Which variance.
        estimator: Estimator,
    },
    /// Rows of [`Operand::Bias`] blended by the matrix [`Operand::Weight`] into
    /// [`Operand::WeightOut`].
    Mix {
        /// Rows of the result, columns, and rows blended.
        extent: [u32; 3],
        /// Strides of the matrix along the result's rows and the blended ones.
        strides: [u32; 2],
        /// Added to what is there.
        add: bool,
    },
}

impl Plan {
    /// Plans one of them.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn small(small: &Small, caps: &Caps, offsets: &Offsets) -> Result<Plan, PlanError> {
        let mut view =
            View { extent: [1; 4], data: [0, 0, 0, 1], param: [0; 4], stat: [0; 4], mask: [0; 4] };
        let mut eps = 0.0;
        let mut freedom = 0.0;
        let mut overrides = Overrides::default();
        let mut parts = 1;
        let (kernel, entries, operands, largest) = match *small {
            Small::Gather { entries, parts: given } => {
                parts = given;
                let operands = [Operand::Moments, Operand::Absent, Operand::Gathered];
                let bytes = u64::from(entries) * u64::from(parts);
                let bytes = bytes.saturating_mul(ENTRY);
                (Kernel::GatherMoments, entries, operands, bytes)
            }
            Small::Merge { entries, add } => {
                overrides.accumulate = add;
                (
                    Kernel::MergeEntries,
                    entries,
                    [Operand::Moments, Operand::Sums, Operand::Gathered],
                    u64::from(entries) * ENTRY,
                )
            }
            Small::StyleTables { entries, eps: given, estimator } => {
                eps = given;
                freedom = if estimator == Estimator::Unbiased { 1.0 } else { 0.0 };
                let operands = [Operand::Moments, Operand::WeightOut, Operand::BiasOut];
                (Kernel::StyleTables, entries, operands, u64::from(entries) * ENTRY)
            }
            Small::Mix { extent: [rows, columns, terms], strides: [along, across], add } => {
                overrides.accumulate = add;
                view.extent = [rows, columns, terms, 1];
                view.param = [along, 0, across, 0];
                let operands = [Operand::Weight, Operand::Bias, Operand::WeightOut];
                let sides = [u64::from(rows), u64::from(columns), u64::from(terms)];
                let largest =
                    (sides[0] * sides[2]).max(sides[2] * sides[1]).max(sides[0] * sides[1]);
                // What 32 bits do not count is above the limit of any binding.
                (Kernel::MixRows, rows.saturating_mul(columns), operands, largest.saturating_mul(4))
            }
        };
        if entries == 0 {
            return Ok(Plan::default());
        }
        check_limit("a table", largest, caps.max_binding)?;
        let problem = Problem::new(view, DType::F32, eps);
        let geometry = Geometry::new(&problem, view, caps, offsets);
        let mut stage = geometry.entries(kernel, entries, parts, parts, overrides, &operands)?;
        stage.task.style[2] = freedom;
        Ok(Plan { stages: vec![stage], ..Plan::default() })
    }
}
