//! Pictures: read in any of three formats, turned upright, flattened, resized, and written again.

use std::fs::File;
use std::io::Read;

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::{DynamicImage, ImageEncoder, RgbImage, imageops};

use crate::error::PictureError;
use crate::net::Size;
use crate::planes::Planes;
use crate::source::PictureFile;

/// JPEG quality: artefacts of lower ones show beside a style's hard edges.
const JPEG_QUALITY: u8 = 92;
/// The longest side that a JPEG's 16 bits can say.
const JPEG_SIDE: usize = 65_535;

/// An upright, opaque picture of eight bits per colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pixels: RgbImage,
    cut_off: bool,
}

/// A format that can be written, by the ending of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lossless.
    Png,
    /// Lossy, quality 92.
    Jpeg,
}

impl Format {
    /// The format that a file name asks for.
    pub fn of(path: &std::path::Path) -> Result<Format, PictureError> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match ending.as_str() {
            "png" => Ok(Format::Png),
            "jpg" | "jpeg" => Ok(Format::Jpeg),
            _ => Err(PictureError::UnknownFormat(ending)),
        }
    }

    /// Whether the format can hold a painting of this size. `smallest` is the smallest side that can be painted.
    ///
    /// # Errors
    /// [`PictureError::TooLong`] for a JPEG with a side above 65535 pixels.
    pub fn check(self, size: Size, smallest: usize) -> Result<(), PictureError> {
        if self == Format::Jpeg && size.height.max(size.width) > JPEG_SIDE {
            let Size { height, width } = size.with_longer_side(JPEG_SIDE as u32);
            let suggestion = (height.min(width) >= smallest).then_some(JPEG_SIDE);
            return Err(PictureError::TooLong { size, most: JPEG_SIDE, suggestion });
        }
        Ok(())
    }
}

impl Picture {
    /// Decodes JPEG, PNG or WebP (told apart by content, not by name), as [`PictureFile::decode`] does.
    pub fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
        PictureFile::new(bytes)?.decode(None)
    }

    /// Reads and decodes a file.
    pub fn open(path: &std::path::Path) -> Result<Picture, PictureError> {
        PictureFile::open(path)?.decode(None)
    }

    pub(crate) fn flattened(decoded: DynamicImage, cut_off: bool) -> Picture {
        Picture { pixels: flatten(decoded), cut_off }
    }

    /// Whether the file that this was decoded from is cut off, so that a part of the picture may be missing.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// The size in pixels.
    pub fn size(&self) -> Size {
        Size::new(self.pixels.height() as usize, self.pixels.width() as usize)
    }

    /// The same picture with its longer side `pixels` long, the shorter in proportion (at least one pixel).
    ///
    /// # Panics
    /// Where there is no memory for so many pixels. [`PictureFile::decode`] resizes, too, and returns an error then.
    pub fn resized(&self, pixels: u32) -> Picture {
        let Size { height, width } = self.size().with_longer_side(pixels);
        let filter = imageops::FilterType::Lanczos3;
        let pixels = imageops::resize(&self.pixels, width as u32, height as u32, filter);
        Picture { pixels, cut_off: self.cut_off }
    }

    /// The network's input.
    pub fn to_planes(&self) -> Planes {
        let plane = |colour: usize| self.pixels.pixels().map(move |pixel| f32::from(pixel[colour]));
        let data = plane(0).chain(plane(1)).chain(plane(2)).collect();
        Planes { size: self.size(), data }
    }

    /// The network's output as a picture: the top left `size` of the planes, clamped to 0..255 and rounded half to
    /// even (as PyTorch's `round` does, so that pictures compare equal).
    pub fn from_planes(planes: &Planes, size: Size) -> Picture {
        let pixel = |x, y| image::Rgb(planes.pixel(x as usize, y as usize));
        let pixels = RgbImage::from_fn(size.width as u32, size.height as u32, pixel);
        Picture { pixels, cut_off: false }
    }

    /// The bytes of a file in `format`.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, PictureError> {
        let mut bytes = Vec::new();
        let (width, height) = self.pixels.dimensions();
        let (data, colour) = (self.pixels.as_raw(), image::ExtendedColorType::Rgb8);
        let written = match format {
            Format::Png => PngEncoder::new(&mut bytes).write_image(data, width, height, colour),
            Format::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
                .write_image(data, width, height, colour),
        };
        written.map_err(PictureError::Encode)?;
        Ok(bytes)
    }

    /// Red, green, blue of each pixel, rows contiguous.
    pub fn as_rgb(&self) -> &[u8] {
        self.pixels.as_raw()
    }
}

/// The bytes of a file, which may be a device that never ends: an error above `most` of them.
pub fn read_file(path: &std::path::Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length <= most {
        file.take(most + 1).read_to_end(&mut bytes)?;
    }
    if length.max(bytes.len() as u64) > most {
        let found = if length > most { format!(", it has {length} bytes") } else { String::new() };
        let reason = format!("it is larger than {} MiB{found}", most >> 20);
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

fn flatten(decoded: DynamicImage) -> RgbImage {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    let on_white = |value: u8, alpha: u32| {
        ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut flat = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in flat.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0;
        to.0 = [r, g, b].map(|value| on_white(value, u32::from(alpha)));
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MOST_PIXELS;

    fn picture(width: u32, height: u32) -> Picture {
        let pixels = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
        Picture { pixels, cut_off: false }
    }

    #[test]
    fn planes_and_back_is_the_same_picture() {
        let picture = picture(6, 5);
        let planes = picture.to_planes();
        assert_eq!(planes.data[..6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(planes.data[30 + 6], 1.0, "second plane, second row");
        assert_eq!(Picture::from_planes(&planes, planes.size), picture);
    }

    #[test]
    fn output_is_cropped_clamped_and_rounded_half_to_even() {
        let planes = Planes {
            size: Size::new(1, 4),
            data: vec![-3.0, 0.5, 1.5, 9.0, 254.5, 255.5, 2.5, 9.0, 300.0, f32::NAN, 0.49, 9.0],
        };
        let picture = Picture::from_planes(&planes, Size::new(1, 3));
        assert_eq!(picture.as_rgb(), [0, 254, 255, 0, 255, 0, 2, 2, 0]);
    }

    #[test]
    fn resizing_keeps_the_proportion_in_both_directions() {
        assert_eq!(picture(40, 20).resized(10).size(), Size::new(5, 10));
        assert_eq!(picture(20, 40).resized(80).size(), Size::new(80, 40));
        assert_eq!(picture(100, 1).resized(10).size(), Size::new(1, 10));
    }

    #[test]
    fn formats_go_by_the_name_whatever_its_case() {
        assert_eq!(Format::of("a.b.PNG".as_ref()).unwrap(), Format::Png);
        assert_eq!(Format::of("a.JpeG".as_ref()).unwrap(), Format::Jpeg);
        assert!(matches!(Format::of("webp".as_ref()), Err(PictureError::UnknownFormat(_))));
        assert!(matches!(Format::of("a.webp".as_ref()), Err(PictureError::UnknownFormat(_))));
    }

    #[test]
    fn what_is_encoded_decodes_again() {
        let picture = picture(9, 8);
        assert_eq!(Picture::decode(&picture.encode(Format::Png).unwrap()).unwrap(), picture);
        assert_eq!(
            Picture::decode(&picture.encode(Format::Jpeg).unwrap()).unwrap().size(),
            picture.size()
        );
        assert!(matches!(Picture::decode(b"no picture"), Err(PictureError::Decode(_))));
    }

    /// A PNG of eight bits gray that says it has this size, with nothing behind that.
    fn png(width: u32, height: u32) -> Vec<u8> {
        png_of(width, height, [8, 0])
    }

    /// Of so many bits, in colours of this type.
    fn png_of(width: u32, height: u32, kind: [u8; 2]) -> Vec<u8> {
        let chunk = |name: &[u8], data: &[u8]| {
            let checked = [name, data].concat();
            let crc = checked.iter().fold(u32::MAX, |crc, byte| {
                let one =
                    |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                (0..8).fold(crc ^ u32::from(*byte), one)
            });
            [&(data.len() as u32).to_be_bytes()[..], &checked, &(!crc).to_be_bytes()].concat()
        };
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &kind, &[0, 0, 0]].concat();
        [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 1])]
            .concat()
    }

    /// A JPEG whose frame says so.
    fn jpeg(width: u16, height: u16) -> Vec<u8> {
        let (mut bytes, at) = (picture(16, 16).encode(Format::Jpeg).unwrap(), [0xff, 0xc0]);
        let frame = bytes.windows(2).position(|pair| pair == at).expect("a frame");
        bytes[frame + 5..][..2].copy_from_slice(&height.to_be_bytes());
        bytes[frame + 7..][..2].copy_from_slice(&width.to_be_bytes());
        bytes
    }

    /// A WebP whose canvas says so, by the sides less one in 24 bits.
    fn webp(width: u32, height: u32) -> Vec<u8> {
        let side = |side: u32| side.wrapping_sub(1).to_le_bytes()[..3].to_vec();
        let body = [b"WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec(), side(width), side(height)].concat();
        [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
    }

    #[test]
    fn sizes_that_only_a_header_has_are_refused() {
        let most = MOST_PIXELS;
        for (width, height) in [(32_768, 32_768), (16_385, 16_384)] {
            let size = Size::new(height as usize, width as usize);
            match Picture::decode(&png(width, height)) {
                Err(PictureError::TooLarge { size: got, most: of }) => {
                    assert_eq!((got, of), (size, most));
                }
                other => panic!("{width}x{height}: {other:?}"),
            }
        }
        // 16 bits of four colours: twice what may be decoded to.
        match Picture::decode(&png_of(16_384, 16_384, [16, 6])) {
            Err(PictureError::TooManyBytes { needed, most, .. }) => {
                assert_eq!((needed, most), (1 << 31, 1 << 30));
            }
            other => panic!("{:?}", other.map(|picture| picture.size())),
        }
        let sides = [(0, 0), (0, 5), (5, 0), (65_535, 65_535), (40_000, 1), (1 << 31, 1 << 31)];
        let files = sides.map(|(width, height)| png(width, height)).into_iter();
        let jpegs = [jpeg(0, 16), jpeg(65_535, 65_535)].into_iter();
        let canvases = [webp(1 << 24, 1 << 24), webp(16_384, 16_384)].into_iter();
        for bytes in files.chain(jpegs).chain(canvases).chain([png(4000, 4000)]) {
            match Picture::decode(&bytes) {
                Err(
                    PictureError::Decode(_) | PictureError::CutOff | PictureError::TooLarge { .. },
                ) => {}
                Err(other) => panic!("{other}"),
                // Decoders fill up what is missing of a JPEG.
                Ok(picture) => panic!("{:?} of {} bytes", picture.size(), bytes.len()),
            }
        }
    }

    #[test]
    fn files_that_never_end_are_refused() {
        let endless = std::path::Path::new("/dev/zero");
        if endless.exists() {
            let refused = Picture::open(endless).unwrap_err().to_string();
            assert_eq!(refused, "cannot be read: it is larger than 256 MiB");
        }
    }
}
