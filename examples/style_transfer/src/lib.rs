//! Fast neural style transfer: a photograph in, a painting of it out, in one pass of a small convolutional network.
//!
//! The demo of [`wgnorm`], and the proof that its layers fit into somebody else's command encoder: the convolutions
//! are this crate's own kernels, each stage records one of them and then one fused normalization, and nothing is
//! submitted in between. The same network runs on the host where there is no GPU.
//!
//! [`Stylizer::new`] takes a network that learned one style, [`Stylizer::adain`] takes the style of any picture.
//!
//! On wasm32 it is the module of a web page: the browser decodes and encodes pictures and fetches the styles, so
//! `Picture` and `Style` are not there.
//!
//! ```
//! # pollster::block_on(async {
//! use style_transfer::{PHOTOGRAPH, Picture, Style, Stylizer};
//!
//! let context = wgnorm::Context::host(); // or Context::open().await
//! let net = Style::named("ink")?.net()?;
//! let mut stylizer = Stylizer::new(&context, &net).await?;
//! let picture = Picture::decode(PHOTOGRAPH)?.resized(64);
//! let painting = stylizer.stylize(&picture, |progress| eprintln!("{}", progress.stage)).await?;
//! assert_eq!(painting.size(), picture.size());
//! # Ok::<_, style_transfer::Error>(())
//! # }).unwrap();
//! ```
#![warn(missing_docs)]

mod adain;
mod error;
mod executor;
mod gpu;
mod host;
mod net;
mod norms;
#[cfg(not(target_arch = "wasm32"))]
mod picture;
mod planes;
#[cfg(not(target_arch = "wasm32"))]
mod source;
#[cfg(not(target_arch = "wasm32"))]
mod styles;
mod stylizer;
#[cfg(test)]
mod testing;
#[cfg(target_arch = "wasm32")]
mod web;
mod weights;

pub use adain::{ADAIN_SMALLEST_SIDE, AdaInNet};
pub use error::{Error, GpuError, PictureError, WeightsError};
pub use net::{Finish, Geometry, NormWeights, SMALLEST_SIDE, Size, Stage, TransformerNet};
#[cfg(not(target_arch = "wasm32"))]
pub use picture::{Format, Picture, read_file};
pub use planes::Planes;
#[cfg(not(target_arch = "wasm32"))]
pub use source::PictureFile;
#[cfg(not(target_arch = "wasm32"))]
pub use styles::{PHOTOGRAPH, STYLES, Style};
pub use stylizer::{Progress, Stylizer};
pub use weights::Content;
