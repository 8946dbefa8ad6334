//! The policy of a name on its way from the command line or a configuration file to the
//! daemon: files of algorithms are read here, other files are the daemon's to read. Not
//! here: the words for it (`grammar`, `configuration`), and what it means
//! (`irmd::policy`).

use std::{
    fs, io,
    path::{Path, PathBuf, absolute},
};

use ouroboros::{
    crypto::Algorithms,
    daemon::security::{Authentication, NamePolicy},
};

use crate::enc_conf::{self, BadLine};

/// A file that is named cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPolicy {
    /// Environment: it cannot be read.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Misuse: a line of it makes no sense.
    #[error("{0}: {1}")]
    Line(PathBuf, #[source] BadLine),
}

/// The files that a policy has its algorithms from, as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlgorithmFiles {
    /// For flows that are accepted.
    pub server: Option<PathBuf>,
    /// For flows that are allocated.
    pub client: Option<PathBuf>,
}

/// The ends that authenticate themselves: the words behind `auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nobody.
    None,
    /// The server.
    Server,
    /// The server and the client.
    Both,
}

impl Auth {
    /// The words.
    pub const WORDS: [&str; 3] = ["none", "server", "both"];

    /// Returns the meaning of `word`, if it is one of them.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "server" => Some(Self::Server),
            "both" => Some(Self::Both),
            _ => None,
        }
    }
}

/// Misuse: two settings exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} and {1}: one of them")]
pub struct Exclusive(&'static str, &'static str);

/// Returns the joint meaning of `auth`, `clients`, a file of keys, and `ca`, a folder of
/// authorities: files imply who authenticates.
///
/// # Errors
///
/// Two of them exclude each other.
pub fn authentication(
    auth: Option<Auth>,
    clients: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<Authentication, Exclusive> {
    Ok(match (clients, ca, auth) {
        (Some(_), Some(_), _) => return Err(Exclusive("clients", "ca")),
        (Some(_), None, Some(Auth::None | Auth::Server)) => {
            return Err(Exclusive("clients", "auth none or server"));
        }
        (None, Some(_), Some(Auth::None)) => return Err(Exclusive("ca", "auth none")),
        (Some(file), None, _) => Authentication::Keys(file),
        (None, ca, Some(Auth::Server)) => Authentication::Server(ca),
        (None, ca @ Some(_), _) | (None, ca, Some(Auth::Both)) => Authentication::Authorities(ca),
        (None, None, Some(Auth::None)) => Authentication::None,
        (None, None, None) => Authentication::Offered,
    })
}

/// `policy` as the daemon is told it, with the algorithms that are in `files`: paths are
/// relative to `folder`.
///
/// # Errors
///
/// As [`BadPolicy`] says.
pub fn resolve(
    mut policy: NamePolicy,
    files: &AlgorithmFiles,
    folder: &Path,
) -> Result<NamePolicy, BadPolicy> {
    let algorithms = |file: &Option<PathBuf>| -> Result<Option<Algorithms>, BadPolicy> {
        let Some(path) = file.as_ref().map(|path| folder.join(path)) else { return Ok(None) };
        let text = fs::read_to_string(&path).map_err(|error| BadPolicy::Io(path.clone(), error))?;
        enc_conf::parse(&text).map_err(|error| BadPolicy::Line(path, error))
    };
    (policy.server, policy.client) = (algorithms(&files.server)?, algorithms(&files.client)?);
    for path in policy.paths_mut() {
        let place = folder.join(&*path);
        *path = absolute(&place).map_err(|error| BadPolicy::Io(place, error))?;
    }
    Ok(policy)
}
