//! The program, run in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{DynamicImage, Rgb, RgbImage};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_style-transfer");
/// Small enough for every test to take a fraction of a second on the host.
const SMALL: [&str; 4] = ["--backend", "host", "--size", "24"];

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).current_dir(folder).args(arguments).output().expect("the program starts")
}

/// Runs, expects success, and reads the picture it wrote.
pub fn painted(folder: &Path, arguments: &[&str], output: &str) -> DynamicImage {
    let result = run(folder, arguments);
    assert!(result.status.success(), "{arguments:?}: {}", stderr(&result));
    image::open(folder.join(output)).expect("a picture was written")
}

/// Runs, expects a failure, and returns the message.
pub fn refused(folder: &Path, arguments: &[&str]) -> String {
    let result = run(folder, arguments);
    assert_eq!(result.status.code(), Some(1), "{arguments:?}: {}", stderr(&result));
    let message = stderr(&result);
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{message}");
    message
}

pub fn stderr(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned()
}

pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A picture 30 wide and 20 high, dark on the left and bright on the right.
pub fn photograph() -> DynamicImage {
    RgbImage::from_fn(30, 20, |x, y| Rgb([8 * x as u8, 128, 6 * y as u8])).into()
}

pub fn save(folder: &TempDir, name: &str, picture: &DynamicImage) -> PathBuf {
    let path = folder.path().join(name);
    picture.save(&path).expect("the picture can be written");
    path
}

pub fn small<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &SMALL].concat()
}
