//! The allocation core of an IPCP: name queries, flow requests and replies, as
//! a state machine without I/O. `ipcp` drives it; so do simulations.
//!
//! `handle` takes messages, `poll_transmit` gives them, `poll` tells events,
//! `poll_timeout` and `handle_timeout` are its clock. All state is bounded by
//! [`Limits`]. Not here: sockets, the packets of a flow, who accepts.

mod client;
mod cookie;
mod event;
mod half_open;
mod limits;
mod memory;
mod refusal;
mod server;
mod sources;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use self::{
    client::{Allocating, Reply},
    cookie::Cookies,
    half_open::Established,
    half_open::HalfOpenFlows,
    limits::{Budget, Unvalidated},
    memory::Memory,
    server::{Incoming, Pending, Served},
    sources::Shares,
};
pub use self::{
    event::{Accepted, Counters, Event, Transmit},
    limits::Limits,
    refusal::{AcceptError, ClockDifference, Refusal, RefusalReason},
    sources::Share,
};
pub use super::negotiation::{
    Agreed, ClientSecurity, Identity, NegotiationError, PeerIdentity, ProfilePolicy,
    ServerSecurity, Trust,
};
use super::{Now, negotiation::Terms};
use crate::{
    crypto::Entropy,
    wire::{
        Destination, Dialect, DirectoryHash, Eid, Name, NameHash, PeerAddress, QosSpec,
        management::Message,
    },
};

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
    /// The quality of service asked for.
    pub qos: QosSpec,
    /// How it must be encrypted; `None`: plain.
    pub security: Option<ClientSecurity>,
    /// The endpoint chosen for it.
    pub local: Eid,
    /// Where the peer is; `None`: to be asked for with a name query.
    pub peer: Option<PeerAddress>,
    /// How long it may take, name query and all.
    pub timeout: Duration,
    /// Largest message that reaches the peer, in bytes.
    pub largest_message: usize,
}

/// Why there is no flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocationFailure {
    /// Nobody answered the name query.
    NameNotFound,
    /// The peer refused, with this response code.
    Refused(i32),
    /// No reply that could be accepted; the first, for this reason.
    Rejected(NegotiationError),
    /// No reply in time.
    TimedOut,
}

/// The allocation core of one IPCP.
pub struct Allocator {
    dialect: Dialect,
    hash: DirectoryHash,
    limits: Limits,
    names: HashMap<NameHash, Served>,
    policies: HashMap<NameHash, Arc<ServerSecurity>>,
    /// Some name demands its clients' identities: see [`Served`].
    has_restricted_name: bool,
    /// The longest certificate of a name, in bytes.
    largest_certificate: usize,
    allocating: HashMap<AllocationId, Allocating>,
    by_endpoint: HashMap<Eid, AllocationId>,
    /// Those of `allocating` that nobody waits for any more.
    abandoned: usize,
    /// In the order in which they came, which is that of their ends.
    pending: BTreeMap<RequestId, Pending>,
    shares: Shares,
    half_open: HalfOpenFlows,
    established: Established,
    native: Unvalidated,
    old: Unvalidated,
    cookies: Cookies,
    cookie_budget: Budget,
    /// Requests looked at closely since then.
    recent: Shares,
    recent_since: Duration,
    memory: Memory,
    answers: Budget,
    slow: Budget,
    next_id: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Allocator {
    /// A core that speaks `dialect` and knows names by `hash`.
    pub fn new(dialect: Dialect, hash: DirectoryHash, limits: Limits) -> Self {
        Self {
            dialect,
            hash,
            limits,
            names: HashMap::new(),
            policies: HashMap::new(),
            has_restricted_name: false,
            largest_certificate: 0,
            allocating: HashMap::new(),
            by_endpoint: HashMap::new(),
            abandoned: 0,
            pending: BTreeMap::new(),
            shares: Shares::default(),
            half_open: HalfOpenFlows::default(),
            established: Established::default(),
            native: Unvalidated::default(),
            old: Unvalidated::default(),
            cookies: Cookies::default(),
            cookie_budget: Budget::default(),
            recent: Shares::default(),
            recent_since: Duration::ZERO,
            memory: Memory::default(),
            answers: Budget::default(),
            slow: Budget::default(),
            next_id: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Serves `name` from now on; whether it is new.
    pub fn register(&mut self, name: &Name) -> bool {
        let hash = self.hash.of(name);
        let security = self.policies.get(&hash).cloned().unwrap_or_default();
        let served = Served { name: name.clone(), security };
        let new = self.names.insert(hash, served).is_none();
        self.refresh_policy_cache();
        new
    }

    /// Serves `name` no longer; whether it was served.
    pub fn unregister(&mut self, name: &Name) -> bool {
        let known = self.names.remove(&self.hash.of(name)).is_some();
        self.refresh_policy_cache();
        known
    }

    /// Sets the security that flows to `name` must have from now on, registered or not;
    /// [`ServerSecurity::default`] where nothing is set.
    pub fn set_policy(&mut self, name: &Name, security: ServerSecurity) {
        let (hash, security) = (self.hash.of(name), Arc::new(security));
        if let Some(served) = self.names.get_mut(&hash) {
            served.security = security.clone();
        }
        self.policies.insert(hash, security);
        self.refresh_policy_cache();
    }

    fn refresh_policy_cache(&mut self) {
        let policies = self.names.values().map(|served| &served.security);
        self.has_restricted_name = policies.clone().any(|policy| policy.clients.demands_identity());
        let certificates = policies.filter_map(|policy| policy.identity.as_ref());
        self.largest_certificate = certificates.map(|i| i.certificate().len()).max().unwrap_or(0);
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
                let terms = Terms { name, qos };
                let (remote, header, size) = (source, allocation, message.len());
                let incoming = Incoming { from, remote, terms, header, size };
                self.handle_request(now, entropy, incoming);
            }
            Ok(Message::FlowReply { requester, responder, response, allocation }) => {
                let reply = Reply { from, via, requester, responder, response, header: allocation };
                self.handle_reply(now, entropy, reply);
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
        let pending = self.pending.first_key_value().map(|(_, pending)| pending.until);
        allocating.chain(pending).chain(self.half_open.poll_timeout()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.retry_allocations(now, entropy);
        self.withdraw_requests(now);
        self.expire_half_open(now);
        self.memory.forget(now);
    }

    /// Messages that led nowhere so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns how much is kept for peers: requests pending and requests remembered.
    pub fn held(&self) -> (usize, usize) {
        (self.pending.len(), self.memory.len())
    }

    /// Returns how many flows wait for their peers to prove that they are there.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
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

impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}
