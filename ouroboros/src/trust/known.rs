//! Names whose servers are known by their keys, as ssh knows hosts: pinned on
//! first use, refused when they have changed.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    TrustError,
    file::{self, Guard},
};
use crate::{crypto::identity::Fingerprint, proto::negotiation::Trust, wire::Name};

/// Some ten thousand names.
const LARGEST: u64 = 1 << 20;

/// A file of lines `NAME o7s:FINGERPRINT`. Lines that begin with `#` are
/// comments. A name with several lines is known by any of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNames(PathBuf);

/// A key that a name is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The key.
    pub fingerprint: Fingerprint,
    /// Its line in the file, from 1.
    pub line: usize,
}

/// The result of comparing a server's key with the known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The name was not known: now it is, by this key.
    New,
    /// It is the key that is known.
    Known,
}

/// The server of a name showed another key than the one that is known, or none:
/// somebody is in between, or the server has a new one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ChangedKey {
    /// The name.
    pub name: Name,
    /// The keys it is known by.
    pub known: Vec<KnownKey>,
    /// The key that was shown; `None`: none.
    pub shown: Option<Fingerprint>,
    /// The file that it is known by.
    pub path: PathBuf,
}

impl fmt::Display for ChangedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.shown {
            Some(shown) => write!(f, "the server of {name} shows the key {shown}, but")?,
            None => write!(f, "the server of {name} shows no key, but")?,
        }
        for (index, known) in self.known.iter().enumerate() {
            let and = if index > 0 { " and" } else { "" };
            write!(f, "{and} {} is known (line {})", known.fingerprint, known.line)?;
        }
        let line = if self.known.len() > 1 { "those lines" } else { "that line" };
        write!(
            f,
            ": somebody may be in between; if its owner has told you of the change, remove {line} of {}",
            self.path.display()
        )
    }
}

impl KnownNames {
    /// The file at `path`, whether or not there is one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The keys that `name` is known by.
    ///
    /// # Errors
    ///
    /// The file cannot be read, others can change it, or a line of it makes no
    /// sense.
    pub fn keys(&self, name: &Name) -> Result<Vec<KnownKey>, TrustError> {
        match file::read(&self.0, Guard::Public, LARGEST)? {
            Some(text) => keys(&text, name, &self.0),
            None => Ok(Vec::new()),
        }
    }

    /// Whom to take for the server of `name`: those whose keys are known; anyone
    /// if none is, for [`verify_or_pin`](Self::verify_or_pin) to remember.
    ///
    /// # Errors
    ///
    /// As for [`keys`](Self::keys).
    pub fn trust(&self, name: &Name) -> Result<Trust, TrustError> {
        let keys: Vec<_> = self.keys(name)?.iter().map(|known| known.fingerprint).collect();
        Ok(if keys.is_empty() { Trust::Anyone } else { Trust::Keys(keys) })
    }

    /// Compares the key that the server of `name` showed with what is known of
    /// it, and writes nothing; whether it is known.
    ///
    /// # Errors
    ///
    /// [`Changed`](TrustError::Changed); as for [`keys`](Self::keys).
    pub fn check(&self, name: &Name, shown: Option<Fingerprint>) -> Result<bool, TrustError> {
        self.compare(name, self.keys(name)?, shown)
    }

    /// Compares the key that the server of `name` showed with what is known of
    /// it, and writes it down if that is nothing. Of several processes that
    /// meet a server at once, one writes.
    ///
    /// # Errors
    ///
    /// [`Changed`](TrustError::Changed); as for [`keys`](Self::keys), or the
    /// file cannot be written.
    pub fn verify_or_pin(&self, name: &Name, shown: Fingerprint) -> Result<Pin, TrustError> {
        if self.check(name, Some(shown))? {
            return Ok(Pin::Known);
        }
        let unknown = |known| self.compare(name, known, Some(shown)).map(|known| !known);
        let new = self.append(name, shown, unknown)?;
        Ok(if new { Pin::New } else { Pin::Known })
    }

    /// Has `name` be known by `key`, too.
    ///
    /// # Errors
    ///
    /// As for [`keys`](Self::keys), or the file cannot be written.
    pub fn add(&self, name: &Name, key: Fingerprint) -> Result<(), TrustError> {
        let unknown = |known: Vec<KnownKey>| Ok(known.iter().all(|known| known.fingerprint != key));
        self.append(name, key, unknown).map(drop)
    }

    /// Writes a key down if it is `wanted` beside those that the name is known by.
    fn append(
        &self,
        name: &Name,
        key: Fingerprint,
        wanted: impl FnOnce(Vec<KnownKey>) -> Result<bool, TrustError>,
    ) -> Result<bool, TrustError> {
        let path = &self.0;
        let line = format!("{name} {key}\n");
        if !matches!(parse(line.trim_end()), Ok(Some((read, _))) if read == *name) {
            return Err(TrustError::Name(name.to_string()));
        }
        let failed = |error: io::Error| TrustError::Io(path.clone(), error);
        file::make_folder(path)?;
        let open = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path);
        let file = open.map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        file::check(&file, path, Guard::Public)?;
        let text = file::contents(&file, path, LARGEST)?;
        // Another process may have met it meanwhile.
        if !wanted(keys(&text, name, path)?)? {
            return Ok(false);
        }
        let ends = text.last().is_none_or(|byte| *byte == b'\n');
        let addition = if ends { line } else { format!("\n{line}") };
        append(&file, text.len(), addition.as_bytes()).map_err(failed)?;
        Ok(true)
    }

    fn compare(
        &self,
        name: &Name,
        known: Vec<KnownKey>,
        shown: Option<Fingerprint>,
    ) -> Result<bool, TrustError> {
        if known.is_empty() {
            Ok(false)
        } else if known.iter().any(|known| Some(known.fingerprint) == shown) {
            Ok(true)
        } else {
            let (name, path) = (name.clone(), self.0.clone());
            Err(ChangedKey { name, known, shown, path }.into())
        }
    }
}

/// Appends to a file of `length` bytes, all or nothing.
fn append(mut file: &File, length: usize, bytes: &[u8]) -> io::Result<()> {
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a line would make no sense to the next reader.
        let _ = file.set_len(length as u64);
    }
    written
}

fn keys(text: &[u8], name: &Name, path: &Path) -> Result<Vec<KnownKey>, TrustError> {
    let mut found = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = str::from_utf8(line).map_err(|_| "not UTF-8");
        let bad = |reason| TrustError::Line { path: path.to_owned(), line: index + 1, reason };
        if let Some((known, fingerprint)) = line.and_then(parse).map_err(bad)?
            && known == *name
        {
            found.push(KnownKey { fingerprint, line: index + 1 });
        }
    }
    Ok(found)
}

/// Returns the name and the key of a line; `None` for a line without any.
fn parse(line: &str) -> Result<Option<(Name, Fingerprint)>, &'static str> {
    const SPACE: [char; 3] = [' ', '\t', '\r'];
    let line = line.trim_matches(SPACE);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, fingerprint) =
        line.rsplit_once([' ', '\t']).ok_or("not a name and a fingerprint")?;
    let fingerprint = fingerprint.parse().map_err(|_| "what ends it is no fingerprint")?;
    let name = name.trim_end_matches(SPACE).parse().map_err(|_| "what begins it is no name")?;
    Ok(Some((name, fingerprint)))
}
