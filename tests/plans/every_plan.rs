//! Any problem on any device.

use super::{problem, running, view};
use proptest::{prelude::*, sample};
use std::collections::BTreeMap;
use wgnorm::plan::{Caps, Keep, Kernel, Offsets, Operand, Plan, Role, Stage, Tuning, Wants};
use wgnorm::{Activation, DType, Estimator, Momentum, PlanError, Problem, RunningUpdate, View};

/// The elements that a dispatch touches, as `row_of` and `elements` in the shaders find them, from
/// the uniform alone; in ranges of a row's.
fn elements(stage: &Stage) -> impl Iterator<Item = u32> + '_ {
    let [first_group, first_slice, slices, items] = stage.task.span;
    let [_, slice_len, len, _] = stage.task.slicing;
    let (extent, data) = (stage.task.view.extent, stage.task.view.data);
    (0..items).flat_map(move |item| {
        let groups = items / slices;
        let (group, slice) = match stage.overrides.columns {
            true => (item % groups, item / groups),
            false => (item / slices, item % slices),
        };
        let (group, slice) = (first_group + group, first_slice + slice);
        let base = group / extent[1] * data[0] + group % extent[1] * data[1];
        let start = slice * slice_len;
        (start..(start + slice_len).min(len)).map(move |q| match stage.overrides.dense {
            true => base + q,
            false => base + q / extent[3] * data[2] + q % extent[3] * data[3],
        })
    })
}

fn check(
    plan: Plan,
    caps: &Caps,
    offsets: &Offsets,
    problem: &Problem,
) -> Result<(), TestCaseError> {
    let size = problem.dtype.size() as u64;
    // How often each kernel touches each element, kernels of re-sorted views apart.
    let mut touched: BTreeMap<(Kernel, [[u32; 4]; 2]), Vec<u8>> = BTreeMap::new();
    let length = |strides: [u32; 4]| {
        let last = problem.view.extent.iter().zip(strides).map(|(n, stride)| (n - 1) * stride);
        u64::from(last.sum::<u32>() + 1)
    };
    let groups = u64::from(problem.view.extent[0] * problem.view.extent[1]);
    for stage in &plan.stages {
        let o = &stage.overrides;
        for operand in &stage.operands {
            let bytes = match operand {
                Operand::Partials => plan.partials,
                Operand::Gathered => plan.gathered,
                Operand::Moments => length(problem.view.stat) * 16,
                Operand::Sums => groups * 16,
                Operand::Weight | Operand::Bias | Operand::WeightOut | Operand::BiasOut => {
                    length(problem.view.param) * 4
                }
                Operand::Mask => length(problem.view.mask),
                _ => 0,
            };
            prop_assert!(bytes <= caps.max_binding, "{:?} has {} bytes", operand, bytes);
        }
        prop_assert!(stage.workgroups.iter().all(|&n| n >= 1 && n <= caps.max_grid));
        prop_assert_eq!(stage.operands.len(), stage.kernel.bindings().len());
        prop_assert!(o.wg.is_power_of_two() && o.wg <= caps.lanes && o.wg % o.rows == 0);
        let [width, height, _] = stage.workgroups;
        let items = u64::from(stage.task.span[3]);
        let turns = u64::from(stage.task.param_base[3].max(1));
        prop_assert!(u64::from(width) * u64::from(height) * u64::from(o.taken) * turns >= items);
        // Groups that are one stay in a workgroup.
        let together = if o.tile > 0 { o.kin.max(1) } else { 1 };
        prop_assert!(o.taken <= o.rows && o.taken.is_multiple_of(together));
        prop_assert!(stage.task.span[3].is_multiple_of(together));
        prop_assert!(stage.kernel.bindings().len() <= caps.storage_buffers as usize);
        if stage.kernel == Kernel::GatherParams {
            // Each parameter is one row's, however many groups share it.
            let axes = problem.view.extent.iter().zip(problem.view.param);
            let params = 1 + axes.map(|(n, stride)| (n - 1) * stride).sum::<u32>();
            prop_assert_eq!(stage.task.span[3], params);
        }
        if !stage.kernel.bindings().iter().any(|(role, _)| *role == Role::X) {
            continue;
        }
        let (window, len) = (stage.window, stage.task.slicing[2]);
        let end = window.first + window.len;
        let [x, y, addend, dy] = stage.task.base;
        for (base, role, offset) in [
            (x, Role::X, offsets.x),
            (y, Role::Y, offsets.y),
            (addend, Role::Addend, offsets.addend),
            (dy, Role::Dy, offsets.dy),
            (stage.task.param_base[2], Role::Gradient, 0),
        ] {
            let at = stage.kernel.bindings().iter().position(|(bound, _)| *bound == role);
            let shared = o.shared && matches!(role, Role::X | Role::Y);
            prop_assert!(
                !shared || (stage.operands[at.unwrap()] == Operand::Absent) == (role == Role::X)
            );
            let bound = at.filter(|&at| shared || stage.operands[at] != Operand::Absent);
            let Some(at) = bound else { continue };
            let offset = if stage.operands[at] == Operand::Gradient { 0 } else { offset };
            let begin = offset + u64::from(window.first) * size;
            let first = if shared { offsets.x.min(offsets.y) } else { offset };
            let first = first + u64::from(window.first) * size;
            let binding = first - first % caps.offset_alignment;
            prop_assert!(begin - binding + u64::from(window.len) * size <= caps.max_binding);
            // The binding's element 0 is the operand's element `-base`.
            let element = window.first.wrapping_add(base);
            prop_assert_eq!(u64::from(element) * size, begin - binding);
            if stage.access.is_by_four() {
                prop_assert!(base.is_multiple_of(4));
            }
        }
        if o.tile > 0 {
            let lanes = o.wg / o.rows;
            prop_assert!(lanes * o.tile * 4 >= len, "{lanes} lanes of {} for {len}", o.tile);
        }
        let elements_in_all = problem.view.elements() as usize;
        let View { extent, data, .. } = stage.task.view;
        let counts = touched
            .entry((stage.kernel, [extent, data]))
            .or_insert_with(|| vec![0; elements_in_all]);
        for (i, element) in elements(stage).enumerate() {
            prop_assert!(window.first <= element && element < end);
            // A step of four is four neighbours.
            if stage.access.is_by_four() && o.dense && i % 4 == 0 {
                prop_assert!(element.is_multiple_of(4));
            }
            counts[element as usize] += 1;
        }
    }
    for (kernel, counts) in touched {
        prop_assert!(counts.iter().all(|&n| n == 1), "{:?}: a gap or an overlap", kernel);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every kernel touches every element once, inside its binding and every limit, forward and
    /// backward.
    #[test]
    fn every_element_is_touched_once(
        kind in 0usize..7,
        n in 1u32..5,
        c in prop_oneof![1u32..9, Just(40)],
        s in prop_oneof![1u32..100, 1u32..5000, 16_000u32..40_000],
        lanes in prop_oneof![Just(1u32), Just(7), Just(64), Just(256), Just(1024)],
        // From windows that hold a few slices to windows that hold everything.
        max_binding in prop_oneof![2048u64..9000, 9000u64..100_000, Just(128 << 20)],
        max_grid in prop_oneof![Just(40_000u32), Just(65535)],
        alignment in prop_oneof![Just(32u64), Just(256)],
        offsets in (0u64..100, 0u64..100),
        [eval, update, relu, addend, half, masked] in any::<[bool; 6]>(),
        storage_buffers in 8u32..11,
        cache in prop_oneof![Just(0u64), 1u64 << 8..1 << 20, Just(u64::MAX)],
        tuning in sample::select(&Tuning::ALL[..]),
    ) {
        let c = if s > 5000 { c.min(4) } else { c };
        let mut problem = problem(view(kind, [n, c, s]));
        if half {
            problem.dtype = DType::F16;
        }
        problem.masked = masked && kind < 4;
        problem.addend = addend;
        if relu {
            problem.activation = Activation::Relu;
        }
        if update && kind < 4 {
            problem.update = Some(RunningUpdate {
                momentum: Momentum::Cumulative,
                estimator: Estimator::Biased,
                counts: true,
            });
        }
        if eval && kind < 4 {
            problem = running(problem);
            problem.update = None;
        }
        let max_binding = max_binding & !255;
        let offset_alignment = alignment;
        let caps = Caps {
            lanes,
            max_binding,
            max_grid,
            offset_alignment,
            storage_buffers,
            cache,
            tuning,
        };
        let (x, y) = (offsets.0 * 4, offsets.1 * 4);
        let offsets = Offsets { x, y, dy: x, ..Offsets::default() };
        let wants = Wants { weight: true, bias: true, ..Wants::default() };
        let in_place = Offsets { y: x, shared: true, ..offsets };
        let beside = Offsets { shared: true, ..offsets };
        for (plan, offsets) in [
            (Plan::forward(&problem, &caps, &offsets, Keep::Nothing), offsets),
            (Plan::forward(&problem, &caps, &offsets, Keep::Moments), offsets),
            (Plan::forward(&problem, &caps, &in_place, Keep::Nothing), in_place),
            (Plan::forward(&problem, &caps, &beside, Keep::Nothing), beside),
            (Plan::backward(&problem, &caps, &offsets, wants), offsets),
        ] {
            match plan {
                Ok(plan) => check(plan, &caps, &offsets, &problem)?,
                // Bindings as small as these tests' may not hold everything.
                Err(PlanError::Limit { needed, limit, .. }) => {
                    prop_assert!(needed > limit && limit == caps.max_binding && limit < 1 << 20);
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }
}
