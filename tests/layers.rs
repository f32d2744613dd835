//! The layers as types: settings, constructors, what calls refuse, names, copies, text.

mod common;

use common::device;
use std::sync::{Arc, Mutex};
use wgnorm::*;

fn host() -> Context {
    Context::host()
}

/// So many small values that differ.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + 3) % 11) as f32 - 4.0).collect()
}

fn tensor(shape: &[usize]) -> Tensor<'static> {
    Tensor::from_vec(shape, values(shape.iter().product())).unwrap()
}

/// What a layer says to an input of this shape.
fn call(layer: &dyn NormLayer, shape: &[usize], mode: Mode) -> Result<Vec<f32>, Error> {
    layer.forward(&host(), &tensor(shape), mode)?.to_vec_blocking()
}

#[test]
fn settings_start_as_the_frameworks() {
    let torch = InstanceNorm2d::config(3);
    assert_eq!(torch, InstanceNormConfig::torch(3));
    assert_eq!((torch.eps, torch.momentum), (1e-5, Momentum::Factor(0.1)));
    assert_eq!((torch.affine, torch.track_running_stats), (Affine::None, false));
    assert_eq!(InstanceNormConfig::<2>::oneflow(3), torch.clone().with_one_value(OneValue::Bias));
    let lucid = InstanceNormConfig::<2>::lucid(3);
    assert_eq!((lucid.affine, lucid.track_running_stats), (Affine::Both, true));
    assert_eq!((lucid.estimator, lucid.one_value), (Estimator::Biased, OneValue::Bias));
    let mxnet = InstanceNormConfig::<2>::mxnet(3);
    assert_eq!((mxnet.affine, mxnet.frozen), (Affine::Both, Affine::Weight));

    let any = InstanceNorm::config(3);
    assert_eq!((any.axis, any.center, any.scale, any.eps), (1, true, false, 1e-5));
    assert_eq!(InstanceNormAxisConfig::mxnet(3), any.with_one_value(OneValue::Bias));

    let batch = BatchNorm2d::config(3);
    assert_eq!((batch.affine, batch.track_running_stats), (Affine::Both, true));
    assert_eq!(FusedBatchNormConfig::from(batch), FusedBatchNorm2d::config(3));
    assert_eq!(GroupNorm::config(2, 4).affine, Affine::Both);
    assert_eq!(LayerNorm::config([4]).affine, Affine::Both);
    let rms = RmsNorm::config([4]);
    assert_eq!((rms.affine, rms.eps), (Affine::Weight, None));
    assert_eq!(rms.with_eps(1e-6), RmsNorm::config([4]).with_eps(Some(1e-6)));
    assert_eq!(AdaIn::config().style_estimator, Estimator::Biased);
    assert_eq!(AdaIn::config(), AdaInConfig::default());
}

#[test]
fn impossible_settings_are_refused() {
    let context = host();
    let refused = |result: Result<(), Error>| match result {
        Err(Error::Config(refused)) => refused,
        other => panic!("{other:?}"),
    };
    macro_rules! refused {
        ($config:expr) => {
            refused($config.init(&context).map(drop))
        };
    }
    let zero = |layer| ConfigError::ZeroFeatures { layer };
    assert_eq!(refused!(InstanceNorm2d::config(0)), zero("InstanceNorm2d"));
    assert_eq!(refused!(InstanceNorm::config(0)), zero("InstanceNorm"));
    assert_eq!(refused!(BatchNorm3d::config(0)), zero("BatchNorm3d"));
    assert_eq!(refused!(FusedBatchNorm1d::config(0)), zero("FusedBatchNorm1d"));
    assert_eq!(refused!(GroupNorm::config(1, 0)), zero("GroupNorm"));
    assert_eq!(refused!(ConditionalInstanceNorm::config(2, 0)), zero("ConditionalInstanceNorm"));
    assert!(matches!(
        refused!(ConditionalInstanceNorm::config(0, 2)),
        ConfigError::ZeroStyles { .. }
    ));
    assert!(matches!(
        refused!(ConditionalInstanceNorm::config(1 << 20, 1 << 20)),
        ConfigError::TooManyFeatures { .. }
    ));
    let indivisible = |num_groups| {
        let (layer, num_channels) = ("GroupNorm", 6);
        ConfigError::Indivisible { layer, num_channels, num_groups }
    };
    for groups in [0, 4, 7] {
        assert_eq!(refused!(GroupNorm::config(groups, 6)), indivisible(groups));
    }
    assert_eq!(
        indivisible(4).to_string(),
        "GroupNorm: num_groups must be at least 1 and divide num_channels, got 4 groups of 6 channels"
    );
    for shape in [&[][..], &[0], &[3, 0]] {
        let got = Shape::from(shape);
        let is = |layer| ConfigError::NormalizedShape { layer, got: got.clone() };
        assert_eq!(refused!(LayerNorm::config(shape)), is("LayerNorm"));
        assert_eq!(refused!(RmsNorm::config(shape)), is("RmsNorm"));
    }
    assert!(matches!(
        refused!(LayerNorm::config([usize::MAX, 2])),
        ConfigError::TooManyFeatures { .. }
    ));
    assert!(matches!(
        refused!(InstanceNorm::config(1).with_axis(0)),
        ConfigError::BatchAxis { .. }
    ));
    for eps in [-1e-9, f64::NAN, f64::INFINITY] {
        let is = |refused| matches!(refused, ConfigError::Eps { .. });
        assert!(is(refused!(InstanceNorm1d::config(1).with_eps(eps))));
        assert!(is(refused!(InstanceNorm::config(1).with_eps(eps))));
        assert!(is(refused!(BatchNorm1d::config(1).with_eps(eps))));
        assert!(is(refused!(FusedBatchNorm1d::config(1).with_eps(eps))));
        assert!(is(refused!(GroupNorm::config(1, 1).with_eps(eps))));
        assert!(is(refused!(LayerNorm::config([1]).with_eps(eps))));
        assert!(is(refused!(RmsNorm::config([1]).with_eps(eps))));
        assert!(is(refused!(AdaIn::config().with_eps(eps))));
        assert!(is(refused!(ConditionalInstanceNorm::config(1, 1).with_eps(eps))));
    }
    let momentum = Momentum::Factor(1e300);
    let is = |refused| matches!(refused, ConfigError::Momentum { .. });
    assert!(is(refused!(InstanceNorm1d::config(1).with_momentum(momentum))));
    assert!(is(refused!(BatchNorm1d::config(1).with_momentum(momentum))));
    for init in [
        Init::Constant(f64::NAN),
        Init::Uniform { low: 1.0, high: 0.0, seed: 0 },
        Init::Normal { mean: 0.0, std: -1.0, seed: 0 },
    ] {
        let refused = refused!(GroupNorm::config(1, 1).with_weight_init(init));
        assert!(matches!(refused, ConfigError::Init { layer: "GroupNorm", .. }), "{refused}");
    }
}

/// Which numbers of axes each layer takes.
#[test]
fn ranks() {
    let context = host();
    let any = [InstanceNorm::config(2).init(&context).unwrap()];
    let layers: [(&dyn NormLayer, &[usize]); 9] = [
        (&InstanceNorm1d::config(2).init(&context).unwrap(), &[2, 3]),
        (&InstanceNorm2d::config(2).init(&context).unwrap(), &[3, 4]),
        (&InstanceNorm3d::config(2).init(&context).unwrap(), &[4, 5]),
        (&any[0], &[3, 4, 5, 6]),
        (&BatchNorm1d::config(2).init(&context).unwrap(), &[2, 3]),
        (&BatchNorm2d::config(2).init(&context).unwrap(), &[4]),
        (&FusedBatchNorm3d::config(2).init(&context).unwrap(), &[5]),
        (&GroupNorm::config(1, 2).init(&context).unwrap(), &[2, 3, 4, 5, 6]),
        (&LayerNorm::config([2]).init(&context).unwrap(), &[1, 2, 3, 4, 5, 6]),
    ];
    for (layer, accepted) in layers {
        for rank in 0..=6 {
            let got = call(layer, &vec![2; rank], Mode::Train);
            let name = layer.parameters().layer();
            match got {
                Ok(_) => assert!(accepted.contains(&rank), "{name} took {rank} axes"),
                Err(Error::Shape(ShapeError::Rank { .. } | ShapeError::Normalized { .. })) => {
                    assert!(!accepted.contains(&rank), "{name} refused {rank} axes");
                }
                Err(other) => panic!("{name}, {rank} axes: {other}"),
            }
        }
    }
}

#[test]
fn other_channels_are_refused_always() {
    let context = host();
    let wrong = |layer: &dyn NormLayer, shape: &[usize], axis| {
        let got = call(layer, shape, Mode::Train).unwrap_err();
        let layer = layer.parameters().layer();
        let (expected, got_channels) = (2, shape[axis]);
        let want = ShapeError::Channels { layer, axis, expected, got: got_channels };
        assert_eq!(got, want.into());
    };
    wrong(&InstanceNorm2d::config(2).init(&context).unwrap(), &[2, 3, 4, 4], 1);
    wrong(&InstanceNorm2d::config(2).init(&context).unwrap(), &[3, 4, 4], 0);
    wrong(&InstanceNorm::config(2).with_axis(-1).init(&context).unwrap(), &[2, 2, 2, 3], 3);
    let bare = BatchNorm1d::config(2).with_affine(Affine::None).with_track_running_stats(false);
    wrong(&bare.init(&context).unwrap(), &[4, 3], 1);
    wrong(&GroupNorm::config(2, 2).init(&context).unwrap(), &[1, 4, 4], 1);
    // An empty input as well.
    wrong(&BatchNorm1d::config(2).init(&context).unwrap(), &[0, 3, 4], 1);

    let norm = InstanceNorm::config(2).with_axis(-3).init(&context).unwrap();
    let refused = call(&norm, &[2, 2, 2], Mode::Train).unwrap_err();
    let is = |e: &Error| matches!(e, Error::Shape(ShapeError::Axis { axis: -3, .. }));
    assert!(is(&refused), "the batch's axis: {refused}");
    assert!(call(&norm, &[2, 2, 3, 4], Mode::Train).is_ok());
    let norm = LayerNorm::config([5]).init(&context).unwrap();
    let (layer, expected, got) = ("LayerNorm", [5].into(), [2, 4].into());
    let want = ShapeError::Normalized { layer, expected, got };
    assert_eq!(call(&norm, &[2, 4], Mode::Train).unwrap_err(), want.into());
}

#[test]
fn one_value_is_refused_where_pytorch_refuses() {
    use Mode::{Eval, Train};
    let context = host();
    let is_refused = |layer: &dyn NormLayer, shape: &[usize], mode| match call(layer, shape, mode) {
        Ok(_) => false,
        Err(Error::Shape(ShapeError::OneValue { .. })) => true,
        Err(other) => panic!("{other}"),
    };
    let instance = InstanceNorm1d::config(2).init(&context).unwrap();
    for mode in [Train, Eval] {
        assert!(is_refused(&instance, &[3, 2, 1], mode));
        assert!(is_refused(&instance, &[2, 1], mode));
        assert!(!is_refused(&instance, &[0, 2, 1], mode)); // empty
    }
    let tracking = InstanceNorm1d::config(2).with_track_running_stats(true);
    let tracking = tracking.init(&context).unwrap();
    assert!(is_refused(&tracking, &[3, 2, 1], Train));
    assert!(!is_refused(&tracking, &[3, 2, 1], Eval));
    assert!(is_refused(&InstanceNorm::config(2).init(&context).unwrap(), &[3, 2, 1], Train));
    let batch = BatchNorm1d::config(2).init(&context).unwrap();
    assert!(is_refused(&batch, &[1, 2], Train));
    assert!(is_refused(&batch, &[1, 2, 1], Train));
    assert!(!is_refused(&batch, &[1, 2], Eval));
    assert!(!is_refused(&batch, &[2, 2, 1], Train));
    let fused = FusedBatchNorm1d::config(2).init(&context).unwrap();
    assert!(is_refused(&fused, &[1, 2], Train));
    let group = GroupNorm::config(2, 2).init(&context).unwrap();
    assert!(is_refused(&group, &[1, 2, 1], Train));
    assert!(!is_refused(&group, &[2, 2, 1], Train));
    assert!(!is_refused(&GroupNorm::config(1, 2).init(&context).unwrap(), &[1, 2, 1], Train));
    assert!(!is_refused(&LayerNorm::config([1]).init(&context).unwrap(), &[1, 1], Train));
    assert!(!is_refused(&RmsNorm::config([1]).init(&context).unwrap(), &[1, 1], Train));

    // Where it is asked for, the bias.
    let mut norm = InstanceNormConfig::<1>::lucid(2).init(&context).unwrap();
    norm.fill_bias(|i| 5.0 + i as f32).unwrap();
    assert_eq!(call(&norm, &[1, 2, 1], Train).unwrap(), [5.0, 6.0]);
    assert_eq!(norm.running_var().unwrap().to_vec_blocking().unwrap(), [0.9; 2]);
    // Statistics from elsewhere are not of one value, whatever x is.
    let whole = instance.statistics(&context, &tensor(&[1, 2, 4]), None).unwrap();
    let tile = tensor(&[1, 2, 1]);
    let extras = Extras::new().with_statistics(&whole);
    assert!(instance.forward_with(&context, &tile, &extras, Eval).is_ok());
    assert!(instance.statistics(&context, &tile, None).is_ok());
}

#[test]
fn styles_must_fit() {
    let context = host();
    let norm = AdaIn::config().init(&context).unwrap();
    let x = tensor(&[2, 3, 4, 5]);
    let refused = |style: Tensor<'_>| norm.forward_style(&context, &x, &style).unwrap_err();
    for shape in [&[2, 4, 3][..], &[3, 3, 3], &[0, 3, 3]] {
        let got = refused(tensor(shape));
        assert!(matches!(got, Error::Shape(ShapeError::Operand { operand: "style", .. })), "{got}");
    }
    let half = tensor(&[2, 3, 6]).cast(DType::F16).unwrap();
    assert!(matches!(refused(half), Error::Shape(ShapeError::DType { operand: "style", .. })));
    let last = tensor(&[2, 3, 6]).with_order(MemoryOrder::ChannelsLast);
    assert!(matches!(refused(last), Error::Shape(ShapeError::Order { operand: "style", .. })));
    assert!(matches!(refused(tensor(&[3])), Error::Shape(ShapeError::Rank { .. })));
    let few = |needed, got: &[usize]| {
        let (layer, operand, got) = ("AdaIn", "style", got.into());
        Error::from(ShapeError::FewValues { layer, operand, needed, got })
    };
    assert_eq!(refused(tensor(&[2, 3, 0])), few(1, &[2, 3, 0]));
    for shape in [&[2, 3, 1][..], &[1, 3, 7, 2], &[2, 3, 9]] {
        assert!(norm.forward_style(&context, &x, &tensor(shape)).is_ok());
    }
    let unbiased = AdaIn::config().with_style_estimator(Estimator::Unbiased);
    let unbiased = unbiased.init(&context).unwrap();
    let got = unbiased.forward_style(&context, &x, &tensor(&[1, 3, 1])).unwrap_err();
    assert_eq!(got, few(2, &[1, 3, 1]));
    let point = tensor(&[2, 3, 1]);
    let got = norm.forward_style(&context, &point, &x).unwrap_err();
    assert!(matches!(got, Error::Shape(ShapeError::OneValue { .. })), "{got}");

    let table = tensor(&[2, 3]);
    let got = norm.forward_tables(&context, &x, &table, &tensor(&[1, 3])).unwrap_err();
    assert!(matches!(got, Error::Shape(ShapeError::Operand { operand: "bias", .. })), "{got}");
    let double = table.cast(DType::F64).unwrap();
    let got = norm.forward_tables(&context, &x, &double, &table).unwrap_err();
    assert!(matches!(got, Error::Shape(ShapeError::DType { operand: "weight", .. })), "{got}");
}

/// A style's tables are what its own forward pass uses, and one row serves all samples.
#[test]
fn styles_are_tables() {
    let context = host();
    let norm = AdaIn::config().init(&context).unwrap();
    let (x, style) = (tensor(&[2, 3, 4, 5]), tensor(&[1, 3, 7]));
    let (weight, bias) = norm.style_tables(&context, &style).unwrap();
    assert_eq!((weight.shape(), bias.dtype()), (&[1, 3].into(), DType::F32));
    let y = norm.forward_style(&context, &x, &style).unwrap().to_vec_blocking().unwrap();
    let tables = norm.forward_tables(&context, &x, &weight, &bias).unwrap();
    assert_eq!(y, tables.to_vec_blocking().unwrap());
    let twice = |t: &Tensor<'_>| {
        let row = t.to_vec_blocking().unwrap();
        Tensor::from_vec([2, 3], [row.clone(), row].concat()).unwrap()
    };
    let (weights, biases) = (twice(&weight), twice(&bias));
    let (z, each) = norm.forward_tables_saved(&context, &x, &weights, &biases).unwrap();
    assert_eq!(y, z.to_vec_blocking().unwrap());
    // The gradient of the one row is the sum over the samples.
    let (_, one) = norm.forward_tables_saved(&context, &x, &weight, &bias).unwrap();
    let dy = tensor(&[2, 3, 4, 5]);
    let each = norm.backward_tables(&context, &each, &dy).unwrap();
    let one = norm.backward_tables(&context, &one, &dy).unwrap();
    for (one, each) in [(one.dweight, each.dweight), (one.dbias, each.dbias)] {
        let [one, each] = [one, each].map(|grad| grad.unwrap().to_vec_blocking().unwrap());
        for (c, one) in one.iter().enumerate() {
            assert!((one - each[c] - each[3 + c]).abs() < 1e-4);
        }
    }
}

#[test]
fn banks_of_styles() {
    let context = host();
    let mut norm = ConditionalInstanceNorm::config(3, 2).init(&context).unwrap();
    norm.fill_weight(|i| i as f32).unwrap();
    let x = tensor(&[2, 2, 6]);
    let forward = |styles: &[usize]| norm.forward_styles(&context, &x, styles);
    let (layer, got, limit) = ("ConditionalInstanceNorm", 3, 3);
    assert_eq!(forward(&[0, 3]).unwrap_err(), ShapeError::Style { layer, got, limit }.into());
    for styles in [&[][..], &[0, 0, 0]] {
        let got = forward(styles).unwrap_err();
        assert!(matches!(got, Error::Shape(ShapeError::Operand { operand: "weights", .. })));
    }
    let (y, saved) = norm.forward_styles_saved(&context, &x, &[2, 0]).unwrap();
    assert_eq!(y.to_vec_blocking().unwrap(), forward(&[2, 0]).unwrap().to_vec_blocking().unwrap());
    let grads = norm.backward(&context, &saved, &tensor(&[2, 2, 6])).unwrap();
    let dbias = grads.dbias.unwrap();
    assert_eq!(*dbias.shape(), [3, 2].into());
    // The second sample's go to the first style, the first sample's to the last; nobody has the other.
    let dy = values(24);
    let sum = |from: usize| dy[from..from + 6].iter().sum::<f32>();
    let want = [sum(12), sum(18), 0.0, 0.0, sum(0), sum(6)];
    assert_eq!(dbias.to_vec_blocking().unwrap(), want);
    assert!(grads.dweight.is_some());

    let frozen = ConditionalInstanceNorm::config(3, 2).with_frozen(Affine::Weight);
    let frozen = frozen.init(&context).unwrap();
    let (_, saved) = frozen.forward_styles_saved(&context, &x, &[1, 1]).unwrap();
    let grads = frozen.backward(&context, &saved, &tensor(&[2, 2, 6])).unwrap();
    assert!(grads.dweight.is_none() && grads.dbias.is_some());
}

#[test]
fn frozen_parameters_are_applied_and_get_no_gradient() {
    let context = host();
    let grads = |config: InstanceNormAxisConfig| {
        let mut norm = config.init(&context).unwrap();
        norm.fill_weight(|_| 3.0).unwrap();
        norm.fill_bias(|_| 1.0).unwrap();
        let x = Tensor::from_slice([1, 1, 2], &[1.0, 3.0]).unwrap();
        let (y, saved) = norm.forward_saved(&context, &x, Mode::Train).unwrap();
        assert!((y.to_vec_blocking().unwrap()[1] - 4.0).abs() < 1e-3);
        let grads = norm.backward(&context, &saved, &x).unwrap();
        (grads.dweight.is_some(), grads.dbias.is_some())
    };
    let config = InstanceNorm::config(1);
    assert_eq!(grads(config.clone()), (false, true));
    assert_eq!(grads(config.clone().with_scale(true)), (true, true));
    assert_eq!(grads(config.with_center(false)), (false, false));
}

#[test]
fn parameters_start_as_told() {
    let context = host();
    let init = |init| {
        let config = LayerNorm::config([40, 50]).with_weight_init(init);
        config.init(&context).unwrap().weight().unwrap().to_vec_blocking().unwrap()
    };
    assert_eq!(init(Init::Zeros), [0.0; 2000]);
    assert_eq!(init(Init::Constant(0.5)), [0.5; 2000]);
    let uniform = |seed| init(Init::Uniform { low: -1.0, high: 3.0, seed });
    let normal = |seed| init(Init::Normal { mean: 2.0, std: 0.5, seed });
    for draw in [&uniform as &dyn Fn(u64) -> Vec<f32>, &normal] {
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
    let moments = |values: &[f32]| {
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt())
    };
    let flat = uniform(1);
    assert!(flat.iter().all(|v| (-1.0..=3.0).contains(v)));
    let (mean, deviation) = moments(&flat);
    assert!((mean - 1.0).abs() < 0.1 && (deviation - 4.0 / 12f32.sqrt()).abs() < 0.05);
    let (mean, deviation) = moments(&normal(1));
    assert!((mean - 2.0).abs() < 0.05 && (deviation - 0.5).abs() < 0.03);

    let mut norm = BatchNorm1d::config(3)
        .with_weight_init(Init::Constant(2.0))
        .with_bias_init(Init::Ones)
        .init(&context)
        .unwrap();
    norm.fill_weight(|i| i as f32).unwrap();
    call(&norm, &[4, 3], Mode::Train).unwrap();
    norm.reset_parameters().unwrap();
    let read = |t: Option<&Tensor<'_>>| t.unwrap().to_vec_blocking().unwrap();
    assert_eq!((read(norm.weight()), read(norm.bias())), (vec![2.0; 3], vec![1.0; 3]));
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [0.0; 3]);
    assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 0);
}

#[test]
fn values_by_name() {
    let context = host();
    let mut norm = BatchNorm1d::config(2).init(&context).unwrap();
    assert_eq!(norm.named_parameters().map(|p| p.0).collect::<Vec<_>>(), ["weight", "bias"]);
    let buffers: Vec<_> = norm.named_buffers().map(|b| b.0).collect();
    assert_eq!(buffers, ["running_mean", "running_var"]);
    for (name, mut parameter) in norm.named_parameters_mut() {
        assert_eq!(*parameter.tensor().shape(), [2].into());
        let wrong = parameter.set(&tensor(&[3])).unwrap_err();
        assert!(matches!(wrong, Error::State(StateError::Shape { name: n, .. }) if n == name));
        parameter.fill(|i| i as f32).unwrap();
    }
    for (part, (name, mut buffer)) in norm.named_buffers_mut().enumerate() {
        let wrong = buffer.set(&tensor(&[2, 1])).unwrap_err();
        assert!(matches!(wrong, Error::State(StateError::Shape { name: n, .. }) if n == name));
        let value = 4.0 + part as f32;
        buffer.set(&Tensor::from_vec([2], vec![value; 2]).unwrap()).unwrap();
    }
    for (_, parameter) in norm.named_parameters() {
        assert_eq!(parameter.to_vec_blocking().unwrap(), [0.0, 1.0]);
    }
    assert_eq!(norm.running_mean().unwrap().to_vec_blocking().unwrap(), [4.0; 2]);
    assert_eq!(norm.running_var().unwrap().to_vec_blocking().unwrap(), [5.0; 2]);
    // weight and bias in f32, running statistics in f64, the count.
    assert_eq!(norm.memory_usage(), 2 * 2 * 4 + 2 * 2 * 8 + 4);

    let mut bare = InstanceNorm1d::config(2).init(&context).unwrap();
    assert_eq!((bare.named_parameters().count(), bare.named_buffers().count()), (0, 0));
    assert_eq!(bare.named_parameters_mut().count() + bare.named_buffers_mut().count(), 0);
    assert_eq!(bare.memory_usage(), 0);
    // Parameters of three axes lie in their order.
    let mut norm = LayerNorm::config([2, 3, 4]).init(&context).unwrap();
    let last = tensor(&[2, 3, 4]).with_order(MemoryOrder::ChannelsLast);
    let refused = norm.set_weight(&last).unwrap_err();
    assert!(matches!(refused, Error::Shape(ShapeError::Order { operand: "weight", .. })));
}

#[test]
fn copies_in_another_type() {
    let context = host();
    let third = Tensor::from_vec_of([2], vec![1.0 / 3.0f64; 2]).unwrap();
    let mut single = BatchNorm1d::config(2).init(&context).unwrap();
    single.set_weight(&third).unwrap();
    assert_eq!(single.weight().unwrap().as_slice().unwrap(), [1.0f32 / 3.0; 2]);
    single.set_running_stats(&[0.1, 0.2], &[0.3, 0.4], 7).unwrap();
    let half = single.cast_blocking(DType::F16).unwrap();
    assert_eq!((single.dtype(), half.dtype()), (DType::F32, DType::F16));
    assert_eq!(half.weight().unwrap().as_slice_of::<f16>().unwrap(), [f16::from_f32(1.0 / 3.0); 2]);
    let mean = half.running_mean().unwrap().to_vec_blocking().unwrap();
    assert_eq!(mean, [0.1, 0.2].map(|v| f16::from_f32(v).to_f32()));
    assert_eq!(half.num_batches_tracked_blocking().unwrap(), 7);
    assert_eq!(half.settings(), single.settings());

    let x = tensor(&[4, 2]).cast(DType::F64).unwrap();
    let refused = single.forward(&context, &x, Mode::Eval).unwrap_err();
    assert!(matches!(refused, Error::Shape(ShapeError::DType { operand: "weight", .. })));
    let mut double = pollster::block_on(single.cast(DType::F64)).unwrap();
    double.set_weight(&third).unwrap();
    assert_eq!(double.weight().unwrap().as_slice_of::<f64>().unwrap(), [1.0f64 / 3.0; 2]);
    assert_eq!(double.forward(&context, &x, Mode::Train).unwrap().dtype(), DType::F64);

    // A copy on another context is another layer.
    let copy = double.to_context_blocking(&Context::host()).unwrap();
    copy.forward(&context, &x, Mode::Train).unwrap();
    assert_eq!(copy.num_batches_tracked_blocking().unwrap(), 9);
    assert_eq!(double.num_batches_tracked_blocking().unwrap(), 8);
    assert_eq!(copy.dtype(), DType::F64);
}

#[test]
fn observers_see_inputs_and_outputs() {
    let context = host();
    let mut norm = GroupNorm::config(1, 2).init(&context).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    norm.set_observer(move |x, y| {
        let y = y.to_vec_blocking().unwrap();
        log.lock().unwrap().push((x.to_vec_blocking().unwrap(), y));
    });
    let x = tensor(&[1, 2, 3]);
    let y = norm.forward(&context, &x, Mode::Train).unwrap();
    let copy = norm.cast_blocking(DType::F16).unwrap();
    copy.forward_saved(&context, &x, Mode::Train).unwrap();
    let pair = (x.to_vec_blocking().unwrap(), y.to_vec_blocking().unwrap());
    assert_eq!(*seen.lock().unwrap(), [pair.clone(), pair]);
    norm.clear_observer();
    norm.forward(&context, &x, Mode::Train).unwrap();
    assert!(norm.forward(&context, &tensor(&[1, 3, 3]), Mode::Train).is_err());
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[test]
fn the_first_input_tells_a_lazy_layer_its_channels() {
    let context = host();
    let lazy =
        LazyInstanceNorm2d::new(InstanceNorm2d::config(0).with_affine(Affine::Both), &context)
            .unwrap();
    let uninitialized = StateError::Uninitialized { layer: "InstanceNorm2d" };
    assert_eq!(lazy.layer().err(), Some(uninitialized));
    let forward = |shape: &[usize]| lazy.forward(&context, &tensor(shape), Mode::Train);
    assert!(matches!(forward(&[2, 3]), Err(Error::Shape(ShapeError::Rank { .. }))));
    assert!(matches!(forward(&[2, 0, 4, 4]), Err(Error::Config(ConfigError::ZeroFeatures { .. }))));
    assert!(lazy.layer().is_err());
    forward(&[2, 3, 4, 4]).unwrap();
    assert_eq!(lazy.layer().unwrap().settings().num_features, 3);
    assert_eq!(*lazy.layer().unwrap().weight().unwrap().shape(), [3].into());
    let other = forward(&[2, 4, 4, 4]).unwrap_err();
    assert!(matches!(other, Error::Shape(ShapeError::Channels { expected: 3, got: 4, .. })));
    assert!(lazy.to_string().starts_with("InstanceNorm2d(3, "));

    let config = InstanceNorm::config(0).with_axis(-2);
    let lazy = LazyInstanceNorm::new(config, &context).unwrap();
    let (_, saved) = lazy.forward_saved(&context, &tensor(&[2, 3, 4, 5]), Mode::Train).unwrap();
    let layer = lazy.layer().unwrap();
    assert_eq!(layer.settings().num_features, 4);
    assert!(layer.backward(&context, &saved, &tensor(&[2, 3, 4, 5])).is_ok());

    // Settings are checked before there is an input; channels that are known are no secret.
    assert!(LazyBatchNorm1d::new(BatchNorm1d::config(0).with_eps(-1.0), &context).is_err());
    let known = LazyFusedBatchNorm1d::new(FusedBatchNorm1d::config(2), &context).unwrap();
    assert_eq!(known.layer().unwrap().settings().num_features, 2);
}

/// Of concurrent first calls one wins; those with its channels succeed, all others fail.
#[test]
fn lazy_layers_are_fixed_once() {
    let context = host();
    for _ in 0..50 {
        let lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), &context).unwrap();
        let fitted: Vec<usize> = std::thread::scope(|scope| {
            let calls = [2, 3, 2, 3].map(|c| {
                let (lazy, context) = (&lazy, &context);
                scope.spawn(move || {
                    let y = lazy.forward(context, &tensor(&[4, c]), Mode::Train);
                    y.is_ok().then_some(c)
                })
            });
            calls.into_iter().filter_map(|call| call.join().unwrap()).collect()
        });
        let layer = lazy.layer().unwrap();
        assert_eq!(fitted, [layer.settings().num_features; 2]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 2);
    }
}

#[test]
fn a_refused_call_leaves_a_lazy_layer_open() {
    for device in device::all() {
        let context = &device.context;
        let lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), context).unwrap();
        let here = |shape: &[usize]| tensor(shape).to_context(context).unwrap();
        let one_value = lazy.forward(context, &here(&[1, 5]), Mode::Train).unwrap_err();
        assert!(matches!(one_value, Error::Shape(ShapeError::OneValue { .. })), "{one_value}");
        let addend = here(&[4, 6]);
        let extras = Extras::new().with_addend(&addend);
        assert!(lazy.forward_with(context, &here(&[4, 5]), &extras, Mode::Train).is_err());
        if context.backend() == Backend::Gpu {
            let elsewhere = lazy.forward(context, &tensor(&[4, 5]), Mode::Train).unwrap_err();
            assert!(matches!(elsewhere, Error::Operand(_)), "{elsewhere}");
        }
        assert!(lazy.layer().is_err());
        lazy.forward(context, &here(&[4, 3]), Mode::Train).unwrap();
        assert_eq!(lazy.layer().unwrap().settings().num_features, 3);
    }
}

#[test]
fn a_state_tells_a_lazy_layer_its_channels() {
    let context = host();
    let trained = BatchNorm1d::config(3).init(&context).unwrap();
    let state = trained.state_dict_blocking().unwrap();
    let mut lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), &context).unwrap();
    let missing = lazy.load_state_dict(&StateDict::new(), &LoadOptions::strict()).unwrap_err();
    let Error::State(StateError::Load { report, .. }) = missing else { panic!("{missing}") };
    // A file without a version need not have the count, as in PyTorch.
    let all = ["weight", "bias", "running_mean", "running_var"];
    assert_eq!(report.missing, all);
    let report = lazy.load_state_dict(&StateDict::new(), &LoadOptions::strict().lenient());
    assert_eq!(report.unwrap().missing, all);
    assert!(lazy.layer().is_err());
    assert!(lazy.load_state_dict(&state, &LoadOptions::strict()).unwrap().is_complete());
    assert_eq!(lazy.layer().unwrap().settings().num_features, 3);
    let other = BatchNorm1d::config(4).init(&context).unwrap().state_dict_blocking().unwrap();
    assert!(lazy.load_state_dict(&other, &LoadOptions::strict()).is_err());
    lazy.layer_mut().unwrap().fill_weight(|_| 0.0).unwrap();
}

#[test]
fn rms_epsilon_is_that_of_the_arithmetic() {
    let norm = RmsNorm::config([2]).init(&host()).unwrap();
    let eps = |dtype| {
        let x = TensorDesc::new([3, 2]).unwrap().with_dtype(dtype);
        norm.problem(&x, Mode::Eval).unwrap().eps
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert_eq!(eps(dtype), 1.1920928955078125e-07);
    }
    assert_eq!(eps(DType::F64), 2.220446049250313e-16);
}

#[test]
fn masks_need_positions_in_their_order() {
    let context = host();
    let mask = |shape: &[usize]| {
        let values = vec![1; shape.iter().product()];
        Extras::new().with_mask(&Mask::from_slice(shape, &values).unwrap())
    };
    let refused = |layer: &dyn NormLayer, x: &Tensor<'_>, extras: &Extras<'static>| {
        let got = layer.forward_with(&context, &x.clone().into_owned(), extras, Mode::Eval);
        matches!(got, Err(Error::Shape(ShapeError::NoMask { .. })))
    };
    let x = tensor(&[2, 3, 4]);
    let last = x.clone().with_order(MemoryOrder::ChannelsLast);
    assert!(refused(&LayerNorm::config([4]).init(&context).unwrap(), &x, &mask(&[2, 3])));
    let any = InstanceNorm::config(4).with_axis(2).init(&context).unwrap();
    assert!(!refused(&any, &x, &mask(&[2, 3])));
    assert!(refused(&any, &last, &mask(&[2, 3])));
    let first = InstanceNorm::config(3).init(&context).unwrap();
    assert!(!refused(&first, &last, &mask(&[2, 4])));
}

/// Layers are shared between threads, and their futures sent there.
#[test]
fn layers_are_send_and_sync() {
    fn shared<T: Send + Sync>(value: T) -> T {
        value
    }
    fn sent<T: Send>(_: T) {}
    let context = host();
    let norm = shared(InstanceNorm2d::config(1).init(&context).unwrap());
    sent(norm.state_dict());
    sent(norm.cast(DType::F16));
    sent(norm.to_context(&context));
    sent(norm.num_batches_tracked());
    shared(LazyInstanceNorm3d::new(InstanceNorm3d::config(0), &context).unwrap());
    shared(ConditionalInstanceNorm::config(1, 1).init(&context).unwrap());
    shared(AdaIn::config().init(&context).unwrap());
}

/// Kernels read f32 parameters; a checkpoint gets the layer's type.
#[cfg(feature = "gpu")]
#[test]
fn parameters_on_a_gpu() {
    let third = Tensor::from_vec_of([2], vec![1.0 / 3.0f64; 2]).unwrap();
    let read = |t: &Tensor<'_>| t.to_vec_blocking().unwrap();
    for device in device::all().into_iter().filter(|d| d.context.backend() == Backend::Gpu) {
        let context = &device.context;
        let mut norm = BatchNorm1d::config(2).init(context).unwrap();
        norm.set_weight(&third).unwrap();
        assert_eq!(read(norm.weight().unwrap()), [1.0 / 3.0; 2]);
        let half = third.cast(DType::F16).unwrap();
        norm.set_bias(&half).unwrap();
        let rounded = f16::from_f64(1.0 / 3.0).to_f32();
        assert_eq!(read(norm.bias().unwrap()), [rounded; 2]);
        let refused = norm.set_bias(&half.to_context(context).unwrap()).unwrap_err();
        assert!(matches!(refused, Error::Shape(ShapeError::DType { operand: "bias", .. })));
        for (part, (_, mut buffer)) in norm.named_buffers_mut().enumerate() {
            buffer.set(&Tensor::from_vec([2], vec![0.1 + part as f32; 2]).unwrap()).unwrap();
        }
        assert_eq!(read(&norm.running_mean().unwrap()), [0.1; 2]);
        assert_eq!(read(&norm.running_var().unwrap()), [1.1; 2]);
        assert_eq!(norm.memory_usage(), 2 * 2 * 4 + 2 * 2 * 4 + 4);

        let refused = norm.cast_blocking(DType::F64).err().unwrap();
        assert!(matches!(refused, Error::Operand(OperandError::NoF64 { .. })), "{refused}");
        let half = norm.cast_blocking(DType::F16).unwrap();
        assert_eq!((half.dtype(), half.weight().unwrap().dtype()), (DType::F16, DType::F32));
        assert_eq!(read(half.weight().unwrap()), [rounded; 2]);
        let there = half.to_context_blocking(&host()).unwrap();
        assert_eq!(there.weight().unwrap().dtype(), DType::F16);
        assert_eq!(read(&there.running_mean().unwrap()), [f16::from_f32(0.1).to_f32(); 2]);
        let back = there.to_context_blocking(context).unwrap();
        assert_eq!(read(back.weight().unwrap()), [rounded; 2]);
        let double = there.cast_blocking(DType::F64).unwrap();
        let refused = double.to_context_blocking(context).err().unwrap();
        assert!(matches!(refused, Error::Operand(OperandError::NoF64 { .. })), "{refused}");
    }
}

#[cfg(feature = "gpu")]
#[test]
fn tables_are_recorded() {
    for device in device::all().into_iter().filter(|d| d.context.backend() == Backend::Gpu) {
        let context = &device.context;
        let norm = AdaIn::config().init(context).unwrap();
        let x = tensor(&[2, 3, 4, 5]).to_context(context).unwrap();
        let [weight, bias] = [[2, 3]; 2].map(|s| tensor(&s).to_context(context).unwrap());
        let y = Tensor::zeros(context, [2, 3, 4, 5]).unwrap();
        let mut encoder = context.device().unwrap().create_command_encoder(&Default::default());
        let extras = Extras::new().with_activation(Activation::Relu);
        norm.record_tables(context, &mut encoder, &x, [&weight, &bias], &y, &extras).unwrap();
        context.queue().unwrap().submit([encoder.finish()]);
        let want = norm.forward_tables_with(context, &x, &weight, &bias, &extras).unwrap();
        assert_eq!(y.to_vec_blocking().unwrap(), want.to_vec_blocking().unwrap());
        let norm = AdaIn::config().init(&host()).unwrap();
        let [x, weight, bias] = [tensor(&[2, 3, 4, 5]), tensor(&[2, 3]), tensor(&[2, 3])];
        let there = norm.forward_tables_with(&host(), &x, &weight, &bias, &extras).unwrap();
        for (got, want) in y.to_vec_blocking().unwrap().iter().zip(there.as_slice().unwrap()) {
            assert!((got - want).abs() < 1e-4);
        }
    }
}

#[cfg(feature = "serde")]
#[test]
fn settings_are_data() {
    fn round_trip<T>(config: T) -> String
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<T>(&text).unwrap(), config);
        text
    }
    let uniform = Init::Uniform { low: -1.0, high: 1.0, seed: 7 };
    round_trip(
        InstanceNorm2d::config(3)
            .with_momentum(Momentum::Cumulative)
            .with_affine(Affine::Both)
            .with_frozen(Affine::Bias)
            .with_weight_init(uniform),
    );
    round_trip(InstanceNormAxisConfig::mxnet(3).with_axis(-1));
    round_trip(GroupNorm::config(2, 4).with_one_value(OneValue::Bias));
    round_trip(RmsNorm::config([4]).with_eps(1e-6));
    round_trip(AdaIn::config().with_style_estimator(Estimator::Unbiased));
    round_trip(ConditionalInstanceNorm::config(2, 3));
    let text = round_trip(LayerNorm::config([3, 5]).with_affine(Affine::Weight));
    assert!(text.starts_with(r#"{"normalized_shape":[3,5],"eps":0.00001,"#), "{text}");
    // A fused layer's settings are a BatchNorm's.
    let batch = BatchNorm2d::config(3).with_eps(0.5);
    assert_eq!(round_trip(FusedBatchNormConfig::from(batch.clone())), round_trip(batch));
    assert_eq!(serde_json::to_string(&Names::Mxnet).unwrap(), r#""Mxnet""#);
}
