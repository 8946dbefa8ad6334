//! The sending side: numbers, what is in flight, what the peer's window allows, and
//! when the oldest packet is repeated.

use std::{collections::VecDeque, time::Duration};

use super::{RETRANSMISSION_LIMIT, round_trip::RoundTrip};
use crate::wire::frct::Header;

/// The window before the peer has announced one, in packets.
const FIRST_WINDOW: u32 = 64;
/// A 0.23 receiver's window ends so many packets after the oldest it has not read.
/// What is said beyond that is not its window.
const LARGEST_WINDOW: u32 = 256;
/// Packets in flight, at first and at most: a peer's buffers are few.
const FIRST_LIMIT: u32 = 64;
const LARGEST_LIMIT: u32 = 128;
const LEAST_LIMIT: u32 = 2;
/// Packets of an ordered flow that leave at once, and in each millisecond after that. Their
/// receivers check no window (FRCT.md, section 5); in the 5 ms after which a 0.23 peer looks
/// again, these are as many as it has buffers for: 384.
const BURST: u32 = 64;
const PACE: Duration = Duration::from_nanos(1_000_000 / BURST as u64);
/// Packets that are written and not acknowledged, at most.
const CAPACITY: usize = 256;
/// Room is told of when so many wait.
const LOW: usize = CAPACITY / 2;
/// How long a closed window is waited for before the peer is asked, at first and at
/// most. It is asked without end: its own reader decides when it opens.
const FIRST_RENDEZVOUS: Duration = Duration::from_millis(100);
const LAST_RENDEZVOUS: Duration = Duration::from_secs(5);

/// The peer has shown no life while a packet was repeated for too long.
pub(super) struct GaveUp;

/// A packet that is to be sent now; [`Sender::payload`] is what is in it.
pub(super) enum Next {
    /// For the first time.
    First { sequence: u32, drf: bool },
    /// Again.
    Again { sequence: u32, drf: bool },
}

#[derive(Debug)]
struct InFlight {
    payload: Vec<u8>,
    sent: Duration,
    drf: bool,
    again: bool,
}

#[derive(Debug)]
pub(super) struct Sender {
    reliable: bool,
    /// The oldest number that is not acknowledged.
    oldest: u32,
    /// The next number.
    next: u32,
    /// The first number that may not be sent.
    edge: u32,
    /// Data was sent: what the peer says of it can be believed.
    begun: bool,
    /// The peer has acknowledged something: it has our run.
    confirmed: bool,
    /// From `oldest` on.
    in_flight: VecDeque<InFlight>,
    /// Written, not sent yet.
    waiting: VecDeque<Vec<u8>>,
    /// The [`payload`](Self::payload) where it is not in flight.
    sent: Vec<u8>,
    /// Which of those in flight it is.
    current: usize,
    round_trip: RoundTrip,
    timeout: Option<Duration>,
    /// There is a gap until what was sent before this number is acknowledged.
    recover: Option<u32>,
    /// The oldest is to be repeated now.
    again: bool,
    /// When all packets of an ordered flow so far would have left, one each [`PACE`].
    paced_until: Duration,
    /// Some wait, or waited, for that: it is told when the last has left.
    was_paced: bool,
    /// Packets in flight, at most.
    limit: u32,
    /// Acknowledged since the limit was last raised.
    acknowledged: u32,
    /// When the peer is asked for its window, and how long that was waited for.
    rendezvous: Option<(Duration, Duration)>,
    last_heard: Duration,
    was_full: bool,
}

impl Sender {
    pub(super) fn new(first: u32, reliable: bool, now: Duration) -> Self {
        Self {
            reliable,
            oldest: first,
            next: first,
            edge: first.wrapping_add(FIRST_WINDOW),
            begun: false,
            confirmed: false,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            sent: Vec::new(),
            current: 0,
            round_trip: RoundTrip::default(),
            timeout: None,
            recover: None,
            again: false,
            paced_until: now,
            was_paced: false,
            limit: FIRST_LIMIT,
            acknowledged: 0,
            rendezvous: None,
            last_heard: now,
            was_full: false,
        }
    }

    pub(super) fn write(&mut self, now: Duration, packet: &[u8]) -> Result<(), super::Full> {
        if !self.has_room() {
            self.was_full = true;
            return Err(super::Full);
        }
        self.waiting.push_back(packet.to_vec());
        self.look_at_window(now);
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() + self.in_flight.len() < CAPACITY
    }

    /// Returns `true` once when there is room again after there was none, or all that was
    /// paced has left.
    pub(super) fn take_room(&mut self) -> bool {
        let room = self.was_full && self.waiting.len() + self.in_flight.len() <= LOW;
        self.was_full &= !room;
        let left = self.was_paced && self.waiting.is_empty();
        self.was_paced &= !left;
        room || left
    }

    /// Returns `true` if nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Returns `true` if nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number that a bare packet carries so that it may begin a run: while
    /// nothing is in flight, and until the peer has acknowledged something. A bare
    /// packet without it, before the peer has any data, would have it drop all data.
    pub(super) fn begins_at(&self) -> Option<u32> {
        (self.is_idle() || !self.confirmed).then_some(self.oldest)
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip.smoothed()
    }

    /// Returns the payload of the packet that [`next`](Self::next) returned.
    pub(super) fn payload(&self) -> &[u8] {
        self.in_flight.get(self.current).map_or(&self.sent, |packet| &packet.payload)
    }

    /// The packet to send now.
    pub(super) fn next(&mut self, now: Duration) -> Option<Next> {
        if std::mem::take(&mut self.again)
            && let Some(oldest) = self.in_flight.front_mut()
        {
            oldest.again = true;
            let drf = oldest.drf;
            self.current = 0;
            self.timeout = Some(now + self.round_trip.timeout());
            return Some(Next::Again { sequence: self.oldest, drf });
        }
        if !self.may_send(now) {
            self.was_paced |= self.paced().is_some();
            return None;
        }
        let payload = self.waiting.pop_front()?;
        let (sequence, drf) = (self.next, self.in_flight.is_empty());
        self.next = self.next.wrapping_add(1);
        self.begun = true;
        if self.reliable {
            self.timeout.get_or_insert(now + self.round_trip.timeout());
            self.current = self.in_flight.len();
            self.in_flight.push_back(InFlight { payload, sent: now, drf, again: false });
        } else {
            self.oldest = self.next;
            self.sent = payload;
            self.paced_until = self.paced_until.max(now) + PACE;
        }
        self.look_at_window(now);
        Some(Next::First { sequence, drf })
    }

    /// On an ordered flow the peer's window says nothing of use: it shrinks with
    /// each loss, and no receiver checks it. So its packets are paced.
    fn may_send(&self, now: Duration) -> bool {
        if !self.reliable {
            return self.paced_until + PACE <= now + BURST * PACE;
        }
        // At a gap, one packet in flight at most: a 0.23 receiver crashes when more
        // follow.
        self.recover.is_none() && !self.is_closed() && self.flight() < self.limit
    }

    /// When half a burst may leave, if packets wait for that.
    fn paced(&self) -> Option<Duration> {
        let waits = !self.reliable && !self.waiting.is_empty();
        waits.then(|| self.paced_until.saturating_sub(BURST / 2 * PACE))
    }

    fn flight(&self) -> u32 {
        self.next.wrapping_sub(self.oldest)
    }

    /// Returns `true` if the peer's window is closed.
    fn is_closed(&self) -> bool {
        self.edge == self.next
    }

    fn look_at_window(&mut self, now: Duration) {
        let waits = self.reliable && self.confirmed && !self.waiting.is_empty();
        if !waits || !self.is_closed() {
            self.rendezvous = None;
        } else if self.rendezvous.is_none() {
            self.rendezvous = Some((now + FIRST_RENDEZVOUS, FIRST_RENDEZVOUS));
        }
    }

    /// Returns `true` if the peer is to be asked for its window now.
    pub(super) fn rendezvous_due(&mut self, now: Duration) -> bool {
        let Some((due, waited)) = &mut self.rendezvous else { return false };
        let is_due = *due <= now;
        if is_due {
            *waited = (2 * *waited).min(LAST_RENDEZVOUS);
            *due = now + *waited;
        }
        is_due
    }

    /// A packet of the peer's came, which acknowledges this number, if any. One that
    /// cannot be is no sign of life: the peer's end of the flow is broken.
    pub(super) fn heard(&mut self, now: Duration, acknowledgement: Option<u32>) {
        if acknowledgement.is_none_or(|number| self.is_plausible(number)) {
            self.last_heard = now;
        }
    }

    fn is_plausible(&self, acknowledgement: u32) -> bool {
        acknowledgement.wrapping_sub(self.oldest) <= self.flight()
    }

    /// The peer has all packets before `number`, if that can be.
    pub(super) fn acknowledge(&mut self, now: Duration, number: u32) {
        let count = number.wrapping_sub(self.oldest);
        if !self.reliable || count == 0 || !self.is_plausible(number) {
            return;
        }
        self.confirmed = true;
        let (mut newest, mut doubtful) = (None, self.recover.is_some());
        for packet in self.in_flight.drain(..count as usize) {
            doubtful |= packet.again;
            newest = Some(packet.sent);
        }
        // An answer to a repetition may be one to the first (Karn).
        if let Some(sent) = newest.filter(|_| !doubtful) {
            self.round_trip.measured(now.saturating_sub(sent));
        }
        self.round_trip.reset_backoff();
        self.oldest = number;
        self.timeout = (!self.in_flight.is_empty()).then(|| now + self.round_trip.timeout());
        self.again = false;
        match self.recover {
            Some(recover) if (number.wrapping_sub(recover) as i32) < 0 => {
                // The next packet is missing, too (RFC 6582, partial
                // acknowledgement).
                self.again = true;
            }
            _ => {
                self.recover = None;
                self.raise_limit(count);
            }
        }
        self.look_at_window(now);
    }

    fn raise_limit(&mut self, acknowledged: u32) {
        self.acknowledged += acknowledged;
        if self.acknowledged >= self.limit {
            self.acknowledged = 0;
            self.limit = (self.limit + 1).min(LARGEST_LIMIT);
        }
    }

    /// The peer says how far may be sent. An edge that would go back is that of a
    /// packet that was overtaken.
    pub(super) fn take_window(&mut self, header: &Header) {
        if !self.begun || !self.reliable {
            return;
        }
        let edge = header.window_near(self.edge);
        let ahead = edge.wrapping_sub(self.edge) as i32;
        let beyond = edge.wrapping_sub(self.next);
        if ahead > 0 && beyond <= LARGEST_WINDOW {
            self.edge = edge;
            self.rendezvous = None;
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        let rendezvous = self.rendezvous.map(|(due, _)| due);
        [self.timeout, rendezvous, self.paced()].into_iter().flatten().min()
    }

    /// Repeats the oldest packet if it has waited for long enough.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> Result<(), GaveUp> {
        if self.timeout.is_none_or(|due| now < due) {
            return Ok(());
        }
        let Some(oldest) = self.in_flight.front() else {
            self.timeout = None;
            return Ok(());
        };
        let waited = now.saturating_sub(oldest.sent.max(self.last_heard));
        if waited >= RETRANSMISSION_LIMIT {
            return Err(GaveUp);
        }
        if self.recover.is_none() {
            self.limit = (self.limit / 2).max(LEAST_LIMIT);
            self.acknowledged = 0;
        }
        self.recover = Some(self.next);
        self.again = true;
        self.round_trip.back_off();
        // Until it has been sent.
        self.timeout = Some(now + self.round_trip.timeout());
        Ok(())
    }
}
