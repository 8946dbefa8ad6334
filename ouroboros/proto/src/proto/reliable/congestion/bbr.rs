//! BBR version 3, after draft-ietf-ccwg-bbr: the window and the pace follow a model of
//! the path, its bandwidth and its least round trip. Not in the draft: losses count as
//! congestion only together with a queue, or where they are many
//! ([`LOSS_THRESHOLD`]), so that a link that loses at random is used whole. Where a probe
//! for more has filled a queue until it lost, less than what was in flight is kept
//! ([`QUEUED_BETA`]), so that flows with CUBIC, which give way then, find room. Startup
//! ends with the losses of a queue that is full, not a round later, and paces a window
//! to leave before the round trip is over ([`FLIGHT_GAIN`]).
//! Left out of the draft: the filter of aggregated acknowledgements.

use std::time::Duration;

use super::{Acked, Controller, Lost, rescaled};

const STARTUP_GAIN: f64 = 2.77;
/// In startup, as long as no queue stands, a window leaves so much faster than in a round
/// trip. The rate is known late, for it is measured over a round trip in which it has
/// doubled: at its pace alone the rounds run into one another, and cost one in all. More
/// would overfill a queue of a quarter of what the path holds.
const FLIGHT_GAIN: f64 = 1.7;
/// Rounds whose rates are too low: the wait for the first acknowledgement is in them.
const FIRST_ROUNDS: u32 = 3;
const DRAIN_GAIN: f64 = 0.5;
const DOWN_GAIN: f64 = 0.9;
const UP_GAIN: f64 = 1.25;
const WINDOW_GAIN: f64 = 2.0;
const UP_WINDOW_GAIN: f64 = 2.25;
/// Below the pace that the model says, so that no queue stands.
const MARGIN: f64 = 0.99;
/// Shares of what is in flight that are lost: with a queue, and without one.
const LOSS_THRESHOLD: (f64, f64) = (0.02, 0.2);
const BETA: f64 = 0.7;
/// The factor of the bytes in flight after a probe for more has overfilled a queue, ...
const QUEUED_BETA: f64 = 0.6;
/// ... but so much of what the path holds without a queue, with which losses at random
/// are made up for.
const LEAST_PRODUCT: f64 = 1.2;
/// The share of the path that is used while not probing.
const HEADROOM: f64 = 0.85;
const LEAST_PACKETS: f64 = 4.0;
const MIN_RTT_LIFE: Duration = Duration::from_secs(5);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// Time between two probes for bandwidth, in milliseconds: least, and more at random.
const PROBE_WAIT: (u64, u64) = (2_000, 1_000);
/// Rounds between two probes at most: as Reno would need to grow by one packet each.
const MAX_ROUNDS: f64 = 63.0;
/// Rounds without growth that end the startup, and a probe for more.
const FULL_ROUNDS: u32 = 3;
/// The factor from which the rate counts as growing.
const GROWTH: f64 = 1.25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    /// Probing for bandwidth: less, as much, as much without bounds, more.
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

/// BBR version 3.
#[derive(Debug)]
pub struct Bbr {
    segment: f64,
    window: f64,
    state: State,
    /// Highest delivery rate of the present cycle and of the last, in bytes per second.
    rates: [f64; 2],
    /// Bounds for the short term, of the rate and of what is in flight.
    rate_bound: Option<f64>,
    short_term: Option<f64>,
    /// The bytes that can be in flight without much loss.
    long_term: f64,
    min_rtt: Duration,
    min_rtt_at: Duration,
    /// Until when the round trip is probed, once little is in flight.
    probe_rtt_until: Option<Duration>,
    delivered: u64,
    in_flight: f64,
    /// A round ends when what was delivered since it began is acknowledged.
    round_end: u64,
    loss_round_end: u64,
    /// Bytes that were lost in the present round; what it has delivered at best.
    lost: f64,
    latest_rate: f64,
    latest_in_flight: f64,
    /// The highest rate of the present round, without regard to losses.
    round_rate: f64,
    /// The pace before there is a rate, in bytes per second: less is no startup's.
    first_pace: f64,
    full_rate: f64,
    full_rounds: u32,
    filled: bool,
    /// A queue stands on the path.
    queued: bool,
    /// Of the present cycle: its beginning, its rounds, when it probes.
    began: Duration,
    rounds: u32,
    wait: Duration,
    /// The rates of the cycle are to be put aside at the end of the round.
    advances: bool,
    /// When the probe for more began, its rounds.
    up_since: Duration,
    up_rounds: u32,
}

impl Bbr {
    /// With a window of `window` bytes at first, and segments of `segment`.
    #[must_use]
    pub fn new(window: u64, segment: u64) -> Self {
        Self {
            segment: segment as f64,
            window: window as f64,
            state: State::Startup,
            rates: [0.0; 2],
            rate_bound: None,
            short_term: None,
            long_term: f64::INFINITY,
            min_rtt: Duration::MAX,
            min_rtt_at: Duration::ZERO,
            probe_rtt_until: None,
            delivered: 0,
            in_flight: 0.0,
            round_end: 0,
            loss_round_end: 0,
            lost: 0.0,
            latest_rate: 0.0,
            latest_in_flight: 0.0,
            round_rate: 0.0,
            first_pace: 0.0,
            full_rate: 0.0,
            full_rounds: 0,
            filled: false,
            queued: false,
            began: Duration::ZERO,
            rounds: 0,
            wait: Duration::ZERO,
            advances: false,
            up_since: Duration::ZERO,
            up_rounds: 0,
        }
    }

    fn highest_rate(&self) -> f64 {
        self.rates[0].max(self.rates[1])
    }

    fn rate(&self) -> f64 {
        self.rate_bound.map_or(self.highest_rate(), |bound| bound.min(self.highest_rate()))
    }

    /// Returns the bandwidth-delay product: the bytes in flight on a path that is full and has
    /// no queue.
    fn product(&self, rate: f64) -> f64 {
        if self.min_rtt == Duration::MAX {
            return self.window;
        }
        rate * self.min_rtt.as_secs_f64()
    }

    fn pacing_gain(&self) -> f64 {
        match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => DRAIN_GAIN,
            State::Down => DOWN_GAIN,
            State::Up => UP_GAIN,
            State::Cruise | State::Refill | State::ProbeRtt => 1.0,
        }
    }

    fn is_probing(&self) -> bool {
        matches!(self.state, State::Startup | State::Refill | State::Up)
    }

    fn is_too_much(&self, lost: f64, of: f64) -> bool {
        let (queued, otherwise) = LOSS_THRESHOLD;
        lost > of * if self.queued { queued } else { otherwise }
    }

    fn go_down(&mut self, now: Duration) {
        self.state = State::Down;
        (self.began, self.rounds, self.advances) = (now, 0, true);
        // As good as random, and the same in each run of a test.
        let part = self.delivered.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.wait = Duration::from_millis(PROBE_WAIT.0 + part % PROBE_WAIT.1);
        self.round_end = self.delivered;
    }

    fn update_min_rtt(&mut self, acked: &Acked) {
        let Some(rtt) = acked.latest_rtt else { return };
        let expired = acked.now.saturating_sub(self.min_rtt_at) > MIN_RTT_LIFE;
        if rtt <= self.min_rtt || (expired && self.state == State::ProbeRtt) {
            (self.min_rtt, self.min_rtt_at) = (rtt, acked.now);
        } else if expired && self.state != State::ProbeRtt && self.filled {
            (self.state, self.probe_rtt_until) = (State::ProbeRtt, None);
        }
        self.queued =
            acked.smoothed_rtt > self.min_rtt + (self.min_rtt / 8).max(Duration::from_millis(1));
    }

    /// The path is full, and has lost much of `in_flight`.
    fn end_startup(&mut self, in_flight: f64) {
        self.filled = true;
        self.long_term = (LEAST_PRODUCT * self.product(self.highest_rate())).max(in_flight);
    }

    /// Follows losses of the round that has ended.
    fn bound(&mut self) {
        if !self.is_probing() && self.is_too_much(self.lost, self.latest_in_flight) {
            let rate = self.rate_bound.unwrap_or(self.highest_rate());
            self.rate_bound = Some(self.latest_rate.max(BETA * rate));
            let in_flight = self.short_term.unwrap_or(self.window);
            self.short_term = Some(self.latest_in_flight.max(BETA * in_flight));
        }
        if self.state == State::Startup && self.is_too_much(self.lost, self.latest_in_flight) {
            self.end_startup(self.latest_in_flight);
        }
        (self.lost, self.latest_rate, self.latest_in_flight) = (0.0, 0.0, 0.0);
    }

    fn check_full(&mut self, acked: &Acked) {
        if self.filled || acked.app_limited {
            return;
        }
        self.filled = self.has_stopped_growing();
    }

    /// At the end of a round: returns `true` if the rate has not grown for some rounds.
    fn has_stopped_growing(&mut self) -> bool {
        if self.round_rate >= self.full_rate * GROWTH {
            (self.full_rate, self.full_rounds) = (self.round_rate, 0);
        } else {
            self.full_rounds += 1;
        }
        self.full_rounds >= FULL_ROUNDS
    }

    fn advance(&mut self, acked: &Acked, round: bool) {
        let now = acked.now;
        match self.state {
            State::Startup if self.filled => self.state = State::Drain,
            State::Startup => {}
            State::Drain => {
                if self.in_flight <= self.product(self.rate()) {
                    self.go_down(now);
                }
            }
            State::Down | State::Cruise => {
                let packets = self.product(self.highest_rate()) / self.segment;
                if now.saturating_sub(self.began) > self.wait
                    || f64::from(self.rounds) >= packets.clamp(1.0, MAX_ROUNDS)
                {
                    self.state = State::Refill;
                    (self.rate_bound, self.short_term) = (None, None);
                    (self.round_end, self.up_rounds) = (self.delivered, 0);
                } else if self.state == State::Down {
                    let drained = self.product(self.highest_rate());
                    if self.in_flight <= drained.min(HEADROOM * self.long_term) {
                        self.state = State::Cruise;
                    }
                }
            }
            State::Refill => {
                if round {
                    (self.state, self.up_since) = (State::Up, now);
                    (self.full_rate, self.full_rounds) = (self.round_rate, 0);
                }
            }
            State::Up => {
                self.up_rounds += u32::from(round);
                let full = round && self.has_stopped_growing();
                let used = self.in_flight + acked.bytes as f64 + self.segment;
                if used >= 0.95 * self.long_term {
                    // Twice as fast in each round.
                    let grown = f64::from(1 << self.up_rounds.min(20)) * self.segment;
                    self.long_term += grown * acked.bytes as f64 / self.window.max(1.0);
                    // Held by the bound, the rate cannot grow.
                    (self.full_rate, self.full_rounds) = (self.round_rate, 0);
                } else if full && now.saturating_sub(self.up_since) > self.min_rtt {
                    self.go_down(now);
                }
            }
            State::ProbeRtt => match self.probe_rtt_until {
                None if self.in_flight <= self.probe_rtt_window() => {
                    self.probe_rtt_until = Some(now + PROBE_RTT.max(self.min_rtt));
                }
                Some(until) if until <= now => {
                    self.min_rtt_at = now;
                    (self.rate_bound, self.short_term) = (None, None);
                    self.go_down(now);
                    // It has left room enough.
                    self.state = State::Cruise;
                }
                _ => {}
            },
        }
    }

    fn probe_rtt_window(&self) -> f64 {
        (0.5 * self.product(self.rate())).max(LEAST_PACKETS * self.segment)
    }

    fn set_window(&mut self, acked: u64) {
        // While the rate doubles, the window is two products of it, if nothing varies.
        let grows = self.state == State::Up || (self.state == State::Startup && !self.queued);
        let gain = if grows { UP_WINDOW_GAIN } else { WINDOW_GAIN };
        let least = LEAST_PACKETS * self.segment;
        // What is on its way between the ends' batches comes on top.
        let batch = 3.0 * (self.rate() / 1000.0).clamp(2.0 * self.segment, 44.0 * self.segment);
        let target = gain * self.product(self.rate()) + batch;
        let grown = self.window + acked as f64;
        if self.filled {
            self.window = grown.min(target);
        } else if self.window < target || self.rounds < FIRST_ROUNDS {
            self.window = grown;
        }
        let bound = match self.state {
            State::Startup | State::Drain | State::Refill | State::Up => self.long_term,
            State::Down => self.long_term,
            State::Cruise | State::ProbeRtt => {
                let least = LEAST_PRODUCT * self.product(self.highest_rate());
                (HEADROOM * self.long_term).max(least).min(self.long_term)
            }
        };
        let bound = self.short_term.map_or(bound, |short| short.min(bound));
        let bound =
            if self.state == State::ProbeRtt { bound.min(self.probe_rtt_window()) } else { bound };
        self.window = self.window.min(bound).max(least);
    }
}

impl Controller for Bbr {
    fn on_acked(&mut self, acked: Acked) {
        self.delivered = acked.delivered;
        self.in_flight = acked.in_flight as f64;
        let round = acked.prior_delivered >= self.round_end;
        if round {
            self.round_end = acked.delivered;
            self.rounds += 1;
            // What was measured counts until there is something newer.
            if std::mem::take(&mut self.advances) && self.rates[0] > 0.0 {
                self.rates = [0.0, self.rates[0].max(self.latest_rate)];
            }
        }
        if let Some(rate) = acked.rate {
            self.latest_rate = self.latest_rate.max(rate);
            self.round_rate = self.round_rate.max(rate);
            if rate >= self.highest_rate() || !acked.app_limited {
                self.rates[0] = self.rates[0].max(rate);
            }
        }
        let delivered = acked.delivered.saturating_sub(acked.prior_delivered) as f64;
        self.latest_in_flight = self.latest_in_flight.max(delivered);
        self.update_min_rtt(&acked);
        if self.first_pace == 0.0 {
            let rtt = acked.smoothed_rtt.as_secs_f64().max(1e-6);
            self.first_pace = STARTUP_GAIN * self.window / rtt;
        }
        if round {
            self.check_full(&acked);
        }
        if acked.prior_delivered >= self.loss_round_end {
            self.loss_round_end = acked.delivered;
            self.bound();
        }
        self.advance(&acked, round);
        self.set_window(acked.bytes);
        if round {
            self.round_rate = 0.0;
        }
    }

    fn on_lost(&mut self, lost: Lost) {
        self.lost += lost.bytes as f64;
        let in_flight = lost.in_flight as f64;
        if self.state == State::Startup
            && self.queued
            && self.rounds >= FIRST_ROUNDS
            && self.full_rounds > 0
            && self.is_too_much(lost.since as f64, in_flight)
        {
            self.end_startup(in_flight);
        }
        if self.state == State::Up && self.is_too_much(lost.since as f64, in_flight) {
            let product = self.product(self.highest_rate());
            if !lost.app_limited {
                self.long_term = if self.queued {
                    (QUEUED_BETA * in_flight).max(LEAST_PRODUCT * product)
                } else {
                    in_flight.max(BETA * product.min(self.window))
                };
            }
            self.go_down(lost.now);
        }
    }

    fn on_congestion(&mut self, _now: Duration, marked: bool) {
        if marked && !self.is_probing() {
            // As a loss that counts.
            let in_flight = self.short_term.unwrap_or(self.window);
            self.short_term = Some(BETA.max(HEADROOM) * in_flight);
        }
    }

    fn on_spurious(&mut self) {}

    fn on_persistent(&mut self, latest_rtt: Duration) {
        self.window = LEAST_PACKETS * self.segment;
        // RFC 9002, section 5.2.
        self.min_rtt = latest_rtt;
    }

    fn set_segment(&mut self, segment: u64) {
        let untouched = self.delivered == 0;
        if untouched {
            self.window = rescaled(self.window, self.segment, segment as f64);
        }
        self.segment = segment as f64;
        self.window = self.window.max(LEAST_PACKETS * self.segment);
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn threshold(&self) -> u64 {
        self.window()
    }

    fn pacing_rate(&self) -> Option<f64> {
        let pace = MARGIN * self.pacing_gain() * self.rate();
        let least = if self.filled { self.segment } else { self.first_pace };
        let flight = if self.filled || self.queued || self.min_rtt == Duration::MAX {
            0.0
        } else {
            FLIGHT_GAIN * self.window / self.min_rtt.as_secs_f64().max(1e-6)
        };
        (pace > 0.0).then(|| pace.max(least).max(flight))
    }

    fn is_model_based(&self) -> bool {
        true
    }
}
