//! Handling of acknowledgements: round trips, losses, and what they mean for the window.

use std::time::Duration;

use super::{Acked, Fate, GRANULARITY, Lost, MAX_PACKET_THRESHOLD, Outcome, Recovery, Reduction};
use crate::wire::{
    frame::{Ack, DELAY_UNIT},
    management::Malformed,
};

impl Recovery {
    pub(in super::super) fn on_ack(
        &mut self,
        now: Duration,
        ack: &Ack<'_>,
    ) -> Result<Outcome, Malformed> {
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
                outcome.push_acked(std::mem::take(&mut sent.payload));
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

    pub(super) fn loss_delay(&self) -> Duration {
        (self.latest.max(self.smoothed) * 9 / 8).max(GRANULARITY) + self.reordering
    }

    pub(super) fn detect(&mut self, now: Duration, outcome: &mut Outcome) {
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
            self.controller.on_persistent(self.latest);
            self.recovery = None;
            // RFC 9002, section 5.2: the path may be another.
            self.minimum = self.latest;
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
    pub(super) fn forget(&mut self, now: Duration) {
        let late = 2 * self.smoothed + self.reordering + self.max_ack_delay;
        while self.sent.front().is_some_and(|sent| match sent.fate {
            Fate::Outstanding => false,
            Fate::Acked => true,
            Fate::Lost => sent.at + self.loss_delay() + late < now,
        }) {
            self.sent.pop_front();
        }
    }
}
