//! The planner of the backward pass.

use super::geometry::{ENTRY, Geometry, PLAIN, Pass};
use super::{Caps, Kernel, Offsets, Operand, Overrides, Plan, Role, Wants};
use crate::problem::Problem;
use crate::{Activation, PlanError, View};

impl Problem {
    /// Whether the addend's gradient is a tensor of its own, not dy.
    pub(crate) fn has_gradient(&self) -> bool {
        self.addend && (self.activation != Activation::None || self.masked)
    }
}

impl View {
    /// The same elements with the axes along which parameters vary as groups, and the others reduced:
    /// each group is then one parameter. Of the two axes on either side the one with the longer
    /// stride comes first. Always two and two, see the table in [`crate::layers`].
    pub(crate) fn by_parameter(&self) -> View {
        let varies = |axis: &usize| self.param[*axis] != 0 && self.extent[*axis] > 1;
        let (mut groups, mut reduced): (Vec<usize>, Vec<usize>) = (0..4).partition(varies);
        // Axes of one element fill up either side.
        let mut spare: Vec<usize> = Vec::new();
        reduced.retain(|&axis| {
            let keep = self.extent[axis] > 1;
            if !keep {
                spare.push(axis);
            }
            keep
        });
        while groups.len() < 2 {
            groups.push(spare.pop().expect("four axes, at most two of which are reduced"));
        }
        reduced.append(&mut spare);
        let order = |axes: &mut Vec<usize>| {
            axes.sort_by_key(|&axis| {
                std::cmp::Reverse(if self.extent[axis] > 1 { self.data[axis] } else { u32::MAX })
            });
        };
        order(&mut groups);
        order(&mut reduced);
        let axes = [groups[0], groups[1], reduced[0], reduced[1]];
        let take = |strides: [u32; 4]| axes.map(|axis| strides[axis]);
        View {
            extent: take(self.extent),
            data: take(self.data),
            param: take(self.param),
            stat: take(self.stat),
            mask: take(self.mask),
        }
    }
}

impl Plan {
    /// Plans the backward pass: dx in [`Operand::Y`], parameter gradients as wanted.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(
        problem: &Problem,
        caps: &Caps,
        offsets: &Offsets,
        wants: Wants,
    ) -> Result<Plan, PlanError> {
        if problem.view.extent.contains(&0) {
            return Ok(Plan::default());
        }
        let mut planner = Planner::new(problem, caps, offsets);
        planner.addend()?;
        let needs_sums = !problem.source.is_constant();
        let wants_params = wants.weight || wants.bias;
        let one_pass = problem.view.params_follow_groups();
        let sums_here = needs_sums && !wants.given_sums;
        let mut parts = 1;
        if sums_here || (wants_params && one_pass) {
            // Where each group is one parameter, one reduction serves both.
            parts = planner.sums(problem.view, problem.view.params_inside())?;
            if wants_params && one_pass {
                planner.params(problem.view, parts, wants)?;
            }
        }
        if needs_sums {
            let (parts, from) =
                if sums_here { (parts, Operand::Partials) } else { (1, Operand::Sums) };
            planner.gather(parts, from, Operand::Gathered)?;
        }
        if wants_params && !one_pass {
            let view = problem.view.by_parameter();
            let parts = planner.sums(view, false)?;
            planner.params(view, parts, wants)?;
        }
        planner.input()?;
        planner.finish()
    }

    /// Plans the sums over each group alone, into [`Operand::Sums`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn group_sums(
        problem: &Problem,
        caps: &Caps,
        offsets: &Offsets,
    ) -> Result<Plan, PlanError> {
        if problem.view.extent.contains(&0) {
            return Ok(Plan::default());
        }
        let mut planner = Planner::new(problem, caps, offsets);
        let parts = planner.sums(problem.view, problem.view.params_inside())?;
        planner.gather(parts, Operand::Partials, Operand::Sums)?;
        planner.finish()
    }
}

struct Planner<'a> {
    geometry: Geometry<'a>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(problem: &'a Problem, caps: &'a Caps, offsets: &'a Offsets) -> Self {
        let geometry = Geometry::new(problem, problem.view, caps, offsets);
        Planner { geometry, plan: Plan::default() }
    }

    fn finish(self) -> Result<Plan, PlanError> {
        self.geometry.check_operands(&self.plan)?;
        Ok(self.plan)
    }

    /// A pass over the problem's own view.
    fn pass(
        &mut self,
        kernel: Kernel,
        overrides: Overrides,
        bound: &[(Role, Operand)],
    ) -> Result<(), PlanError> {
        let slicing = self.geometry.looped();
        let pass = Pass { kernel, slicing, parts: 1, overrides, bound, style: PLAIN };
        self.geometry.pass(&pass, &mut self.plan.stages)
    }

    fn addend(&mut self) -> Result<(), PlanError> {
        if !self.geometry.problem.has_gradient() {
            return Ok(());
        }
        let bound = [(Role::Moments, Operand::Moments), (Role::Y, Operand::Gradient)];
        self.pass(Kernel::EpilogueGrad, self.geometry.derivative(), &bound)
    }

    /// Partial sums over the groups of `view`, of the gradient or (`weighted`) of its product with the
    /// weight; returns their number per group.
    fn sums(&mut self, view: View, weighted: bool) -> Result<u32, PlanError> {
        let Geometry { problem, caps, offsets, .. } = self.geometry;
        let geometry = Geometry::new(problem, view, caps, offsets);
        let slicing = geometry.looped();
        let varies = |axis: usize| view.stat[axis] != 0 && view.extent[axis] > 1;
        let overrides = Overrides {
            weighted: weighted && problem.weight,
            weight: problem.weight && (weighted || problem.activation != Activation::None),
            stats_inside: varies(2) || varies(3),
            ..geometry.derivative()
        };
        let bound = [(Role::Moments, Operand::Moments), (Role::Sums, Operand::Partials)];
        let kernel = Kernel::SumsRow;
        let pass = Pass { kernel, slicing, parts: 1, overrides, bound: &bound, style: PLAIN };
        geometry.pass(&pass, &mut self.plan.stages)?;
        self.plan.partials = self.plan.partials.max(slicing.partials(&view));
        Ok(slicing.slices)
    }

    /// One entry of sums per group: partials times the weight, or given ones as they are.
    fn gather(&mut self, parts: u32, from: Operand, to: Operand) -> Result<(), PlanError> {
        let view = &self.geometry.view;
        let paired = to == Operand::Gathered;
        if paired {
            self.plan.gathered = 2 * u64::from(view.statistics()) * ENTRY;
        }
        let affine = self.geometry.affine();
        let weight = affine.weight && from == Operand::Partials;
        let overrides = Overrides { paired, weight, bias: false, ..affine };
        let weight = if weight { Operand::Weight } else { Operand::Absent };
        let operands = [weight, Operand::Moments, from, to];
        let groups = view.groups();
        let stage = self.geometry.entries(
            Kernel::GatherSums,
            groups,
            parts,
            parts,
            overrides,
            &operands,
        )?;
        self.plan.stages.push(stage);
        Ok(())
    }

    fn params(&mut self, view: View, parts: u32, wants: Wants) -> Result<(), PlanError> {
        let Geometry { problem, caps, offsets, .. } = self.geometry;
        let geometry = Geometry::new(problem, view, caps, offsets);
        let overrides = Overrides {
            weight: wants.weight,
            bias: wants.bias,
            accumulate: wants.accumulate,
            ..Overrides::default()
        };
        let [outer, inner, ..] = view.extent;
        let (params, shared_by) =
            if view.param[0] == 0 { (inner, outer) } else { (outer * inner, 1) };
        let out = |wanted, operand| if wanted { operand } else { Operand::Absent };
        let operands = [
            Operand::Partials,
            out(wants.weight, Operand::WeightOut),
            out(wants.bias, Operand::BiasOut),
        ];
        let items = shared_by.saturating_mul(parts);
        let stage =
            geometry.entries(Kernel::GatherParams, params, parts, items, overrides, &operands)?;
        self.plan.stages.push(stage);
        Ok(())
    }

    fn input(&mut self) -> Result<(), PlanError> {
        let constant = self.geometry.problem.source.is_constant();
        let overrides = Overrides {
            constant,
            paired: !constant,
            weight: self.geometry.problem.weight,
            ..self.geometry.derivative()
        };
        let moments = if constant { Operand::Moments } else { Operand::Gathered };
        self.pass(Kernel::InputGrad, overrides, &[(Role::Moments, moments)])
    }
}
