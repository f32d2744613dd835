//! What is the same in every layer's type: a `config` and `parameters`.

/// Settings, parameters by `Deref`, copies on another context or in another element type, `Debug`.
/// The type has a constant `NAME`.
macro_rules! layer {
    ($layer:ty, $config:ty $(, const $d:ident)?) => {
        impl $(<const $d: usize>)? $layer {
            /// The settings this layer was built from.
            pub fn settings(&self) -> &$config {
                &self.config
            }

            /// The same layer on another context, its values copied; the observer comes along.
            ///
            /// # Errors
            /// [`OperandError::NoF64`](crate::OperandError::NoF64) for f64 values and a GPU,
            /// [`RunError`](crate::RunError) if a device fails.
            pub async fn to_context(&self, context: &$crate::Context) -> Result<Self, $crate::Error> {
                let snapshot = self.parameters.snapshot().await?;
                self.rebuild(snapshot, context, self.parameters.dtype())
            }

            /// [`to_context`](Self::to_context) that blocks this thread, polling the device
            /// meanwhile. Native only.
            ///
            /// # Errors
            /// As [`to_context`](Self::to_context).
            #[cfg(not(target_arch = "wasm32"))]
            pub fn to_context_blocking(
                &self,
                context: &$crate::Context,
            ) -> Result<Self, $crate::Error> {
                let snapshot = self.parameters.snapshot_blocking()?;
                self.rebuild(snapshot, context, self.parameters.dtype())
            }

            /// The same layer with parameters and running statistics rounded to `dtype`. f64 input
            /// wants f64 parameters; all others take f32 ones too. On a GPU the rounded values are
            /// kept as f32, and `dtype` is what a checkpoint gets.
            ///
            /// # Errors
            /// [`OperandError::NoF64`](crate::OperandError::NoF64) for f64 on a GPU,
            /// [`RunError`](crate::RunError) if the device fails.
            pub async fn cast(&self, dtype: $crate::DType) -> Result<Self, $crate::Error> {
                let snapshot = self.parameters.snapshot().await?;
                self.rebuild(snapshot, self.parameters.context(), dtype)
            }

            /// [`cast`](Self::cast) that blocks this thread, polling the device meanwhile. Native
            /// only.
            ///
            /// # Errors
            /// As [`cast`](Self::cast).
            #[cfg(not(target_arch = "wasm32"))]
            pub fn cast_blocking(&self, dtype: $crate::DType) -> Result<Self, $crate::Error> {
                let snapshot = self.parameters.snapshot_blocking()?;
                self.rebuild(snapshot, self.parameters.context(), dtype)
            }

            pub(in $crate::layers) fn rebuild(
                &self,
                snapshot: $crate::layers::params::Snapshot,
                context: &$crate::Context,
                dtype: $crate::DType,
            ) -> Result<Self, $crate::Error> {
                let parameters = self.parameters.rebuild(snapshot, context, dtype)?;
                Ok(Self { config: self.config.clone(), parameters })
            }
        }

        impl $(<const $d: usize>)? $crate::Portable for $layer {
            type State = $crate::LayerState;

            async fn save(&self) -> Result<$crate::LayerState, $crate::Error> {
                Ok($crate::LayerState(self.parameters.snapshot().await?))
            }

            fn restore(
                &self,
                state: &$crate::LayerState,
                context: &$crate::Context,
            ) -> Result<Self, $crate::Error> {
                self.rebuild(state.0.clone(), context, self.parameters.dtype())
            }

            fn is_changed_by_calls(&self) -> bool {
                self.parameters.running().is_ok()
            }
        }

        /// Parameters are set and read directly on the layer.
        impl $(<const $d: usize>)? std::ops::Deref for $layer {
            type Target = $crate::Parameters;
            fn deref(&self) -> &$crate::Parameters {
                &self.parameters
            }
        }

        impl $(<const $d: usize>)? std::ops::DerefMut for $layer {
            fn deref_mut(&mut self) -> &mut $crate::Parameters {
                &mut self.parameters
            }
        }

        impl $(<const $d: usize>)? std::fmt::Debug for $layer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(Self::NAME).field("config", &self.config).finish_non_exhaustive()
            }
        }
    };
}

pub(super) use layer;
