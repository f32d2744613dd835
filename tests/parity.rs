//! Both back ends against the f64 oracle, forward and backward: every layer, in every regime of the
//! planner, then every setting that a layer has.

mod common;

use common::suite::{ACTIVATIONS, Case, Family, From, Masking, check};
use common::{data, device, tolerance};
use wgnorm::{
    Activation, Affine, Backend, Context, DType, InstanceNorm1d, MemoryOrder, Mode, NormLayer,
    Tensor,
};

const ORDERS: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];
const AFFINE: [Affine; 4] = [Affine::None, Affine::Weight, Affine::Bias, Affine::Both];

/// The element types of a back end.
fn dtypes(context: &Context) -> &'static [DType] {
    match context.backend() {
        Backend::Host => &[DType::F32, DType::F16, DType::BF16, DType::F64],
        Backend::Gpu => &[DType::F32, DType::F16, DType::BF16],
    }
}

/// On a GPU every 23rd case unless `WGNORM_ALL_CASES` is set: drivers in software compile for
/// longer than the host calculates. A prime, so that it is in step with none of the settings that
/// the cases go through.
fn all(context: &Context, cases: impl IntoIterator<Item = Case>) {
    let thin = context.backend() == Backend::Gpu && std::env::var_os("WGNORM_ALL_CASES").is_none();
    let step = if thin { 23 } else { 1 };
    let failures: Vec<String> =
        cases.into_iter().step_by(step).filter_map(|case| check(context, &case).err()).collect();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

/// One of them after the other, so that a walk over one list goes through the settings of all.
fn pick<T: Copy>(from: &[T], i: usize) -> T {
    from[i % from.len()]
}

/// The settings that a case number means: every layer has addends, activations, types, orders.
fn settings(context: &Context, family: Family, shape: [usize; 3], i: usize) -> Case {
    let dtype = pick(dtypes(context), i / 2);
    Case {
        order: pick(&ORDERS, i),
        dtype,
        param_dtype: if i.is_multiple_of(3) { dtype } else { DType::F32 },
        mode: if i % 5 == 3 { Mode::Eval } else { Mode::Train },
        affine: pick(&AFFINE, i / 3 + 3),
        activation: pick(&ACTIVATIONS, i / 2),
        addend: i % 4 == 1,
        masking: if i % 7 == 5 { Masking::Some } else { Masking::None },
        seed: i as u32,
        ..Case::new(family, shape)
    }
}

/// Around warp, workgroup, tile and slice sizes; primes; one beyond a workgroup's registers; one
/// of many slices.
const LENGTHS: [usize; 24] = [
    2, 3, 4, 5, 16, 31, 32, 33, 64, 127, 255, 256, 257, 1023, 1024, 1575, 4096, 4099, 16383, 16384,
    16385, 20000, 65537, 300_004,
];

fn lengths(context: &Context) {
    let mut cases = Vec::new();
    for (i, s) in LENGTHS.into_iter().enumerate() {
        let shape = if s > 10_000 { [1, 2, s] } else { [2, 6, s] };
        for (j, family) in Family::all(shape[1]).into_iter().enumerate() {
            // Long tensors many times over are for the GPU's planner alone.
            if s > 1024 && (i + j) % 6 != 0 {
                continue;
            }
            for order in ORDERS {
                let settings = settings(context, family, shape, 5 * (i % 3) + j);
                cases.push(Case {
                    order,
                    offset: if i % 2 == 0 { 0.5 } else { 100.0 },
                    ..settings
                });
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_lengths() {
    lengths(&Context::host());
}

#[test]
fn gpu_lengths() {
    if let Some(context) = device::gpu() {
        lengths(&context);
    }
}

/// Shapes that are thin in one direction, and channels around tile sizes, which channels last makes
/// the inner axis.
fn shapes(context: &Context) {
    let mut cases = Vec::new();
    let shapes = [
        [1, 1, 1],
        [2, 1, 1],
        [1, 3, 1],
        [5, 4, 1],
        [1, 1, 7],
        [300, 2, 3],
        [1, 31, 9],
        [2, 32, 5],
        [3, 33, 4],
        [1, 64, 33],
        [2, 130, 6],
        [1, 257, 2],
        [1, 1030, 3],
        [2, 12, 289],
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for (j, family) in Family::all(shape[1]).into_iter().enumerate() {
            // Of the many ways to group, some.
            if matches!(family, Family::Group(g) if g > 2 && (g + i) % 3 != 0 && g != shape[1]) {
                continue;
            }
            for order in ORDERS {
                cases.push(Case { order, ..settings(context, family, shape, 3 * (i % 2) + j) });
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_shapes() {
    shapes(&Context::host());
}

#[test]
fn gpu_shapes() {
    if let Some(context) = device::gpu() {
        shapes(&context);
    }
}

/// Rows of one element: all of them share one parameter.
fn rows_of_one(context: &Context) {
    for (family, shape) in [
        (Family::Layer(1), [3, 4, 1]),
        (Family::Rms(1), [3, 4, 1]),
        (Family::Layer(2), [5, 1, 1]),
        (Family::Rms(2), [700, 1, 1]),
    ] {
        for order in ORDERS {
            // Above eps, or nothing but rounding is left of dx.
            check(context, &Case { order, eps: 0.1, ..Case::new(family, shape) }).unwrap();
        }
    }
}

#[test]
fn host_rows_of_one() {
    rows_of_one(&Context::host());
}

#[test]
fn gpu_rows_of_one() {
    if let Some(context) = device::gpu() {
        rows_of_one(&context);
    }
}

/// Every layer with every activation, with and without an addend, in both modes, orders, and with all
/// sets of parameters.
fn epilogues(context: &Context) {
    let mut cases = Vec::new();
    for family in Family::all(6) {
        for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
            for (k, mode) in [Mode::Train, Mode::Eval].into_iter().enumerate() {
                for (j, order) in ORDERS.into_iter().enumerate() {
                    for addend in [false, true] {
                        cases.push(Case {
                            order,
                            mode,
                            affine: pick(&AFFINE, i + j + k + usize::from(addend)),
                            activation,
                            addend,
                            seed: i as u32,
                            ..Case::new(family, [3, 6, 35])
                        });
                    }
                }
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_epilogues() {
    epilogues(&Context::host());
}

#[test]
fn gpu_epilogues() {
    if let Some(context) = device::gpu() {
        epilogues(&context);
    }
}

/// Every layer in every element type with parameters of either type, odd lengths included: 16-bit
/// elements are packed by two on a GPU.
fn types(context: &Context) {
    let mut cases = Vec::new();
    for shape in [[2, 6, 35], [3, 3, 5], [1, 5, 301], [1, 1, 3]] {
        for family in Family::all(shape[1]) {
            for (i, &dtype) in dtypes(context).iter().enumerate() {
                for param_dtype in [DType::F32, dtype] {
                    for order in ORDERS {
                        for (mode, addend) in
                            [(Mode::Train, false), (Mode::Train, true), (Mode::Eval, true)]
                        {
                            cases.push(Case {
                                order,
                                dtype,
                                param_dtype,
                                mode,
                                addend,
                                activation: pick(&ACTIVATIONS, i + usize::from(addend)),
                                ..Case::new(family, shape)
                            });
                        }
                    }
                }
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_types() {
    types(&Context::host());
}

#[test]
fn gpu_types() {
    if let Some(context) = device::gpu() {
        types(&context);
    }
}

/// Every layer that takes masks with all positions, some, one and none of a sample's; NaN is
/// everywhere that does not count.
fn masks(context: &Context) {
    let mut cases = Vec::new();
    for shape in [[5, 6, 35], [4, 4, 300], [7, 2, 1], [2, 3, 17]] {
        for family in Family::all(shape[1]).into_iter().filter(|family| family.takes_masks()) {
            for masking in [Masking::All, Masking::Some] {
                for (i, order) in ORDERS.into_iter().enumerate() {
                    for (mode, addend, dtype) in [
                        (Mode::Train, false, DType::F32),
                        (Mode::Train, true, DType::BF16),
                        (Mode::Eval, true, DType::F32),
                        (Mode::Eval, false, DType::F16),
                    ] {
                        cases.push(Case {
                            order,
                            dtype,
                            mode,
                            addend,
                            masking,
                            activation: pick(&ACTIVATIONS, i + usize::from(addend)),
                            ..Case::new(family, shape)
                        });
                    }
                }
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_masks() {
    masks(&Context::host());
}

#[test]
fn gpu_masks() {
    if let Some(context) = device::gpu() {
        masks(&context);
    }
}

/// Every layer with statistics from elsewhere, constant and part of the graph.
fn given(context: &Context) {
    let mut cases = Vec::new();
    for shape in [[2, 6, 35], [1, 2, 5000]] {
        for (i, family) in Family::all(shape[1]).into_iter().enumerate() {
            for constant in [false, true] {
                for order in ORDERS {
                    cases.push(Case {
                        order,
                        dtype: pick(dtypes(context), i),
                        from: From::Given { constant },
                        activation: pick(&ACTIVATIONS, i + usize::from(constant)),
                        addend: i % 2 == 0,
                        ..Case::new(family, shape)
                    });
                }
            }
        }
    }
    all(context, cases);
}

#[test]
fn host_given() {
    given(&Context::host());
}

#[test]
fn gpu_given() {
    if let Some(context) = device::gpu() {
        given(&context);
    }
}

/// More groups than a grid has workgroups along one dimension, in every layout.
fn many_groups(context: &Context) {
    let case = |family, shape| Case { affine: Affine::Both, ..Case::new(family, shape) };
    let mut cases = vec![
        case(Family::Instance, [1, 70_000, 2]),
        case(Family::Instance, [70_000, 1, 5]),
        case(Family::Batch, [2, 70_000, 1]),
        case(Family::Group(1), [70_000, 2, 2]),
        case(Family::Layer(1), [35_000, 2, 3]),
        case(Family::Rms(2), [70_000, 1, 3]),
    ];
    let last = MemoryOrder::ChannelsLast;
    cases.extend(cases.clone().into_iter().map(|case| Case { order: last, ..case }));
    all(context, cases);
}

#[test]
fn host_many_groups() {
    many_groups(&Context::host());
}

#[test]
fn gpu_many_groups() {
    if let Some(context) = device::gpu() {
        many_groups(&context);
    }
}

/// 16-bit results are rounded to nearest, ties to even, overflow to infinity, keep NaN: a constant
/// plane gives its bias, here any f32 at all.
fn rounding(context: &Context) {
    let mut patterns: Vec<u32> = (0..6000u32).map(|i| i.wrapping_mul(0x9E37_79B1)).collect();
    // Ties of either type and their neighbours, around 1 and the ends of the range of f16.
    for around in [0x3F80_0000, 0x477F_E000, 0x3880_0000, 0x3380_0000, 0x7F00_0000] {
        for step in 0..64 {
            let at = around + (step / 4) * 0x1000;
            patterns.extend([at - 1, at, at + 1, (at + 0x8000) | 0x8000_0000]);
        }
    }
    let bias: Vec<f32> = patterns.into_iter().map(f32::from_bits).collect();
    // A GPU may flush what is subnormal in f32.
    let bias: Vec<f32> = bias.into_iter().filter(|v| !v.is_subnormal()).collect();
    let c = bias.len();
    let config = InstanceNorm1d::config(c).with_affine(Affine::Bias);
    let mut norm = config.init(context).unwrap();
    norm.set_bias(&Tensor::from_slice([c], &bias).unwrap()).unwrap();
    for order in ORDERS {
        for dtype in [DType::F16, DType::BF16] {
            let x = data::place(context, [1, c, 3], dtype, order, &vec![0.25; 3 * c]).unwrap();
            let y = norm.forward(context, &x, Mode::Eval).unwrap();
            let y = data::Layout::of([1, c, 3], order).to_logical(&data::read(&y).unwrap());
            for (i, &got) in y.iter().enumerate() {
                let of = bias[i / 3];
                let want = data::round(dtype, of.into());
                assert!(
                    got == want || got.is_nan() && want.is_nan(),
                    "{context} {order:?} {dtype}: {of:e} became {got:e}, not {want:e}"
                );
            }
        }
    }
}

#[test]
fn host_rounding() {
    rounding(&Context::host());
}

#[test]
fn gpu_rounding() {
    if let Some(context) = device::gpu() {
        rounding(&context);
    }
}

/// Tensors beyond a cache go through it run by run, every layer's groups in their own order.
#[cfg(feature = "gpu")]
#[test]
fn gpu_runs() {
    let Some(context) = device::gpu() else { return };
    context.set_cache_bytes(256 << 10);
    let families = [
        (Family::Instance, [2, 3, 20_000]),
        (Family::Batch, [3, 5, 7_000]),
        (Family::Group(2), [2, 4, 9_000]),
        (Family::Layer(1), [2, 3, 20_004]),
    ];
    for (i, (family, shape)) in families.into_iter().enumerate() {
        for order in ORDERS {
            let epilogue = i.is_multiple_of(2) == (order == MemoryOrder::ChannelsFirst);
            let activation = if epilogue { Activation::Relu } else { Activation::None };
            let case = Case {
                order,
                addend: epilogue,
                activation,
                affine: Affine::Both,
                ..Case::new(family, shape)
            };
            check(&context, &case).unwrap();
        }
    }
}

/// A device with WebGPU's default limits binds too few buffers for the addend's gradient to be written
/// on the way.
#[cfg(feature = "gpu")]
#[test]
fn gpu_with_few_buffers() {
    let few = |limits: &mut wgpu::Limits| limits.max_storage_buffers_per_shader_stage = 8;
    let Some((device, queue)) = device::foreign(few) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    for (family, s) in [(Family::Instance, 300), (Family::Batch, 70), (Family::Batch, 20_000)] {
        for masking in [Masking::None, Masking::Some] {
            let case = Case {
                addend: true,
                activation: Activation::Silu,
                affine: Affine::Both,
                masking,
                ..Case::new(family, [2, 3, s])
            };
            check(&context, &case).unwrap();
        }
    }
}

/// The comparison itself must be able to fail.
#[test]
fn a_wrong_value_is_seen() {
    assert!(tolerance::compare(&[1.0, 2.0], &[1.0, 2.0], tolerance::Y).is_ok());
    assert!(tolerance::compare(&[1.0, 2.00002], &[1.0, 2.0], tolerance::Y).is_err());
    assert!(tolerance::compare(&[1.0, f32::NAN], &[1.0, 2.0], tolerance::Y).is_err());
    assert!(tolerance::compare(&[1.0], &[1.0, 2.0], tolerance::Y).is_err());
}

/// Any one number of a call's results, off by far less than a mistake would make it.
#[test]
fn a_wrong_result_is_seen() {
    use common::suite::{Data, Outcome, compare, run};
    let context = Context::host();
    let case =
        Case { addend: true, activation: Activation::Silu, ..Case::new(Family::Batch, [2, 3, 5]) };
    let data = Data::new(&case);
    let right = run(&context, &case, &data).unwrap();
    compare(&case, &data, &right).unwrap();
    type Edit = fn(&mut Outcome) -> &mut Vec<f64>;
    let parts: [(&str, Edit); 8] = [
        ("y", |outcome| &mut outcome.y),
        ("unsaved", |outcome| &mut outcome.unsaved),
        ("dx", |outcome| &mut outcome.dx),
        ("daddend", |outcome| outcome.daddend.as_mut().unwrap()),
        ("dweight", |outcome| outcome.dweight.as_mut().unwrap()),
        ("dbias", |outcome| outcome.dbias.as_mut().unwrap()),
        ("running_mean", |outcome| &mut outcome.running.as_mut().unwrap()[0]),
        ("running_var", |outcome| &mut outcome.running.as_mut().unwrap()[1]),
    ];
    for (name, part) in parts {
        for wrong in [3e-4, f64::NAN] {
            let mut outcome = right.clone();
            *part(&mut outcome).last_mut().unwrap() += wrong;
            assert!(compare(&case, &data, &outcome).is_err(), "{name} off by {wrong} passes");
        }
        let mut outcome = right.clone();
        part(&mut outcome).pop();
        assert!(compare(&case, &data, &outcome).is_err(), "a short {name} passes");
    }
    let missing = Outcome { dweight: None, ..right };
    assert!(compare(&case, &data, &missing).is_err(), "a missing dweight passes");
}

/// Threads that share a context: one thread's poll may collect another's answer.
#[test]
fn gpu_threads_read_back_at_once() {
    let Some(context) = device::gpu() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let context = &context;
            scope.spawn(move || {
                for i in 0..150u32 {
                    let values = [thread as f32, i as f32];
                    let x = Tensor::from_slice([2], &values).unwrap().to_context(context).unwrap();
                    assert_eq!(x.to_vec_blocking().unwrap(), values);
                }
            });
        }
    });
}
