//! Picture files: what they say of their picture before it is decoded, and as much of it as is there.

mod jpeg;

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};
use std::path::Path;

use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult,
    Limits,
};

use crate::error::PictureError;
use crate::host::is_there;
use crate::net::Size;
use crate::picture::{Picture, read_file};

/// The most pixels, 16384x16384: a few kilobytes can unpack to any number of gray ones, which take 12 bytes each here.
pub(crate) const MOST_PIXELS: usize = 1 << 28;
/// The largest file that is read.
const FILE_BYTES: u64 = 256 << 20;
/// The most that a file may unpack to: as many pixels of four bytes as there may be.
const DECODED_BYTES: u64 = 4 * MOST_PIXELS as u64;
/// A picture file that was read but not decoded: its size is known and nothing large was allocated yet.
pub struct PictureFile<'a> {
    bytes: Cow<'a, [u8]>,
    format: ImageFormat,
    header: Header,
}

/// What decoders find before the pixels.
struct Header {
    /// The size as it is stored, before the picture is turned upright.
    stored: Size,
    orientation: Orientation,
    /// Bytes that the pixels take as the decoder gives them.
    bytes: u64,
}

impl<'a> PictureFile<'a> {
    /// Looks at the bytes of a JPEG, PNG or WebP file, told apart by content.
    ///
    /// # Errors
    /// [`PictureError::Decode`] for other files; [`PictureError::CutOff`] for a file that ends in its header;
    /// [`PictureError::TooLarge`] and [`PictureError::TooManyBytes`] for pictures that are not decoded.
    pub fn new(bytes: impl Into<Cow<'a, [u8]>>) -> Result<PictureFile<'a>, PictureError> {
        let bytes = bytes.into();
        let format = image::guess_format(&bytes).map_err(PictureError::Decode)?;
        let header = match format {
            ImageFormat::Jpeg => jpeg::header(&bytes)?,
            _ => decoder(&bytes, format).map(header).map_err(|e| failed(e, &bytes, format))?,
        };
        let size = header.upright();
        if exceeds(size) {
            return Err(PictureError::TooLarge { size, most: MOST_PIXELS });
        }
        if header.bytes > DECODED_BYTES {
            let (needed, most) = (header.bytes, DECODED_BYTES);
            return Err(PictureError::TooManyBytes { size, needed, most });
        }
        Ok(PictureFile { bytes, format, header })
    }

    /// Reads a file, up to 256 MiB of it.
    ///
    /// # Errors
    /// [`PictureError::Read`] where the file cannot be read, and the errors of [`PictureFile::new`].
    pub fn open(path: &Path) -> Result<PictureFile<'static>, PictureError> {
        PictureFile::new(read_file(path, FILE_BYTES).map_err(PictureError::Read)?)
    }

    /// The size in pixels, as the picture is shown.
    pub fn size(&self) -> Size {
        self.header.upright()
    }

    /// The size that [`decode`](Self::decode) gives.
    ///
    /// # Errors
    /// [`PictureError::Enlarged`] where that is too many pixels.
    pub fn resized(&self, longer: Option<u32>) -> Result<Size, PictureError> {
        let from = self.size();
        let Some(longer) = longer else { return Ok(from) };
        let size = from.with_longer_side(longer);
        if !exceeds(size) {
            return Ok(size);
        }
        let share = MOST_PIXELS as f64 / (from.height as f64 * from.width as f64);
        let suggestion = (from.height.max(from.width) as f64 * share.sqrt()) as usize;
        Err(PictureError::Enlarged { from, size, most: MOST_PIXELS, suggestion })
    }

    /// Decodes the picture, turns it upright as its EXIF data ask, lays transparent ones on white, as a browser shows
    /// them on an empty page, and resizes it so that its longer side has `longer` pixels, if that is given. Of a file
    /// that is cut off it gives what is there, and [`Picture::is_cut_off`] says so; the rest is gray or white.
    ///
    /// # Errors
    /// [`PictureError::Decode`] for damaged files; [`PictureError::CutOff`] where nothing of the picture is there;
    /// [`PictureError::CutOffWebP`] for a WebP, of which no part can be decoded alone; [`PictureError::Memory`] where there is less than this needs;
    /// those of [`resized`](Self::resized).
    pub fn decode(&self, longer: Option<u32>) -> Result<Picture, PictureError> {
        let size = self.resized(longer)?;
        let needed = self.memory(size);
        if !is_there(needed) {
            return Err(PictureError::Memory { size: self.size(), needed });
        }
        let (mut decoded, whole) = match self.format {
            ImageFormat::Jpeg => jpeg::decode(&self.bytes, self.header.is_gray())?,
            format => (self.filled(u8::MAX)?, is_whole(&self.bytes, format)),
        };
        if !whole && !self.is_begun(&decoded)? {
            return Err(PictureError::CutOff);
        }
        decoded.apply_orientation(self.header.orientation);
        let picture = Picture::flattened(decoded, !whole);
        Ok(match longer {
            Some(longer) => picture.resized(longer),
            None => picture,
        })
    }

    /// The picture of a PNG or WebP. Of a PNG that is cut off, pixels that are not there have this value.
    fn filled(&self, filling: u8) -> Result<DynamicImage, PictureError> {
        let decoded = decoder(&self.bytes, self.format).and_then(|decoder| match self.format {
            ImageFormat::Png => DynamicImage::from_decoder(RowsThatAre { decoder, filling }),
            _ => DynamicImage::from_decoder(decoder),
        });
        decoded.map_err(|e| failed(e, &self.bytes, self.format))
    }

    /// Whether some of a picture that is cut off is there, though it may be of one colour.
    fn is_begun(&self, decoded: &DynamicImage) -> Result<bool, PictureError> {
        let is_white = |value: &u8| *value == u8::MAX;
        Ok(match self.format {
            ImageFormat::Jpeg => jpeg::is_begun(&self.bytes),
            // White is also what is not there.
            ImageFormat::Png if decoded.as_bytes().iter().all(is_white) => {
                self.filled(0)?.as_bytes().iter().any(is_white)
            }
            _ => true,
        })
    }

    /// Bytes that [`decode`](Self::decode) has allocated at once, at most: the pixels as they come and turned upright,
    /// and with eight bits of three and of four colours; then those, the columns resized in floating point, and all.
    fn memory(&self, resized: Size) -> u64 {
        let size = self.size();
        let area = size.area() as u64;
        let decoding = 2 * self.header.bytes + 7 * area;
        if resized == size {
            return decoding;
        }
        let between = size.width as u64 * resized.height as u64;
        decoding.max(3 * area + 16 * between + 3 * resized.area() as u64)
    }
}

impl Header {
    fn upright(&self) -> Size {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let Size { height, width } = self.stored;
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => Size::new(width, height),
            _ => self.stored,
        }
    }

    fn is_gray(&self) -> bool {
        self.bytes == self.stored.height as u64 * self.stored.width as u64
    }
}

fn exceeds(size: Size) -> bool {
    size.height.checked_mul(size.width).is_none_or(|area| area > MOST_PIXELS)
}

impl Size {
    /// The size in the same proportion whose longer side is `pixels`; the shorter is at least one.
    pub fn with_longer_side(self, pixels: u32) -> Size {
        let longer = self.height.max(self.width) as f64;
        let side = |n: usize| ((n as f64 * f64::from(pixels) / longer).round() as usize).max(1);
        Size::new(side(self.height), side(self.width))
    }
}

/// The decoder of a PNG or WebP; an error for a format that is not read.
fn decoder(bytes: &[u8], format: ImageFormat) -> ImageResult<impl ImageDecoder + '_> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODED_BYTES);
    reader.limits(limits);
    reader.into_decoder()
}

fn header(mut decoder: impl ImageDecoder) -> Header {
    let (width, height) = decoder.dimensions();
    // A picture with broken EXIF data is still a picture: shown as stored.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let stored = Size::new(height as usize, width as usize);
    Header { stored, orientation, bytes: decoder.total_bytes() }
}

/// Decoding failed: because the file is cut off, or for another reason.
fn failed(error: ImageError, bytes: &[u8], format: ImageFormat) -> PictureError {
    match &error {
        // Its decoder reports what it misses in many ways.
        _ if format == ImageFormat::WebP && !is_whole(bytes, format) => PictureError::CutOffWebP,
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => PictureError::CutOff,
        _ => PictureError::Decode(error),
    }
}

/// Whether a file of which the pixels were decoded has its end. Pixels end before their file does.
fn is_whole(bytes: &[u8], format: ImageFormat) -> bool {
    match format {
        // The decoder goes through all chunks, without unpacking them.
        ImageFormat::Png => {
            let reader = png::Decoder::new(Cursor::new(bytes)).read_info();
            let read = reader.and_then(|mut reader| reader.finish());
            !matches!(read, Err(png::DecodingError::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof)
        }
        // The decoder does not say. The file does, in its first eight bytes: how many follow them.
        ImageFormat::WebP => bytes.get(4..8).is_some_and(|length| {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
            bytes.len() as u64 >= 8 + u64::from(length)
        }),
        _ => true,
    }
}

/// A PNG's decoder that gives the rows that there are, and others of this value.
struct RowsThatAre<D> {
    decoder: D,
    filling: u8,
}

impl<D: ImageDecoder> ImageDecoder for RowsThatAre<D> {
    fn dimensions(&self) -> (u32, u32) {
        self.decoder.dimensions()
    }

    fn color_type(&self) -> ColorType {
        self.decoder.color_type()
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let colour = self.color_type();
        pixels.fill(self.filling);
        match self.decoder.read_image(pixels) {
            Err(ImageError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                // The decoder swaps the bytes of colours of 16 bits once it has them all.
                if colour.bytes_per_pixel() == 2 * colour.channel_count() {
                    for value in pixels.chunks_exact_mut(2) {
                        let swapped = u16::from_be_bytes([value[0], value[1]]).to_ne_bytes();
                        value.copy_from_slice(&swapped);
                    }
                }
                Ok(())
            }
            read => read,
        }
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

#[cfg(test)]
mod tests;
