//! Why the daemon does not do what it is asked.

use std::{io, net::SocketAddr, path::PathBuf};

use ouroboros::{
    AllocateError, LayerError, PolicyError,
    crypto::identity::InvalidFingerprint,
    daemon::{DaemonError, Failure},
    error::TooManyFlows,
    proto::negotiation::IdentityError,
    trust::{ClientsError, InvalidClientName, TrustError},
    wire::InvalidName,
};

/// A request that fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Misuse: the text is no name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// Misuse: there is no process with that id.
    #[error("{0}: no such process")]
    NoProcess(u32),
    /// Misuse: the name was created before.
    #[error("{0}: the name exists already: irm name change gives it another policy")]
    NameExists(String),
    /// Misuse: the IPCP has a layer.
    #[error("{0}: the IPCP is bootstrapped already (irm ipcp destroy name {0} ends it)")]
    Bootstrapped(String),
    /// Misuse: an IPCP of this daemon has the address.
    #[error("{0}: the IPCP {1} has that address already: choose another one, or another port")]
    OwnAddress(SocketAddr, String),
    /// Misuse: the IPCP is of another type.
    #[error("{0}: the IPCP was created with type {1}")]
    WrongType(String, String),
    /// Misuse: no such hash is known.
    #[error("{0}: not a directory hash (sha3-224, -256, -384 or -512)")]
    DirectoryHash(String),
    /// A clients' file cannot be edited as asked.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// Misuse: the text is no name of a client.
    #[error("{0}: {1}")]
    ClientName(String, #[source] InvalidClientName),
    /// Misuse: an address or network of a client is none.
    #[error("{0}: no network, such as 172.16.2.0/24")]
    Prefix(String),
    /// Misuse: the text is no key's.
    #[error(transparent)]
    Fingerprint(#[from] InvalidFingerprint),
    /// Misuse: the name's clients are not in a file.
    #[error("{0}: its clients are in no file: irm name change {0} clients FILE has them in one")]
    NoClientsFile(String),
    /// Misuse: no name's clients are in a file.
    #[error("no name here has its clients in a file: irm name create NAME clients FILE makes one")]
    NoClientsFiles,
    /// Misuse: several names have.
    #[error("several names have their clients in a file: say which (--service): {0}")]
    SeveralClientsFiles(String),
    /// Misuse: what a program asks for cannot be had together with the name's policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Misuse, or a newer application: the request is not known.
    #[error("a request that this irmd does not know")]
    UnknownRequest,
    /// Misuse: a file that is named is not there.
    #[error("{0}: there is no such file")]
    NoFile(PathBuf),
    /// Misuse: a certificate does not go with its key.
    #[error("{0}: {1}")]
    Certificate(PathBuf, #[source] IdentityError),
    /// A file of keys or authorities cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A server cannot be remembered by its key.
    #[error("the server of {0} cannot be remembered: {1}")]
    Remember(String, #[source] TrustError),
    /// Environment: the machine has no name that can be used.
    #[error("/proc/sys/kernel/hostname: {0}")]
    HostName(#[source] io::Error),
    /// A layer operation failed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A flow could not be had.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// Environment: applications have as many flows as they may.
    #[error(transparent)]
    TooManyFlows(#[from] TooManyFlows),
    /// Environment: the socket of a flow cannot be duplicated.
    #[error("the flow's socket cannot be handed over: {0}")]
    HandOver(#[source] io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Allocate(error) => error.into(),
            Error::Layer(error) => error.into(),
            Error::InvalidName(error) => LayerError::from(error).into(),
            Error::Policy(error) => AllocateError::from(error).into(),
            Error::TooManyFlows(error) => DaemonError::from(error).into(),
            other => Self::other(other),
        }
    }
}
