//! A span of the `tracing` crate for each call of a layer; without the feature, nothing.

use crate::TensorDesc;

/// Entered until dropped: on a GPU that is the encoding and submitting, not the device's work.
#[cfg(feature = "tracing")]
pub(crate) fn span(call: &'static str, layer: &'static str, x: &TensorDesc) -> impl Sized + use<> {
    tracing::debug_span!("wgnorm", call, layer, x = %x.shape, dtype = %x.dtype).entered()
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn span(_: &'static str, _: &'static str, _: &TensorDesc) -> impl Sized + use<> {}
