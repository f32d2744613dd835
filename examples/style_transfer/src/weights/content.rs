//! What a file is that carries the name of a safetensors file and is none.

use std::borrow::Cow;
use std::fmt;

/// What the bytes of a file are, where they are no safetensors file. Its text says so, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// No bytes.
    Empty,
    /// Zeros, which a download or a copy that did not finish leaves.
    Zeros,
    /// A checkpoint that `torch.save` wrote (`.pth`, `.pt`, `.bin`): a zip archive with a pickle, or the older pickle alone.
    Checkpoint,
    /// A TorchScript archive.
    TorchScript,
    /// A pickle of Python's that is no checkpoint of PyTorch's.
    Pickle,
    /// A model of Lua Torch (`.t7`), as the first fast style networks are published.
    LuaTorch,
    /// What stands in a git repository for a file that Git LFS keeps.
    LfsPointer,
    /// What stands in a git repository for a file that git-annex keeps.
    AnnexPointer,
    /// A page of a web server, or its message in XML.
    Page,
    /// The index of a checkpoint that is split into several files.
    Index,
    /// Other JSON.
    Json,
    /// Text, such as a server's message, with the beginning of its first line.
    Text(String),
    /// An archive or compressed file of this format.
    Archive(&'static str),
    /// A model in a format of another framework.
    Model(&'static str),
    /// Arrays of NumPy's (`.npy`, `.npz`).
    NumPy,
    /// A picture.
    Picture,
}

/// Formats whose files begin with these bytes.
const BEGINNINGS: [(&[u8], Content); 21] = [
    (b"version https://git-lfs.github.com/spec/", Content::LfsPointer),
    (b"version https://hawser.github.com/spec/", Content::LfsPointer), // its name before 2014
    (b"/annex/objects/", Content::AnnexPointer),
    (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", Content::LuaTorch),
    (b"GGUF", Content::Model("GGUF")),
    (b"lmgg", Content::Model("GGML")),
    (b"tjgg", Content::Model("GGML")),
    (b"\x89HDF\r\n\x1a\n", Content::Model("HDF5 (Keras)")),
    (b"\x93NUMPY", Content::NumPy),
    (b"\x1f\x8b", Content::Archive("gzip")),
    (b"BZh", Content::Archive("bzip2")),
    (b"\xfd7zXZ\0", Content::Archive("xz")),
    (b"\x28\xb5\x2f\xfd", Content::Archive("zstd")),
    (b"\x04\x22\x4d\x18", Content::Archive("lz4")),
    (b"7z\xbc\xaf\x27\x1c", Content::Archive("7z")),
    (b"Rar!\x1a\x07", Content::Archive("rar")),
    (b"PK\x05\x06", Content::Archive("zip")), // one without files
    (b"\x89PNG\r\n", Content::Picture),
    (b"\xff\xd8\xff", Content::Picture),
    (b"GIF8", Content::Picture),
    // A protocol buffer: the version of the format, then the first field after it.
    (b"\x08\x01\x12", Content::Model("TensorFlow")),
];

/// The number that a checkpoint of PyTorch before 1.6 begins with, after the head of its pickle.
const CHECKPOINT: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// How many bytes are looked at to recognize text.
const BEGINNING: usize = 512;
/// Characters of a text that are shown.
const SHOWN: usize = 60;

impl Content {
    /// What these bytes are, which are no safetensors file; `None` if they may be a damaged one, or something unknown.
    pub(super) fn of(bytes: &[u8]) -> Option<Content> {
        let known = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning));
        if let Some((_, content)) = known {
            return Some(content.clone());
        }
        match bytes {
            [] => Some(Content::Empty),
            [b'P', b'K', 3, 4, ..] => Some(of_zip(bytes)),
            [0x80, 2..=5, ..] => {
                let head = &bytes[..bytes.len().min(BEGINNING)];
                let checkpoint = holds(head, &CHECKPOINT) || holds(head, b"torch");
                Some(if checkpoint { Content::Checkpoint } else { Content::Pickle })
            }
            // The version of the format, then the producer, the graph or the operators.
            [8, 3..=31, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, ..] => Some(Content::Model("ONNX")),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                Some(Content::Picture)
            }
            [_, _, _, _, b'T', b'F', b'L', b'3', ..] => Some(Content::Model("TensorFlow Lite")),
            _ if bytes.get(257..262) == Some(b"ustar") => Some(Content::Archive("tar")),
            _ if bytes.iter().all(|&byte| byte == 0) => Some(Content::Zeros),
            _ => of_text(bytes),
        }
    }

    /// What it is, and what to do.
    fn words(&self) -> (Cow<'static, str>, &'static str) {
        match self {
            Content::Empty => ("an empty file".into(), "fetch it again"),
            Content::Zeros => {
                ("a file of zeros, whose download or copy did not finish".into(), "fetch it again")
            }
            Content::Checkpoint => (
                "a PyTorch checkpoint (.pth)".into(),
                "convert it, in Python: import torch, safetensors.torch; safetensors.torch.save_file(\
                 torch.load(\"style.pth\", map_location=\"cpu\"), \"style.safetensors\")",
            ),
            Content::TorchScript => (
                "a TorchScript archive of PyTorch's".into(),
                "convert it, in Python: import torch, safetensors.torch; safetensors.torch.save_file(\
                 torch.jit.load(\"style.pt\", map_location=\"cpu\").state_dict(), \"style.safetensors\")",
            ),
            Content::Pickle => (
                "a Python pickle".into(),
                "load it where it was made, and write its tensors with safetensors.torch.save_file",
            ),
            Content::LuaTorch => (
                "a model of Lua Torch (.t7)".into(),
                "take the same style from PyTorch's fast_neural_style example",
            ),
            Content::LfsPointer => (
                "a Git LFS pointer, which stands for the file".into(),
                "fetch the file itself with `git lfs pull`, or by the repository's “download” link",
            ),
            Content::AnnexPointer => (
                "a git-annex pointer, which stands for the file".into(),
                "fetch the file itself with `git annex get`",
            ),
            Content::Page => (
                "a web page (HTML or XML)".into(),
                "the server answered with it instead of the file: take the link of the file itself, \
                 on GitHub and Hugging Face the “raw” or “download” one",
            ),
            Content::Index => (
                "the index (JSON) of a checkpoint in several files".into(),
                "name the file that holds the tensors",
            ),
            Content::Json => ("JSON".into(), "name the file that holds the tensors"),
            Content::Text(line) => (
                format!("a text that begins “{line}”").into(),
                "name the file that holds the tensors, or fetch it again",
            ),
            Content::Archive(format) => {
                (format!("a {format} archive").into(), "unpack it, and name the file inside")
            }
            Content::Model(format) => (
                format!("a model in the format {format}").into(),
                "take the style from PyTorch: safetensors.torch.save_file(model.state_dict(), \
                 \"style.safetensors\")",
            ),
            Content::NumPy => (
                "a file of NumPy's arrays (.npy, .npz)".into(),
                "convert it, in Python: import numpy, safetensors.numpy; safetensors.numpy.save_file(\
                 dict(numpy.load(\"style.npz\")), \"style.safetensors\")",
            ),
            Content::Picture => ("a picture".into(), "--adain takes the style of a picture"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, remedy) = self.words();
        write!(f, "this is {what}, not a safetensors file: {remedy}")
    }
}

/// What an archive holds, by the names of its files.
fn of_zip(bytes: &[u8]) -> Content {
    if holds(bytes, b"/constants.pkl") {
        Content::TorchScript
    } else if holds(bytes, b"/data.pkl") {
        Content::Checkpoint
    } else if holds(bytes, b".npy") {
        Content::NumPy
    } else {
        Content::Archive("zip")
    }
}

fn of_text(bytes: &[u8]) -> Option<Content> {
    let head = &bytes[..bytes.len().min(BEGINNING)];
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    let (text, is_utf8): (String, bool) = match (head, std::str::from_utf8(head)) {
        // Sixteen bits a character, with a mark that says so, or not: then the header of a safetensors file would be of
        // a length that none has.
        ([0xff, 0xfe, ..] | [b'<', 0, 1..=255, 0, 1..=255, ..], _) => {
            (utf16(head, u16::from_le_bytes), false)
        }
        ([0xfe, 0xff, ..] | [0, b'<', 0, 1..=255, 0, 1..=255, ..], _) => {
            (utf16(head, u16::from_be_bytes), false)
        }
        (_, Ok(text)) => (text.to_owned(), true),
        // A character that the end of the beginning cuts.
        (_, Err(error)) if error.error_len().is_none() => {
            (std::str::from_utf8(&head[..error.valid_up_to()]).ok()?.to_owned(), true)
        }
        // Eight bits a character: Latin-1, or one of its relatives.
        _ => (head.iter().map(|&byte| char::from(byte)).collect(), false),
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    // The codes after 0x7F are letters and quotation marks in Latin-1's relatives.
    let is_odd = |c: char| c.is_control() && !c.is_whitespace() && (is_utf8 || c < '\u{80}');
    let begins = text.starts_with(|c: char| is_utf8 || c.is_ascii_graphic());
    if !begins || text.chars().any(is_odd) {
        return None;
    }
    Some(match text.as_bytes()[0] {
        b'<' => Content::Page,
        b'{' | b'[' if holds(bytes, b"\"weight_map\"") => Content::Index,
        b'{' | b'[' => Content::Json,
        _ => {
            let line = text.lines().next().unwrap_or_default().trim_end();
            let cut: String = line.chars().take(SHOWN).collect();
            Content::Text(if cut.len() < line.len() { cut + "…" } else { cut })
        }
    })
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
