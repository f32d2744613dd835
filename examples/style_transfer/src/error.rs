//! What can go wrong, one enum per phase, each saying what was found, what was expected, and the way out.

use crate::net::Size;
#[cfg(not(target_arch = "wasm32"))]
use crate::styles;
use crate::weights::Content;

/// A weights file that is none, or that does not fit the network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file of another kind under the name of a safetensors file.
    #[error("{found}")]
    Content {
        /// What it is; its text says what to do.
        found: Content,
    },
    /// A damaged or truncated safetensors file, or a file of an unknown kind.
    #[error("not a whole safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// The file holds another network.
    #[error("the file holds {found}, expected {expected}")]
    Architecture {
        /// What its tensors are, as far as their names and shapes say.
        found: String,
        /// The network that is wanted.
        expected: &'static str,
    },
    /// The decoder is made for an encoder of another width.
    #[error(
        "it is of width {found}, expected {expected} as the encoder is: take two that were trained together"
    )]
    Width {
        /// The width of the network in the file.
        found: usize,
        /// The width of the encoder.
        expected: usize,
    },
    /// A tensor of the network is not there.
    #[error(
        "tensor `{tensor}` is missing, expected with shape {expected:?}{others}{instead}",
        others = others_in_words(*others),
        instead = instead_in_words(instead.as_ref()),
    )]
    Missing {
        /// Its name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// How many more are missing.
        others: usize,
        /// A tensor that is there instead, which this network has no place for: its name and shape.
        instead: Option<(String, Vec<usize>)>,
    },
    /// Two tensors are one and the same but for what wrappers (`torch.compile`, …) put into names.
    #[error(
        "tensors `{tensor}` and `{other}` have the same place in the network: leave one of them out"
    )]
    Ambiguous {
        /// The name of the one.
        tensor: String,
        /// The name of the other.
        other: String,
    },
    /// A tensor has another shape than the network's width asks for.
    #[error(
        "tensor `{tensor}` has shape {found:?}, expected {expected:?} in a network of width {width}"
    )]
    Shape {
        /// Its name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
        /// The width, which most of the file's tensors have.
        width: usize,
    },
    /// A number format other than f32, f16, bf16.
    #[error("tensor `{tensor}` holds {found:?}, expected F32, F16 or BF16")]
    Dtype {
        /// Its name.
        tensor: String,
        /// The number format in the file.
        found: safetensors::Dtype,
    },
    /// Values that are NaN or infinite would spoil every painting.
    #[error(
        "tensor `{tensor}` holds {value} at {index:?}, expected finite values ({count} of its {total} are not): \
         take an earlier checkpoint of the training{}", if *.half { ", or save as F32, which holds values above 65504" } else { "" }
    )]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Where it is.
        index: Vec<usize>,
        /// How many there are in this tensor.
        count: usize,
        /// How many values the tensor has.
        total: usize,
        /// Whether it is in F16, which holds values up to 65504.
        half: bool,
    },
    /// A tensor that this network has no place for: the file belongs to another architecture.
    #[error("tensor `{tensor}` of shape {found:?}{others} has no place in this network", others = others_in_words(*others))]
    Unexpected {
        /// Its name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// How many more there are.
        others: usize,
    },
}

fn others_in_words(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and another one)".to_owned(),
        _ => format!(" (and {others} others)"),
    }
}

fn instead_in_words(instead: Option<&(String, Vec<usize>)>) -> String {
    instead.map_or_else(String::new, |(tensor, shape)| {
        format!("; the file has `{tensor}` of shape {shape:?}, which has no place in this network")
    })
}

fn format_in_words(ending: &str) -> String {
    match ending {
        "" => "the name has no ending, which says how a picture is written".to_owned(),
        _ => format!("unknown picture format {ending:?}"),
    }
}

/// What a decoder says, and what to do.
#[cfg(not(target_arch = "wasm32"))]
fn decoding_in_words(error: &image::ImageError) -> String {
    use image::error::{ImageFormatHint, UnsupportedErrorKind};
    match error {
        image::ImageError::Unsupported(unsupported) => match unsupported.kind() {
            UnsupportedErrorKind::Format(ImageFormatHint::Unknown) => {
                "this is no JPEG, PNG or WebP picture: save it as one of them".to_owned()
            }
            _ => {
                format!("this picture cannot be decoded ({error}): save it as a usual PNG or JPEG")
            }
        },
        _ => format!(
            "this picture cannot be decoded ({error}): the file is damaged, or of a rare kind; \
             fetch it again, or save it as a usual PNG or JPEG"
        ),
    }
}

/// A picture that cannot be read, used, or written. Browsers read and write pictures themselves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    /// Neither JPEG nor PNG nor WebP, damaged, or beyond the decoder's limits.
    #[cfg(not(target_arch = "wasm32"))]
    #[error("{}", decoding_in_words(.0))]
    Decode(image::ImageError),
    /// A file that ends before any of its picture can be decoded.
    #[error("the file is cut off, and too little of it is there to be painted: fetch it again")]
    CutOff,
    /// A WebP that is cut off, of which no part can be decoded.
    #[error("the file is cut off, and a part of a WebP cannot be decoded: fetch it again")]
    CutOffWebP,
    /// Reflection padding needs more pixels.
    #[error("{size} pixels are too few: each side needs at least {smallest}")]
    TooSmall {
        /// The picture's size.
        size: Size,
        /// The smallest side.
        smallest: usize,
    },
    /// A header can promise any number.
    #[error(
        "{size} pixels are too many: all together may be {most}; save the picture smaller first"
    )]
    TooLarge {
        /// The picture's size.
        size: Size,
        /// The most that are decoded.
        most: usize,
    },
    /// The pixels would take too many bytes: they have 16 bits a colour.
    #[error(
        "{size} pixels would take {needed} bytes, and may take {most}: save the picture smaller, or with 8 bits a colour, first"
    )]
    TooManyBytes {
        /// The picture's size.
        size: Size,
        /// Bytes of its pixels.
        needed: u64,
        /// The most that are decoded.
        most: u64,
    },
    /// Resizing would make too many pixels.
    #[error(
        "{from} pixels resized to {size} are too many: all together may be {most}; try --size {suggestion}"
    )]
    Enlarged {
        /// The picture's size.
        from: Size,
        /// The size that was asked for.
        size: Size,
        /// The most that a picture may have.
        most: usize,
        /// The largest longer side that is allowed.
        suggestion: usize,
    },
    /// The host has less memory than decoding and resizing need.
    #[error(
        "{size} pixels need {needed} bytes of memory to be read, and there are less: save the picture smaller first"
    )]
    Memory {
        /// The picture's size.
        size: Size,
        /// Bytes that are needed at once.
        needed: u64,
    },
    /// The format that is written cannot say such a size.
    #[error(
        "a JPEG of {size} pixels cannot be written, its sides may have {most}: choose a name that ends in .png{}",
        .suggestion.map_or_else(String::new, |side| format!(", or --size {side}"))
    )]
    TooLong {
        /// The painting's size.
        size: Size,
        /// The longest side.
        most: usize,
        /// The longer side with which the painting can be made and written.
        suggestion: Option<usize>,
    },
    /// The file name's ending names no format that can be written.
    #[error("{}: the name must end in .png, .jpg or .jpeg", format_in_words(.0))]
    UnknownFormat(String),
    /// The encoder failed.
    #[cfg(not(target_arch = "wasm32"))]
    #[error("cannot be encoded: {0}")]
    Encode(image::ImageError),
    /// The file cannot be created or written.
    #[error("cannot be written: {0}")]
    Write(std::io::Error),
}

/// The device refuses the picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// An activation would not fit one buffer.
    #[error(
        "a picture of {size} needs a buffer of {needed} bytes, but this device's {limit_name} is {limit}: \
         try --size {suggestion}, or --backend host"
    )]
    TooLarge {
        /// The picture's size.
        size: Size,
        /// Bytes of the largest activation.
        needed: u64,
        /// WebGPU's name of the limit.
        limit_name: &'static str,
        /// What the device allows.
        limit: u64,
        /// A longer side that fits.
        suggestion: usize,
    },
    /// The device cannot run the convolution kernel.
    #[error(
        "the convolution needs {limit_name} {needed}, but this device has {limit}: try --backend host"
    )]
    Kernel {
        /// WebGPU's name of the limit.
        limit_name: &'static str,
        /// What the kernel needs.
        needed: u64,
        /// What the device allows.
        limit: u64,
    },
    /// The device ran out of memory.
    #[error(
        "the device has no memory left for this picture: try a smaller --size, or --backend host"
    )]
    OutOfMemory,
    /// The driver refused something; a defect of ours or of the driver.
    #[error("the device refused: {0}")]
    Device(String),
}

/// Anything that keeps a picture from being stylized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The picture itself.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The style's weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights of AdaIn's encoder.
    #[error("the encoder: {0}")]
    Encoder(#[source] WeightsError),
    /// The weights of AdaIn's decoder.
    #[error("the decoder: {0}")]
    Decoder(#[source] WeightsError),
    /// How much of a style to take must be between none and all of it.
    #[error("alpha is {0}, expected 0 to 1")]
    Alpha(f32),
    /// An activation left what f32 holds.
    #[error(
        "the painting is not finite ({count} of its {total} values are not, the first of them {value} at x {x}, y {y}): \
         the network's weights are so large that its activations overflow; take a style that was trained or converted \
         otherwise{host}", host = if *on_gpu { ", or try --backend host, which holds larger ones" } else { "" }
    )]
    NotFinite {
        /// How many values of the painting are NaN or infinite.
        count: usize,
        /// How many it has: three for each pixel.
        total: usize,
        /// The first of them.
        value: f32,
        /// Its column.
        x: usize,
        /// Its row.
        y: usize,
        /// Whether a GPU painted, where statistics of activations overflow from 1e14 on.
        on_gpu: bool,
    },
    /// Neither an embedded style nor a file has this name.
    #[cfg(not(target_arch = "wasm32"))]
    #[error("unknown style `{0}`: there is no such file, and the embedded ones are {known}", known = styles::names())]
    UnknownStyle(String),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The host has less memory than the network needs.
    #[error(
        "a picture of {size} needs {needed} bytes of memory, and there are less: try --size {suggestion}"
    )]
    Memory {
        /// The picture's size.
        size: Size,
        /// Bytes that are there at once.
        needed: u64,
        /// A longer side for which there is enough.
        suggestion: usize,
    },
    /// A normalization.
    #[error("{0}")]
    Norm(#[source] Box<wgnorm::Error>),
}

// Boxed: it is larger than all others together, and every result would carry its size.
impl From<wgnorm::Error> for Error {
    fn from(error: wgnorm::Error) -> Error {
        Error::Norm(Box::new(error))
    }
}

impl From<wgnorm::ShapeError> for Error {
    fn from(error: wgnorm::ShapeError) -> Error {
        wgnorm::Error::from(error).into()
    }
}
