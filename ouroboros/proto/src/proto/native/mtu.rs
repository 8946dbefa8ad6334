//! How large a frame the path carries, found out with padded probes (RFC 8899):
//! for networks that drop what is too large and say nothing. A part of the
//! session; what a network does say is the path's business.

use std::time::Duration;

/// Every path carries frames of this size, in bytes: IPv6 with its least MTU of
/// 1280 leaves 1228 after the IPv6, UDP and endpoint headers.
pub(super) const BASE_PLPMTU: usize = 1200;
/// A probe is given up after as many; one of a size that has arrived before,
/// after more: what is lost may be lost to a crowd.
const TRIES: u32 = 3;
const TRIES_AGAIN: u32 = 6;
const INTERVAL: Duration = Duration::from_millis(250);
/// Interval after which a found size is probed again: a path may change without a word.
const CHECK: Duration = Duration::from_secs(30);
/// More is tried again after this (RFC 8899, section 5.1.1), and sooner where
/// more has arrived before.
const RAISE: Duration = Duration::from_secs(600);
const RAISE_AGAIN: Duration = Duration::from_secs(30);
/// The search ends where less than this is left to win, in bytes.
const CLOSE_ENOUGH: usize = 16;

struct Probe {
    size: usize,
    tries: u32,
    next: Duration,
}

/// The search of one flow.
pub(super) struct Search {
    /// The size that the path itself reports.
    ceiling: usize,
    /// Known to arrive, or believed until a probe says otherwise.
    carried: usize,
    /// Known not to arrive, if less than the ceiling.
    lost: usize,
    /// The largest that has ever arrived.
    proved: usize,
    probe: Option<Probe>,
    /// When there is something to probe next.
    next: Duration,
}

impl Search {
    /// A search that begins at `now`, on a path that says that it carries
    /// `ceiling` bytes. It is believed until a probe tells otherwise.
    pub(super) fn new(now: Duration, ceiling: usize) -> Self {
        Self { ceiling, carried: ceiling, lost: ceiling + 1, proved: 0, probe: None, next: now }
    }

    /// The largest frame to send, in bytes.
    pub(super) fn largest(&self) -> usize {
        self.carried.min(self.ceiling)
    }

    /// The path says something else about itself.
    pub(super) fn path_says(&mut self, now: Duration, ceiling: usize) {
        if ceiling != self.ceiling {
            *self = Self::new(now, ceiling);
        }
    }

    /// A probe of `size` bytes has arrived.
    pub(super) fn arrived(&mut self, now: Duration, size: usize) {
        if self.probe.take_if(|probe| probe.size == size).is_some() {
            self.carried = self.carried.max(size);
            self.proved = self.proved.max(size);
            self.next = now + if self.candidate().is_some() { Duration::ZERO } else { CHECK };
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        (self.ceiling > BASE_PLPMTU)
            .then(|| self.probe.as_ref().map_or(self.next, |probe| probe.next))
    }

    /// The size of the probe that is to leave now.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> Option<usize> {
        if self.ceiling <= BASE_PLPMTU {
            return None;
        }
        if let Some(probe) = &mut self.probe {
            if now < probe.next {
                return None;
            }
            let tries = if probe.size <= self.proved { TRIES_AGAIN } else { TRIES };
            if probe.tries < tries {
                probe.tries += 1;
                probe.next = now + INTERVAL;
                return Some(probe.size);
            }
            self.lost = probe.size;
            if self.carried >= self.lost {
                // What was believed is not so: what every path carries, now.
                self.carried = BASE_PLPMTU;
            }
            self.probe = None;
            let settled = self.candidate().is_none();
            let raise = if self.proved > self.carried { RAISE_AGAIN } else { RAISE };
            self.next = now + if settled { raise } else { Duration::ZERO };
        }
        if now < self.next {
            return None;
        }
        let raise = self.candidate().is_none() && self.carried < self.ceiling;
        if raise && self.lost <= self.ceiling {
            self.lost = self.ceiling + 1;
        }
        let size = self.candidate().unwrap_or(self.carried);
        self.probe = Some(Probe { size, tries: 1, next: now + INTERVAL });
        Some(size)
    }

    /// Returns the size to try next: all of it first, then half-way to the size that was lost.
    fn candidate(&self) -> Option<usize> {
        if self.lost > self.ceiling {
            return (self.carried < self.ceiling).then_some(self.ceiling);
        }
        let between = self.lost.saturating_sub(self.carried);
        (between > CLOSE_ENOUGH).then(|| self.carried + between / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the search on a path that carries `true_size` until `end`; what it
    /// says then, and how many probes left.
    fn run(search: &mut Search, from: Duration, end: Duration, true_size: usize) -> usize {
        let mut probes = 0;
        let mut now = from;
        while let Some(due) = search.poll_timeout().filter(|due| *due <= end) {
            now = now.max(due);
            if let Some(size) = search.handle_timeout(now) {
                probes += 1;
                if size <= true_size {
                    search.arrived(now + Duration::from_millis(20), size);
                }
            }
        }
        probes
    }

    #[test]
    fn a_path_that_carries_what_it_says_is_asked_once_and_now_and_then() {
        let mut search = Search::new(Duration::ZERO, 1446);
        assert_eq!(run(&mut search, Duration::ZERO, Duration::from_secs(10), 1446), 1);
        assert_eq!(search.largest(), 1446);
        assert!(run(&mut search, Duration::from_secs(10), Duration::from_secs(100), 1446) <= 4);
        assert_eq!(search.largest(), 1446);
    }

    #[test]
    fn a_silent_hole_is_got_round_at_once_and_the_size_found_within_seconds() {
        for true_size in [1200, 1201, 1300, 1366, 1430] {
            let mut search = Search::new(Duration::ZERO, 1446);
            run(&mut search, Duration::ZERO, Duration::from_secs(1), true_size);
            assert!(search.largest() <= true_size, "{true_size}: {}", search.largest());
            run(&mut search, Duration::from_secs(1), Duration::from_secs(10), true_size);
            let found = search.largest();
            assert!(
                found <= true_size && found + CLOSE_ENOUGH >= true_size,
                "{true_size}: {found}"
            );
        }
    }

    #[test]
    fn a_path_that_shrinks_and_grows_is_followed() {
        let mut search = Search::new(Duration::ZERO, 1446);
        run(&mut search, Duration::ZERO, Duration::from_secs(40), 1446);
        run(&mut search, Duration::from_secs(40), Duration::from_secs(80), 1300);
        assert!(search.largest() <= 1300);
        run(&mut search, Duration::from_secs(80), Duration::from_secs(800), 1446);
        assert_eq!(search.largest(), 1446);
    }

    #[test]
    fn probes_nobody_sent_and_small_paths_change_nothing() {
        let mut search = Search::new(Duration::ZERO, 1446);
        search.arrived(Duration::ZERO, 9000);
        assert_eq!(search.largest(), 1446);
        let mut small = Search::new(Duration::ZERO, 1000);
        assert_eq!((small.poll_timeout(), small.handle_timeout(Duration::ZERO)), (None, None));
        assert_eq!(small.largest(), 1000);
    }
}
