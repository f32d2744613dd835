//! Layers of any type, and what of them waits for a device: by blocking, which polls an application's device that
//! nobody else polls, but in a browser by awaiting.

use std::ops::DerefMut;
use wgnorm::{Error, NormLayer, Parameters};

/// A layer whose parameters can be set.
pub trait Layer: NormLayer + DerefMut<Target = Parameters> {}
impl<L: NormLayer + DerefMut<Target = Parameters>> Layer for L {}

/// `layer.cast(dtype)`.
macro_rules! cast {
    ($layer:expr, $dtype:expr) => {{
        let (layer, dtype) = ($layer, $dtype);
        #[cfg(not(target_arch = "wasm32"))]
        let cast = layer.cast_blocking(dtype);
        #[cfg(target_arch = "wasm32")]
        let cast = layer.cast(dtype).await;
        cast
    }};
}
pub(crate) use cast;

/// Training steps counted.
pub async fn tracked(layer: &dyn Layer) -> Result<u64, Error> {
    #[cfg(not(target_arch = "wasm32"))]
    return layer.num_batches_tracked_blocking();
    #[cfg(target_arch = "wasm32")]
    layer.num_batches_tracked().await
}
