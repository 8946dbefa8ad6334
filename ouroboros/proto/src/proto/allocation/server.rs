//! The responder's side: screen requests, hold them until they are accepted.
//!
//! Cheap checks come first: shape, freshness, replay, algorithms, cookie, limits. The signature
//! of a client that has to have one is the last thing before anything is kept.

use std::{sync::Arc, time::Duration};

use super::{
    AcceptError, Accepted, Allocator, Event, Refusal, RefusalReason, RequestId, Transmit,
    half_open::HalfOpen,
    memory::{AMPLIFICATION, Answered, Key, Known, clock_difference, shows_freshness},
    sources::Source,
};
use crate::{
    crypto::Entropy,
    proto::{
        Now,
        negotiation::{
            Client, NegotiationError, RequestSummary, ServerSecurity, Standing, Terms, answer,
            identify_client, largest_answer, screen,
        },
    },
    wire::{
        Destination, Dialect, Eid, Name, PeerAddress, extension::Extensions, management::Message,
        oap::Allocation,
    },
};

/// Copies of a request that are answered: more than a client makes.
const REPEATS: u8 = 16;

/// Requests taken in a second whose key exchange is slow (P-384, P-521): they
/// take half a processor at most.
const SLOW_PER_SECOND: u32 = 50;

/// A flow request as it came.
pub(super) struct Incoming<'a> {
    pub(super) from: PeerAddress,
    pub(super) remote: Eid,
    pub(super) terms: Terms,
    pub(super) header: &'a [u8],
    /// Bytes of the whole message.
    pub(super) size: usize,
}

/// A name that is served, and what flows to it have to be like.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) name: Name,
    pub(super) security: Arc<ServerSecurity>,
}

pub(super) struct Pending {
    from: PeerAddress,
    remote: Eid,
    header: Vec<u8>,
    terms: Terms,
    key: Key,
    size: usize,
    validation: AddressValidation,
    /// Under which policy it was screened, and who the client is by it.
    security: Arc<ServerSecurity>,
    client: Client,
    pub(super) until: Duration,
}

/// Whether a request's source address is validated (RFC 9000, section 8): what may
/// be sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressValidation {
    /// The address is its own: it has echoed a cookie, or is on the same link.
    Validated,
    /// The address may be another's.
    Unvalidated,
    /// The same, and it does not know cookies: a 0.23 peer, or a plain flow.
    Legacy,
}

impl Allocator {
    pub(super) fn handle_request(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        incoming: Incoming<'_>,
    ) {
        let Incoming { from, remote, terms, header, size } = incoming;
        if remote == Eid::MANAGEMENT {
            self.counters.malformed += 1;
            return;
        }
        self.memory.forget(now);
        let served = self.names.get(&terms.name).cloned();
        if served.is_none() {
            self.counters.unknown_name += 1;
            // Several processes may share an Ethernet interface and its MAC:
            // the request may be another's to answer. A UDP port has one owner.
            if self.dialect == Dialect::EthDix {
                return;
            }
        }
        // A name that not everyone may know of is like one that is not there.
        let has_restricted_name = served
            .as_ref()
            .map_or(self.has_restricted_name, |s| s.security.clients.demands_identity());
        let refuse = |allocator: &mut Self, refusal| {
            if !has_restricted_name {
                allocator.answer(now, from, &refused(remote, refusal));
            }
        };
        let Ok(allocation) = Allocation::parse(header, 0) else {
            self.counters.malformed += 1;
            return;
        };
        let screened = screen(&allocation);
        if let Some(difference) = clock_difference(now, &allocation) {
            match screened {
                Ok(RequestSummary { native: true, cookie: Some(cookie), .. })
                    if self.cookies.age(now, from, cookie).is_some_and(shows_freshness) => {}
                Ok(RequestSummary { native: true, cookie: None, .. }) => {
                    // Only those who may know of the name are asked for a cookie.
                    // Who they are is looked at so often, since nothing else
                    // bounds it for a request that is repeated.
                    let known = |served: &Served| {
                        identify_client(header, now.utc, &terms, &served.security).is_ok()
                    };
                    if has_restricted_name
                        && !(self.answers.take(now, self.limits.answers_per_second)
                            && served.as_ref().is_some_and(known))
                    {
                        self.counters.not_fresh += 1;
                        return;
                    }
                    self.counters.clocks += 1;
                    let refusal = Refusal::NotFresh;
                    return self.demand_cookie(now, entropy, from, remote, &allocation, refusal);
                }
                _ => {
                    self.counters.not_fresh += 1;
                    let name = served.map(|served| served.name);
                    let reason = difference.into();
                    self.events.push_back(Event::Refused { name, from, reason });
                    return refuse(self, Refusal::NotFresh);
                }
            }
        }
        let key = (allocation.id, allocation.timestamp);
        match self.memory.known(&key) {
            None => {}
            Some(Known::Pending) => {
                self.counters.repeated += 1;
                return;
            }
            Some(Known::Accepted(answered)) if answered.is_for(from, size) => {
                self.counters.repeated += 1;
                match answered.repeat() {
                    Some(reply) => {
                        let (to, message) = (Destination::Peer(from), reply.to_vec());
                        self.transmits.push_back(Transmit { to, via: None, message });
                    }
                    None => self.counters.unanswered += 1,
                }
                return;
            }
            Some(_) => {
                self.counters.not_fresh += 1;
                return refuse(self, Refusal::NotFresh);
            }
        }
        let asked = match screened {
            Ok(asked) => asked,
            Err(error) => {
                self.note_refusal(served.map(|served| served.name), from, error);
                return refuse(self, Refusal::Security);
            }
        };
        let validation = self.validation(now, from, asked);
        let source = Source::of(from, validation == AddressValidation::Validated);
        // Whatever the name, or it would tell one that is served from others.
        let answer = largest_answer(&allocation, self.largest_certificate) + REPLY;
        let admitted = self.has_room(now, source)
            && match validation {
                AddressValidation::Validated => true,
                AddressValidation::Unvalidated => {
                    answer <= size && self.native.take(now, &self.limits)
                }
                AddressValidation::Legacy => self.old.take(now, &self.limits),
            };
        if !admitted {
            return match validation {
                AddressValidation::Validated => {
                    self.counters.over_limit += 1;
                    refuse(self, Refusal::Busy);
                }
                AddressValidation::Unvalidated => {
                    let refusal = Refusal::Busy;
                    self.counters.cookies += 1;
                    self.demand_cookie(now, entropy, from, remote, &allocation, refusal);
                }
                AddressValidation::Legacy => {
                    self.counters.over_limit += 1;
                    refuse(self, Refusal::Busy);
                }
            };
        }
        if asked.slow && !self.slow.take(now, SLOW_PER_SECOND) {
            self.counters.over_limit += 1;
            return refuse(self, Refusal::Busy);
        }
        self.recent.add(source);
        let Some(Served { name, security }) = served else {
            return refuse(self, Refusal::NotAvailable);
        };
        let mut joining = None;
        let client = if security.clients.demands_identity() {
            match identify_client(header, now.utc, &terms, &security) {
                Ok(Standing::Client(identity)) => Client::Checked(identity),
                // It is looked at again when it is accepted: by then it has to be a client.
                Ok(Standing::Invited(invited)) => {
                    joining = Some(invited);
                    Client::Unchecked
                }
                Err(error) => {
                    self.counters.unauthorized += 1;
                    self.events.push_back(Event::Unauthorized { name, from, reason: error });
                    return;
                }
            }
        } else {
            Client::Unchecked
        };
        let request = RequestId(self.fresh_id());
        self.memory.remember(now, key, source);
        self.occupy(from, validation);
        let until = now.monotonic + self.limits.hold;
        let (header, qos, encrypted) = (header.to_vec(), terms.qos, asked.encrypted);
        let pending =
            Pending { from, remote, header, terms, key, size, validation, security, client, until };
        self.pending.insert(request, pending);
        self.events.push_back(Event::Requested {
            request,
            name,
            from,
            remote,
            qos,
            encrypted,
            joining,
        });
    }

    fn validation(
        &self,
        now: Now,
        from: PeerAddress,
        asked: RequestSummary<'_>,
    ) -> AddressValidation {
        let good = |cookie| self.cookies.age(now, from, cookie).is_some();
        match asked {
            // Who can send frames on a link can receive them there.
            _ if self.dialect == Dialect::EthDix => AddressValidation::Validated,
            RequestSummary { native: true, cookie: Some(cookie), .. } if good(cookie) => {
                AddressValidation::Validated
            }
            RequestSummary { native: true, .. } => AddressValidation::Unvalidated,
            RequestSummary { native: false, .. } => AddressValidation::Legacy,
        }
    }

    /// Returns `true` if one more request from `source` may be looked at, and held.
    fn has_room(&mut self, now: Now, source: Source) -> bool {
        let limits = &self.limits;
        if now.monotonic.saturating_sub(self.recent_since) >= Duration::from_secs(1) {
            self.recent.clear();
            self.recent_since = now.monotonic;
        }
        let validated = source.is_validated();
        let waiting = self.pending.len() + self.half_open.len_with_cookies();
        waiting < limits.pending_requests
            && self
                .shares
                .has_room(source, if validated { limits.pending_of } else { limits.unvalidated_of })
            && self.memory.has_room(source, limits.remembered_requests, limits.remembered_of)
            && self.recent.len() < limits.remembered_requests
            && self.recent.has_room(source, limits.requests_per_second_of)
            && self.established.has_room(source, limits)
    }

    fn pending_of(&mut self, validation: AddressValidation, change: impl Fn(usize) -> usize) {
        match validation {
            AddressValidation::Validated => {}
            AddressValidation::Unvalidated => self.native.pending = change(self.native.pending),
            AddressValidation::Legacy => self.old.pending = change(self.old.pending),
        }
    }

    fn take_pending(&mut self, request: RequestId) -> Option<Pending> {
        let pending = self.pending.remove(&request)?;
        self.vacate(pending.from, pending.validation);
        Some(pending)
    }

    /// One more waits, to be accepted or to be confirmed.
    pub(super) fn occupy(&mut self, from: PeerAddress, validation: AddressValidation) {
        self.shares.add(Source::of(from, validation == AddressValidation::Validated));
        self.pending_of(validation, |count| count + 1);
    }

    /// One fewer waits, to be accepted or to be confirmed.
    pub(super) fn vacate(&mut self, from: PeerAddress, validation: AddressValidation) {
        self.shares.remove(Source::of(from, validation == AddressValidation::Validated));
        self.pending_of(validation, |count| count - 1);
    }

    fn demand_cookie(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        from: PeerAddress,
        remote: Eid,
        request: &Allocation<'_>,
        refusal: Refusal,
    ) {
        if !self.cookie_budget.take(now, self.limits.cookies_per_second) {
            self.counters.unanswered += 1;
            return;
        }
        let cookie = self.cookies.bake(now, entropy, from);
        let data = Extensions { cookie: Some(&cookie), ..Extensions::default() }.encode();
        let header = Allocation { data: &data, ..Allocation::plain(request.id, request.timestamp) };
        let Some(header) = header.encode() else { return };
        let refusal = Message::FlowReply {
            requester: remote,
            responder: Eid::MANAGEMENT,
            response: refusal.code(),
            allocation: &header,
        };
        self.send(from, &refusal);
    }

    /// Accepts a pending request as the name's policy says: the reply will leave,
    /// and the flow is half-open until its peer has proved that it is there
    /// ([`Event::Confirmed`]), or for as long as the limits say
    /// ([`Event::Expired`]). Frames for `local` go to
    /// [`handle_frame`](Self::handle_frame) until then.
    ///
    /// # Errors
    ///
    /// The request is gone, or the policy and the request do not go together;
    /// then a refusal will leave, unless it is none of the client's business.
    pub fn accept(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        request: RequestId,
        local: Eid,
    ) -> Result<(), AcceptError> {
        let Pending {
            from, remote, header, terms, key, size, validation, security, client, ..
        } = self.take_pending(request).ok_or(AcceptError::Gone)?;
        // The policy may have changed while the request waited.
        let present = self.names.get(&terms.name).map(|served| served.security.clone());
        let (security, client) = match present {
            Some(present) if !Arc::ptr_eq(&present, &security) => (present, Client::Unchecked),
            _ => (security, client),
        };
        let known = matches!(client, Client::Checked(_));
        let answered = answer(client, &header, now.utc, &terms, &security, entropy);
        let (header, agreed) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                self.memory.refused(key);
                let name = self.names.get(&terms.name).map(|served| served.name.clone());
                self.note_refusal(name, from, error.clone());
                if known || !security.clients.demands_identity() {
                    self.send(from, &refused(remote, Refusal::Security));
                }
                return Err(error.into());
            }
        };
        let reply = Message::FlowReply {
            requester: remote,
            responder: local,
            response: 0,
            allocation: &header,
        };
        let message = reply.encode(self.dialect);
        if validation == AddressValidation::Unvalidated && message.len() > size {
            // A policy with a longer certificate came in between.
            self.memory.refused(key);
            return Err(AcceptError::Gone);
        }
        self.send(from, &reply);
        // One reply leaves in any case: a 0.23 peer's request is shorter than a
        // reply with a certificate may be.
        let budget = (AMPLIFICATION * size).saturating_sub(message.len());
        let budget = (validation != AddressValidation::Validated).then_some(budget);
        self.memory.accepted(
            request,
            key,
            Answered { from, request: size, left: REPEATS, budget, reply: message },
        );
        let qos = self.limits.bounded(terms.qos);
        let accepted = Accepted { qos, agreed, rtt: None };
        let ends = (local, remote);
        self.hold_half_open(now, request, HalfOpen::new(from, ends, validation, accepted));
        Ok(())
    }

    /// Counts a refusal by its reason, and tells of it.
    fn note_refusal(&mut self, name: Option<Name>, from: PeerAddress, error: NegotiationError) {
        let counter = match error {
            NegotiationError::Unsupported(_) => &mut self.counters.unsupported,
            NegotiationError::TooWeak { .. }
            | NegotiationError::NotEncrypted
            | NegotiationError::NotNative => &mut self.counters.too_weak,
            NegotiationError::NotAuthenticated
            | NegotiationError::NotAuthorized(_)
            | NegotiationError::Certificate(_)
            | NegotiationError::BadSignature => &mut self.counters.unauthorized,
            _ => &mut self.counters.malformed,
        };
        *counter += 1;
        self.events.push_back(Event::Refused { name, from, reason: error.into() });
    }

    /// Refuses a pending request.
    pub fn refuse(&mut self, _now: Now, request: RequestId, refusal: Refusal) {
        let Some(pending) = self.take_pending(request) else { return };
        if refusal == Refusal::Quality {
            self.counters.quality += 1;
            let name = self.names.get(&pending.terms.name).map(|served| served.name.clone());
            let (from, reason) = (pending.from, RefusalReason::Quality(pending.terms.qos));
            self.events.push_back(Event::Refused { name, from, reason });
        }
        self.memory.refused(pending.key);
        let present = self.names.get(&pending.terms.name).map(|served| &served.security);
        let demands = present.unwrap_or(&pending.security).clients.demands_identity();
        if matches!(pending.client, Client::Checked(_)) || !demands {
            self.send(pending.from, &refused(pending.remote, refusal));
        }
    }

    /// The flow of an accepted request has ended: copies of the request are
    /// refused from now on.
    pub fn released(&mut self, request: RequestId) {
        self.memory.released(request);
        self.established.remove(request);
    }

    pub(super) fn withdraw_requests(&mut self, now: Now) {
        while let Some((&request, pending)) = self.pending.first_key_value()
            && pending.until <= now.monotonic
        {
            self.refuse(now, request, Refusal::NotAvailable);
            self.events.push_back(Event::Withdrawn { request });
        }
    }
}

/// Bytes of a flow reply in front of the allocation header, over UDP.
const REPLY: usize = 43;

fn refused(requester: Eid, refusal: Refusal) -> Message<'static> {
    Message::FlowReply {
        requester,
        responder: Eid::MANAGEMENT,
        response: refusal.code(),
        allocation: &[],
    }
}
