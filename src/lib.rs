//! The normalization layers of deep learning on every GPU, through WebGPU, with PyTorch's semantics
//! and a host path for devices that cannot run the shaders.
//!
//! ```
//! use wgnorm::{Affine, Context, InstanceNorm2d, Mode, NormLayer, Tensor};
//!
//! // The best GPU, or the host where there is none: `context` prints which, and why.
//! // (`Context::open().await` in async code and in browsers.)
//! # let context = Context::host();
//! # /*
//! let context = Context::open_blocking();
//! # */
//! let mut norm = InstanceNorm2d::config(3).with_affine(Affine::Both).init(&context)?;
//! norm.set_weight(&Tensor::from_slice([3], &[1.0, 0.5, 2.0])?)?;
//!
//! let photo = vec![0.5f32; 3 * 64 * 64];
//! let x = Tensor::from_slice([1, 3, 64, 64], &photo)?.to_context(&context)?;
//! let y = norm.forward(&context, &x, Mode::Eval)?;
//! assert_eq!(y.to_vec_blocking()?, vec![0.0; photo.len()]); // a constant picture has no contrast
//! # Ok::<(), wgnorm::Error>(())
//! ```
//!
//! # What lives how long
//!
//! A [`Context`] is expensive and made once. A layer owns its parameters. A [`Tensor`] is cheap to
//! clone; on a GPU its memory is reused after it is dropped. What is computed is a [`Problem`], how
//! is a [`Plan`](plan::Plan): both plain data.
//!
//! # In your own wgpu application
//!
//! [`Context::from_device`] takes your device, [`Tensor::from_buffer`] your buffers, and
//! [`NormLayer::record`] records into your encoder or compute pass without submitting, polling or
//! mapping.
//!
//! # Conventions
//!
//! | | |
//! |---|---|
//! | variance that normalizes | population, Σ(x−mean)²/M |
//! | variance in `running_var` | unbiased, over M−1, unless [`Estimator::Biased`] |
//! | eps | inside the root: `(x − mean) / √(var + eps)` |
//! | momentum | `running = (1 − momentum)·running + momentum·batch` |
//! | one value per statistic | an error unless [`OneValue::Bias`] |
//! | wrong number of channels | always an error |
//! | eps of 0 | accepted, also by BatchNorm in training, which PyTorch refuses; a constant group gives the bias |
//! | negative eps | an error, as PyTorch's BatchNorm; its other layers take it |
//! | empty input | empty output; running statistics stay. PyTorch refuses `(N, C, 0)` in GroupNorm and `(0, C, 1)` in InstanceNorm1d (likewise 2d, 3d), and fails on an empty batch in InstanceNorm with parameters and tracking |
//! | training step without elements | counts in `num_batches_tracked`, as in PyTorch's BatchNorm; so does a step in which a mask counts nothing |
//! | `normalized_shape` with a size of 0 | an error, where PyTorch accepts it |
//! | float64 | wants float64 parameters and running statistics (`with_dtype`, `cast`), on the host alone |
//! | activations at infinity | what PyTorch gives in f64: SiLU and GELU are NaN at −∞ and +∞ at +∞, where PyTorch's f32 GELU is NaN |
//! | a sample in a batch | has the bits that it has alone; not yet on the host, where a mask covers some samples only, or where a channels-last sample has squares or products beyond f32 |
//! | input and output | may be at the same place, or apart in one buffer |
//!
//! # Features
//!
//! All but `tracing` on by default. `gpu`: without it, the host path alone and no wgpu. `vulkan`, `metal`, `dx12`,
//! `gles`, `webgpu`: wgpu's back ends; an application that hands us its device needs none of them
//! from here. `rayon`: without it the host path has one thread and the same results. `safetensors`:
//! without it a [`StateDict`] is made and taken apart in memory alone. `serde`: settings can be
//! serialized. `tracing`: each call of a layer is a span of the [tracing](https://docs.rs/tracing)
//! crate at level DEBUG, `wgnorm` with the fields `call`, `layer`, `x` and `dtype`.

// A browser's wgpu objects belong to one thread, and so does what holds them there.
#![cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod context;
mod desc;
mod error;
#[cfg(feature = "gpu")]
mod gpu;
mod half_bits;
mod host;
pub mod layers;
mod mask;
mod ops;
pub mod plan;
mod problem;
mod resilient;
mod state_dict;
mod statistics;
mod tensor;
mod trace;
mod view;

pub use context::{Backend, Context, ContextOptions, Preference};
pub use desc::{DType, Element, MemoryOrder, Shape, TensorDesc};
pub use error::{
    ConfigError, Error, OpenError, OperandError, PlanError, RunError, ShapeError, StateError,
    TuningError,
};
#[cfg(feature = "gpu")]
pub use gpu::Recorder;
pub use half::{bf16, f16};
pub use layers::{
    AdaIn, AdaInConfig, AdaInGrads, AdaInSaved, Affine, BatchNorm1d, BatchNorm2d, BatchNorm3d,
    BatchNormConfig, BatchNormNd, BufferMut, ConditionalInstanceNorm,
    ConditionalInstanceNormConfig, ConditionalInstanceNormSaved, Extras, FusedBatchNorm1d,
    FusedBatchNorm2d, FusedBatchNorm3d, FusedBatchNormConfig, FusedBatchNormNd, Grads, GroupNorm,
    GroupNormConfig, Init, InstanceNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d,
    InstanceNormAxisConfig, InstanceNormConfig, InstanceNormNd, LayerNorm, LayerNormConfig, Lazy,
    LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d, LazyConfig, LazyFusedBatchNorm1d,
    LazyFusedBatchNorm2d, LazyFusedBatchNorm3d, LazyInstanceNorm, LazyInstanceNorm1d,
    LazyInstanceNorm2d, LazyInstanceNorm3d, NormLayer, Observer, OneValue, ParameterMut,
    Parameters, RmsNorm, RmsNormConfig, Saved,
};
pub use mask::Mask;
pub use problem::{Activation, Estimator, Mode, Momentum, Problem, RunningUpdate, StatSource};
pub use resilient::{LayerState, OnLoss, Portable, Resilient};
#[cfg(feature = "safetensors")]
pub use state_dict::OtherTensor;
pub use state_dict::{LoadOptions, LoadReport, Mismatch, Names, StateDict, StateValue};
pub use statistics::{GroupSums, Statistics};
pub use tensor::Tensor;
pub use view::View;

/// The README's example compiles and runs with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
