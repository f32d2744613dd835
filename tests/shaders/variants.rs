//! Every pipeline the planner can ask for, found by asking it.

use std::{collections::BTreeSet, sync::LazyLock};
use wgnorm::{
    Activation, DType, Estimator, Momentum, Problem, RunningUpdate, StatSource, View,
    plan::{Access, Caps, Keep, Kernel, Offsets, Overrides, Plan, Small, Tuning, Wants},
};

/// A module and the constants it is compiled with.
pub type Variant = (Kernel, Access, Overrides);

/// Sizes of workgroup that the planner makes of a device's limit: 256 lanes are WebGPU's base, 128 its
/// compatibility mode; two stand for what limits that an application asked for could leave.
pub const LANES: [u32; 4] = [256, 128, 32, 1];

pub const UPDATES: [Option<(Momentum, Estimator)>; 4] = [
    None,
    Some((Momentum::Factor(0.1), Estimator::Unbiased)),
    Some((Momentum::Cumulative, Estimator::Unbiased)),
    Some((Momentum::Cumulative, Estimator::Biased)),
];

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu(0.01),
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Tanh,
    Activation::Sigmoid,
];

/// A base device with this many lanes, and with storage bindings of this size, and all that kernels need.
pub fn caps(lanes: u32, max_binding: u64) -> Caps {
    Caps { lanes, max_binding, storage_buffers: 10, ..Caps::WEBGPU }
}

/// How many kinds of view there are.
pub const VIEWS: u32 = 7;

/// The rows of the table in `wgnorm::layers`, over (samples, channels, positions).
pub fn view(kind: u32, [n, c, s]: [u32; 3]) -> View {
    let rows = |extent, data, param, stat| View { extent, data, param, stat, mask: [0; 4] };
    match kind {
        // InstanceNorm, channels first and last.
        0 => rows([n, c, 1, s], [c * s, s, 0, 1], [0, 1, 0, 0], [c, 1, 0, 0]),
        1 => rows([n, c, 1, s], [c * s, 1, 0, c], [0, 1, 0, 0], [c, 1, 0, 0]),
        // BatchNorm.
        2 => rows([1, c, n, s], [0, s, c * s, 1], [0, 1, 0, 0], [0, 1, 0, 0]),
        3 => rows([1, c, 1, n * s], [0, 1, 0, c], [0, 1, 0, 0], [0, 1, 0, 0]),
        // GroupNorm with one group.
        4 => rows([n, 1, c, s], [c * s, c * s, s, 1], [0, c, 1, 0], [1, 1, 0, 0]),
        5 => rows([n, 1, s, c], [c * s, c, c, 1], [0, c, 0, 1], [1, 1, 0, 0]),
        // LayerNorm.
        _ => rows([1, n * c, 1, s], [0, s, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]),
    }
}

/// The number of combinations of flags.
pub const FLAGS: u32 = 1 << 10;

/// A problem over a view. The bits of `flags`: weight, bias, addend, mask, uncentered, two of the
/// source, three of the activation.
pub fn problem(
    view: View,
    dtype: DType,
    flags: u32,
    update: Option<(Momentum, Estimator)>,
) -> Problem {
    let bit = |i: u32| flags >> i & 1 == 1;
    Problem {
        view,
        dtype,
        centered: !bit(4),
        source: match flags >> 5 & 3 {
            0 | 1 => StatSource::Batch,
            2 => StatSource::Running,
            _ => StatSource::Given { differentiable: bit(0), parts: 1 + 300 * u32::from(bit(1)) },
        },
        eps: 1e-5,
        weight: bit(0),
        bias: bit(1),
        addend: bit(2),
        masked: bit(3),
        activation: ACTIVATIONS[(flags >> 7 & 7) as usize],
        update: update.map(|(momentum, estimator)| RunningUpdate {
            momentum,
            estimator,
            counts: momentum == Momentum::Cumulative,
        }),
    }
}

/// Adds what the plans of this problem need, forward and backward.
pub fn collect(problem: &Problem, caps: &Caps, offsets: &Offsets, into: &mut BTreeSet<Variant>) {
    let wants = |accumulate, given_sums| Wants {
        weight: problem.weight,
        bias: problem.bias,
        accumulate,
        given_sums,
    };
    let base = Caps { storage_buffers: Caps::WEBGPU.storage_buffers, ..*caps };
    let plans = [
        Plan::forward(problem, caps, offsets, Keep::Nothing),
        Plan::forward(problem, caps, offsets, Keep::Moments),
        Plan::statistics(problem, caps, offsets),
        Plan::backward(problem, caps, offsets, wants(false, false)),
        Plan::backward(problem, &base, offsets, wants(false, false)),
        Plan::backward(problem, caps, offsets, wants(true, true)),
        Plan::group_sums(problem, caps, offsets),
    ];
    let stages = plans.into_iter().flatten().flat_map(|plan| plan.stages);
    into.extend(stages.map(|s| (s.kernel, s.access, s.overrides)));
}

/// The layout of a variant: everything but what only sets flags.
pub fn layout(&(kernel, access, o): &Variant) -> Variant {
    let Overrides { wg, rows, tile, columns, dense, .. } = o;
    (kernel, access, Overrides { wg, rows, tile, columns, dense, ..Overrides::default() })
}

/// The flags of a variant.
pub fn flags(&(kernel, _, o): &Variant) -> (Kernel, Overrides) {
    let kin = o.kin.min(2); // some or none
    let o = Overrides { wg: 0, rows: 0, taken: 0, kin, ..o };
    (kernel, Overrides { tile: 0, columns: false, dense: false, ..o })
}

/// Every layout with a few combinations of flags, and every combination of flags with a few layouts.
/// Their product is out of reach; the translations differ in constants only.
pub static ALL: LazyLock<BTreeSet<Variant>> = LazyLock::new(|| {
    let mut variants = BTreeSet::new();
    layouts(&mut variants);
    in_place(&mut variants);
    tunings(&mut variants);
    combinations(&mut variants);
    for lanes in LANES {
        let offsets = Offsets::default();
        let tables = |estimator| Small::StyleTables { entries: 6, eps: 1e-5, estimator };
        for small in [
            Small::Merge { entries: 6, add: false },
            Small::Merge { entries: 6, add: true },
            tables(Estimator::Biased),
            tables(Estimator::Unbiased),
            Small::Mix { extent: [2, 3, 4], strides: [4, 1], add: false },
            Small::Mix { extent: [2, 3, 4], strides: [4, 1], add: true },
        ] {
            let plan = Plan::small(&small, &caps(lanes, 128 << 20), &offsets).expect("a plan");
            variants.extend(plan.stages.iter().map(|s| (s.kernel, s.access, s.overrides)));
        }
    }
    variants
});

/// What decides the layout: length, channels, lanes, binding size, alignment, samples.
fn layouts(variants: &mut BTreeSet<Variant>) {
    // An addend has backward kernels of its own.
    let (everything, no_addend, running) = (0b1000_1111, 0b1000_1011, 0b0100_0000);
    let aligned = Offsets::default();
    // Around powers of two and their halves in between, up to beyond a workgroup's registers.
    let lengths: Vec<u32> = (0..16)
        .flat_map(|i| [(1 << i) - 1, 1 << i, (3 << i) / 2, (3 << i) / 2 + 4])
        .chain([17_000, 100_000, 1_000_003, 4_000_004])
        .filter(|length| *length > 0)
        .collect();
    for (lanes, dtype) in LANES.into_iter().flat_map(|lanes| DTYPES.map(|dtype| (lanes, dtype))) {
        for max_binding in [128 << 20, 4096] {
            let caps = caps(lanes, max_binding);
            for (&s, kind) in lengths.iter().flat_map(|s| (0..VIEWS).map(move |kind| (s, kind))) {
                let channels: &[u32] = match s {
                    ..1000 => &[1, 2, 4, 8, 16, 32, 64, 128, 256],
                    1000..40_000 => &[1, 2, 4, 8, 16, 32, 64],
                    _ => &[1, 2],
                };
                for &c in channels {
                    let view = view(kind, [2, c, s]);
                    let shifted = Offsets { x: 4, y: 4, dy: 4, ..aligned };
                    for (offsets, flags) in [
                        (&aligned, everything),
                        (&shifted, everything),
                        (&aligned, no_addend),
                        (&shifted, no_addend),
                        (&aligned, running),
                        (&shifted, running),
                    ] {
                        collect(&problem(view, dtype, flags, None), &caps, offsets, variants);
                    }
                }
            }
        }
        // Samples decide the rows of what is gathered over them.
        for (i, kind) in (0..13).flat_map(|i| (0..VIEWS).map(move |kind| (i, kind))) {
            let problem = problem(view(kind, [1 << i, 3, 4]), dtype, 3, UPDATES[2]);
            collect(&problem, &caps(lanes, 128 << 20), &aligned, variants);
        }
    }
}

/// What plans other than the planner's own add, on a device that takes large workgroups.
fn tunings(variants: &mut BTreeSet<Variant>) {
    let lengths = (0..20).flat_map(|i| [(1u32 << i) - 1, 1 << i, (3 << i) / 2]);
    for (s, kind) in lengths.filter(|s| *s > 0).flat_map(|s| (0..VIEWS).map(move |k| (s, k))) {
        for (tuning, c) in Tuning::ALL.into_iter().flat_map(|t| [1, 3, 8, 64].map(|c| (t, c))) {
            let caps = Caps { tuning, ..caps(1024, 128 << 20) };
            let problem = problem(view(kind, [2, c, s]), DType::F32, 0b1000_1011, None);
            collect(&problem, &caps, &Offsets::default(), variants);
        }
    }
}

/// What x in y's buffer adds.
fn in_place(variants: &mut BTreeSet<Variant>) {
    let offsets = Offsets { shared: true, ..Offsets::default() };
    let lengths = (0..18).flat_map(|i| [(1u32 << i) - 1, 1 << i]).filter(|s| *s > 0);
    for (s, kind) in lengths.flat_map(|s| (0..VIEWS).map(move |kind| (s, kind))) {
        for dtype in DTYPES {
            let problem = problem(view(kind, [2, 3, s]), dtype, 0b1000_1011, None);
            collect(&problem, &caps(256, 128 << 20), &offsets, variants);
        }
    }
}

/// What only sets flags.
fn combinations(variants: &mut BTreeSet<Variant>) {
    let caps = caps(64, 128 << 20);
    for flags in 0..FLAGS {
        // Few groups and many, short ones and long, channels long enough to be summed up apart.
        for (kind, n, s) in [0, 2, 4, 6].into_iter().flat_map(|kind| {
            [(2, 1), (2, 4), (2, 16), (2, 20_000), (20, 1), (20, 4)].map(|(n, s)| (kind, n, s))
        }) {
            // An addend's gradient is used again in 32 bits alone.
            let dtypes = if flags & 0b100 == 0 { &DTYPES[..1] } else { &DTYPES[..2] };
            for (update, &dtype) in UPDATES.iter().flat_map(|u| dtypes.iter().map(move |d| (u, d)))
            {
                let problem = problem(view(kind, [n, 3, s]), dtype, flags, *update);
                collect(&problem, &caps, &Offsets::default(), variants);
            }
        }
    }
}

/// Every layout and every combination of flags of each module, once.
pub fn representatives() -> Vec<Variant> {
    let (mut layouts, mut combinations) = (BTreeSet::new(), BTreeSet::new());
    let mut is_news =
        |variant: &&Variant| layouts.insert(layout(variant)) | combinations.insert(flags(variant));
    ALL.iter().filter(|variant| is_news(variant)).copied().collect()
}

/// Fewer of them, for tools that take too long: of layouts that differ in numbers only one, of every
/// activation its own code, not its product with the other flags.
pub fn selection() -> Vec<Variant> {
    let (mut layouts, mut combinations) = (BTreeSet::new(), BTreeSet::new());
    let few = |(kernel, o): (Kernel, Overrides)| match o.activation {
        0 | 1 => (kernel, o),
        activation => (kernel, Overrides { activation, ..Overrides::default() }),
    };
    let mut is_news = |variant: &&Variant| {
        let (kernel, access, layout) = layout(variant);
        let layout = Overrides { wg: layout.wg.min(2), rows: layout.rows.min(2), ..layout };
        layouts.insert((kernel, access, layout)) | combinations.insert(few(flags(variant)))
    };
    ALL.iter().filter(|variant| is_news(variant)).copied().collect()
}
