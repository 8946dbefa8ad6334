//! Numbers for simulations: the same in every run.

use ouroboros_proto::crypto::Entropy;

/// A seeded generator (xorshift64). Nothing that it gives is a secret.
pub struct Random(u64);

impl Random {
    /// The generator for a run, whichever number its seed is.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The generator whose state is `state`, which is not 0.
    pub fn from_state(state: u64) -> Self {
        assert_ne!(state, 0, "it would stay there");
        Self(state)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }

    /// `true` once in `chances` times.
    pub fn one_in(&mut self, chances: u64) -> bool {
        self.next_u64().is_multiple_of(chances)
    }

    /// `true` in `chances` of a thousand times.
    pub fn permille(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }
}

impl Entropy for Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next_u64() as u8);
    }
}
