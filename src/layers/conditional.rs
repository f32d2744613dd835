//! Instance normalization with a bank of styles.

use super::params::Blueprint;
use super::repr::Float;
use super::settings::{check_eps, check_features, check_size, settings};
use super::tables::{Content, Tables};
use super::{Affine, Extras, Grads, Init, OneValue, Parameters, Saved, backward, layer};
use crate::{ConfigError, Context, DType, Error, Shape, ShapeError, Tensor, TensorDesc, host, ops};
use std::fmt;

/// Settings of a [`ConditionalInstanceNorm`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ConditionalInstanceNormConfig {
    /// Styles in the bank.
    pub num_styles: usize,
    /// Channels of the input.
    pub num_features: usize,
    /// See [`with_eps`](Self::with_eps).
    pub eps: f64,
    /// See [`with_frozen`](Self::with_frozen).
    pub frozen: Affine,
    /// See [`with_weight_init`](Self::with_weight_init).
    pub weight_init: Init,
    /// See [`with_bias_init`](Self::with_bias_init).
    pub bias_init: Init,
    /// See [`with_one_value`](Self::with_one_value).
    pub one_value: OneValue,
    /// See [`with_dtype`](Self::with_dtype).
    #[cfg_attr(feature = "serde", serde(default))]
    pub dtype: DType,
}

impl ConditionalInstanceNormConfig {
    /// eps 1e-5, every style weight 1 and bias 0.
    pub fn new(num_styles: usize, num_features: usize) -> Self {
        ConditionalInstanceNormConfig {
            num_styles,
            num_features,
            eps: 1e-5,
            frozen: Affine::None,
            weight_init: Init::Ones,
            bias_init: Init::Zeros,
            one_value: OneValue::Error,
            dtype: DType::F32,
        }
    }

    settings!(eps, frozen, init, one_value, dtype);

    fn check(&self) -> Result<(), ConfigError> {
        let layer = ConditionalInstanceNorm::NAME;
        check_features(layer, self.num_features)?;
        if self.num_styles == 0 {
            return Err(ConfigError::ZeroStyles { layer });
        }
        let bank = self.num_features.saturating_mul(self.num_styles);
        check_size(layer, "num_styles times num_features", bank)?;
        check_eps(layer, self.eps)
    }

    /// Builds the layer, its bank on `context`.
    ///
    /// # Errors
    /// [`ConfigError`] for zero channels or styles, an `eps` that is negative or not finite, an
    /// initializer that is not finite; [`RunError`](crate::RunError) if the device fails.
    pub fn init(self, context: &Context) -> Result<ConditionalInstanceNorm, Error> {
        self.check()?;
        let blueprint = Blueprint {
            shape: [self.num_styles, self.num_features].into(),
            affine: Affine::Both,
            frozen: self.frozen,
            inits: [self.weight_init, self.bias_init],
            dtype: self.dtype,
            ..Blueprint::new(ConditionalInstanceNorm::NAME)
        };
        let parameters = Parameters::new(context, blueprint)?;
        Ok(ConditionalInstanceNorm { config: self, parameters })
    }
}

/// Instance normalization whose weight and bias come from a bank of styles: each sample picks one, or
/// blends several.
///
/// `y = (x − μ) / √(σ² + eps) · (W·weight)[n, c] + (W·bias)[n, c]`, with μ and the *population*
/// variance σ² over the positions of one channel of one sample, and W the samples' weights of the
/// styles, in a sample's row zeros and a one where it picks a single style. Both modes are the same.
///
/// # Shapes
/// - `x`, `y`: `(N, C, …)`; either memory order
/// - `weight`, `bias`: `(num_styles, C)`
/// - styles: N indices; or weights `(N, num_styles)`, or `(1, num_styles)` for all samples, in f32, on the
///   host also in f64
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd). Blends and the bank's gradients are summed in order.
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::Channels`], [`ShapeError::OneValue`] for one
/// spatial position unless [`OneValue::Bias`] is set, [`ShapeError::Style`] for an index beyond the
/// bank, [`ShapeError::Operand`] or [`ShapeError::DType`] for weights that do not fit. Of the
/// settings: see [`init`](ConditionalInstanceNormConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{ConditionalInstanceNorm, Context, Tensor};
///
/// let context = Context::host();
/// let mut norm = ConditionalInstanceNorm::config(2, 1).init(&context)?;
/// norm.fill_bias(|style| if style == 0 { 10.0 } else { 20.0 })?;
/// let x = Tensor::from_slice([2, 1, 2], &[1.0, 1.0, 5.0, 5.0])?;
/// let y = norm.forward_styles(&context, &x, &[1, 0])?;
/// assert_eq!(y.to_vec_blocking()?, [20.0, 20.0, 10.0, 10.0]);
/// let halves = Tensor::from_slice([1, 2], &[0.5f32, 0.5])?;
/// let y = norm.forward_blend(&context, &x, &halves)?;
/// assert_eq!(y.to_vec_blocking()?, [15.0; 4]);
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "A Learned Representation For Artistic Style", arXiv:1610.07629, §2.2.
pub struct ConditionalInstanceNorm {
    config: ConditionalInstanceNormConfig,
    parameters: Parameters,
}

/// What the backward pass of a [`ConditionalInstanceNorm`] needs. As [`Saved`] it shares x's data.
#[derive(Clone, Debug)]
pub struct ConditionalInstanceNormSaved<'a> {
    tables: Saved<'a>,
    weights: Tensor<'static>,
}

impl ConditionalInstanceNorm {
    const NAME: &'static str = "ConditionalInstanceNorm";

    /// Settings for a bank of styles, to be refined and built.
    pub fn config(num_styles: usize, num_features: usize) -> ConditionalInstanceNormConfig {
        ConditionalInstanceNormConfig::new(num_styles, num_features)
    }

    /// Normalizes `x`, sample n in style `styles[n]`.
    ///
    /// # Errors
    /// See [`ConditionalInstanceNorm`]; [`OperandError`](crate::OperandError) if x is not on
    /// `context`.
    pub fn forward_styles(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        styles: &[usize],
    ) -> Result<Tensor<'static>, Error> {
        self.forward_blend(context, x, &self.pick(styles)?)
    }

    /// As [`forward_styles`](Self::forward_styles), and also returns what
    /// [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`forward_styles`](Self::forward_styles).
    pub fn forward_styles_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        styles: &[usize],
    ) -> Result<(Tensor<'static>, ConditionalInstanceNormSaved<'a>), Error> {
        self.forward_blend_saved(context, x, &self.pick(styles)?)
    }

    /// Normalizes `x`, each sample in the sum of the styles times its weights.
    ///
    /// # Errors
    /// As [`forward_styles`](Self::forward_styles).
    pub fn forward_blend(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        weights: &Tensor<'_>,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_blend_with(context, x, weights, &Extras::new())
    }

    /// As [`forward_blend`](Self::forward_blend), with an addend, an activation, a mask, statistics.
    /// Where samples pick their styles, [`pick`](Self::pick) makes the weights.
    ///
    /// # Errors
    /// As [`forward_styles`](Self::forward_styles), and [`ShapeError`] for extras that do not fit x.
    pub fn forward_blend_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weights: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<Tensor<'static>, Error> {
        let tables = self.tables(context, x, weights)?;
        let y = self.content().inputs(context, x, &tables, extras)?.forward(context)?;
        self.observe(x, &y);
        Ok(y)
    }

    /// As [`forward_blend`](Self::forward_blend), and also returns what [`backward`](Self::backward)
    /// needs.
    ///
    /// # Errors
    /// As [`forward_styles`](Self::forward_styles).
    pub fn forward_blend_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weights: &Tensor<'_>,
    ) -> Result<(Tensor<'static>, ConditionalInstanceNormSaved<'a>), Error> {
        self.forward_blend_saved_with(context, x, weights, &Extras::new())
    }

    /// As [`forward_blend_with`](Self::forward_blend_with), and also returns what
    /// [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`forward_blend_with`](Self::forward_blend_with).
    pub fn forward_blend_saved_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weights: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<(Tensor<'static>, ConditionalInstanceNormSaved<'a>), Error> {
        let tables = self.tables(context, x, weights)?;
        let inputs = self.content().inputs(context, x, &tables, extras)?;
        let (y, tables) = inputs.forward_saved(context)?;
        self.observe(x, &y);
        Ok((y, ConditionalInstanceNormSaved { tables, weights: weights.clone().into_owned() }))
    }

    /// The gradients of x and of the whole bank, `(num_styles, C)`, from the gradient `dy` of the
    /// output.
    ///
    /// # Errors
    /// As [`NormLayer::backward`](super::NormLayer::backward).
    pub fn backward(
        &self,
        context: &Context,
        saved: &ConditionalInstanceNormSaved<'_>,
        dy: &Tensor<'_>,
    ) -> Result<Grads, Error> {
        self.gradients(context, saved, dy, None)
    }

    /// As [`backward`](Self::backward), adding the bank's gradients in `grads` to the new ones; its dx
    /// and daddend are replaced, gradients of parameters that get none stay.
    ///
    /// # Errors
    /// As [`NormLayer::backward_accumulate`](super::NormLayer::backward_accumulate).
    pub fn backward_accumulate(
        &self,
        context: &Context,
        saved: &ConditionalInstanceNormSaved<'_>,
        dy: &Tensor<'_>,
        grads: &mut Grads,
    ) -> Result<(), Error> {
        let bank: Shape = [saved.weights.shape()[1], saved.tables.x.shape()[1]].into();
        let shapes = saved.tables.wants.map(|wanted| wanted.then_some(&bank));
        grads.check_accumulate(&saved.tables, shapes)?;
        let sum = self.gradients(context, saved, dy, Some(grads))?;
        *grads = sum;
        Ok(())
    }

    fn gradients(
        &self,
        context: &Context,
        saved: &ConditionalInstanceNormSaved<'_>,
        dy: &Tensor<'_>,
        old: Option<&Grads>,
    ) -> Result<Grads, Error> {
        let grads = backward(&self.parameters, &saved.tables, dy).run(context, None)?;
        let gather = |table: &Option<Tensor<'static>>, old: Option<&Tensor<'static>>| {
            let table = table.as_ref();
            table.map(|table| ops::mix(context, &saved.weights, table, true, old)).transpose()
        };
        let dweight = gather(&grads.dweight, old.and_then(|old| old.dweight.as_ref()))?;
        let dbias = gather(&grads.dbias, old.and_then(|old| old.dbias.as_ref()))?;
        Ok(Grads { dweight, dbias, ..grads }.keeping(old))
    }

    /// The weights, `(N, num_styles)`, with which sample n is in style `styles[n]`, where the layer
    /// works.
    ///
    /// # Errors
    /// [`ShapeError::Style`] for an index beyond the bank; [`RunError`](crate::RunError) if the device
    /// fails.
    pub fn pick(&self, styles: &[usize]) -> Result<Tensor<'static>, Error> {
        let limit = self.config.num_styles;
        let desc = TensorDesc::new([styles.len(), limit])?;
        host::check_memory(desc.bytes())?;
        let mut weights = vec![0.0; styles.len() * limit];
        for (row, &got) in weights.chunks_mut(limit).zip(styles) {
            *row.get_mut(got).ok_or(ShapeError::Style { layer: Self::NAME, got, limit })? = 1.0;
        }
        Tensor::from_vec([styles.len(), limit], weights)?.to_context(self.context())
    }

    /// The weights and the biases of samples that blend styles by `weights`, each `(N, C)` or `(1, C)`:
    /// what [`AdaIn`](super::AdaIn) takes as tables, also in an encoder of your own
    /// ([`record_tables`](super::AdaIn::record_tables)).
    ///
    /// # Errors
    /// As [`forward_blend`](Self::forward_blend).
    pub fn style_tables(
        &self,
        context: &Context,
        weights: &Tensor<'_>,
    ) -> Result<(Tensor<'static>, Tensor<'static>), Error> {
        let samples = weights.shape().first().copied().unwrap_or(0);
        self.blend(context, samples, weights).map(Into::into)
    }

    /// Those of x.
    fn tables(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        weights: &Tensor<'_>,
    ) -> Result<Tables, Error> {
        self.content().problem(x.desc())?;
        self.blend(context, x.shape()[0], weights)
    }

    /// Rows of the bank, mixed.
    fn blend(
        &self,
        context: &Context,
        samples: usize,
        weights: &Tensor<'_>,
    ) -> Result<Tables, Error> {
        let (layer, operand) = (Self::NAME, "weights");
        self.check_context(context)?;
        let rows = if weights.shape().first() == Some(&1) { 1 } else { samples };
        let (expected, got) = ([rows, self.config.num_styles].into(), weights.shape().clone());
        if got != expected {
            return Err(ShapeError::Operand { layer, operand, expected, got }.into());
        }
        let (expected, got) = (DType::F32, weights.dtype());
        if ![DType::F32, DType::F64].contains(&got) {
            return Err(ShapeError::DType { layer, operand, expected, got }.into());
        }
        let [weight, bias] = [self.weight(), self.bias()].map(|bank| bank.expect("always there"));
        let mix = |bank| ops::mix(context, weights, bank, false, None);
        Ok([mix(weight)?, mix(bias)?])
    }

    fn content(&self) -> Content<'_> {
        let ConditionalInstanceNormConfig { num_features, eps, one_value, .. } = self.config;
        Content { parameters: &self.parameters, eps, one_value, features: Some(num_features) }
    }
}

layer!(ConditionalInstanceNorm, ConditionalInstanceNormConfig);

/// `ConditionalInstanceNorm(4, 3, eps=1e-05)`; PyTorch has no such layer.
impl fmt::Display for ConditionalInstanceNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConditionalInstanceNormConfig { num_styles, num_features, eps, .. } = self.config;
        write!(f, "ConditionalInstanceNorm({num_styles}, {num_features}, eps={})", Float(eps))
    }
}
