//! Whom a server takes for a client: keys, one by one, and authorities; and
//! what an authority has said of oneself.

use std::{fs, path::Path};

use zeroize::Zeroizing;

use super::{
    TrustError,
    clients::{ClientLine, LARGEST},
    file::{self, Guard},
};
use crate::{
    crypto::identity::{CaStore, Fingerprint},
    proto::negotiation::Invited,
};

/// Files that a folder of authorities has, at most.
const FILES: usize = 1024;
/// Bad lines of a file that are told, at most.
const FLAWS: usize = 16;

/// The keys of the clients in the file at `path`, whose lines are those of
/// [`ClientsFile`](super::ClientsFile). A file that is not there authorizes nobody, and is
/// an error: most likely its name is wrong.
///
/// # Errors
///
/// The file cannot be read, others can change it, or a line of it makes no
/// sense.
pub fn authorized_keys(path: &Path) -> Result<Vec<Fingerprint>, TrustError> {
    let (keys, mut bad) = parse(&read_list(path)?, path);
    if bad.is_empty() { Ok(keys) } else { Err(bad.swap_remove(0)) }
}

/// The keys in the file at `path`, which has been read before and had `last`; and
/// what is wrong with it, for people to mend.
///
/// Nobody loses a flow for another's bad line, and nobody who was removed keeps one:
/// - a line that makes no sense authorizes nobody, and the others count;
/// - of a file that others can change those count that it had and has;
/// - a file that cannot be read is as it was; one that is gone has nobody.
pub fn reread_authorized_keys(
    path: &Path,
    last: &[Fingerprint],
) -> (Vec<Fingerprint>, Vec<TrustError>) {
    match read_list(path) {
        Ok(text) => parse(&text, path),
        Err(error @ TrustError::Unsafe(..)) => {
            let (found, _) = match file::read_unguarded(path, LARGEST) {
                Ok(text) => parse(&text, path),
                Err(_) => (Vec::new(), Vec::new()),
            };
            (found.into_iter().filter(|key| last.contains(key)).collect(), vec![error])
        }
        Err(TrustError::Io(path, error)) if error.kind() == std::io::ErrorKind::NotFound => {
            (Vec::new(), vec![TrustError::Io(path, error)])
        }
        Err(error) => (last.to_vec(), vec![error]),
    }
}

/// The open and past invitations in the file at `path`; none if it cannot be read or
/// others can change it.
#[must_use]
pub fn invitations(path: &Path) -> Vec<Invited> {
    let Ok(text) = read_list(path) else { return Vec::new() };
    let invited = |line| {
        let client = ClientLine::parse(line).ok()??;
        Some(Invited { key: client.key, until: client.invited_until? })
    };
    text.split(|byte| *byte == b'\n').filter_map(invited).collect()
}

fn read_list(path: &Path) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    let missing = || TrustError::Io(path.to_owned(), rustix::io::Errno::NOENT.into());
    file::read(path, Guard::Public, LARGEST)?.ok_or_else(missing)
}

/// The keys in the lines that make sense, and the others.
fn parse(text: &[u8], path: &Path) -> (Vec<Fingerprint>, Vec<TrustError>) {
    let (mut keys, mut bad) = (Vec::new(), Vec::new());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        match ClientLine::parse(line) {
            Ok(Some(client)) if client.invited_until.is_none() => keys.push(client.key),
            Ok(_) => {}
            // A file that is no list at all need not be said to be so a line at a time.
            Err(_) if bad.len() == FLAWS => {}
            Err(reason) => {
                bad.push(TrustError::Line { path: path.to_owned(), line: index + 1, reason });
            }
        }
    }
    (keys, bad)
}

/// The certificate in the file at `path`, DER: the first if there are several.
///
/// # Errors
///
/// The file cannot be read or holds none, or others can change it.
pub fn certificate(path: &Path) -> Result<Vec<u8>, TrustError> {
    let Some(bytes) = file::read(path, Guard::Public, LARGEST)? else {
        return Err(TrustError::Io(path.to_owned(), rustix::io::Errno::NOENT.into()));
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
                unused.push(TrustError::Io(path, rustix::io::Errno::NOENT.into()));
            }
            Err(error) => unused.push(error),
        }
    }
    Ok((store, unused))
}
