//! What the program does with files: pictures of unusual size or with a part missing, and outputs that are precious.

mod program;

use std::path::Path;

use image::{DynamicImage, RgbImage};
use program::{folder, painted, photograph, refused, run, save, small, stderr};

const WARNING: &str = "the file is cut off; what there is of it is painted";

/// Every file of a folder with its contents, links as what they lead to. A device's are none.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .map(|entry| {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let bytes = if path.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
            (name, bytes)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn what_is_there_of_a_file_is_painted_and_the_rest_is_told() {
    let folder = folder();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let jpeg = std::fs::read(save(&folder, "whole.jpg", &photograph())).unwrap();
    let png = std::fs::read(save(&folder, "whole.png", &photograph())).unwrap();
    let webp = std::fs::read(save(&folder, "whole.webp", &photograph())).unwrap();
    let end = jpeg.len() - 2;
    write("filled.jpg", &[&jpeg[..end], &[0xff; 3], &jpeg[end..]].concat());
    write("endless.jpg", &jpeg[..end]);
    write("short.jpg", &jpeg[..end - 20]);
    write("endless.png", &png[..png.len() - 3]);
    write("short.png", &png[..png.len() - 40]);
    write("short.webp", &webp[..webp.len() - 10]);
    for (input, cut) in [
        ("whole.jpg", false),
        ("filled.jpg", false),
        ("whole.png", false),
        ("whole.webp", false),
        ("endless.jpg", true),
        ("short.jpg", true),
        ("endless.png", true),
        ("short.png", true),
    ] {
        let result = run(folder.path(), &small(&[input, "out.png"]));
        let said = stderr(&result);
        assert!(result.status.success(), "{input}: {said}");
        assert_eq!(said.contains(&format!("warning: {input}: {WARNING}")), cut, "{input}: {said}");
    }
    let message = refused(folder.path(), &small(&["short.webp", "out.png"]));
    assert!(message.contains("short.webp: the file is cut off, and a part of a WebP cannot be decoded: fetch it again"), "{message}");
    let whole = painted(folder.path(), &small(&["whole.jpg", "whole-out.png"]), "whole-out.png");
    for same in ["filled.jpg", "endless.jpg"] {
        let painting = painted(folder.path(), &small(&[same, "out.png"]), "out.png");
        assert_eq!(painting, whole, "{same}");
    }
}

#[test]
fn sides_of_any_length_are_painted_where_the_pixels_are_few() {
    let folder = folder();
    let long: DynamicImage = RgbImage::new(32_769, 5).into();
    save(&folder, "long.png", &long);
    save(&folder, "high.png", &long.rotate90());
    for (input, size) in [("long.png", (32_769, 5)), ("high.png", (5, 32_769))] {
        let painting = painted(folder.path(), &[input, "out.png", "--backend", "host"], "out.png");
        assert_eq!((painting.width(), painting.height()), size);
    }
    // More pixels than are read: a header is enough.
    let mut huge = std::fs::read(save(&folder, "huge.png", &photograph())).unwrap();
    huge.splice(16..24, [0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let crc = crc32(&huge[12..29]);
    huge.splice(29..33, crc.to_be_bytes());
    std::fs::write(folder.path().join("huge.png"), huge).unwrap();
    let message = refused(folder.path(), &small(&["huge.png", "out.png"]));
    let expected = "huge.png: 32768x32768 pixels are too many: all together may be 268435456; save the picture smaller first";
    assert!(message.contains(expected), "{message}");
}

/// A PNG's checksum of a chunk's name and contents.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}

#[test]
fn the_input_is_replaced_only_where_that_was_asked_for() {
    let folder = folder();
    let path = save(&folder, "in.png", &photograph());
    let own = folder.path().join("own.safetensors");
    std::fs::write(&own, b"weights").unwrap();
    std::fs::hard_link(&path, folder.path().join("hard.png")).unwrap();
    std::fs::hard_link(&own, folder.path().join("own.png")).unwrap();
    let absolute = path.display().to_string();
    let mut names = vec!["in.png", "./in.png", "hard.png", &absolute];
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink("./in.png", folder.path().join("soft.png")).unwrap();
        names.push("soft.png");
    }
    let before = contents(folder.path());
    for output in &names {
        for input in &names {
            let message = refused(folder.path(), &small(&[input, output]));
            let expected = format!(
                "{output}: this is the same file as the photograph {input}, which the painting would replace: choose another OUTPUT, or add --overwrite-input"
            );
            assert!(message.contains(&expected), "{message}");
        }
        let adain = ["missing.png", output, "--adain", "in.png", "--backend", "host"];
        let message = refused(folder.path(), &adain);
        assert!(
            message.contains("is the same file as the picture of the style in.png"),
            "{message}"
        );
    }
    for flag in ["--backend=host", "--overwrite-input"] {
        let message =
            refused(folder.path(), &["in.png", "own.png", "--style=own.safetensors", flag]);
        assert!(
            message
                .contains("own.png: this is the same file as the file of weights own.safetensors"),
            "{message}"
        );
        assert!(message.trim().ends_with("choose another OUTPUT"), "{message}");
    }
    assert!(contents(folder.path()) == before);
    let replaced = small(&["in.png", "./in.png", "--overwrite-input"]);
    let painting = painted(folder.path(), &replaced, "in.png");
    assert_eq!((painting.width(), painting.height()), (24, 16));
    assert_eq!(contents(folder.path()).len(), before.len(), "nothing else is left");
}

/// Weights that are found through the environment are inputs, too.
#[test]
fn weights_of_the_styles_folder_are_not_replaced() {
    let folder = folder();
    save(&folder, "in.png", &photograph());
    let adain = folder.path().join("adain");
    std::fs::create_dir(&adain).unwrap();
    for (name, link) in [
        ("encoder16x_relu4_1.safetensors", "encoder.png"),
        ("decoder16x_recon.safetensors", "decoder.png"),
    ] {
        std::fs::write(adain.join(name), b"weights").unwrap();
        std::fs::hard_link(adain.join(name), folder.path().join(link)).unwrap();
        let mut command = std::process::Command::new(program::PROGRAM);
        command.current_dir(folder.path()).env("WGNORM_STYLE_DIR", folder.path());
        command.args(["in.png", link, "--adain", "in.png", "--overwrite-input"]);
        let message = stderr(&command.output().unwrap());
        let expected = format!("error: {link}: this is the same file as the file of weights ");
        assert!(message.starts_with(&expected) && message.contains(name), "{message}");
        assert_eq!(std::fs::read(folder.path().join(link)).unwrap(), b"weights");
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Output, Stdio};
    use std::time::Duration;

    use super::*;
    use program::PROGRAM;

    /// Runs through a shell that sets something up before.
    fn shell(folder: &Path, before: &str, arguments: &[&str]) -> Output {
        let script = format!("{before}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.current_dir(folder).args(["-c", &script, PROGRAM]).args(arguments);
        command.output().expect("a shell")
    }

    /// In the time and memory that numbers take, whatever the picture.
    #[test]
    #[cfg(target_os = "linux")]
    fn sizes_that_cannot_be_painted_are_refused_at_once() {
        let folder = folder();
        save(&folder, "in.png", &RgbImage::new(64, 48).into());
        save(&folder, "wide.png", &RgbImage::new(100, 5).into());
        save(&folder, "long.png", &RgbImage::new(70_000, 5).into());
        save(&folder, "longer.png", &RgbImage::new(99_999, 5).into());
        // Sixty megapixels, to be refused before they are decoded.
        save(&folder, "large.png", &image::GrayImage::new(10_000, 6000).into());
        std::fs::write(folder.path().join("out.png"), b"precious").unwrap();
        let before = contents(folder.path());
        for (input, output, size, expected) in [
            (
                "in.png",
                "out.png",
                "32768",
                "in.png: 64x48 pixels resized to 32768x24576 are too many: all together may be 268435456; try --size 18918",
            ),
            ("in.png", "out.png", "4294967295", "4294967295x3221225471 are too many"),
            ("in.png", "out.png", "16384", "a picture of 16384x12288 needs "),
            ("large.png", "out.png", "10000", "a picture of 10000x6000 needs "),
            (
                "in.png",
                "out.png",
                "5",
                "in.png: 5x4 pixels are too few: each side needs at least 5; try --size 6 or more",
            ),
            ("wide.png", "out.png", "50", "each side needs at least 5; try --size 90 or more"),
            (
                "long.png",
                "out.jpg",
                "70000",
                "out.jpg: a JPEG of 70000x5 pixels cannot be written, its sides may have 65535: choose a name that ends in .png, or --size 65535",
            ),
            (
                "longer.png",
                "out.jpg",
                "99999",
                "out.jpg: a JPEG of 99999x5 pixels cannot be written, its sides may have 65535: choose a name that ends in .png\n",
            ),
        ] {
            let began = std::time::Instant::now();
            let arguments = [input, output, "--backend", "host", "--size", size];
            let result = shell(folder.path(), "ulimit -v 1000000", &arguments);
            let message = stderr(&result);
            assert_eq!(result.status.code(), Some(1), "{input} {size}: {message}");
            assert!(message.contains(expected), "{input} {size}: {message}");
            assert!(began.elapsed() < Duration::from_secs(2), "{size}: {:?}", began.elapsed());
            let said = String::from_utf8_lossy(&result.stdout).into_owned();
            assert!(!said.contains("back end"), "nothing was begun: {said}");
            assert!(contents(folder.path()) == before, "{size}");
        }
    }

    /// Whatever memory there is: it is enough, or a message says before the work that it is not.
    #[test]
    #[cfg(target_os = "linux")]
    fn too_little_memory_is_told_before_the_work() {
        let folder = folder();
        save(&folder, "in.png", &RgbImage::new(64, 48).into());
        let mut refusals = 0;
        for limit in (400_000..).step_by(25_000) {
            let arguments = ["in.png", "out.png", "--backend", "host", "--size", "1500"];
            let result = shell(folder.path(), &format!("ulimit -v {limit}"), &arguments);
            if result.status.success() {
                break;
            }
            let message = stderr(&result);
            assert_eq!(result.status.code(), Some(1), "{limit}: {message}");
            let expected = "error: in.png: a picture of 1500x1125 needs ";
            assert!(message.starts_with(expected), "{limit}: {message}");
            assert!(
                message.contains("; try --size ") || message.contains(": try --size "),
                "{message}"
            );
            refusals += 1;
        }
        assert!(refusals > 0, "less memory than the picture needs was enough");
    }

    #[test]
    fn a_full_disk_costs_nothing_that_was_there() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        std::fs::write(folder.path().join("out.png"), b"precious").unwrap();
        symlink("/dev/full", folder.path().join("full.png")).unwrap();
        let before = contents(folder.path());
        // No file may grow, as on a full disk; the signal is ignored, or ends the program.
        for (signal, code) in [("trap '' XFSZ", Some(1)), (":", None)] {
            for arguments in [["in.png", "out.png"], ["in.png", "new.png"], ["in.png", "in.png"]] {
                let is_input = arguments[0] == arguments[1];
                let mut arguments = small(&arguments);
                arguments.extend(is_input.then_some("--overwrite-input"));
                let limit = format!("{signal}; ulimit -c 0; ulimit -f 0");
                let result = shell(folder.path(), &limit, &arguments);
                assert_eq!(result.status.code(), code, "{arguments:?}: {}", stderr(&result));
                let said = stderr(&result);
                assert!(code.is_none() || said.contains("cannot be written: "), "{said}");
                assert!(contents(folder.path()) == before, "{arguments:?}");
            }
        }
        let message = refused(folder.path(), &small(&["in.png", "full.png"]));
        assert!(message.contains("full.png: cannot be written: "), "{message}");
        assert!(contents(folder.path()) == before);
        assert!(folder.path().join("full.png").is_symlink());
    }

    /// A file on which another one is mounted cannot be replaced.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_painting_that_cannot_get_its_name_is_kept_beside_it() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        let (mounted, out) = (folder.path().join("mounted.png"), folder.path().join("out.png"));
        for file in [&mounted, &out] {
            std::fs::write(file, b"precious").unwrap();
        }
        let mount = Command::new("mount").arg("--bind").args([&mounted, &out]).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            eprintln!("skipped: this user may not mount a file");
            return;
        }
        let result = run(folder.path(), &small(&["in.png", "out.png"]));
        let unmounted = Command::new("umount").arg(&out).status().unwrap();
        assert!(unmounted.success());
        let message = stderr(&result);
        assert_eq!(result.status.code(), Some(1), "{message}");
        let (_, kept) = message.trim().split_once("; the painting is in ").expect(&message);
        assert!(kept.ends_with(".png"), "{message}");
        let expected = painted(folder.path(), &small(&["in.png", "new.png"]), "new.png");
        assert_eq!(image::open(folder.path().join(kept)).unwrap(), expected);
        for file in [&mounted, &out] {
            assert_eq!(std::fs::read(file).unwrap(), b"precious");
        }
    }

    #[test]
    fn a_run_that_is_ended_leaves_everything_as_it_was() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        std::fs::write(folder.path().join("out.png"), b"precious").unwrap();
        let before = contents(folder.path());
        for signal in ["-INT", "-TERM", "-HUP", "-KILL"] {
            for (output, wait) in
                [("out.png", 0), ("out.png", 200), ("new.png", 20), ("in.png", 400)]
            {
                // Long enough to be in the middle of it.
                let arguments = ["in.png", output, "--backend=host", "--size=1500"];
                let mut command = Command::new(PROGRAM);
                command.current_dir(folder.path()).args(arguments);
                command.args((output == "in.png").then_some("--overwrite-input"));
                let mut child = command.stdout(Stdio::null()).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(wait));
                let id = child.id().to_string();
                assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
                assert_eq!(child.wait().unwrap().code(), None, "ended by {signal}");
                assert!(contents(folder.path()) == before, "{signal} after {wait} ms");
            }
        }
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        std::fs::create_dir(folder.path().join("there")).unwrap();
        std::fs::write(folder.path().join("there/old.png"), b"precious").unwrap();
        for (link, to, file) in [
            ("a.png", "there/old.png", "there/old.png"),
            ("b.png", "there/new.png", "there/new.png"),
            ("there/c.png", "../last.png", "last.png"),
            ("d.png", "there/c.png", "last.png"),
        ] {
            symlink(to, folder.path().join(link)).unwrap();
            painted(folder.path(), &small(&["in.png", link]), file);
            assert_eq!(std::fs::read_link(folder.path().join(link)).unwrap(), Path::new(to));
        }
        symlink("nowhere/x.png", folder.path().join("e.png")).unwrap();
        symlink("f.png", folder.path().join("f.png")).unwrap();
        for link in ["e.png", "f.png"] {
            let message = refused(folder.path(), &small(&["in.png", link]));
            assert!(message.contains(&format!("{link}: cannot be written: ")), "{message}");
        }
    }

    #[test]
    fn permissions_are_those_of_the_file_that_is_replaced() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        let mode = |name: &str| {
            std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        let old = folder.path().join("old.png");
        std::fs::write(&old, b"precious").unwrap();
        std::fs::set_permissions(&old, PermissionsExt::from_mode(0o604)).unwrap();
        for (output, expected) in [("old.png", 0o604), ("new.png", 0o640)] {
            let result = shell(folder.path(), "umask 027", &small(&["in.png", output]));
            assert!(result.status.success(), "{}", stderr(&result));
            assert_eq!(mode(output), expected, "{output}");
        }
    }

    #[test]
    fn a_folder_that_takes_no_file_is_refused_before_the_work() {
        let folder = folder();
        let closed = folder.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("old.png"), b"precious").unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
        if std::fs::write(closed.join("probe"), b"").is_ok() {
            eprintln!("skipped: permissions do not bind this user");
            return;
        }
        save(&folder, "in.png", &photograph());
        for (output, expected) in [
            ("closed/new.png", "closed/new.png: cannot be written: "),
            ("closed/old.png", "choose an OUTPUT in another folder"),
        ] {
            let message = refused(folder.path(), &small(&["in.png", output]));
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(std::fs::read(closed.join("old.png")).unwrap(), b"precious");
        // So that it can be removed.
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn pipes_and_the_programs_own_output_get_the_painting_and_nothing_else() {
        let folder = folder();
        save(&folder, "in.png", &photograph());
        let expected = painted(folder.path(), &small(&["in.png", "out.png"]), "out.png");
        symlink("/dev/stdout", folder.path().join("stdout.png")).unwrap();
        let result = run(folder.path(), &small(&["in.png", "stdout.png"]));
        assert!(stderr(&result).contains("wrote     stdout.png"), "{}", stderr(&result));
        assert_eq!(image::load_from_memory(&result.stdout).unwrap(), expected);

        let pipe = folder.path().join("pipe.png");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).unwrap()
        });
        let result = run(folder.path(), &small(&["in.png", "pipe.png"]));
        assert!(result.status.success(), "{}", stderr(&result));
        assert_eq!(image::load_from_memory(&reader.join().unwrap()).unwrap(), expected);
    }
}
