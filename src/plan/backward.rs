//! The planner of the backward pass.

use super::geometry::{BACKWARDS, ENTRY, Geometry, PLAIN, Pass, Slicing};
use super::{Caps, Kernel, Offsets, Operand, Overrides, Plan, Role, Wants};
use crate::problem::Problem;
use crate::view::{View, sort_axes};
use crate::{Activation, DType, PlanError};
use smallvec::SmallVec;
use std::ops::Range;

/// Elements of a row of which an entry of four f32 is written and read: less than these cost.
const ROW_MIN: u32 = 16;

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
            sort_axes(axes, |&axis| {
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

    /// Where parameters vary along one of a group's axes (GroupNorm's channels): the same elements with
    /// each parameter's as a row, and how many rows side by side are a group. `None` where that is not
    /// so, or rows would be shorter than the entry that is kept of each.
    pub(crate) fn by_channel(&self) -> Option<(View, u32)> {
        let View { extent, data, param, stat, mask } = *self;
        let varies = |axis: &usize| param[*axis] != 0 && extent[*axis] > 1;
        let [axis] = (2..4).filter(varies).collect::<Vec<_>>()[..] else { return None };
        let (along, kin) = (5 - axis, extent[axis]);
        let is_one_axis = |strides: [u32; 4]| extent[1] == 1 || strides[1] == kin * strides[axis];
        let in_order = (extent[0] == 1 || stat[0] == extent[1]) && (extent[1] == 1 || stat[1] == 1);
        let rows = is_one_axis(data) && is_one_axis(param) && in_order;
        let merged = |strides: [u32; 4]| [strides[0], strides[axis], 0, strides[along]];
        let view = View {
            extent: [extent[0], extent[1] * kin, 1, extent[along]],
            data: merged(data),
            param: merged(param),
            stat: [0; 4], // by their order
            mask: merged(mask),
        };
        (rows && extent[along] >= ROW_MIN && mask[axis] == 0).then_some((view, kin))
    }

    /// Entries of `len` parameters, in `strips` of all of them.
    fn of_columns(strips: u32, len: u32) -> View {
        View {
            extent: [strips, len, 1, 1],
            data: [len, 1, 0, 0],
            param: [0, 1, 0, 0],
            stat: [0; 4],
            mask: [0; 4],
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
        // What is left of the problem where dy is behind the epilogue already.
        let behind = Problem { activation: Activation::None, addend: false, ..*problem };
        let mut planner = Planner::new(problem, caps, offsets);
        match planner.registers(wants) {
            Some((slicing, besides)) => planner.in_registers(slicing, besides, &behind, wants)?,
            None => planner.pass_by_pass(&behind, wants)?,
        }
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
        let (view, inside) = (problem.view, problem.view.params_inside());
        let (all, slicing) = (planner.geometry.all(), planner.geometry.looped());
        planner.sums(Kernel::SumsRow, (view, 0), all.clone(), slicing, inside)?;
        planner.gather(all, 0, slicing.slices, Operand::Partials, Operand::Sums)?;
        planner.finish()
    }
}

/// What the dispatch that does it all writes besides dx, for the gradients of parameters.
enum Besides {
    /// Nothing: they are not wanted, or need passes of their own.
    Nothing,
    /// Sums over each group, which is one parameter's.
    Groups,
    /// Sums over each channel of a group, rows of this view; so many of them are a group.
    Channels(View, u32),
    /// Sums over groups of each position.
    Columns,
}

struct Planner<'a> {
    geometry: Geometry<'a>,
    /// The gradient that comes in: dy, or what a dispatch before made of it.
    dy: Operand,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(problem: &'a Problem, caps: &'a Caps, offsets: &'a Offsets) -> Self {
        let geometry = Geometry::new(problem, problem.view, caps, offsets);
        Planner { geometry, dy: Operand::Dy, plan: Plan::default() }
    }

    fn finish(self) -> Result<Plan, PlanError> {
        self.geometry.check_operands(&self.plan)?;
        Ok(self.plan)
    }

    fn problem(&self) -> &'a Problem {
        self.geometry.problem
    }

    /// Whether a kernel binds no more than the device does.
    fn binds(&self, kernel: Kernel) -> bool {
        kernel.bindings().len() as u32 <= self.geometry.caps.storage_buffers
    }

    /// From here on the addend's gradient stands for dy. Not in 16 bits: dx shall be rounded once.
    fn go_behind(&mut self, behind: &'a Problem) {
        if self.problem().has_gradient() && self.problem().dtype == DType::F32 {
            self.dy = Operand::Gradient;
            self.geometry.problem = behind;
        }
    }

    /// How all of it is one dispatch, if it can be and there is more to do than to write dx.
    fn registers(&self, wants: Wants) -> Option<(Slicing, Besides)> {
        let problem = self.problem();
        let view = problem.view;
        let on_the_way = problem.has_gradient() && self.binds(Kernel::GradRowAddend);
        if problem.has_gradient() && !on_the_way && problem.dtype != DType::F32 {
            return None; // the addend would be read again
        }
        let groups = || self.geometry.gradient_in_registers();
        let channels = || {
            let (view, kin) = view.by_channel()?;
            let slicing = self.over(view).kin_in_registers(kin).filter(|s| self.keeps(s, &view))?;
            Some((slicing, Besides::Channels(view, kin)))
        };
        let columns = || Some((self.geometry.column_sums()?, Besides::Columns));
        let (slicing, besides) = if !(wants.weight || wants.bias) {
            (groups()?, Besides::Nothing)
        } else if view.params_follow_groups() {
            (groups()?, Besides::Groups)
        } else if let Some(all) = channels().or_else(columns) {
            all
        } else {
            (groups()?, Besides::Nothing)
        };
        let with_params = !matches!(besides, Besides::Nothing);
        let worth = !problem.source.is_constant() || on_the_way || with_params;
        (worth && !wants.given_sums).then_some((slicing, besides))
    }

    fn in_registers(
        &mut self,
        slicing: Slicing,
        besides: Besides,
        behind: &'a Problem,
        wants: Wants,
    ) -> Result<(), PlanError> {
        if self.problem().has_gradient() && !self.binds(Kernel::GradRowAddend) {
            self.gradient_apart(behind)?;
        }
        let problem = self.problem();
        let (view, kin) = match besides {
            Besides::Channels(view, kin) => (view, kin),
            _ => (problem.view, 0),
        };
        let geometry = self.over(view);
        let overrides = Overrides {
            tile: slicing.tile,
            kin,
            constant: problem.source.is_constant(),
            weight: problem.weight,
            save: matches!(besides, Besides::Groups | Besides::Channels(..)),
            column_sums: matches!(besides, Besides::Columns),
            ..geometry.derivative()
        };
        let kernel = if problem.has_gradient() { Kernel::GradRowAddend } else { Kernel::GradRow };
        let sums = match besides {
            Besides::Nothing => Operand::Absent,
            _ => Operand::Partials,
        };
        let bound = [(Role::Dy, self.dy), (Role::Moments, Operand::Moments), (Role::Sums, sums)];
        let pass = Pass {
            kernel,
            groups: geometry.all(),
            slicing,
            parts: 1,
            overrides,
            bound: &bound,
            style: PLAIN,
        };
        geometry.pass(&pass, &mut self.plan.stages)?;
        self.go_behind(behind);
        match besides {
            Besides::Groups | Besides::Channels(..) => {
                self.keep_partials(slicing.partials(&view));
                self.params(view, 1, wants)
            }
            Besides::Columns => {
                let (strips, len) = (geometry.strips(&slicing), view.group_len());
                self.keep_partials(u64::from(strips) * u64::from(len) * ENTRY);
                self.params(View::of_columns(strips, len), 1, wants)
            }
            Besides::Nothing if wants.weight || wants.bias => self.params_apart(wants),
            Besides::Nothing => Ok(()),
        }
    }

    /// Groups longer than registers: sums, then dx, run by run; then parameters.
    fn pass_by_pass(&mut self, behind: &'a Problem, wants: Wants) -> Result<(), PlanError> {
        let problem = self.problem();
        let view = problem.view;
        let needs_sums = !problem.source.is_constant();
        let wants_params = wants.weight || wants.bias;
        // Where each group is one parameter, one reduction serves both.
        let one_pass = view.params_follow_groups();
        let sums_here = needs_sums && !wants.given_sums;
        let sums_first = sums_here || (wants_params && one_pass);
        let on_the_way = sums_first && self.binds(Kernel::SumsRowAddend);
        if problem.has_gradient() && !on_the_way {
            self.gradient_apart(behind)?;
        }
        let front = (self.geometry.problem, self.dy);
        let kernel = match problem.has_gradient() && on_the_way {
            true => Kernel::SumsRowAddend,
            false => Kernel::SumsRow,
        };
        let runs: Vec<_> = self.geometry.runs(2).filter(|_| sums_here).collect();
        // Sums over channels serve both, too.
        let channels = view.by_channel().filter(|_| sums_here && wants_params && !one_pass);
        let channels = channels.and_then(|(view, kin)| {
            let slicing = self.over(view).looped_runs(runs[0].end * kin);
            self.keeps(&slicing, &view).then_some((view, kin, slicing))
        });
        let parts = if sums_here {
            let slicing = self.geometry.looped_runs(runs[0].end);
            let (of, kin, of_rows) = channels.unwrap_or((view, 0, slicing));
            let rows = |groups: &Range<u32>| groups.start * kin.max(1)..groups.end * kin.max(1);
            for groups in runs {
                // The run before went behind.
                (self.geometry.problem, self.dy) = front;
                self.sums(kernel, (of, kin), rows(&groups), of_rows, of.params_inside())?;
                self.go_behind(behind);
                let (parts, to) = (of_rows.slices, Operand::Gathered);
                self.gather(groups.clone(), kin, parts, Operand::Partials, to)?;
                self.input(groups, slicing, BACKWARDS)?;
            }
            of_rows.slices
        } else {
            let (all, slicing) = (self.geometry.all(), self.geometry.looped());
            if sums_first {
                self.sums(kernel, (view, 0), all.clone(), slicing, view.params_inside())?;
                self.go_behind(behind);
            }
            if needs_sums {
                self.gather(all.clone(), 0, 1, Operand::Sums, Operand::Gathered)?;
            }
            self.input(all, slicing, PLAIN)?;
            slicing.slices
        };
        match wants_params {
            false => Ok(()),
            true if one_pass => self.params(view, parts, wants),
            true => match channels {
                Some((view, ..)) => self.params(view, parts, wants),
                None => self.params_apart(wants),
            },
        }
    }

    /// The addend's gradient in a pass of its own.
    fn gradient_apart(&mut self, behind: &'a Problem) -> Result<(), PlanError> {
        let overrides = self.geometry.derivative();
        let bound = [(Role::Moments, Operand::Moments)];
        let (all, slicing) = (self.geometry.all(), self.geometry.looped());
        self.pass(Kernel::EpilogueGrad, all, slicing, overrides, &bound, PLAIN)?;
        self.go_behind(behind);
        Ok(())
    }

    /// Parameters that vary within groups: a reduction of their own.
    fn params_apart(&mut self, wants: Wants) -> Result<(), PlanError> {
        let view = self.problem().view.by_parameter();
        let slicing = self.over(view).looped();
        self.sums(Kernel::SumsRow, (view, 0), 0..view.groups(), slicing, false)?;
        self.params(view, slicing.slices, wants)
    }

    /// A pass over the problem's own view.
    fn pass(
        &mut self,
        kernel: Kernel,
        groups: Range<u32>,
        slicing: Slicing,
        overrides: Overrides,
        bound: &[(Role, Operand)],
        style: [f32; 4],
    ) -> Result<(), PlanError> {
        let bound: SmallVec<[_; 4]> = [(Role::Dy, self.dy)].iter().chain(bound).copied().collect();
        let pass = Pass { kernel, groups, slicing, parts: 1, overrides, bound: &bound, style };
        self.geometry.pass(&pass, &mut self.plan.stages)
    }

    /// Whether a binding holds an entry for every slice of every group.
    fn keeps(&self, slicing: &Slicing, view: &View) -> bool {
        slicing.partials(view) <= self.geometry.caps.max_binding
    }

    fn keep_partials(&mut self, bytes: u64) {
        self.plan.partials = self.plan.partials.max(bytes);
    }

    /// The same problem over another view.
    fn over(&self, view: View) -> Geometry<'a> {
        let Geometry { problem, caps, offsets, .. } = self.geometry;
        Geometry::new(problem, view, caps, offsets)
    }

    /// Partial sums over some groups of a view, of the gradient or (`weighted`) of its product with the
    /// weight; `kin` of them share statistics.
    fn sums(
        &mut self,
        kernel: Kernel,
        (view, kin): (View, u32),
        groups: Range<u32>,
        slicing: Slicing,
        weighted: bool,
    ) -> Result<(), PlanError> {
        let geometry = self.over(view);
        let problem = geometry.problem;
        let varies = |axis: usize| view.stat[axis] != 0 && view.extent[axis] > 1;
        let overrides = Overrides {
            kin,
            weighted: weighted && problem.weight,
            weight: problem.weight && (weighted || problem.activation != Activation::None),
            stats_inside: varies(2) || varies(3),
            ..geometry.derivative()
        };
        let bound = [
            (Role::Dy, self.dy),
            (Role::Moments, Operand::Moments),
            (Role::Sums, Operand::Partials),
        ];
        let pass =
            Pass { kernel, groups, slicing, parts: 1, overrides, bound: &bound, style: PLAIN };
        self.keep_partials(slicing.partials(&view));
        geometry.pass(&pass, &mut self.plan.stages)
    }

    /// One entry of sums per group: partials, of all of it or of its `kin` channels, times the weight; or
    /// given ones as they are.
    fn gather(
        &mut self,
        groups: Range<u32>,
        kin: u32,
        parts: u32,
        from: Operand,
        to: Operand,
    ) -> Result<(), PlanError> {
        let view = &self.geometry.view;
        let paired = to == Operand::Gathered;
        if paired {
            self.plan.gathered = 2 * u64::from(view.statistics()) * ENTRY;
        }
        let affine = self.geometry.affine();
        let weight = affine.weight && from == Operand::Partials;
        let overrides = Overrides { kin, paired, weight, bias: false, ..affine };
        let weight = if weight { Operand::Weight } else { Operand::Absent };
        let operands = [weight, Operand::Moments, from, to];
        let mut stage = self.geometry.entries(
            Kernel::GatherSums,
            groups.end - groups.start,
            parts,
            parts.saturating_mul(kin.max(1)),
            overrides,
            &operands,
        )?;
        stage.task.span[0] = groups.start;
        self.plan.stages.push(stage);
        Ok(())
    }

    fn params(&mut self, view: View, parts: u32, wants: Wants) -> Result<(), PlanError> {
        let geometry = self.over(view);
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

    fn input(
        &mut self,
        groups: Range<u32>,
        slicing: Slicing,
        style: [f32; 4],
    ) -> Result<(), PlanError> {
        let constant = self.geometry.problem.source.is_constant();
        let overrides = Overrides {
            constant,
            paired: !constant,
            weight: self.geometry.problem.weight,
            ..self.geometry.derivative()
        };
        let moments = if constant { Operand::Moments } else { Operand::Gathered };
        // Behind constants and no activation, dx is made of dy alone.
        let x = match self.problem().activation {
            Activation::None if constant => Operand::Absent,
            _ => Operand::X,
        };
        let bound = [(Role::Moments, moments), (Role::X, x)];
        self.pass(Kernel::InputGrad, groups, slicing, overrides, &bound, style)
    }
}
