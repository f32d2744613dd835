//! The files of WGSL as they are shipped: without comments and indentation, a third of them, taken out by the
//! compiler. What is left is compiled on the user's machine, and in a page downloaded before.

/// What is left of a file in `shaders/`.
macro_rules! wgsl {
    ($name:literal) => {{
        const FILE: &[u8] = include_bytes!(concat!("../../shaders/", $name, ".wgsl"));
        const LEFT: [u8; $crate::gpu::wgsl::left(FILE, &mut [])] = {
            let mut left = [0; $crate::gpu::wgsl::left(FILE, &mut [])];
            $crate::gpu::wgsl::left(FILE, &mut left);
            left
        };
        const { LEFT.as_slice() }
    }};
}
pub(super) use wgsl;

/// Copies what is left of a file, if `to` is long enough for it, and tells how long it is.
pub(super) const fn left(file: &[u8], to: &mut [u8]) -> usize {
    let (mut len, mut at) = (0, 0);
    // Of the line so far: how long all was before it, and up to its last character that is no space.
    let (mut start, mut end) = (0, 0);
    while at < file.len() {
        let byte = file[at];
        if byte == b'/' && at + 1 < file.len() && file[at + 1] == b'/' {
            while at < file.len() && file[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        at += 1;
        if byte == b'\n' {
            len = end;
            if end == start {
                continue;
            }
        } else if byte == b' ' && len == start {
            continue;
        }
        if len < to.len() {
            to[len] = byte;
        }
        len += 1;
        if byte != b' ' {
            end = len;
        }
        if byte == b'\n' {
            start = len;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn comments_indentation_and_empty_lines_go() {
        let file = b"// head\n\nfn f() {  // why\n  return a / b; //\n\n    // c\n  }\n}  \n";
        let mut to = [0; 100];
        let len = left(file, &mut to);
        assert_eq!(&to[..len], b"fn f() {\nreturn a / b;\n}\n}\n");
        assert_eq!(left(file, &mut []), len);
    }
}
