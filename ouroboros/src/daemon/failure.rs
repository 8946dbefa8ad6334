//! Why the daemon did not do what it was asked, on its way to who asked: an error of
//! the type that it has without a daemon.
//!
//! Not here: the errors themselves (`error`).

use serde::{Deserialize, Serialize};

use crate::error::{AllocateError, DaemonError, LayerError};

/// The error of a request, as it passes through the daemon.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[error(transparent)]
#[non_exhaustive]
pub enum Failure {
    /// With a flow.
    Allocate(#[from] AllocateError),
    /// With a layer or a name.
    Layer(LayerError),
    /// With the daemon; or for people to read.
    Daemon(#[from] DaemonError),
}

impl Failure {
    /// For people to read.
    pub fn other(reason: impl ToString) -> Self {
        Self::Daemon(DaemonError::Refused(reason.to_string()))
    }
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        match error {
            // They have no form for the wire, and an application cannot cause them.
            LayerError::Open(_) | LayerError::NotEmbedded(_) => Self::other(error),
            error => Self::Layer(error),
        }
    }
}

impl From<Failure> for AllocateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Allocate(error) => error,
            Failure::Daemon(error) => error.into(),
            Failure::Layer(error) => DaemonError::Refused(error.to_string()).into(),
        }
    }
}

impl From<Failure> for LayerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Layer(error) => error,
            Failure::Daemon(error) => error.into(),
            Failure::Allocate(error) => DaemonError::Refused(error.to_string()).into(),
        }
    }
}

/// Errors of the system on the wire: by number where they have one, so that their
/// kind is known at the other end.
pub(crate) mod io_error {
    use std::io;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Wire {
        Number(i32),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(
        error: &io::Error,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let number = error.raw_os_error().map(Wire::Number);
        number.unwrap_or_else(|| Wire::Text(error.to_string())).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<io::Error, D::Error> {
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Number(number) => io::Error::from_raw_os_error(number),
            Wire::Text(text) => io::Error::other(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        crypto::{
            Suite, SystemEntropy,
            identity::{CertificateError, IdentityKey},
        },
        error::{PolicyError, TooManyFlows},
        proto::negotiation::NegotiationError,
    };

    fn over_the_wire(failure: impl Into<Failure>) -> Failure {
        let json = serde_json::to_string(&failure.into()).expect("encoded");
        serde_json::from_str(&json).expect("decoded")
    }

    #[test]
    fn errors_of_flows_keep_their_type() {
        let key = || IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let (expected, found) = (vec![key(), key()], key());
        let (name, suite) = ("my_vpn".to_owned(), Suite::default());
        for error in [
            AllocateError::UnsupportedQos,
            AllocateError::NoLayer,
            AllocateError::NameNotFound,
            AllocateError::NotResolved {
                name: name.clone(),
                hash: "2694581a473adbf3d988f56c79953cae".to_owned(),
            },
            AllocateError::NoSuchServer { name: name.clone(), host: "nowhere".to_owned() },
            AllocateError::Refused(-3),
            AllocateError::WrongKey { expected, found, advice: Some("compare them".to_owned()) },
            AllocateError::NotAuthenticated { advice: None },
            AllocateError::Certificate(CertificateError::WrongName("other".to_owned())),
            AllocateError::Rejected(NegotiationError::TooWeak { offered: suite, least: suite }),
            AllocateError::Rejected(NegotiationError::NotAuthorized(found)),
            AllocateError::NotNative,
            AllocateError::NoIdentity,
            AllocateError::Busy,
            AllocateError::TimedOut,
            AllocateError::Transport(io::Error::other("something unheard of")),
            AllocateError::Transport(io::Error::from_raw_os_error(101)),
            AllocateError::TooManyAllocations,
            AllocateError::Gone,
            AllocateError::ListenerEnded,
            PolicyError::WeakerAlgorithms { name: name.clone(), asked: suite, named: suite }.into(),
            PolicyError::Contradiction(name).into(),
            DaemonError::from(TooManyFlows::Relayed(128)).into(),
        ] {
            let before = format!("{error:?}: {error}");
            let after = AllocateError::from(over_the_wire(error));
            assert_eq!(format!("{after:?}: {after}"), before);
        }
    }

    #[test]
    fn errors_of_layers_keep_their_type() {
        let (name, layer) = (|| "my_vpn".to_owned(), || "my_layer".to_owned());
        for error in [
            LayerError::NoSuchLayer(layer()),
            LayerError::AlreadyRegistered(name(), layer()),
            LayerError::NotRegistered(name(), layer()),
            LayerError::NotBound(name()),
            LayerError::NoSuchName(name()),
            LayerError::NoSuchIpcp("i".to_owned()),
            LayerError::IpcpExists("i".to_owned()),
            DaemonError::Busy.into(),
        ] {
            let before = format!("{error:?}: {error}");
            let after = LayerError::from(over_the_wire(error));
            assert_eq!(format!("{after:?}: {after}"), before);
        }
    }
}
