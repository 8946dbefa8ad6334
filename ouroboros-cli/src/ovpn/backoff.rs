//! How long to wait before the next attempt. No clock.

use std::time::Duration;

use ouroboros::crypto::Entropy;

/// Least wait before the second attempt.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest wait of all.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that grow: none, 100 to 200 ms, then up to twice as long each time, 1
/// to 2 s in the end: a network that is back is noticed by then. Random, so that all clients of a server that was away do
/// not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns how long to wait, after the attempt before began, with the next one.
    pub(super) fn next(&mut self, entropy: &mut dyn Entropy) -> Duration {
        let Some(doublings) = self.attempts.checked_sub(1) else {
            self.attempts = 1;
            return Duration::ZERO;
        };
        self.attempts = self.attempts.saturating_add(1);
        let least = SHORTEST.saturating_mul(1 << doublings.min(16)).min(LONGEST / 2);
        let mut random = [0; 4];
        entropy.fill(&mut random);
        least + least.mul_f64(f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u8);

    impl Entropy for Always {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn waits_begin_at_once_and_grow_to_some_seconds() {
        for (entropy, expected) in [
            (0, [0, 100, 200, 400, 800, 1000, 1000, 1000]),
            (0xff, [0, 200, 400, 800, 1600, 2000, 2000, 2000]),
        ] {
            let mut backoff = Backoff::default();
            let waits: Vec<_> =
                (0..8).map(|_| backoff.next(&mut Always(entropy)).as_millis()).collect();
            assert_eq!(waits, expected);
        }
        let mut long = Backoff { attempts: u32::MAX - 1 };
        for _ in 0..3 {
            assert!(long.next(&mut Always(0xff)) <= LONGEST);
        }
    }
}
