//! Whom a server takes for a client: keys, one by one, and authorities; and
//! what an authority has said of oneself.

use std::{fs, path::Path};

use super::{
    TrustError,
    file::{self, Guard},
};
use crate::crypto::identity::{CaStore, Fingerprint};

/// Some twenty thousand keys, or hundreds of certificates.
const LARGEST: u64 = 1 << 20;
/// Files that a folder of authorities has, at most.
const FILES: usize = 1024;

/// The keys in the file at `path`: a fingerprint a line, what follows it on the
/// line for people to read. Lines that begin with `#` are comments. A file that
/// is not there authorizes nobody, and is an error: most likely its name is
/// wrong.
///
/// # Errors
///
/// The file cannot be read, others can change it, or a line of it makes no
/// sense.
pub fn authorized_keys(path: &Path) -> Result<Vec<Fingerprint>, TrustError> {
    let Some(text) = file::read(path, Guard::Public, LARGEST)? else {
        return Err(TrustError::Io(path.to_owned(), std::io::ErrorKind::NotFound.into()));
    };
    let mut keys = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let first = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let key = str::from_utf8(first).ok().and_then(|text| text.parse().ok());
        keys.push(key.ok_or_else(|| TrustError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason: "it does not begin with a fingerprint",
        })?);
    }
    Ok(keys)
}

/// The certificate in the file at `path`, DER: the first if there are several.
///
/// # Errors
///
/// The file cannot be read or holds none, or others can change it.
pub fn certificate(path: &Path) -> Result<Vec<u8>, TrustError> {
    let Some(bytes) = file::read(path, Guard::Public, LARGEST)? else {
        return Err(TrustError::Io(path.to_owned(), std::io::ErrorKind::NotFound.into()));
    };
    let mut store = CaStore::new();
    let added = store.add(&bytes);
    added.map_err(|error| TrustError::Certificate(path.to_owned(), error))?;
    Ok(store.certificates().next().unwrap_or_default().to_vec())
}

/// The certificates in the files of `folder` that end in `.pem`, `.crt` or
/// `.der`, and which of the files could not be used.
///
/// # Errors
///
/// The folder cannot be read, others can put files there, or it has more than
/// 1024 such files.
pub fn authorities(folder: &Path) -> Result<(CaStore, Vec<TrustError>), TrustError> {
    let failed = |error| TrustError::Io(folder.to_owned(), error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("pem" | "crt" | "der")) {
            paths.push(path);
        }
        if paths.len() > FILES {
            return Err(failed(std::io::Error::other("more than 1024 files of certificates")));
        }
    }
    file::check_folder(&folder.join("authorities"))?;
    paths.sort();
    let (mut store, mut unused) = (CaStore::new(), Vec::new());
    for path in paths {
        match file::read(&path, Guard::Public, LARGEST) {
            Ok(Some(bytes)) => {
                if let Err(error) = store.add(&bytes) {
                    unused.push(TrustError::Certificate(path, error));
                }
            }
            // A link to nowhere, or removed just now.
            Ok(None) => {
                unused.push(TrustError::Io(path, std::io::ErrorKind::NotFound.into()));
            }
            Err(error) => unused.push(error),
        }
    }
    Ok((store, unused))
}
