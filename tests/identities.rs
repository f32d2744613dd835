//! Layers that say the same must compute the same, on both back ends; presets are what they are
//! named for.

mod common;

use common::data::{self, Layout, read};
use common::layer::Layer;
use common::{device, random, tolerance};
use wgnorm::{
    AdaIn, Affine, BatchNorm2d, BatchNormConfig, ConditionalInstanceNorm, Context, DType,
    Estimator, Extras, FusedBatchNorm2d, FusedBatchNormConfig, GroupNorm, InstanceNorm,
    InstanceNorm1d, InstanceNorm2d, InstanceNormAxisConfig, InstanceNormConfig, LayerNorm,
    MemoryOrder, Mode, Momentum, NormLayer, OneValue, RmsNorm, Tensor,
};

const SHAPE: [usize; 4] = [3, 4, 5, 7];
const ORDERS: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];

/// y, dx, dweight, dbias of a call in training; the maps in logical order.
type Results = [Vec<f64>; 4];

fn tensor(
    context: &Context,
    shape: &[usize],
    order: MemoryOrder,
    logical: &[f64],
) -> Tensor<'static> {
    let layout = Layout::of([shape[0], shape[1], shape[2..].iter().product()], order);
    data::place(context, shape, DType::F32, order, &layout.to_memory(logical)).unwrap()
}

fn logical(tensor: &Tensor<'_>) -> Vec<f64> {
    let shape = tensor.shape();
    let shape = [shape[0], shape[1], shape[2..].iter().product()];
    Layout::of(shape, tensor.order()).to_logical(&read(tensor).unwrap())
}

fn values(len: usize, seed: u32) -> Vec<f64> {
    data::rounded(DType::F32, &random::gauss4_f64(len, seed, 1.3, 0.7))
}

/// With these parameters, if the layer has any.
fn with(mut layer: impl Layer + 'static, weight: &[f64], bias: &[f64]) -> Box<dyn Layer> {
    for (name, values) in [("weight", weight), ("bias", bias)] {
        let shape = match name {
            "weight" => layer.weight().map(|tensor| tensor.shape().clone()),
            _ => layer.bias().map(|tensor| tensor.shape().clone()),
        };
        let Some(shape) = shape else { continue };
        let tensor = data::host(shape, DType::F32, MemoryOrder::ChannelsFirst, values).unwrap();
        match name {
            "weight" => layer.set_weight(&tensor).unwrap(),
            _ => layer.set_bias(&tensor).unwrap(),
        }
    }
    Box::new(layer)
}

fn run(context: &Context, layer: &dyn Layer, shape: &[usize], order: MemoryOrder) -> Results {
    let len = shape.iter().product();
    let [x, dy] = [1, 2].map(|seed| tensor(context, shape, order, &values(len, seed)));
    let (y, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
    let grads = layer.backward(context, &saved, &dy).unwrap();
    let param =
        |grad: Option<Tensor<'static>>| grad.map_or(Vec::new(), |grad| read(&grad).unwrap());
    [logical(&y), logical(&grads.dx), param(grads.dweight), param(grads.dbias)]
}

/// Both are right to a few roundings, so they are that close to each other.
#[track_caller]
fn same(got: &Results, want: &Results, what: &str) {
    let bounds = [tolerance::Y, tolerance::DX, tolerance::DPARAM, tolerance::DPARAM];
    for (i, name) in ["y", "dx", "dweight", "dbias"].into_iter().enumerate() {
        let bound = tolerance::Bound { relative: 2.0 * bounds[i], stored: DType::F32 };
        // Sums over some hundred elements are of that size at most.
        let size = if i < 2 { 1.0 } else { 40.0 };
        let scale = vec![size; want[i].len()];
        bound.compare(&got[i], &want[i], &scale).unwrap_or_else(|e| panic!("{what}: {name}{e}"));
    }
}

fn everywhere(test: impl Fn(&Context, MemoryOrder, &str)) {
    for device in device::all() {
        for order in ORDERS {
            test(&device.context, order, &format!("{} {order:?}", device.name));
        }
    }
}

/// Group normalization with as many groups as channels is instance normalization.
#[test]
fn a_group_per_channel_is_instance_norm() {
    everywhere(|context, order, what| {
        let (weight, bias) = (values(4, 3), values(4, 4));
        let instance = InstanceNorm2d::config(4).with_affine(Affine::Both).init(context).unwrap();
        let groups = GroupNorm::config(4, 4).init(context).unwrap();
        let [got, want] = [with(groups, &weight, &bias), with(instance, &weight, &bias)]
            .map(|layer| run(context, layer.as_ref(), &SHAPE, order));
        same(&got, &want, what);
    });
}

/// Group normalization with one group is layer normalization over channels and space.
#[test]
fn one_group_is_layer_norm() {
    everywhere(|context, order, what| {
        // A batch that is normalized as a whole must be channels first.
        let shape = if order == MemoryOrder::ChannelsLast { [1, 4, 5, 7] } else { SHAPE };
        let config = GroupNorm::config(1, 4).with_affine(Affine::None);
        let groups = with(config.init(context).unwrap(), &[], &[]);
        let config = LayerNorm::config([4, 5, 7]).with_affine(Affine::None);
        let layer = with(config.init(context).unwrap(), &[], &[]);
        let [got, want] = [groups, layer].map(|layer| run(context, layer.as_ref(), &shape, order));
        same(&got, &want, what);
    });
}

/// Batch normalization of one sample is instance normalization.
#[test]
fn one_sample_is_instance_norm() {
    everywhere(|context, order, what| {
        let shape = [1, 4, 5, 7];
        let (weight, bias) = (values(4, 3), values(4, 4));
        let instance = InstanceNorm2d::config(4)
            .with_affine(Affine::Both)
            .with_track_running_stats(true)
            .init(context)
            .unwrap();
        let instance = with(instance, &weight, &bias);
        let batch = with(BatchNorm2d::config(4).init(context).unwrap(), &weight, &bias);
        let [got, want] =
            [&batch, &instance].map(|layer| run(context, layer.as_ref(), &shape, order));
        same(&got, &want, what);
        let state = |layer: &dyn Layer| {
            [layer.running_mean(), layer.running_var()].map(|part| read(&part.unwrap()).unwrap())
        };
        let (got, want) = (state(batch.as_ref()), state(instance.as_ref()));
        let bound = tolerance::Bound { relative: 2.0 * tolerance::RUNNING, stored: DType::F32 };
        for (got, want) in got.iter().zip(&want) {
            bound.compare(got, want, want).unwrap_or_else(|e| panic!("{what}: running{e}"));
        }
    });
}

/// Without a spread in the mean, root mean square and layer normalization agree.
#[test]
fn rms_norm_of_centered_rows_is_layer_norm() {
    for device in device::all() {
        let context = &device.context;
        let mut rows = values(6 * 32, 5);
        for row in rows.chunks_mut(32) {
            // A row and its negative: the mean is exactly 0.
            for i in 0..16 {
                row[16 + i] = -row[i];
            }
        }
        let x = data::place(context, [6, 32], DType::F32, ORDERS[0], &rows).unwrap();
        let layer = LayerNorm::config([32]).init(context).unwrap();
        let rms = RmsNorm::config([32]).with_eps(1e-5).init(context).unwrap();
        let [got, want] = [&rms as &dyn NormLayer, &layer]
            .map(|layer| read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap());
        let bound = tolerance::Bound { relative: 2.0 * tolerance::Y, stored: DType::F32 };
        bound.compare(&got, &want, &want).unwrap_or_else(|e| panic!("{}: {e}", device.name));
    }
}

/// Instance normalization over the last axis is that of the same data channels last, and over an axis
/// of a tensor that lies channels last that of the same tensor lying channels first.
#[test]
fn any_axis_is_an_order_of_memory() {
    for device in device::all() {
        let context = &device.context;
        let (weight, bias) = (values(4, 3), values(4, 4));
        let (x, dy) = (values(3 * 4 * 35, 1), values(3 * 4 * 35, 2));
        let axis = |axis| {
            let config = InstanceNorm::config(4).with_axis(axis).with_center(true).with_scale(true);
            with(config.init(context).unwrap(), &weight, &bias)
        };
        let torch = InstanceNorm2d::config(4).with_affine(Affine::Both).init(context).unwrap();
        let torch = with(torch, &weight, &bias);
        // In memory order, whatever the shape says.
        let call = |layer: &dyn Layer, shape: [usize; 4], order| {
            let place =
                |values: &[f64]| data::place(context, shape, DType::F32, order, values).unwrap();
            let (y, saved) = layer.forward_saved(context, &place(&x), Mode::Train).unwrap();
            let grads = layer.backward(context, &saved, &place(&dy)).unwrap();
            let [y, dx] = [&y, &grads.dx].map(|tensor| read(tensor).unwrap());
            let [dweight, dbias] =
                [grads.dweight, grads.dbias].map(|grad| read(&grad.unwrap()).unwrap());
            [y, dx, dweight, dbias]
        };
        let [first, last] = ORDERS;
        let want = call(torch.as_ref(), [3, 4, 5, 7], last);
        for axis_number in [3, -1] {
            let got = call(axis(axis_number).as_ref(), [3, 5, 7, 4], first);
            same(&got, &want, &format!("{} axis {axis_number}", device.name));
        }
        // Memory (3, 5, 7, 4) as logical (3, 4, 5, 7): the last axis lies before the axis moved away.
        let got = call(axis(1).as_ref(), [3, 4, 5, 7], last);
        same(&got, &want, &format!("{} axis 1 channels last", device.name));
        // Memory (3, 4, 7, 5), whose channels are on axis 2 of logical (3, 5, 4, 7).
        let want = call(torch.as_ref(), [3, 4, 7, 5], first);
        let got = call(axis(2).as_ref(), [3, 5, 4, 7], last);
        same(&got, &want, &format!("{} axis 2 channels last", device.name));
        // Memory (3, 7, 4, 5): on axis 3 of logical (3, 5, 7, 4).
        let want = call(axis(2).as_ref(), [3, 7, 4, 5], first);
        let got = call(axis(3).as_ref(), [3, 5, 7, 4], last);
        same(&got, &want, &format!("{} axis 3 channels last", device.name));
    }
}

/// Layer normalization walks channels last as it lies, with the numbers of channels first.
#[test]
fn layer_norm_of_either_order() {
    for device in device::all() {
        let context = &device.context;
        for (shape, normalized) in [
            (vec![3, 4, 5, 7], vec![7]),
            (vec![3, 4, 5, 7], vec![5, 7]),
            (vec![3, 4, 5, 7], vec![4, 5, 7]),
            (vec![1, 4, 5, 7], vec![1, 4, 5, 7]),
            (vec![6, 5], vec![5]),
        ] {
            let len = normalized.iter().product();
            for rms in [false, true] {
                let layer = || match rms {
                    false => with(
                        LayerNorm::config(normalized.as_slice()).init(context).unwrap(),
                        &values(len, 3),
                        &values(len, 4),
                    ),
                    true => with(
                        RmsNorm::config(normalized.as_slice()).init(context).unwrap(),
                        &values(len, 3),
                        &[],
                    ),
                };
                let [want, got] = ORDERS.map(|order| run(context, layer().as_ref(), &shape, order));
                let what = format!("{} {shape:?} over {normalized:?}, rms {rms}", device.name);
                same(&got, &want, &what);
            }
        }
    }
}

/// A picture in its own style stays as it is.
#[test]
fn adain_in_its_own_style_is_nothing() {
    everywhere(|context, order, what| {
        let x = values(SHAPE.iter().product(), 6);
        let tensor = tensor(context, &SHAPE, order, &x);
        let layer = AdaIn::config().init(context).unwrap();
        let y = logical(&layer.forward_style(context, &tensor, &tensor).unwrap());
        let bound = tolerance::Bound { relative: 2.0 * tolerance::Y, stored: DType::F32 };
        bound.compare(&y, &x, &x).unwrap_or_else(|e| panic!("{what}: {e}"));
    });
}

/// AdaIn with tables that repeat a layer's parameters is that layer; tables of one row are those of
/// every sample.
#[test]
fn adain_with_equal_tables_is_instance_norm() {
    everywhere(|context, order, what| {
        let (weight, bias) = (values(4, 3), values(4, 4));
        let instance = InstanceNorm2d::config(4).with_affine(Affine::Both).init(context).unwrap();
        let instance = with(instance, &weight, &bias);
        let want = run(context, instance.as_ref(), &SHAPE, order);
        let layer = AdaIn::config().init(context).unwrap();
        let [x, dy] = [1, 2]
            .map(|seed| tensor(context, &SHAPE, order, &values(SHAPE.iter().product(), seed)));
        for rows in [1, 3] {
            let table = |row: &[f64]| {
                data::place(context, [rows, 4], DType::F32, ORDERS[0], &row.repeat(rows)).unwrap()
            };
            let (weight, bias) = (table(&weight), table(&bias));
            let (y, saved) = layer.forward_tables_saved(context, &x, &weight, &bias).unwrap();
            let grads = layer.backward_tables(context, &saved, &dy).unwrap();
            // The samples' gradients add up to the layer's.
            let sum = |grad: Option<Tensor<'static>>| {
                let grad = read(&grad.unwrap()).unwrap();
                (0..4).map(|c| grad.iter().skip(c).step_by(4).sum()).collect()
            };
            let got = [logical(&y), logical(&grads.dx), sum(grads.dweight), sum(grads.dbias)];
            same(&got, &want, &format!("{what} {rows} rows"));
        }
    });
}

/// A style of one sample serves all, and its gradient is the sum of what each sample's copy gets.
#[test]
fn one_style_serves_all_samples() {
    everywhere(|context, order, what| {
        let layer = AdaIn::config().init(context).unwrap();
        let [x, dy] = [1, 2]
            .map(|seed| tensor(context, &SHAPE, order, &values(SHAPE.iter().product(), seed)));
        let style = values(4 * 6, 7);
        let results = [1, 3].map(|samples| {
            let style = tensor(context, &[samples, 4, 2, 3], order, &style.repeat(samples));
            let (y, saved) = layer.forward_style_saved(context, &x, &style).unwrap();
            let grads = layer.backward_style(context, &saved, &dy).unwrap();
            let dstyle = logical(&grads.dstyle);
            let sum = (0..24).map(|i| dstyle.iter().skip(i).step_by(24).sum()).collect();
            [logical(&y), logical(&grads.dx), sum, Vec::new()]
        });
        same(&results[0], &results[1], what);
    });
}

/// A bank of one style is instance normalization.
#[test]
fn a_bank_of_one_style_is_instance_norm() {
    everywhere(|context, order, what| {
        let (weight, bias) = (values(4, 3), values(4, 4));
        let instance = InstanceNorm2d::config(4).with_affine(Affine::Both).init(context).unwrap();
        let want = run(context, with(instance, &weight, &bias).as_ref(), &SHAPE, order);
        let mut layer = ConditionalInstanceNorm::config(1, 4).init(context).unwrap();
        let host = |values: &[f64]| data::host([1, 4], DType::F32, ORDERS[0], values).unwrap();
        layer.set_weight(&host(&weight)).unwrap();
        layer.set_bias(&host(&bias)).unwrap();
        let [x, dy] = [1, 2]
            .map(|seed| tensor(context, &SHAPE, order, &values(SHAPE.iter().product(), seed)));
        let (y, saved) = layer.forward_styles_saved(context, &x, &[0, 0, 0]).unwrap();
        let grads = layer.backward(context, &saved, &dy).unwrap();
        let [dweight, dbias] = [grads.dweight, grads.dbias].map(|g| read(&g.unwrap()).unwrap());
        same(&[logical(&y), logical(&grads.dx), dweight, dbias], &want, what);
    });
}

/// Blending with weights of 0 and 1 is picking, bit for bit; halves are the mean of the tables.
#[test]
fn one_hot_blending_is_picking() {
    everywhere(|context, order, what| {
        let mut layer = ConditionalInstanceNorm::config(3, 4).init(context).unwrap();
        layer.fill_weight(|i| 0.5 + i as f32 * 0.1).unwrap();
        layer.fill_bias(|i| i as f32 - 5.0).unwrap();
        let [x, dy] = [1, 2]
            .map(|seed| tensor(context, &SHAPE, order, &values(SHAPE.iter().product(), seed)));
        let weights_of = |dtype, rows: [[f64; 3]; 3]| {
            let order = MemoryOrder::ChannelsFirst;
            data::place(context, [3, 3], dtype, order, rows.as_flattened()).unwrap()
        };
        let weights = |rows| weights_of(DType::F32, rows);
        let refused = layer.forward_blend(context, &x, &weights_of(DType::F16, [[1.0; 3]; 3]));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("weights must be float32, got float16"), "{refused}");
        let one_hot = weights([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
        let (picked, saved) = layer.forward_styles_saved(context, &x, &[2, 0, 1]).unwrap();
        let (blended, saved_blend) = layer.forward_blend_saved(context, &x, &one_hot).unwrap();
        assert!(read(&picked).unwrap() == read(&blended).unwrap(), "{what}");
        let (weight, bias) = layer.style_tables(context, &one_hot).unwrap();
        let adain = AdaIn::config().init(context).unwrap();
        let tabled = adain.forward_tables(context, &x, &weight, &bias).unwrap();
        assert!(read(&picked).unwrap() == read(&tabled).unwrap(), "{what}: tables");
        let grads = [saved, saved_blend].map(|saved| {
            let grads = layer.backward(context, &saved, &dy).unwrap();
            [Some(grads.dx), grads.dweight, grads.dbias].map(|g| read(&g.unwrap()).unwrap())
        });
        assert!(grads[0] == grads[1], "{what}");
        let y = layer.forward_blend(context, &x, &weights([[0.5, 0.5, 0.0]; 3])).unwrap();
        let halves =
            [0, 1].map(|style| logical(&layer.forward_styles(context, &x, &[style; 3]).unwrap()));
        let mean: Vec<f64> = halves[0].iter().zip(&halves[1]).map(|(a, b)| (a + b) / 2.0).collect();
        let bound = tolerance::Bound { relative: 4.0 * tolerance::Y, stored: DType::F32 };
        bound.compare(&logical(&y), &mean, &mean).unwrap_or_else(|e| panic!("{what}: {e}"));
    });
}

/// The fused layer is the plain one with the same extras; `forward_add` is the same call.
#[test]
fn fused_batch_norm_is_batch_norm_with_an_epilogue() {
    everywhere(|context, order, what| {
        let (weight, bias) = (values(4, 3), values(4, 4));
        let mut fused = FusedBatchNorm2d::config(4).init(context).unwrap();
        let host = |values: &[f64]| data::host([4], DType::F32, ORDERS[0], values).unwrap();
        fused.set_weight(&host(&weight)).unwrap();
        fused.set_bias(&host(&bias)).unwrap();
        let batch = with(BatchNorm2d::config(4).init(context).unwrap(), &weight, &bias);
        let [x, addend] = [1, 8]
            .map(|seed| tensor(context, &SHAPE, order, &values(SHAPE.iter().product(), seed)));
        for addend in [None, Some(&addend)] {
            let got = fused.forward_add(context, &x, addend, Mode::Train).unwrap();
            let mut extras = Extras::new().with_activation(wgnorm::Activation::Relu);
            if let Some(addend) = addend {
                extras = extras.with_addend(addend);
            }
            let want = batch.forward_with(context, &x, &extras, Mode::Train).unwrap();
            assert!(read(&got).unwrap() == read(&want).unwrap(), "{what}");
        }
    });
}

/// A frozen parameter is applied and gets no gradient; the others' gradients are as without.
#[test]
fn frozen_parameters_are_applied() {
    everywhere(|context, order, what| {
        let (weight, bias) = (values(4, 3), values(4, 4));
        let results = [Affine::None, Affine::Weight, Affine::Bias, Affine::Both].map(|frozen| {
            let config = InstanceNorm2d::config(4).with_affine(Affine::Both).with_frozen(frozen);
            let layer = with(config.init(context).unwrap(), &weight, &bias);
            (frozen, run(context, layer.as_ref(), &SHAPE, order))
        });
        let trained = &results[0].1;
        for (frozen, result) in &results {
            let what = format!("{what} {frozen:?}");
            assert!(result[..2] == trained[..2], "{what}");
            let gradient = |frozen: bool, i: usize| if frozen { &[][..] } else { &trained[i][..] };
            assert_eq!(result[2], gradient(frozen.has_weight(), 2), "{what}");
            assert_eq!(result[3], gradient(frozen.has_bias(), 3), "{what}");
        }
    });
}

/// Each framework's layer, as its defaults are.
#[test]
fn presets() {
    let new = InstanceNormConfig::<2>::new(3);
    assert_eq!((new.eps, new.momentum), (1e-5, Momentum::Factor(0.1)));
    assert_eq!((new.affine, new.track_running_stats), (Affine::None, false));
    assert_eq!((new.estimator, new.one_value), (Estimator::Unbiased, OneValue::Error));
    assert_eq!(new.frozen, Affine::None);
    assert_eq!(InstanceNormConfig::torch(3), new);
    assert_eq!(InstanceNormConfig::oneflow(3), new.clone().with_one_value(OneValue::Bias));
    let lucid = new.clone().with_affine(Affine::Both).with_track_running_stats(true);
    let lucid = lucid.with_estimator(Estimator::Biased).with_one_value(OneValue::Bias);
    assert_eq!(InstanceNormConfig::lucid(3), lucid);
    // Center on, scale off: present, applied, frozen.
    let mxnet = new.with_affine(Affine::Both).with_frozen(Affine::Weight);
    assert_eq!(InstanceNormConfig::mxnet(3), mxnet.with_one_value(OneValue::Bias));

    let batch = BatchNormConfig::<1>::new(3);
    assert_eq!((batch.eps, batch.momentum), (1e-5, Momentum::Factor(0.1)));
    assert_eq!((batch.affine, batch.track_running_stats), (Affine::Both, true));
    assert_eq!(BatchNormConfig::torch(3), batch);
    assert_eq!(BatchNormConfig::oneflow(3), batch.clone().with_one_value(OneValue::Bias));
    let fused = FusedBatchNormConfig::<1>::oneflow(3);
    assert_eq!(fused, batch.with_one_value(OneValue::Bias).into());

    let group = GroupNorm::config(2, 6);
    assert_eq!((group.eps, group.affine), (1e-5, Affine::Both));
    let layer = LayerNorm::config([6]);
    assert_eq!((layer.eps, layer.affine), (1e-5, Affine::Both));
    let rms = RmsNorm::config([6]);
    assert_eq!((rms.eps, rms.affine), (None, Affine::Weight));
    let adain = AdaIn::config();
    assert_eq!((adain.eps, adain.style_estimator), (1e-5, Estimator::Biased));
}

/// MXNet's layer: both parameters are there and applied, one of them learns; one value gives beta.
#[test]
fn the_mxnet_preset_at_work() {
    for device in device::all() {
        let context = &device.context;
        for (center, scale) in [(true, false), (false, true), (false, false), (true, true)] {
            let config = InstanceNormAxisConfig::mxnet(2).with_center(center).with_scale(scale);
            let layer = with(config.init(context).unwrap(), &[2.0, 3.0], &[0.5, -1.0]);
            let run = |values: &[f64], shape: [usize; 3]| {
                let x = data::place(context, shape, DType::F32, ORDERS[0], values).unwrap();
                let (y, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
                let grads = layer.backward(context, &saved, &x).unwrap();
                assert_eq!((grads.dweight.is_some(), grads.dbias.is_some()), (scale, center));
                (read(&y).unwrap(), read(&grads.dx).unwrap())
            };
            let (y, _) = run(&[1.0, -1.0, 4.0, 2.0], [1, 2, 2]);
            let bound = tolerance::Bound { relative: 5e-5, stored: DType::F32 };
            let want = [2.5, -1.5, 2.0, -4.0];
            bound.compare(&y, &want, &want).unwrap_or_else(|e| panic!("{}: {e}", device.name));
            assert_eq!(run(&[7.0, 9.0], [1, 2, 1]), (vec![0.5, -1.0], vec![0.0, 0.0]));
        }
    }
}

/// The comparison can fail.
#[test]
fn a_difference_is_seen() {
    let context = &Context::host();
    let layer = with(InstanceNorm1d::config(4).init(context).unwrap(), &[], &[]);
    let right = run(context, layer.as_ref(), &[2, 4, 9], ORDERS[0]);
    same(&right, &right, "itself");
    for i in 0..2 {
        let mut wrong = right.clone();
        wrong[i][5] += 2e-5;
        let seen = std::panic::catch_unwind(|| same(&wrong, &right, "off"));
        assert!(seen.is_err(), "part {i}");
    }
}
