//! Loss detection (RFC 9002) with thresholds that adapt to reordering, the
//! probe timeout, proportional rate reduction (RFC 6937) and pacing.

mod detection;

use std::{collections::VecDeque, ops::Range, time::Duration};

use super::congestion::{Acked, Controller, Lost, initial_burst};

const GRANULARITY: Duration = Duration::from_millis(1);
const PACKET_THRESHOLD: u64 = 3;
const MAX_PACKET_THRESHOLD: u64 = 1024;
const MAX_BACKOFF: u32 = 10;
/// Probe timeouts without any answer after which a path is taken for one that drops
/// packets with ECT (RFC 9000, section 13.4.2): where nothing came through yet, where
/// something has.
const ECT_PATIENCE: (u32, u32) = (7, 31);
/// Longest probe timeout.
const MAX_PTO: Duration = Duration::from_secs(2);
/// A round trip below which nothing is paced.
const UNPACED: Duration = Duration::from_micros(300);
/// Most that leaves at once, in packets: one segmented send.
pub(super) const MAX_BURST: u64 = 44;
/// What is paced leaves by so much faster than a window in a round trip, so that the
/// window is used (RFC 9002, section 7.7); the initial window, which is to double.
const PACING_GAIN: f64 = 1.25;
const INITIAL_PACING_GAIN: f64 = 2.0;
/// Least and most that leaves at once, in packets.
const QUANTUM: (u64, u64) = (2, MAX_BURST);

/// The part of a packet that has to arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) data: Range<u64>,
    pub(super) fin: bool,
    pub(super) abort: bool,
    pub(super) stop: bool,
    pub(super) last: bool,
    pub(super) close: bool,
    /// The largest number that it acknowledges. This need not arrive.
    pub(super) ack: Option<u64>,
}

impl Payload {
    fn is_only_data(&self) -> bool {
        !(self.fin || self.abort || self.stop || self.last || self.close)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Outstanding,
    Acked,
    Lost,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Duration,
    size: u64,
    limited: bool,
    /// The counts when it left: bytes delivered and when the last of them was, when the run of
    /// packets began that it is of, bytes in flight and lost.
    delivered: u64,
    delivered_at: Duration,
    first_sent: Duration,
    in_flight: u64,
    lost: u64,
    app_limited: bool,
    fate: Fate,
    payload: Payload,
}

/// The fate of packets.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) acked: Vec<Payload>,
    pub(super) lost: Vec<Payload>,
}

impl Outcome {
    /// Adds what was acknowledged; data of packets that follow one another as one.
    fn push_acked(&mut self, payload: Payload) {
        match self.acked.last_mut() {
            Some(last)
                if last.data.end == payload.data.start
                    && last.is_only_data()
                    && payload.is_only_data() =>
            {
                last.data.end = payload.data.end;
                last.ack = last.ack.max(payload.ack);
            }
            _ => self.acked.push(payload),
        }
    }
}

#[derive(Debug)]
pub(super) struct Recovery {
    sent: VecDeque<Sent>,
    /// Highest number sent, whatever it carried.
    highest: Option<u64>,
    largest_acked: Option<u64>,
    in_flight: u64,
    controller: Box<dyn Controller>,
    segment: u64,
    latest: Duration,
    smoothed: Duration,
    /// The round trip was measured.
    measured: bool,
    variation: Duration,
    minimum: Duration,
    max_ack_delay: Duration,
    /// How far and how long a packet may be late before it counts as lost.
    packet_threshold: u64,
    reordering: Duration,
    backoff: u32,
    /// Since when packets have left and none was acknowledged.
    unanswered: Option<Duration>,
    probes: u32,
    last_sent: Duration,
    ce: u32,
    /// Packets leave as ECN-capable.
    ect: bool,
    /// Since when the window is reduced.
    recovery: Option<Reduction>,
    /// Losses of the present reduction that were not proved spurious.
    doubtful: u64,
    /// The first number of the present round.
    round: u64,
    delivered: u64,
    delivered_at: Duration,
    first_sent: Duration,
    lost_bytes: u64,
    /// The application had no more to send until so much is delivered.
    app_limited: u64,
    tokens: f64,
    refilled: Duration,
    pub(super) lost_packets: u64,
    pub(super) spurious: u64,
    /// How often the window was reduced.
    pub(super) congestion_events: u64,
}

#[derive(Debug)]
struct Reduction {
    since: Duration,
    /// For a mark, and not for a loss.
    marked: bool,
    active: bool,
    in_flight: u64,
    delivered: u64,
    out: u64,
}

impl Recovery {
    pub(super) fn new(
        controller: Box<dyn Controller>,
        segment: u64,
        rtt: Duration,
        max_ack_delay: Duration,
    ) -> Self {
        Self {
            sent: VecDeque::new(),
            highest: None,
            largest_acked: None,
            in_flight: 0,
            controller,
            segment,
            latest: rtt,
            smoothed: rtt,
            measured: false,
            variation: rtt / 2,
            minimum: rtt,
            max_ack_delay,
            packet_threshold: PACKET_THRESHOLD,
            reordering: Duration::ZERO,
            backoff: 0,
            unanswered: None,
            probes: 0,
            last_sent: Duration::ZERO,
            ce: 0,
            ect: true,
            recovery: None,
            doubtful: 0,
            round: 0,
            delivered: 0,
            delivered_at: Duration::ZERO,
            first_sent: Duration::ZERO,
            lost_bytes: 0,
            app_limited: 0,
            tokens: initial_burst(segment) as f64,
            refilled: Duration::ZERO,
            lost_packets: 0,
            spurious: 0,
            congestion_events: 0,
        }
    }

    pub(super) fn round_trip(&self) -> (Duration, Duration) {
        (self.smoothed, self.minimum)
    }

    pub(super) fn set_segment(&mut self, segment: u64) {
        self.segment = segment;
        self.controller.set_segment(segment);
    }

    /// Gives back memory that no packet needs.
    pub(super) fn shrink(&mut self) {
        self.sent.shrink_to_fit();
    }

    pub(super) fn set_controller(&mut self, controller: Box<dyn Controller>) {
        self.controller = controller;
        self.recovery = None;
    }

    /// The highest number that was sent.
    pub(super) fn highest(&self) -> Option<u64> {
        self.highest
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) fn window(&self) -> u64 {
        self.controller.window()
    }

    /// Returns `true` if packets are to leave as ECN-capable.
    pub(super) fn ect(&self) -> bool {
        self.ect
    }

    /// The peer says that it has room: what it dropped for want of it can be sent again.
    pub(super) fn on_room(&mut self) {
        self.backoff = 0;
    }

    /// Packets that the peer got marked with congestion experienced.
    pub(super) fn marked(&self) -> u32 {
        self.ce
    }

    /// Packets that are kept account of.
    pub(super) fn held(&self) -> usize {
        self.sent.len()
    }

    /// The probe timeout without backoff.
    fn base_timeout(&self) -> Duration {
        self.smoothed + (4 * self.variation).max(GRANULARITY) + self.max_ack_delay
    }

    /// Returns how long to wait for an acknowledgement before asking.
    pub(super) fn probe_timeout(&self) -> Duration {
        let wait = self.base_timeout();
        (wait * (1 << self.backoff.min(MAX_BACKOFF))).min(MAX_PTO.max(2 * wait))
    }

    /// Returns `true` if a packet of `size` bytes may be in flight beside the
    /// others.
    fn window_allows(&self, size: u64) -> bool {
        // With nothing in flight nothing would ever open the window.
        if self.probes > 0 || self.in_flight == 0 {
            return true;
        }
        match &self.recovery {
            Some(reduction) if reduction.active && !self.controller.is_model_based() => {
                let threshold = self.controller.threshold();
                let allowed = if self.in_flight > threshold {
                    (reduction.delivered * threshold).div_ceil(reduction.in_flight.max(1))
                } else {
                    let room = threshold - self.in_flight;
                    return room >= size && reduction.out < reduction.delivered + 2 * self.segment;
                };
                allowed >= reduction.out + size
            }
            _ => self.in_flight + size <= self.controller.window(),
        }
    }

    /// Returns the pacing rate, in bytes a second.
    pub(super) fn rate(&self) -> f64 {
        self.controller.pacing_rate().unwrap_or_else(|| {
            let gain = if self.measured { PACING_GAIN } else { INITIAL_PACING_GAIN };
            gain * self.controller.window() as f64 / self.smoothed.as_secs_f64().max(1e-6)
        })
    }

    fn quantum(&self) -> f64 {
        let millisecond = (self.rate() / 1000.0) as u64;
        millisecond.clamp(QUANTUM.0 * self.segment, QUANTUM.1 * self.segment) as f64
    }

    /// Returns `true` if what the window lets leave now, of `unsent` bytes, is so little that
    /// it had better wait for the next acknowledgement: what leaves at once is one segmented
    /// send, and is received and acknowledged as one. Most of the window is in flight then.
    pub(super) fn defers(&self, unsent: u64) -> bool {
        let window = self.controller.window();
        let reduces = self.recovery.as_ref().is_some_and(|reduction| reduction.active);
        let wanted = unsent.min(self.quantum() as u64).min(window / 4);
        !reduces && self.probes == 0 && window.saturating_sub(self.in_flight) < wanted
    }

    /// `Ok` if a packet of `size` bytes may leave; else when the pacer lets it,
    /// if that is what it waits for.
    pub(super) fn may_send(&mut self, now: Duration, size: u64) -> Result<(), Option<Duration>> {
        if !self.window_allows(size) {
            return Err(None);
        }
        if self.smoothed < UNPACED || self.probes > 0 {
            return Ok(());
        }
        let elapsed = now.saturating_sub(self.refilled).as_secs_f64();
        self.refilled = now;
        let most = if self.measured { 0.0 } else { initial_burst(self.segment) as f64 };
        self.tokens = (self.tokens + elapsed * self.rate()).min(self.quantum().max(most));
        if self.tokens >= 0.0 {
            return Ok(());
        }
        // Half a quantum at least, so that what leaves can be segmented.
        let wait = (self.quantum() / 2.0 - self.tokens) / self.rate();
        Err(Some(now + Duration::from_secs_f64(wait.min(1.0)) + Duration::from_nanos(1)))
    }

    /// A packet that asks for an acknowledgement is about to leave.
    pub(super) fn on_leaving(&mut self, size: u64) {
        self.in_flight += size;
        self.tokens -= size as f64;
        self.probes = self.probes.saturating_sub(1);
        if let Some(reduction) = &mut self.recovery {
            reduction.out += size;
        }
    }

    /// It has not left after all.
    pub(super) fn on_unsent(&mut self, size: u64) {
        self.in_flight = self.in_flight.saturating_sub(size);
    }

    pub(super) fn on_sent(&mut self, now: Duration, number: u64, sent: Option<(u64, Payload)>) {
        self.highest = Some(number);
        if let Some((size, payload)) = sent {
            self.last_sent = now;
            let silent = now.saturating_sub(*self.unanswered.get_or_insert(now));
            let (at_first, later) = ECT_PATIENCE;
            let patience = if self.largest_acked.is_some() { later } else { at_first };
            self.ect &= silent < patience * self.base_timeout();
            let limited = 2 * (self.in_flight + QUANTUM.0 * self.segment) >= self.window();
            if self.in_flight <= size {
                (self.first_sent, self.delivered_at) = (now, now);
            }
            self.sent.push_back(Sent {
                number,
                at: now,
                size,
                limited,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                first_sent: self.first_sent,
                in_flight: self.in_flight,
                lost: self.lost_bytes,
                app_limited: self.app_limited > 0,
                fate: Fate::Outstanding,
                payload,
            });
        }
    }

    /// There is nothing more to send, though there would be room.
    pub(super) fn on_nothing_to_send(&mut self) {
        if self.in_flight + self.segment <= self.controller.window() {
            self.mark_app_limited();
        }
    }

    /// Marks packets as limited by the application: what leaves until all that is in flight has
    /// arrived does not measure the path's rate.
    fn mark_app_limited(&mut self) {
        self.app_limited = (self.delivered + self.in_flight).max(1);
    }

    /// When something is due: a loss that time tells, or a probe.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        if self.in_flight == 0 {
            return None;
        }
        let largest = self.largest_acked.unwrap_or(0);
        let oldest = self.sent.iter().find(|sent| sent.fate == Fate::Outstanding)?;
        if oldest.number < largest {
            return Some(oldest.at + self.loss_delay());
        }
        Some(self.last_sent + self.probe_timeout())
    }

    /// Does what is due; what is to be sent again with a probe counts as lost
    /// in `Outcome`, though it is not.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        if self.poll_timeout().is_none_or(|due| due > now) {
            return outcome;
        }
        self.detect(now, &mut outcome);
        if outcome.lost.is_empty() {
            self.backoff += 1;
            self.probes = 2;
            // Until something arrives the wait is measured, and not the path.
            self.mark_app_limited();
            self.last_sent = now;
            // What the reader waits for, which may have been sent again long after the
            // rest, and what has been under way for longest.
            let outstanding = || self.sent.iter().filter(|sent| sent.fate == Fate::Outstanding);
            let first = outstanding()
                .filter(|sent| !sent.payload.data.is_empty())
                .min_by_key(|sent| sent.payload.data.start);
            let probed = first.into_iter().chain(outstanding().take(2)).take(2);
            outcome.lost.extend(probed.map(|sent| sent.payload.clone()));
        }
        self.forget(now);
        outcome
    }

    /// Packets that may leave whatever the window says.
    pub(super) fn probes(&self) -> u32 {
        self.probes
    }
}
