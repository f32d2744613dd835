//! How a [`Problem`](crate::Problem) is run on a device with given limits: a pure function to plain
//! data.
//!
//! Every performance decision of the GPU path is taken here ([`Plan::forward`], [`Plan::backward`]);
//! layers and shaders see none of them.

mod backward;
mod forward;
mod geometry;
mod small;
mod traffic;
mod tuning;

pub use small::Small;
pub use traffic::Traffic;
pub use tuning::{TunedCall, Tuning, Tunings};

use crate::{DType, View};
use smallvec::SmallVec;

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
    /// Most storage buffers of one dispatch.
    pub storage_buffers: u32,
    /// Bytes of the last cache before memory; 0 if that is not known. Tensors beyond it, with groups that
    /// need two passes, are worked on run by run.
    pub cache: u64,
    /// Which plan was found to be the fastest there, if it was measured.
    pub tuning: Tuning,
}

impl Caps {
    /// What every WebGPU device has: the default limits of the specification.
    pub const WEBGPU: Caps = Caps {
        lanes: 256,
        max_binding: 128 << 20,
        max_grid: 65_535,
        offset_alignment: 256,
        storage_buffers: 8,
        cache: 0,
        tuning: Tuning::Planned,
    };
}

/// Byte offsets of the operands in their buffers. They decide alignment and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offsets {
    /// Of the input.
    pub x: u64,
    /// Of the output: `y` forward, `dx` backward.
    pub y: u64,
    /// Of the addend, 0 without one.
    pub addend: u64,
    /// Of the output's gradient, 0 forward.
    pub dy: u64,
    /// Of `weight`, 0 without one.
    pub weight: u64,
    /// Of `bias`, 0 without one.
    pub bias: u64,
    /// Whether x lies in y's buffer, maybe at the same place. A buffer is not read and written in one dispatch, so x
    /// is then read through y's binding. Of forward passes.
    pub shared: bool,
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
    /// One entry per statistic, from partials or running statistics.
    GatherMoments,
    /// Moves running statistics towards the batch's.
    UpdateRunning,
    /// Counts a training step.
    CountStep,
    /// The whole backward pass in one dispatch, groups in registers: two reads, one write.
    GradRow,
    /// The same with an addend, whose gradient it writes too.
    GradRowAddend,
    /// The addend's gradient.
    EpilogueGrad,
    /// Partial sums of gradients over slices of groups.
    SumsRow,
    /// The same, and the addend's gradient.
    SumsRowAddend,
    /// One entry per group, from partial sums.
    GatherSums,
    /// Parameter gradients, from partial sums.
    GatherParams,
    /// The input's gradient.
    InputGrad,
    /// Two vectors of statistics or sums, merged.
    MergeEntries,
    /// AdaIN's tables from a style's statistics.
    StyleTables,
    /// Rows blended by weights.
    MixRows,
}

/// What a binding number means, in every kernel alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Role {
    /// The uniform block.
    Task = 0,
    /// The input's elements.
    X = 1,
    /// The output's elements.
    Y = 2,
    /// The addend's elements.
    Addend = 3,
    /// `weight`.
    Weight = 4,
    /// `bias`.
    Bias = 5,
    /// `(count, mean, residual, m2)` per statistic or partial.
    Moments = 6,
    /// `running_mean`, then `running_var`.
    Running = 7,
    /// The count of steps.
    Tracked = 8,
    /// The elements of the output's gradient.
    Dy = 9,
    /// Sums of gradients per group or partial.
    Sums = 10,
    /// A byte per sample and position.
    Mask = 11,
    /// Gathered moments or sums.
    Out = 12,
    /// `dweight`, or a table.
    WeightOut = 13,
    /// `dbias`, or a table.
    BiasOut = 14,
    /// The elements of the addend's gradient.
    Gradient = 15,
}

impl Role {
    /// Whether it holds the elements of a tensor, of which a window is bound.
    pub fn is_data(self) -> bool {
        matches!(self, Role::X | Role::Y | Role::Addend | Role::Dy | Role::Gradient)
    }
}

/// What is bound in a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// Nothing: a placeholder.
    Absent,
    /// The input.
    X,
    /// The output: `y` forward, `dx` backward.
    Y,
    /// The addend.
    Addend,
    /// `weight`.
    Weight,
    /// `bias`.
    Bias,
    /// One entry per statistic: given, saved, or to be saved.
    Moments,
    /// The running statistics.
    Running,
    /// The count of steps.
    Tracked,
    /// The output's gradient.
    Dy,
    /// The addend's gradient, where it is not dy itself.
    Gradient,
    /// One entry of sums per group: given, or to be returned.
    Sums,
    /// The mask.
    Mask,
    /// `dweight`, or a table to be written.
    WeightOut,
    /// `dbias`, or a table to be written.
    BiasOut,
    /// Scratch for partials.
    Partials,
    /// Scratch for what is gathered from them.
    Gathered,
}

impl Kernel {
    /// All kernels.
    pub const ALL: [Kernel; 17] = [
        Kernel::NormRow,
        Kernel::StatsRow,
        Kernel::Apply,
        Kernel::GatherMoments,
        Kernel::UpdateRunning,
        Kernel::CountStep,
        Kernel::GradRow,
        Kernel::GradRowAddend,
        Kernel::EpilogueGrad,
        Kernel::SumsRow,
        Kernel::SumsRowAddend,
        Kernel::GatherSums,
        Kernel::GatherParams,
        Kernel::InputGrad,
        Kernel::MergeEntries,
        Kernel::StyleTables,
        Kernel::MixRows,
    ];

    /// Storage bindings, and whether each is written.
    pub fn bindings(self) -> &'static [(Role, bool)] {
        use Role::*;
        match self {
            Kernel::NormRow => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, true),
                (Mask, false),
            ],
            Kernel::StatsRow => &[(X, false), (Moments, true), (Mask, false)],
            Kernel::Apply => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Running, false),
                (Mask, false),
            ],
            Kernel::GatherMoments => &[(Moments, false), (Running, false), (Out, true)],
            Kernel::UpdateRunning => &[(Moments, false), (Running, true), (Tracked, false)],
            Kernel::CountStep => &[(Tracked, true)],
            Kernel::GradRow => &[
                (X, false),
                (Y, true),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Sums, true),
                (Mask, false),
            ],
            Kernel::GradRowAddend => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Sums, true),
                (Mask, false),
                (Gradient, true),
            ],
            Kernel::EpilogueGrad => &[
                (X, false),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Mask, false),
                (Gradient, true),
            ],
            Kernel::SumsRow => &[
                (X, false),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Sums, true),
                (Mask, false),
            ],
            Kernel::SumsRowAddend => &[
                (X, false),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Sums, true),
                (Mask, false),
                (Gradient, true),
            ],
            Kernel::GatherSums => &[(Weight, false), (Moments, false), (Sums, false), (Out, true)],
            Kernel::GatherParams => &[(Sums, false), (WeightOut, true), (BiasOut, true)],
            Kernel::InputGrad => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Dy, false),
                (Mask, false),
            ],
            Kernel::MergeEntries => &[(Moments, false), (Sums, false), (Out, true)],
            Kernel::StyleTables => &[(Moments, false), (WeightOut, true), (BiasOut, true)],
            Kernel::MixRows => &[(Weight, false), (Bias, false), (WeightOut, true)],
        }
    }
}

/// How elements are loaded and stored; each is a WGSL file (and for 16 bits a second one) with the
/// same function names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// One f32 at a time, neighbouring lanes side by side: any length, any offset.
    F32x1,
    /// Four f32 at a time: runs and offsets are multiples of four elements.
    F32x4,
    /// One f16 at a time, packed by two into words.
    F16x1,
    /// Four f16 at a time.
    F16x4,
    /// One bf16 at a time.
    BF16x1,
    /// Four bf16 at a time.
    BF16x4,
}

impl Access {
    /// All of them.
    pub const ALL: [Access; 6] = [
        Access::F32x1,
        Access::F32x4,
        Access::F16x1,
        Access::F16x4,
        Access::BF16x1,
        Access::BF16x4,
    ];

    fn of(dtype: DType, by_four: bool) -> Access {
        match (dtype, by_four) {
            (DType::F16, false) => Access::F16x1,
            (DType::F16, true) => Access::F16x4,
            (DType::BF16, false) => Access::BF16x1,
            (DType::BF16, true) => Access::BF16x4,
            (_, false) => Access::F32x1,
            (_, true) => Access::F32x4,
        }
    }

    /// Whether it takes four elements at a time.
    pub fn is_by_four(self) -> bool {
        matches!(self, Access::F32x4 | Access::F16x4 | Access::BF16x4)
    }
}

/// Values of the pipeline-overridable constants of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overrides {
    /// Invocations in a workgroup, a power of two.
    pub wg: u32,
    /// Groups (or slices) that a workgroup works on side by side; divides `wg`.
    pub rows: u32,
    /// How many of these `rows` have work.
    pub taken: u32,
    /// Rows side by side that are one group, where backward passes take its channels apart; else 0.
    pub kin: u32,
    /// vec4 steps that a lane keeps in registers: 1, 2, 4, 8, and in `NormRow` 16.
    pub tile: u32,
    /// Whether neighbouring lanes work on neighbouring groups.
    pub columns: bool,
    /// Whether a group is a contiguous run of elements.
    pub dense: bool,
    /// Whether the mean is subtracted.
    pub centered: bool,
    /// Whether x is read through y's binding (`NormRow`, `Apply`).
    pub shared: bool,
    /// Whether statistics come from the running ones.
    pub running: bool,
    /// Whether statistics (`NormRow`) or sums (`GradRow`) are also written out.
    pub save: bool,
    /// Whether sums over groups of each position are written out (`GradRow`).
    pub column_sums: bool,
    /// Whether a mask is bound.
    pub masked: bool,
    /// Whether `weight` is bound.
    pub weight: bool,
    /// Whether `bias` is bound.
    pub bias: bool,
    /// Whether `weight` and `bias` vary within a group.
    pub inside: bool,
    /// Whether statistics vary within a group.
    pub stats_inside: bool,
    /// Whether the addend is bound.
    pub addend: bool,
    /// The activation's number.
    pub activation: u32,
    /// Whether sums are of the gradient times the weight (`SumsRow`).
    pub weighted: bool,
    /// Whether entries of moments and of sums alternate.
    pub paired: bool,
    /// Whether statistics do not depend on x (`InputGrad`, `GradRow`).
    pub constant: bool,
    /// Whether gradients are added to what is there.
    pub accumulate: bool,
    /// Whether the factor is 1 / count (`UpdateRunning`).
    pub cumulative: bool,
    /// Whether the variance is divided by M−1 (`UpdateRunning`).
    pub unbiased: bool,
}

/// The uniform block of a dispatch, as the shaders' `struct Task` reads it. Its contents never
/// change once written: they are the key under which its buffer is kept.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Task {
    /// Axes and strides.
    pub view: View,
    /// First group, first slice, slices per group in this dispatch, rows in all.
    pub span: [u32; 4],
    /// Slices per group in all, elements of a slice, elements of a group, partials per statistic.
    pub slicing: [u32; 4],
    /// Added to an element's index to find it in the binding of x, y, addend, dy (wrapping).
    pub base: [u32; 4],
    /// The same for weight, bias, the addend's gradient; rows that a row of lanes takes in turn.
    pub param_base: [u32; 4],
    /// eps, momentum, 1 − momentum, slope of a leaky ReLU.
    pub scalars: [f32; 4],
    /// Factor of weight, factor of bias, subtracted from a count to divide m2 by, 1 where rows are taken
    /// from the last to the first.
    pub style: [f32; 4],
}

/// The elements of the tensor that a dispatch touches: one binding of x, y, addend and dy.
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
    /// What is bound, in the order of [`Kernel::bindings`].
    pub operands: SmallVec<[Operand; 8]>,
    /// Its uniform block.
    pub task: Task,
    /// The elements bound.
    pub window: Window,
    /// The grid.
    pub workgroups: [u32; 3],
}

/// The dispatches of a problem, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The dispatches.
    pub stages: Vec<Stage>,
    /// Bytes of partial statistics or sums between them.
    pub partials: u64,
    /// Bytes of what is gathered from partials and used by a later dispatch.
    pub gathered: u64,
}

/// What a forward pass leaves behind besides y.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keep {
    /// Nothing.
    #[default]
    Nothing,
    /// The statistics, one entry each, in [`Operand::Moments`].
    Moments,
}

/// What a backward pass computes besides dx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wants {
    /// `dweight`.
    pub weight: bool,
    /// `dbias`.
    pub bias: bool,
    /// Added to what is there, not written over it.
    pub accumulate: bool,
    /// Whether the groups' sums are given, in [`Operand::Sums`].
    pub given_sums: bool,
}

/// The byte range of a binding for a window of an operand, or of two in one buffer: an aligned start, and a size.
pub(crate) fn binding_range(
    offsets: [u64; 2],
    window: &Window,
    alignment: u64,
    element: u64,
) -> (u64, u64) {
    let [first, last] = [offsets[0].min(offsets[1]), offsets[0].max(offsets[1])];
    let begin = |offset: u64| offset + u64::from(window.first) * element;
    let start = begin(first) - begin(first) % alignment;
    (start, begin(last) + u64::from(window.len) * element - start)
}

/// What to add to a tensor index to get the index in the binding of [`binding_range`]. Wraps:
/// windows deep in a large tensor start at element 0 of their binding.
pub(crate) fn binding_shift(
    offset: u64,
    offsets: [u64; 2],
    window: &Window,
    alignment: u64,
    element: u64,
) -> u32 {
    let (start, _) = binding_range(offsets, window, alignment, element);
    (offset / element).wrapping_sub(start / element) as u32
}
