//! The requests seen of late, against replay: as long as one would be fresh, it
//! is here.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    ClockDifference, RequestId,
    sources::{Share, Shares, Source},
};
use crate::{
    proto::Now,
    wire::{PeerAddress, oap::Allocation},
};

/// A request may be this old, in nanoseconds (WIRE.md, "Allocation header").
const OLDEST: u64 = 20_000_000_000;
/// A request may be this far in the future, in nanoseconds.
const NEWEST: u64 = 100_000_000;

/// Bytes that may go to an address that has not been proved, for each that came
/// from there (RFC 9000, section 8).
pub(super) const AMPLIFICATION: usize = 3;

/// The key of a request: id and timestamp.
pub(super) type Key = ([u8; 16], u64);

/// Returns how far the clock of who made `request` is off, if it is too far for the request to
/// be fresh.
pub(super) fn clock_difference(now: Now, request: &Allocation<'_>) -> Option<ClockDifference> {
    let behind = now.utc.saturating_sub(request.timestamp);
    let ahead = request.timestamp.saturating_sub(now.utc);
    match (behind > OLDEST, ahead > NEWEST) {
        (true, _) => Some(ClockDifference::Behind(Duration::from_nanos(behind))),
        (_, true) => Some(ClockDifference::Ahead(Duration::from_nanos(ahead))),
        _ => None,
    }
}

/// Returns `true` if a cookie of this age shows that the request that echoes it is fresh, whatever
/// the clock of its sender says: it is remembered for longer.
pub(super) const fn shows_freshness(age: Duration) -> bool {
    age.as_nanos() <= OLDEST as u128
}

/// The state of a remembered request.
pub(super) enum Known {
    Pending,
    Accepted(Answered),
    Gone,
}

/// The reply, for copies of the request.
pub(super) struct Answered {
    /// From where a copy has to come.
    pub(super) from: PeerAddress,
    /// How long a copy is: a shorter one is none.
    pub(super) request: usize,
    /// How often it may still be sent.
    pub(super) left: u8,
    /// Bytes that may still go to the address; `None`: it is proved.
    pub(super) budget: Option<usize>,
    pub(super) reply: Vec<u8>,
}

impl Answered {
    /// Returns `true` if a message of `size` bytes from `from` is a copy of the request.
    pub(super) fn is_for(&self, from: PeerAddress, size: usize) -> bool {
        self.from == from && self.request == size
    }

    /// The reply to one more copy of the request, if that may have one.
    pub(super) fn repeat(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        if let Some(budget) = &mut self.budget {
            *budget += AMPLIFICATION * self.request;
            *budget = budget.checked_sub(self.reply.len())?;
        }
        Some(&self.reply)
    }
}

#[derive(Default)]
pub(super) struct Memory {
    known: HashMap<Key, Known>,
    /// Oldest first, with the monotonic time until which it is kept.
    order: VecDeque<(Duration, Key, Source)>,
    accepted: HashMap<RequestId, Key>,
    shares: Shares,
}

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn has_room(&self, source: Source, limit: usize, share: Share) -> bool {
        self.known.len() < limit && self.shares.has_room(source, share)
    }

    pub(super) fn known(&mut self, key: &Key) -> Option<&mut Known> {
        self.known.get_mut(key)
    }

    pub(super) fn forget(&mut self, now: Now) {
        while self.order.front().is_some_and(|(until, ..)| *until <= now.monotonic) {
            if let Some((_, key, source)) = self.order.pop_front() {
                self.known.remove(&key);
                self.shares.remove(source);
            }
        }
        if self.known.is_empty() {
            self.accepted.clear();
        }
    }

    pub(super) fn remember(&mut self, now: Now, key: Key, source: Source) {
        self.known.insert(key, Known::Pending);
        let life = Duration::from_nanos(OLDEST + NEWEST) + Duration::from_secs(1);
        self.order.push_back((now.monotonic + life, key, source));
        self.shares.add(source);
    }

    pub(super) fn accepted(&mut self, request: RequestId, key: Key, answered: Answered) {
        self.settle(key, Known::Accepted(answered));
        self.accepted.insert(request, key);
    }

    pub(super) fn refused(&mut self, key: Key) {
        self.settle(key, Known::Gone);
    }

    /// The address that the request came from is the peer's.
    pub(super) fn proved(&mut self, request: RequestId) {
        let key = self.accepted.get(&request).copied();
        if let Some(Known::Accepted(answered)) = key.and_then(|key| self.known.get_mut(&key)) {
            answered.budget = None;
        }
    }

    pub(super) fn released(&mut self, request: RequestId) {
        if let Some(key) = self.accepted.remove(&request) {
            self.settle(key, Known::Gone);
        }
    }

    /// Only what is known: there is nothing to forget a request by that is not.
    fn settle(&mut self, key: Key, known: Known) {
        if let Some(entry) = self.known.get_mut(&key) {
            *entry = known;
        }
    }
}
