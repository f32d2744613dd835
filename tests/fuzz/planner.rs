//! Any problem on any device: a plan that does everything once and keeps to the limits, or an error.

use crate::input::Input;
use crate::invariants::{check, problem, running, view};
use wgnorm::plan::{Caps, Keep, Offsets, Plan, Small, Tuning, Wants};
use wgnorm::{
    Activation, DType, Estimator, Momentum, PlanError, Problem, RunningUpdate, StatSource,
};

const SIZES: [u32; 20] =
    [1, 2, 3, 0, 4, 5, 7, 8, 9, 31, 32, 40, 64, 97, 128, 255, 1024, 4099, 16_384, 65_537];

pub fn run(bytes: &[u8]) {
    let input = &mut Input(bytes);
    let problem = any_problem(input);
    let caps = any_caps(input, problem.view.elements());
    let mut offset = || u64::from(u16::from_le_bytes(input.bytes())) * 4;
    let offsets = Offsets {
        x: offset(),
        y: offset(),
        addend: offset(),
        dy: offset(),
        weight: offset(),
        bias: offset(),
        shared: false,
    };
    let wants = Wants {
        weight: input.flag(),
        bias: input.flag(),
        accumulate: input.flag(),
        given_sums: input.flag(),
    };
    let estimator = input.of(&[Estimator::Unbiased, Estimator::Biased]);
    let y = if input.flag() { offsets.x } else { offsets.y };
    let shared = Offsets { y, shared: true, ..offsets };
    // What is part of another call: x alone is read, or x and dy.
    let alone = Problem { addend: false, activation: Activation::None, update: None, ..problem };
    let in_one_buffer = Plan::forward(&problem, &caps, &shared, Keep::Nothing);
    for (what, problem, plan) in [
        ("forward, in one buffer", &problem, in_one_buffer),
        ("forward", &problem, Plan::forward(&problem, &caps, &offsets, Keep::Nothing)),
        ("forward, kept", &problem, Plan::forward(&problem, &caps, &offsets, Keep::Moments)),
        ("backward", &problem, Plan::backward(&problem, &caps, &offsets, wants)),
        ("statistics", &alone, Plan::statistics(&alone, &caps, &offsets)),
        ("sums", &problem, Plan::group_sums(&problem, &caps, &offsets)),
        ("style", &alone, Plan::style_gradient(&alone, &caps, &offsets, estimator)),
    ] {
        match plan {
            Ok(plan) => {
                let given = if what.contains("one buffer") { &shared } else { &offsets };
                if let Err(broken) = check(&plan, &caps, given, problem) {
                    panic!("{what} of {problem:?} with {given:?} {wants:?} on {caps:?}: {broken}");
                }
            }
            Err(error) => expected(&error),
        }
    }
    small(input, &caps, &offsets);
}

/// A refusal has its reason.
fn expected(error: &PlanError) {
    let PlanError::Limit { needed, limit, .. } = error else { panic!("{error}") };
    assert!(needed > limit, "{error}");
}

fn any_problem(input: &mut Input<'_>) -> Problem {
    let kind = input.below(7);
    let mut size = || match input.byte() {
        255 => u32::from_le_bytes(input.bytes()),
        at => SIZES[usize::from(at) % SIZES.len()],
    };
    let [n, c, s] = [size(), size(), size()];
    // What a tensor holds; few of a size whose elements take long to count, or are not counted.
    let most = match input.byte() {
        0..8 => u32::MAX,
        8..16 => 1 << 17,
        _ => 1 << 12,
    };
    let c = c.min(most / n.max(1));
    let s = s.min(most / n.max(1) / c.max(1));
    let mut problem = problem(view(kind, [n, c, s]));
    problem.dtype = input.of(&[DType::F32, DType::F16, DType::BF16]);
    problem.masked = input.flag() && kind < 4;
    problem.addend = input.flag();
    problem.weight = input.flag();
    problem.bias = input.flag();
    problem.centered = input.flag();
    problem.activation =
        input.of(&[Activation::None, Activation::Relu, Activation::LeakyRelu(0.5)]);
    problem.source = match input.below(4) {
        0 => StatSource::Given {
            differentiable: input.flag(),
            parts: u32::from(input.byte()) * u32::from(input.byte()) + 1,
        },
        _ => StatSource::Batch,
    };
    if kind < 4 {
        match input.below(3) {
            0 => return running(problem),
            1 => {
                problem.update = Some(RunningUpdate {
                    momentum: input.of(&[
                        Momentum::Factor(0.1),
                        Momentum::Cumulative,
                        Momentum::Frozen,
                    ]),
                    estimator: Estimator::Biased,
                    counts: input.flag(),
                });
            }
            _ => {}
        }
    }
    problem
}

fn any_caps(input: &mut Input<'_>, elements: u32) -> Caps {
    let binding = u64::from_le_bytes(input.bytes());
    // As many windows as a test has the time for.
    let least = u64::from(elements) / 64;
    Caps {
        lanes: input.of(&[256, 1, 2, 3, 7, 64, 100, 128, 1024, 4096]),
        max_binding: match input.below(4) {
            0 => Caps::WEBGPU.max_binding,
            1 => least + binding % 1024,
            2 => least + binding % (1 << 17),
            _ => least + binding % (1 << 31),
        },
        max_grid: input.of(&[65_535, 1, 2, 3, 17, 256, 1000, 40_000, u32::MAX]),
        offset_alignment: input.of(&[256, 32, 64, 16]),
        storage_buffers: input.of(&[8, 9, 10, 16, 1, 4, 7]),
        cache: input.of(&[0, 1, 300, 1 << 14, 1 << 20, u64::MAX]),
        tuning: input.of(&Tuning::ALL),
    }
}

/// Tables and merged statistics: one dispatch each, within the limits.
fn small(input: &mut Input<'_>, caps: &Caps, offsets: &Offsets) {
    let mut number = || match input.byte() {
        255 => u32::from_le_bytes(input.bytes()),
        at => SIZES[usize::from(at) % SIZES.len()],
    };
    let [entries, a, b] = [number(), number(), number()];
    let small = match input.below(4) {
        0 => Small::Merge { entries, add: input.flag() },
        1 => Small::Gather { entries, parts: a },
        2 => Small::StyleTables { entries, eps: input.float(), estimator: Estimator::Unbiased },
        _ => Small::Mix { extent: [entries, a, b], strides: [b, 1], add: input.flag() },
    };
    match Plan::small(&small, caps, offsets) {
        Ok(plan) => {
            for stage in &plan.stages {
                let grid = stage.workgroups;
                assert!(
                    grid.iter().all(|&n| n >= 1 && n <= caps.max_grid),
                    "{small:?} on {caps:?}"
                );
                let done =
                    u64::from(grid[0]) * u64::from(grid[1]) * u64::from(stage.overrides.rows);
                assert!(done >= u64::from(stage.task.span[3]), "{small:?} on {caps:?}");
                let buffers = stage.kernel.bindings().len();
                assert!(buffers <= caps.storage_buffers as usize, "{small:?} on {caps:?}");
            }
        }
        Err(error) => expected(&error),
    }
}
