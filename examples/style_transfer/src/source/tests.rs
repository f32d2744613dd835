use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use super::jpeg::END_OF_IMAGE;
use super::*;

/// Restart intervals of two blocks; several scans, each with restart intervals of three.
const JPEGS: [&[u8]; 2] = [
    include_bytes!("../../tests/data/restarts.jpg"),
    include_bytes!("../../tests/data/progressive.jpg"),
];

fn drawing() -> RgbImage {
    RgbImage::from_fn(45, 37, |x, y| Rgb([5 * x as u8, 6 * y as u8, 40 + (x * y % 200) as u8]))
}

fn jpegs() -> Vec<Vec<u8>> {
    let mut plain = Vec::new();
    JpegEncoder::new_with_quality(&mut plain, 85).encode_image(&drawing()).unwrap();
    [plain].into_iter().chain(JPEGS.map(<[u8]>::to_vec)).collect()
}

/// Where markers start: segments are stepped over, and coded bytes as far as no marker is in them.
fn markers(jpeg: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    while at < jpeg.len() {
        let is_marker = jpeg[at] == 0xff && jpeg[at + 1] != 0;
        if is_marker {
            found.push(at);
        }
        at += match jpeg[at + 1..].first() {
            Some(0xd0..=0xd9) if is_marker => 2,
            Some(_) if is_marker => {
                2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]))
            }
            _ => 1,
        };
    }
    found
}

fn read(bytes: &[u8]) -> Result<Picture, PictureError> {
    PictureFile::new(bytes)?.decode(None)
}

/// What `image` itself makes of a whole file.
fn expected(bytes: &[u8]) -> Vec<u8> {
    image::load_from_memory(bytes).unwrap().into_rgb8().into_raw()
}

/// Sequential JPEGs, and what Pillow 13 (libjpeg-turbo) makes of them: luma, blue and red of 4:2:0 in a scan each
/// (`jpegtran -scans`); blue sampled finer than luma along rows, and red across them (`cjpeg -sample 1x1,2x1,1x2`).
const BEYOND_ZUNE: [(&[u8], &[u8]); 2] = [
    (include_bytes!("../../tests/data/scans.jpg"), include_bytes!("../../tests/data/scans.png")),
    (include_bytes!("../../tests/data/fine.jpg"), include_bytes!("../../tests/data/fine.png")),
];

#[test]
fn jpegs_of_any_order_of_scans_and_any_sampling_are_what_libjpeg_makes_of_them() {
    for (at, (jpeg, png)) in BEYOND_ZUNE.into_iter().enumerate() {
        let (picture, expected) = (read(jpeg).unwrap(), expected(png));
        assert!(!picture.is_cut_off(), "{at}");
        let pairs = picture.as_rgb().iter().zip(&expected);
        // Decoders round differently; garbage is 50 away on average.
        let largest = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(largest <= 3, "{at}: {largest}");
        let filled = [&jpeg[..jpeg.len() - 2], &[0xff; 3], &END_OF_IMAGE].concat();
        assert_eq!(read(&filled).unwrap(), picture, "{at}");
    }
}

#[test]
fn jpegs_of_any_order_of_scans_cut_at_every_byte_give_the_rows_that_are_there() {
    for (at, (jpeg, _)) in BEYOND_ZUNE.into_iter().enumerate() {
        let whole = read(jpeg).unwrap();
        let mut rows = 0;
        for cut in 3..jpeg.len() {
            match read(&jpeg[..cut]) {
                Ok(picture) => {
                    assert!(picture.is_cut_off(), "{at}: {cut}");
                    let pairs = picture.as_rgb().chunks(3 * 45).zip(whole.as_rgb().chunks(3 * 45));
                    let same = pairs.clone().take_while(|(a, b)| a == b).count();
                    assert!(same >= rows, "{at}, {cut}: fewer rows than of a shorter file");
                    // Rows whose last bits are missing may be the same with several fillings, and are nearly right.
                    let mut below = pairs.skip(same + 16).flat_map(|(a, _)| a);
                    assert!(below.all(|value| *value == 128), "{at}: {cut}");
                    rows = same;
                }
                Err(PictureError::CutOff) => assert_eq!(rows, 0, "{at}: {cut}"),
                Err(error) => panic!("{at}, {cut}: {error}"),
            }
        }
        assert_eq!(rows, 37, "{at}: all but the end marker is all of the picture");
    }
}

/// One colour is what a picture may be of, and no sign that nothing is there.
#[test]
fn pictures_of_one_colour_without_their_files_end_are_there() {
    for value in [0, 128, 255] {
        let pixels = RgbImage::from_pixel(64, 48, Rgb([value; 3]));
        let (mut jpeg, mut png) = (Vec::new(), Vec::new());
        JpegEncoder::new_with_quality(&mut jpeg, 85).encode_image(&pixels).unwrap();
        PngEncoder::new(&mut png).write_image(&pixels, 64, 48, ExtendedColorType::Rgb8).unwrap();
        for (file, end) in [(&jpeg, 2), (&png, 12), (&png, 3)] {
            let picture = read(&file[..file.len() - end]).unwrap();
            assert!(picture.is_cut_off());
            assert!(picture.as_rgb() == expected(file), "{value}");
        }
        // Nothing but the headers.
        let scan = markers(&jpeg).into_iter().find(|&at| jpeg[at + 1] == 0xda).unwrap();
        let data = png.windows(4).position(|name| name == b"IDAT").unwrap() + 4;
        for headers in [&jpeg[..scan + 14], &jpeg[..scan + 9], &png[..data], &png[..data + 2]] {
            let read = read(headers).map(|picture| picture.as_rgb()[..9].to_vec());
            assert!(
                matches!(read, Err(PictureError::CutOff)),
                "{value}: {read:?} {}",
                headers.len()
            );
        }
    }
}

#[test]
fn fill_bytes_before_any_marker_are_no_end() {
    for jpeg in jpegs() {
        let (pixels, markers) = (expected(&jpeg), markers(&jpeg));
        assert!(markers.len() > 9 && jpeg[markers[markers.len() - 1] + 1] == 0xd9);
        // The start marker is what a file begins with.
        let places = markers[1..].iter().map(|&at| vec![at]).chain([markers[1..].to_vec()]);
        for (places, count) in places.flat_map(|places| [1, 2, 7].map(|n| (places.clone(), n))) {
            let mut filled = jpeg.clone();
            for &at in places.iter().rev() {
                filled.splice(at..at, vec![0xff; count]);
            }
            let picture = read(&filled).unwrap_or_else(|e| panic!("{count} at {places:?}: {e}"));
            assert!(!picture.is_cut_off(), "{count} at {places:?}");
            assert!(picture.as_rgb() == pixels, "{count} at {places:?}");
        }
    }
}

#[test]
fn what_follows_the_end_or_is_embedded_is_no_part_of_the_picture() {
    for jpeg in jpegs() {
        let pixels = expected(&jpeg);
        // A thumbnail, and other data of an application that look like an end.
        let thumbnail =
            [b"\xff\xe1\0\x0e".to_vec(), b"\xff\xd8\xff\xda\xff\xd9here\xff\xd9".to_vec()];
        let with_thumbnail = [&jpeg[..2], &thumbnail.concat(), &jpeg[2..]].concat();
        let end = jpeg.len() - 2;
        // The same between two scans, or before the only one.
        let last = markers(&jpeg).into_iter().rfind(|&at| jpeg[at + 1] == 0xda).unwrap();
        let between = [&jpeg[..last], &thumbnail.concat(), &jpeg[last..end]].concat();
        for (bytes, whole) in [
            ([&jpeg, &b"as cameras append"[..]].concat(), true),
            ([&jpeg, &[0xff; 9][..]].concat(), true),
            ([&jpeg, &[0; 9][..]].concat(), true),
            (with_thumbnail.clone(), true),
            ([&between[..], &END_OF_IMAGE].concat(), true),
            (between.clone(), false),
            (jpeg[..end].to_vec(), false),
            (jpeg[..end + 1].to_vec(), false),
            ([&jpeg[..end], &[0xff; 5][..]].concat(), false),
            (with_thumbnail[..with_thumbnail.len() - 2].to_vec(), false),
        ] {
            let picture = read(&bytes).unwrap();
            assert_eq!(picture.is_cut_off(), !whole, "{:?}", &bytes[bytes.len() - 9..]);
            assert!(picture.as_rgb() == pixels, "everything but the end is there");
        }
    }
}

/// Wherever a JPEG is cut: as soon as a part of the picture is there it is decoded, and never called whole.
#[test]
fn jpegs_cut_at_every_byte_give_what_is_there() {
    for jpeg in jpegs() {
        let whole = read(&jpeg).unwrap();
        let row = 3 * 45 * 8;
        let scan = markers(&jpeg).into_iter().find(|&at| jpeg[at + 1] == 0xda).unwrap();
        let (mut first, mut rows) = (None, 0);
        for cut in 0..jpeg.len() {
            match read(&jpeg[..cut]) {
                Ok(picture) => {
                    assert!(picture.is_cut_off(), "{cut}");
                    first.get_or_insert(cut);
                    rows += usize::from(picture.as_rgb()[..row] == whole.as_rgb()[..row]);
                }
                Err(PictureError::CutOff) => assert_eq!(first, None, "{cut} of {}", jpeg.len()),
                // So short a file has no format yet.
                Err(PictureError::Decode(error)) => assert!(cut < 3, "{cut}: {error}"),
                Err(error) => panic!("{cut}: {error}"),
            }
        }
        let first = first.expect("parts are decoded");
        assert!(first > scan && first < scan + jpeg.len() / 3, "{first} of {}", jpeg.len());
        assert!(rows > 0, "the first rows are those of the whole picture");
    }
}

#[test]
fn pngs_cut_at_every_byte_give_the_rows_that_are_there() {
    let pixels = drawing();
    let wide = |value: u8| u16::from_be_bytes([value, value ^ 0x5a]).to_ne_bytes();
    let deep: Vec<u8> = pixels.as_raw().iter().flat_map(|&value| wide(value)).collect();
    let clear: Vec<u8> = pixels.pixels().flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    for (data, colour) in [
        (pixels.as_raw(), ExtendedColorType::Rgb8),
        (&deep, ExtendedColorType::Rgb16),
        (&clear, ExtendedColorType::Rgba8),
    ] {
        let mut png = Vec::new();
        PngEncoder::new(&mut png).write_image(data, 45, 37, colour).unwrap();
        let whole = read(&png).unwrap();
        assert!(!whole.is_cut_off() && whole.as_rgb() == expected(&png));
        assert!(!read(&[&png, &b"more"[..]].concat()).unwrap().is_cut_off());
        let mut rows = 0;
        for cut in 0..png.len() {
            match read(&png[..cut]) {
                Ok(picture) => {
                    assert!(picture.is_cut_off(), "{cut}");
                    let pairs = picture.as_rgb().chunks(3 * 45).zip(whole.as_rgb().chunks(3 * 45));
                    let same = pairs.clone().take_while(|(a, b)| a == b).count();
                    assert!(same >= rows, "{cut}: fewer rows than of a shorter file");
                    assert!(pairs.skip(same).all(|(a, _)| a.iter().all(|value| *value == 255)));
                    rows = same;
                }
                Err(PictureError::CutOff) => assert_eq!(rows, 0, "{cut}"),
                Err(PictureError::Decode(_)) => assert!(cut < 8, "{cut}"),
                Err(error) => panic!("{cut}: {error}"),
            }
        }
        assert_eq!(rows, 37, "all but the end chunk is all of the picture");
    }
}

#[test]
fn webps_that_are_cut_off_are_called_so() {
    let mut webp = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut webp);
    encoder.write_image(drawing().as_raw(), 45, 37, ExtendedColorType::Rgb8).unwrap();
    assert!(!read(&webp).unwrap().is_cut_off());
    assert!(!read(&[&webp, &b"more"[..]].concat()).unwrap().is_cut_off());
    for cut in 0..webp.len() {
        match read(&webp[..cut]) {
            Ok(picture) => assert!(picture.is_cut_off() && picture.as_rgb() == drawing().as_raw()),
            Err(PictureError::CutOffWebP) => {}
            Err(PictureError::Decode(_)) => assert!(cut < 12, "{cut}"),
            Err(error) => panic!("{cut}: {error}"),
        }
    }
}

/// Garbage of many kinds ends in an error or a picture, never in a panic.
#[test]
fn bytes_that_are_changed_never_panic() {
    for jpeg in jpegs().into_iter().chain(BEYOND_ZUNE.map(|(jpeg, _)| jpeg.to_vec())) {
        for at in 2..jpeg.len() {
            for value in [0, 0xff, 0xd9, jpeg[at] ^ 0x10] {
                let mut changed = jpeg.clone();
                changed[at] = value;
                let _ = read(&changed);
            }
        }
    }
}

#[test]
fn sizes_are_planned_from_numbers_alone() {
    let size = Size::new;
    assert_eq!(size(48, 64).with_longer_side(32_768), size(24_576, 32_768));
    assert_eq!(size(5, 32_769).with_longer_side(100), size(1, 100));
    assert_eq!(size(1, 1).with_longer_side(u32::MAX), size(4_294_967_295, 4_294_967_295));
    let mut png = Vec::new();
    let pixels = RgbImage::new(64, 48);
    PngEncoder::new(&mut png).write_image(&pixels, 64, 48, ExtendedColorType::Rgb8).unwrap();
    let file = PictureFile::new(png).unwrap();
    let Err(PictureError::Enlarged { suggestion, .. }) = file.resized(Some(u32::MAX)) else {
        panic!("{:?}", file.resized(Some(u32::MAX)));
    };
    assert!(file.resized(Some(suggestion as u32)).is_ok());
    assert!(file.resized(Some(suggestion as u32 + 2)).is_err());
}
