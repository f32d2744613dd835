//! The planner as data: which kernels for which shape, and what must hold of every plan. No device.

mod every_plan;
mod invariants;

use invariants::{problem, running, view};
use wgnorm::plan::{
    Access, Caps, Keep, Kernel, Offsets, Operand, Plan, Small, Traffic, Tuning, Wants, Window,
};
use wgnorm::{Activation, DType, Estimator, Momentum, PlanError, Problem, RunningUpdate};

const WEBGPU: Caps = Caps::WEBGPU;
/// What all kernels together need.
const ROOMY: Caps = Caps { storage_buffers: 10, ..WEBGPU };

fn instance_norm(n: u32, c: u32, s: u32) -> Problem {
    problem(view(0, [n, c, s]))
}

fn forward(problem: &Problem, caps: &Caps, offsets: &Offsets) -> Result<Plan, PlanError> {
    Plan::forward(problem, caps, offsets, Keep::Nothing)
}

fn backward(problem: &Problem) -> Plan {
    let wants = Wants { weight: true, bias: true, ..Wants::default() };
    Plan::backward(problem, &WEBGPU, &Offsets::default(), wants).unwrap()
}

fn plan(problem: &Problem) -> Plan {
    forward(problem, &WEBGPU, &Offsets::default()).unwrap()
}

fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.stages.iter().map(|stage| stage.kernel).collect()
}

#[test]
fn a_group_that_fits_is_read_once() {
    for s in [2, 49, 4096, 16384] {
        let plan = plan(&instance_norm(8, 32, s));
        assert_eq!(kernels(&plan), [Kernel::NormRow], "{s}");
        assert_eq!(plan.partials, 0);
    }
}

#[test]
fn a_longer_group_is_split() {
    let plan = plan(&instance_norm(1, 3, 1080 * 1920));
    assert_eq!(kernels(&plan), [Kernel::StatsRow, Kernel::Apply]);
    let [stats, apply] = &plan.stages[..] else { unreachable!() };
    assert_eq!(stats.task.slicing[..3], apply.task.slicing[..3]);
    let [slices, slice_len, len, _] = stats.task.slicing;
    assert_eq!(apply.task.slicing[3], slices);
    assert!(slices > 100 && slices * slice_len >= len && (slices - 1) * slice_len < len);
    assert_eq!(plan.partials, u64::from(3 * slices) * 16);
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
        let plan = forward(&instance_norm(1, 2, s), &WEBGPU, &offsets).unwrap();
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
        assert_eq!(plan.partials, 0);
    }
}

#[test]
fn training_with_running_statistics_adds_their_update() {
    let mut problem = instance_norm(4, 3, 49);
    let update = |momentum| {
        let counts = momentum == Momentum::Cumulative;
        Some(RunningUpdate { momentum, estimator: Estimator::Unbiased, counts })
    };
    problem.update = update(Momentum::Factor(0.1));
    let simple = plan(&problem);
    assert_eq!(kernels(&simple), [Kernel::NormRow, Kernel::UpdateRunning]);
    assert!(simple.stages[0].overrides.save);
    assert_eq!(simple.partials, 4 * 3 * 16);
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
    let plan = forward(&problem, &roomy, &Offsets::default()).unwrap();
    let [width, height, _] = plan.stages[0].workgroups;
    assert!(width <= 65535 && width * height >= 70_000, "{width} x {height}");
}

/// Each of the other plans is another plan for some problem.
#[test]
fn tunings_differ() {
    let base = Caps { lanes: 1024, cache: 1 << 20, ..WEBGPU };
    for tuning in Tuning::ALL {
        let tuned = Caps { tuning, ..base };
        let differs = [49, 4096, 16_384, 100_000].map(|s| {
            let problem = instance_norm(2, 30, s);
            let on = |caps| forward(&problem, caps, &Offsets::default()).unwrap();
            on(&base) != on(&tuned)
        });
        assert_eq!(differs.contains(&true), tuning != Tuning::Planned, "{tuning:?}");
    }
}

#[test]
fn empty_tensors_need_no_stage() {
    assert_eq!(plan(&instance_norm(0, 3, 16)).stages, []);
    assert_eq!(plan(&instance_norm(2, 3, 0)).stages, []);
}

#[test]
fn tiny_limits_are_refused() {
    let tiny = Caps { max_binding: 256, ..WEBGPU };
    let error = forward(&instance_norm(2, 3, 16), &tiny, &Offsets::default()).unwrap_err();
    assert!(matches!(error, PlanError::Limit { limit: 256, .. }), "{error}");
    // Between the elements of a group lies one sample's worth of the others.
    let small = Caps { max_binding: 4096, ..WEBGPU };
    let batch_norm = problem(view(2, [4, 3, 1000]));
    let error = forward(&batch_norm, &small, &Offsets::default()).unwrap_err();
    assert!(matches!(error, PlanError::Limit { needed: 12_256, limit: 4096, .. }), "{error}");
}

/// A tensor as large as a binding is one window, at an offset that is aligned.
#[test]
fn a_binding_is_used_to_its_end() {
    for kind in 0..7 {
        let problem = problem(view(kind, [4, 8, 256]));
        let caps = Caps { max_binding: 4 * 8 * 256 * 4, ..WEBGPU };
        let plan = forward(&problem, &caps, &Offsets::default()).unwrap();
        let whole = Window { first: 0, len: 4 * 8 * 256 };
        assert!(plan.stages.iter().all(|stage| stage.window == whole), "{kind}");
        let offsets = Offsets { x: 16, ..Offsets::default() };
        let stages = forward(&problem, &caps, &offsets).unwrap().stages;
        assert!(stages.iter().any(|stage| stage.window != whole), "{kind}");
    }
}

/// What trains on one side of a limit trains on the other: all passes go through windows.
#[test]
fn every_pass_is_cut_into_windows() {
    let caps = Caps { max_binding: 64 << 10, ..WEBGPU };
    let wants = Wants { weight: true, bias: true, ..Wants::default() };
    for kind in 0..7 {
        let problem = problem(view(kind, [16, 40, 200]));
        let plans = [
            Plan::forward(&problem, &caps, &Offsets::default(), Keep::Moments),
            Plan::backward(&problem, &caps, &Offsets::default(), wants),
        ];
        for plan in plans {
            let plan = plan.unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(plan.stages.iter().filter(|stage| stage.window.len > 0).count() > 7);
        }
    }
}

/// Entries of every channel of every sample may be more than a binding holds: parameters then have a
/// pass of their own.
#[test]
fn channels_beyond_a_binding_are_summed_up_apart() {
    let small = Caps { max_binding: 64 << 10, ..WEBGPU };
    let wants = Wants { weight: true, bias: true, ..Wants::default() };
    let cases = [([9000, 1024, 16], WEBGPU), ([20, 300, 16], small)];
    for (kind, (shape, caps)) in [4, 5].into_iter().flat_map(|k| cases.map(|case| (k, case))) {
        let problem = problem(view(kind, shape));
        let plan = Plan::backward(&problem, &caps, &Offsets::default(), wants);
        let plan = plan.unwrap_or_else(|error| panic!("{kind} {shape:?}: {error}"));
        assert!(plan.partials <= caps.max_binding, "{kind} {shape:?}");
    }
}

#[test]
fn channels_side_by_side_are_read_side_by_side() {
    for kind in [1, 3] {
        let plan = plan(&problem(view(kind, [1, 64, 200])));
        let stage = &plan.stages[0];
        assert_eq!(kernels(&plan), [Kernel::NormRow]);
        assert!(stage.overrides.columns && !stage.overrides.dense);
        assert_eq!(stage.overrides.rows, 32);
    }
    // Few channels: no idle rows.
    let three = plan(&problem(view(1, [1, 3, 200])));
    assert_eq!(three.stages[0].overrides.rows, 4);
    // BatchNorm, channels first: rows again, in segments.
    let first = plan(&problem(view(2, [4, 64, 200])));
    let o = first.stages[0].overrides;
    assert!(!o.columns && !o.dense && first.stages[0].access == Access::F32x4);
}

#[test]
fn sixteen_bits_are_taken_four_at_a_time_from_half_the_offset() {
    let mut half = instance_norm(1, 2, 64);
    half.dtype = DType::BF16;
    let access = |offset| {
        let offsets = Offsets { x: offset, ..Offsets::default() };
        forward(&half, &WEBGPU, &offsets).unwrap().stages[0].access
    };
    assert_eq!((access(0), access(8), access(4)), (Access::BF16x4, Access::BF16x4, Access::BF16x1));
}

#[test]
fn backward_of_groups_that_fit_reads_once() {
    use Kernel::*;
    for kind in 0..6 {
        let plan = backward(&problem(view(kind, [2, 3, 64])));
        assert_eq!(kernels(&plan), [GradRow, GatherParams], "{kind}");
        // GroupNorm's parameters vary within groups, from channel to channel: these are the rows then,
        // three of which are a group.
        let kin = if kind < 4 { 0 } else { 3 };
        assert_eq!(plan.stages[0].overrides.kin, kin, "{kind}");
        assert_eq!(plan.stages[0].overrides.taken % kin.max(1), 0, "{kind}");
        let rows = if matches!(kind, 2 | 3) { 3 } else { 2 * 3 };
        assert_eq!(plan.partials, rows * 16, "{kind}");
    }
    // Of channels this short entries would be as much as the elements.
    let short = backward(&problem(view(4, [2, 300, 8])));
    assert_eq!(kernels(&short), [GradRow, SumsRow, GatherParams]);
    assert!(short.stages[1].overrides.stats_inside);
    // LayerNorm's are those of a position: summed on the way, if there are enough rows.
    let few = backward(&problem(view(6, [2, 3, 64])));
    assert_eq!(kernels(&few), [GradRow, SumsRow, GatherParams]);
    let rows = backward(&problem(view(6, [100, 41, 768])));
    assert_eq!(kernels(&rows), [GradRow, GatherParams]);
    let [first, gather] = &rows.stages[..] else { unreachable!() };
    assert!(first.overrides.column_sums && !first.overrides.save);
    // Four rows side by side, eight times one after the other.
    assert_eq!((first.overrides.rows, first.task.param_base[3]), (4, 8));
    let strips = 4100u32.div_ceil(32);
    assert_eq!(first.workgroups, [strips, 1, 1]);
    assert_eq!(
        (gather.task.view.extent[..2].to_vec(), gather.task.span[3]),
        (vec![strips, 768], 768)
    );
    assert_eq!(rows.partials, u64::from(strips) * 768 * 16);
    // Registers do not hold sums beside longer rows.
    let long = backward(&problem(view(6, [100, 41, 8000])));
    assert_eq!(kernels(&long), [GradRow, SumsRow, GatherParams]);
    // Rows of one element share their one parameter.
    let one = backward(&problem(view(6, [2, 3, 1])));
    assert_eq!(kernels(&one), [GradRow, SumsRow, GatherParams]);
    // Given sums need no reduction of x.
    let wants = Wants { given_sums: true, ..Wants::default() };
    let given = instance_norm(2, 3, 64);
    let given = Plan::backward(&given, &WEBGPU, &Offsets::default(), wants).unwrap();
    assert_eq!(kernels(&given), [GatherSums, InputGrad]);
}

#[test]
fn backward_reduces_once_where_parameters_are_constant_in_a_long_group() {
    use Kernel::*;
    for kind in 0..6 {
        let plan = backward(&problem(view(kind, [2, 3, 64 << 10])));
        assert_eq!(kernels(&plan), [SumsRow, GatherSums, InputGrad, GatherParams], "{kind}");
        // Of GroupNorm's groups the channels are summed up apart.
        let kin = if kind < 4 { 0 } else { 3 };
        assert_eq!(plan.stages[0].overrides.kin, kin, "{kind}");
        assert_eq!(plan.stages[1].overrides.kin, kin, "{kind}");
    }
    let plan = backward(&problem(view(6, [2, 3, 64 << 10])));
    assert_eq!(kernels(&plan), [SumsRow, GatherSums, InputGrad, SumsRow, GatherParams]);
    assert!(plan.stages[3].overrides.stats_inside);
}

#[test]
fn backward_behind_constants_needs_no_sums_for_dx() {
    use Kernel::*;
    let constant = |s| running(instance_norm(2, 3, s));
    assert_eq!(kernels(&backward(&constant(64))), [GradRow, GatherParams]);
    assert!(backward(&constant(64)).stages[0].overrides.constant);
    let long = backward(&constant(64 << 10));
    assert_eq!(kernels(&long), [SumsRow, InputGrad, GatherParams]);
    // dx is then made of dy alone.
    assert_eq!(long.stages[1].operands[0], Operand::Absent);
    let none = Problem { weight: false, bias: false, ..constant(64) };
    let none = Plan::backward(&none, &WEBGPU, &Offsets::default(), Wants::default()).unwrap();
    assert_eq!(kernels(&none), [InputGrad]);
}

/// An activation's derivative is computed on the way; the addend's gradient is it, where the device
/// binds enough buffers. Everything after reads that gradient.
#[test]
fn the_addends_gradient_is_written_on_the_way() {
    use Kernel::*;
    let relu =
        |s, addend| Problem { activation: Activation::Relu, addend, ..instance_norm(2, 3, s) };
    let on = |problem: &Problem, caps| {
        let wants = Wants { weight: true, bias: true, ..Wants::default() };
        Plan::backward(problem, caps, &Offsets::default(), wants).unwrap()
    };
    assert_eq!(kernels(&on(&relu(64, false), &WEBGPU)), [GradRow, GatherParams]);
    assert_eq!(kernels(&on(&relu(64, true), &ROOMY)), [GradRowAddend, GatherParams]);
    let few = on(&relu(64, true), &WEBGPU);
    assert_eq!(kernels(&few), [EpilogueGrad, GradRow, GatherParams]);
    let long = relu(64 << 10, true);
    let roomy = on(&long, &ROOMY);
    assert_eq!(kernels(&roomy), [SumsRowAddend, GatherSums, InputGrad, GatherParams]);
    let long = on(&long, &WEBGPU);
    assert_eq!(kernels(&long), [EpilogueGrad, SumsRow, GatherSums, InputGrad, GatherParams]);
    for (plan, first) in [(&few, EpilogueGrad), (&roomy, SumsRowAddend), (&long, EpilogueGrad)] {
        for stage in plan.stages.iter().filter(|stage| stage.kernel != first) {
            assert_eq!((stage.overrides.activation, stage.overrides.addend), (0, false));
            assert!(!stage.operands.contains(&Operand::Dy));
        }
    }
}

/// Reads and writes of whole tensors, in tensors of x's size.
fn tensors(plan: &Plan, problem: &Problem) -> (f64, f64) {
    let traffic = plan.traffic();
    let bytes = f64::from(problem.view.elements()) * problem.dtype.size() as f64;
    assert_eq!(traffic.dispatches as usize, plan.stages.len());
    (traffic.read as f64 / bytes, traffic.written as f64 / bytes)
}

/// No plan moves more than its regime must.
#[test]
fn traffic_is_at_the_floor() {
    for (kind, dtype) in (0..7).flat_map(|kind| [DType::F32, DType::F16].map(|d| (kind, d))) {
        let of = |s, addend| {
            let activation = if addend { Activation::Relu } else { Activation::None };
            Problem { dtype, addend, activation, ..problem(view(kind, [2, 32, s])) }
        };
        // Groups that fit registers: GroupNorm's are 32 channels long, BatchNorm's two samples.
        let (short, long) = (64, 64 << 10);
        let forward = |problem: &Problem| tensors(&plan(problem), problem);
        assert_eq!(forward(&of(short, false)), (1.0, 1.0), "{kind}");
        assert_eq!(forward(&of(long, false)), (2.0, 1.0), "{kind}");
        // The addend is read where it is added.
        assert_eq!(forward(&of(short, true)), (2.0, 1.0), "{kind}");
        assert_eq!(forward(&of(long, true)), (3.0, 1.0), "{kind}");
        if kind < 4 {
            let eval = running(of(long, false));
            assert_eq!(forward(&eval), (1.0, 1.0), "{kind}");
        }
        let back = |problem: &Problem, params, caps| {
            let wants = Wants { weight: params, bias: params, ..Wants::default() };
            let plan = Plan::backward(problem, caps, &Offsets::default(), wants).unwrap();
            tensors(&plan, problem)
        };
        // x and dy; the addend where the activation must be computed again, and its gradient.
        assert_eq!(back(&of(short, false), false, &WEBGPU), (2.0, 1.0), "{kind}");
        assert_eq!(back(&of(short, true), false, &ROOMY), (3.0, 2.0), "{kind}");
        assert_eq!(back(&of(long, false), false, &WEBGPU), (4.0, 1.0), "{kind}");
        // In 16 bits it is computed again: dx shall be rounded once.
        let again = if dtype == DType::F32 { [5.0, 5.0, 7.0] } else { [9.0, 6.0, 9.0] };
        assert_eq!(back(&of(short, true), false, &WEBGPU), (again[0], 2.0), "{kind}");
        assert_eq!(back(&of(long, true), false, &ROOMY), (again[1], 2.0), "{kind}");
        assert_eq!(back(&of(long, true), false, &WEBGPU), (again[2], 2.0), "{kind}");
        // Parameters are summed on the way; but for those of each position of a long row.
        assert_eq!(back(&of(short, false), true, &WEBGPU), (2.0, 1.0), "{kind}");
        assert_eq!(back(&of(short, true), true, &ROOMY), (3.0, 2.0), "{kind}");
        let apart = if kind < 6 { 0.0 } else { 2.0 };
        assert_eq!(back(&of(long, false), true, &WEBGPU), (4.0 + apart, 1.0), "{kind}");
    }
}

/// Long groups of a tensor beyond the cache are taken run by run: what the first pass reads, the second
/// finds in the cache.
#[test]
fn runs_fit_half_the_cache() {
    let caps = Caps { cache: 16 << 20, ..WEBGPU };
    let wants = Wants { weight: true, bias: true, ..Wants::default() };
    let groups = |plan: &Plan, kernel| -> Vec<[u32; 2]> {
        let of_kernel = plan.stages.iter().filter(|stage| stage.kernel == kernel);
        of_kernel.map(|s| [s.task.span[0], s.task.span[3] / s.task.span[2]]).collect()
    };
    // 32 planes of 4 MiB.
    let problem = instance_norm(1, 32, 1 << 20);
    let plan = Plan::forward(&problem, &caps, &Offsets::default(), Keep::Moments).unwrap();
    let runs: Vec<_> = (0..32).step_by(2).map(|first| [first, 2]).collect();
    assert_eq!(
        kernels(&plan)[..4],
        [Kernel::StatsRow, Kernel::Apply, Kernel::StatsRow, Kernel::Apply]
    );
    assert_eq!(kernels(&plan).last(), Some(&Kernel::GatherMoments));
    assert_eq!(groups(&plan, Kernel::StatsRow), runs);
    assert_eq!(groups(&plan, Kernel::Apply), runs);
    // x and dy: half as many planes.
    let plan = Plan::backward(&problem, &caps, &Offsets::default(), wants).unwrap();
    let runs: Vec<_> = (0..32).map(|first| [first, 1]).collect();
    for kernel in [Kernel::SumsRow, Kernel::GatherSums, Kernel::InputGrad] {
        assert_eq!(groups(&plan, kernel), runs);
    }
    assert_eq!(kernels(&plan).last(), Some(&Kernel::GatherParams));
    // Enough workgroups even of a run of one group, and the second pass goes backwards.
    for stage in &plan.stages[..3] {
        let looped = stage.kernel != Kernel::GatherSums;
        assert!(!looped || stage.workgroups[0] > 200);
        assert_eq!(stage.task.style[3] == 1.0, stage.kernel == Kernel::InputGrad);
    }
    // A tensor that fits the cache is one run; so is every one where the cache is not known.
    for (problem, caps) in [(instance_norm(1, 4, 1 << 20), caps), (problem, WEBGPU)] {
        let plan = forward(&problem, &caps, &Offsets::default()).unwrap();
        assert_eq!(kernels(&plan), [Kernel::StatsRow, Kernel::Apply]);
    }
    // However small the cache, dispatches are counted.
    let tiny = Caps { cache: 1 << 10, ..WEBGPU };
    let plan = forward(&instance_norm(1, 1000, 20_000), &tiny, &Offsets::default()).unwrap();
    assert_eq!(plan.stages.len(), 2 * 1000usize.div_ceil(16));
}

/// What is read and written besides is little.
#[test]
fn entries_are_few() {
    for (problem, share) in [
        (instance_norm(8, 32, 4096), 0.01),
        (instance_norm(1, 3, 1080 * 1920), 0.01),
        (problem(view(6, [64, 64, 768])), 0.01),
    ] {
        let Traffic { read, written, entries, .. } = plan(&problem).traffic();
        assert!((entries as f64) < share * (read + written) as f64, "{entries}");
        let Traffic { read, written, entries, .. } = backward(&problem).traffic();
        assert!(entries > 0 && (entries as f64) < 0.1 * (read + written) as f64, "{entries}");
    }
}

/// Found by fuzzing: devices that no context is on, tables that 32 bits do not count.
#[test]
fn what_no_device_does_is_refused() {
    let few = Caps { storage_buffers: 7, ..WEBGPU };
    let refused = forward(&instance_norm(1, 3, 1 << 20), &few, &Offsets::default());
    let name = "max_storage_buffers_per_shader_stage";
    assert!(
        matches!(refused, Err(PlanError::Limit { needed: 8, limit: 7, limit_name, .. }) if limit_name == name)
    );
    let small = |small| Plan::small(&small, &WEBGPU, &Offsets::default());
    let mix = |extent| small(Small::Mix { extent, strides: [1, 1], add: false });
    assert!(mix([u32::MAX; 3]).is_err() && mix([1 << 16, 1 << 16, 0]).is_err());
    assert!(small(Small::Gather { entries: u32::MAX, parts: u32::MAX }).is_err());
    // More than half of what 32 bits count.
    let caps = Caps { max_binding: 64 << 30, ..WEBGPU };
    let wants = Wants { weight: true, ..Wants::default() };
    assert!(
        Plan::backward(&problem(view(6, [3, 1 << 30, 1])), &caps, &Offsets::default(), wants)
            .is_ok()
    );
    // Each side fits, though no tensor has so many elements.
    assert!(mix([4099, 4099, 4099]).is_ok());
}
