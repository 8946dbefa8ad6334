//! The responder's side: screen requests, hold them until they are accepted,
//! remember them against replay.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{AcceptError, Accepted, Endpoint, Event, Refusal, RequestId};
use crate::{
    crypto::Entropy,
    proto::{
        Now,
        negotiation::{ServerSecurity, Terms, answer, screen},
    },
    wire::{Dialect, Eid, NameHash, PeerAddress, QosSpec, management::Message, oap::Allocation},
};

/// A request may be this old, in nanoseconds (WIRE.md, "Allocation header").
const OLDEST: u64 = 20_000_000_000;
/// A request may be this far in the future, in nanoseconds.
const NEWEST: u64 = 100_000_000;

/// What tells one request from another: id and timestamp.
type Key = ([u8; 16], u64);

pub(super) struct Pending {
    from: PeerAddress,
    remote: Eid,
    header: Vec<u8>,
    terms: Terms,
    key: Key,
    pub(super) until: Duration,
}

enum Known {
    Pending,
    /// The reply, for copies of the request from the same address.
    Accepted(PeerAddress, Vec<u8>),
    Gone,
}

/// The requests seen of late. As long as one would be fresh, it is here.
#[derive(Default)]
pub(super) struct Memory {
    known: HashMap<Key, Known>,
    /// Oldest first, with the monotonic time until which it is kept.
    order: VecDeque<(Duration, Key)>,
    accepted: HashMap<RequestId, Key>,
}

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn forget(&mut self, now: Now) {
        while self.order.front().is_some_and(|(until, _)| *until <= now.monotonic) {
            if let Some((_, key)) = self.order.pop_front() {
                self.known.remove(&key);
            }
        }
        if self.known.is_empty() {
            self.accepted.clear();
        }
    }

    fn remember(&mut self, now: Now, key: Key) {
        self.known.insert(key, Known::Pending);
        let life = Duration::from_nanos(OLDEST + NEWEST) + Duration::from_secs(1);
        self.order.push_back((now.monotonic + life, key));
    }
}

impl Endpoint {
    pub(super) fn handle_request(
        &mut self,
        now: Now,
        from: PeerAddress,
        remote: Eid,
        qos: QosSpec,
        name: NameHash,
        header: &[u8],
    ) {
        if remote == Eid::MANAGEMENT {
            self.counters.malformed += 1;
            return;
        }
        self.memory.forget(now);
        let terms = Terms { name, qos };
        let Some(name) = self.names.get(&name).cloned() else {
            self.counters.unknown_name += 1;
            // Several processes may share an Ethernet interface and its MAC:
            // the request may be another's to answer. A UDP port has one owner.
            if self.dialect == Dialect::Udp {
                self.refuse_request(now, from, remote, Refusal::NotAvailable);
            }
            return;
        };
        let Ok(allocation) = Allocation::parse(header, 0) else {
            self.counters.malformed += 1;
            return;
        };
        let age = now.utc.saturating_sub(allocation.timestamp);
        let ahead = allocation.timestamp.saturating_sub(now.utc);
        if age > OLDEST || ahead > NEWEST {
            self.counters.not_fresh += 1;
            return self.refuse_request(now, from, remote, Refusal::NotFresh);
        }
        let key = (allocation.id, allocation.timestamp);
        match self.memory.known.get(&key) {
            None => {}
            Some(Known::Pending) => {
                self.counters.repeated += 1;
                return;
            }
            Some(Known::Accepted(peer, reply)) if *peer == from => {
                self.counters.repeated += 1;
                let reply = reply.clone();
                return self.repeat(now, from, reply);
            }
            Some(_) => {
                self.counters.not_fresh += 1;
                return self.refuse_request(now, from, remote, Refusal::NotFresh);
            }
        }
        let Ok(encrypted) = screen(&allocation) else {
            self.counters.malformed += 1;
            return self.refuse_request(now, from, remote, Refusal::Security);
        };
        let of_source =
            self.pending.values().filter(|pending| same_host(pending.from, from)).count();
        if self.pending.len() >= self.limits.pending_requests
            || of_source >= self.limits.pending_per_source
            || self.memory.len() >= self.limits.remembered_requests
        {
            self.counters.over_limit += 1;
            return;
        }
        let request = RequestId(self.fresh_id());
        self.memory.remember(now, key);
        let until = now.monotonic + self.limits.hold;
        let pending = Pending { from, remote, header: header.to_vec(), terms, key, until };
        self.pending.insert(request, pending);
        self.events.push_back(Event::Requested { request, name, from, remote, qos, encrypted });
    }

    fn repeat(&mut self, now: Now, to: PeerAddress, reply: Vec<u8>) {
        if self.answers.take(now, self.limits.answers_per_second) {
            let to = crate::transport::Destination::Peer(to);
            self.transmits.push_back(super::Transmit { to, via: None, message: reply });
        } else {
            self.counters.unanswered += 1;
        }
    }

    fn refuse_request(&mut self, now: Now, from: PeerAddress, remote: Eid, refusal: Refusal) {
        self.answer(now, from, &refused(remote, refusal));
    }

    /// Accepts a pending request: a reply will leave, the flow is allocated.
    ///
    /// # Errors
    ///
    /// The request is gone, or `security` and the request do not go together;
    /// then a refusal will leave.
    pub fn accept(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        request: RequestId,
        local: Eid,
        security: &ServerSecurity,
    ) -> Result<Accepted, AcceptError> {
        let pending = self.pending.remove(&request).ok_or(AcceptError::Gone)?;
        let (header, agreed) =
            match answer(&pending.header, now.utc, &pending.terms, security, entropy) {
                Ok(answer) => answer,
                Err(error) => {
                    self.memory.known.insert(pending.key, Known::Gone);
                    self.send(pending.from, &refused(pending.remote, Refusal::Security));
                    return Err(error.into());
                }
            };
        let reply = Message::FlowReply {
            requester: pending.remote,
            responder: local,
            response: 0,
            allocation: &header,
        };
        let message = reply.encode(self.dialect);
        self.send(pending.from, &reply);
        self.memory.known.insert(pending.key, Known::Accepted(pending.from, message));
        self.memory.accepted.insert(request, pending.key);
        let lane = agreed.as_ref().and_then(|agreed| agreed.lane);
        let (keys, suite) = agreed.map(|agreed| (agreed.keys, agreed.suite)).unzip();
        Ok(Accepted { keys, suite, lane })
    }

    /// Refuses a pending request.
    pub fn refuse(&mut self, _now: Now, request: RequestId, refusal: Refusal) {
        if let Some(pending) = self.pending.remove(&request) {
            self.memory.known.insert(pending.key, Known::Gone);
            self.send(pending.from, &refused(pending.remote, refusal));
        }
    }

    /// The flow of an accepted request has ended: copies of the request are
    /// refused from now on.
    pub fn released(&mut self, request: RequestId) {
        if let Some(known) =
            self.memory.accepted.remove(&request).and_then(|key| self.memory.known.get_mut(&key))
        {
            *known = Known::Gone;
        }
    }

    pub(super) fn withdraw_requests(&mut self, now: Now) {
        let due: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.until <= now.monotonic)
            .map(|(request, _)| *request)
            .collect();
        for request in due {
            self.refuse(now, request, Refusal::NotAvailable);
            self.events.push_back(Event::Withdrawn { request });
        }
    }
}

/// Ports cost a host nothing: they do not make it another source.
fn same_host(one: PeerAddress, other: PeerAddress) -> bool {
    match (one, other) {
        (PeerAddress::Udp(one), PeerAddress::Udp(other)) => one.ip() == other.ip(),
        _ => one == other,
    }
}

fn refused(requester: Eid, refusal: Refusal) -> Message<'static> {
    Message::FlowReply {
        requester,
        responder: Eid::MANAGEMENT,
        response: refusal.code(),
        allocation: &[],
    }
}
