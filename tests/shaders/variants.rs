//! Every pipeline the planner can ask for, found by asking it.

use std::{collections::BTreeSet, sync::LazyLock};
use wgnorm::{
    Activation, Estimator, Momentum, Problem, RunningUpdate, StatSource, View,
    plan::{Access, Caps, Kernel, Offsets, Overrides, Plan},
};

/// A module and the constants it is compiled with.
pub type Variant = (Kernel, Access, Overrides);

/// Every size of workgroup that the planner makes of a device's limit: 256 lanes are WebGPU's base,
/// 128 its compatibility mode, the others what small limits could leave.
pub const LANES: [u32; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

pub const UPDATES: [Option<(Momentum, Estimator)>; 4] = [
    None,
    Some((Momentum::Factor(0.1), Estimator::Unbiased)),
    Some((Momentum::Cumulative, Estimator::Unbiased)),
    Some((Momentum::Cumulative, Estimator::Biased)),
];

/// A base device with this many lanes, and with storage bindings of this size.
pub fn caps(lanes: u32, max_binding: u64) -> Caps {
    Caps { lanes, max_binding, max_grid: 65_535, offset_alignment: 256 }
}

/// An InstanceNorm over `shape` (samples, channels, elements). The bits of `operands`: weight, bias,
/// addend, ReLU, running statistics.
pub fn problem(
    [n, c, s]: [u32; 3],
    operands: u32,
    update: Option<(Momentum, Estimator)>,
) -> Problem {
    let bit = |i: u32| operands >> i & 1 == 1;
    Problem {
        view: View {
            extent: [n, c, 1, s],
            data: [c * s, s, 0, 1],
            param: [0, 1, 0, 0],
            stat: [c, 1, 0, 0],
        },
        source: if bit(4) { StatSource::Running } else { StatSource::Batch },
        eps: 1e-5,
        weight: bit(0),
        bias: bit(1),
        addend: bit(2),
        activation: if bit(3) { Activation::Relu } else { Activation::None },
        update: update.map(|(momentum, estimator)| RunningUpdate { momentum, estimator }),
    }
}

/// Adds what a plan of this problem needs.
pub fn collect(problem: &Problem, caps: &Caps, offsets: &Offsets, into: &mut BTreeSet<Variant>) {
    if let Ok(plan) = Plan::forward(problem, caps, offsets) {
        into.extend(plan.stages.iter().map(|s| (s.kernel, s.access, s.overrides)));
    }
}

/// Each row layout, tile and kernel, times each combination of operands. What decides the layout
/// (length, lanes, binding size, alignment, samples) is swept against one combination of operands
/// of each kind; what only sets flags is swept against lengths that show each layout once.
pub static ALL: LazyLock<BTreeSet<Variant>> = LazyLock::new(|| {
    let mut variants = BTreeSet::new();
    let aligned = Offsets::default();
    let shifted = Offsets { x: 4, ..aligned };
    // Around powers of two and their halves in between, up to beyond a workgroup's registers.
    let lengths: Vec<u32> = (0..16)
        .flat_map(|i| [(1 << i) - 1, 1 << i, (1 << i) + 1, (3 << i) / 2, (3 << i) / 2 + 4])
        .chain([17_000, 100_000, 1_000_003])
        .filter(|length| *length > 0)
        .collect();
    for lanes in LANES {
        for max_binding in [128 << 20, 4096] {
            for &s in &lengths {
                for offsets in [&aligned, &shifted] {
                    for operands in 0..32 {
                        for update in UPDATES {
                            let problem = problem([2, 1, s], operands, update);
                            collect(&problem, &caps(lanes, max_binding), offsets, &mut variants);
                        }
                    }
                }
            }
        }
        // Samples decide the rows of update_running.
        for i in 0..10 {
            for estimator in [Estimator::Unbiased, Estimator::Biased] {
                for momentum in [Momentum::Factor(0.1), Momentum::Cumulative] {
                    let problem = problem([1 << i, 3, 4], 0, Some((momentum, estimator)));
                    collect(&problem, &caps(lanes, 128 << 20), &aligned, &mut variants);
                }
            }
        }
    }
    variants
});

/// A selection that has every layout and every combination of flags of each module, but not their
/// product: for tools that take too long for all. The translations differ in constants only.
pub fn selection() -> Vec<Variant> {
    let (mut layouts, mut flags) = (BTreeSet::new(), BTreeSet::new());
    let mut is_news = |&&(kernel, access, o): &&Variant| {
        let flag = Overrides { wg: 0, rows: 0, tile: 0, ..o };
        layouts.insert((kernel, access, o.wg, o.rows, o.tile))
            | flags.insert((kernel, access, flag))
    };
    ALL.iter().filter(|variant| is_news(variant)).copied().collect()
}
