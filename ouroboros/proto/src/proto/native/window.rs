//! Which packet numbers have been seen of late.

/// Words of a window at the most, and in the beginning.
const WORDS: usize = 256;
const FIRST_WORDS: usize = 4;
const BITS: u64 = u64::BITS as u64;

/// A sliding window of at least 16,320 packets below the newest, as a ring of
/// words (the way of RFC 6479). As long as all numbers from 0 on fit fewer words, it
/// has no more: most flows are short.
pub(super) struct ReplayWindow {
    newest: u64,
    taken: u64,
    /// A power of two of them.
    seen: Box<[u64]>,
}

impl ReplayWindow {
    pub(super) fn new() -> Self {
        Self { newest: 0, taken: 0, seen: Box::new([0; FIRST_WORDS]) }
    }

    /// The highest number taken; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Returns how many numbers were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns `true` if a packet's number is neither one that was taken nor too old to tell.
    pub(super) fn is_new(&self, number: u64) -> bool {
        let (word, newest) = (number / BITS, self.newest / BITS);
        let words = self.seen.len();
        let seen = self.seen[word as usize % words] & 1 << (number % BITS) != 0;
        number > self.newest || (newest - word < words as u64 && !seen)
    }

    /// Takes an authentic packet's number; whether it is neither a repetition
    /// nor too old to tell.
    pub(super) fn take(&mut self, number: u64) -> bool {
        let new = self.is_new(number);
        let word = number / BITS;
        if number > self.newest {
            if word >= self.seen.len() as u64 && self.seen.len() < WORDS {
                self.grow(word);
            }
            let words = self.seen.len();
            for passed in (self.newest / BITS + 1..=word).take(words) {
                self.seen[passed as usize % words] = 0;
            }
            self.newest = number;
        }
        if new {
            let words = self.seen.len();
            self.seen[word as usize % words] |= 1 << (number % BITS);
            self.taken += 1;
        }
        new
    }

    /// Has room for `word` beside all that were, up to the most there may be. Nothing has
    /// moved on yet, so that each word stays in its place.
    fn grow(&mut self, word: u64) {
        let words = usize::try_from(word).map_or(WORDS, |word| WORDS.min(2 * word));
        let mut seen = vec![0; words.next_power_of_two()];
        seen[..self.seen.len()].copy_from_slice(&self.seen);
        self.seen = seen.into();
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
    fn nothing_is_forgotten_while_the_window_grows() {
        let mut window = ReplayWindow::new();
        for number in (0..40_000).step_by(3) {
            assert!(window.take(number));
            for earlier in [0, 1, 2, 255, 256, 257, 511, 5_000].map(|by| number - by.min(number)) {
                assert_eq!(window.is_new(earlier), earlier % 3 != 0, "{earlier} of {number}");
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
