//! The requester's side: find the peer, ask, ask again, check the reply.

use std::time::Duration;

use super::{
    AllocationFailure, AllocationId, AllocationRequest, Endpoint, Event, TooManyAllocations,
    Transmit,
};
use crate::{
    crypto::Entropy,
    proto::{
        Now,
        negotiation::{Offer, Terms},
    },
    transport::Destination,
    wire::{Dialect, Eid, NameHash, PeerAddress, management::Message},
};

/// A 0.23 peer gives a name query 2 s (WIRE.md, "eth-dix").
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_INTERVAL: Duration = Duration::from_millis(200);
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// A 0.23 server refuses the copy of a request it is about to accept: a
/// refusal after a retransmission counts only once this has passed.
const DOUBT: Duration = Duration::from_secs(2);

pub(super) struct Allocating {
    request: AllocationRequest,
    hash: NameHash,
    /// When its whole time is up, query and request together.
    until: Duration,
    /// When the present stage ends.
    deadline: Duration,
    interval: Duration,
    retry: Duration,
    message: Vec<u8>,
    stage: Stage,
}

enum Stage {
    Querying,
    Requesting {
        peer: PeerAddress,
        offer: Offer,
        sent: u32,
        /// A refusal that may be of a copy.
        refused: Option<i32>,
    },
}

impl Allocating {
    pub(super) fn due(&self) -> Duration {
        self.retry.min(self.deadline)
    }
}

impl Endpoint {
    /// Begins an allocation.
    ///
    /// # Errors
    ///
    /// Too many are under way.
    pub fn allocate(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        request: AllocationRequest,
    ) -> Result<AllocationId, TooManyAllocations> {
        if self.allocating.len() >= self.limits.allocations {
            return Err(TooManyAllocations);
        }
        let id = AllocationId(self.fresh_id());
        let hash = self.hash.of(&request.name);
        let peer = request.peer;
        let until = now.monotonic.saturating_add(request.timeout);
        let allocating = Allocating {
            until,
            deadline: until.min(now.monotonic + QUERY_TIMEOUT),
            interval: QUERY_INTERVAL,
            retry: now.monotonic + QUERY_INTERVAL,
            message: Message::NameQuery(hash).encode(self.dialect),
            stage: Stage::Querying,
            request,
            hash,
        };
        self.allocating.insert(id, allocating);
        match peer {
            Some(peer) => self.request(now, entropy, id, peer),
            None => self.transmit_allocation(id),
        }
        Ok(id)
    }

    /// Gives an allocation up; nothing more is said of it.
    pub fn cancel(&mut self, allocation: AllocationId) {
        self.allocating.remove(&allocation);
    }

    fn request(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        id: AllocationId,
        peer: PeerAddress,
    ) {
        let Some(allocating) = self.allocating.get_mut(&id) else { return };
        let request = &allocating.request;
        let terms = Terms { name: allocating.hash, qos: request.qos };
        let offer = Offer::new(now.utc, terms, request.security, entropy);
        allocating.message = Message::FlowRequest {
            source: request.local,
            qos: request.qos,
            name: allocating.hash,
            allocation: &offer.header,
        }
        .encode(self.dialect);
        allocating.deadline = allocating.until;
        allocating.interval = REQUEST_INTERVAL;
        allocating.retry = now.monotonic + REQUEST_INTERVAL;
        allocating.stage = Stage::Requesting { peer, offer, sent: 0, refused: None };
        self.transmit_allocation(id);
    }

    fn transmit_allocation(&mut self, id: AllocationId) {
        let Some(allocating) = self.allocating.get_mut(&id) else { return };
        let to = match &mut allocating.stage {
            Stage::Querying => Destination::Broadcast,
            Stage::Requesting { peer, sent, .. } => {
                *sent += 1;
                Destination::Peer(*peer)
            }
        };
        let message = allocating.message.clone();
        self.transmits.push_back(Transmit { to, via: Some(id), message });
    }

    pub(super) fn handle_name_reply(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        from: PeerAddress,
        name: NameHash,
    ) {
        let waiting: Vec<_> = self
            .allocating
            .iter()
            .filter(|(_, a)| a.hash == name && matches!(a.stage, Stage::Querying))
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            self.counters.unexpected += 1;
        }
        for id in waiting {
            self.request(now, entropy, id, from);
        }
    }

    pub(super) fn handle_reply(
        &mut self,
        now: Now,
        from: PeerAddress,
        via: Option<AllocationId>,
        requester: Eid,
        (responder, response): (Eid, i32),
        header: &[u8],
    ) {
        let by_path = self.dialect == Dialect::Udp;
        let found = self.allocating.iter_mut().find_map(|(id, allocating)| {
            let Stage::Requesting { peer, offer, sent, refused } = &mut allocating.stage else {
                return None;
            };
            let here = if by_path { via == Some(*id) } else { true };
            (here && *peer == from && allocating.request.local == requester).then_some((
                *id,
                offer,
                *sent,
                refused,
                &mut allocating.retry,
                &mut allocating.deadline,
            ))
        });
        let Some((id, offer, sent, refused, retry, deadline)) = found else {
            self.counters.unexpected += 1;
            return;
        };
        if response < 0 {
            if sent > 1 {
                if refused.is_none() {
                    *refused = Some(response);
                    *deadline = (*deadline).min(now.monotonic + DOUBT);
                    *retry = *deadline;
                }
            } else {
                self.fail(id, AllocationFailure::Refused(response));
            }
            return;
        }
        let agreed = if response == 0 && responder != Eid::MANAGEMENT {
            offer.check(header).ok()
        } else {
            None
        };
        let Some(agreed) = agreed else {
            self.counters.bad_replies += 1;
            return;
        };
        self.allocating.remove(&id);
        let (keys, suite) = agreed.map(|agreed| (agreed.keys, agreed.suite)).unzip();
        self.events.push_back(Event::Allocated {
            allocation: id,
            peer: from,
            remote: responder,
            keys,
            suite,
        });
    }

    fn fail(&mut self, id: AllocationId, reason: AllocationFailure) {
        self.allocating.remove(&id);
        self.events.push_back(Event::Failed { allocation: id, reason });
    }

    pub(super) fn retry_allocations(&mut self, now: Now) {
        let due: Vec<_> = self
            .allocating
            .iter()
            .filter(|(_, allocating)| allocating.due() <= now.monotonic)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(allocating) = self.allocating.get_mut(&id) else { continue };
            if allocating.deadline <= now.monotonic {
                let reason = match &allocating.stage {
                    Stage::Querying => AllocationFailure::NameNotFound,
                    Stage::Requesting { refused: Some(code), .. } => {
                        AllocationFailure::Refused(*code)
                    }
                    Stage::Requesting { .. } => AllocationFailure::TimedOut,
                };
                self.fail(id, reason);
            } else {
                allocating.interval *= 2;
                allocating.retry = now.monotonic + allocating.interval;
                self.transmit_allocation(id);
            }
        }
    }
}
