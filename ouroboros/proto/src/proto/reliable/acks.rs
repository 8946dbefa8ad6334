//! Which packets came, and when that is to be said.

use std::{ops::RangeInclusive, time::Duration};

use super::ranges::RangeSet;
use crate::wire::frame::{Ack, DELAY_UNIT, Frame, MAX_ACK_RANGES, encode_ranges};

/// Packets that are acknowledged at once.
const PACKETS: u32 = 2;
/// So far below the highest a number is not acknowledged any more: it was, many times,
/// or it is lost.
const HORIZON: u64 = 4096;

#[derive(Debug, Default)]
pub(super) struct Acks {
    received: RangeSet,
    /// Numbers below are not new.
    lowest: u64,
    largest: u64,
    /// When the largest came.
    largest_at: Duration,
    ce: u32,
    /// Packets that ask for an acknowledgement since the last one.
    waiting: u32,
    due: Option<Duration>,
    /// The last acknowledgement left with something else.
    rode_along: bool,
}

impl Acks {
    /// Returns `true` if packet `number` was not there before, as far as is known.
    pub(super) fn is_new(&self, number: u64) -> bool {
        number >= self.lowest && !self.received.contains(number)
    }

    pub(super) fn insert(
        &mut self,
        now: Duration,
        number: u64,
        (eliciting, at_once, marked): (bool, bool, bool),
        delay: Duration,
    ) {
        let expected = self.received.descending().next().map_or(number, |range| range.end);
        self.received.insert(number..number + 1);
        let horizon = self.largest.max(number).saturating_sub(HORIZON);
        while let Some(first) = self.received.first()
            && (self.received.len() > MAX_ACK_RANGES + 1 || first.end <= horizon)
        {
            self.received.pop_first();
            self.lowest = first.end;
        }
        if number >= self.largest {
            (self.largest, self.largest_at) = (number, now);
        }
        self.ce = self.ce.wrapping_add(marked.into());
        if eliciting {
            self.waiting += 1;
            let at_once = at_once || marked || number != expected || self.waiting >= PACKETS;
            let due = if at_once { now } else { now + delay };
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
        }
    }

    /// The largest number that came.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// The peer has had an acknowledgement whose largest number was `largest`: the gaps below
    /// are not told again (RFC 9000, section 13.2.4). What comes late is acknowledged yet.
    pub(super) fn on_heard(&mut self, largest: u64) {
        while self.received.len() > 1
            && self.received.first().is_some_and(|first| first.end <= largest)
        {
            self.received.pop_first();
        }
    }

    /// When an acknowledgement is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Returns `true` if an acknowledgement says something new.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Returns `true` if the last acknowledgement left with something else.
    pub(super) fn rode_along(&self) -> bool {
        self.rode_along
    }

    /// Adds an acknowledgement to `bytes`; `rides`: to something else that leaves.
    pub(super) fn write(&mut self, now: Duration, rides: bool, bytes: &mut Vec<u8>) {
        let mut ranges = self.received.descending().map(inclusive);
        let Some(first) = ranges.next() else { return };
        let length = (first.end() - first.start()).min(u16::MAX.into());
        let mut rest = Vec::new();
        if length == first.end() - first.start() {
            encode_ranges(*first.start(), ranges, &mut rest);
        }
        let delay = now.saturating_sub(self.largest_at).as_micros() as u64 / DELAY_UNIT;
        let delay = u16::try_from(delay).unwrap_or(u16::MAX);
        Frame::Ack(Ack::new(self.largest as u32, delay, self.ce, length as u16, &rest))
            .encode(bytes);
        (self.waiting, self.due, self.rode_along) = (0, None, rides);
    }
}

fn inclusive(range: std::ops::Range<u64>) -> RangeInclusive<u64> {
    range.start..=range.end - 1
}
