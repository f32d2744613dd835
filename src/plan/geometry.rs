//! How the elements of a view are shared out among workgroups, lanes and dispatches.

use super::tuning::Knobs;
use super::{
    Access, Caps, Kernel, Offsets, Operand, Overrides, Plan, Stage, Task, Window, binding_range,
    binding_shift,
};
use crate::problem::{Momentum, Problem, StatSource};
use crate::{Activation, PlanError, View};
use std::ops::Range;

/// vec4 that a workgroup keeps in registers, all lanes together: 16 Ki words, beyond which GPUs spill
/// at full occupancy.
const REGISTERS: u32 = 4096;
/// Most slices of a split group: every workgroup of `apply` merges them all, one per lane.
const SLICES_MAX: u32 = 256;
/// Groups side by side where neighbouring lanes work on neighbouring groups: 32 f32 are a cache
/// line of 128 bytes. Fewer, down to [`COLUMNS_MIN`], where longer groups then stay in registers.
const COLUMNS: u32 = 32;
/// Eight f32 are a sector of 32 bytes, the least that GPUs fetch.
const COLUMNS_MIN: u32 = 8;
/// Workgroups that share out a tensor whose groups are summed up position by position: two for each of
/// 128 compute units. Each writes as many entries as a group has positions.
const STRIPS: u32 = 256;
/// Groups that such a workgroup takes at least: its entries (16 bytes written, 16 read) are then a twelfth
/// of what it moves of x, dy and dx (12 bytes an element).
const STRIP_MIN: u32 = 32;
/// Most runs of groups through the cache: so many times two dispatches wait for each other.
const RUNS_MAX: u32 = 64;
/// Slices are multiples of this, so that each starts at a vec4 and at an aligned byte.
const SLICE_STEP: u32 = 64;

/// Bytes of one entry of statistics or sums.
pub(super) const ENTRY: u64 = 16;

/// How groups are shared out among the rows of lanes of a workgroup.
#[derive(Clone, Copy)]
pub(super) struct Slicing {
    pub slices: u32,
    pub slice_len: u32,
    pub rows: u32,
    pub tile: u32,
    /// Groups that a row of lanes takes one after the other.
    pub turns: u32,
    /// Groups that stay together in a workgroup.
    pub kin: u32,
}

impl Slicing {
    /// Rows of a workgroup that have work.
    fn taken(&self) -> u32 {
        self.rows - self.rows % self.kin
    }

    /// Bytes of a partial entry for each slice of each group.
    pub fn partials(&self, view: &View) -> u64 {
        u64::from(view.groups()) * u64::from(self.slices) * ENTRY
    }
}

/// A view to be walked on a device.
pub(super) struct Geometry<'a> {
    pub problem: &'a Problem,
    /// The problem's own, or with its axes re-sorted.
    pub view: View,
    pub caps: &'a Caps,
    pub offsets: &'a Offsets,
    knobs: Knobs,
    wg: u32,
    /// vec4 steps of a lane up to which a group stays in registers.
    tile_max: u32,
    dense: bool,
    columns: bool,
    /// Most elements of the tensor that one binding shows.
    window: u64,
}

/// The contiguous parts into which the outermost axis in memory cuts a tensor whose groups are not
/// contiguous themselves: what a window is made of where one binding does not show it all.
#[derive(Clone, Copy)]
enum Slab {
    /// So many whole groups, in so many elements.
    Groups(u32, u32),
    /// So many positions of all groups, in so many elements.
    Positions(u32, u32),
}

impl Slab {
    fn of(view: &View) -> Option<Slab> {
        let outermost =
            (0..4).filter(|&axis| view.extent[axis] > 1).max_by_key(|&d| view.data[d])?;
        let (extent, stride) = (view.extent[outermost], view.data[outermost]);
        if u64::from(extent) * u64::from(stride) != u64::from(view.elements()) {
            return None;
        }
        match outermost {
            0 => Some(Slab::Groups(view.extent[1], stride)),
            1 if view.extent[0] == 1 => Some(Slab::Groups(1, stride)),
            2 => Some(Slab::Positions(view.extent[3], stride)),
            3 if view.extent[2] == 1 => Some(Slab::Positions(1, stride)),
            _ => None,
        }
    }
}

/// One kernel's work over the elements of a view.
pub(super) struct Pass<'a> {
    pub kernel: Kernel,
    pub slicing: Slicing,
    /// All groups, or those of a run.
    pub groups: Range<u32>,
    /// Entries per statistic in the moments or sums it reads.
    pub parts: u32,
    pub overrides: Overrides,
    /// What is bound where it is not the operand of the role's own name.
    pub bound: &'a [(super::Role, Operand)],
    /// In the task's last line.
    pub style: [f32; 4],
}

/// Weight and bias as they are, m2 divided by the count.
pub(super) const PLAIN: [f32; 4] = [1.0, 1.0, 0.0, 0.0];
/// The same, rows from the last to the first: for what another pass has just read.
pub(super) const BACKWARDS: [f32; 4] = [1.0, 1.0, 0.0, 1.0];

impl<'a> Geometry<'a> {
    pub fn new(problem: &'a Problem, view: View, caps: &'a Caps, offsets: &'a Offsets) -> Self {
        let knobs = caps.tuning.knobs();
        let wg = prev_power_of_two(caps.lanes.min(knobs.lanes));
        let tile_max = knobs.tile_max.min(REGISTERS / wg);
        let dense = view.has_dense_rows();
        let [_, groups, _, reduced] = view.extent;
        let [_, beside, outer, inner] = view.data;
        let contiguous = if reduced == 1 { outer == 1 } else { inner == 1 };
        let columns = !dense && !contiguous && beside == 1 && groups > 1;
        let element = problem.dtype.size() as u64;
        // A window's start may be shifted by the alignment of offsets, at most 256 bytes; how far the
        // tensor's own start is, is known.
        let part = caps.max_binding.saturating_sub(256) / element;
        let Offsets { x, y, addend, dy, .. } = *offsets;
        let shift = [x, y, addend, dy].map(|offset| offset % caps.offset_alignment);
        let shift = shift.into_iter().fold(0, u64::max);
        // Of a bank's blends not a tensor's, and more than 32 bits may count.
        let whole = view.extent.iter().fold(1u64, |n, &size| n.saturating_mul(size.into()));
        let window = if whole.saturating_mul(element).saturating_add(shift) <= caps.max_binding {
            part.max(whole)
        } else {
            part
        };
        Geometry { problem, view, caps, offsets, knobs, wg, tile_max, dense, columns, window }
    }

    /// Whether some window shows whole groups.
    fn shows_groups(&self) -> bool {
        let len = match Slab::of(&self.view) {
            _ if self.dense => self.view.group_len(),
            Some(Slab::Groups(_, len)) => len,
            _ => self.view.elements(),
        };
        u64::from(len) <= self.window
    }

    /// Groups side by side in a workgroup, where neighbouring lanes take them.
    fn columns(&self, most: u32) -> u32 {
        self.view.extent[1].min(most).next_power_of_two().min(self.wg)
    }

    /// Regime "group fits the workgroup": as few lanes per group as give each its ideal tile. None
    /// if it does not fit.
    pub fn whole_groups(&self, tile_max: u32) -> Option<Slicing> {
        self.whole_kin(tile_max, 1)
    }

    /// The same where so many groups side by side stay in one workgroup.
    fn whole_kin(&self, tile_max: u32, kin: u32) -> Option<Slicing> {
        let least = kin.next_power_of_two();
        let len = self.view.group_len();
        let chunks = len.div_ceil(4);
        let slicing = |rows| {
            let tile = chunks.div_ceil(self.wg / rows).next_power_of_two();
            Slicing { slices: 1, slice_len: chunks.saturating_mul(4), rows, tile, turns: 1, kin }
        };
        if !self.shows_groups() || least > self.wg {
            return None;
        }
        if self.columns {
            let mut rows = self.columns(COLUMNS).max(least);
            while slicing(rows).tile > tile_max && rows > COLUMNS_MIN.max(least) {
                rows /= 2;
            }
            return Some(slicing(rows)).filter(|s| s.tile <= tile_max);
        }
        let lanes = chunks
            .div_ceil(self.knobs.tile_ideal.min(tile_max))
            .next_power_of_two()
            .min(self.wg / least);
        Some(slicing(self.wg / lanes)).filter(|s| s.tile <= tile_max)
    }

    /// The largest groups that one dispatch reads, normalizes and writes.
    pub fn in_registers(&self) -> Option<Slicing> {
        self.whole_groups(self.tile_max)
    }

    /// All groups.
    pub fn all(&self) -> Range<u32> {
        0..self.view.groups()
    }

    /// Runs of groups that take two passes each before the next run is begun, so that the second pass finds
    /// in the cache what the first one read: so many tensors, in half of the cache. The other half is for
    /// what the second pass writes.
    pub fn runs(&self, tensors: u64) -> impl Iterator<Item = Range<u32>> + use<> {
        let groups = self.view.groups();
        let bytes = u64::from(self.view.group_len()) * self.element() * tensors;
        let all = u64::from(groups) * bytes;
        let unknown = self.caps.cache == 0 || !self.knobs.in_runs;
        let one =
            unknown || all <= self.caps.cache || u64::from(self.view.elements()) > self.window;
        let fitting = (self.caps.cache / 2 / bytes).min(all / bytes) as u32;
        let step = if self.columns { COLUMNS } else { 1 };
        let run = fitting.max(groups.div_ceil(RUNS_MAX)).max(1).next_multiple_of(step);
        let run = if one { groups } else { run };
        (0..groups).step_by(run as usize).map(move |first| first..groups.min(first + run))
    }

    /// Regime "split group": enough slices to fill the device, none with too little work.
    /// `groups` are worked on at a time.
    pub fn split_runs(&self, groups: u32) -> Slicing {
        let view = &self.view;
        let rows = if self.columns { self.columns(COLUMNS) } else { 1 };
        let workgroups = groups.div_ceil(rows);
        let wanted = self.knobs.workgroups_enough.div_ceil(workgroups).min(SLICES_MAX.min(self.wg));
        let least = (self.knobs.slice_min / rows).max(SLICE_STEP);
        let mut slice_len = slice_of(view.group_len(), wanted).max(least);
        // A slice must fit a window even when its group does not.
        if !self.shows_groups() {
            let (step, len) = match Slab::of(view).filter(|_| !self.dense) {
                Some(Slab::Positions(step, len)) => (step, len),
                _ => (SLICE_STEP, SLICE_STEP),
            };
            let most = (self.window / u64::from(len)).max(1).min(u64::from(u32::MAX / step)) as u32;
            slice_len = (slice_len / step).clamp(1, most) * step;
        }
        Slicing {
            slices: view.group_len().div_ceil(slice_len),
            slice_len,
            rows,
            tile: 1,
            turns: 1,
            kin: 1,
        }
    }

    /// The largest groups of which one dispatch reads x and dy, and writes dx.
    pub fn gradient_in_registers(&self) -> Option<Slicing> {
        self.whole_groups(self.tile_max / 2)
    }

    /// The same where so many groups are one.
    pub fn kin_in_registers(&self, kin: u32) -> Option<Slicing> {
        // A window could end between them.
        let one_window = u64::from(self.view.elements()) <= self.window;
        self.whole_kin(self.tile_max / 2, kin).filter(|_| one_window)
    }

    /// The same where registers also hold sums over groups, of each position: rows of lanes then take
    /// groups in turn, so that there are few of these sums. None where a parameter is not that of a
    /// position, or sums would be as many as elements.
    pub fn column_sums(&self) -> Option<Slicing> {
        let View { extent, param, .. } = self.view;
        let of_position = param[0] == 0
            && (param[1] == 0 || extent[1] == 1)
            && (param[3] == 1 || extent[3] == 1)
            && (param[2] == extent[3] || extent[2] == 1);
        let one_window = u64::from(self.view.elements()) <= self.window;
        let slicing = self.whole_groups(self.tile_max / 4)?;
        let blocks = self.view.groups().div_ceil(slicing.rows);
        let turns = blocks.div_ceil(STRIPS).max(STRIP_MIN.div_ceil(slicing.rows));
        (of_position && one_window && !self.columns && self.view.groups() >= STRIP_MIN)
            .then_some(Slicing { turns, ..slicing })
    }

    /// Workgroups of a pass over all groups, each with entries of its own for all positions.
    pub fn strips(&self, slicing: &Slicing) -> u32 {
        self.view.groups().div_ceil(slicing.rows * slicing.turns)
    }

    /// For kernels that loop over what they walk: only the shape of the work matters.
    pub fn looped(&self) -> Slicing {
        self.looped_runs(self.view.groups())
    }

    /// The same where so many groups are worked on at a time.
    pub fn looped_runs(&self, groups: u32) -> Slicing {
        self.whole_groups(self.knobs.tile_ideal).unwrap_or_else(|| self.split_runs(groups))
    }

    fn element(&self) -> u64 {
        self.problem.dtype.size() as u64
    }

    /// Cuts one kernel's work into dispatches whose elements fit a binding.
    pub fn pass(&self, pass: &Pass<'_>, stages: &mut Vec<Stage>) -> Result<(), PlanError> {
        let (groups, len) = (self.view.groups(), self.view.group_len());
        let (slicing, window) = (&pass.slicing, self.window);
        let elements = self.view.elements();
        if window < u64::from(SLICE_STEP.min(elements)) {
            let needed = 256 + u64::from(SLICE_STEP) * self.element();
            return Err(binding_limit("a window of the tensor", needed, self.caps.max_binding));
        }
        if u64::from(elements) <= window {
            let Range { start, end } = pass.groups;
            let span = [start, 0, slicing.slices, (end - start) * slicing.slices];
            stages.push(self.stage(pass, span, Window { first: 0, len: elements })?);
        } else if !self.dense {
            self.pass_slabs(pass, stages)?;
        } else if u64::from(len) <= window {
            let step = (window / u64::from(len)).min(u64::from(groups)) as u32;
            for first in (0..groups).step_by(step as usize) {
                let count = step.min(groups - first);
                let window = Window { first: first * len, len: count * len };
                let span = [first, 0, slicing.slices, count * slicing.slices];
                stages.push(self.stage(pass, span, window)?);
            }
        } else {
            let step = ((window / u64::from(slicing.slice_len)) as u32).min(slicing.slices);
            for group in 0..groups {
                for first in (0..slicing.slices).step_by(step as usize) {
                    let count = step.min(slicing.slices - first);
                    let start = first * slicing.slice_len;
                    let end = ((first + count).saturating_mul(slicing.slice_len)).min(len);
                    let window = Window { first: group * len + start, len: end - start };
                    stages.push(self.stage(pass, [group, first, count, count], window)?);
                }
            }
        }
        Ok(())
    }

    /// Windows over a tensor whose groups are not contiguous.
    fn pass_slabs(&self, pass: &Pass<'_>, stages: &mut Vec<Stage>) -> Result<(), PlanError> {
        let (groups, slicing) = (self.view.groups(), &pass.slicing);
        let limit = |len: u32| {
            let what = "what lies between the elements of a group";
            let needed = 256 + u64::from(len) * self.element();
            check_limit(what, needed, self.caps.max_binding)
        };
        match Slab::of(&self.view) {
            Some(Slab::Groups(step, len)) => {
                limit(len)?;
                let slabs = (self.window / u64::from(len)) as u32;
                for first in (0..groups / step).step_by(slabs as usize) {
                    let count = slabs.min(groups / step - first);
                    let span = [first * step, 0, slicing.slices, count * step * slicing.slices];
                    let window = Window { first: first * len, len: count * len };
                    stages.push(self.stage(pass, span, window)?);
                }
            }
            // Slices are whole slabs, see `split_groups`.
            Some(Slab::Positions(step, len)) => {
                let slice = slicing.slice_len / step * len;
                limit(slice)?;
                let slices = (self.window / u64::from(slice)) as u32;
                for first in (0..slicing.slices).step_by(slices as usize) {
                    let count = slices.min(slicing.slices - first);
                    let start = first * slice;
                    let end = (first + count).saturating_mul(slice).min(self.view.elements());
                    let window = Window { first: start, len: end - start };
                    stages.push(self.stage(pass, [0, first, count, groups * count], window)?);
                }
            }
            None => limit(self.view.elements())?,
        }
        Ok(())
    }

    fn stage(&self, pass: &Pass<'_>, span: [u32; 4], window: Window) -> Result<Stage, PlanError> {
        let (kernel, slicing, problem) = (pass.kernel, &pass.slicing, self.problem);
        check_buffers(kernel, self.caps)?;
        let size = self.element();
        let offsets = [self.offsets.x, self.offsets.y, self.offsets.addend, self.offsets.dy];
        let roles = [super::Role::X, super::Role::Y, super::Role::Addend, super::Role::Dy];
        let operands = kernel.bindings().iter().map(|&(role, _)| self.bound(pass, role)).collect();
        let shared = self.shares(kernel);
        let mut base = [0; 4];
        let mut by_four = self.runs_by_four();
        for ((base, role), mut offset) in base.iter_mut().zip(roles).zip(offsets) {
            let operand = self.bound(pass, role);
            if operand == Operand::Gradient {
                offset = 0; // ours
            }
            let is_shared = shared && matches!(role, super::Role::X | super::Role::Y);
            let both = if is_shared { [self.offsets.x, self.offsets.y] } else { [offset; 2] };
            *base = binding_shift(offset, both, &window, self.caps.offset_alignment, size);
            // Only what this kernel touches must be aligned for four elements at a time.
            let touched = kernel.bindings().iter().any(|&(bound, _)| bound == role)
                && (operand != Operand::Absent || is_shared);
            by_four &= !touched || offset.is_multiple_of(4 * size);
        }
        if shared {
            let both = [self.offsets.x, self.offsets.y];
            let (_, needed) = binding_range(both, &window, self.caps.offset_alignment, size);
            check_limit("x and y in one buffer", needed, self.caps.max_binding)?;
        }
        let overrides = Overrides {
            wg: self.wg,
            rows: slicing.rows,
            taken: slicing.taken(),
            columns: self.columns,
            dense: self.dense,
            centered: problem.centered,
            shared,
            masked: problem.masked,
            ..pass.overrides
        };
        let workgroups = grid(self.caps, span[3].div_ceil(slicing.taken() * slicing.turns))?;
        let access = Access::of(problem.dtype, by_four);
        let mut task = Task {
            style: pass.style,
            slicing: [slicing.slices, slicing.slice_len, self.view.group_len(), pass.parts],
            ..self.task(span, base)
        };
        task.param_base[2] = binding_shift(0, [0; 2], &window, self.caps.offset_alignment, size);
        task.param_base[3] = slicing.turns;
        Ok(Stage { kernel, access, overrides, operands, task, window, workgroups })
    }

    /// Whether a kernel reads x through y's binding.
    fn shares(&self, kernel: Kernel) -> bool {
        self.offsets.shared && matches!(kernel, Kernel::NormRow | Kernel::Apply)
    }

    fn bound(&self, pass: &Pass<'_>, role: super::Role) -> Operand {
        use super::Role;
        let named = pass.bound.iter().find(|(bound, _)| *bound == role);
        let present = |present: bool, operand| if present { operand } else { Operand::Absent };
        match (named, role) {
            (Some(&(_, operand)), _) => operand,
            (None, Role::X) => present(!self.shares(pass.kernel), Operand::X),
            (None, Role::Y) => Operand::Y,
            (None, Role::Addend) => present(pass.overrides.addend, Operand::Addend),
            (None, Role::Weight) => present(pass.overrides.weight, Operand::Weight),
            (None, Role::Bias) => present(pass.overrides.bias, Operand::Bias),
            (None, Role::Mask) => present(self.problem.masked, Operand::Mask),
            (None, Role::Dy) => Operand::Dy,
            (None, Role::Gradient) => Operand::Gradient,
            _ => Operand::Absent,
        }
    }

    /// Whether runs of contiguous elements start at, and are as long as, a multiple of four.
    fn runs_by_four(&self) -> bool {
        if self.dense {
            return self.view.group_len().is_multiple_of(4);
        }
        let View { extent, data, .. } = self.view;
        data[3] == 1
            && extent[3].is_multiple_of(4)
            && (0..3).all(|axis| extent[axis] == 1 || data[axis].is_multiple_of(4))
    }

    /// A kernel over entries (statistics, groups, parameters), a row of lanes each.
    pub fn entries(
        &self,
        kernel: Kernel,
        entries: u32,
        parts: u32,
        shared_by: u32,
        overrides: Overrides,
        operands: &[Operand],
    ) -> Result<Stage, PlanError> {
        check_buffers(kernel, self.caps)?;
        let lanes = shared_by.min(self.wg).next_power_of_two();
        let overrides = Overrides {
            wg: self.wg,
            rows: self.wg / lanes,
            taken: self.wg / lanes,
            dense: true,
            centered: self.problem.centered,
            ..overrides
        };
        Ok(Stage {
            kernel,
            access: Access::F32x1,
            overrides,
            operands: operands.into(),
            task: Task { slicing: [1, 1, 1, parts], ..self.task([0, 0, 1, entries], [0; 4]) },
            window: Window { first: 0, len: 0 },
            workgroups: grid(self.caps, entries.div_ceil(overrides.rows))?,
        })
    }

    fn task(&self, span: [u32; 4], base: [u32; 4]) -> Task {
        let start = Window { first: 0, len: 0 };
        let alignment = self.caps.offset_alignment;
        let shift = |offset| binding_shift(offset, [offset; 2], &start, alignment, 4);
        let momentum = match self.problem.update.map(|u| u.momentum) {
            Some(Momentum::Factor(factor)) => factor,
            _ => 0.0,
        };
        Task {
            view: self.view,
            span,
            slicing: [0; 4],
            base,
            param_base: [shift(self.offsets.weight), shift(self.offsets.bias), 0, 0],
            scalars: [
                self.problem.eps as f32,
                momentum as f32,
                (1.0 - momentum) as f32,
                self.problem.activation.slope(),
            ],
            style: PLAIN,
        }
    }

    /// Constants of the affine part.
    pub fn affine(&self) -> Overrides {
        Overrides {
            weight: self.problem.weight,
            bias: self.problem.bias,
            inside: self.problem.view.params_inside(),
            ..Overrides::default()
        }
    }

    /// Constants of everything behind the statistics.
    pub fn epilogue(&self) -> Overrides {
        Overrides {
            addend: self.problem.addend,
            activation: self.problem.activation.code(),
            running: self.problem.source == StatSource::Running,
            ..self.affine()
        }
    }

    /// Constants of the activation's derivative: behind no activation nothing else matters.
    pub fn derivative(&self) -> Overrides {
        let View { extent, param, .. } = self.view;
        let inside = (2..4).any(|axis| param[axis] != 0 && extent[axis] > 1);
        match self.problem.activation {
            Activation::None => Overrides { inside, ..Overrides::default() },
            _ => Overrides { inside, running: false, ..self.epilogue() },
        }
    }

    /// What must fit a binding besides windows of the tensor.
    pub fn check_operands(&self, plan: &Plan) -> Result<(), PlanError> {
        let View { param, mask, .. } = self.problem.view;
        let length = |strides: [u32; 4]| {
            let axes = self.problem.view.extent.iter().zip(strides);
            1 + axes.map(|(&n, stride)| u64::from(n - 1) * u64::from(stride)).sum::<u64>()
        };
        let params = |offset: u64| length(param) * 4 + offset % self.caps.offset_alignment;
        let given = match self.problem.source {
            StatSource::Given { parts, .. } => u64::from(parts),
            _ => 1,
        };
        let groups = u64::from(self.problem.view.groups());
        let statistics = u64::from(self.problem.view.statistics());
        for operand in plan.stages.iter().flat_map(|stage| &stage.operands) {
            let (what, needed) = match operand {
                Operand::Weight => ("weight", params(self.offsets.weight)),
                Operand::Bias => ("bias", params(self.offsets.bias)),
                Operand::WeightOut => ("dweight", params(0)),
                Operand::BiasOut => ("dbias", params(0)),
                Operand::Moments => ("the statistics of all groups", statistics * given * ENTRY),
                Operand::Sums => ("the sums of all groups", groups * ENTRY),
                Operand::Mask => ("the mask", length(mask).next_multiple_of(4)),
                Operand::Partials => ("partial results", plan.partials),
                Operand::Gathered => ("gathered results", plan.gathered),
                // Running statistics were checked when they were made.
                _ => continue,
            };
            check_limit(what, needed, self.caps.max_binding)?;
        }
        Ok(())
    }
}

/// Folds a linear count of workgroups into the grid; the shaders unfold it as x + y · width.
pub(super) fn grid(caps: &Caps, count: u32) -> Result<[u32; 3], PlanError> {
    let width = count.min(caps.max_grid).max(1);
    let height = count.div_ceil(width).max(1);
    if height > caps.max_grid {
        return Err(PlanError::Limit {
            what: "the dispatch grid",
            needed: u64::from(count),
            limit_name: "max_compute_workgroups_per_dimension",
            limit: u64::from(caps.max_grid),
        });
    }
    Ok([width, height, 1])
}

fn slice_of(len: u32, slices: u32) -> u32 {
    len.div_ceil(slices.max(1)).div_ceil(SLICE_STEP).saturating_mul(SLICE_STEP)
}

fn prev_power_of_two(n: u32) -> u32 {
    1 << n.max(1).ilog2()
}

pub(super) fn check_limit(what: &'static str, needed: u64, limit: u64) -> Result<(), PlanError> {
    if needed > limit { Err(binding_limit(what, needed, limit)) } else { Ok(()) }
}

/// A context is on no device with fewer than eight; who plans for others is told.
fn check_buffers(kernel: Kernel, caps: &Caps) -> Result<(), PlanError> {
    let needed = kernel.bindings().len() as u64;
    let limit = u64::from(caps.storage_buffers);
    let limit_name = "max_storage_buffers_per_shader_stage";
    if needed <= limit {
        return Ok(());
    }
    Err(PlanError::Limit { what: "the storage buffers of a kernel", needed, limit_name, limit })
}

fn binding_limit(what: &'static str, needed: u64, limit: u64) -> PlanError {
    PlanError::Limit { what, needed, limit_name: "max_storage_buffer_binding_size", limit }
}
