//! Errors of the public API: small enums that tell misuse, the peer's fault
//! and the environment's apart. Those that a daemon may have are serialized on their
//! way from it (`daemon::Failure`).

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    crypto::{
        Suite,
        identity::{CertificateError, Fingerprint},
    },
    proto::{
        allocation::{AllocationFailure, Refusal},
        frct::Failure,
        negotiation::NegotiationError,
        reliable::{CloseReason, TooLarge},
    },
    transport::OpenError,
    wire::InvalidName,
};

/// A layer or name operation failed.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LayerError {
    /// Misuse: the text is no name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// Environment: the transport cannot be opened.
    #[error(transparent)]
    #[serde(skip)]
    Open(#[from] OpenError),
    /// Misuse: an IPCP of this manager has that name.
    #[error("{0}: the IPCP exists already")]
    IpcpExists(String),
    /// Misuse: the manager has no IPCP of that name.
    #[error("{0}: no such IPCP")]
    NoSuchIpcp(String),
    /// Misuse: the layer has that name already.
    #[error("{0} is already registered in {1}")]
    AlreadyRegistered(String, String),
    /// Misuse: the layer does not have that name.
    #[error("{0} is not registered in {1}")]
    NotRegistered(String, String),
    /// Misuse: a manager that hosts its layers itself accepts flows to every name
    /// that is registered there.
    #[error("{0}: accepted as long as it is registered here: unregister it")]
    BoundByRegistration(String),
    /// Misuse: this process or program is not bound to the name.
    #[error("{0}: no such binding")]
    NotBound(String),
    /// Misuse: the daemon does not know the name.
    #[error("{0}: no such name")]
    NoSuchName(String),
    /// Misuse: there is no such layer.
    #[error("{0}: no such layer")]
    NoSuchLayer(String),
    /// Misuse: only a manager that hosts layers itself can do that.
    #[error(transparent)]
    #[serde(skip)]
    NotEmbedded(#[from] NotEmbedded),
    /// Environment: the daemon refused, or is gone.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// A flow could not be had.
///
/// ```
/// use std::time::Duration;
/// use ouroboros::{AllocateError, FlowSpec, Irm, transport::memory::Network};
///
/// # async_io::block_on(async {
/// let irm = Irm::new();
/// let layer = irm.bootstrap("my_layer", Network::new().station()).await?;
/// let spec = FlowSpec::raw().timeout(Duration::from_millis(100));
/// match layer.allocate("nobody", spec).await {
///     Err(AllocateError::NameNotFound) => println!("no server, or not yet: try again"),
///     Err(error) => return Err(error.into()),
///     Ok(_flow) => unreachable!("nobody has the name"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AllocateError {
    /// Misuse: the text is no name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// Misuse: what a flow in order carries is not checked by a CRC.
    #[error(
        "a flow in order cannot have a bit error rate of 0: a 0.23 peer leaves out the CRC of what \
         it repeats, and drops it for that"
    )]
    UnsupportedQos,
    /// Misuse: this process has no layer to look in.
    #[error("there is no layer to allocate a flow in: bootstrap one first")]
    NoLayer,
    /// Environment: no layer knows the name.
    #[error("the name was not found in any layer: is it registered there?")]
    NameNotFound,
    /// Environment: the layer finds names by the system's resolver (UDP), which has no
    /// address for this one, or none of the layer's version of IP.
    #[error(
        "{name}: no address is known for its hash {hash}: put one into the hosts file or DNS, as \
         `irm name dns {name}` prints it at the server"
    )]
    NotResolved {
        /// The name.
        name: String,
        /// The text looked up: the name's hash in hexadecimal digits.
        hash: String,
    },
    /// Environment: there is no such host, or none that the layer reaches.
    #[error(
        "{name}: no address is known for the host {host} that the layer reaches (hosts are for \
         layers over UDP)"
    )]
    NoSuchServer {
        /// The name.
        name: String,
        /// The host that was given for it.
        host: String,
    },
    /// Peer: the flow was refused with this response code (negative).
    #[error("the peer refused the flow (response {0}{meaning})", meaning = meaning(*.0))]
    Refused(i32),
    /// Peer: the server has another key than those that are trusted for its
    /// name. It was changed, or somebody is in between.
    #[error("{}", wrong_key(expected, found, advice.as_deref()))]
    WrongKey {
        /// Those that are trusted.
        expected: Vec<Fingerprint>,
        /// The fingerprint of the key that answered.
        found: Fingerprint,
        /// Advice from `irmd`: what is known of the name instead, and what to do.
        advice: Option<String>,
    },
    /// Peer: the server does not say who it is, and has to.
    #[error("{}", advice.as_deref().unwrap_or(
        "the server did not authenticate: it has no identity, or somebody is in between"
    ))]
    NotAuthenticated {
        /// Advice from `irmd`: what is known of the name instead, and what to do.
        advice: Option<String>,
    },
    /// Peer: no authority that is trusted vouches for the server.
    #[error("the server cannot be trusted: {0}")]
    Certificate(CertificateError),
    /// Peer: it does not speak the native profile, which is required.
    #[error("the peer does not speak the native profile, which is required")]
    NotNative,
    /// Peer: what it answered, or what somebody made of it, cannot be accepted
    /// for another reason.
    #[error("the answer to the flow request cannot be accepted: {0}")]
    Rejected(NegotiationError),
    /// Peer: it had no room for the flow in all the time that the allocation might
    /// take, though it was asked again and again.
    #[error("the server is busy: it has no room for the flow now")]
    Busy,
    /// Misuse: only a manager that hosts layers itself can do that.
    #[error(transparent)]
    #[serde(skip)]
    NotEmbedded(#[from] NotEmbedded),
    /// Misuse: the flow was to be had under the resource manager's identity.
    #[error("there is no identity to allocate the flow under: set one first")]
    NoIdentity,
    /// Peer: no valid answer came in time. A server that demands its clients'
    /// identities does not answer others.
    #[error(
        "no answer to the flow request in time: the server is away, or answers only clients \
         whose keys it knows"
    )]
    TimedOut,
    /// Misuse: too many allocations are under way in this IPCP.
    #[error("too many flow allocations are under way")]
    TooManyAllocations,
    /// Environment: the transport failed.
    #[error("transport: {0}")]
    Transport(
        #[from]
        #[serde(with = "crate::daemon::io_error")]
        io::Error,
    ),
    /// The IPCP was destroyed while the flow was being allocated.
    #[error("the IPCP is gone")]
    Gone,
    /// Misuse: the policy that was set for the name cannot be had, or the flow not
    /// with the daemon's, so that there is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No flow can come to the name any more that flows were accepted for: it was
    /// taken back, its layer is gone, or the resource manager was shut down.
    #[error("nothing is accepted any more: the name was taken back, or its layer is gone")]
    ListenerEnded,
    /// Environment: the daemon refused, or is gone.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Returns the meaning of a response code of this library's servers; 0.23 servers have others.
fn meaning(response: i32) -> &'static str {
    const NOT_AVAILABLE: i32 = Refusal::NotAvailable.code();
    const NOT_FRESH: i32 = Refusal::NotFresh.code();
    const SECURITY: i32 = Refusal::Security.code();
    const BUSY: i32 = Refusal::Busy.code();
    const QUALITY: i32 = Refusal::Quality.code();
    match response {
        NOT_AVAILABLE => ": nothing there accepts flows to the name",
        NOT_FRESH => {
            ": the clocks of this machine and of the server differ by more than a flow in the \
             0.23 format allows; set them, the server's log has the difference"
        }
        SECURITY => ": the encryption is less than the server demands, or it does not have it",
        BUSY => ": the server has too many requests",
        QUALITY => ": the server does not support this quality of service",
        _ => "",
    }
}

impl AllocateError {
    /// The key that the server showed, where it was refused for its identity:
    /// `Some(None)` if it showed none. `None` if the flow failed for another
    /// reason. [`KnownNames::check`](crate::trust::KnownNames::check) explains
    /// what is known instead.
    #[must_use]
    pub fn untrusted_key(&self) -> Option<Option<Fingerprint>> {
        match self {
            Self::WrongKey { found, .. } => Some(Some(*found)),
            Self::NotAuthenticated { .. } => Some(None),
            _ => None,
        }
    }
}

impl AllocateError {
    /// The same error with what is known of the server and what to do, where it is
    /// about the server's key.
    #[must_use]
    pub fn advise(mut self, text: String) -> Self {
        if let Self::WrongKey { advice, .. } | Self::NotAuthenticated { advice } = &mut self {
            *advice = Some(text);
        }
        self
    }
}

impl From<AllocationFailure> for AllocateError {
    fn from(failure: AllocationFailure) -> Self {
        match failure {
            AllocationFailure::NameNotFound => Self::NameNotFound,
            AllocationFailure::Refused(code) if code == Refusal::Busy.code() => Self::Busy,
            AllocationFailure::Refused(code) => Self::Refused(code),
            AllocationFailure::Rejected(reason) => match reason {
                NegotiationError::WrongKey { expected, found } => {
                    Self::WrongKey { expected, found, advice: None }
                }
                NegotiationError::NotAuthenticated => Self::NotAuthenticated { advice: None },
                NegotiationError::Certificate(reason) => Self::Certificate(reason),
                NegotiationError::NotNative => Self::NotNative,
                reason => Self::Rejected(reason),
            },
            AllocationFailure::TimedOut => Self::TimedOut,
        }
    }
}

fn wrong_key(expected: &[Fingerprint], found: &Fingerprint, advice: Option<&str>) -> String {
    advice.map_or_else(
        || {
            format!(
                "the server's key is {found}, not {}: if it was changed while this machine was \
                 away (compare it with what irm key show prints there), trust that one instead \
                 of the old one; otherwise somebody is in between",
                list(expected)
            )
        },
        str::to_owned,
    )
}

fn list(fingerprints: &[Fingerprint]) -> String {
    let texts: Vec<_> = fingerprints.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}

/// Only a manager that hosts layers itself, as [`Irm::new`](crate::Irm::new) gives
/// it, can do that: a handle of a daemon cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: not on a handle of irmd: {instead}")]
pub struct NotEmbedded {
    /// The operation that was asked for.
    pub(crate) operation: &'static str,
    /// The way to do it instead.
    pub(crate) instead: &'static str,
}

/// A name's policy cannot be set, or does not go together with what is asked. Where
/// it was set on a handle, nothing is accepted there for the name until another one
/// is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PolicyError {
    /// Misuse: the identity's key would have to leave this process.
    #[error(
        "flows to {0} through irmd have the identity that irmd has for the name: set a policy \
         without one, and name the key with `irm name create`"
    )]
    Identity(String),
    /// Misuse: through irmd a program can only ask for more than the name has.
    #[error("a program cannot turn the native profile off for {0} through irmd")]
    Weaker(String),
    /// Misuse: the flow's algorithms are less than the daemon's policy of the name has.
    #[error(
        "the application asks for {asked}, and the policy of {name} (cencpath) for {named}, which \
         is more: ask for no algorithms, or for as much"
    )]
    WeakerAlgorithms {
        /// The name.
        name: String,
        /// The operation that was asked for.
        asked: Suite,
        /// Those of the policy.
        named: Suite,
    },
    /// Misuse: nobody can tell whom both the program's policy and the daemon's mean.
    #[error(
        "{0}: the program demands other authorities, or keys where the name's policy (irm name \
         create) has authorities: have one of the two say who gets a flow"
    )]
    Contradiction(String),
}

/// A flow cannot be used, now or any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// This side closed the flow.
    #[error("the flow is closed")]
    Closed,
    /// The peer closed the flow.
    #[error("the peer has closed the flow")]
    ClosedByPeer,
    /// The peer closed the flow and said why
    /// ([`Flow::close_with`](crate::Flow::close_with)); all that it sent was received.
    #[error("the peer has closed the flow, {0}")]
    ClosedWith(CloseReason),
    /// Nothing was heard from the peer for the flow's timeout.
    #[error("the flow is down: the peer has been silent for too long")]
    Down,
    /// Peer: the order of the flow's packets cannot be kept.
    #[error("the flow cannot go on: {0}")]
    Order(#[from] Failure),
    /// The peer has finished: all that it sent was received, and no more will come.
    #[error("the peer has sent all that it will")]
    EndOfStream,
    /// Peer: it gave up sending, with its application's code.
    #[error("the peer gave up sending, with code {0}")]
    Aborted(u32),
    /// Peer: it receives no more, for this code of its application.
    #[error("the peer receives no more, with code {0}")]
    Stopped(u32),
    /// Misuse: this end has said that it sends no more.
    #[error("nothing can be sent: this end has finished")]
    Finished,
    /// Peer: what it sent are no messages, or it has acknowledged what was never sent.
    #[error("what the peer sent makes no sense")]
    Malformed,
    /// Misuse: the packet is larger than the flow can carry.
    #[error("a packet of {size} bytes is too large for the flow: {largest} at most")]
    TooLarge {
        /// Size of the packet in bytes.
        size: usize,
        /// Largest packet in bytes.
        largest: usize,
    },
    /// Misuse: an empty packet; on the wire that is a keepalive.
    #[error("an empty packet cannot be sent")]
    Empty,
    /// Misuse: the buffer is smaller than the packet, which is lost.
    #[error("a buffer of {buffer} bytes is too small for a packet of {size}")]
    BufferTooSmall {
        /// Size of the packet in bytes.
        size: usize,
        /// Size of the buffer in bytes.
        buffer: usize,
    },
    /// Environment: the transport failed.
    #[error("transport: {0}")]
    Transport(#[from] io::Error),
}

impl From<TooLarge> for FlowError {
    fn from(TooLarge { size, largest }: TooLarge) -> Self {
        if size == 0 { Self::Empty } else { Self::TooLarge { size, largest } }
    }
}

/// For streams: see [`FlowStream`](crate::FlowStream).
impl From<FlowError> for io::Error {
    fn from(error: FlowError) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            FlowError::Transport(_) => ErrorKind::Other,
            FlowError::EndOfStream => ErrorKind::UnexpectedEof,
            FlowError::Aborted(_) => ErrorKind::ConnectionReset,
            FlowError::ClosedByPeer | FlowError::ClosedWith(_) | FlowError::Order(_) => {
                ErrorKind::ConnectionAborted
            }
            FlowError::Down => ErrorKind::TimedOut,
            FlowError::Closed | FlowError::Stopped(_) | FlowError::Finished => {
                ErrorKind::BrokenPipe
            }
            FlowError::Malformed => ErrorKind::InvalidData,
            _ => ErrorKind::InvalidInput,
        };
        match error {
            FlowError::Transport(error) => error,
            error => Self::new(kind, error),
        }
    }
}

/// The daemon cannot be asked, or refused.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DaemonError {
    /// Environment: nobody listens on the socket.
    #[error("irmd is not running at {0}: start it with `irmd`")]
    NotRunning(String),
    /// Environment: this user may not use the daemon.
    #[error("{0}: permission denied: run as root or join the group `ouroboros`")]
    NotPermitted(String),
    /// Environment: the daemon serves too many connections.
    #[error("irmd serves too many connections: try again")]
    Busy,
    /// Environment: applications have as many flows of the daemon as they may.
    #[error(transparent)]
    TooManyFlows(#[from] TooManyFlows),
    /// The daemon did not do what was asked, and says why.
    #[error("{0}")]
    Refused(String),
    /// Environment: the daemon runs, and does not answer.
    #[error("irmd at {0} does not answer: is it stopped or overloaded?")]
    NotAnswering(String),
    /// The daemon answers another request than was asked.
    #[error("irmd gives an unexpected answer: is it of another version?")]
    Unexpected,
    /// The daemon went away, or spoke out of turn.
    #[error("lost the connection to irmd: {0}")]
    Lost(
        #[from]
        #[serde(with = "crate::daemon::io_error")]
        io::Error,
    ),
}

/// The daemon carries as many flows as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TooManyFlows {
    /// Those whose frames pass through it.
    #[error("irmd relays {0} flows already, which is as many as it may")]
    Relayed(usize),
    /// Those whose sockets applications have.
    #[error("applications have {0} flows of irmd already, which is as many as they may")]
    HandedOver(usize),
}
