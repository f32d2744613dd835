//! Closures that watch a layer.

use crate::Tensor;

macro_rules! observer {
    ($($bound:tt)*) => {
        /// A closure that sees the input and output of a layer's calls, see
        /// [`Parameters::set_observer`](crate::Parameters::set_observer). `Send` and `Sync` natively;
        /// in a browser it stays on its thread.
        pub trait Observer: $($bound)* {}
        impl<F: $($bound)*> Observer for F {}
    };
}

#[cfg(not(target_arch = "wasm32"))]
observer!(Fn(&Tensor<'_>, &Tensor<'_>) + Send + Sync + 'static);
#[cfg(target_arch = "wasm32")]
observer!(Fn(&Tensor<'_>, &Tensor<'_>) + 'static);
