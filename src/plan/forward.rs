//! The planner of the forward pass.

use super::{Access, Caps, Kernel, Offsets, Overrides, Plan, Stage, Task, Window, binding_shift};
use crate::problem::{Momentum, Problem, RunningUpdate, StatSource};
use crate::{Estimator, PlanError};

/// Lanes of a workgroup. 256 is what every WebGPU device offers; devices with fewer get fewer.
const LANES: u32 = 256;
/// Values per lane up to which a group stays in registers: 16 vec4. More would spill on GPUs that
/// give a lane 64 registers at full occupancy (lanes × data registers ≤ 16 Ki words here).
const TILE_MAX: u32 = 16;
/// vec4 steps a lane takes before a group gets more lanes. Fewer lanes mean fewer barrier rounds
/// and more groups per workgroup; four loads in flight hide latency.
const TILE_IDEAL: u32 = 4;
/// Smallest slice of a split group: 16 KiB, so that a workgroup's work outweighs its launch.
const SLICE_MIN: u32 = 4096;
/// Most slices of a split group: every workgroup of `apply` merges them all, one per lane.
const SLICES_MAX: u32 = 256;
/// Workgroups that fill the largest GPUs (about 8 for each of 128 compute units). Beyond, slices
/// grow instead of their number.
const WORKGROUPS_ENOUGH: u32 = 1024;
/// Elements that a binding's start may be shifted by: 256-byte offset alignment in f32.
const SHIFT_MAX: u64 = 64;
/// Slices are multiples of this, so that each starts at a vec4 and at an aligned byte.
const SLICE_STEP: u32 = 64;

/// Bytes of one `(count, mean, residual mean, m2)` in scratch.
const MOMENTS: u64 = 16;

impl Plan {
    /// Plans the forward pass.
    ///
    /// # Errors
    /// [`PlanError`] if the problem fits none of the kernels or one of the device's limits.
    pub fn forward(problem: &Problem, caps: &Caps, offsets: &Offsets) -> Result<Plan, PlanError> {
        let view = &problem.view;
        if view.extent.contains(&0) {
            return Ok(Plan { stages: Vec::new(), scratch: 0 });
        }
        if !view.has_dense_rows() {
            return Err(PlanError::View { strides: view.data });
        }
        Planner { problem, caps, offsets, wg: prev_power_of_two(caps.lanes.min(LANES)) }.forward()
    }
}

/// How groups are shared out among the rows of lanes of a workgroup.
struct Slicing {
    slices: u32,
    slice_len: u32,
    rows: u32,
    tile: u32,
}

struct Planner<'a> {
    problem: &'a Problem,
    caps: &'a Caps,
    offsets: &'a Offsets,
    wg: u32,
}

impl Planner<'_> {
    fn forward(&self) -> Result<Plan, PlanError> {
        let len = self.problem.view.group_len();
        if self.problem.weight || self.problem.bias {
            let needed = (self.params() + SHIFT_MAX) * 4;
            check_limit("weight or bias", needed, self.caps.max_binding)?;
        }
        let mut stages = Vec::new();
        let slicing = match self.problem.source {
            StatSource::Running => {
                let slicing = self.constant_slices();
                self.windows(Kernel::Apply, &slicing, &mut stages)?;
                slicing
            }
            StatSource::Batch
                if len <= self.wg * TILE_MAX * 4 && u64::from(len) <= self.window() =>
            {
                let slicing = self.whole_groups();
                self.windows(Kernel::NormRow, &slicing, &mut stages)?;
                slicing
            }
            StatSource::Batch => {
                let slicing = self.split_groups();
                self.windows(Kernel::StatsRow, &slicing, &mut stages)?;
                self.windows(Kernel::Apply, &slicing, &mut stages)?;
                slicing
            }
        };
        if let Some(update) = &self.problem.update {
            self.update(update, &slicing, &mut stages)?;
        }
        let keeps = stages.iter().any(|s| s.kernel == Kernel::StatsRow || s.overrides.save);
        let moments = u64::from(self.problem.view.groups()) * u64::from(slicing.slices);
        let scratch = if keeps { moments * MOMENTS } else { 0 };
        check_limit("partial statistics", scratch, self.caps.max_binding)?;
        Ok(Plan { stages, scratch })
    }

    /// Elements of `weight` and of `bias`.
    fn params(&self) -> u64 {
        let view = &self.problem.view;
        let axes = view.extent.iter().zip(view.param);
        1 + axes.map(|(&n, stride)| u64::from(n - 1) * u64::from(stride)).sum::<u64>()
    }

    /// Regime "group fits the workgroup": as few lanes per group as give each its ideal tile.
    fn whole_groups(&self) -> Slicing {
        let len = self.problem.view.group_len();
        let chunks = len.div_ceil(4);
        let lanes = chunks.div_ceil(TILE_IDEAL).next_power_of_two().min(self.wg);
        let tile = chunks.div_ceil(lanes).next_power_of_two();
        Slicing { slices: 1, slice_len: len.next_multiple_of(4), rows: self.wg / lanes, tile }
    }

    /// Regime "split group": enough slices to fill the device, none below `SLICE_MIN`.
    fn split_groups(&self) -> Slicing {
        let view = &self.problem.view;
        let wanted = WORKGROUPS_ENOUGH.div_ceil(view.groups()).min(SLICES_MAX.min(self.wg));
        // A slice must fit a window even when its group does not.
        let most = (self.window() / u64::from(SLICE_STEP)).max(1) as u32 * SLICE_STEP;
        let slice_len = slice_of(view.group_len(), wanted).max(SLICE_MIN).min(most);
        Slicing { slices: view.group_len().div_ceil(slice_len), slice_len, rows: 1, tile: 1 }
    }

    /// Statistics are given: only the shape of the work matters.
    fn constant_slices(&self) -> Slicing {
        let len = self.problem.view.group_len();
        if len <= self.wg * TILE_IDEAL * 4 && u64::from(len) <= self.window() {
            return self.whole_groups();
        }
        self.split_groups()
    }

    /// Most elements of the tensor that one binding shows.
    fn window(&self) -> u64 {
        (self.caps.max_binding / 4).saturating_sub(SHIFT_MAX)
    }

    /// Cuts one kernel's work into dispatches whose elements fit a binding.
    fn windows(
        &self,
        kernel: Kernel,
        slicing: &Slicing,
        stages: &mut Vec<Stage>,
    ) -> Result<(), PlanError> {
        let view = &self.problem.view;
        let (groups, len) = (view.groups(), view.group_len());
        let window = self.window();
        if window < u64::from(SLICE_STEP) {
            let needed = (SHIFT_MAX + u64::from(SLICE_STEP)) * 4;
            return Err(binding_limit("a window of the tensor", needed, self.caps.max_binding));
        }
        if u64::from(len) <= window {
            let step = (window / u64::from(len)).min(u64::from(groups)) as u32;
            for first in (0..groups).step_by(step as usize) {
                let count = step.min(groups - first);
                let window = Window { first: first * len, len: count * len };
                let span = [first, 0, slicing.slices, count * slicing.slices];
                stages.push(self.stage(kernel, slicing, span, window)?);
            }
        } else {
            let step = ((window / u64::from(slicing.slice_len)) as u32).min(slicing.slices);
            for group in 0..groups {
                for first in (0..slicing.slices).step_by(step as usize) {
                    let count = step.min(slicing.slices - first);
                    let start = first * slicing.slice_len;
                    let end = ((first + count).saturating_mul(slicing.slice_len)).min(len);
                    let window = Window { first: group * len + start, len: end - start };
                    stages.push(self.stage(
                        kernel,
                        slicing,
                        [group, first, count, count],
                        window,
                    )?);
                }
            }
        }
        Ok(())
    }

    fn stage(
        &self,
        kernel: Kernel,
        slicing: &Slicing,
        span: [u32; 4],
        window: Window,
    ) -> Result<Stage, PlanError> {
        let problem = self.problem;
        let reads_only = kernel == Kernel::StatsRow;
        let offsets = [self.offsets.x, self.offsets.y, self.offsets.addend];
        let mut base = [0; 4];
        for (base, offset) in base.iter_mut().zip(offsets) {
            *base = binding_shift(offset, &window, self.caps.offset_alignment);
        }
        // Only what this kernel touches must be aligned for four elements at a time.
        let touched = if reads_only { &offsets[..1] } else { &offsets[..] };
        let aligned = problem.view.group_len().is_multiple_of(4)
            && touched.iter().all(|offset| offset.is_multiple_of(16));
        let overrides = Overrides {
            wg: self.wg,
            rows: slicing.rows,
            tile: if kernel == Kernel::NormRow { slicing.tile } else { 1 },
            running: problem.source == StatSource::Running,
            save: kernel == Kernel::NormRow && problem.update.is_some(),
            weight: problem.weight && !reads_only,
            bias: problem.bias && !reads_only,
            addend: problem.addend && !reads_only,
            activation: if reads_only { 0 } else { problem.activation as u32 },
            ..Overrides::default()
        };
        let workgroups = self.grid(span[3].div_ceil(slicing.rows))?;
        let access = if aligned { Access::F32x4 } else { Access::F32x1 };
        let task = self.task(slicing, span, base);
        Ok(Stage { kernel, access, overrides, task, window, workgroups })
    }

    /// A row of lanes per channel, as many lanes as there are samples to share out.
    fn update(
        &self,
        update: &RunningUpdate,
        slicing: &Slicing,
        stages: &mut Vec<Stage>,
    ) -> Result<(), PlanError> {
        let [samples, channels, ..] = self.problem.view.extent;
        let lanes = samples.next_power_of_two().min(self.wg);
        let cumulative = update.momentum == Momentum::Cumulative;
        let overrides = Overrides {
            wg: self.wg,
            rows: self.wg / lanes,
            cumulative,
            unbiased: update.estimator == Estimator::Unbiased,
            ..Overrides::default()
        };
        let stage = Stage {
            kernel: Kernel::UpdateRunning,
            access: Access::F32x1,
            overrides,
            task: self.task(slicing, [0; 4], [0; 4]),
            window: Window { first: 0, len: 0 },
            workgroups: self.grid(channels.div_ceil(overrides.rows))?,
        };
        let count = Stage {
            kernel: Kernel::CountStep,
            overrides: Overrides::default(),
            workgroups: [1, 1, 1],
            ..stage.clone()
        };
        stages.push(stage);
        if cumulative {
            stages.push(count);
        }
        Ok(())
    }

    fn task(&self, slicing: &Slicing, span: [u32; 4], base: [u32; 4]) -> Task {
        let view = self.problem.view;
        let shift = |offset| {
            binding_shift(offset, &Window { first: 0, len: 0 }, self.caps.offset_alignment)
        };
        let momentum = match self.problem.update.map(|u| u.momentum) {
            Some(Momentum::Factor(factor)) => factor,
            _ => 0.0,
        };
        Task {
            view,
            span,
            slicing: [slicing.slices, slicing.slice_len, view.group_len(), 0],
            base,
            param_base: [shift(self.offsets.weight), shift(self.offsets.bias), 0, 0],
            scalars: [self.problem.eps as f32, momentum as f32, (1.0 - momentum) as f32, 0.0],
        }
    }

    /// Folds a linear count of workgroups into the grid; the shaders unfold it as x + y · width.
    fn grid(&self, count: u32) -> Result<[u32; 3], PlanError> {
        let width = count.min(self.caps.max_grid).max(1);
        let height = count.div_ceil(width).max(1);
        if height > self.caps.max_grid {
            return Err(PlanError::Limit {
                what: "the dispatch grid",
                needed: u64::from(count),
                limit_name: "max_compute_workgroups_per_dimension",
                limit: u64::from(self.caps.max_grid),
            });
        }
        Ok([width, height, 1])
    }
}

fn slice_of(len: u32, slices: u32) -> u32 {
    len.div_ceil(slices.max(1)).div_ceil(SLICE_STEP).saturating_mul(SLICE_STEP)
}

fn prev_power_of_two(n: u32) -> u32 {
    1 << n.max(1).ilog2()
}

fn check_limit(what: &'static str, needed: u64, limit: u64) -> Result<(), PlanError> {
    if needed > limit { Err(binding_limit(what, needed, limit)) } else { Ok(()) }
}

fn binding_limit(what: &'static str, needed: u64, limit: u64) -> PlanError {
    PlanError::Limit { what, needed, limit_name: "max_storage_buffer_binding_size", limit }
}
