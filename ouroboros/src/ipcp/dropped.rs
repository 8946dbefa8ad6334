//! Log lines about management messages that were dropped: one line in a while, however many
//! there are. Time is an argument.

use std::time::Duration;

use crate::proto::allocation::Counters;

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// The counts that were logged already.
#[derive(Default)]
pub(super) struct Dropped {
    told: [u64; 12],
    quiet_until: Duration,
}

/// Faults of a peer, and what it does too often. Not copies and names that others on the
/// segment serve: they are part of every day.
fn causes(counters: Counters) -> [(u64, &'static str); 12] {
    [
        (counters.malformed, "malformed"),
        (counters.unsupported, "with unsupported algorithms"),
        (counters.too_weak, "weaker than demanded"),
        (counters.quality, "with unsupported quality of service"),
        (counters.not_fresh, "stale or replayed"),
        (counters.clocks, "from peers whose clocks differ"),
        (counters.over_limit, "beyond a limit"),
        (counters.cookies, "asked for a cookie"),
        (counters.unauthorized, "from unauthorized peers"),
        (counters.unexpected, "replies to nothing"),
        (counters.bad_replies, "replies to something else"),
        (counters.unanswered, "left unanswered"),
    ]
}

impl Dropped {
    /// Returns what was dropped since the last line, if it is time for another one.
    pub(super) fn report(&mut self, now: Duration, counters: Counters) -> Option<String> {
        if now < self.quiet_until || self.due(counters).is_none() {
            return None;
        }
        let causes = causes(counters);
        let new = causes.iter().zip(self.told).filter(|((count, _), told)| count > told);
        let parts: Vec<_> =
            new.map(|((count, cause), told)| format!("{} {cause}", count - told)).collect();
        self.told = causes.map(|(count, _)| count);
        self.quiet_until = now + INTERVAL;
        Some(parts.join(", "))
    }

    /// When there will be something to say; `None` if nothing was dropped.
    pub(super) fn due(&self, counters: Counters) -> Option<Duration> {
        (causes(counters).map(|(count, _)| count) != self.told).then_some(self.quiet_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_together_later() {
        let mut dropped = Dropped::default();
        let mut counters = Counters::default();
        assert_eq!(dropped.due(counters), None);
        assert_eq!(dropped.report(seconds(5), counters), None);
        counters.malformed = 1;
        assert_eq!(dropped.report(seconds(5), counters).as_deref(), Some("1 malformed"));
        for now in 5..15 {
            counters.malformed += 1000;
            counters.over_limit += 1;
            assert_eq!(dropped.report(seconds(now), counters), None);
            assert_eq!(dropped.due(counters), Some(seconds(15)));
        }
        let told = dropped.report(seconds(15), counters);
        assert_eq!(told.as_deref(), Some("10000 malformed, 10 beyond a limit"));
        assert_eq!(dropped.due(counters), None);
        assert_eq!(dropped.report(seconds(99), counters), None);
    }

    #[test]
    fn what_is_part_of_every_day_is_not_told() {
        let mut counters = Counters::default();
        (counters.unknown_name, counters.repeated) = (7, 7);
        assert_eq!(Dropped::default().report(seconds(1), counters), None);
    }
}
