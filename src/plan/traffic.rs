//! What a plan moves.

use super::{Access, Kernel, Operand, Plan, Role, Stage};
use crate::View;

/// Bytes that a plan moves, each counted once per dispatch that needs it, as if caches held what
/// workgroups share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read of the elements of x, dy and the addend.
    pub read: u64,
    /// Written of the elements of y, dx and the addend's gradient.
    pub written: u64,
    /// Read and written of everything else: statistics, parameters, partial results, masks.
    pub entries: u64,
    /// Number of dispatches.
    pub dispatches: u32,
    /// Objects of wgpu (uniform buffers and bind groups) that the first call with its operands makes.
    /// Later ones make none.
    pub objects: u32,
}

impl Plan {
    /// What it moves, and what it takes to record it.
    pub fn traffic(&self) -> Traffic {
        let dispatches = self.stages.len() as u32;
        let mut traffic = Traffic { dispatches, objects: 2 * dispatches, ..Traffic::default() };
        for stage in &self.stages {
            for (&(role, written), &operand) in stage.kernel.bindings().iter().zip(&stage.operands)
            {
                // x that lies in y's buffer is read all the same.
                let shared = role == Role::X && stage.overrides.shared;
                if operand == Operand::Absent && !shared {
                    continue;
                }
                match (role.is_data(), written) {
                    (true, false) => traffic.read += stage.element_bytes(),
                    (true, true) => traffic.written += stage.element_bytes(),
                    (false, _) => traffic.entries += stage.entry_bytes(role, operand),
                }
            }
        }
        traffic
    }
}

impl Stage {
    /// Groups, and slices of each, that this dispatch works on.
    fn extent(&self) -> [u64; 2] {
        let [_, _, slices, items] = self.task.span;
        [u64::from(items / slices), u64::from(slices)]
    }

    /// Bytes of the elements that it touches of each tensor.
    fn element_bytes(&self) -> u64 {
        let [groups, slices] = self.extent();
        let [_, slice_len, len, _] = self.task.slicing.map(u64::from);
        let first = u64::from(self.task.span[1]) * slice_len;
        let element = if matches!(self.access, Access::F32x1 | Access::F32x4) { 4 } else { 2 };
        groups * (slices * slice_len).min(len - first) * element
    }

    /// Bytes of what it reads or writes in a role that is not of elements.
    fn entry_bytes(&self, role: Role, operand: Operand) -> u64 {
        const ENTRY: u64 = size_of::<[f32; 4]>() as u64;
        let View { extent, param, mask, .. } = self.task.view;
        let length = |strides: [u32; 4]| {
            let axes = extent.iter().zip(strides);
            1 + axes.map(|(&n, stride)| u64::from(n - 1) * u64::from(stride)).sum::<u64>()
        };
        let [mut groups, slices] = self.extent();
        if self.window.len == 0 {
            // Kernels over entries read all of them.
            groups = groups.max(u64::from(extent[0]) * u64::from(extent[1]));
        }
        let parts = u64::from(self.task.slicing[3]);
        // Of a group's channels, where its sums are gathered from those.
        let kin = match self.kernel {
            Kernel::GatherSums => u64::from(self.overrides.kin.max(1)),
            _ => 1,
        };
        let of_columns = self.overrides.column_sums && role == Role::Sums;
        match (role, operand) {
            (Role::Weight | Role::Bias | Role::WeightOut | Role::BiasOut, _) => length(param) * 4,
            (Role::Mask, _) => length(mask),
            (Role::Running, _) => groups * 8,
            (Role::Tracked, _) => 4,
            _ if of_columns => {
                let [x, y, _] = self.workgroups.map(u64::from);
                x * y * u64::from(self.task.slicing[2]) * ENTRY
            }
            // Moments, with the sums beside them.
            (_, Operand::Gathered) => groups * 2 * ENTRY,
            (_, Operand::Partials) => groups * kin * slices.max(parts) * ENTRY,
            _ => groups * parts.max(1) * ENTRY,
        }
    }
}
