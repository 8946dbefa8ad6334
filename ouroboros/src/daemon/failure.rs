//! Why the daemon did not do what it was asked, on its way to who asked. What a
//! program can act on keeps its type; the rest is a text for people.
//!
//! Not here: the errors themselves (`error`).

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    crypto::identity::{CertificateError, Fingerprint},
    error::{AllocateError, DaemonError},
};

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Failure {
    /// Anything that has no type of its own here, for people to read.
    Other(String),
    /// [`AllocateError::UnsupportedQos`].
    UnsupportedQos,
    /// [`AllocateError::NoLayer`].
    NoLayer,
    /// [`AllocateError::NameNotFound`].
    NameNotFound,
    /// [`AllocateError::NotResolved`].
    NotResolved {
        /// The name.
        name: String,
        /// What is looked up.
        hash: String,
    },
    /// [`AllocateError::NoSuchServer`].
    NoSuchServer {
        /// The name.
        name: String,
        /// Its server's host.
        host: String,
    },
    /// [`AllocateError::Refused`].
    Refused(i32),
    /// [`AllocateError::WrongKey`].
    WrongKey {
        /// Fingerprints that are trusted.
        expected: Vec<String>,
        /// The fingerprint of whoever answered.
        found: String,
        /// What to do.
        advice: Option<String>,
    },
    /// [`AllocateError::NotAuthenticated`].
    NotAuthenticated {
        /// What to do.
        advice: Option<String>,
    },
    /// [`AllocateError::Certificate`].
    Certificate(CertificateError),
    /// [`AllocateError::NotNative`].
    NotNative,
    /// [`AllocateError::NoIdentity`].
    NoIdentity,
    /// [`AllocateError::Busy`].
    Busy,
    /// [`AllocateError::TimedOut`].
    TimedOut,
    /// [`AllocateError::Transport`], for people to read.
    Transport(String),
    /// [`AllocateError::TooManyAllocations`].
    TooManyAllocations,
    /// [`AllocateError::Gone`].
    Gone,
}

impl From<AllocateError> for Failure {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::UnsupportedQos => Self::UnsupportedQos,
            AllocateError::NoLayer => Self::NoLayer,
            AllocateError::NameNotFound => Self::NameNotFound,
            AllocateError::NotResolved { name, hash } => Self::NotResolved { name, hash },
            AllocateError::NoSuchServer { name, host } => Self::NoSuchServer { name, host },
            AllocateError::Refused(code) => Self::Refused(code),
            AllocateError::WrongKey { expected, found, advice } => {
                let expected = expected.iter().map(ToString::to_string).collect();
                Self::WrongKey { expected, found: found.to_string(), advice }
            }
            AllocateError::NotAuthenticated { advice } => Self::NotAuthenticated { advice },
            AllocateError::Certificate(reason) => Self::Certificate(reason),
            AllocateError::NotNative => Self::NotNative,
            AllocateError::NoIdentity => Self::NoIdentity,
            AllocateError::Busy => Self::Busy,
            AllocateError::TimedOut => Self::TimedOut,
            AllocateError::Transport(error) => Self::Transport(error.to_string()),
            AllocateError::TooManyAllocations => Self::TooManyAllocations,
            AllocateError::Gone => Self::Gone,
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for AllocateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(text) => DaemonError::Refused(text).into(),
            Failure::UnsupportedQos => Self::UnsupportedQos,
            Failure::NoLayer => Self::NoLayer,
            Failure::NameNotFound => Self::NameNotFound,
            Failure::NotResolved { name, hash } => Self::NotResolved { name, hash },
            Failure::NoSuchServer { name, host } => Self::NoSuchServer { name, host },
            Failure::Refused(code) => Self::Refused(code),
            Failure::WrongKey { expected, found, advice } => {
                let keys = expected.iter().map(|key| key.parse()).collect::<Result<_, _>>();
                match (keys, found.parse::<Fingerprint>()) {
                    (Ok(expected), Ok(found)) => Self::WrongKey { expected, found, advice },
                    _ => DaemonError::Refused(format!("the server's key is {found}")).into(),
                }
            }
            Failure::NotAuthenticated { advice } => Self::NotAuthenticated { advice },
            Failure::Certificate(reason) => Self::Certificate(reason),
            Failure::NotNative => Self::NotNative,
            Failure::NoIdentity => Self::NoIdentity,
            Failure::Busy => Self::Busy,
            Failure::TimedOut => Self::TimedOut,
            Failure::Transport(text) => Self::Transport(io::Error::other(text)),
            Failure::TooManyAllocations => Self::TooManyAllocations,
            Failure::Gone => Self::Gone,
        }
    }
}

impl From<Failure> for DaemonError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(text) => Self::Refused(text),
            typed => Self::Refused(AllocateError::from(typed).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SystemEntropy, identity::IdentityKey};

    #[test]
    fn what_a_program_can_act_on_keeps_its_type() {
        let key = || IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let (expected, found) = (vec![key(), key()], key());
        for error in [
            AllocateError::UnsupportedQos,
            AllocateError::NoLayer,
            AllocateError::NameNotFound,
            AllocateError::NotResolved {
                name: "my_vpn".to_owned(),
                hash: "2694581a473adbf3d988f56c79953cae".to_owned(),
            },
            AllocateError::NoSuchServer { name: "my_vpn".to_owned(), host: "nowhere".to_owned() },
            AllocateError::Refused(-3),
            AllocateError::WrongKey { expected, found, advice: Some("compare them".to_owned()) },
            AllocateError::NotAuthenticated { advice: None },
            AllocateError::Certificate(CertificateError::WrongName("other".to_owned())),
            AllocateError::NotNative,
            AllocateError::NoIdentity,
            AllocateError::Busy,
            AllocateError::TimedOut,
            AllocateError::Transport(io::Error::other("the network is unreachable")),
            AllocateError::TooManyAllocations,
            AllocateError::Gone,
        ] {
            let before = format!("{error:?}: {error}");
            let json = serde_json::to_string(&Failure::from(error)).expect("encoded");
            let failure: Failure = serde_json::from_str(&json).expect("decoded");
            let after = AllocateError::from(failure);
            assert_eq!(format!("{after:?}: {after}"), before);
        }
    }
}
