//! Where the painting goes. A file that is there stays as it is until the painting is whole beside it, and then is
//! replaced in one step: a full disk, a signal or a lost device costs the painting, never what was there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempPath};

/// Links that are followed, as Linux follows them.
const MOST_LINKS: usize = 40;

/// A place that a painting can be written to, found out before the work.
pub struct Output {
    place: Place,
}

enum Place {
    /// A file, where it lies: links are followed, and stay.
    File(PathBuf),
    /// A device or a pipe, which is written to, as it cannot be replaced.
    Device(PathBuf),
    /// The program's own output, where its words would be in the way.
    Stdout,
}

/// Why a painting cannot be written there.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refuses.
    #[error("cannot be written: {0}")]
    Write(#[from] io::Error),
    /// There is no folder to write to.
    #[error("cannot be written: the folder {} does not exist: make it, or choose another OUTPUT", .0.display())]
    NoFolder(PathBuf),
    /// The name is refused when the painting is whole beside it.
    #[error("cannot be written: {error}; the painting is in {}", .kept.display())]
    Kept {
        /// What the system says.
        error: io::Error,
        /// The file that it is in.
        kept: PathBuf,
    },
    /// What is there could only be overwritten in place, and would be lost if that fails.
    #[error(
        "cannot be written: its folder takes no new file ({0}), and what is there is replaced only by a painting that is whole: choose an OUTPUT in another folder"
    )]
    Folder(io::Error),
    /// The output is what the painting is made of.
    #[error(
        "this is the same file as {what} {}, which the painting would replace: choose another OUTPUT{}", .input.display(),
        if *.allowed { ", or add --overwrite-input" } else { "" }
    )]
    Input {
        /// What it is used as.
        what: &'static str,
        /// The name under which it is used.
        input: PathBuf,
        /// Whether an option allows it.
        allowed: bool,
    },
}

impl Output {
    /// Finds out whether a painting can be written to `path`, and leaves nothing there, however the program ends.
    pub fn find(path: &Path) -> Result<Output, OutputError> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = followed(path);
                let folder = folder(&file);
                // A file without a name, or one that has none a moment later.
                tempfile::tempfile_in(folder).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => OutputError::NoFolder(folder.to_owned()),
                    _ => error.into(),
                })?;
                return Ok(Output { place: Place::File(file) });
            }
            Err(error) => return Err(error.into()),
        };
        if found.is_dir() {
            return Err(io::Error::from(ErrorKind::IsADirectory).into());
        }
        if is_stdout(&found) {
            return Ok(Output { place: Place::Stdout });
        }
        if !found.is_file() {
            // A pipe is opened when the painting is there: that waits for who reads it.
            if !is_pipe(&found) {
                OpenOptions::new().write(true).open(path)?;
            }
            return Ok(Output { place: Place::Device(path.to_owned()) });
        }
        let file = fs::canonicalize(path)?;
        // Who may not write to a file shall not replace it.
        OpenOptions::new().write(true).open(&file)?;
        tempfile::tempfile_in(folder(&file)).map_err(OutputError::Folder)?;
        Ok(Output { place: Place::File(file) })
    }

    /// Refuses to replace a file that the painting is made of, whatever it is called here and there.
    pub fn spare(
        &self,
        input: &Path,
        what: &'static str,
        allowed: bool,
    ) -> Result<(), OutputError> {
        let Place::File(file) = &self.place else { return Ok(()) };
        // Pipes are not opened: that would wait for who writes to them.
        let is_file = |path| fs::metadata(path).is_ok_and(|found: Metadata| found.is_file());
        if is_file(input) && is_file(file) && same_file::is_same_file(input, file)? {
            return Err(OutputError::Input { what, input: input.to_owned(), allowed });
        }
        Ok(())
    }

    /// A line for people: not into the painting. Whoever read the first ones may have gone (`| head`), which is no
    /// failure.
    pub fn say(&self, line: std::fmt::Arguments<'_>) {
        let _ = match self.place {
            Place::Stdout => writeln!(io::stderr(), "{line}"),
            _ => writeln!(io::stdout(), "{line}"),
        };
    }

    /// Writes the painting.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        match &self.place {
            Place::File(file) => replace(file, bytes)?,
            Place::Device(path) => {
                OpenOptions::new().write(true).open(path)?.write_all(bytes)?;
            }
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()?;
            }
        }
        Ok(())
    }
}

/// The file that a link which leads nowhere yet names, or `path` itself.
fn followed(path: &Path) -> PathBuf {
    let mut file = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&file) else { break };
        file = folder(&file).join(next);
    }
    file
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn is_stdout(found: &Metadata) -> bool {
    use std::os::{fd::AsFd, unix::fs::MetadataExt};
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let stdout = stdout.and_then(|stdout| stdout.metadata());
    // /dev/null is many programs' output.
    let is_null = || fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == found.rdev());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (found.dev(), found.ino()))
        && (found.is_file() || !is_null())
}

#[cfg(unix)]
fn is_pipe(found: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(not(unix))]
fn is_stdout(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn is_pipe(_: &Metadata) -> bool {
    false
}

/// Writes beside the file, on its file system, and then gives the new one its name. Some names cannot be given: of a file
/// on which another is mounted, or of another user's in a folder like /tmp. The new file then stays beside it.
fn replace(file: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let before = fs::metadata(file).ok();
    let folder = folder(file);
    // Its ending says what it is, should it stay.
    let ending = file.extension().unwrap_or_default();
    let written = match nameless(folder, ending, bytes, before.as_ref())? {
        Some(written) => written,
        None => named(folder, ending, bytes, before.as_ref())?,
    };
    if let Err(refused) = written.persist(file) {
        let error = refused.error;
        let kept = refused.path.keep().map_err(|e| e.error)?;
        return Err(OutputError::Kept { error, kept });
    }
    // Only then is the new name on the disk; until then the old one is.
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn suffix(ending: &OsStr) -> OsString {
    let mut suffix = OsString::from(".");
    suffix.push(ending);
    suffix
}

/// The name that the new file has for a moment: with a dot and the ending of the one that it is to have.
fn temporary(suffix: &OsStr) -> Builder<'static, '_> {
    let mut builder = Builder::new();
    builder.prefix("painting-").suffix(suffix).rand_bytes(12);
    // As any new file: the system takes away what the user's mask says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// The bytes in a file that gets a name when it is whole: nothing is left of it even if the program is killed before.
/// None where the file system has no such files.
#[cfg(target_os = "linux")]
fn nameless(
    folder: &Path,
    ending: &OsStr,
    bytes: &[u8],
    before: Option<&Metadata>,
) -> io::Result<Option<TempPath>> {
    use rustix::fs::{AtFlags, CWD, OFlags, linkat};
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
    let flags = OFlags::TMPFILE.bits() as i32;
    let opened = OpenOptions::new().write(true).mode(0o666).custom_flags(flags).open(folder);
    let Ok(mut file) = opened else { return Ok(None) };
    fill(&mut file, bytes, before)?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |path: &Path| Ok(linkat(CWD, &unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?);
    Ok(temporary(&suffix(ending)).make_in(folder, link).ok().map(|linked| linked.into_temp_path()))
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path, _: &OsStr, _: &[u8], _: Option<&Metadata>) -> io::Result<Option<TempPath>> {
    Ok(None)
}

/// The bytes in a file that is removed again unless it is kept.
fn named(
    folder: &Path,
    ending: &OsStr,
    bytes: &[u8],
    before: Option<&Metadata>,
) -> io::Result<TempPath> {
    let mut file = temporary(&suffix(ending)).tempfile_in(folder)?;
    fill(file.as_file_mut(), bytes, before)?;
    Ok(file.into_temp_path())
}

/// Writes it all, to the disk itself, for the owner and with the permissions of the file that it replaces.
fn fill(file: &mut File, bytes: &[u8], before: Option<&Metadata>) -> io::Result<()> {
    file.write_all(bytes)?;
    if let Some(before) = before {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
                // Only an administrator may give a file away; for others it becomes theirs.
                let _ = fchown(&*file, Some(before.uid()), Some(before.gid()));
            }
        }
        file.set_permissions(before.permissions())?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// File systems differ in which of the two they offer.
    #[test]
    fn both_ways_to_write_beside_a_file_replace_it_and_leave_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old.png");
        let way = |is_nameless| match is_nameless {
            true => nameless(folder.path(), OsStr::new("png"), b"new", None).unwrap(),
            false => Some(named(folder.path(), OsStr::new("png"), b"new", None).unwrap()),
        };
        for is_nameless in [true, false] {
            fs::write(&file, b"precious").unwrap();
            let Some(written) = way(is_nameless) else {
                eprintln!("skipped: no files without a name here");
                continue;
            };
            assert_eq!(names(folder.path()).len(), 2, "the old one stays until then");
            assert_eq!(fs::read(&file).unwrap(), b"precious");
            written.persist(&file).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"new");
            // One that is not kept.
            drop(way(is_nameless));
            assert_eq!(names(folder.path()), ["old.png"]);
        }
    }

    #[test]
    fn a_painting_whose_name_is_refused_at_the_end_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.png");
        let output = Output::find(&file).unwrap();
        // A folder that came meanwhile, with something in it.
        fs::create_dir(&file).unwrap();
        fs::write(file.join("precious"), b"precious").unwrap();
        let error = output.write(b"painting").unwrap_err();
        let OutputError::Kept { kept, .. } = &error else { panic!("{error}") };
        assert_eq!(fs::read(kept).unwrap(), b"painting");
        assert_eq!((kept.parent(), kept.extension()), (Some(folder.path()), file.extension()));
        let end = format!("; the painting is in {}", kept.display());
        assert!(error.to_string().ends_with(&end), "{error}");
        assert_eq!(names(&file), ["precious"]);
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn to_find_a_place_leaves_nothing_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.png");
        let output = Output::find(&file).unwrap();
        assert!(names(folder.path()).is_empty());
        output.write(b"new").unwrap();
        output.write(b"newer").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"newer");
        assert_eq!(names(folder.path()), ["new.png"]);
        assert!(Output::find(folder.path()).is_err());
        let missing = Output::find(&folder.path().join("none/new.png")).err().unwrap();
        assert!(missing.to_string().contains("none does not exist"), "{missing}");
        assert!(Output::find(&folder.path().join("x".repeat(300))).is_err());
    }
}
