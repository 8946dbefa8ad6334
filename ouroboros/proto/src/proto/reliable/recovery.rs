//! Loss detection (RFC 9002) with thresholds that adapt to reordering, the
//! probe timeout, proportional rate reduction (RFC 6937) and pacing.

use std::{collections::VecDeque, ops::Range, time::Duration};

use super::congestion::{Acked, Controller, Lost};
use crate::wire::{
    frame::{Ack, DELAY_UNIT},
    management::Malformed,
};

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
/// Least and most that leaves at once, in packets.
const QUANTUM: (u64, u64) = (2, 44);

/// What a packet carried that has to arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) data: Range<u64>,
    pub(super) fin: bool,
    pub(super) abort: bool,
    pub(super) stop: bool,
    pub(super) last: bool,
    pub(super) close: bool,
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
    /// What there was to be said when it left: bytes delivered and when the last of them
    /// was, when the run of packets began that it is of, bytes in flight and lost.
    delivered: u64,
    delivered_at: Duration,
    first_sent: Duration,
    in_flight: u64,
    lost: u64,
    app_limited: bool,
    fate: Fate,
    payload: Payload,
}

/// What became of packets.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) acked: Vec<Payload>,
    pub(super) lost: Vec<Payload>,
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
            tokens: 0.0,
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

    pub(super) fn set_controller(&mut self, controller: Box<dyn Controller>) {
        self.controller = controller;
        self.recovery = None;
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

    /// How long to wait for an acknowledgement before asking.
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

    /// What leaves in a second at most, in bytes.
    pub(super) fn rate(&self) -> f64 {
        self.controller.pacing_rate().unwrap_or_else(|| {
            1.25 * self.controller.window() as f64 / self.smoothed.as_secs_f64().max(1e-6)
        })
    }

    fn quantum(&self) -> f64 {
        let millisecond = (self.rate() / 1000.0) as u64;
        millisecond.clamp(QUANTUM.0 * self.segment, QUANTUM.1 * self.segment) as f64
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
        self.tokens = (self.tokens + elapsed * self.rate()).min(self.quantum());
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
            self.app_limited = (self.delivered + self.in_flight).max(1);
        }
    }

    pub(super) fn on_ack(&mut self, now: Duration, ack: &Ack<'_>) -> Result<Outcome, Malformed> {
        let mut outcome = Outcome::default();
        let highest = self.highest.ok_or(Malformed)?;
        let ranges = ack.ranges(highest)?;
        let mut largest = None;
        let (mut bytes, mut limited, mut spurious) = (0, false, false);
        let mut newest_sent = (0, Duration::ZERO, Duration::ZERO, false);
        for range in ranges {
            if *range.end() > highest {
                return Err(Malformed);
            }
            let first = self.sent.partition_point(|sent| sent.number < *range.start());
            for sent in self.sent.range_mut(first..) {
                if sent.number > *range.end() {
                    break;
                }
                match sent.fate {
                    Fate::Acked => continue,
                    Fate::Outstanding => {
                        self.in_flight = self.in_flight.saturating_sub(sent.size);
                        bytes += sent.size;
                        limited |= sent.limited;
                    }
                    Fate::Lost => {
                        spurious = true;
                        self.spurious += 1;
                        self.doubtful = self.doubtful.saturating_sub(1);
                        let late = ack.largest_from(highest).saturating_sub(sent.number) + 1;
                        self.packet_threshold =
                            self.packet_threshold.max(late.min(MAX_PACKET_THRESHOLD));
                    }
                }
                sent.fate = Fate::Acked;
                if largest.is_none_or(|(number, _)| number < sent.number) {
                    largest = Some((sent.number, sent.at));
                    self.first_sent = sent.at;
                    newest_sent = (
                        sent.delivered,
                        sent.delivered_at,
                        sent.at.saturating_sub(sent.first_sent),
                        sent.app_limited,
                    );
                }
                outcome.acked.push(std::mem::take(&mut sent.payload));
            }
        }
        let Some((number, at)) = largest else { return Ok(outcome) };
        let newest = self.largest_acked.is_none_or(|before| before < number);
        self.largest_acked = self.largest_acked.max(Some(number));
        if newest {
            self.sample(
                now.saturating_sub(at),
                Duration::from_micros(u64::from(ack.delay) * DELAY_UNIT),
            );
        }
        (self.backoff, self.unanswered, self.probes) = (0, None, 0);
        if spurious {
            let step = (self.minimum / 4).max(GRANULARITY / 4);
            self.reordering = (self.reordering + step).min(self.smoothed);
            let unfounded = self.recovery.take_if(|r| self.doubtful == 0 && !r.marked);
            if unfounded.is_some() {
                self.controller.on_spurious();
            }
        }
        if let Some(reduction) = &mut self.recovery {
            reduction.delivered += bytes;
            reduction.active &= at <= reduction.since;
        }
        let reduced = self.recovery.as_ref().is_some_and(|reduction| at <= reduction.since);
        let round = number >= self.round;
        if round {
            self.round = highest + 1;
        }
        self.delivered += bytes;
        if bytes > 0 {
            self.delivered_at = now;
        }
        if self.delivered > self.app_limited {
            self.app_limited = 0;
        }
        let (prior_delivered, prior_at, send_time, app_limited) = newest_sent;
        let interval = send_time.max(now.saturating_sub(prior_at));
        let rate = (bytes > 0 && interval >= self.minimum && !interval.is_zero())
            .then(|| (self.delivered - prior_delivered) as f64 / interval.as_secs_f64());
        if !reduced || self.controller.is_model_based() {
            let (latest_rtt, smoothed_rtt) = (newest.then_some(self.latest), self.smoothed);
            self.controller.on_acked(Acked {
                now,
                bytes,
                latest_rtt,
                smoothed_rtt,
                round,
                limited,
                delivered: self.delivered,
                prior_delivered,
                rate,
                app_limited,
                in_flight: self.in_flight,
            });
        }
        if newest && ack.ce.wrapping_sub(self.ce).cast_signed() > 0 {
            self.ce = ack.ce;
            self.reduce(now, at, true);
        }
        self.detect(now, &mut outcome);
        self.forget(now);
        Ok(outcome)
    }

    fn sample(&mut self, latest: Duration, delay: Duration) {
        let first = !std::mem::replace(&mut self.measured, true);
        self.latest = latest;
        if first {
            // RFC 9002, section 5.3: what was there before was a guess.
            (self.smoothed, self.variation) = (latest, latest / 2);
        }
        self.minimum = if first { latest } else { self.minimum.min(latest) };
        let delay = delay.min(self.max_ack_delay);
        let adjusted = if latest >= self.minimum + delay { latest - delay } else { latest };
        self.variation = (3 * self.variation + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (7 * self.smoothed + adjusted) / 8;
    }

    fn loss_delay(&self) -> Duration {
        (self.latest.max(self.smoothed) * 9 / 8).max(GRANULARITY) + self.reordering
    }

    fn detect(&mut self, now: Duration, outcome: &mut Outcome) {
        let Some(largest) = self.largest_acked else { return };
        let (delay, threshold) = (self.loss_delay(), self.packet_threshold);
        let mut newest: Option<Duration> = None;
        let mut run: Option<Duration> = None;
        let mut span = Duration::ZERO;
        let mut lost = 0;
        for sent in self.sent.iter_mut().take_while(|sent| sent.number < largest) {
            match sent.fate {
                Fate::Acked => run = None,
                Fate::Lost => {}
                Fate::Outstanding => {
                    if largest - sent.number < threshold && sent.at + delay > now {
                        continue;
                    }
                    sent.fate = Fate::Lost;
                    self.in_flight = self.in_flight.saturating_sub(sent.size);
                    lost += 1;
                    self.lost_bytes += sent.size;
                    self.controller.on_lost(Lost {
                        now,
                        bytes: sent.size,
                        in_flight: sent.in_flight,
                        since: self.lost_bytes - sent.lost,
                        app_limited: sent.app_limited,
                    });
                    outcome.lost.push(sent.payload.clone());
                    span = span.max(sent.at.saturating_sub(*run.get_or_insert(sent.at)));
                    newest = newest.max(Some(sent.at));
                }
            }
        }
        self.lost_packets += lost;
        let Some(newest) = newest else { return };
        self.reduce(now, newest, false);
        self.doubtful += lost;
        if span > 3 * self.base_timeout() {
            self.controller.on_persistent();
            self.recovery = None;
        }
    }

    /// Reduces the window for a packet that was sent at `at` and lost or marked, once in
    /// a round.
    fn reduce(&mut self, now: Duration, at: Duration, marked: bool) {
        if self.recovery.as_ref().is_some_and(|reduction| at <= reduction.since) {
            return;
        }
        self.controller.on_congestion(now, marked);
        self.congestion_events += 1;
        self.doubtful = 0;
        let in_flight = self.in_flight + self.segment;
        let since = self.last_sent.max(at);
        let (active, delivered, out) = (true, 0, 0);
        self.recovery = Some(Reduction { since, marked, active, in_flight, delivered, out });
    }

    /// Lets go of packets whose fate is settled; lost ones are kept for a
    /// while, for they may only be late.
    fn forget(&mut self, now: Duration) {
        let late = 2 * self.smoothed + self.reordering + self.max_ack_delay;
        while self.sent.front().is_some_and(|sent| match sent.fate {
            Fate::Outstanding => false,
            Fate::Acked => true,
            Fate::Lost => sent.at + self.loss_delay() + late < now,
        }) {
            self.sent.pop_front();
        }
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
