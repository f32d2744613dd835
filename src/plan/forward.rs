//! The planner of the forward pass.

use super::geometry::{BACKWARDS, ENTRY, Geometry, PLAIN, Pass, Slicing};
use super::{Caps, Keep, Kernel, Offsets, Operand, Overrides, Plan, Role};
use crate::problem::{Momentum, Problem, StatSource};
use crate::{Estimator, PlanError};
use std::ops::Range;

/// Parts of given statistics that every workgroup merges itself, one or a few per lane; more of them are
/// merged once, before.
const PARTS_MAX: u32 = 256;

impl Plan {
    /// Plans the forward pass.
    ///
    /// # Errors
    /// [`PlanError`] if the problem does not fit one of the device's limits.
    pub fn forward(
        problem: &Problem,
        caps: &Caps,
        offsets: &Offsets,
        keep: Keep,
    ) -> Result<Plan, PlanError> {
        let geometry = Geometry::new(problem, problem.view, caps, offsets);
        let mut planner = Planner { geometry, plan: Plan::default() };
        if !problem.view.extent.contains(&0) {
            return planner.forward(keep);
        }
        match problem.source {
            // An empty shard of a batch still learns what the whole batch's statistics are.
            StatSource::Given { parts, .. } if problem.view.groups() > 0 => {
                planner.update(parts, Operand::Moments)?;
            }
            _ => planner.count()?,
        }
        planner.finish()
    }

    /// Plans the statistics of x alone, into [`Operand::Moments`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn statistics(
        problem: &Problem,
        caps: &Caps,
        offsets: &Offsets,
    ) -> Result<Plan, PlanError> {
        if problem.view.extent.contains(&0) {
            return Ok(Plan::default());
        }
        let geometry = Geometry::new(problem, problem.view, caps, offsets);
        let mut planner = Planner { geometry, plan: Plan::default() };
        let (all, slicing) = (planner.geometry.all(), planner.geometry.looped());
        if slicing.slices == 1 {
            planner.stats_pass(slicing, all, Operand::Moments)?;
        } else {
            planner.stats_pass(slicing, all, Operand::Partials)?;
            planner.gather_partials(slicing)?;
        }
        planner.finish()
    }

    /// Plans a style's gradient from those of its tables, in place of weight and bias: with
    /// `xhat · dσ/D + dμ/M`, an application of the style's own statistics.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn style_gradient(
        problem: &Problem,
        caps: &Caps,
        offsets: &Offsets,
        estimator: Estimator,
    ) -> Result<Plan, PlanError> {
        if problem.view.extent.contains(&0) {
            return Ok(Plan::default());
        }
        let count = problem.view.group_len() as f32;
        let freedom = if estimator == Estimator::Unbiased { 1.0 } else { 0.0 };
        let style = [1.0 / (count - freedom).max(1.0), 1.0 / count, freedom, 0.0];
        let geometry = Geometry::new(problem, problem.view, caps, offsets);
        let mut planner = Planner { geometry, plan: Plan::default() };
        let (all, slicing) = (planner.geometry.all(), planner.geometry.looped());
        planner.apply(all, slicing, 1, Operand::Moments, style)?;
        planner.finish()
    }
}

struct Planner<'a> {
    geometry: Geometry<'a>,
    plan: Plan,
}

impl Planner<'_> {
    fn forward(mut self, keep: Keep) -> Result<Plan, PlanError> {
        let geometry = &self.geometry;
        let problem = geometry.problem;
        // Statistics that go elsewhere than into y, and where.
        let out = match keep {
            Keep::Moments => Some(Operand::Moments),
            Keep::Nothing => problem.update.map(|_| Operand::Partials),
        };
        match problem.source {
            StatSource::Running => {
                if keep == Keep::Moments {
                    self.gather(1, Operand::Absent, Operand::Running, Operand::Moments)?;
                }
                let (all, slicing) = (self.geometry.all(), self.geometry.looped());
                self.apply(all, slicing, 1, Operand::Absent, PLAIN)?;
            }
            StatSource::Given { parts, .. } => {
                let (all, slicing) = (self.geometry.all(), self.geometry.looped());
                let (mut parts, mut from) = (parts, Operand::Moments);
                if parts > PARTS_MAX {
                    self.gather(parts, from, Operand::Absent, Operand::Gathered)?;
                    self.plan.gathered = u64::from(self.geometry.view.statistics()) * ENTRY;
                    (parts, from) = (1, Operand::Gathered);
                }
                self.apply(all, slicing, parts, from, PLAIN)?;
                self.update(parts, from)?;
            }
            StatSource::Batch => {
                if let Some(slicing) = geometry.in_registers() {
                    let overrides = Overrides {
                        tile: slicing.tile,
                        save: out.is_some(),
                        ..geometry.epilogue()
                    };
                    let to = out.unwrap_or(Operand::Absent);
                    self.pass(&Pass {
                        kernel: Kernel::NormRow,
                        groups: self.geometry.all(),
                        slicing,
                        parts: 1,
                        overrides,
                        bound: &[(Role::Moments, to)],
                        style: PLAIN,
                    })?;
                    if out == Some(Operand::Partials) {
                        self.keep_partials(&slicing);
                    }
                    self.update(1, to)?;
                } else {
                    self.split(keep)?;
                }
            }
        }
        self.finish()
    }

    fn finish(self) -> Result<Plan, PlanError> {
        self.geometry.check_operands(&self.plan)?;
        Ok(self.plan)
    }

    /// Groups longer than registers: statistics, then y, run by run.
    fn split(&mut self, keep: Keep) -> Result<(), PlanError> {
        let runs: Vec<_> = self.geometry.runs(1).collect();
        let slicing = self.geometry.split_runs(runs[0].end);
        for groups in runs {
            self.stats_pass(slicing, groups.clone(), Operand::Partials)?;
            self.apply(groups, slicing, slicing.slices, Operand::Partials, BACKWARDS)?;
        }
        if keep == Keep::Moments {
            self.gather_partials(slicing)?;
        }
        self.update(slicing.slices, Operand::Partials)
    }

    fn keep_partials(&mut self, slicing: &Slicing) {
        let bytes = slicing.partials(&self.geometry.view);
        self.plan.partials = self.plan.partials.max(bytes);
    }

    fn pass(&mut self, pass: &Pass<'_>) -> Result<(), PlanError> {
        self.geometry.pass(pass, &mut self.plan.stages)
    }

    fn stats_pass(
        &mut self,
        slicing: Slicing,
        groups: Range<u32>,
        to: Operand,
    ) -> Result<(), PlanError> {
        if to == Operand::Partials {
            self.keep_partials(&slicing);
        }
        self.pass(&Pass {
            kernel: Kernel::StatsRow,
            groups,
            slicing,
            parts: 1,
            overrides: Overrides::default(),
            bound: &[(Role::Moments, to)],
            style: PLAIN,
        })
    }

    /// One entry per statistic, from those of the slices of its group.
    fn gather_partials(&mut self, slicing: Slicing) -> Result<(), PlanError> {
        self.gather(slicing.slices, Operand::Partials, Operand::Absent, Operand::Moments)
    }

    fn gather(
        &mut self,
        parts: u32,
        from: Operand,
        running: Operand,
        to: Operand,
    ) -> Result<(), PlanError> {
        let overrides = Overrides { running: running != Operand::Absent, ..Overrides::default() };
        let entries = self.geometry.view.statistics();
        let operands = [from, running, to];
        let stage = self.geometry.entries(
            Kernel::GatherMoments,
            entries,
            parts,
            parts,
            overrides,
            &operands,
        )?;
        self.plan.stages.push(stage);
        Ok(())
    }

    fn apply(
        &mut self,
        groups: Range<u32>,
        slicing: Slicing,
        parts: u32,
        from: Operand,
        style: [f32; 4],
    ) -> Result<(), PlanError> {
        let overrides = self.geometry.epilogue();
        let running = if overrides.running { Operand::Running } else { Operand::Absent };
        let bound = [(Role::Moments, from), (Role::Running, running)];
        let kernel = Kernel::Apply;
        self.pass(&Pass { kernel, groups, slicing, parts, overrides, bound: &bound, style })
    }

    /// Running statistics, a row of lanes per channel, as many lanes as there are samples to share out;
    /// then the count of steps.
    fn update(&mut self, parts: u32, from: Operand) -> Result<(), PlanError> {
        let Some(update) = self.geometry.problem.update else { return Ok(()) };
        let [samples, channels, ..] = self.geometry.view.extent;
        if update.momentum != Momentum::Frozen {
            let overrides = Overrides {
                cumulative: update.momentum == Momentum::Cumulative,
                unbiased: update.estimator == Estimator::Unbiased,
                ..Overrides::default()
            };
            let operands = [from, Operand::Running, Operand::Tracked];
            let stage = self.geometry.entries(
                Kernel::UpdateRunning,
                channels,
                parts,
                samples,
                overrides,
                &operands,
            )?;
            self.plan.stages.push(stage);
        }
        self.count()
    }

    /// The count of steps, where this one counts: also a step of nothing.
    fn count(&mut self) -> Result<(), PlanError> {
        if self.geometry.problem.update.is_some_and(|update| update.counts) {
            let overrides = Overrides::default();
            let operands = [Operand::Tracked];
            let stage = self.geometry.entries(Kernel::CountStep, 1, 1, 1, overrides, &operands)?;
            self.plan.stages.push(stage);
        }
        Ok(())
    }
}
