//! Layers whose number of channels is told by the first input.

use super::{
    BatchNormConfig, BatchNormNd, Extras, FusedBatchNormConfig, FusedBatchNormNd, InstanceNorm,
    InstanceNormAxisConfig, InstanceNormConfig, InstanceNormNd, NormLayer, Parameters, Saved,
    check_call,
    params::{Snapshot, check_dtype},
};
use crate::desc::TensorDesc;
use crate::problem::Mode;
use crate::state_dict::{LoadOptions, LoadReport, StateDict};
use crate::{ConfigError, Context, DType, Error, LayerState, ShapeError, StateError, Tensor};
use std::{fmt, ops::DerefMut, sync::OnceLock};

/// Settings of a layer that may leave its number of channels open.
pub trait LazyConfig: sealed::Open + Clone + fmt::Debug {
    /// The layer they build.
    type Layer: NormLayer + DerefMut<Target = Parameters> + fmt::Display;

    /// Builds it: the settings' own `init`.
    ///
    /// # Errors
    /// As that.
    fn build(self, context: &Context) -> Result<Self::Layer, Error>;

    /// The layer with these values, in another element type.
    #[doc(hidden)]
    fn rebuild(
        layer: &Self::Layer,
        values: LayerState,
        context: &Context,
        dtype: DType,
    ) -> Result<Self::Layer, Error>;
}

/// A layer whose settings have 0 channels: the first call whose operands fit, or a loaded state, fixes
/// the number and creates the parameters. A call refused for its operands leaves it open; one that
/// fails later, at a limit of the device or because it is lost, does not.
///
/// PyTorch's `Lazy…` modules, MXNet's `in_channels=0`. Until then there are no parameters, and asking
/// for the layer is [`StateError::Uninitialized`]. Of concurrent first calls one wins; then, and ever
/// after, an input with another number of channels is [`ShapeError::Channels`].
///
/// The settings say what will be created, and in which element type ([`cast`](Self::cast) may still change it).
/// PyTorch's `LazyInstanceNorm1d` to 3d have parameters and running statistics by default; the settings of
/// an InstanceNorm have neither.
///
/// # Example
/// ```
/// use wgnorm::{BatchNorm2d, Context, LazyBatchNorm2d, Mode, Tensor};
///
/// let context = Context::host();
/// let norm = LazyBatchNorm2d::new(BatchNorm2d::config(0), &context)?;
/// assert!(norm.layer().is_err());
/// norm.forward(&context, &Tensor::from_slice([1, 3, 1, 2], &[1.0; 6])?, Mode::Train)?;
/// assert_eq!(norm.layer()?.settings().num_features, 3);
/// # Ok::<(), wgnorm::Error>(())
/// ```
pub struct Lazy<C: LazyConfig> {
    config: C,
    context: Context,
    layer: OnceLock<C::Layer>,
}

/// See [`Lazy`].
pub type LazyInstanceNorm1d = Lazy<InstanceNormConfig<1>>;
/// See [`Lazy`].
pub type LazyInstanceNorm2d = Lazy<InstanceNormConfig<2>>;
/// See [`Lazy`].
pub type LazyInstanceNorm3d = Lazy<InstanceNormConfig<3>>;
/// See [`Lazy`]; the number of channels is that of the settings' axis.
pub type LazyInstanceNorm = Lazy<InstanceNormAxisConfig>;
/// See [`Lazy`].
pub type LazyBatchNorm1d = Lazy<BatchNormConfig<1>>;
/// See [`Lazy`].
pub type LazyBatchNorm2d = Lazy<BatchNormConfig<2>>;
/// See [`Lazy`].
pub type LazyBatchNorm3d = Lazy<BatchNormConfig<3>>;
/// See [`Lazy`].
pub type LazyFusedBatchNorm1d = Lazy<FusedBatchNormConfig<1>>;
/// See [`Lazy`].
pub type LazyFusedBatchNorm2d = Lazy<FusedBatchNormConfig<2>>;
/// See [`Lazy`].
pub type LazyFusedBatchNorm3d = Lazy<FusedBatchNormConfig<3>>;

impl<C: LazyConfig> Lazy<C> {
    /// A layer for `context`. Settings that know their channels build it right away.
    ///
    /// # Errors
    /// As the settings' `init`, but for zero channels.
    pub fn new(config: C, context: &Context) -> Result<Self, Error> {
        let lazy = Lazy { config, context: context.clone(), layer: OnceLock::new() };
        check_dtype(lazy.config.name(), lazy.config.dtype(), context)?;
        match lazy.config.num_features() {
            0 => lazy.config.with_num_features(1).check()?,
            known => drop(lazy.fix(lazy.build(known)?)),
        }
        Ok(lazy)
    }

    fn build(&self, num_features: usize) -> Result<C::Layer, Error> {
        self.config.with_num_features(num_features).build(&self.context)
    }

    /// The layer that was first.
    fn fix(&self, layer: C::Layer) -> &C::Layer {
        self.layer.get_or_init(|| layer)
    }

    /// The same with parameters and running statistics of another element type: those that are there
    /// rounded, or those that the first call or a loaded state will create.
    ///
    /// # Errors
    /// [`OperandError::NoF64`](crate::OperandError::NoF64) for f64 on a GPU,
    /// [`RunError`](crate::RunError) if the device fails.
    pub async fn cast(&self, dtype: DType) -> Result<Self, Error> {
        let snapshot = match self.layer.get() {
            Some(layer) => Some((layer, layer.snapshot().await?)),
            None => None,
        };
        self.with_dtype(snapshot, dtype)
    }

    /// [`cast`](Self::cast) that blocks this thread, polling the device meanwhile. Native only.
    ///
    /// # Errors
    /// As [`cast`](Self::cast).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn cast_blocking(&self, dtype: DType) -> Result<Self, Error> {
        let layer = self.layer.get();
        let snapshot = layer.map(|layer| Ok::<_, Error>((layer, layer.snapshot_blocking()?)));
        self.with_dtype(snapshot.transpose()?, dtype)
    }

    fn with_dtype(
        &self,
        layer: Option<(&C::Layer, Snapshot)>,
        dtype: DType,
    ) -> Result<Self, Error> {
        check_dtype(self.config.name(), dtype, &self.context)?;
        let (config, context) = (self.config.with_dtype(dtype), self.context.clone());
        let rebuild = |(layer, values)| C::rebuild(layer, LayerState(values), &context, dtype);
        let layer = layer.map(rebuild).transpose()?.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Lazy { config, context, layer })
    }

    /// The layer.
    ///
    /// # Errors
    /// [`StateError::Uninitialized`] before its number of channels is known.
    pub fn layer(&self) -> Result<&C::Layer, StateError> {
        self.layer.get().ok_or(StateError::Uninitialized { layer: self.config.name() })
    }

    /// The layer, to be changed.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub fn layer_mut(&mut self) -> Result<&mut C::Layer, StateError> {
        let layer = self.config.name();
        self.layer.get_mut().ok_or(StateError::Uninitialized { layer })
    }

    /// The layer, which this call fixes if none did before, and if it will do.
    fn layer_for_call<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        extras: &Extras<'a>,
        mode: Mode,
    ) -> Result<&C::Layer, Error> {
        if let Some(layer) = self.layer.get() {
            return Ok(layer);
        }
        let axis = self.config.channel_axis(x.desc())?;
        let layer = self.build(x.shape()[axis])?;
        check_call(&layer, context, x, extras, mode)?;
        Ok(self.fix(layer))
    }

    /// The layer, which this input fixes if none did before: for all calls that are not here.
    ///
    /// # Errors
    /// [`ShapeError`] for an input that does not fit the settings, as the settings' `init`.
    pub fn layer_for(&self, x: &TensorDesc) -> Result<&C::Layer, Error> {
        match self.layer.get() {
            Some(layer) => Ok(layer),
            None => {
                let axis = self.config.channel_axis(x)?;
                Ok(self.fix(self.build(x.shape[axis])?))
            }
        }
    }

    /// The layer's [`NormLayer::forward`].
    ///
    /// # Errors
    /// As that, and as the settings' `init`.
    pub fn forward(
        &self,
        context: &Context,
        x: &Tensor<'_>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        self.forward_with(context, x, &Extras::new(), mode)
    }

    /// The layer's [`NormLayer::forward_with`].
    ///
    /// # Errors
    /// As that, and as the settings' `init`.
    pub fn forward_with<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        extras: &Extras<'a>,
        mode: Mode,
    ) -> Result<Tensor<'static>, Error> {
        self.layer_for_call(context, x, extras, mode)?.forward_with(context, x, extras, mode)
    }

    /// The layer's [`NormLayer::forward_saved`]. The backward pass is the [`layer`](Self::layer)'s.
    ///
    /// # Errors
    /// As that, and as the settings' `init`.
    pub fn forward_saved<'a>(
        &self,
        context: &Context,
        x: &Tensor<'a>,
        mode: Mode,
    ) -> Result<(Tensor<'static>, Saved<'a>), Error> {
        self.layer_for_call(context, x, &Extras::new(), mode)?.forward_saved(context, x, mode)
    }

    /// [`Parameters::load_state_dict`]; the state's number of channels becomes the layer's, if none
    /// did before.
    ///
    /// # Errors
    /// As [`Parameters::load_state_dict`]; the layer then is as it was.
    pub fn load_state_dict(
        &mut self,
        state: &StateDict,
        options: &LoadOptions,
    ) -> Result<LoadReport, Error> {
        if let Some(layer) = self.layer.get_mut() {
            return layer.load_state_dict(state, options);
        }
        let features = state.num_features(options);
        // Without a number the layer stays open; one of any size tells what is missing or does not fit.
        let size = features.or_else(|| state.intended_features(options)).unwrap_or(1);
        let mut layer = self.build(size)?;
        let report = layer.load_state_dict(state, options)?;
        if features.is_some() {
            self.fix(layer);
        }
        Ok(report)
    }
}

/// PyTorch's text: `LazyInstanceNorm2d(0, …)`, after initialization the layer's.
impl<C: LazyConfig> fmt::Display for Lazy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer.get() {
            Some(layer) => write!(f, "{layer}"),
            None => {
                f.write_str("Lazy")?;
                self.config.repr(f)
            }
        }
    }
}

impl<C: LazyConfig> fmt::Debug for Lazy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("config", &self.config).finish_non_exhaustive()
    }
}

mod sealed {
    use super::*;

    /// What [`Lazy`] asks of settings.
    pub trait Open {
        fn name(&self) -> &'static str;
        fn num_features(&self) -> usize;
        fn with_num_features(&self, num_features: usize) -> Self;
        fn dtype(&self) -> DType;
        fn with_dtype(&self, dtype: DType) -> Self;
        fn check(&self) -> Result<(), ConfigError>;
        fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError>;
        fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    }
}

macro_rules! open {
    ($config:ty => $layer:ty $(, const $d:ident)?) => {
        impl $(<const $d: usize>)? LazyConfig for $config {
            type Layer = $layer;

            fn build(self, context: &Context) -> Result<$layer, Error> {
                self.init(context)
            }

            fn rebuild(
                layer: &$layer,
                values: LayerState,
                context: &Context,
                dtype: DType,
            ) -> Result<$layer, Error> {
                layer.rebuild(values.0, context, dtype)
            }
        }

        impl $(<const $d: usize>)? sealed::Open for $config {
            fn name(&self) -> &'static str {
                <$layer>::NAME
            }

            fn num_features(&self) -> usize {
                self.num_features
            }

            fn with_num_features(&self, num_features: usize) -> Self {
                let mut config = self.clone();
                config.num_features = num_features;
                config
            }

            fn dtype(&self) -> DType {
                self.dtype
            }

            fn with_dtype(&self, dtype: DType) -> Self {
                self.clone().with_dtype(dtype)
            }

            fn check(&self) -> Result<(), ConfigError> {
                self.check()
            }

            fn channel_axis(&self, x: &TensorDesc) -> Result<usize, ShapeError> {
                self.channel_axis(x)
            }

            fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.repr(f)
            }
        }
    };
}

open!(InstanceNormConfig<D> => InstanceNormNd<D>, const D);
open!(InstanceNormAxisConfig => InstanceNorm);
open!(BatchNormConfig<D> => BatchNormNd<D>, const D);
open!(FusedBatchNormConfig<D> => FusedBatchNormNd<D>, const D);
