//! Any layer with any settings, any tensors, in any order: outputs of the input's description, or errors.

use crate::common::layer::Layer;
use crate::input::Input;
use wgnorm::plan::{Caps, Keep, Offsets, Plan, Wants};
use wgnorm::{
    Activation, AdaIn, Affine, BatchNormConfig, ConditionalInstanceNorm, Context, DType, Error,
    Estimator, Extras, FusedBatchNormConfig, Grads, GroupNorm, GroupSums, Init, InstanceNorm,
    InstanceNormAxisConfig, InstanceNormConfig, LayerNorm, Lazy, Mask, MemoryOrder, Mode, Momentum,
    OneValue, RmsNorm, Saved, Shape, ShapeError, Statistics, Tensor, TensorDesc,
};

/// Elements of a tensor here.
const MOST: u64 = 1 << 13;

const SIZES: [usize; 24] = [
    2,
    1,
    3,
    4,
    0,
    6,
    5,
    7,
    8,
    13,
    31,
    64,
    97,
    1000,
    4099,
    65_535,
    65_536,
    1 << 24,
    u32::MAX as usize,
    u32::MAX as usize + 1,
    1 << 40,
    isize::MAX as usize,
    usize::MAX - 1,
    usize::MAX,
];

/// What was refused.
pub fn run(context: &Context, bytes: &[u8]) -> Option<Error> {
    let refused = case(context, bytes).err();
    assert!(refused.as_ref().is_none_or(|error| !error.to_string().is_empty()));
    refused
}

fn case(context: &Context, bytes: &[u8]) -> Result<(), Error> {
    let input = &mut Input(bytes);
    let (features, shape) = shapes(input);
    let desc = match TensorDesc::new(shape.clone()) {
        Ok(desc) => desc,
        Err(error) => {
            assert!(matches!(error, ShapeError::TooLarge { .. }), "{error}");
            assert!(Tensor::from_slice(shape, &[]).is_err());
            return Err(error.into());
        }
    };
    let order = input.of(&[MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast]);
    let desc = desc.with_dtype(dtype(input)).with_order(order);
    if input.below(8) == 0 {
        return others(context, input, features, &desc);
    }
    let mode = input.of(&[Mode::Train, Mode::Eval]);
    let layer = layer(context, input, features, &shape)?;
    if let Ok(problem) = layer.problem(&desc, mode) {
        for keep in [Keep::Nothing, Keep::Moments] {
            let _ = Plan::forward(&problem, &Caps::WEBGPU, &Offsets::default(), keep);
        }
        let _ = Plan::backward(&problem, &Caps::WEBGPU, &Offsets::default(), Wants::default());
    }
    if desc.shape.elements() > MOST {
        assert!(Tensor::from_slice(shape, &[]).is_err());
        return Ok(());
    }
    calls(context, input, layer, &desc, mode)
}

/// A number of channels, and a shape that mostly has it.
fn shapes(input: &mut Input<'_>) -> (usize, Vec<usize>) {
    let mut size = |usual: usize| match input.byte() {
        byte @ 0..220 => SIZES[usize::from(byte) % usual],
        byte => SIZES[usize::from(byte) % SIZES.len()],
    };
    let features = size(10);
    let [n, a, b, c, d] = [size(9), size(12), size(12), size(6), size(6)];
    let mut shape = vec![n, features, a, b, c, d];
    shape.truncate([3, 4, 2, 5, 6, 1, 0][input.below(7)]);
    if input.byte() >= 224 && !shape.is_empty() {
        let at = input.below(shape.len());
        shape[at] = input.of(&SIZES);
    }
    (features, shape)
}

fn dtype(input: &mut Input<'_>) -> DType {
    input.of(&[DType::F32, DType::F32, DType::F16, DType::BF16, DType::F64])
}

fn layer(
    context: &Context,
    input: &mut Input<'_>,
    features: usize,
    shape: &[usize],
) -> Result<Box<dyn Layer>, Error> {
    let kind = input.below(13);
    let eps = if input.byte() < 192 { 1e-5 } else { input.float() };
    let affine = input.of(&[Affine::Both, Affine::None, Affine::Weight, Affine::Bias]);
    let init = match input.below(8) {
        0 => Init::Constant(input.float()),
        1 => Init::Uniform { low: input.float(), high: input.float(), seed: 1 },
        2 => Init::Normal { mean: input.float(), std: input.float(), seed: 1 },
        _ => Init::Ones,
    };
    let momentum = match input.below(4) {
        0 => Momentum::Factor(input.float()),
        1 => Momentum::Cumulative,
        2 => Momentum::Frozen,
        _ => Momentum::Factor(0.1),
    };
    let one_value = input.of(&[OneValue::Bias, OneValue::Error]);
    let track = input.flag();
    let groups = input.of(&[1, 2, 3, features, 0, usize::MAX]);
    let axis = i64::from(input.byte() as i8);
    let trailing = Shape::from(&shape[input.below(shape.len() + 1)..]);
    // What a setting asks for is taken, or refused where it is not to be had; between them is nothing to be learnt.
    for asked in [features as u64, trailing.elements()] {
        if (1 << 16..=1 << 21).contains(&asked) {
            return Err(
                ShapeError::TooLarge { shape: trailing, elements: asked, limit: 1 << 16 }.into()
            );
        }
    }
    let to = if input.byte() < 192 { DType::F32 } else { dtype(input) };
    macro_rules! built {
        ($config:expr) => {{
            let layer = $config.with_eps(eps).with_weight_init(init).init(context)?;
            assert!(!layer.to_string().is_empty());
            Box::new(layer.cast_blocking(to)?)
        }};
    }
    macro_rules! tracked {
        ($config:expr) => {
            built!(
                $config
                    .with_affine(affine)
                    .with_momentum(momentum)
                    .with_track_running_stats(track)
                    .with_one_value(one_value)
            )
        };
    }
    Ok(match kind {
        0 => tracked!(InstanceNormConfig::<1>::new(features)),
        1 => tracked!(InstanceNormConfig::<2>::new(features)),
        2 => tracked!(InstanceNormConfig::<3>::new(features)),
        3 => tracked!(BatchNormConfig::<1>::new(features)),
        4 => tracked!(BatchNormConfig::<2>::new(features)),
        5 => tracked!(BatchNormConfig::<3>::new(features)),
        6 => tracked!(FusedBatchNormConfig::<1>::new(features)),
        7 => tracked!(FusedBatchNormConfig::<2>::new(features)),
        8 => built!(InstanceNorm::config(features).with_axis(axis).with_one_value(one_value)),
        9 => built!(
            GroupNorm::config(groups, features).with_affine(affine).with_one_value(one_value)
        ),
        10 => built!(LayerNorm::config(trailing).with_affine(affine)),
        11 => built!(RmsNorm::config(trailing)),
        _ => Box::new(AdaIn::config().with_eps(eps).with_one_value(one_value).init(context)?),
    })
}

/// A tensor where `context` works; its values go through all kinds of numbers now and then.
fn tensor(
    context: &Context,
    input: &mut Input<'_>,
    desc: &TensorDesc,
) -> Result<Tensor<'static>, Error> {
    let odd = if input.byte() < 224 { None } else { Some(input.float()) };
    let at = |i: usize| (i as f64 * 0.7).sin() * 3.0;
    let len = desc.shape.elements() as usize;
    let values: Vec<f64> =
        (0..len).map(|i| if i % 7 == 3 { odd.unwrap_or(at(i)) } else { at(i) }).collect();
    crate::common::data::place(context, &desc.shape, desc.dtype, desc.order, &values)
}

/// Mostly the description itself.
fn like(input: &mut Input<'_>, desc: &TensorDesc) -> TensorDesc {
    let mut desc = desc.clone();
    match input.byte() {
        240..244 => desc.dtype = dtype(input),
        244..248 => desc.order = MemoryOrder::ChannelsLast,
        248..252 => desc.shape = [input.below(5), input.below(5)].into(),
        252..=255 => desc.shape = Shape::from(&desc.shape[..desc.shape.len().saturating_sub(1)]),
        _ => {}
    }
    // Without an axis of no elements there may be any number.
    if desc.shape.elements() > MOST { TensorDesc { shape: [0].into(), ..desc } } else { desc }
}

/// Entries of four numbers, as statistics and sums are.
fn entries(
    context: &Context,
    input: &mut Input<'_>,
    of: &Tensor<'static>,
) -> Result<Tensor<'static>, Error> {
    let (mut shape, parts) = (of.shape().to_vec(), input.below(4));
    if parts > 0 && shape.len() == 2 {
        shape.insert(1, parts);
    }
    if input.byte() >= 224 || shape[0] as u64 > MOST {
        shape[0] = input.below(9);
    }
    let odd = input.float();
    let len: usize = shape.iter().product();
    let values =
        (0..len).map(|i| if i % 5 == 2 { odd } else { [4.0, 0.5, 0.0, 2.0][i % 4] }).collect();
    let entries = Tensor::from_vec_of::<f64>(shape, values).expect("the shape's length");
    entries.cast(of.dtype())?.to_context(context)
}

fn calls(
    context: &Context,
    input: &mut Input<'_>,
    mut layer: Box<dyn Layer>,
    desc: &TensorDesc,
    mode: Mode,
) -> Result<(), Error> {
    let x = tensor(context, input, desc)?;
    if input.byte() >= 192 && layer.running_mean().is_ok() {
        let channels = layer.running_mean()?.shape()[0];
        let odd = input.float() as f32;
        let _ = layer.set_running_stats(&vec![odd; channels], &vec![odd; channels], 5);
        let _ = layer.set_running_stats(&[odd], &[odd; 2], u64::MAX);
    }
    let like_x = like(input, desc);
    let _ = layer.set_weight(&tensor(context, input, &like_x)?);
    let extras = extras(context, input, &*layer, &x)?;
    let plain = layer.forward_with(context, &x, &extras, mode);
    if let Ok(y) = &plain {
        assert_eq!(y.desc(), x.desc());
    }
    let before = layer.state_dict_blocking()?.to_safetensors()?;
    let like_y = like(input, desc);
    let mut y = tensor(context, input, &like_y)?;
    let into = layer.forward_into(context, &x, &extras, mode, &mut y);
    if into.is_err() && plain.is_err() {
        assert!(layer.state_dict_blocking()?.to_safetensors()? == before, "refused, and changed");
    }
    assert!(into.is_err() || y.desc() == x.desc());
    let (y, saved) = layer.forward_saved_with(context, &x, &extras, mode)?;
    assert_eq!(y.desc(), x.desc());
    assert!(plain.is_ok() || mode == Mode::Train, "only saved: {plain:?}");
    gradients(context, input, &*layer, &x, &saved)
}

fn extras<'a>(
    context: &Context,
    input: &mut Input<'_>,
    layer: &dyn Layer,
    x: &Tensor<'static>,
) -> Result<Extras<'a>, Error> {
    let mut extras = Extras::new();
    let which = input.byte();
    if which & 1 != 0 {
        let like_x = like(input, x.desc());
        extras = extras.with_addend(&tensor(context, input, &like_x)?);
    }
    if which & 2 != 0 {
        extras = extras.with_activation(match input.below(4) {
            0 => Activation::LeakyRelu(input.float() as f32),
            1 => Activation::Relu,
            2 => Activation::Sigmoid,
            _ => Activation::GeluTanh,
        });
    }
    if which & 4 != 0 {
        let like_x = like(input, x.desc());
        let mut shape = like_x.shape.to_vec();
        if shape.len() > 1 {
            shape.remove(1);
        }
        let len = Shape::from(shape.clone()).elements();
        let pattern = u64::from_le_bytes(input.bytes());
        // Without the channels there may be far more than x has.
        if len <= MOST {
            let values: Vec<u8> = (0..len).map(|i| (pattern >> (i % 64)) as u8 & 1).collect();
            extras =
                extras.with_mask(&Mask::from_slice(shape.clone(), &values)?.to_context(context)?);
        }
        let lengths = [u32::from(input.byte()) % 9; 3];
        let _ = Mask::from_lengths(shape, input.below(4), &lengths[..input.below(4)]);
    }
    if which & 8 != 0 {
        let of = layer.statistics(context, x, None)?;
        let given = Statistics::from_tensor(entries(context, input, of.tensor())?)?;
        let _ = of.merge(context, &given);
        extras = match input.flag() {
            true => extras.with_statistics(&given),
            false => extras.with_constant_statistics(&given),
        };
    }
    Ok(extras)
}

fn gradients(
    context: &Context,
    input: &mut Input<'_>,
    layer: &dyn Layer,
    x: &Tensor<'static>,
    saved: &Saved<'_>,
) -> Result<(), Error> {
    let like_y = like(input, x.desc());
    let dy = tensor(context, input, &like_y)?;
    let mut grads = layer.backward(context, saved, &dy)?;
    assert_eq!(grads.dx.desc(), x.desc());
    let sums = layer.group_sums(context, saved, &dy)?;
    let given = GroupSums::from_tensor(entries(context, input, sums.tensor())?);
    if let Ok(given) = given {
        let _ = sums.merge(context, &given);
        if let Ok(grads) = layer.backward_with_sums(context, saved, &dy, &given) {
            assert_eq!(grads.dx.desc(), x.desc());
        }
    }
    if input.byte() >= 192 {
        let like_dx = like(input, x.desc());
        grads.dx = tensor(context, input, &like_dx)?;
        let like_dw = like(input, x.desc());
        grads.dweight = Some(tensor(context, input, &like_dw)?);
    }
    let shape = |grads: &Grads| {
        [&grads.dweight, &grads.dbias].map(|g| g.as_ref().map(|g| g.desc().clone()))
    };
    let had = shape(&grads);
    if layer.backward_accumulate(context, saved, &dy, &mut grads).is_ok() {
        assert_eq!(grads.dx.desc(), x.desc());
    } else {
        assert_eq!(shape(&grads), had);
    }
    if layer.backward_into(context, saved, &dy, &mut grads).is_ok() {
        assert_eq!(grads.dx.desc(), x.desc());
    }
    Ok(())
}

/// Banks of styles, styles, and layers that learn their channels from the input.
fn others(
    context: &Context,
    input: &mut Input<'_>,
    features: usize,
    desc: &TensorDesc,
) -> Result<(), Error> {
    let mode = input.of(&[Mode::Train, Mode::Eval]);
    match input.below(4) {
        0 => bank(context, input, features, desc),
        1 => styled(context, input, desc),
        _ => lazy(context, input, desc, mode),
    }
}

fn bank(
    context: &Context,
    input: &mut Input<'_>,
    features: usize,
    desc: &TensorDesc,
) -> Result<(), Error> {
    let styles = input.of(&SIZES);
    if (1 << 16..=1 << 21).contains(&styles.saturating_mul(features)) {
        return Ok(());
    }
    let bank = ConditionalInstanceNorm::config(styles, features).init(context)?;
    if desc.shape.elements() > MOST {
        return Ok(());
    }
    let x = tensor(context, input, desc)?;
    let samples = desc.shape.first().copied().unwrap_or(0).min(64);
    let picked = vec![input.of(&[0, 1, usize::MAX]); samples];
    if let Ok(y) = bank.forward_styles(context, &x, &picked) {
        assert_eq!(y.desc(), x.desc());
    }
    let blend = TensorDesc::new([input.of(&[1, samples, 0]), styles.min(64)])?;
    let blend = like(input, &blend);
    let blend = tensor(context, input, &blend)?;
    let (y, saved) = bank.forward_blend_saved(context, &x, &blend)?;
    assert_eq!(y.desc(), x.desc());
    let like_y = like(input, desc);
    let grads = bank.backward(context, &saved, &tensor(context, input, &like_y)?)?;
    assert_eq!(grads.dx.desc(), x.desc());
    Ok(())
}

fn styled(context: &Context, input: &mut Input<'_>, desc: &TensorDesc) -> Result<(), Error> {
    if desc.shape.elements() > MOST {
        return Ok(());
    }
    let estimator = input.of(&[Estimator::Biased, Estimator::Unbiased]);
    let config = AdaIn::config().with_style_estimator(estimator);
    let adain =
        config.with_one_value(input.of(&[OneValue::Bias, OneValue::Error])).init(context)?;
    let x = tensor(context, input, desc)?;
    let style = like(input, desc);
    let style = tensor(context, input, &style)?;
    if let Ok(y) = adain.forward_tables(context, &x, &style, &style) {
        assert_eq!(y.desc(), x.desc());
    }
    let (y, saved) = adain.forward_style_saved_with(context, &x, &style, &Extras::new())?;
    assert_eq!(y.desc(), x.desc());
    let like_y = like(input, desc);
    let grads = adain.backward_style(context, &saved, &tensor(context, input, &like_y)?)?;
    assert_eq!((grads.dx.desc(), grads.dstyle.desc()), (x.desc(), style.desc()));
    Ok(())
}

fn lazy(
    context: &Context,
    input: &mut Input<'_>,
    desc: &TensorDesc,
    mode: Mode,
) -> Result<(), Error> {
    if desc.shape.elements() > MOST {
        return Ok(());
    }
    let x = tensor(context, input, desc)?;
    let y = match input.below(3) {
        0 => Lazy::new(InstanceNormAxisConfig::mxnet(0), context)?.forward(context, &x, mode)?,
        1 => Lazy::new(InstanceNormConfig::<2>::new(0), context)?.forward(context, &x, mode)?,
        _ => Lazy::new(BatchNormConfig::<1>::new(0), context)?.forward(context, &x, mode)?,
    };
    assert_eq!(y.desc(), x.desc());
    Ok(())
}
