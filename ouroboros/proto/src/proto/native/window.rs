//! Which packet numbers have been seen of late.

const WORDS: usize = 256;
const BITS: u64 = u64::BITS as u64;

/// A sliding window of at least 16,320 packets below the newest, as a ring of
/// words (the way of RFC 6479).
pub(super) struct ReplayWindow {
    newest: u64,
    taken: u64,
    seen: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    pub(super) fn new() -> Self {
        Self { newest: 0, taken: 0, seen: Box::new([0; WORDS]) }
    }

    /// The highest number taken; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// How many numbers were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether a packet's number is neither one that was taken nor too old to
    /// tell.
    pub(super) fn is_new(&self, number: u64) -> bool {
        let (word, newest) = (number / BITS, self.newest / BITS);
        let seen = self.seen[word as usize % WORDS] & 1 << (number % BITS) != 0;
        number > self.newest || (newest - word < WORDS as u64 && !seen)
    }

    /// Takes an authentic packet's number; whether it is neither a repetition
    /// nor too old to tell.
    pub(super) fn take(&mut self, number: u64) -> bool {
        let new = self.is_new(number);
        let word = number / BITS;
        if number > self.newest {
            for passed in (self.newest / BITS + 1..=word).take(WORDS) {
                self.seen[passed as usize % WORDS] = 0;
            }
            self.newest = number;
        }
        if new {
            self.seen[word as usize % WORDS] |= 1 << (number % BITS);
            self.taken += 1;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_number_is_taken_once_and_none_from_beyond_the_window() {
        let mut window = ReplayWindow::new();
        let (mut taken, mut state, mut base) = (HashSet::new(), 1u64, 0u64);
        for _ in 0..300_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = state >> 33;
            // Mostly near, at times a leap of any size.
            base += match random % 4096 {
                0 => 20_000,
                1 => 17_000 + random % 100,
                step => step % 3,
            };
            let number = base.saturating_sub((random >> 12) % 17_000);
            let newest = window.newest();
            let expected = window.is_new(number);
            let new = window.take(number);
            assert_eq!(new, expected, "{number} below {newest}");
            let within = number + 16_320 > newest;
            if within {
                assert_eq!(new, taken.insert(number), "{number} below {newest}");
            } else {
                assert!(!new || taken.insert(number), "{number} below {newest}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_number_space_are_numbers_like_others() {
        let mut window = ReplayWindow::new();
        assert!(window.take(0));
        assert!(!window.take(0));
        assert!(window.take(u64::MAX));
        assert!(!window.take(u64::MAX));
        assert!(!window.take(0));
        assert!(window.take(u64::MAX - 16_000));
    }
}
