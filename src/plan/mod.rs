//! How a [`Problem`](crate::Problem) is run on a device with given limits: a pure function to plain
//! data.
//!
//! Every performance decision of the GPU path is taken here ([`Plan::forward`]); layers and shaders
//! see none of them.

mod forward;

use crate::View;

/// What the planner needs to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Most invocations in a workgroup.
    pub lanes: u32,
    /// Most bytes of one storage binding.
    pub max_binding: u64,
    /// Most workgroups along one dimension of a dispatch.
    pub max_grid: u32,
    /// Alignment of a storage binding's byte offset.
    pub offset_alignment: u64,
}

/// Byte offsets of the operands in their buffers. They decide alignment and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offsets {
    /// Of the input.
    pub x: u64,
    /// Of the output.
    pub y: u64,
    /// Of the addend, 0 without one.
    pub addend: u64,
    /// Of `weight`, 0 without one.
    pub weight: u64,
    /// Of `bias`, 0 without one.
    pub bias: u64,
}

/// The kernels, one WGSL file each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// Statistics and normalize in one dispatch, groups in registers: one read, one write.
    NormRow,
    /// Partial statistics of slices of groups.
    StatsRow,
    /// Normalize with statistics merged from partials, or given.
    Apply,
    /// Moves running statistics towards the batch's.
    UpdateRunning,
    /// Counts a training step.
    CountStep,
}

/// How elements are loaded and stored; each is a WGSL file with the same function names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// One f32 at a time, neighbouring lanes side by side: any length, any offset.
    F32x1,
    /// Four f32 at a time: rows and offsets are multiples of four elements.
    F32x4,
}

/// Values of the pipeline-overridable constants of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overrides {
    /// Invocations in a workgroup, a power of two.
    pub wg: u32,
    /// Groups (or slices) that a workgroup works on side by side; divides `wg`.
    pub rows: u32,
    /// vec4 steps that a lane keeps in registers (`NormRow`): 1, 2, 4, 8 or 16.
    pub tile: u32,
    /// Whether statistics are given (`Apply`) instead of merged from partials.
    pub running: bool,
    /// Whether statistics are also written out (`NormRow`).
    pub save: bool,
    /// Whether `weight` is bound.
    pub weight: bool,
    /// Whether `bias` is bound.
    pub bias: bool,
    /// Whether the addend is bound.
    pub addend: bool,
    /// 0 none, 1 ReLU.
    pub activation: u32,
    /// Whether the factor is 1 / count (`UpdateRunning`).
    pub cumulative: bool,
    /// Whether the variance is divided by M−1 (`UpdateRunning`).
    pub unbiased: bool,
}

/// The uniform block of a dispatch, as the shaders' `struct Task` reads it. Its contents never
/// change once written: they are the key under which its buffer is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "gpu", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Task {
    /// Axes and strides.
    pub view: View,
    /// First group, first slice, slices per group in this dispatch, rows in all.
    pub span: [u32; 4],
    /// Slices per group in all, elements of a slice, elements of a group, unused.
    pub slicing: [u32; 4],
    /// Added to an element's index to find it in the binding of x, y, addend (wrapping); unused.
    pub base: [u32; 4],
    /// The same for weight and bias; unused.
    pub param_base: [u32; 4],
    /// eps, momentum, 1 − momentum, unused.
    pub scalars: [f32; 4],
}

/// The elements of the tensor that a dispatch touches: one binding of x, y and addend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First element.
    pub first: u32,
    /// Number of elements.
    pub len: u32,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Which kernel.
    pub kernel: Kernel,
    /// Which element file.
    pub access: Access,
    /// Its constants.
    pub overrides: Overrides,
    /// Its uniform block.
    pub task: Task,
    /// The elements bound.
    pub window: Window,
    /// The grid.
    pub workgroups: [u32; 3],
}

/// The dispatches of a problem, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The dispatches.
    pub stages: Vec<Stage>,
    /// Bytes of partial statistics between them.
    pub scratch: u64,
}

/// The byte range of an operand's binding for a window: an aligned start, and a size.
pub(crate) fn binding_range(offset: u64, window: &Window, alignment: u64) -> (u64, u64) {
    let begin = offset + u64::from(window.first) * 4;
    let start = begin - begin % alignment;
    (start, begin + u64::from(window.len) * 4 - start)
}

/// What to add to a tensor index to get the index in the binding of [`binding_range`]. Wraps:
/// windows deep in a large tensor start at element 0 of their binding.
pub(crate) fn binding_shift(offset: u64, window: &Window, alignment: u64) -> u32 {
    let (start, _) = binding_range(offset, window, alignment);
    (offset / 4).wrapping_sub(start / 4) as u32
}
