//! Keeps the queue in front of the inbound direction short: controlled delay
//! (RFC 8289), with times for a host's own queue in place of a network's. Where
//! frames wait longer than the target for a whole interval, one sender after
//! the other is told. Not here: how it is told (`inbound`).

use std::time::{Duration, Instant};

/// Waiting that does no harm.
const TARGET: Duration = Duration::from_micros(700);
/// How long a queue may stand before its senders are told.
const INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Delay {
    /// When the waiting will have been too long for a whole interval.
    until: Option<Instant>,
    /// Set while senders are being told: when the next one is.
    next: Option<Instant>,
    count: u32,
}

impl Delay {
    /// Frames that were received at `now` had waited for `waited`: whether a
    /// sender is to be told.
    pub(super) fn should_signal(&mut self, now: Instant, waited: Duration) -> bool {
        if waited < TARGET {
            self.until = None;
            self.next = None;
            return false;
        }
        let until = *self.until.get_or_insert(now + INTERVAL);
        match self.next {
            None if now >= until => {
                // Not from the beginning again if it was not long ago.
                self.count = if now < until + 8 * INTERVAL { self.count / 2 + 1 } else { 1 };
            }
            Some(next) if now >= next => self.count = self.count.saturating_add(1),
            _ => return false,
        }
        self.next = Some(now + INTERVAL.div_f64(f64::from(self.count).sqrt()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many are told in a second of waiting for `waited`.
    fn signals(delay: &mut Delay, from: Instant, waited: Duration) -> usize {
        let moments = (0..10_000).map(|step| from + Duration::from_micros(100) * step);
        moments.filter(|now| delay.should_signal(*now, waited)).count()
    }

    #[test]
    fn a_queue_that_moves_is_left_alone_and_one_that_stands_is_told_ever_more() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        assert_eq!(signals(&mut delay, start, TARGET / 2), 0);
        let first = signals(&mut delay, start + Duration::from_secs(1), 2 * TARGET);
        let second = signals(&mut delay, start + Duration::from_secs(2), 2 * TARGET);
        assert!(first > 10 && second > first, "{first}, {second}");
        assert_eq!(signals(&mut delay, start + Duration::from_secs(3), TARGET / 2), 0);
    }

    #[test]
    fn a_short_burst_is_no_standing_queue() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        for burst in 0..20 {
            let at = start + 10 * burst * INTERVAL;
            assert!(!delay.should_signal(at, 9 * TARGET));
            assert!(!delay.should_signal(at + INTERVAL / 2, 9 * TARGET));
            assert!(!delay.should_signal(at + INTERVAL * 3 / 4, TARGET / 9));
        }
    }
}
