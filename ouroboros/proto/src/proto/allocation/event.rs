//! Output of the allocation core for its driver: messages to send, events, and counts.

use std::time::Duration;

use super::{Agreed, AllocationFailure, AllocationId, NegotiationError, RefusalReason, RequestId};
use crate::{
    proto::negotiation::Joining,
    wire::{Destination, Eid, Name, PeerAddress, QosSpec},
};

/// A flow whose peer has proved that it is there.
#[derive(Debug)]
pub struct Accepted {
    /// The quality of service: the peer's timeout within this side's bounds
    /// ([`Limits::flow_timeout`](super::Limits::flow_timeout)).
    pub qos: QosSpec,
    /// The terms agreed with the client; `None` for a plain flow.
    pub agreed: Option<Agreed>,
    /// From the reply to the client's proof that it has it, once that is there.
    pub rtt: Option<Duration>,
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

/// An event of the allocation core.
#[derive(Debug)]
pub enum Event {
    /// A peer asks for a flow: accept or refuse it.
    Requested {
        /// The request.
        request: RequestId,
        /// The registered name it is for.
        name: Name,
        /// The address that asks.
        from: PeerAddress,
        /// Its endpoint.
        remote: Eid,
        /// The quality of service asked for.
        qos: QosSpec,
        /// Whether it should be encrypted.
        encrypted: bool,
        /// Its sender is no client yet, but invited: its key has to be in the policy of
        /// the name before it is accepted.
        joining: Option<Joining>,
    },
    /// A request was not accepted in time.
    Withdrawn {
        /// The request.
        request: RequestId,
    },
    /// The peer of a half-open flow has proved that it is there: the flow is
    /// established.
    Confirmed {
        /// The request that it began with.
        request: RequestId,
        /// The agreed terms.
        accepted: Accepted,
        /// The frame that proved it, sealed.
        frame: Vec<u8>,
    },
    /// A half-open flow was given up: its peer has not proved in time that it
    /// is there, or there was no room for it any more.
    Expired {
        /// The request that it began with.
        request: RequestId,
    },
    /// A request for a name that demands its clients' identities was met with
    /// silence: its sender is none of them.
    Unauthorized {
        /// The name.
        name: Name,
        /// Where it came from.
        from: PeerAddress,
        /// The reason why it was not taken.
        reason: NegotiationError,
    },
    /// A request was refused.
    Refused {
        /// The name it is for; `None`: none that is served.
        name: Option<Name>,
        /// Where it came from.
        from: PeerAddress,
        /// Why.
        reason: RefusalReason,
    },
    /// An own allocation is done.
    Allocated {
        /// The allocation.
        allocation: AllocationId,
        /// The address that answered.
        peer: PeerAddress,
        /// Its endpoint.
        remote: Eid,
        /// The terms agreed with the server; `None` for a plain flow.
        agreed: Option<Agreed>,
        /// From the request to the reply, unless the request was repeated.
        rtt: Option<Duration>,
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
    /// Truncated, too long, or of an unknown code.
    pub malformed: u64,
    /// Requests for algorithms that are not supported.
    pub unsupported: u64,
    /// Requests for less than their name demands: a plain flow, a weaker
    /// algorithm, no native profile.
    pub too_weak: u64,
    /// Requests for a quality of service that is not supported.
    pub quality: u64,
    /// Requests that were asked for a cookie since their senders' clocks differ
    /// from this side's.
    pub clocks: u64,
    /// For a name that is not registered here. On eth-dix these are often
    /// meant for another IPCP on the same interface, and not answered.
    pub unknown_name: u64,
    /// Stale requests, requests from the future.
    pub not_fresh: u64,
    /// Copies of requests that are known; answered again or ignored.
    pub repeated: u64,
    /// Requests beyond a limit.
    pub over_limit: u64,
    /// Requests that were asked for a cookie.
    pub cookies: u64,
    /// Requests from whom their name does not know, met with silence.
    pub unauthorized: u64,
    /// Replies nobody waits for, or from the wrong address.
    pub unexpected: u64,
    /// Replies whose header does not answer the request.
    pub bad_replies: u64,
    /// Answers left unsent to keep within the rate, or within three times the
    /// bytes received from an address that has not been proved.
    pub unanswered: u64,
    /// Half-open flows that were given up.
    pub expired: u64,
}
