//! Adaptive instance normalization. The calls with a style tensor are in [`style`](super::style).

use super::params::Blueprint;
use super::repr::Float;
use super::sealed::Sealed;
use super::settings::{check_eps, settings};
use super::tables::{Content, Tables};
use super::{Extras, Grads, NormLayer, OneValue, Parameters, Saved, layer};
use crate::desc::TensorDesc;
use crate::problem::{Mode, Problem};
use crate::{Context, Error, Estimator, ShapeError, Tensor};
#[cfg(feature = "gpu")]
use crate::{
    OperandError,
    gpu::{self, Recorder},
};
use std::fmt;

/// Settings of an [`AdaIn`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AdaInConfig {
    /// See [`with_eps`](Self::with_eps).
    pub eps: f64,
    /// See [`with_style_estimator`](Self::with_style_estimator).
    pub style_estimator: Estimator,
    /// See [`with_one_value`](Self::with_one_value).
    pub one_value: OneValue,
}

impl Default for AdaInConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl AdaInConfig {
    /// eps 1e-5 in both roots, the style's population variance.
    pub fn new() -> Self {
        let style_estimator = Estimator::Biased;
        AdaInConfig { eps: 1e-5, style_estimator, one_value: OneValue::Error }
    }

    /// Which variance the style's deviation is taken from: the population's (default), or the
    /// unbiased one of the paper's code.
    pub fn with_style_estimator(mut self, estimator: Estimator) -> Self {
        self.style_estimator = estimator;
        self
    }

    settings!(eps, one_value);

    /// Builds the layer. It has no parameters.
    ///
    /// # Errors
    /// [`ConfigError`](crate::ConfigError) for an `eps` that is negative or not finite.
    pub fn init(self, context: &Context) -> Result<AdaIn, Error> {
        check_eps(AdaIn::NAME, self.eps)?;
        let parameters = Parameters::new(context, Blueprint::new(AdaIn::NAME))?;
        Ok(AdaIn { config: self, parameters })
    }
}

/// Adaptive instance normalization: each channel of each sample of a content is normalized to zero
/// mean and unit variance, then takes the deviation and mean of the same channel of a style.
///
/// `y = (x − μ) / √(σ² + eps) · √(σₛ² + eps) + μₛ`, with μ, σ² over the positions of x and μₛ, σₛ²
/// over those of the style. The style is given as a tensor ([`forward_style`](Self::forward_style)) or
/// as tables of weights and biases per sample and channel ([`forward_tables`](Self::forward_tables)).
/// The calls of [`NormLayer`] take no style: they normalize the content alone, and serve its
/// statistics and the backward pass of tables. Both modes are the same.
///
/// # Shapes
/// - `x`, `y`: `(N, C, …)`; either memory order
/// - style: `(N, C, …)` of any spatial size, or `(1, C, …)` for all samples, whose gradient is then
///   the sum over the samples; x's element type and memory order
/// - tables: `(N, C)`, or `(1, C)` for all samples; f32 (16-bit ones on the host too), f64 for f64
///   input
///
/// # Numerics
/// As [`InstanceNormNd`](super::InstanceNormNd), for both statistics.
///
/// # Errors
/// Of the calls: [`ShapeError::Rank`], [`ShapeError::OneValue`] for one spatial position of the
/// content unless [`OneValue::Bias`] is set, [`ShapeError::Operand`], [`ShapeError::DType`],
/// [`ShapeError::Order`] for a style or tables that do not go with x, [`ShapeError::FewValues`] for a
/// style without positions, or with one and the unbiased estimator. Of the settings: see
/// [`init`](AdaInConfig::init).
///
/// # Example
/// ```
/// use wgnorm::{AdaIn, Context, Tensor};
///
/// let context = Context::host();
/// let norm = AdaIn::config().init(&context)?;
/// let content = Tensor::from_slice([1, 1, 2], &[1.0, 3.0])?;
/// let style = Tensor::from_slice([1, 1, 2], &[0.0, 20.0])?;
/// let y = norm.forward_style(&context, &content, &style)?.to_vec_blocking()?;
/// assert!(y[0].abs() < 1e-3 && (y[1] - 20.0).abs() < 1e-3);
/// # Ok::<(), wgnorm::Error>(())
/// ```
///
/// # Source
/// "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", arXiv:1703.06868.
pub struct AdaIn {
    config: AdaInConfig,
    parameters: Parameters,
}

impl AdaIn {
    pub(super) const NAME: &'static str = "AdaIn";

    /// Settings, to be refined and built.
    pub fn config() -> AdaInConfig {
        AdaInConfig::new()
    }

    /// Normalizes `x`, then scales and shifts each channel of each sample by these tables.
    ///
    /// # Errors
    /// See [`AdaIn`]; [`OperandError`](crate::OperandError) if an operand is not on `context`.
    pub fn forward_tables(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        weight: &Tensor<'_>,
        bias: &Tensor<'_>,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_tables_with(context, x, weight, bias, &Extras::new())
    }

    /// As [`forward_tables`](Self::forward_tables), with an addend, an activation, a mask, statistics
    /// of x.
    ///
    /// # Errors
    /// As [`forward_tables`](Self::forward_tables), and [`ShapeError`] for extras that do not fit x.
    pub fn forward_tables_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weight: &Tensor<'_>,
        bias: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<Tensor<'static>, Error> {
        let tables = owned(weight, bias);
        let y = self.content().inputs(context, x, &tables, extras)?.forward(context)?;
        self.observe(x, &y);
        Ok(y)
    }

    /// As [`forward_tables`](Self::forward_tables), and also returns what
    /// [`backward_tables`](Self::backward_tables) needs.
    ///
    /// # Errors
    /// As [`forward_tables`](Self::forward_tables).
    pub fn forward_tables_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weight: &Tensor<'_>,
        bias: &Tensor<'_>,
    ) -> Result<(Tensor<'static>, Saved<'a>), Error> {
        self.forward_tables_saved_with(context, x, weight, bias, &Extras::new())
    }

    /// As [`forward_tables_with`](Self::forward_tables_with), and also returns what
    /// [`backward_tables`](Self::backward_tables) needs.
    ///
    /// # Errors
    /// As [`forward_tables_with`](Self::forward_tables_with).
    pub fn forward_tables_saved_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        weight: &Tensor<'_>,
        bias: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<(Tensor<'static>, Saved<'a>), Error> {
        let tables = owned(weight, bias);
        let inputs = self.content().inputs(context, x, &tables, extras)?;
        let (y, saved) = inputs.forward_saved(context)?;
        self.observe(x, &y);
        Ok((y, saved))
    }

    /// The gradients of x and the tables (`dweight` and `dbias`, of the tables' shape), from the
    /// gradient `dy` of the output. The same as [`NormLayer::backward`].
    ///
    /// # Errors
    /// As [`NormLayer::backward`].
    pub fn backward_tables(
        &self,
        context: &Context,
        saved: &Saved<'_>,
        dy: &Tensor<'_>,
    ) -> Result<Grads, Error> {
        self.backward(context, saved, dy)
    }

    /// Records [`forward_tables_with`](Self::forward_tables_with) as [`NormLayer::record`] does;
    /// `tables` are the weight and the bias.
    ///
    /// # Errors
    /// As [`forward_tables_with`](Self::forward_tables_with) and [`NormLayer::record`].
    #[cfg(feature = "gpu")]
    pub fn record_tables<'a>(
        &self,
        context: &Context,
        recorder: &mut dyn Recorder,
        x: &Tensor<'a>,
        tables: [&Tensor<'static>; 2],
        y: &Tensor<'_>,
        extras: &Extras<'a>,
    ) -> Result<(), Error> {
        let gpu = context.gpu().ok_or(OperandError::HostContext)?;
        let tables = tables.map(Tensor::clone);
        let inputs = self.content().inputs(context, x, &tables, extras)?;
        crate::ops::same_desc(Self::NAME, "y", x.desc(), y.desc())?;
        gpu::record(gpu, &inputs, y, recorder)
    }

    pub(super) fn content(&self) -> Content<'_> {
        let AdaInConfig { eps, one_value, .. } = self.config;
        Content { parameters: &self.parameters, eps, one_value, features: None }
    }
}

fn owned(weight: &Tensor<'_>, bias: &Tensor<'_>) -> Tables {
    [weight.clone().into_owned(), bias.clone().into_owned()]
}

layer!(AdaIn, AdaInConfig);

impl Sealed for AdaIn {
    fn counted_values(&self, problem: &Problem) -> Option<u32> {
        self.content().counted_values(problem)
    }
}

impl NormLayer for AdaIn {
    fn problem(&self, x: &TensorDesc, _: Mode) -> Result<Problem, ShapeError> {
        self.content().problem(x)
    }

    fn channel_axis(&self, _: &TensorDesc) -> Option<usize> {
        Some(1)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// `AdaIn(eps=1e-05)`; PyTorch has no such layer.
impl fmt::Display for AdaIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdaIn(eps={})", Float(self.config.eps))
    }
}
