//! Groups that are hard for f32, side by side: each gets what it gets among easy ones.

mod common;

use common::random::gauss4;
use wgnorm::{
    Activation, Affine, Context, DType, Extras, GroupNorm, InstanceNorm1d, LayerNorm, Mode,
    NormLayer, Tensor,
};

const CHANNELS: usize = 41;

/// Values of a channel, an easy one unless it is `hard`.
fn channel(i: usize, len: usize, hard: bool) -> Vec<f32> {
    let mut values = gauss4(len, i as u32 + 1, 1.5, 0.5);
    let scale = |values: &mut [f32], by: f32| values.iter_mut().for_each(|v| *v *= by);
    match i % 12 {
        _ if !hard => {}
        1 => values.fill(3.7),
        2 => values.iter_mut().for_each(|v| *v += 4096.0),
        3 => values[0] = 3e4,
        4 => values[len / 2] = f32::NAN,
        5 => scale(&mut values, 1e37),
        6 => scale(&mut values, 1e-25),
        7 => values.fill(0.0),
        8 => values[len - 1] = f32::INFINITY,
        9 => values.fill(1e30),
        10 => scale(&mut values, 1e-40),
        _ => {}
    }
    values
}

/// y, dx, dweight and dbias where some channels are hard.
fn run(
    is_hard: impl Fn(usize) -> bool,
    len: usize,
    dtype: DType,
    activation: Activation,
) -> [Vec<f32>; 4] {
    let context = &Context::host();
    let config = InstanceNorm1d::config(CHANNELS).with_affine(Affine::Both);
    let mut layer = config.init(context).unwrap();
    let of_channel = |f: fn(f32) -> f32| {
        Tensor::from_vec([CHANNELS], (0..CHANNELS).map(|c| f(c as f32)).collect()).unwrap()
    };
    layer.set_weight(&of_channel(|c| 0.5 + c / 8.0)).unwrap();
    layer.set_bias(&of_channel(|c| c - 7.0)).unwrap();
    let tensor = |f: &dyn Fn(usize) -> Vec<f32>| {
        let values = (0..CHANNELS).flat_map(f).collect();
        Tensor::from_vec([1, CHANNELS, len], values).unwrap().cast(dtype).unwrap()
    };
    let x = tensor(&|c| channel(c, len, is_hard(c)));
    let dy = tensor(&|c| gauss4(len, 100 + c as u32, 1.0, 0.2));
    let extras = Extras::new().with_activation(activation);
    let y = layer.forward_with(context, &x, &extras, Mode::Train).unwrap();
    let (again, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
    let grads = layer.backward(context, &saved, &dy).unwrap();
    let read = |t: &Tensor<'_>| t.cast(DType::F32).unwrap().to_vec_blocking().unwrap();
    assert!(same(&read(&y), &read(&again)), "saving statistics changes y");
    [read(&y), read(&grads.dx), read(&grads.dweight.unwrap()), read(&grads.dbias.unwrap())]
}

/// Bit for bit, one NaN as good as another.
fn same(a: &[f32], b: &[f32]) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// Sums of gradients that f32 does not hold, of results that it does.
#[test]
fn large_gradients_are_summed_in_f64() {
    let context = &Context::host();
    for (len, activation) in [49, 255, 1575, 5000]
        .into_iter()
        .flat_map(|len| [Activation::None, Activation::LeakyRelu(1.0)].map(|a| (len, a)))
    {
        let instance = InstanceNorm1d::config(CHANNELS).with_affine(Affine::Both);
        // Weights that vary within groups, run by run and element by element.
        let layers: [(_, Box<dyn NormLayer>); 3] = [
            ("instance", Box::new(instance.init(context).unwrap())),
            ("group", Box::new(GroupNorm::config(1, CHANNELS).init(context).unwrap())),
            ("layer", Box::new(LayerNorm::config([len]).init(context).unwrap())),
        ];
        for (name, layer) in layers {
            let case = format!("{name} {len} {activation:?}");
            sums_large_gradients(context, &*layer, len, activation, &case);
        }
    }
}

fn sums_large_gradients(
    context: &Context,
    layer: &dyn NormLayer,
    len: usize,
    activation: Activation,
    case: &str,
) {
    let tensor = |seed, scale: f32| {
        let values = gauss4(CHANNELS * len, seed, 1.5, 0.5).iter().map(|v| v * scale).collect();
        Tensor::from_vec([1, CHANNELS, len], values).unwrap()
    };
    let x = tensor(1, 1.0);
    let extras = Extras::new().with_activation(activation);
    let (_, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
    let read = |t: &Tensor<'_>| t.to_vec_blocking().unwrap();
    let [small, large] = [1.0, 1e36].map(|scale| {
        let grads = layer.backward(context, &saved, &tensor(2, scale)).unwrap();
        [read(&grads.dx), read(&grads.dweight.unwrap()), read(&grads.dbias.unwrap())]
    });
    for (small, large) in small.iter().zip(&large) {
        let largest = small.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (small, large) in small.iter().zip(large) {
            let expected = f64::from(*small) * 1e36;
            if expected.abs() < 1e38 {
                let off = (f64::from(*large) - expected).abs() / f64::from(largest) / 1e36;
                assert!(off < 1e-5, "{case}: {large} for {expected}");
            }
        }
    }
}

#[test]
fn neighbours_change_nothing() {
    for (len, dtype) in [2, 3, 16, 49, 255, 256, 257, 1575]
        .into_iter()
        .flat_map(|len| [DType::F32, DType::F16, DType::BF16].map(|dtype| (len, dtype)))
    {
        for activation in [Activation::None, Activation::Relu] {
            let all = run(|_| true, len, dtype, activation);
            for hard in 0..CHANNELS {
                let one = run(|c| c == hard, len, dtype, activation);
                // Behind an activation, blocks with a group that f32 does not hold are in f64.
                let results = if activation == Activation::None { 4 } else { 1 };
                for (k, (all, one)) in all.iter().zip(&one).take(results).enumerate() {
                    let each = all.len() / CHANNELS;
                    let channel = hard * each..(hard + 1) * each;
                    let case = format!("{k} of channel {hard} of {len} {dtype:?} {activation:?}");
                    assert!(same(&all[channel.clone()], &one[channel]), "{case}");
                }
            }
        }
    }
}
