//! JPEGs, which two decoders share: `zune-jpeg` gives what is there of a file that is cut off, and `jpeg-decoder` reads
//! the files that the other decodes to garbage.

use image::error::{DecodingError, ImageFormatHint};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageError, ImageFormat, RgbImage};
use std::io::{ErrorKind, Seek};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::{colorspace::ColorSpace, options::DecoderOptions};

use super::Header;
use crate::error::PictureError;
use crate::net::Size;

/// How often a JPEG that is cut off is tried without what may be the segment that it ends in. Segments between scans
/// hold tables and parameters, in which 0xFF is rare.
const CUTS: usize = 8;
/// The longest segment of a JPEG: its marker, and a length of 16 bits.
const SEGMENT: usize = 2 + 65_535;
/// How a JPEG ends.
pub(super) const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
/// What may follow the last byte of a file that is cut off: the end, for which the decoder reads zeros, or other bits
/// before it. Rows that are the same with two of them are there.
const FILLINGS: [&[u8]; 3] =
    [&END_OF_IMAGE, &[0xaa, 0xaa, 0xaa, 0xaa, 0xff, 0xd9], &[0x55, 0x55, 0x55, 0x55, 0xff, 0xd9]];
/// The gray of what is missing.
const GRAY: u8 = 128;

fn options(colours: ColorSpace) -> DecoderOptions {
    let options = DecoderOptions::default().set_strict_mode(false);
    options.set_max_width(usize::MAX).set_max_height(usize::MAX).jpeg_set_out_colorspace(colours)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> ImageError {
    ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Jpeg), error))
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, PictureError> {
    let mut cursor = ZCursor::new(bytes);
    let mut decoder = JpegDecoder::new_with_options(&mut cursor, options(ColorSpace::RGB));
    if let Err(error) = decoder.decode_headers() {
        // Nothing but the end of the bytes keeps it from reading them.
        let ended = matches!(error, DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_));
        let error = PictureError::Decode(failed(error));
        return Err(if ended { PictureError::CutOff } else { error });
    }
    let (width, height) = decoder.dimensions().expect("the headers were decoded");
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let channels = if decoder.input_colorspace() == Some(ColorSpace::Luma) { 1 } else { 3 };
    let stored = Size::new(height, width);
    let bytes = channels * height as u64 * width as u64;
    Ok(Header { stored, orientation: orientation.unwrap_or(Orientation::NoTransforms), bytes })
}

/// Whether something follows the headers, which are all that is there of some files that are cut off.
pub(super) fn is_begun(bytes: &[u8]) -> bool {
    let mut cursor = ZCursor::new(bytes);
    let mut decoder = JpegDecoder::new_with_options(&mut cursor, options(ColorSpace::RGB));
    let headers = decoder.decode_headers();
    drop(decoder);
    let at = cursor.stream_position().expect("the bytes are in memory") as usize;
    let coded = bytes.get(at..).unwrap_or_default();
    headers.is_ok() && coded.iter().any(|&byte| byte != 0xff)
}

/// The picture, as far as it is there, and whether the file has an end marker.
///
/// # Errors
/// [`PictureError::CutOff`] where the file is cut off and none of it can be decoded; [`PictureError::Decode`] for damage.
pub(super) fn decode(bytes: &[u8], gray: bool) -> Result<(DynamicImage, bool), PictureError> {
    if is_beyond_zune(bytes) {
        return in_any_order(bytes);
    }
    let (decoded, stopped) = once(bytes, gray);
    let stopped = stopped.min(bytes.len());
    let error = match decoded {
        // The decoder stops after the end marker. Where it stops elsewhere, at the end of the bytes or before bytes
        // that it has no use for, it does not say why: then a marker may still follow.
        Ok(decoded) => {
            let rest = &bytes[stopped.saturating_sub(END_OF_IMAGE.len())..];
            return Ok((decoded, rest.windows(2).any(|pair| pair == END_OF_IMAGE)));
        }
        Err(error) => error,
    };
    // Decoders refuse a segment between two scans that is cut off: the scans before it are decoded without it.
    let mut end = bytes.len();
    for _ in 0..CUTS {
        // What is wrong before the last segment is damage.
        if bytes.len() - stopped.min(end) > SEGMENT {
            break;
        }
        if let (Ok(decoded), _) = once(&[&bytes[..end], &END_OF_IMAGE].concat(), gray) {
            return Ok((decoded, false));
        }
        let Some(earlier) = bytes[..end].iter().rposition(|&byte| byte == 0xff) else { break };
        end = earlier;
    }
    Err(PictureError::Decode(failed(error)))
}

/// One attempt, and where the decoder stopped.
fn once(bytes: &[u8], gray: bool) -> (Result<DynamicImage, DecodeErrors>, usize) {
    let mut cursor = ZCursor::new(bytes);
    let colours = if gray { ColorSpace::Luma } else { ColorSpace::RGB };
    let mut decoder = JpegDecoder::new_with_options(&mut cursor, options(colours));
    let decoded = decoder.decode().map(|pixels| {
        let (width, height) = decoder.dimensions().expect("the headers were decoded");
        image_of(pixels, width as u32, height as u32)
    });
    drop(decoder);
    let stopped = cursor.stream_position().expect("the bytes are in memory");
    (decoded, stopped as usize)
}

/// Gray pixels, or those of three colours, which their number tells.
fn image_of(pixels: Vec<u8>, width: u32, height: u32) -> DynamicImage {
    let fits = "as many pixels as the size says";
    match pixels.len() as u64 == u64::from(width) * u64::from(height) {
        true => GrayImage::from_raw(width, height, pixels).expect(fits).into(),
        false => RgbImage::from_raw(width, height, pixels).expect(fits).into(),
    }
}

/// The segments that begin a JPEG, by the second byte of their markers. Fill bytes, and bytes that belong to none, are
/// left out.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 2;
    std::iter::from_fn(move || {
        loop {
            let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
            at += 2 + bytes.get(at..)?.windows(2).position(is_marker)?;
            let kind = bytes[at - 1];
            if matches!(kind, 0x01 | 0xd0..=0xd8) {
                continue; // these stand alone
            }
            let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
            let contents = bytes.get(at + 2..at + length)?;
            at += length;
            return Some((kind, contents));
        }
    })
}

/// Whether zune-jpeg 0.5.15 decodes such a file to garbage, or panics: a sequential one of several scans, and any in
/// which a colour is sampled finer than the first.
fn is_beyond_zune(bytes: &[u8]) -> bool {
    let mut frame = None;
    for (kind, contents) in segments(bytes) {
        match (kind, frame) {
            (0xc0..=0xc2, None) => frame = Some((kind, contents.get(6..).unwrap_or_default())),
            (0xda, Some((kind, colours))) => {
                let colours = colours.chunks_exact(3);
                let in_scan = contents.first().map_or(0, |&count| usize::from(count));
                let several = kind != 0xc2 && in_scan < colours.len();
                // Their factors along and across, in four bits each.
                let mut factors = colours.map(|colour| [colour[1] >> 4, colour[1] & 15]);
                let first = factors.clone().next().unwrap_or_default();
                let finer = factors.any(|[along, across]| along > first[0] || across > first[1]);
                return several || finer;
            }
            _ => {}
        }
    }
    false
}

/// The same for files of any order of scans and any sampling. Of one that is cut off it gives the rows that are the
/// same whatever follows, and gray below them.
fn in_any_order(bytes: &[u8]) -> Result<(DynamicImage, bool), PictureError> {
    match any_order_once(bytes) {
        Ok((pixels, [width, height])) => return Ok((image_of(pixels, width, height), true)),
        Err(jpeg_decoder::Error::Io(e)) if e.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(PictureError::Decode(failed(error))),
    }
    // Half a marker at the end would make one of what follows.
    let end = bytes.iter().rposition(|&byte| byte != 0xff).map_or(0, |last| last + 1);
    let filled = |filling: &&[u8]| any_order_once(&[&bytes[..end], filling].concat()).ok();
    let mut decoded = FILLINGS.iter().filter_map(filled);
    let (Some((mut pixels, [width, height])), Some((other, _))) = (decoded.next(), decoded.next())
    else {
        return Err(PictureError::CutOff);
    };
    let row = (pixels.len() / height as usize).max(1);
    let rows = pixels.chunks(row).zip(other.chunks(row)).take_while(|(a, b)| a == b).count();
    if rows == 0 {
        return Err(PictureError::CutOff);
    }
    pixels[rows * row..].fill(GRAY);
    Ok((image_of(pixels, width, height), false))
}

/// One attempt: the pixels, gray or of three colours, width and height.
fn any_order_once(bytes: &[u8]) -> Result<(Vec<u8>, [u32; 2]), jpeg_decoder::Error> {
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    let mut pixels = decoder.decode()?;
    let info = decoder.info().expect("it was decoded");
    if info.pixel_format == jpeg_decoder::PixelFormat::CMYK32 {
        let light =
            |ink: u8, black: u8| ((255 - u16::from(ink)) * (255 - u16::from(black)) + 127) / 255;
        let colours = |inks: &[u8]| [0, 1, 2].map(|colour| light(inks[colour], inks[3]) as u8);
        pixels = pixels.chunks_exact(4).flat_map(colours).collect();
    }
    Ok((pixels, [info.width.into(), info.height.into()]))
}
