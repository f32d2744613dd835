//! The program as a person meets it: what it writes, what it says, how it ends.

mod program;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use program::{PROGRAM, folder, painted, photograph, refused, run, save, small, stderr};
use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

#[test]
fn without_arguments_it_paints_the_embedded_photograph() {
    let folder = folder();
    let result = run(folder.path(), &[]);
    assert!(result.status.success(), "{}", stderr(&result));
    let picture = image::open(folder.path().join("stylized.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (256, 256));
    let said = String::from_utf8_lossy(&result.stdout).into_owned();
    for expected in ["back end", "glass, width 16", "256x256", " s to paint", "stylized.png"] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
}

#[test]
fn list_names_every_style() {
    let folder = folder();
    let result = run(folder.path(), &["--list"]);
    assert!(result.status.success());
    let said = String::from_utf8_lossy(&result.stdout).into_owned();
    let names: Vec<_> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["glass", "ink", "swirl", "waves"]);
    assert!(!folder.path().join("stylized.png").exists());
}

#[test]
fn styles_differ_and_the_first_is_the_default() {
    let folder = folder();
    save(&folder, "in.png", &photograph());
    let with = |style: &str, output: &str| {
        painted(folder.path(), &small(&["in.png", output, "--style", style]), output).into_rgb8()
    };
    let default =
        painted(folder.path(), &small(&["in.png", "default.png"]), "default.png").into_rgb8();
    assert_eq!(default, with("glass", "glass.png"));
    assert_ne!(default, with("ink", "ink.png"));
}

#[test]
fn the_size_is_kept_or_the_longer_side_set() {
    let folder = folder();
    save(&folder, "in.png", &photograph());
    let kept = painted(folder.path(), &["in.png", "kept.png", "--backend", "host"], "kept.png");
    assert_eq!((kept.width(), kept.height()), (30, 20));
    let resized = painted(folder.path(), &small(&["in.png", "small.png"]), "small.png");
    assert_eq!((resized.width(), resized.height()), (24, 16));
    let odd = ["in.png", "odd.png", "--backend", "host", "--size", "37"];
    let odd = painted(folder.path(), &odd, "odd.png");
    assert_eq!(
        (odd.width(), odd.height()),
        (37, 25),
        "sides that are no multiples of 4 are cropped back"
    );
}

#[test]
fn jpeg_and_webp_are_read_and_jpeg_is_written() {
    let folder = folder();
    save(&folder, "in.webp", &photograph());
    save(&folder, "in.jpg", &photograph());
    for (input, output, format) in [
        ("in.webp", "out.jpg", ImageFormat::Jpeg),
        ("in.jpg", "out.JPEG", ImageFormat::Jpeg),
        ("in.jpg", "out.png", ImageFormat::Png),
    ] {
        painted(folder.path(), &small(&[input, output]), output);
        let bytes = std::fs::read(folder.path().join(output)).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format, "{output}");
    }
}

#[test]
fn the_format_goes_by_content_not_by_name() {
    let folder = folder();
    let path = save(&folder, "in.png", &photograph());
    std::fs::rename(path, folder.path().join("in.jpg")).unwrap();
    painted(folder.path(), &small(&["in.jpg", "out.png"]), "out.png");
}

/// Orientation 6: the camera was turned, the picture must be shown turned clockwise.
#[test]
fn exif_orientation_is_applied() {
    let folder = folder();
    let path = save(&folder, "plain.jpg", &photograph());
    let plain = std::fs::read(path).unwrap();
    // An APP1 segment after the start-of-image marker: a TIFF header and one entry, 0x0112 = 6.
    let mut segment = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
    segment.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    let turned = [&plain[..2], &segment, &plain[2..]].concat();
    std::fs::write(folder.path().join("turned.jpg"), turned).unwrap();
    let decoded = image::open(folder.path().join("plain.jpg")).unwrap().rotate90();
    save(&folder, "expected.png", &decoded);

    let arguments = |input| [input, "out.png", "--backend", "host"];
    let turned = painted(folder.path(), &arguments("turned.jpg"), "out.png");
    assert_eq!((turned.width(), turned.height()), (20, 30));
    let expected = painted(folder.path(), &arguments("expected.png"), "out.png");
    assert_eq!(turned.into_rgb8(), expected.into_rgb8(), "turned clockwise, not the other way");
}

#[test]
fn transparency_lies_on_white() {
    let folder = folder();
    let ink = |x: u32, y: u32| (x / 5 + y / 5).is_multiple_of(2);
    // Invisible black: as if nothing were there.
    let clear = RgbaImage::from_fn(30, 20, |x, y| Rgba([0, 0, 0, if ink(x, y) { 255 } else { 0 }]));
    let flat = RgbImage::from_fn(30, 20, |x, y| Rgb([if ink(x, y) { 0 } else { 255 }; 3]));
    save(&folder, "clear.png", &clear.into());
    save(&folder, "flat.png", &flat.into());
    let arguments = |input| [input, "out.png", "--backend", "host"];
    let clear = painted(folder.path(), &arguments("clear.png"), "out.png");
    assert!(!clear.color().has_alpha());
    let flat = painted(folder.path(), &arguments("flat.png"), "out.png");
    assert_eq!(clear.into_rgb8(), flat.into_rgb8());
}

#[test]
fn an_unknown_style_is_named_with_the_known_ones() {
    let message = refused(folder().path(), &["--style", "oil"]);
    assert!(message.contains("`oil`") && message.contains("glass, ink, swirl, waves"), "{message}");
}

#[test]
fn unreadable_pictures_are_named() {
    let folder = folder();
    std::fs::write(folder.path().join("garbage.jpg"), b"this is no picture").unwrap();
    let whole = save(&folder, "whole.png", &photograph());
    let bytes = std::fs::read(whole).unwrap();
    std::fs::write(folder.path().join("head.png"), &bytes[..30]).unwrap();
    let whole = save(&folder, "whole.jpg", &photograph().to_rgb8().into());
    let bytes = std::fs::read(whole).unwrap();
    std::fs::write(folder.path().join("third.jpg"), &bytes[..bytes.len() / 3]).unwrap();
    std::fs::write(folder.path().join("head.jpg"), &bytes[..30]).unwrap();
    // Twelve bits a colour, says the frame.
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let damaged = [&bytes[..frame + 4], &[12], &bytes[frame + 5..]].concat();
    std::fs::write(folder.path().join("damaged.jpg"), damaged).unwrap();
    for (input, expected) in [
        ("missing.png", "missing.png: cannot be read"),
        (
            "garbage.jpg",
            "garbage.jpg: this is no JPEG, PNG or WebP picture: save it as one of them",
        ),
        ("damaged.jpg", "the file is damaged, or of a rare kind; fetch it again, or save it"),
        ("head.png", "head.png: the file is cut off"),
        ("third.jpg", "third.jpg: the file is cut off"),
        ("head.jpg", "head.jpg: the file is cut off"),
        (".", "cannot be read"),
    ] {
        let message = refused(folder.path(), &small(&[input, "out.png"]));
        assert!(message.contains(expected), "{message}");
        assert!(!folder.path().join("out.png").exists(), "nothing is left behind");
    }
}

/// With little memory: a picture that unpacks to more than there is, and files without an end.
#[test]
#[cfg(target_os = "linux")]
fn pictures_that_are_more_than_their_files_end_in_a_message() {
    let folder = folder();
    let bomb: DynamicImage = image::GrayImage::new(8000, 8000).into();
    let size = std::fs::metadata(save(&folder, "bomb.png", &bomb)).unwrap().len();
    assert!(size < 1 << 20, "{size}");
    drop(bomb);
    let limited = |arguments: &[&str]| {
        let limit = ["-c", "ulimit -v 3000000; exec \"$0\" \"$@\"", PROGRAM];
        let mut command = Command::new("sh");
        command.current_dir(folder.path()).args(limit).args(arguments);
        let result = command.args(["--backend", "host"]).output().unwrap();
        (result.status.code(), stderr(&result))
    };
    let (code, message) = limited(&["bomb.png", "out.png"]);
    assert_eq!(code, Some(1), "{message}");
    let wanted = "a picture of 8000x8000 needs";
    assert!(message.contains(wanted) && message.contains("try --size "), "{message}");
    let (code, message) = limited(&["bomb.png", "out.png", "--size", "24"]);
    assert_eq!(code, Some(0), "{message}");
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.safetensors")).unwrap();
    for (arguments, expected) in [
        (["/dev/zero", "other.png"], "it is larger than 256 MiB"),
        (["bomb.png", "--style=zero.safetensors"], "it is larger than 512 MiB"),
    ] {
        let (code, message) = limited(&arguments);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!folder.path().join("other.png").exists());
    }
}

#[test]
fn a_picture_that_is_too_small_names_the_smallest_size() {
    let folder = folder();
    let thin: DynamicImage = RgbImage::new(40, 4).into();
    save(&folder, "thin.png", &thin);
    let message = refused(folder.path(), &["thin.png", "out.png", "--backend", "host"]);
    assert!(message.contains("thin.png: 40x4") && message.contains("at least 5"), "{message}");
    assert!(!folder.path().join("out.png").exists(), "nothing is left behind");
}

/// Zeros in a safetensors file.
fn zeros(shapes: Vec<(String, Vec<usize>)>) -> Vec<u8> {
    let zeros = vec![0; 4 * 1000];
    let view = |(name, shape): (String, Vec<usize>)| {
        let bytes = 4 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F32, shape, &zeros[..bytes]).unwrap())
    };
    safetensors::serialize(shapes.into_iter().map(view), None).unwrap()
}

/// A style of width 1 whose tensor `name` has `shape` instead of its own.
fn weights(name: &str, shape: &[usize]) -> Vec<u8> {
    let net = [("conv1", "in1", 3, 1, 9), ("conv2", "in2", 1, 2, 3), ("conv3", "in3", 2, 4, 3)];
    let net =
        net.map(|(conv, norm, i, o, k)| (conv.to_owned(), norm.to_owned(), i, o, k)).into_iter();
    let blocks = (1..=5).flat_map(|b| {
        [1, 2].map(|c| (format!("res{b}.conv{c}"), format!("res{b}.in{c}"), 4, 4, 3))
    });
    let up = [("deconv1", "in4", 4, 2, 3), ("deconv2", "in5", 2, 1, 3), ("deconv3", "", 1, 3, 9)];
    let up = up.map(|(conv, norm, i, o, k)| (conv.to_owned(), norm.to_owned(), i, o, k));
    let mut shapes = Vec::new();
    for (conv, norm, i, o, k) in net.chain(blocks).chain(up) {
        shapes.push((format!("{conv}.conv2d.weight"), vec![o, i, k, k]));
        shapes.push((format!("{conv}.conv2d.bias"), vec![o]));
        if !norm.is_empty() {
            shapes.push((format!("{norm}.weight"), vec![o]));
            shapes.push((format!("{norm}.bias"), vec![o]));
        }
    }
    for tensor in &mut shapes {
        if tensor.0 == name {
            tensor.1 = shape.to_vec();
        }
    }
    zeros(shapes)
}

/// AdaIn's encoder or decoder of width 1: names, channels read and written.
fn adain_weights(lines: &[(&str, usize, usize)]) -> Vec<u8> {
    let shapes = lines.iter().flat_map(|&(conv, i, o)| {
        let kernel = if conv == "conv0" { 1 } else { 3 };
        let weight = (format!("{conv}.weight"), vec![o, i, kernel, kernel]);
        [weight, (format!("{conv}.bias"), vec![o])]
    });
    zeros(shapes.collect())
}

const ENCODER: [(&str, usize, usize); 10] = [
    ("conv0", 3, 3),
    ("conv11", 3, 1),
    ("conv12", 1, 1),
    ("conv21", 1, 2),
    ("conv22", 2, 2),
    ("conv31", 2, 4),
    ("conv32", 4, 4),
    ("conv33", 4, 4),
    ("conv34", 4, 4),
    ("conv41", 4, 8),
];
const DECODER: [(&str, usize, usize); 9] = [
    ("conv41", 8, 4),
    ("conv34", 4, 4),
    ("conv33", 4, 4),
    ("conv32", 4, 4),
    ("conv31", 4, 2),
    ("conv22", 2, 2),
    ("conv21", 2, 1),
    ("conv12", 1, 1),
    ("conv11", 1, 3),
];

/// The options of AdaIn with networks and pictures that lie in the folder.
const ADAIN: [&str; 12] = [
    "in.png",
    "out.png",
    "--adain",
    "style.png",
    "--alpha",
    "0.5",
    "--encoder",
    "encoder.safetensors",
    "--decoder",
    "decoder.safetensors",
    "--backend",
    "host",
];

fn adain_folder() -> TempDir {
    let folder = folder();
    let write = |name: &str, bytes| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("encoder.safetensors", adain_weights(&ENCODER));
    write("decoder.safetensors", adain_weights(&DECODER));
    save(&folder, "in.png", &photograph());
    save(&folder, "style.png", &photograph().resize_exact(1024, 40, image::imageops::Nearest));
    folder
}

#[test]
fn a_picture_is_a_style() {
    let folder = adain_folder();
    let result = run(folder.path(), &ADAIN);
    assert!(result.status.success(), "{}", stderr(&result));
    let picture = image::open(folder.path().join("out.png")).unwrap().into_rgb8();
    assert_eq!((picture.width(), picture.height()), (24, 16), "cut to multiples of eight");
    assert!(picture.pixels().all(|pixel| pixel.0 == [0, 0, 0]), "weights of zero paint black");
    let said = String::from_utf8_lossy(&result.stdout).into_owned();
    let expected = "style.png 512x20 by AdaIn, alpha 0.5, width 1; picture 30x20";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn adain_needs_its_networks_and_names_the_one_that_does_not_fit() {
    let folder = adain_folder();
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder.path()).args(["in.png", "out.png", "--adain", "style.png"]);
    let result = command.env_remove("WGNORM_STYLE_DIR").output().expect("the program starts");
    assert_eq!(result.status.code(), Some(1));
    assert!(stderr(&result).contains("give --encoder and --decoder, or set WGNORM_STYLE_DIR"));

    let result = command.env("WGNORM_STYLE_DIR", "nowhere").output().expect("the program starts");
    assert_eq!(result.status.code(), Some(1));
    let expected = Path::new("nowhere").join("adain").join("encoder16x_relu4_1.safetensors");
    assert!(stderr(&result).contains(&expected.display().to_string()), "{}", stderr(&result));

    let wrong = ADAIN.map(|option| match option {
        "decoder.safetensors" => "encoder.safetensors",
        other => other,
    });
    let message = refused(folder.path(), &wrong);
    for expected in [
        "encoder.safetensors: the decoder: the file holds AdaIn's encoder",
        "of width 1, expected AdaIn's decoder",
    ] {
        assert!(message.contains(expected), "{expected:?} is not in {message}");
    }
    assert!(!folder.path().join("out.png").exists(), "nothing is left behind");
}

#[test]
fn a_style_that_is_too_thin_says_what_it_is_reduced_to() {
    let folder = adain_folder();
    for (width, height, expected) in [
        (
            2048,
            40,
            "style.png: 2048x40 pixels, reduced to 512x10 for a style, are too few: each side of a style needs at least 16; crop it to a part that is nearer to a square",
        ),
        (
            30,
            12,
            "style.png: 30x12 pixels are too few: each side of a style needs at least 16; take a larger picture",
        ),
    ] {
        let thin: DynamicImage = RgbImage::new(width, height).into();
        save(&folder, "style.png", &thin);
        let message = refused(folder.path(), &ADAIN);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_painting_of_adain_that_is_not_finite_names_the_files_of_weights() {
    let folder = adain_folder();
    let path = folder.path().join("decoder.safetensors");
    let bytes = adain_weights(&DECODER);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let spoiled = file.iter().map(|(name, view)| {
        let value = if name == "conv11.weight" || name == "conv12.bias" { f32::MAX } else { 0.0 };
        let values = value.to_le_bytes().repeat(view.data().len() / 4);
        (name.to_owned(), (view.shape().to_vec(), values))
    });
    let spoiled: BTreeMap<_, _> = spoiled.collect();
    let views = spoiled.iter().map(|(name, (shape, values))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), values).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let message = refused(folder.path(), &ADAIN);
    let expected =
        "error: encoder.safetensors and decoder.safetensors: the painting is not finite (";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_file_of_weights_is_a_style() {
    let folder = folder();
    std::fs::write(folder.path().join("own.safetensors"), weights("", &[])).unwrap();
    let own = small(&["--style", "own.safetensors"]);
    let picture = painted(folder.path(), &own, "stylized.png").into_rgb8();
    assert!(picture.pixels().all(|pixel| pixel.0 == [0, 0, 0]), "weights of zero paint black");
}

#[test]
fn tensors_that_do_not_fit_are_named_with_both_shapes() {
    let folder = folder();
    let path = folder.path().join("own.safetensors");
    std::fs::write(&path, weights("res4.conv2.conv2d.weight", &[4, 4, 5, 5])).unwrap();
    let message = refused(folder.path(), &small(&["--style", "own.safetensors"]));
    for expected in
        ["own.safetensors", "`res4.conv2.conv2d.weight`", "[4, 4, 5, 5]", "expected [4, 4, 3, 3]"]
    {
        assert!(message.contains(expected), "{expected:?} is not in {message}");
    }
}

/// Whatever the file is called: what is in it is named, and what to do.
#[test]
fn styles_that_are_no_safetensors_are_named_with_the_way_out() {
    let folder = folder();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let checkpoint = b"PK\x03\x04\x14\0\0\0\x08\x08mosaic/data.pkl";
    for (name, bytes, expected) in [
        ("mosaic.pth", &checkpoint[..], "torch.load("),
        ("mosaic", checkpoint, "torch.load("),
        ("mosaic.safetensors", checkpoint, "torch.load("),
        ("pointer.safetensors", pointer, "`git lfs pull`"),
        ("page.SafeTensors", b"<!DOCTYPE html><html>", "a web page"),
        ("empty.safetensors", b"", "an empty file"),
    ] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let message = refused(folder.path(), &small(&["--style", name]));
        assert!(message.starts_with(&format!("error: {name}: this is ")), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!folder.path().join("stylized.png").exists(), "nothing is left behind");
    }
    // A checkpoint that is not there is a file that is not there, not an unknown style.
    let message = refused(folder.path(), &small(&["--style", "other.pth"]));
    assert!(message.starts_with("error: other.pth: ") && !message.contains("style"), "{message}");
    // And weights are weights under any name.
    std::fs::write(folder.path().join("own.bin"), weights("", &[])).unwrap();
    painted(folder.path(), &small(&["--style", "own.bin"]), "stylized.png");
}

#[test]
fn weights_that_are_not_finite_or_overflow_paint_nothing() {
    let folder = folder();
    let path = folder.path().join("own.safetensors");
    let style = small(&["--style", "own.safetensors"]);
    let spoil = |value: f32| {
        let mut bytes = weights("", &[]);
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        refused(folder.path(), &style)
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let message = spoil(value);
        let expected = format!("own.safetensors: tensor `res5.in2.weight` holds {value} at [3]");
        assert!(message.contains(&expected), "{message}");
        assert!(!folder.path().join("stylized.png").exists(), "nothing is written");
    }
    // The bias of the last convolution: finite, and so large that a sum with it is not.
    let mut shapes = BTreeMap::new();
    for (name, view) in safetensors::SafeTensors::deserialize(&weights("", &[])).unwrap().iter() {
        let value = if name.starts_with("deconv3") || name == "in5.bias" { f32::MAX } else { 0.0 };
        let values = value.to_le_bytes().repeat(view.data().len() / 4);
        shapes.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    let views = shapes.iter().map(|(name, (shape, values))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), values).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let message = refused(folder.path(), &style);
    assert!(message.contains("own.safetensors: the painting is not finite (1728 of its 1728 values are not, the first of them inf at x 0, y 0)"), "{message}");
    assert!(!folder.path().join("stylized.png").exists(), "nothing is written");
}

#[test]
fn truncated_and_missing_weights_are_refused() {
    let folder = folder();
    let whole = weights("", &[]);
    std::fs::write(folder.path().join("half.safetensors"), &whole[..whole.len() - 100]).unwrap();
    let message = refused(folder.path(), &small(&["--style", "half.safetensors"]));
    assert!(message.contains("half.safetensors: not a whole safetensors file"), "{message}");
    let message = refused(folder.path(), &small(&["--style", "none.safetensors"]));
    assert!(message.contains("none.safetensors: cannot be read: "), "{message}");
}

#[test]
fn unwritable_outputs_are_refused_before_the_work() {
    let folder = folder();
    save(&folder, "in.png", &photograph());
    std::fs::create_dir(folder.path().join("folder.png")).unwrap();
    for (output, expected) in [
        (
            "nowhere/out.png",
            "nowhere/out.png: cannot be written: the folder nowhere does not exist: make it, or choose another OUTPUT",
        ),
        ("folder.png", "folder.png: cannot be written"),
        (
            "out.gif",
            "out.gif: unknown picture format \"gif\": the name must end in .png, .jpg or .jpeg",
        ),
        (
            "out",
            "out: the name has no ending, which says how a picture is written: the name must end in .png, .jpg or .jpeg",
        ),
    ] {
        let result = run(folder.path(), &small(&["in.png", output]));
        assert_eq!(result.status.code(), Some(1), "{output}");
        assert!(stderr(&result).contains(expected), "{}", stderr(&result));
        assert!(
            !String::from_utf8_lossy(&result.stdout).contains("back end"),
            "{output}: nothing was begun"
        );
    }
}

#[test]
fn an_output_that_exists_survives_a_failure_and_is_replaced_by_success() {
    let folder = folder();
    save(&folder, "in.png", &photograph());
    std::fs::write(folder.path().join("out.png"), b"precious").unwrap();
    let thin: DynamicImage = RgbImage::new(40, 4).into();
    save(&folder, "thin.png", &thin);
    refused(folder.path(), &["thin.png", "out.png", "--backend", "host"]);
    assert_eq!(std::fs::read(folder.path().join("out.png")).unwrap(), b"precious");
    painted(folder.path(), &small(&["in.png", "out.png"]), "out.png");
}

#[test]
fn asking_for_a_gpu_where_there_is_none_is_an_error_and_auto_takes_the_host() {
    let folder = folder();
    let run = |backend: &str| {
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).args(["--size", "24", "--backend", backend]);
        // No Vulkan driver, and no other back end.
        for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(name, "/nonexistent.json");
        }
        command.env("WGPU_BACKEND", "vulkan").env_remove("WGNORM_ADAPTER");
        command.output().expect("the program starts")
    };
    if cfg!(target_os = "linux") {
        let refused = run("gpu");
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("no GPU: "), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("--backend host"), "{}", stderr(&refused));
        assert!(!folder.path().join("stylized.png").exists(), "nothing is left behind");
        let fallen_back = run("auto");
        assert!(fallen_back.status.success(), "{}", stderr(&fallen_back));
        assert!(String::from_utf8_lossy(&fallen_back.stdout).contains("host"));
    }
}

#[test]
fn wrong_options_are_usage_errors() {
    let wrong: [&[&str]; 8] = [
        &["--size", "0"],
        &["--backend", "abacus"],
        &["--sise", "9"],
        &["--alpha", "0.5"],
        &["--encoder", "e.safetensors"],
        &["--adain", "style.png", "--style", "ink"],
        &["--adain", "style.png", "--alpha", "1.5"],
        &["--adain", "style.png", "--alpha", "much"],
    ];
    for arguments in wrong {
        assert_eq!(run(folder().path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}
