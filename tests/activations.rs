//! Every activation, its value and its gradient, at the extremes of f32: zeros, subnormal numbers, all decades, infinities,
//! NaN, in every kernel that applies one. The right values are PyTorch's (`tests/data/activations.py`).
//!
//! With weight and bias 0 the addend itself is what the activation is applied to.

mod common;

use common::activations::{self, Arithmetic, Element, Expected};
use common::device;
use common::suite::{self, Case, Data, Family, From, Masking};
use wgnorm::{
    Activation, Affine, Context, DType, Extras, LayerNorm, MemoryOrder, Mode, NormLayer, Tensor,
};

/// Shapes and settings that lead to every kernel with an activation, and through all loops of the host.
fn routes() -> Vec<(&'static str, Case)> {
    let case = |family, shape| Case { addend: true, ..Case::new(family, shape) };
    let last = MemoryOrder::ChannelsLast;
    vec![
        ("groups in registers", case(Family::Instance, [1, 2, 700])),
        ("split groups", case(Family::Instance, [1, 1, 40_000])),
        ("weights of each element", case(Family::Layer(1), [1, 2, 600])),
        ("columns", Case { order: last, ..case(Family::Instance, [2, 33, 40]) }),
        ("running statistics", Case { mode: Mode::Eval, ..case(Family::Batch, [2, 3, 400]) }),
        (
            "given statistics",
            Case { from: From::Given { constant: true }, ..case(Family::Instance, [1, 2, 700]) },
        ),
        ("batch, channels last", Case { order: last, ..case(Family::Batch, [2, 5, 300]) }),
        ("short groups", case(Family::Instance, [4, 50, 6])),
        ("groups of channels", case(Family::Group(2), [2, 4, 300])),
        ("not centered", case(Family::Rms(2), [1, 3, 500])),
        ("tables", case(Family::AdaIn, [2, 3, 301])),
    ]
}

/// y and the addend's gradient of a call whose elements are the expected ones, over and over.
fn check(context: &Context, name: &str, case: &Case, expected: Expected) -> Result<(), String> {
    let case = Case { activation: expected.activation, ..case.clone() }.fitted();
    let expected = expected.held_by(case.dtype);
    let mut data = Data::new(&case);
    let of = |f: fn(&Element) -> f32| {
        let each = expected.elements.iter().cycle().take(data.x.len());
        each.map(|e| f64::from(f(e))).collect::<Vec<_>>()
    };
    (data.addend, data.dy) = (of(|e| e.v), of(|e| e.dy));
    data.weight.fill(0.0);
    data.bias.fill(0.0);
    let told = |error: String| format!("{context}, {name}, {}: {error}", case.dtype);
    let got = suite::run(context, &case, &data).map_err(|e| told(e.to_string()))?;
    let daddend = got.daddend.expect("there is an addend");
    let [_, c, s] = case.shape;
    let counts =
        |i: usize| case.masking == Masking::None || data.mask[i / (c * s) * s + i % s] != 0;
    let n = expected.elements.len();
    assert!(data.x.len() >= n, "{name} has room for all elements");
    for y in [&got.y, &got.unsaved] {
        for start in (0..y.len()).step_by(n) {
            // Where nothing counts, 0 is right; for the comparison that is replaced by what it expects.
            let each = (start..y.len()).zip(&expected.elements).map(|(i, e)| match counts(i) {
                true => (y[i], daddend[i]),
                false if (y[i], daddend[i]) == (0.0, 0.0) => {
                    (e.y.unwrap_or(0.0).into(), e.gradient.into())
                }
                false => (f64::NAN, f64::NAN),
            });
            let some = Expected {
                elements: expected.elements[..n.min(y.len() - start)].into(),
                ..expected
            };
            some.compare(activations::arithmetic(context), case.dtype, each).map_err(told)?;
        }
    }
    Ok(())
}

/// All activations on each route, or on those beyond the first two in turn.
fn all(context: &Context, routes: Vec<(&str, Case)>, every: usize) {
    let mut wrong = Vec::new();
    for (i, (name, case)) in routes.into_iter().enumerate() {
        for (j, expected) in activations::all().into_iter().enumerate() {
            if i < 2 || (i + j).is_multiple_of(every) {
                wrong.extend(check(context, name, &case, expected).err());
            }
        }
    }
    assert!(wrong.is_empty(), "{} fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// Drivers in software take long to compile a pipeline; the two first routes have all activations anyway.
fn every() -> usize {
    if std::env::var_os("WGNORM_ALL_CASES").is_some() { 1 } else { 4 }
}

#[test]
fn host_f32() {
    all(&Context::host(), routes(), 1);
}

#[test]
fn gpu_f32() {
    if let Some(context) = device::gpu() {
        all(&context, routes(), every());
    }
}

/// Elements of other types, with masks where the layer takes one: groups with a mask, and f64, are computed in f64 alone.
fn types(dtypes: &[DType]) -> Vec<(&'static str, Case)> {
    let of_type = |&dtype: &DType| {
        let [registers, split, inside, columns] =
            [0, 1, 2, 3].map(|i| (routes()[i].0, Case { dtype, ..routes()[i].1.clone() }));
        let masked = |(name, case): &(&'static str, Case)| {
            (*name, Case { masking: Masking::Some, shape: [2, 3, 900], ..case.clone() })
        };
        [masked(&registers), masked(&columns), registers, inside, columns, split]
    };
    dtypes.iter().flat_map(of_type).collect()
}

#[test]
fn host_other_types() {
    all(&Context::host(), types(&[DType::F32, DType::F16, DType::BF16, DType::F64]), 1);
}

#[test]
fn gpu_other_types() {
    if let Some(context) = device::gpu() {
        all(&context, types(&[DType::F16, DType::BF16]), every());
    }
}

/// A device that binds too few buffers has a pass of its own for the addend's gradient.
#[cfg(feature = "gpu")]
#[test]
fn gpu_with_few_buffers() {
    let few = |limits: &mut wgpu::Limits| limits.max_storage_buffers_per_shader_stage = 8;
    let Some((device, queue)) = device::foreign(few) else { return };
    let context = Context::from_device(&device, &queue).unwrap();
    let mut some = routes();
    some.truncate(2);
    some.extend(types(&[DType::F16]).into_iter().take(1));
    all(&context, some, every());
}

#[test]
fn layer_norm_of_one_row() {
    for device in device::all() {
        for expected in activations::all() {
            let result = pollster::block_on(activations::of_layer_norm(&device.context, &expected));
            assert_eq!(result, Ok(()), "{}", device.context);
        }
    }
}

/// What reaches x and the parameters, where an attention mask's `finfo.min` is added: GELU's slope there is exactly 0 or 1.
#[test]
fn extremes_leave_sums_alone() {
    for device in device::all() {
        let context = &device.context;
        let layer = LayerNorm::config([4]).with_affine(Affine::Both).init(context).unwrap();
        let read = |t: &Tensor<'_>| t.to_vec_blocking().unwrap();
        let tensor =
            |v: [f32; 4]| Tensor::from_slice([1, 4], &v).unwrap().to_context(context).unwrap();
        let smooth = [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Sigmoid,
            Activation::Tanh,
        ];
        for activation in smooth {
            for m in [1e13, 1e19, 1e33, 1e37, f32::MAX] {
                for m in [m, -m] {
                    let saturates = matches!(activation, Activation::Sigmoid | Activation::Tanh);
                    let slope = if m > 0.0 && !saturates { 1.0 } else { 0.0 };
                    let extras = Extras::new().with_addend(&tensor([m, m, m, m]));
                    let extras = extras.with_activation(activation);
                    let x = tensor([1.0, 2.0, 3.0, 4.0]);
                    let (_, saved) =
                        layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
                    let grads = layer.backward(context, &saved, &tensor([1.0; 4])).unwrap();
                    let case = format!("{context} {activation:?} at {m:e}");
                    assert_eq!(read(&grads.daddend.unwrap()), [slope; 4], "{case}");
                    assert_eq!(read(&grads.dbias.unwrap()), [slope; 4], "{case}");
                    let near = |got: &Tensor<'_>, want: [f32; 4]| {
                        let off = read(got)
                            .iter()
                            .zip(want)
                            .map(|(a, b)| (a - b).abs())
                            .fold(0.0, f32::max);
                        assert!(off < 1e-5, "{case}: {:?}", read(got));
                    };
                    near(&grads.dx, [0.0; 4]);
                    let xhat = [-1.5, -0.5, 0.5, 1.5].map(|d: f32| slope * d / 1.250_01f32.sqrt());
                    near(&grads.dweight.unwrap(), xhat);
                }
            }
        }
    }
}

/// f64 reaches far beyond f32, where squares and cubes overflow: each activation and its slope are 0, 1 or v itself there.
#[test]
fn host_f64_beyond_f32() {
    let context = &Context::host();
    for m in [1e110, 1e160, 1e300, f64::MAX] {
        let tensor = |v: [f64; 4]| Tensor::from_vec_of([1, 4], v.to_vec()).unwrap();
        let read = |t: &Tensor<'_>| t.to_vec_of_blocking::<f64>().unwrap();
        for (activation, values, slopes) in [
            (Activation::Silu, [0.0, m], [0.0, 1.0]),
            (Activation::Gelu, [0.0, m], [0.0, 1.0]),
            (Activation::GeluTanh, [0.0, m], [0.0, 1.0]),
            (Activation::Tanh, [-1.0, 1.0], [0.0, 0.0]),
            (Activation::Sigmoid, [0.0, 1.0], [0.0, 0.0]),
        ] {
            let layer = LayerNorm::config([4]).with_affine(Affine::None).init(context).unwrap();
            let extras = Extras::new().with_addend(&tensor([-m, m, -m, m]));
            let extras = extras.with_activation(activation);
            let x = tensor([1.0, 2.0, 3.0, 4.0]);
            let (y, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
            let grads = layer.backward(context, &saved, &tensor([1.0; 4])).unwrap();
            let [[a, b], [c, d]] = [values, slopes];
            assert_eq!(read(&y), [a, b, a, b], "{activation:?} at {m:e}");
            assert_eq!(read(&grads.daddend.unwrap()), [c, d, c, d], "{activation:?} at {m:e}");
        }
    }
}

/// PyTorch's f32 kernels give the file's values but where their own formulas overflow: GELU at the largest numbers
/// and at infinity, the slope of tanh-GELU beyond 1e19.
#[test]
fn the_file_is_pytorchs() {
    for expected in activations::all() {
        let mut exceptions = 0;
        for e in &expected.elements {
            let near = |got: f32, want: f32, size: f32| {
                let same =
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan() || got == want;
                same || (f64::from(got) - f64::from(want)).abs()
                    <= 2e-6 * f64::from(size.max(want.abs()))
            };
            let v = e.v.abs();
            let overflows = match expected.activation {
                Activation::Gelu => v > f32::MAX / 2.0,
                Activation::GeluTanh => v > 1e19 && v.is_finite(),
                _ => false,
            };
            let value = e.y.zip(e.torch.0).is_none_or(|(want, torch)| near(torch, want, 1.0));
            // Infinity times a slope that f32 does not resolve, and products at the end of f32.
            let size = e.dy.abs().max(1.0);
            let gradient = near(e.torch.1, e.gradient, size)
                || (e.dy.is_infinite() && !e.gradient.is_finite() && !e.torch.1.is_finite())
                || (e.dy.abs() == f32::MAX
                    && e.gradient.abs() >= f32::MAX
                    && e.torch.1.abs() >= f32::MAX);
            if overflows && !(value && gradient) {
                exceptions += 1;
            } else {
                assert!(value && gradient, "{}: {e:?}", expected.name);
            }
        }
        let expects_some = matches!(expected.activation, Activation::Gelu | Activation::GeluTanh);
        assert_eq!(exceptions > 0, expects_some, "{}", expected.name);
    }
}

/// The comparison can fail.
#[test]
fn a_wrong_value_is_seen() {
    for expected in activations::all() {
        let right: Vec<(f64, f64)> = expected
            .elements
            .iter()
            .map(|e| (e.y.unwrap_or(0.0).into(), e.gradient.into()))
            .collect();
        for arithmetic in [Arithmetic::F64, Arithmetic::F32] {
            let compare = |results: &[(f64, f64)]| {
                expected.compare(arithmetic, DType::F32, results.iter().copied())
            };
            assert_eq!(compare(&right), Ok(()));
            assert!(compare(&right[1..]).is_err());
            // Not at a subnormal number, which has more than one right result on a GPU.
            let some = expected.elements.iter().enumerate().step_by(7);
            for (i, e) in some.filter(|(_, e)| !e.v.is_subnormal() && e.v.is_finite()) {
                for wrong in [-17.5, f64::NAN] {
                    let mut results = right.clone();
                    if e.y.is_some() {
                        results[i].0 = wrong;
                        assert!(compare(&results).is_err(), "{} {e:?}: {wrong}", expected.name);
                    }
                    let mut results = right.clone();
                    if e.dy == 1.0 {
                        results[i].1 = wrong;
                        assert!(compare(&results).is_err(), "{} {e:?}: {wrong}", expected.name);
                    }
                }
            }
        }
    }
}
