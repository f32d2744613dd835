//! Public bug reports of other projects, each as it was reported, on the host and on every GPU found. `README.md` has what
//! each report says. Expected values come from PyTorch's documentation, from the oracle, or from arithmetic by hand.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod large;

use common::data::{self, Layout, read};
use common::oracle::{Kind, Norm, Source};
use common::tolerance::{self, Bound};
use common::{device, random};
use wgnorm::{
    Activation, Affine, BatchNorm1d, Context, DType, Extras, GroupNorm, InstanceNorm1d, LayerNorm,
    MemoryOrder, Mode, NormLayer, RmsNorm, Tensor,
};

const FIRST: MemoryOrder = MemoryOrder::ChannelsFirst;
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn place(context: &Context, shape: &[usize], dtype: DType, values: &[f64]) -> Tensor<'static> {
    data::place(context, shape, dtype, FIRST, values).unwrap()
}

fn gauss(dtype: DType, len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f64> {
    data::rounded(dtype, &random::gauss4_f64(len, seed, scale, offset))
}

/// y and every gradient of a layer in training against the oracle. `norm` has the layer's parameters.
#[track_caller]
fn agrees(context: &Context, layer: &dyn NormLayer, norm: &Norm<'_>, x: &Tensor<'_>, what: &str) {
    let (shape, dtype, order) = (x.shape().to_vec(), x.dtype(), x.order());
    let layout = match *shape.as_slice() {
        [n, c, ref space @ ..] => Layout::of([n, c, space.iter().product()], order),
        _ => panic!("{shape:?} has no channels"),
    };
    let logical = |tensor: &Tensor<'_>| layout.to_logical(&read(tensor).unwrap());
    let x_values = logical(x);
    let dy_values = gauss(dtype, x_values.len(), 77, 1.0, 0.2);
    let dy = data::place(context, shape, dtype, order, &layout.to_memory(&dy_values)).unwrap();
    let (y, saved) = layer.forward_saved(context, x, Mode::Train).unwrap();
    let grads = layer.backward(context, &saved, &dy).unwrap();
    let (forward, backward) = (norm.forward(&x_values), norm.backward(&x_values, &dy_values));
    let close = |name, tolerance, stored, got: &[f64], want: &[f64], scale: &[f64]| {
        let bound = Bound::new(tolerance, dtype, stored);
        bound.compare(got, want, scale).unwrap_or_else(|e| panic!("{what} {dtype}: {name}{e}"));
    };
    close("y", tolerance::Y, dtype, &logical(&y), &forward.y, &forward.scale);
    close("dx", tolerance::DX, dtype, &logical(&grads.dx), &backward.dx, &backward.dx_scale);
    let params = [
        ("dweight", grads.dweight, norm.weight, &backward.dweight, &backward.dweight_scale),
        ("dbias", grads.dbias, norm.bias, &backward.dbias, &backward.dbias_scale),
    ];
    for (name, got, param, want, scale) in params {
        assert_eq!(got.is_some(), param.is_some(), "{what}: {name}");
        if let Some(got) = got {
            close(name, tolerance::DPARAM, DType::F32, &read(&got).unwrap(), want, scale);
        }
    }
}

/// Whether two values are the same number, one NaN as good as another.
fn same(got: f64, want: f64) -> bool {
    got == want || (got.is_nan() && want.is_nan())
}

/// pytorch 187293, 185770: GELU of NaN, ±infinity and what is near 0. A constant row is normalized to 0 exactly, so the
/// addend alone reaches the activation.
#[test]
fn gelu_of_infinity_is_infinity() {
    let before = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.026216749101877213,
        0.11177391558885574,
        -0.04212268441915512,
    ];
    // As the reports list them for the exact GELU; −∞ · 0 is NaN, there and here.
    let after = [
        f64::NAN,
        f64::INFINITY,
        f64::NAN,
        -0.01283420529216528,
        0.06086074933409691,
        -0.02035370096564293,
    ];
    for device in device::all() {
        let context = &device.context;
        let layer = LayerNorm::config([6]).init(context).unwrap();
        let x = place(context, &[1, 6], DType::F32, &[2.5; 6]);
        let addend = place(context, &[1, 6], DType::F32, &before);
        for activation in [Activation::Gelu, Activation::GeluTanh] {
            let extras = Extras::new().with_addend(&addend).with_activation(activation);
            let y = read(&layer.forward_with(context, &x, &extras, Mode::Eval).unwrap()).unwrap();
            // The approximation by tanh is off by this much at most where these values are.
            let near = if activation == Activation::Gelu { 1e-7 } else { 1e-5 };
            for (i, (&got, want)) in y.iter().zip(after).enumerate() {
                let right = same(got, want) || (got - want).abs() < near;
                assert!(
                    right,
                    "{} {activation:?} of {}: {got}, not {want}",
                    device.name, before[i]
                );
            }
        }
    }
}

/// The same reports' kind: what attention masks add (the least finite number of each type), and its gradient.
#[test]
fn gelu_of_the_least_number_is_zero() {
    let (min, max) = (f64::from(f32::MIN), f64::from(f32::MAX));
    let cases = [(min, 0.0, 0.0), (-1e37, 0.0, 0.0), (-1e33, 0.0, 0.0), (-65504.0, 0.0, 0.0)];
    let cases = cases.into_iter().chain([(max, max, 1.0), (65504.0, 65504.0, 1.0)]);
    for device in device::all() {
        let context = &device.context;
        let layer = LayerNorm::config([4]).init(context).unwrap();
        let x = place(context, &[1, 4], DType::F32, &[1.0, 2.0, 3.0, 4.0]);
        let dy = place(context, &[1, 4], DType::F32, &[1.0; 4]);
        for (masked, y_want, slope) in cases.clone() {
            let addend = place(context, &[1, 4], DType::F32, &[0.0, masked, 0.0, masked]);
            for activation in [Activation::Gelu, Activation::GeluTanh] {
                let extras = Extras::new().with_addend(&addend).with_activation(activation);
                let (y, saved) =
                    layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
                let grads = layer.backward(context, &saved, &dy).unwrap();
                let what = format!("{} {activation:?} at {masked:e}", device.name);
                let [y, daddend, dx] =
                    [&y, &grads.daddend.unwrap(), &grads.dx].map(|t| read(t).unwrap());
                for i in [1, 3] {
                    let near = (y[i] - y_want).abs() <= 2.0;
                    assert!(near && daddend[i] == slope, "{what}: {}, {}", y[i], daddend[i]);
                }
                assert!(dx.iter().all(|v| v.is_finite()), "{what}: dx {dx:?}");
            }
        }
    }
}

/// pytorch 71465, 74661, 144223: LayerNorm over the channels of each pixel of an NCHW picture, as ConvNeXt has it. The
/// same memory is (N, H·W, C) channels last, and is read where it lies.
#[test]
fn layer_norm_over_the_channels_of_pictures() {
    let [n, c, h, w] = [2, 96, 7, 9];
    let [weight, bias] = [3, 4].map(|seed| gauss(DType::F32, c, seed, 0.3, 1.0));
    for device in device::all() {
        let context = &device.context;
        let mut layer = LayerNorm::config([c]).with_eps(1e-6).init(context).unwrap();
        layer.fill_weight(|i| weight[i] as f32).unwrap();
        layer.fill_bias(|i| bias[i] as f32).unwrap();
        let norm = Norm {
            eps: 1e-6,
            weight: Some(&weight),
            bias: Some(&bias),
            ..Norm::new(Kind::Layer, [n * h * w, 1, c])
        };
        for dtype in TYPES {
            let nchw = gauss(dtype, n * c * h * w, 5, 1.5, 0.5);
            let x = data::place(context, [n, h * w, c], dtype, MemoryOrder::ChannelsLast, &nchw);
            let x = x.unwrap();
            agrees(context, &layer, &norm, &x, device.name);
            // The row of each pixel, and what is made of it back in its place in the picture.
            let at =
                |row: usize, channel: usize| (row / (h * w) * c + channel) * h * w + row % (h * w);
            let rows = (0..nchw.len()).map(|i| nchw[at(i / c, i % c)]).collect::<Vec<_>>();
            let forward = norm.forward(&rows);
            let y = read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap();
            let y = (0..nchw.len()).map(|i| y[at(i / c, i % c)]).collect::<Vec<_>>();
            let bound = Bound::new(tolerance::Y, dtype, dtype);
            let close = bound.compare(&y, &forward.y, &forward.scale);
            close.unwrap_or_else(|e| panic!("{} {dtype}: y{e}", device.name));
        }
    }
}

/// pytorch 189581: RMSNorm of small bf16 values without an eps of its own. The result is that of f32: the machine epsilon
/// is that of the arithmetic, not bf16's 0.0078, which is twice the mean square here.
#[test]
fn rms_norm_of_small_bf16_values() {
    for device in device::all() {
        let context = &device.context;
        let layer = RmsNorm::config([32]).with_affine(Affine::None).init(context).unwrap();
        for dtype in TYPES {
            let x = gauss(dtype, 2 * 4 * 32, 42, 0.058, 0.0);
            let eps = f64::from(f32::EPSILON);
            let norm = Norm { eps, ..Norm::new(Kind::Rms, [2 * 4, 1, 32]) };
            let x = place(context, &[2, 4, 1, 32], dtype, &x);
            agrees(context, &layer, &norm, &x, device.name);
        }
    }
}

/// pytorch 106605: running variances below −eps, which F.batch_norm was given at random. Their channels are NaN and no
/// other is.
#[test]
fn negative_running_variances_spoil_their_channels_alone() {
    let (mean, var) = ([0.5f32, -1.0, 2.0, 0.25], [-0.5f32, 2.0, -2e-6, 0.75]);
    for device in device::all() {
        let context = &device.context;
        let mut layer = BatchNorm1d::config(4).with_affine(Affine::None).init(context).unwrap();
        layer.set_running_stats(&mean, &var, 1).unwrap();
        let x = gauss(DType::F32, 3 * 4 * 5, 8, 1.0, 0.0);
        let [mean, var] = [mean, var].map(|v| v.map(f64::from));
        let norm =
            Norm { source: Source::Running(&mean, &var), ..Norm::new(Kind::Batch, [3, 4, 5]) };
        let want = norm.forward(&x);
        let x = place(context, &[3, 4, 5], DType::F32, &x);
        let y = read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap();
        assert!(y.iter().enumerate().all(|(i, v)| v.is_nan() == (i / 5 % 4 == 0)), "{y:?}");
        let bound = Bound::new(tolerance::Y, DType::F32, DType::F32);
        bound.compare(&y, &want.y, &want.scale).unwrap_or_else(|e| panic!("{}: y{e}", device.name));
    }
}

/// burn 2185, 2945: eps is under the root, and the variance is the population's. By hand: of 1 and 3 the mean is 2 and the
/// variance 1; with eps 3 the root is 2. (Outside of the root it would be 4, of the sample's variance √5.)
#[test]
fn eps_is_under_the_root() {
    for device in device::all() {
        let context = &device.context;
        let layers: [(&str, Box<dyn NormLayer>); 4] = [
            ("layer", Box::new(LayerNorm::config([2]).with_eps(3.0).init(context).unwrap())),
            ("group", Box::new(GroupNorm::config(1, 1).with_eps(3.0).init(context).unwrap())),
            ("instance", Box::new(InstanceNorm1d::config(1).with_eps(3.0).init(context).unwrap())),
            ("batch", Box::new(BatchNorm1d::config(1).with_eps(3.0).init(context).unwrap())),
        ];
        for (name, layer) in layers {
            let x = place(context, &[1, 1, 2], DType::F32, &[1.0, 3.0]);
            let y = read(&layer.forward(context, &x, Mode::Train).unwrap()).unwrap();
            let near = |got: f64, want: f64| (got - want).abs() < 1e-6;
            assert!(near(y[0], -0.5) && near(y[1], 0.5), "{} {name}: {y:?}", device.name);
        }
    }
}

/// burn 5382: GroupNorm(4, 64) of 64×64 maps of f16, 65 536 elements per group, whose count's reciprocal is subnormal in
/// f16. A constant is normalized to 0, everything else as in f64.
#[test]
fn group_norm_of_large_f16_groups() {
    for device in device::all() {
        let context = &device.context;
        let layer = GroupNorm::config(4, 64).with_affine(Affine::None).init(context).unwrap();
        let shape = [1, 64, 64, 64];
        let half = place(context, &shape, DType::F16, &[0.5; 1 << 18]);
        let y = read(&layer.forward(context, &half, Mode::Eval).unwrap()).unwrap();
        assert!(y.iter().all(|&v| v == 0.0), "{}", device.name);
        let norm = Norm::new(Kind::Group(4), [1, 64, 64 * 64]);
        let x = gauss(DType::F16, 1 << 18, 6, 0.8, 0.5);
        agrees(context, &layer, &norm, &place(context, &shape, DType::F16, &x), device.name);
    }
}

/// burn 5607: LayerNorm of rows of 16 values `mean + i · 1e-3`, for means up to 10 000.
#[test]
fn layer_norm_of_rows_far_from_zero() {
    for device in device::all() {
        let context = &device.context;
        let layer = LayerNorm::config([16]).with_affine(Affine::None).init(context).unwrap();
        for (mean, first) in [(0.0, -1.3416), (100.0, -1.3415), (1000.0, -1.3415), (1e4, -1.3313)] {
            let row: Vec<f64> = (0..16).map(|i| mean + f64::from(i) * 1e-3).collect();
            let row = data::rounded(DType::F32, &row);
            let norm = Norm::new(Kind::Layer, [1, 1, 16]);
            // The report's own reference.
            let want = norm.forward(&row).y[0];
            assert!((want - first).abs() < 1e-4, "of mean {mean}: {want}");
            let x = place(context, &[1, 16], DType::F32, &row);
            agrees(context, &layer, &norm, &x, &format!("{} mean {mean}", device.name));
        }
    }
}

/// candle 3011: LayerNorm(64) of a batch of four between two linear layers: all three gradients are there, none is 0.
/// mlx 3220: with a weight and no bias the gradients are the weight's and no other.
#[test]
fn layer_norm_has_all_of_its_gradients() {
    for device in device::all() {
        let context = &device.context;
        for affine in [Affine::Both, Affine::Weight] {
            let layer = LayerNorm::config([64]).with_affine(affine).init(context).unwrap();
            let (ones, zeros) = ([1.0; 64], [0.0; 64]);
            let norm = Norm {
                weight: Some(&ones),
                bias: (affine == Affine::Both).then_some(&zeros),
                ..Norm::new(Kind::Layer, [4, 1, 64])
            };
            let x = place(context, &[4, 64], DType::F32, &gauss(DType::F32, 256, 3, 1.0, 0.0));
            agrees(context, &layer, &norm, &x, device.name);
            let (_, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
            let grads = layer.backward(context, &saved, &x).unwrap();
            assert!(read(&grads.dx).unwrap().iter().any(|&v| v != 0.0), "{}", device.name);
            let dweight = grads.dweight.unwrap();
            assert_eq!(dweight.shape().to_vec(), [64]);
            assert!(read(&dweight).unwrap().iter().all(|&v| v != 0.0), "{}", device.name);
            assert_eq!(grads.dbias.is_some(), affine == Affine::Both);
        }
    }
}

/// onnxruntime 31626: f16 activations that are more than 256 from their mean, whose squares f16 does not hold.
/// brainchop-cli 54, 56, 57: the same of GroupNorm with a group per channel, of activations up to 940 kept as f16; no
/// rescaling of the weights before it is needed, and if there is one, y stays.
#[test]
fn f16_values_whose_squares_overflow() {
    for device in device::all() {
        let context = &device.context;
        let layer = LayerNorm::config([768]).with_affine(Affine::None).init(context).unwrap();
        let norm = Norm::new(Kind::Layer, [6, 1, 768]);
        for scale in [300.0, 5000.0, 15_000.0] {
            let x =
                place(context, &[6, 768], DType::F16, &gauss(DType::F16, 6 * 768, 1, scale, 30.0));
            agrees(context, &layer, &norm, &x, &format!("{} layer {scale}", device.name));
        }
        let layer = GroupNorm::config(24, 24).with_affine(Affine::None).init(context).unwrap();
        let norm = Norm::new(Kind::Group(24), [1, 24, 512]);
        let [large, small] = [1.0, 0.125].map(|scale| {
            // An eighth of each value is an f16, too.
            let values = gauss(DType::F16, 24 * 512, 2, 260.0, 100.0)
                .iter()
                .map(|v| v * scale)
                .collect::<Vec<_>>();
            let x = place(context, &[1, 24, 8, 8, 8], DType::F16, &values);
            agrees(context, &layer, &norm, &x, &format!("{} group {scale}", device.name));
            read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap()
        });
        let bound = Bound::new(tolerance::Y, DType::F16, DType::F16);
        let twice = Bound { relative: 2.0 * bound.relative + 1e-3, ..bound };
        twice.compare(&small, &large, &large).unwrap_or_else(|e| panic!("{}: {e}", device.name));
    }
}

/// onnxruntime 32627: LayerNorm of f16 with scale and bias of f32, which f16 would round.
#[test]
fn layer_norm_of_f16_with_f32_parameters() {
    let (weight, bias) = ([1.0f32 / 3.0; 64], [1e-4f32 / 7.0; 64]);
    for device in device::all() {
        let context = &device.context;
        let mut layer = LayerNorm::config([64]).init(context).unwrap();
        layer.fill_weight(|i| weight[i]).unwrap();
        layer.fill_bias(|i| bias[i]).unwrap();
        let [weight, bias] = [weight, bias].map(|v| v.map(f64::from));
        let norm = Norm {
            weight: Some(&weight),
            bias: Some(&bias),
            ..Norm::new(Kind::Layer, [10, 1, 64])
        };
        for dtype in [DType::F16, DType::BF16] {
            let x = place(context, &[10, 64], dtype, &gauss(dtype, 640, 9, 2.0, -1.0));
            agrees(context, &layer, &norm, &x, device.name);
            let y = layer.forward(context, &x, Mode::Eval).unwrap();
            assert_eq!(y.dtype(), dtype, "{}", device.name);
        }
    }
}

/// onnxruntime 25092: InstanceNorm of (2, 80, 2), most of whose results were 0. Of two values they are ±1, but for eps.
#[test]
fn instance_norm_of_pairs() {
    for device in device::all() {
        let context = &device.context;
        let layer = InstanceNorm1d::config(80).init(context).unwrap();
        let norm = Norm::new(Kind::Instance, [2, 80, 2]);
        for dtype in TYPES {
            let x: Vec<f64> = (0..320).map(|i| f64::from(i % 2 * 3 + i / 2 % 5)).collect();
            let x = place(context, &[2, 80, 2], dtype, &x);
            agrees(context, &layer, &norm, &x, device.name);
            let y = read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap();
            let signs = (0..320).map(|i| if i % 2 == 0 { -1.0 } else { 1.0 });
            assert!(
                y.iter().zip(signs).all(|(y, sign)| (y - sign).abs() < 1e-5),
                "{}",
                device.name
            );
        }
    }
}

/// onnxruntime 28424: RMSNorm of input + skip + bias, H = 8. The layer has a weight and no slot that could be taken for
/// another: what is normalized is x, what is added afterwards is the addend, and they differ.
#[test]
fn rms_norm_of_a_sum() {
    let [input, skip, gamma, bias] = [(1, 1.0, 0.0), (2, 1.0, 0.0), (3, 0.1, 1.0), (4, 0.5, 0.0)]
        .map(|(seed, scale, offset)| gauss(DType::F16, 8, seed, scale, offset));
    let sum: Vec<f64> = (0..8).map(|i| input[i] + skip[i] + bias[i]).collect();
    let sum = data::rounded(DType::F16, &sum);
    let mut norm = Norm { weight: Some(&gamma), ..Norm::new(Kind::Rms, [1, 1, 8]) };
    let before = norm.forward(&sum);
    norm.addend = Some(&bias);
    let after = norm.forward(&sum);
    for device in device::all() {
        let context = &device.context;
        let mut layer = RmsNorm::config([8]).with_eps(1e-5).init(context).unwrap();
        layer.fill_weight(|i| gamma[i] as f32).unwrap();
        let place = |values: &[f64]| place(context, &[1, 1, 8], DType::F16, values);
        let (x, addend) = (place(&sum), Extras::new().with_addend(&place(&bias)));
        let bound = Bound::new(tolerance::Y, DType::F16, DType::F16);
        for (extras, want) in [(Extras::new(), &before), (addend, &after)] {
            let y = layer.forward_with(context, &x, &extras, Mode::Eval).unwrap();
            let y = read(&y).unwrap();
            bound
                .compare(&y, &want.y, &want.scale)
                .unwrap_or_else(|e| panic!("{}: {e}", device.name));
        }
    }
}

/// TensorRT 4756: GroupNorm of one group is over all channels, not over each. By hand: of two channels of 0 and 2 the mean
/// is 1 and the variance 1; over each channel everything would be 0.
#[test]
fn one_group_is_all_channels() {
    for device in device::all() {
        let context = &device.context;
        let layer = GroupNorm::config(1, 2).with_eps(0.0).init(context).unwrap();
        let x = place(context, &[1, 2, 1, 2], DType::F32, &[0.0, 0.0, 2.0, 2.0]);
        let y = read(&layer.forward(context, &x, Mode::Eval).unwrap()).unwrap();
        let right = y.iter().zip([-1.0, -1.0, 1.0, 1.0]).all(|(y, want)| (y - want).abs() < 1e-6);
        assert!(right, "{}: {y:?}", device.name);
    }
}

/// flash-attention 781: ten backward passes of an RMSNorm of four zeros. The weight's gradient is 0 each time, x's is
/// −1/√eps.
#[test]
fn rms_norm_of_zeros_repeats() {
    for device in device::all() {
        let context = &device.context;
        let layer = RmsNorm::config([4]).with_eps(1e-5).init(context).unwrap();
        for _ in 0..10 {
            let x = place(context, &[4], DType::F32, &[0.0; 4]);
            let dy = place(context, &[4], DType::F32, &[-1.0; 4]);
            let (y, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
            let grads = layer.backward(context, &saved, &dy).unwrap();
            assert_eq!(read(&y).unwrap(), [0.0; 4], "{}", device.name);
            assert_eq!(read(&grads.dweight.unwrap()).unwrap(), [0.0; 4], "{}", device.name);
            let dx = read(&grads.dx).unwrap();
            let right = dx.iter().all(|v| (v + 1e5f64.sqrt()).abs() < 1e-3);
            assert!(right, "{}: {dx:?}", device.name);
        }
    }
}

/// vllm 48271, mlx 1041: a row has the same bits alone, among 100 or 255 rows, and in a batch that crosses 256; y and dx,
/// with and without a residual.
#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    const ROWS: usize = 300;
    let cases = [
        (7, DType::F32, false),
        (64, DType::F32, false),
        (64, DType::BF16, true),
        (200, DType::F32, false),
        (200, DType::F16, false),
        (255, DType::F32, true),
        (512, DType::BF16, true),
    ];
    for device in device::all() {
        for (width, dtype, residual) in cases {
            let context = &device.context;
            let [x, dy, skip] = [1, 2, 3].map(|seed| gauss(dtype, ROWS * width, seed, 1.5, 0.3));
            let layers: [(&str, Box<dyn NormLayer>); 2] = [
                ("layer", Box::new(LayerNorm::config([width]).init(context).unwrap())),
                ("rms", Box::new(RmsNorm::config([width]).init(context).unwrap())),
            ];
            for (name, layer) in &layers {
                let run = |rows: usize| {
                    let place =
                        |v: &[f64]| place(context, &[rows, width], dtype, &v[..rows * width]);
                    let addend = residual.then(|| place(&skip));
                    let extras = addend.iter().fold(Extras::new(), Extras::with_addend);
                    let call = layer.forward_saved_with(context, &place(&x), &extras, Mode::Train);
                    let (y, saved) = call.unwrap();
                    let grads = layer.backward(context, &saved, &place(&dy)).unwrap();
                    [read(&y).unwrap(), read(&grads.dx).unwrap()]
                };
                let batch = run(ROWS);
                for rows in [1, 100, 255] {
                    for (part, (all, some)) in ["y", "dx"].iter().zip(batch.iter().zip(&run(rows)))
                    {
                        let differ = |(a, b): &(&f64, &f64)| a.to_bits() != b.to_bits();
                        let count = some.iter().zip(all).filter(differ).count();
                        let what = format!("{} {name}({width}) {dtype}", device.name);
                        let what = format!("{what}, residual {residual}: {part} of {rows} rows");
                        assert_eq!(count, 0, "{what}: so many of {} values differ", some.len());
                    }
                }
            }
        }
    }
}
