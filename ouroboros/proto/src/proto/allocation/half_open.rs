//! Half-open flows: the reply has left, and the peer has not proved yet that it
//! got it. A request may be sent in anybody's name; what comes back under the
//! agreed keys, or to the endpoint that only the reply told, may not.
//!
//! A half-open flow is this entry and the remembered reply, no more: it has no
//! socket, device or session, and nobody is told of it. Their number is bounded
//! by [`Limits`](super::Limits), their life too. Not here: how their frames
//! arrive (`ipcp`, `transport`).

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{
    Accepted, Allocator, Event, Limits, RequestId,
    server::AddressValidation,
    sources::{Shares, Source},
};
use crate::{
    proto::{Now, negotiation::Agreed, protection::authenticates},
    wire::{Eid, PeerAddress},
};

/// A flow whose reply has left.
pub(super) struct HalfOpen {
    from: PeerAddress,
    local: Eid,
    remote: Eid,
    validation: AddressValidation,
    accepted: Accepted,
    since: Duration,
    until: Duration,
}

impl HalfOpen {
    pub(super) fn new(
        from: PeerAddress,
        (local, remote): (Eid, Eid),
        validation: AddressValidation,
        accepted: Accepted,
    ) -> Self {
        let (since, until) = (Duration::ZERO, Duration::ZERO);
        Self { from, local, remote, validation, accepted, since, until }
    }

    /// Returns `true` if `frame` proves that the peer has got the reply. The flow's
    /// keys are tried on a copy of it: its replay window is as new afterwards.
    ///
    /// Returns `true` if `frame` proves that its sender is at the address of the reply: a
    /// sender that knows the endpoint has read the reply. That is all a plain flow can show. It
    /// does for the keepalive of a 0.23 peer that begins in silence, too, unless the flow is to
    /// be that of somebody known: a request can be replayed, its keys cannot.
    fn is_proved_by(&self, frame: &[u8]) -> bool {
        let Some(Agreed { keys, identity, .. }) = &self.accepted.agreed else { return true };
        if frame.is_empty() {
            return !keys.is_native() && identity.is_none();
        }
        let errors = self.accepted.qos.checks_errors();
        authenticates(keys, (self.local, self.remote), errors, frame)
    }
}

/// The half-open flows of an IPCP.
#[derive(Default)]
pub(super) struct HalfOpenFlows {
    flows: HashMap<RequestId, HalfOpen>,
    by_endpoint: HashMap<Eid, RequestId>,
    deadlines: BTreeSet<(Duration, RequestId)>,
    /// Those of peers that know no cookies, oldest first.
    without_cookies: BTreeSet<RequestId>,
}

impl HalfOpenFlows {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Those that are counted with pending requests.
    pub(super) fn len_with_cookies(&self) -> usize {
        self.flows.len() - self.without_cookies.len()
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn insert(&mut self, request: RequestId, flow: HalfOpen) {
        self.by_endpoint.insert(flow.local, request);
        self.deadlines.insert((flow.until, request));
        if flow.validation == AddressValidation::Legacy {
            self.without_cookies.insert(request);
        }
        self.flows.insert(request, flow);
    }

    fn remove(&mut self, request: RequestId) -> Option<HalfOpen> {
        let flow = self.flows.remove(&request)?;
        self.by_endpoint.remove(&flow.local);
        self.deadlines.remove(&(flow.until, request));
        self.without_cookies.remove(&request);
        Some(flow)
    }
}

/// Flows that peers asked for and have confirmed, until they end.
#[derive(Default)]
pub(super) struct Established {
    flows: HashMap<RequestId, Source>,
    shares: Shares,
}

impl Established {
    /// Returns `true` if `source` may have one more. Nothing is counted with it that it has not
    /// proved.
    pub(super) fn has_room(&self, source: Source, limits: &Limits) -> bool {
        self.flows.len() < limits.established
            && self.shares.has_room(source.validated(), limits.established_of)
    }

    fn insert(&mut self, request: RequestId, source: Source) {
        self.shares.add(source);
        self.flows.insert(request, source);
    }

    pub(super) fn remove(&mut self, request: RequestId) {
        if let Some(source) = self.flows.remove(&request) {
            self.shares.remove(source);
        }
    }
}

impl Allocator {
    pub(super) fn hold_half_open(&mut self, now: Now, request: RequestId, mut flow: HalfOpen) {
        let life = match flow.validation {
            AddressValidation::Legacy => self.limits.half_open_for_silent,
            // A link has no cookies, but 0.23 peers.
            _ if !flow.accepted.agreed.as_ref().is_some_and(|agreed| agreed.keys.is_native()) => {
                self.limits.half_open_for_silent
            }
            _ => self.limits.half_open_for,
        };
        flow.since = now.monotonic;
        flow.until = now.monotonic.saturating_add(life);
        if flow.validation == AddressValidation::Legacy {
            while self.half_open.without_cookies.len() >= self.limits.half_open_without_cookies {
                let Some(&oldest) = self.half_open.without_cookies.first() else { break };
                self.expire(oldest);
            }
        } else {
            self.occupy(flow.from, flow.validation);
        }
        self.half_open.insert(request, flow);
    }

    /// Takes a frame for endpoint `local` from `from`, without the endpoint id:
    /// the proof that a half-open flow waits for, or nothing. Returns `true` if
    /// the flow is confirmed by it.
    pub fn handle_frame(&mut self, now: Now, from: PeerAddress, local: Eid, frame: &[u8]) -> bool {
        let Some(&request) = self.half_open.by_endpoint.get(&local) else { return false };
        let Some(flow) = self.half_open.flows.get(&request) else { return false };
        if flow.from != from || now.monotonic >= flow.until || !flow.is_proved_by(frame) {
            return false;
        }
        let rtt = now.monotonic.saturating_sub(flow.since);
        let Some(accepted) = self.confirm(request) else { return false };
        let accepted = Accepted { rtt: Some(rtt), ..accepted };
        self.events.push_back(Event::Confirmed { request, accepted, frame: frame.to_vec() });
        true
    }

    /// Takes the half-open flow of `request` for confirmed. For drivers that
    /// have proof of the peer by other means than a frame.
    pub fn confirm(&mut self, request: RequestId) -> Option<Accepted> {
        let HalfOpen { from, validation, accepted, .. } = self.remove_half_open(request)?;
        let source = Source::of(from, true);
        if !self.established.has_room(source, &self.limits) {
            // Others of that source were confirmed meanwhile.
            self.counters.over_limit += 1;
            self.memory.released(request);
            self.events.push_back(Event::Expired { request });
            return None;
        }
        if validation != AddressValidation::Validated {
            self.memory.proved(request);
        }
        self.established.insert(request, source);
        Some(accepted)
    }

    fn remove_half_open(&mut self, request: RequestId) -> Option<HalfOpen> {
        let flow = self.half_open.remove(request)?;
        if flow.validation != AddressValidation::Legacy {
            self.vacate(flow.from, flow.validation);
        }
        Some(flow)
    }

    fn expire(&mut self, request: RequestId) {
        if self.remove_half_open(request).is_some() {
            self.counters.expired += 1;
            self.memory.released(request);
            self.events.push_back(Event::Expired { request });
        }
    }

    pub(super) fn expire_half_open(&mut self, now: Now) {
        while let Some(&(until, request)) = self.half_open.deadlines.first()
            && until <= now.monotonic
        {
            self.expire(request);
        }
    }
}
