//! Files of trust: a user's own key, the names whose servers' keys are known,
//! the clients that a name takes, and the authorities that vouch.
//!
//! Files become typed values here, once, and first use is written down. What is
//! in them decides who is let in, so a file that others can change is refused;
//! a key that others can read as well. All are bounded in size. Not here: whom
//! to believe (`proto::negotiation`), and keys themselves
//! ([`crypto::identity`](crate::crypto::identity)).

mod clients;
mod file;
mod invitation;
mod key;
mod known;
mod list;
mod next_keys;

use std::{
    env, io,
    path::{Path, PathBuf},
};

pub use clients::{ClientEntry, ClientName, ClientsError, ClientsFile, InvalidClientName};
pub use file::Flaw;
#[doc(hidden)]
pub use file::write_whole;
pub use invitation::{InvalidInvitation, Invitation};
pub use key::KeyFile;
pub use known::{ChangedKey, KnownKey, KnownNames, Pin};
pub use list::{authorities, authorized_keys, certificate, invitations, reread_authorized_keys};
pub use next_keys::NextKeys;

/// A file of trust cannot be used. Says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Environment: the file or folder cannot be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Environment: others can do to it what only its owner may.
    #[error("{0}: {1}")]
    Unsafe(PathBuf, Flaw),
    /// Misuse: the file is longer than any such file.
    #[error("{0}: longer than {1} bytes, which no such file is")]
    TooLong(PathBuf, u64),
    /// Misuse: the file holds no key that can be used.
    #[error("{0}: {1}")]
    Key(PathBuf, #[source] crate::crypto::identity::UnusableKey),
    /// Misuse: there is a key already.
    #[error("{0}: there is a key already, and peers that know it would refuse a new one")]
    Exists(PathBuf),
    /// Misuse: there is no next key.
    #[error("{0}: there is no next key: irm key generate next makes one")]
    NoNextKey(PathBuf),
    /// Misuse: a line makes no sense.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The reason why it cannot be used.
        reason: &'static str,
    },
    /// Misuse: a file of certificates holds none that can be used.
    #[error("{0}: {1}")]
    Certificate(PathBuf, #[source] crate::crypto::identity::CertificateError),
    /// Misuse: such a name has no place in a file of lines.
    #[error("{0:?}: a name that begins with # or with a space cannot be written down")]
    Name(String),
    /// The peer's: it showed another key than the one that is known.
    #[error(transparent)]
    Changed(#[from] ChangedKey),
    /// Environment: nobody says where this user's files are.
    #[error("no directory for the keys of this user: set OUROBOROS_CONFIG or HOME")]
    NoHome,
}

/// The folder of a user's files of trust: `OUROBOROS_CONFIG`; or else
/// `/etc/ouroboros` for root, and so for the daemon, and
/// `$XDG_CONFIG_HOME/ouroboros` or `~/.config/ouroboros` for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustFolder(PathBuf);

impl TrustFolder {
    /// Returns the store of the user who runs this process.
    ///
    /// # Errors
    ///
    /// [`NoHome`](TrustError::NoHome).
    pub fn of_user() -> Result<Self, TrustError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(folder) = set("OUROBOROS_CONFIG") {
            return Ok(Self(folder));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self("/etc/ouroboros".into()));
        }
        let configuration = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let configuration = configuration.or_else(|| set("HOME").map(|home| home.join(".config")));
        configuration.map(|path| Self(path.join("ouroboros"))).ok_or(TrustError::NoHome)
    }

    /// The one at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The user's own key, `identity.pem`.
    #[must_use]
    pub fn identity(&self) -> KeyFile {
        KeyFile::at(self.0.join("identity.pem"))
    }

    /// The user's next key, `identity.next.pem`.
    #[must_use]
    pub fn next_identity(&self) -> KeyFile {
        self.identity().next()
    }

    /// Returns the file of the next keys that servers have announced, `next_keys`.
    #[must_use]
    pub fn next_keys(&self) -> NextKeys {
        NextKeys::at(self.0.join("next_keys"))
    }

    /// The servers that are known by their keys, `known_names`.
    #[must_use]
    pub fn known_names(&self) -> KnownNames {
        KnownNames::at(self.0.join("known_names"))
    }

    /// The folder of authorities, `authorities`, as [`authorities`] reads it.
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.0.join("authorities")
    }
}
