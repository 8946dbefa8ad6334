//! What a body reads its input with, and has instead of chance.

use std::time::Duration;

use ouroboros::{
    crypto::{Entropy, FlowKey, Hash},
    proto::Now,
    wire::{Dialect, DirectoryHash},
};

/// The bytes of an input, one after the other. Zeros follow them.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Bytes behind a length in two bytes.
    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let size = usize::from(self.short()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(size);
        self.0 = rest;
        bytes
    }

    /// A copy of `bytes` with some changed: how many (up to 7), then for each a
    /// place and what to add to it there; place 0xffff cuts the end off.
    pub(crate) fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..self.byte() & 7 {
            let (place, value) = (self.short(), self.byte());
            if place == u16::MAX {
                changed.truncate(changed.len().saturating_sub(value.into()));
            } else if let Some(byte) = changed.get_mut(usize::from(place)) {
                *byte = byte.wrapping_add(value);
            }
        }
        changed
    }
}

/// Never the same twice is all that is asked of it here.
pub(crate) struct Counting(pub(crate) u64);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// A key of this input alone: a fuzzer sees into comparisons, and would know
/// from one input what authenticates in another.
pub(crate) fn key(data: &[u8]) -> FlowKey {
    let mut key = [0; 32];
    key.copy_from_slice(&Hash::Sha256.digest(data));
    FlowKey::new(key)
}

/// The clocks, so long after an arbitrary start.
pub(crate) fn at(monotonic: Duration) -> Now {
    Now { monotonic, utc: 1_800_000_000_000_000_000 + monotonic.as_nanos() as u64 }
}

/// The directory hash that goes with a dialect.
pub(crate) fn hash(dialect: Dialect) -> DirectoryHash {
    match dialect {
        Dialect::EthDix => DirectoryHash::Sha3_256,
        Dialect::Udp => DirectoryHash::Md5,
    }
}
