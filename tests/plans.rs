//! The planner as data: which kernels for which shape, and what must hold of every plan. No device.

use proptest::prelude::*;
use wgnorm::plan::{Access, Caps, Kernel, Offsets, Plan, Stage};
use wgnorm::{
    Activation, Estimator, Momentum, PlanError, Problem, RunningUpdate, StatSource, View,
};

const WEBGPU: Caps =
    Caps { lanes: 256, max_binding: 128 << 20, max_grid: 65535, offset_alignment: 256 };

fn instance_norm(n: u32, c: u32, s: u32) -> Problem {
    Problem {
        view: View {
            extent: [n, c, 1, s],
            data: [c * s, s, 0, 1],
            param: [0, 1, 0, 0],
            stat: [c, 1, 0, 0],
        },
        source: StatSource::Batch,
        eps: 1e-5,
        weight: true,
        bias: true,
        addend: false,
        activation: Activation::None,
        update: None,
    }
}

fn running(mut problem: Problem) -> Problem {
    problem.source = StatSource::Running;
    problem.view.stat = [0, 1, 0, 0];
    problem
}

fn plan(problem: &Problem) -> Plan {
    Plan::forward(problem, &WEBGPU, &Offsets::default()).unwrap()
}

fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.stages.iter().map(|stage| stage.kernel).collect()
}

#[test]
fn a_group_that_fits_is_read_once() {
    for s in [2, 49, 4096, 16384] {
        let plan = plan(&instance_norm(8, 32, s));
        assert_eq!(kernels(&plan), [Kernel::NormRow], "{s}");
        assert_eq!(plan.scratch, 0);
    }
}

#[test]
fn a_longer_group_is_split() {
    let plan = plan(&instance_norm(1, 3, 1080 * 1920));
    assert_eq!(kernels(&plan), [Kernel::StatsRow, Kernel::Apply]);
    let [stats, apply] = &plan.stages[..] else { unreachable!() };
    assert_eq!(stats.task.slicing, apply.task.slicing);
    let [slices, slice_len, len, _] = stats.task.slicing;
    assert!(slices > 100 && slices * slice_len >= len && (slices - 1) * slice_len < len);
    assert_eq!(plan.scratch, u64::from(3 * slices) * 16);
}

#[test]
fn short_groups_share_a_workgroup() {
    let plan = plan(&instance_norm(64, 512, 49));
    let stage = &plan.stages[0];
    // 49 values are 13 steps of four: 4 lanes take 4 steps each, 64 groups fill 256 lanes.
    assert_eq!((stage.overrides.rows, stage.overrides.tile), (64, 4));
    assert_eq!(stage.workgroups, [512, 1, 1]);
    assert_eq!(stage.access, Access::F32x1);
}

#[test]
fn four_at_a_time_needs_length_and_offsets_in_fours() {
    let access = |s, offsets: Offsets| {
        let plan = Plan::forward(&instance_norm(1, 2, s), &WEBGPU, &offsets).unwrap();
        plan.stages.iter().map(|stage| stage.access).collect::<Vec<_>>()
    };
    assert_eq!(access(64, Offsets::default()), [Access::F32x4]);
    assert_eq!(access(63, Offsets::default()), [Access::F32x1]);
    assert_eq!(access(64, Offsets { x: 16, y: 32, ..Offsets::default() }), [Access::F32x4]);
    assert_eq!(access(64, Offsets { x: 4, ..Offsets::default() }), [Access::F32x1]);
    // Statistics touch x alone: an odd y slows only apply.
    let odd_y = Offsets { y: 4, ..Offsets::default() };
    assert_eq!(access(1 << 20, odd_y), [Access::F32x4, Access::F32x1]);
}

#[test]
fn given_statistics_need_one_stage() {
    for s in [1, 49, 16384, 1 << 20] {
        let plan = plan(&running(instance_norm(2, 3, s)));
        assert_eq!(kernels(&plan), [Kernel::Apply], "{s}");
        assert_eq!(plan.scratch, 0);
    }
}

#[test]
fn training_with_running_statistics_adds_their_update() {
    let mut problem = instance_norm(4, 3, 49);
    let update = |momentum| Some(RunningUpdate { momentum, estimator: Estimator::Unbiased });
    problem.update = update(Momentum::Factor(0.1));
    let simple = plan(&problem);
    assert_eq!(kernels(&simple), [Kernel::NormRow, Kernel::UpdateRunning]);
    assert!(simple.stages[0].overrides.save);
    assert_eq!(simple.scratch, 4 * 3 * 16);
    // Four samples: four lanes a channel.
    assert_eq!(simple.stages[1].overrides.rows, 64);
    problem.update = update(Momentum::Cumulative);
    let counted = plan(&problem);
    assert_eq!(kernels(&counted), [Kernel::NormRow, Kernel::UpdateRunning, Kernel::CountStep]);
}

#[test]
fn more_groups_than_a_grid_is_wide_fold() {
    let roomy = Caps { max_binding: 2 << 30, ..WEBGPU };
    let problem = instance_norm(1, 70_000, 4096);
    let plan = Plan::forward(&problem, &roomy, &Offsets::default()).unwrap();
    let [width, height, _] = plan.stages[0].workgroups;
    assert!(width <= 65535 && width * height >= 70_000, "{width} x {height}");
}

#[test]
fn empty_tensors_need_no_stage() {
    assert_eq!(plan(&instance_norm(0, 3, 16)).stages, []);
    assert_eq!(plan(&instance_norm(2, 3, 0)).stages, []);
}

#[test]
fn unknown_views_and_tiny_limits_are_refused() {
    let mut channels_last = instance_norm(2, 3, 16);
    channels_last.view.data = [48, 1, 0, 3];
    let error = Plan::forward(&channels_last, &WEBGPU, &Offsets::default()).unwrap_err();
    assert_eq!(error, PlanError::View { strides: [48, 1, 0, 3] });
    let tiny = Caps { max_binding: 256, ..WEBGPU };
    let error = Plan::forward(&instance_norm(2, 3, 16), &tiny, &Offsets::default()).unwrap_err();
    assert!(matches!(error, PlanError::Limit { limit: 256, .. }), "{error}");
}

/// The elements that a dispatch writes, as (group, first, end) in each group, from the uniform
/// alone: what `row_of` in the shader computes.
fn rows(stage: &Stage) -> Vec<(u32, u32, u32)> {
    let [first_group, first_slice, slices, items] = stage.task.span;
    let [_, slice_len, len, _] = stage.task.slicing;
    (0..items)
        .map(|item| {
            let slice = first_slice + item % slices;
            let start = slice * slice_len;
            (first_group + item / slices, start, (start + slice_len).min(len))
        })
        .collect()
}

fn check(problem: &Problem, caps: &Caps, offsets: &Offsets) -> Result<(), TestCaseError> {
    let plan = match Plan::forward(problem, caps, offsets) {
        Ok(plan) => plan,
        // Bindings as small as these tests' may not hold the statistics of so many slices.
        Err(PlanError::Limit { what: "partial statistics", needed, limit, .. }) => {
            prop_assert!(needed > limit && limit == caps.max_binding && limit < 1 << 20);
            return Ok(());
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let view = &problem.view;
    let len = view.group_len();
    let mut written = Vec::new();
    prop_assert!(plan.scratch <= caps.max_binding);
    for stage in &plan.stages {
        let o = &stage.overrides;
        prop_assert!(stage.workgroups.iter().all(|&n| n >= 1 && n <= caps.max_grid));
        if stage.kernel == Kernel::CountStep {
            continue;
        }
        prop_assert!(o.wg.is_power_of_two() && o.wg <= caps.lanes && o.wg % o.rows == 0);
        if stage.kernel == Kernel::UpdateRunning {
            continue;
        }
        let [width, height, _] = stage.workgroups;
        let items = u64::from(stage.task.span[3]);
        prop_assert!(u64::from(width) * u64::from(height) * u64::from(o.rows) >= items);
        let window = stage.window;
        let end = window.first + window.len;
        for offset in [offsets.x, offsets.y] {
            let begin = offset + u64::from(window.first) * 4;
            let slack = begin % caps.offset_alignment;
            prop_assert!(slack + u64::from(window.len) * 4 <= caps.max_binding);
        }
        if stage.access == Access::F32x4 {
            prop_assert!(
                [stage.task.base[0], stage.task.slicing[1], len]
                    .iter()
                    .all(|n| n.is_multiple_of(4))
            );
        }
        if stage.kernel == Kernel::NormRow {
            let lanes = o.wg / o.rows;
            prop_assert!(lanes * o.tile * 4 >= len, "{lanes} lanes of {} for {len}", o.tile);
        }
        for (group, first, last) in rows(stage) {
            let start = group * len;
            prop_assert!(window.first <= start + first && start + last <= end);
            // The binding's element 0 is the operand's element `-base`.
            let index = (start + first).wrapping_add(stage.task.base[0]);
            let begin = offsets.x + u64::from(window.first) * 4;
            let binding = begin - begin % caps.offset_alignment;
            prop_assert_eq!(
                u64::from(index) * 4,
                offsets.x + u64::from(start + first) * 4 - binding
            );
            if stage.kernel != Kernel::StatsRow {
                written.push((start + first, start + last));
            }
        }
    }
    written.sort_unstable();
    let mut next = 0;
    for (first, last) in written {
        prop_assert_eq!(first, next, "a gap or an overlap");
        next = last;
    }
    prop_assert_eq!(next, view.elements());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every element is written once, inside its binding and every limit.
    #[test]
    fn every_element_is_written_once(
        n in 1u32..5,
        c in 1u32..9,
        s in prop_oneof![1u32..100, 1u32..5000, 16_000u32..40_000],
        lanes in prop_oneof![Just(1u32), Just(7), Just(64), Just(256), Just(1024)],
        // From windows that hold a few slices to windows that hold everything.
        max_binding in prop_oneof![2048u64..9000, 9000u64..100_000, Just(128 << 20)],
        max_grid in prop_oneof![Just(40_000u32), Just(65535)],
        alignment in prop_oneof![Just(32u64), Just(256)],
        offsets in (0u64..100, 0u64..100),
        eval in any::<bool>(),
        update in any::<bool>(),
    ) {
        let mut problem = instance_norm(n, c, s);
        if update {
            problem.update = Some(RunningUpdate {
                momentum: Momentum::Cumulative,
                estimator: Estimator::Biased,
            });
        }
        if eval {
            problem = running(problem);
            problem.update = None;
        }
        let max_binding = max_binding & !255;
        let caps = Caps { lanes, max_binding, max_grid, offset_alignment: alignment };
        let offsets = Offsets { x: offsets.0 * 4, y: offsets.1 * 4, ..Offsets::default() };
        check(&problem, &caps, &offsets)?;
    }
}
