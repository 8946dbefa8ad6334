//! The requester's side: find the peer, ask, ask again, check the reply. A server
//! that is busy is asked again for as long as the allocation may take.

use std::time::Duration;

use super::{
    AllocationFailure, AllocationId, AllocationRequest, Allocator, Event, Refusal,
    TooManyAllocations, Transmit,
};
use crate::{
    crypto::Entropy,
    proto::{
        Now,
        negotiation::{Agreement, NegotiationError, Offer, Refused, Shape, Terms},
    },
    wire::{Destination, Dialect, Eid, NameHash, PeerAddress, management::Message},
};

/// A 0.23 peer gives a name query 2 s (WIRE.md, "eth-dix").
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_INTERVAL: Duration = Duration::from_millis(200);
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// A 0.23 server refuses the copy of a request it is about to accept: a
/// refusal after a retransmission counts only once this has passed. So does a
/// reply that is not acceptable: the server's own may come yet.
const DOUBT: Duration = Duration::from_secs(2);
/// A server that has too many requests is asked again after this, give or take a
/// half, and after twice as long each further time.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);
const LARGEST_BUSY_INTERVAL: Duration = Duration::from_secs(2);
/// How long the reply to a request is waited for that nobody waits for any more.
const ABANDONED: Duration = Duration::from_secs(2);
/// Requests of that kind at a time.
const MAX_ABANDONED: usize = 256;
/// Bytes that a native request over UDP has at least, behind the endpoint id:
/// the reply may be as long, certificate and signature and all, without more
/// going to its address than came from there; and no network cuts it in two.
const LEAST_UDP_REQUEST: usize = 1200;

pub(super) struct Allocating {
    request: AllocationRequest,
    hash: NameHash,
    /// When its whole time is up, query and request together.
    until: Duration,
    /// When the present stage ends.
    deadline: Duration,
    interval: Duration,
    retry: Duration,
    /// How long to leave a busy server alone the next time.
    busy_interval: Duration,
    message: Vec<u8>,
    stage: Stage,
    /// Nobody waits for the flow any more.
    abandoned: bool,
}

enum Stage {
    Querying,
    Requesting {
        peer: PeerAddress,
        offer: Box<Offer>,
        sent: u32,
        /// When it left first.
        at: Duration,
        /// It echoes a cookie already.
        cookie: bool,
        /// The failure in a reply that may be a stranger's, or the refusal of a copy.
        doubted: Option<AllocationFailure>,
    },
    /// The server has too many requests: it gets another one when `retry` is due.
    Waiting {
        peer: PeerAddress,
    },
}

const BUSY: AllocationFailure = AllocationFailure::Refused(Refusal::Busy.code());

/// A flow reply as it came.
pub(super) struct Reply<'a> {
    pub(super) from: PeerAddress,
    pub(super) via: Option<AllocationId>,
    pub(super) requester: Eid,
    pub(super) responder: Eid,
    pub(super) response: i32,
    pub(super) header: &'a [u8],
}

impl Allocating {
    pub(super) fn due(&self) -> Duration {
        self.retry.min(self.deadline)
    }
}

impl Allocator {
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
            busy_interval: BUSY_INTERVAL,
            message: Message::NameQuery(hash).encode(self.dialect),
            stage: Stage::Querying,
            abandoned: false,
            request,
            hash,
        };
        self.by_endpoint.insert(allocating.request.local, id);
        self.allocating.insert(id, allocating);
        match peer {
            Some(peer) => self.request(now, entropy, id, peer, None),
            None => self.transmit_allocation(id),
        }
        Ok(id)
    }

    /// Gives an allocation up; nothing more is said of it.
    pub fn cancel(&mut self, allocation: AllocationId) {
        if let Some(allocating) = self.allocating.remove(&allocation) {
            self.by_endpoint.remove(&allocating.request.local);
            self.abandoned -= usize::from(allocating.abandoned);
        }
    }

    /// Nobody waits for the flow any more. Returns `true` if a request has left: the
    /// reply to it is told for 2 s yet, so that the flow can be closed, and
    /// nothing is asked again. Returns `false` if there is nothing to wait for.
    pub fn abandon(&mut self, now: Now, allocation: AllocationId) -> bool {
        let Some(allocating) = self.allocating.get_mut(&allocation) else { return false };
        let is_full = !allocating.abandoned && self.abandoned >= MAX_ABANDONED;
        if !matches!(allocating.stage, Stage::Requesting { .. }) || is_full {
            self.cancel(allocation);
            return false;
        }
        self.abandoned += usize::from(!std::mem::replace(&mut allocating.abandoned, true));
        allocating.until = allocating.until.min(now.monotonic + ABANDONED);
        allocating.deadline = allocating.deadline.min(allocating.until);
        allocating.retry = allocating.deadline;
        true
    }

    fn request(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        id: AllocationId,
        peer: PeerAddress,
        cookie: Option<&[u8]>,
    ) {
        let Some(allocating) = self.allocating.get_mut(&id) else { return };
        if allocating.abandoned {
            return self.fail(id, AllocationFailure::TimedOut);
        }
        let request = &allocating.request;
        let terms = Terms { name: allocating.hash, qos: request.qos };
        let (source, qos, name) = (request.local, request.qos, allocating.hash);
        let message = |allocation: &[u8]| {
            Message::FlowRequest { source, qos, name, allocation }.encode(self.dialect)
        };
        let around = message(&[]).len();
        let largest = request.largest_message.saturating_sub(around);
        let least = match self.dialect {
            Dialect::Udp => LEAST_UDP_REQUEST.saturating_sub(around).min(largest),
            Dialect::EthDix => 0,
        };
        let shape = Shape { least, largest, cookie };
        let offer = Offer::new(now.utc, terms, request.security.clone(), shape, entropy);
        allocating.message = message(&offer.header);
        allocating.deadline = allocating.until;
        allocating.interval = REQUEST_INTERVAL;
        allocating.retry = now.monotonic + REQUEST_INTERVAL;
        let (offer, cookie, doubted) = (Box::new(offer), cookie.is_some(), None);
        let at = now.monotonic;
        allocating.stage = Stage::Requesting { peer, offer, sent: 0, at, cookie, doubted };
        self.transmit_allocation(id);
    }

    fn transmit_allocation(&mut self, id: AllocationId) {
        let Some(allocating) = self.allocating.get_mut(&id) else { return };
        let to = match &mut allocating.stage {
            Stage::Querying => Destination::Broadcast,
            Stage::Waiting { .. } => return,
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
            self.request(now, entropy, id, from, None);
        }
    }

    pub(super) fn handle_reply(&mut self, now: Now, entropy: &mut dyn Entropy, reply: Reply<'_>) {
        let Reply { from, via, requester, responder, response, header } = reply;
        let id = match self.dialect {
            Dialect::Udp => via,
            Dialect::EthDix => self.by_endpoint.get(&requester).copied(),
        };
        let found = id.and_then(|id| Some((id, self.allocating.get_mut(&id)?)));
        let Some((id, allocating)) = found.filter(|(_, a)| a.request.local == requester) else {
            self.counters.unexpected += 1;
            return;
        };
        let Stage::Requesting { peer, offer, sent, at, cookie, doubted } = &mut allocating.stage
        else {
            self.counters.unexpected += 1;
            return;
        };
        if *peer != from {
            self.counters.unexpected += 1;
            return;
        }
        let doubtful = if response < 0 {
            match offer.read_refusal(header) {
                Refused::Another => {
                    self.counters.unexpected += 1;
                    return;
                }
                Refused::ForCookie(given) if !*cookie => {
                    return self.request(now, entropy, id, from, Some(given));
                }
                _ => {}
            }
            let refused = AllocationFailure::Refused(response);
            if *sent <= 1 && doubted.is_none() {
                return match refused {
                    BUSY => self.wait(now, entropy, id),
                    refused => self.fail(id, refused),
                };
            }
            refused
        } else {
            let agreed = if response == 0 && responder != Eid::MANAGEMENT {
                offer.check(header, &allocating.request.name, now.utc)
            } else {
                Err(NegotiationError::Mismatch)
            };
            match agreed {
                Ok(agreed) => {
                    // Of a request that was repeated nobody knows which was answered.
                    let rtt = (*sent <= 1).then(|| now.monotonic.saturating_sub(*at));
                    return self.allocated(id, (from, responder), agreed, rtt);
                }
                Err(error) => {
                    self.counters.bad_replies += 1;
                    // What does not answer the request anyone can have sent.
                    let answers =
                        !matches!(error, NegotiationError::Malformed | NegotiationError::Mismatch);
                    if !answers {
                        return;
                    }
                    AllocationFailure::Rejected(error)
                }
            }
        };
        if doubted.is_none() {
            *doubted = Some(doubtful);
            allocating.deadline = allocating.deadline.min(now.monotonic + DOUBT);
            allocating.retry = allocating.deadline;
        }
    }

    /// Leaves a busy server alone for a while: a crowd does not come back as one.
    fn wait(&mut self, now: Now, entropy: &mut dyn Entropy, id: AllocationId) {
        let Some(allocating) = self.allocating.get_mut(&id) else { return };
        if allocating.abandoned {
            return self.fail(id, BUSY);
        }
        let Stage::Requesting { peer, .. } = allocating.stage else { return };
        let mut random = [0; 2];
        entropy.fill(&mut random);
        let part = u32::from(u16::from_be_bytes(random));
        let interval = allocating.busy_interval;
        allocating.busy_interval = (interval * 2).min(LARGEST_BUSY_INTERVAL);
        allocating.stage = Stage::Waiting { peer };
        allocating.retry = now.monotonic + interval / 2 + interval * part / (1 << 16);
        allocating.deadline = allocating.until;
    }

    fn allocated(
        &mut self,
        allocation: AllocationId,
        (peer, remote): (PeerAddress, Eid),
        agreed: Agreement,
        rtt: Option<Duration>,
    ) {
        self.cancel(allocation);
        self.events.push_back(Event::Allocated { allocation, peer, remote, agreed, rtt });
    }

    fn fail(&mut self, id: AllocationId, reason: AllocationFailure) {
        self.cancel(id);
        self.events.push_back(Event::Failed { allocation: id, reason });
    }

    pub(super) fn retry_allocations(&mut self, now: Now, entropy: &mut dyn Entropy) {
        let due: Vec<_> = self
            .allocating
            .iter()
            .filter(|(_, allocating)| allocating.due() <= now.monotonic)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(allocating) = self.allocating.get_mut(&id) else { continue };
            if allocating.deadline <= now.monotonic {
                let reason = match &mut allocating.stage {
                    Stage::Querying => AllocationFailure::NameNotFound,
                    Stage::Requesting { doubted, .. } => {
                        doubted.take().unwrap_or(AllocationFailure::TimedOut)
                    }
                    Stage::Waiting { .. } => BUSY,
                };
                if reason == BUSY && now.monotonic < allocating.until {
                    self.wait(now, entropy, id);
                } else {
                    self.fail(id, reason);
                }
            } else if let Stage::Waiting { peer } = allocating.stage {
                self.request(now, entropy, id, peer, None);
            } else {
                allocating.interval *= 2;
                allocating.retry = now.monotonic + allocating.interval;
                self.transmit_allocation(id);
            }
        }
    }
}
