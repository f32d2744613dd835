//! The calls themselves, by this crate.

use super::RATE;
use super::case::{Case, Family, From, Masking};
use super::numbers::Data;
use crate::common::data::{self, read};
use crate::common::layer::Layer;
use wgnorm::{
    Activation, AdaIn, Affine, BatchNorm1d, ConditionalInstanceNorm, Context, Error, Extras,
    FusedBatchNorm1d, Grads, GroupNorm, InstanceNorm, InstanceNorm1d, LayerNorm, Mask, MemoryOrder,
    Momentum, NormLayer, OneValue, Parameters, RmsNorm, Tensor,
};

/// What a layer computed, in logical order.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub y: Vec<f64>,
    /// Of the call that saves nothing, on another layer.
    pub unsaved: Vec<f64>,
    pub dx: Vec<f64>,
    pub daddend: Option<Vec<f64>>,
    /// Of the parameters: the layer's, the tables, the bank.
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
    pub dstyle: Option<Vec<f64>>,
    /// Running mean and variance after it.
    pub running: Option<[Vec<f64>; 2]>,
}

impl Outcome {
    /// Every bit of it, for comparisons between runs.
    pub fn bits(&self) -> Vec<u64> {
        let running = self.running.iter().flatten();
        let some = [&self.daddend, &self.dweight, &self.dbias, &self.dstyle].into_iter().flatten();
        let all = [&self.y, &self.unsaved, &self.dx].into_iter().chain(some).chain(running);
        all.flatten().map(|v| v.to_bits()).collect()
    }
}

/// Runs a case: forward with what backward needs, backward, and plain forward on a second layer.
pub fn run(context: &Context, case: &Case, data: &Data) -> Result<Outcome, Error> {
    let x = case.tensor(context, &data.x)?;
    let dy = case.tensor(context, &data.dy)?;
    let extras = extras(context, case, data)?;
    let (mut dstyle, mut running) = (None, None);
    let (y, grads) = match case.family {
        Family::AdaIn => {
            let (layer, [weight, bias]) = (case.adain(context)?, tables(context, case, data)?);
            let (y, saved) =
                layer.forward_tables_saved_with(context, &x, &weight, &bias, &extras)?;
            (y, layer.backward_tables(context, &saved, &dy)?.into())
        }
        Family::AdaInStyle => {
            let (layer, style) = (case.adain(context)?, style(context, case, data)?);
            let (y, saved) = layer.forward_style_saved_with(context, &x, &style, &extras)?;
            let grads = layer.backward_style(context, &saved, &dy)?;
            assert_eq!(grads.dstyle.desc(), style.desc());
            dstyle = Some(case.style_layout().to_logical(&read(&grads.dstyle)?));
            (y, Parts { dx: grads.dx, daddend: grads.daddend, dparams: [None, None] })
        }
        Family::Bank(styles) => {
            let (layer, blend) = (case.bank(context, data, styles)?, blend(context, case, data)?);
            let (y, saved) = layer.forward_blend_saved_with(context, &x, &blend, &extras)?;
            (y, layer.backward(context, &saved, &dy)?.into())
        }
        _ => {
            let layer = case.layer(context, data)?;
            let (y, saved) = layer.forward_saved_with(context, &x, &extras, case.mode)?;
            let grads = layer.backward(context, &saved, &dy)?;
            if case.family.tracks() {
                running = Some([read(&layer.running_mean()?)?, read(&layer.running_var()?)?]);
            }
            (y, grads.into())
        }
    };
    assert_eq!((y.desc(), grads.dx.desc()), (x.desc(), x.desc()));
    let [dweight, dbias] = grads.dparams.map(|grad| grad.as_ref().map(read).transpose());
    Ok(Outcome {
        y: case.read(&y)?,
        unsaved: forward(context, case, data)?,
        dx: case.read(&grads.dx)?,
        daddend: grads.daddend.map(|daddend| case.read(&daddend)).transpose()?,
        dweight: dweight?,
        dbias: dbias?,
        dstyle,
        running,
    })
}

/// The output of a fresh layer that saves nothing; in place of every other case's input.
pub fn forward(context: &Context, case: &Case, data: &Data) -> Result<Vec<f64>, Error> {
    let x = case.tensor(context, &data.x)?;
    let extras = extras(context, case, data)?;
    let y = match case.family {
        Family::AdaIn => {
            let [weight, bias] = tables(context, case, data)?;
            case.adain(context)?.forward_tables_with(context, &x, &weight, &bias, &extras)?
        }
        Family::AdaInStyle => {
            let style = style(context, case, data)?;
            case.adain(context)?.forward_style_with(context, &x, &style, &extras)?
        }
        Family::Bank(styles) => {
            let blend = blend(context, case, data)?;
            case.bank(context, data, styles)?.forward_blend_with(context, &x, &blend, &extras)?
        }
        _ if case.seed % 2 == 1 => {
            let mut x = x;
            case.layer(context, data)?.forward_in_place(context, &mut x, &extras, case.mode)?;
            x
        }
        _ => case.layer(context, data)?.forward_with(context, &x, &extras, case.mode)?,
    };
    case.read(&y)
}

/// The gradients that all families have.
struct Parts {
    dx: Tensor<'static>,
    daddend: Option<Tensor<'static>>,
    dparams: [Option<Tensor<'static>>; 2],
}

impl std::convert::From<Grads> for Parts {
    fn from(grads: Grads) -> Parts {
        let dparams = [grads.dweight, grads.dbias];
        Parts { dx: grads.dx, daddend: grads.daddend, dparams }
    }
}

/// What a case's calls take besides x.
pub fn extras(context: &Context, case: &Case, data: &Data) -> Result<Extras<'static>, Error> {
    let mut extras = Extras::new();
    if case.addend {
        extras = extras.with_addend(&case.tensor(context, &data.addend)?);
    }
    if case.activation != Activation::None {
        extras = extras.with_activation(case.activation);
    }
    if case.masking != Masking::None {
        let mut shape = case.tensor_shape();
        shape.remove(case.channel_axis());
        extras = extras.with_mask(&Mask::from_slice(shape, &data.mask)?.to_context(context)?);
    }
    if let From::Given { constant } = case.from {
        // Their makers need no parameters, and a styled layer's are those of InstanceNorm.
        let family = if case.family.is_styled() { Family::Instance } else { case.family };
        let maker = Case { family, affine: Affine::None, ..case.clone() };
        let layer = maker.layer(context, data)?;
        let given = layer.statistics(context, &case.tensor(context, &data.other)?, None)?;
        extras = match constant {
            true => extras.with_constant_statistics(&given),
            false => extras.with_statistics(&given),
        };
    }
    Ok(extras)
}

fn param(case: &Case, shape: Vec<usize>, values: &[f64]) -> Result<Tensor<'static>, Error> {
    Ok(data::host(shape, case.param_dtype, MemoryOrder::ChannelsFirst, values)?)
}

fn tables(context: &Context, case: &Case, data: &Data) -> Result<[Tensor<'static>; 2], Error> {
    let table = |values: &[f64]| param(case, case.param_shape(), values)?.to_context(context);
    Ok([table(&data.weight)?, table(&data.bias)?])
}

fn style(context: &Context, case: &Case, data: &Data) -> Result<Tensor<'static>, Error> {
    let (layout, [n, c, _]) = (case.style_layout(), case.shape);
    let memory = layout.to_memory(&data.style);
    data::place(context, [n, c, case.style_len()], case.dtype, case.order, &memory)
}

fn blend(context: &Context, case: &Case, data: &Data) -> Result<Tensor<'static>, Error> {
    let n = case.shape[0];
    param(case, vec![n, data.blend.len() / n], &data.blend)?.to_context(context)
}

impl Case {
    fn adain(&self, context: &Context) -> Result<AdaIn, Error> {
        AdaIn::config().with_eps(self.eps).with_one_value(OneValue::Bias).init(context)
    }

    fn bank(
        &self,
        context: &Context,
        data: &Data,
        styles: usize,
    ) -> Result<ConditionalInstanceNorm, Error> {
        let c = self.shape[1];
        let config = ConditionalInstanceNorm::config(styles, c).with_eps(self.eps);
        let layer = config.with_one_value(OneValue::Bias).init(context)?;
        let mut layer = layer.cast_blocking(self.param_dtype)?;
        layer.set_weight(&param(self, vec![styles, c], &data.bank[0])?)?;
        layer.set_bias(&param(self, vec![styles, c], &data.bank[1])?)?;
        Ok(layer)
    }

    /// The layer with these parameters and running statistics. Not of styled families.
    pub fn layer(&self, context: &Context, data: &Data) -> Result<Box<dyn Layer>, Error> {
        let [_, c, s] = self.shape;
        let (eps, affine, dtype) = (self.eps, self.affine, self.param_dtype);
        macro_rules! built {
            ($config:expr) => {
                Box::new($config.with_eps(eps).init(context)?.cast_blocking(dtype)?)
            };
        }
        macro_rules! tracked {
            ($config:expr) => {
                built!(
                    $config
                        .with_affine(affine)
                        .with_momentum(Momentum::Factor(RATE))
                        .with_track_running_stats(true)
                        .with_one_value(OneValue::Bias)
                )
            };
        }
        let mut layer: Box<dyn Layer> = match self.family {
            Family::Instance => tracked!(InstanceNorm1d::config(c)),
            // Both parameters are there; without a setting they stay 1 and 0, and frozen.
            Family::InstanceAxis => built!(
                InstanceNorm::config(c)
                    .with_axis(2)
                    .with_scale(affine.has_weight())
                    .with_center(affine.has_bias())
                    .with_one_value(OneValue::Bias)
            ),
            Family::Batch => tracked!(BatchNorm1d::config(c)),
            Family::FusedBatch => tracked!(FusedBatchNorm1d::config(c)),
            Family::Group(groups) => {
                let config = GroupNorm::config(groups, c).with_affine(affine);
                built!(config.with_one_value(OneValue::Bias))
            }
            Family::Layer(_) => built!(LayerNorm::config(self.param_shape()).with_affine(affine)),
            Family::Rms(_) => built!(RmsNorm::config(self.param_shape()).with_affine(affine)),
            Family::AdaIn | Family::AdaInStyle | Family::Bank(_) => {
                unreachable!("{:?} of {s} positions has calls of its own", self.family)
            }
        };
        if affine.has_weight() {
            layer.set_weight(&param(self, self.param_shape(), &data.weight)?)?;
        }
        if affine.has_bias() {
            layer.set_bias(&param(self, self.param_shape(), &data.bias)?)?;
        }
        if self.family.tracks() {
            let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
            layer.set_running_stats(&narrow(&data.mean), &narrow(&data.var), 0)?;
        }
        Ok(layer)
    }
}
