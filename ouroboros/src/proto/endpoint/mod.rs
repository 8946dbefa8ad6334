//! The allocation core of an IPCP: name queries, flow requests and replies, as
//! a state machine without I/O. `ipcp` drives it; so do simulations.
//!
//! `handle` takes messages, `poll_transmit` gives them, `poll` tells events,
//! `poll_timeout` and `handle_timeout` are its clock. All state is bounded by
//! [`Limits`]. Not here: sockets, the packets of a flow, who accepts.

mod client;
mod server;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use self::{
    client::Allocating,
    server::{Memory, Pending},
};
pub use super::negotiation::{ClientSecurity, NegotiationError, ProfilePolicy, ServerSecurity};
use super::{Now, protection::FlowKeys};
use crate::{
    crypto::{Entropy, Suite},
    transport::Destination,
    wire::{
        Dialect, DirectoryHash, Eid, Name, NameHash, PeerAddress, QosSpec, extension::Lane,
        management::Message,
    },
};

/// Bounds on what peers can make an IPCP keep and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flow requests that wait to be accepted.
    pub pending_requests: usize,
    /// The same from one host, whatever its ports.
    pub pending_per_source: usize,
    /// Own allocations under way.
    pub allocations: usize,
    /// Requests remembered against replay.
    pub remembered_requests: usize,
    /// Answers per second to messages that lead to no new flow.
    pub answers_per_second: u32,
    /// How long a request waits to be accepted before it is refused.
    pub hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_requests: 256,
            pending_per_source: 64,
            allocations: 1024,
            remembered_requests: 65_536,
            answers_per_second: 1000,
            hold: Duration::from_secs(5),
        }
    }
}

/// An own allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(u64);

/// A peer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// Too many allocations are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many allocations are under way")]
pub struct TooManyAllocations;

/// A flow to allocate.
#[derive(Clone, Debug)]
pub struct AllocationRequest {
    /// Whom to.
    pub name: Name,
    /// What it should be like.
    pub qos: QosSpec,
    /// How it must be encrypted; `None`: plain.
    pub security: Option<ClientSecurity>,
    /// The endpoint chosen for it.
    pub local: Eid,
    /// Where the peer is; `None`: to be asked for with a name query.
    pub peer: Option<PeerAddress>,
    /// How long it may take, name query and all.
    pub timeout: Duration,
}

/// Why there is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocationFailure {
    /// Nobody answered the name query.
    NameNotFound,
    /// The peer refused, with this response code.
    Refused(i32),
    /// No valid reply in time.
    TimedOut,
}

/// Why a request is refused: the response code that the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody serves the name, or accepts the flow in time.
    NotAvailable,
    /// The request is stale, from the future, or a replay.
    NotFresh,
    /// The encryption asked for is not had here.
    Security,
}

impl Refusal {
    /// The response code (WIRE.md: any negative number refuses).
    pub const fn code(self) -> i32 {
        match self {
            Self::NotAvailable => -1,
            Self::NotFresh => -2,
            Self::Security => -3,
        }
    }
}

/// A flow that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The agreed keys; `None` for a plain flow.
    pub keys: Option<FlowKeys>,
    /// The agreed suite; `None` for a plain flow.
    pub suite: Option<Suite>,
    /// The flow's place in the client's tunnel, if it has one.
    pub lane: Option<Lane>,
}

/// A request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It waits no longer.
    #[error("the request is gone")]
    Gone,
    /// It was refused: this side's policy or the request's key forbids it.
    #[error(transparent)]
    Refused(#[from] NegotiationError),
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// Whose path it should leave by, where paths carry management (UDP).
    pub via: Option<AllocationId>,
    /// The message, behind the endpoint id.
    pub message: Vec<u8>,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer asks for a flow: accept or refuse it.
    Requested {
        /// The request.
        request: RequestId,
        /// The registered name it is for.
        name: Name,
        /// Who asks.
        from: PeerAddress,
        /// Its endpoint.
        remote: Eid,
        /// What the flow should be like.
        qos: QosSpec,
        /// Whether it should be encrypted.
        encrypted: bool,
    },
    /// A request was not accepted in time.
    Withdrawn {
        /// The request.
        request: RequestId,
    },
    /// An own allocation is done.
    Allocated {
        /// The allocation.
        allocation: AllocationId,
        /// Who answered.
        peer: PeerAddress,
        /// Its endpoint.
        remote: Eid,
        /// The agreed keys; `None` for a plain flow.
        keys: Option<FlowKeys>,
        /// The agreed suite; `None` for a plain flow.
        suite: Option<Suite>,
    },
    /// An own allocation failed.
    Failed {
        /// The allocation.
        allocation: AllocationId,
        /// Why.
        reason: AllocationFailure,
    },
}

/// Messages that led nowhere, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Truncated, too long, unknown code or algorithm.
    pub malformed: u64,
    /// For a name that is not registered here. On eth-dix these are often
    /// meant for another IPCP on the same interface, and not answered.
    pub unknown_name: u64,
    /// Stale requests, requests from the future, replays.
    pub not_fresh: u64,
    /// Copies of requests that are known; answered again or ignored.
    pub repeated: u64,
    /// Requests beyond a limit.
    pub over_limit: u64,
    /// Replies nobody waits for, or from the wrong address.
    pub unexpected: u64,
    /// Replies whose header does not answer the request.
    pub bad_replies: u64,
    /// Answers left unsent to keep within the rate.
    pub unanswered: u64,
}

/// The allocation core of one IPCP.
pub struct Endpoint {
    dialect: Dialect,
    hash: DirectoryHash,
    limits: Limits,
    names: HashMap<NameHash, Name>,
    allocating: HashMap<AllocationId, Allocating>,
    pending: HashMap<RequestId, Pending>,
    memory: Memory,
    answers: Answers,
    next_id: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Endpoint {
    /// A core that speaks `dialect` and knows names by `hash`.
    pub fn new(dialect: Dialect, hash: DirectoryHash, limits: Limits) -> Self {
        Self {
            dialect,
            hash,
            limits,
            names: HashMap::new(),
            allocating: HashMap::new(),
            pending: HashMap::new(),
            memory: Memory::default(),
            answers: Answers { left: limits.answers_per_second, since: Duration::ZERO },
            next_id: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Serves `name` from now on; whether it is new.
    pub fn register(&mut self, name: &Name) -> bool {
        self.names.insert(self.hash.of(name), name.clone()).is_none()
    }

    /// Serves `name` no longer; whether it was served.
    pub fn unregister(&mut self, name: &Name) -> bool {
        self.names.remove(&self.hash.of(name)).is_some()
    }

    /// Takes a management message from `from`; `via` if it came on the path of
    /// an own allocation.
    pub fn handle(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        from: PeerAddress,
        via: Option<AllocationId>,
        message: &[u8],
    ) {
        match Message::parse(self.dialect, self.hash, message) {
            Ok(Message::FlowRequest { source, qos, name, allocation }) => {
                self.handle_request(now, from, source, qos, name, allocation);
            }
            Ok(Message::FlowReply { requester, responder, response, allocation }) => {
                self.handle_reply(now, from, via, requester, (responder, response), allocation);
            }
            Ok(Message::NameQuery(name)) => {
                if self.names.contains_key(&name) {
                    self.answer(now, from, &Message::NameReply(name));
                } else {
                    self.counters.unknown_name += 1;
                }
            }
            Ok(Message::NameReply(name)) => self.handle_name_reply(now, entropy, from, name),
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due, in monotonic time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let allocating = self.allocating.values().map(Allocating::due);
        allocating.chain(self.pending.values().map(|pending| pending.until)).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.retry_allocations(now);
        self.withdraw_requests(now);
        self.memory.forget(now);
    }

    /// Messages that led nowhere so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much is kept for peers: requests pending and requests remembered.
    pub fn held(&self) -> (usize, usize) {
        (self.pending.len(), self.memory.len())
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Answers a message that leads to no new flow, within the rate.
    fn answer(&mut self, now: Now, to: PeerAddress, message: &Message<'_>) {
        if self.answers.take(now, self.limits.answers_per_second) {
            self.send(to, message);
        } else {
            self.counters.unanswered += 1;
        }
    }

    fn send(&mut self, to: PeerAddress, message: &Message<'_>) {
        let message = message.encode(self.dialect);
        self.transmits.push_back(Transmit { to: Destination::Peer(to), via: None, message });
    }
}

/// How many answers may still be given in this second.
struct Answers {
    left: u32,
    since: Duration,
}

impl Answers {
    fn take(&mut self, now: Now, per_second: u32) -> bool {
        if now.monotonic.saturating_sub(self.since) >= Duration::from_secs(1) {
            *self = Self { left: per_second, since: now.monotonic };
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}
