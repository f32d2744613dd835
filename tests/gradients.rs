//! Our backward against central differences of our own forward, in f64 on the host; what gradients
//! of a normalization must add up to; accumulation.

mod common;

use common::data::{self, read};
use common::layer::Layer;
use common::oracle::Kind;
use common::suite::{self, ACTIVATIONS, Case, Data, Family, From, Masking};
use common::{device, random, tolerance};
use wgnorm::{
    AdaIn, Affine, BatchNorm1d, ConditionalInstanceNorm, Context, DType, Estimator, Extras,
    MemoryOrder, Mode, NormLayer, ShapeError, Tensor,
};

/// The gradient of `loss` by its last argument's elements, central differences.
fn differences(values: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut values = values.to_vec();
    (0..values.len())
        .map(|i| {
            let at = values[i];
            let mut side = |v| {
                values[i] = v;
                loss(&values)
            };
            let difference = side(at + STEP) - side(at - STEP);
            values[i] = at;
            difference / (2.0 * STEP)
        })
        .collect()
}

fn close(got: &[f64], want: &[f64]) -> Result<(), String> {
    let bound = tolerance::Bound { relative: tolerance::DIFFERENCES, stored: DType::F64 };
    bound.compare(got, want, want)
}

#[track_caller]
fn assert_close(got: &[f64], want: &[f64], what: &str) {
    close(got, want).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

/// Σ y·dy of what counts.
fn loss(context: &Context, case: &Case, data: &Data) -> f64 {
    let y = suite::forward(context, case, data).unwrap();
    y.iter().zip(&data.dy).filter(|(_, dy)| !dy.is_nan()).map(|(y, dy)| y * dy).sum()
}

/// All gradients of a case, and whatever differs from the differences.
fn check(case: &Case) -> Result<(), String> {
    let context = &Context::host();
    let case = &Case { dtype: DType::F64, ..case.clone() }.fitted();
    let data = &Data::new(case);
    let got = suite::run(context, case, data).map_err(|e| e.to_string())?;
    let by = |values: &[f64], set: &dyn Fn(&mut Data, &[f64])| {
        differences(values, |values| {
            let mut data = data.clone();
            set(&mut data, values);
            loss(context, case, &data)
        })
    };
    let told = |name| move |wrong| format!("{case:?} {name}{wrong}");
    // What is masked is not read: differences there are those of NaN, which do not reach the loss.
    close(&got.dx, &by(&data.x, &|data, v| data.x = v.into())).map_err(told("dx"))?;
    if let Some(daddend) = &got.daddend {
        let want = by(&data.addend, &|data, v| data.addend = v.into());
        close(daddend, &want).map_err(told("daddend"))?;
    }
    for (k, name, got) in [(0, "dweight", &got.dweight), (1, "dbias", &got.dbias)] {
        let Some(got) = got else { continue };
        let want = match (case.family, k) {
            (Family::Bank(_), k) => by(&data.bank[k], &|data, v| data.bank[k] = v.into()),
            (_, 0) => by(&data.weight, &|data, v| data.weight = v.into()),
            _ => by(&data.bias, &|data, v| data.bias = v.into()),
        };
        close(got, &want).map_err(told(name))?;
    }
    if let Some(dstyle) = &got.dstyle {
        let want = by(&data.style, &|data, v| data.style = v.into());
        close(dstyle, &want).map_err(told("dstyle"))?;
    }
    Ok(())
}

/// Every layer, activation, and source of statistics.
#[test]
fn host_central_differences() {
    for family in Family::all(4) {
        for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
            for mode in [Mode::Train, Mode::Eval] {
                if mode == Mode::Eval && !family.tracks() {
                    continue;
                }
                let case = Case {
                    order: [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast][i % 2],
                    mode,
                    affine: [Affine::Both, Affine::Both, Affine::None, Affine::Weight][i % 4],
                    activation,
                    addend: i % 3 != 1,
                    seed: i as u32 + 1,
                    ..Case::new(family, [2, 4, 5])
                };
                check(&case).unwrap();
            }
        }
    }
}

#[test]
fn host_central_differences_of_masks_and_given_statistics() {
    for family in Family::all(4) {
        for (i, mode) in [Mode::Train, Mode::Eval].into_iter().enumerate() {
            let plain =
                Case { mode, activation: ACTIVATIONS[3 + i], ..Case::new(family, [5, 4, 6]) };
            if family.takes_masks() {
                check(&Case { masking: Masking::Some, addend: true, ..plain.clone() }).unwrap();
            }
            check(&Case { from: From::Given { constant: true }, ..plain }).unwrap();
        }
    }
}

/// A gradient that is off is seen.
#[test]
fn a_wrong_gradient_is_seen() {
    let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let want = differences(&[1.0, -2.0], square);
    close(&[2.0, -4.0], &want).unwrap();
    assert!(close(&[2.0, -4.0001], &want).is_err());
    assert!(close(&[2.0, f64::NAN], &want).is_err());
    assert!(close(&[2.0], &want).is_err());
}

/// With unit weight, dx of a centered group adds up to 0, and dx·xhat too, up to eps: neither the
/// mean nor the spread of x matters.
#[test]
fn dx_does_not_move_mean_or_spread() {
    for device in device::all() {
        for family in Family::all(6) {
            for order in [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast] {
                if family == Family::FusedBatch || family.is_styled() {
                    continue;
                }
                // A tiny eps: what it adds is below the rounding.
                let case = Case {
                    order,
                    affine: Affine::None,
                    eps: 1e-9,
                    ..Case::new(family, [3, 6, 40])
                };
                let data = Data::new(&case);
                let got = suite::run(&device.context, &case, &data).unwrap();
                let norm = case.norm();
                let mut sums = vec![[0.0; 3]; norm.groups()];
                for (i, n, c, _) in norm.elements() {
                    let sums = &mut sums[norm.group(n, c)];
                    sums[0] += got.dx[i];
                    sums[1] += got.dx[i] * got.y[i];
                    sums[2] += got.dx[i].abs() * got.y[i].abs().max(1.0);
                }
                for [sum, with_xhat, size] in sums {
                    let small = |v: f64| v.abs() <= tolerance::DX * size;
                    let what = format!("{} {case:?}: {sum:e} {with_xhat:e}", device.name);
                    assert!(case.kind() == Kind::Rms || small(sum), "{what}");
                    assert!(small(with_xhat), "{what}");
                }
            }
        }
    }
}

/// `backward_accumulate` adds the parameters' gradients and replaces the others.
#[test]
fn gradients_accumulate() {
    for device in device::all() {
        let context = &device.context;
        for family in Family::all(6).into_iter().filter(|family| !family.is_styled()) {
            let case = Case { addend: true, ..Case::new(family, [2, 6, 33]) };
            let data = Data::new(&case);
            let layer: Box<dyn Layer> = case.layer(context, &data).unwrap();
            let extras = suite::extras(context, &case, &data).unwrap();
            let x = case.tensor(context, &data.x).unwrap();
            let (_, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
            let dy = |scale: f64| {
                let dy: Vec<f64> = data.dy.iter().map(|dy| dy * scale).collect();
                case.tensor(context, &dy).unwrap()
            };
            let first = layer.backward(context, &saved, &dy(1.0)).unwrap();
            let second = layer.backward(context, &saved, &dy(-0.5)).unwrap();
            let mut both = first.clone();
            layer.backward_accumulate(context, &saved, &dy(-0.5), &mut both).unwrap();
            let vec = |t: &Tensor<'_>| read(t).unwrap();
            let what = format!("{} {family:?}", device.name);
            assert!(vec(&both.dx) == vec(&second.dx), "{what}: dx");
            let daddend = |grads: &wgnorm::Grads| vec(grads.daddend.as_ref().unwrap());
            assert!(daddend(&both) == daddend(&second), "{what}: daddend");
            for (both, first, second) in [
                (&both.dweight, &first.dweight, &second.dweight),
                (&both.dbias, &first.dbias, &second.dbias),
            ] {
                let [both, first, second] =
                    [both, first, second].map(|grad| vec(grad.as_ref().unwrap()));
                let sum: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
                // One rounding of the sum, and of each part.
                let bound = tolerance::Bound { relative: 3e-7, stored: DType::F32 };
                let size: Vec<f64> =
                    first.iter().zip(&second).map(|(a, b)| a.abs() + b.abs()).collect();
                bound.compare(&both, &sum, &size).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }
}

/// So do a bank's, style by style; a frozen part's stay as they were.
#[test]
fn a_banks_gradients_accumulate() {
    for device in device::all() {
        let context = &device.context;
        let config = ConditionalInstanceNorm::config(3, 2);
        let layer = config.clone().init(context).unwrap();
        let frozen = config.with_frozen(Affine::Bias).init(context).unwrap();
        let place = |seed| {
            let values = random::gauss4_f64(2 * 2 * 5, seed, 1.0, 0.2);
            data::place(context, [2, 2, 5], DType::F32, MemoryOrder::ChannelsFirst, &values)
                .unwrap()
        };
        let (_, saved) = layer.forward_styles_saved(context, &place(1), &[2, 0]).unwrap();
        let mut grads = layer.backward(context, &saved, &place(2)).unwrap();
        let vec = |t: &Option<Tensor<'_>>| read(t.as_ref().unwrap()).unwrap();
        let first = [vec(&grads.dweight), vec(&grads.dbias)];
        let (_, saved) = layer.forward_styles_saved(context, &place(3), &[2, 1]).unwrap();
        let second = layer.backward(context, &saved, &place(4)).unwrap();
        layer.backward_accumulate(context, &saved, &place(4), &mut grads).unwrap();
        for (sum, (first, second)) in [vec(&grads.dweight), vec(&grads.dbias)]
            .iter()
            .zip(first.iter().zip([vec(&second.dweight), vec(&second.dbias)]))
        {
            let want: Vec<f64> = first.iter().zip(second).map(|(a, b)| a + b).collect();
            assert!(want.iter().all(|v| *v != 0.0), "{want:?}");
            let bound = tolerance::Bound { relative: 3e-7, stored: DType::F32 };
            bound.compare(sum, &want, &want).unwrap_or_else(|e| panic!("{}: {e}", device.name));
        }
        assert!(read(&grads.dx).unwrap() == read(&second.dx).unwrap());

        let before = grads.clone();
        let (_, saved) = frozen.forward_styles_saved(context, &place(3), &[2, 1]).unwrap();
        frozen.backward_accumulate(context, &saved, &place(4), &mut grads).unwrap();
        assert!(vec(&grads.dweight) != vec(&before.dweight));
        assert!(vec(&grads.dbias) == vec(&before.dbias));

        // Gradients of another bank are refused, and left alone.
        let other = ConditionalInstanceNorm::config(4, 2).init(context).unwrap();
        let (_, saved) = other.forward_styles_saved(context, &place(3), &[2, 1]).unwrap();
        let refused =
            other.backward_accumulate(context, &saved, &place(4), &mut grads).unwrap_err();
        let (layer, operand) = ("ConditionalInstanceNorm", "dweight");
        let (expected, got) = ([4, 2].into(), [3, 2].into());
        assert_eq!(refused, ShapeError::Operand { layer, operand, expected, got }.into());
        assert!(vec(&grads.dbias) == vec(&before.dbias));
    }
}

/// What a backward pass is given must fit its forward pass; after a refusal gradients are as they were.
#[test]
fn operands_must_fit() {
    for device in device::all() {
        let context = &device.context;
        let layer = BatchNorm1d::config(3).init(context).unwrap();
        let place = |shape: [usize; 3], dtype, order| {
            data::place(context, shape, dtype, order, &vec![0.5; shape.iter().product()]).unwrap()
        };
        let (first, last) = (MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast);
        let x = place([2, 3, 4], DType::F32, first);
        let (_, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
        let refused = |dy: &Tensor<'_>| layer.backward(context, &saved, dy).unwrap_err();
        let name = "BatchNorm1d";
        let (expected, got) = ([2, 3, 4].into(), [2, 3, 5].into());
        let shape = ShapeError::Operand { layer: name, operand: "dy", expected, got };
        assert_eq!(refused(&place([2, 3, 5], DType::F32, first)), shape.into());
        let (expected, got) = (DType::F32, DType::F16);
        let dtype = ShapeError::DType { layer: name, operand: "dy", expected, got };
        assert_eq!(refused(&place([2, 3, 4], DType::F16, first)), dtype.into());
        let order = ShapeError::Order { layer: name, operand: "dy", expected: first, got: last };
        assert_eq!(refused(&place([2, 3, 4], DType::F32, last)), order.into());

        let mut grads = layer.backward(context, &saved, &x).unwrap();
        let of_four = BatchNorm1d::config(4).init(context).unwrap();
        let wide = place([2, 4, 3], DType::F32, first);
        let (_, other) = of_four.forward_saved(context, &wide, Mode::Train).unwrap();
        let refused = of_four.backward_accumulate(context, &other, &wide, &mut grads).unwrap_err();
        let (expected, got) = ([4].into(), [3].into());
        let shape = ShapeError::Operand { layer: name, operand: "dweight", expected, got };
        assert_eq!(refused, shape.into());
        assert_eq!(**grads.dx.shape(), [2, 3, 4]);
        assert_eq!(read(&grads.dbias.unwrap()).unwrap(), [4.0; 3]);
    }
}

/// f64 values of a shape, on the host.
fn tensor(shape: &[usize], order: MemoryOrder, logical: &[f64]) -> Tensor<'static> {
    let layout = data::Layout::of([shape[0], shape[1], shape[2..].iter().product()], order);
    data::host(shape, DType::F64, order, &layout.to_memory(logical)).unwrap()
}

fn logical(shape: &[usize], tensor: &Tensor<'_>) -> Vec<f64> {
    let layout =
        data::Layout::of([shape[0], shape[1], shape[2..].iter().product()], tensor.order());
    layout.to_logical(&read(tensor).unwrap())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Of the content and of the style, one for each sample and one for all.
#[test]
fn host_adain_style() {
    let context = &Context::host();
    for estimator in [Estimator::Biased, Estimator::Unbiased] {
        for order in [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast] {
            for styles in [2, 1] {
                let (shape, style_shape) = ([2, 3, 4, 2], [styles, 3, 5, 1]);
                let layer = AdaIn::config().with_style_estimator(estimator).init(context).unwrap();
                let x = random::gauss4_f64(48, 1, 1.5, 0.3);
                let style = random::gauss4_f64(styles * 15, 2, 0.8, -1.0);
                let dy = random::gauss4_f64(48, 3, 1.0, 0.1);
                let forward = |x: &[f64], style: &[f64]| {
                    let x = tensor(&shape, order, x);
                    let style = tensor(&style_shape, order, style);
                    let y = layer.forward_style(context, &x, &style).unwrap();
                    dot(&logical(&shape, &y), &dy)
                };
                let tx = tensor(&shape, order, &x);
                let tstyle = tensor(&style_shape, order, &style);
                let (y, saved) = layer.forward_style_saved(context, &tx, &tstyle).unwrap();
                assert_eq!(dot(&logical(&shape, &y), &dy), forward(&x, &style));
                let dy = tensor(&shape, order, &dy);
                let grads = layer.backward_style(context, &saved, &dy).unwrap();
                let what = format!("{estimator:?} {order:?} {styles} styles");
                let dx = differences(&x, |x| forward(x, &style));
                assert_close(&logical(&shape, &grads.dx), &dx, &format!("{what} dx"));
                let dstyle = differences(&style, |style| forward(&x, style));
                let got = logical(&style_shape, &grads.dstyle);
                assert_close(&got, &dstyle, &format!("{what} dstyle"));
            }
        }
    }
}

/// Of per-sample tables, and of tables for all samples.
#[test]
fn host_adain_tables() {
    let context = &Context::host();
    for order in [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast] {
        for rows in [2, 1] {
            let shape = [2, 3, 7];
            let layer = AdaIn::config().init(context).unwrap();
            let x = random::gauss4_f64(42, 4, 1.5, 0.3);
            let weight = random::uniform_f64(rows * 3, 5, 0.7, 1.0);
            let bias = random::gauss4_f64(rows * 3, 6, 0.5, 0.0);
            let dy = random::gauss4_f64(42, 7, 1.0, 0.1);
            let table = |values: &[f64]| Tensor::from_vec_of([rows, 3], values.to_vec()).unwrap();
            let forward = |x: &[f64], weight: &[f64], bias: &[f64]| {
                let x = tensor(&shape, order, x);
                let y = layer.forward_tables(context, &x, &table(weight), &table(bias)).unwrap();
                dot(&logical(&shape, &y), &dy)
            };
            let tx = tensor(&shape, order, &x);
            let (_, saved) =
                layer.forward_tables_saved(context, &tx, &table(&weight), &table(&bias)).unwrap();
            let tdy = tensor(&shape, order, &dy);
            let grads = layer.backward_tables(context, &saved, &tdy).unwrap();
            let what = format!("{order:?} {rows} rows");
            let dx = differences(&x, |x| forward(x, &weight, &bias));
            assert_close(&logical(&shape, &grads.dx), &dx, &format!("{what} dx"));
            let param = |grad: Option<Tensor<'static>>| {
                let grad = grad.unwrap();
                assert_eq!(**grad.shape(), [rows, 3], "{what}");
                read(&grad).unwrap()
            };
            let dweight = differences(&weight, |weight| forward(&x, weight, &bias));
            assert_close(&param(grads.dweight), &dweight, &format!("{what} dweight"));
            let dbias = differences(&bias, |bias| forward(&x, &weight, bias));
            assert_close(&param(grads.dbias), &dbias, &format!("{what} dbias"));
        }
    }
}

/// Of a bank of styles, picked and blended, through an activation and an addend.
#[test]
fn host_conditional_bank() {
    let context = &Context::host();
    let (styles, shape) = (3, [4, 2, 6]);
    let x = random::gauss4_f64(48, 8, 1.5, 0.3);
    let addend = random::gauss4_f64(48, 9, 1.0, 0.0);
    let dy = random::gauss4_f64(48, 10, 1.0, 0.1);
    let bank = [random::uniform_f64(6, 11, 0.7, 1.0), random::gauss4_f64(6, 12, 0.5, 0.0)];
    let picked = [2, 0, 2, 1].map(|id| [0, 1, 2].map(|k| f64::from(u8::from(k == id))));
    let blended = random::uniform_f64(12, 13, 0.5, 0.4);
    for (order, blend) in [
        (MemoryOrder::ChannelsFirst, picked.as_flattened().to_vec()),
        (MemoryOrder::ChannelsLast, picked.as_flattened().to_vec()),
        (MemoryOrder::ChannelsFirst, blended.clone()),
        (MemoryOrder::ChannelsLast, blended),
    ] {
        let layer = |bank: [&[f64]; 2]| {
            let config = ConditionalInstanceNorm::config(styles, 2);
            let layer = config.init(context).unwrap();
            let mut layer = layer.cast_blocking(DType::F64).unwrap();
            layer.set_weight(&Tensor::from_slice_of([styles, 2], bank[0]).unwrap()).unwrap();
            layer.set_bias(&Tensor::from_slice_of([styles, 2], bank[1]).unwrap()).unwrap();
            layer
        };
        let weights = Tensor::from_vec_of([4, styles], blend).unwrap();
        let activation = ACTIVATIONS[3];
        let extras = || {
            let addend = tensor(&shape, order, &addend);
            Extras::new().with_addend(&addend).with_activation(activation)
        };
        let forward = |x: &[f64], bank: [&[f64]; 2]| {
            let x = tensor(&shape, order, x);
            let y = layer(bank).forward_blend_with(context, &x, &weights, &extras()).unwrap();
            dot(&logical(&shape, &y), &dy)
        };
        let banks = [&bank[0][..], &bank[1][..]];
        let norm = layer(banks);
        let tx = tensor(&shape, order, &x);
        let (_, saved) = norm.forward_blend_saved_with(context, &tx, &weights, &extras()).unwrap();
        let grads = norm.backward(context, &saved, &tensor(&shape, order, &dy)).unwrap();
        let dx = differences(&x, |x| forward(x, banks));
        assert_close(&logical(&shape, &grads.dx), &dx, "dx");
        for (grad, k) in [(grads.dweight, 0), (grads.dbias, 1)] {
            let want = differences(&bank[k], |rows| {
                let mut banks = banks;
                banks[k] = rows;
                forward(&x, banks)
            });
            let grad = grad.unwrap();
            assert_eq!(**grad.shape(), [styles, 2]);
            assert_close(&read(&grad).unwrap(), &want, "bank");
        }
    }
}
