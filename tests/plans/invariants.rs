//! What must hold of every plan; tests and fuzzing share it.

use std::collections::BTreeMap;
use wgnorm::plan::{Caps, Kernel, Offsets, Operand, Plan, Role, Stage};
use wgnorm::{Activation, DType, Problem, StatSource, View};

pub fn problem(view: View) -> Problem {
    Problem {
        view,
        dtype: DType::F32,
        centered: true,
        source: StatSource::Batch,
        eps: 1e-5,
        weight: true,
        bias: true,
        addend: false,
        masked: false,
        activation: Activation::None,
        update: None,
    }
}

/// The rows of the table in `wgnorm::layers`.
pub fn view(kind: usize, [n, c, s]: [u32; 3]) -> View {
    let view = |extent, data, param, stat, mask| View { extent, data, param, stat, mask };
    let per_sample = [s, 0, 0, 1];
    match kind {
        0 => view([n, c, 1, s], [c * s, s, 0, 1], [0, 1, 0, 0], [c, 1, 0, 0], per_sample),
        1 => view([n, c, 1, s], [c * s, 1, 0, c], [0, 1, 0, 0], [c, 1, 0, 0], per_sample),
        2 => view([1, c, n, s], [0, s, c * s, 1], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, s, 1]),
        3 => view([1, c, 1, n * s], [0, 1, 0, c], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]),
        4 => view([n, 1, c, s], [c * s, c * s, s, 1], [0, c, 1, 0], [1, 1, 0, 0], per_sample),
        5 => view([n, 1, s, c], [c * s, c, c, 1], [0, c, 0, 1], [1, 1, 0, 0], [s, 0, 1, 0]),
        _ => view([1, n * c, 1, s], [0, s, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0; 4]),
    }
}

pub fn running(mut problem: Problem) -> Problem {
    problem.source = StatSource::Running;
    problem.view.stat = [0, 1, 0, 0];
    problem
}

macro_rules! holds {
    ($condition:expr) => {
        holds!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

macro_rules! equal {
    ($a:expr, $b:expr) => {
        holds!($a == $b, "{} is {:?}, {} is {:?}", stringify!($a), $a, stringify!($b), $b)
    };
}

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

/// Elements up to which a plan is walked, not only its numbers checked.
const WALKED: u32 = 1 << 18;

pub fn check(plan: &Plan, caps: &Caps, offsets: &Offsets, problem: &Problem) -> Result<(), String> {
    let size = problem.dtype.size() as u64;
    // How often each kernel touches each element, kernels of re-sorted views apart.
    let mut touched: BTreeMap<(Kernel, [[u32; 4]; 2]), Vec<u8>> = BTreeMap::new();
    let length = |strides: [u32; 4]| {
        let axes = problem.view.extent.iter().zip(strides);
        u64::from(axes.map(|(n, stride)| (n.max(&1) - 1) * stride).sum::<u32>() + 1)
    };
    let parts = match problem.source {
        StatSource::Given { parts, .. } => u64::from(parts),
        _ => 1,
    };
    let groups = u64::from(problem.view.extent[0] * problem.view.extent[1]);
    for stage in &plan.stages {
        let o = &stage.overrides;
        for operand in &stage.operands {
            let bytes = match operand {
                Operand::Partials => plan.partials,
                Operand::Gathered => plan.gathered,
                Operand::Moments => length(problem.view.stat) * parts * 16,
                Operand::Sums => groups * 16,
                Operand::Weight | Operand::Bias | Operand::WeightOut | Operand::BiasOut => {
                    length(problem.view.param) * 4
                }
                Operand::Mask => length(problem.view.mask),
                _ => 0,
            };
            holds!(bytes <= caps.max_binding, "{:?} has {} bytes", operand, bytes);
        }
        holds!(stage.workgroups.iter().all(|&n| n >= 1 && n <= caps.max_grid));
        equal!(stage.operands.len(), stage.kernel.bindings().len());
        holds!(o.wg.is_power_of_two() && o.wg <= caps.lanes && o.wg % o.rows == 0);
        let [width, height, _] = stage.workgroups;
        let items = u64::from(stage.task.span[3]);
        let turns = u64::from(stage.task.param_base[3].max(1));
        holds!(u64::from(width) * u64::from(height) * u64::from(o.taken) * turns >= items);
        // Groups that are one stay in a workgroup.
        let together = if o.tile > 0 { o.kin.max(1) } else { 1 };
        holds!(o.taken <= o.rows && o.taken.is_multiple_of(together));
        holds!(stage.task.span[3].is_multiple_of(together));
        holds!(stage.kernel.bindings().len() <= caps.storage_buffers as usize);
        if stage.kernel == Kernel::GatherParams {
            // Each parameter is one row's, however many groups share it.
            let axes = problem.view.extent.iter().zip(problem.view.param);
            let params = 1 + axes.map(|(n, stride)| (n - 1) * stride).sum::<u32>();
            equal!(stage.task.span[3], params);
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
            let absent = at.is_none_or(|at| stage.operands[at] == Operand::Absent);
            holds!(!shared || absent == (role == Role::X));
            let Some(at) = at.filter(|_| shared || !absent) else { continue };
            let offset = if stage.operands[at] == Operand::Gradient { 0 } else { offset };
            let begin = offset + u64::from(window.first) * size;
            let first = if shared { offsets.x.min(offsets.y) } else { offset };
            let first = first + u64::from(window.first) * size;
            let binding = first - first % caps.offset_alignment;
            holds!(begin - binding + u64::from(window.len) * size <= caps.max_binding);
            // The binding's element 0 is the operand's element `-base`.
            let element = window.first.wrapping_add(base);
            equal!(u64::from(element) * size, begin - binding);
            if stage.access.is_by_four() {
                holds!(base.is_multiple_of(4));
            }
        }
        if o.tile > 0 {
            let lanes = o.wg / o.rows;
            holds!(lanes * o.tile * 4 >= len, "{lanes} lanes of {} for {len}", o.tile);
        }
        if problem.view.elements() > WALKED {
            continue;
        }
        let elements_in_all = problem.view.elements() as usize;
        let View { extent, data, .. } = stage.task.view;
        let counts = touched
            .entry((stage.kernel, [extent, data]))
            .or_insert_with(|| vec![0; elements_in_all]);
        for (i, element) in elements(stage).enumerate() {
            holds!(window.first <= element && element < end);
            // A step of four is four neighbours.
            if stage.access.is_by_four() && o.dense && i % 4 == 0 {
                holds!(element.is_multiple_of(4));
            }
            counts[element as usize] += 1;
        }
    }
    for (kernel, counts) in touched {
        holds!(counts.iter().all(|&n| n == 1), "{:?}: a gap or an overlap", kernel);
    }
    Ok(())
}
