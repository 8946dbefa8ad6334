//! Paths as text, for requests in JSON: paths are bytes, and need not be UTF-8. What is
//! UTF-8 stays as it is; each other byte becomes NUL, which no path has, and two
//! hexadecimal digits.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text that stands for a path.
///
/// ```
/// use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
/// use ouroboros::daemon::protocol::{path_from_text, text_of_path};
///
/// let latin_1 = OsStr::from_bytes(b"/etc/\xe9t\xe9");
/// assert_eq!(text_of_path("/etc/keys"), "/etc/keys");
/// assert_eq!(text_of_path(latin_1), "/etc/\0e9t\0e9");
/// assert_eq!(path_from_text("/etc/\0e9t\0e9"), latin_1);
/// ```
#[must_use]
pub fn text_of_path(path: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in path.as_ref().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // A string takes everything.
            let _ = write!(text, "\0{byte:02x}");
        }
    }
    text
}

/// The path that a text stands for. What stands for none is taken as it is.
#[must_use]
pub fn path_from_text(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escaped)) = rest.split_once('\0') {
        bytes.extend_from_slice(before.as_bytes());
        let byte = escaped.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(0));
        rest = if byte.is_some() { &escaped[2..] } else { escaped };
    }
    bytes.extend_from_slice(rest.as_bytes());
    OsString::from_vec(bytes).into()
}

/// For `#[serde(with = "path_text")]`.
pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    text_of_path(path).serialize(to)
}

/// For `#[serde(with = "path_text")]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    String::deserialize(from).map(|text| path_from_text(&text))
}

/// For `#[serde(with = "path_text::optional")]`.
pub(super) mod optional {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_ref().map(text_of_path).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.as_deref().map(path_from_text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_comes_back() {
        let every_byte: Vec<u8> = (1..=255).collect();
        for bytes in [
            &b""[..],
            b"/a",
            "/\u{e9}t\u{e9}/\u{10ffff}".as_bytes(),
            b"\xff",
            b"/\xc3",
            &every_byte,
        ] {
            let path = OsStr::from_bytes(bytes);
            assert_eq!(path_from_text(&text_of_path(path)), path);
        }
    }

    #[test]
    fn what_stands_for_no_path_does_no_harm() {
        for text in ["\0", "\0z", "\0\0", "\0+1", "a\0\u{e9}", "\0e"] {
            assert!(path_from_text(text).as_os_str().len() <= text.len());
        }
    }
}
