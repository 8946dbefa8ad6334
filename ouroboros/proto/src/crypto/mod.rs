//! Algorithms, and keys from secrets (HKDF; the 0.23 key schedule of WIRE.md,
//! "Allocation header").
//!
//! Not here: any decision about when keys change (`proto::protection`) or who
//! is trusted. No I/O; randomness is an argument.

mod aead;
pub mod identity;
mod kex;
mod schedule;
mod suite;

pub use aead::{Aead, AeadBackend, NONCE, NotAuthentic, TAG};
pub use kex::{
    EphemeralSecret, KeptX25519, KeyExchangeError, answer, answer_and_keep, answer_hybrid,
};
pub use schedule::{FlowKey, Secret};
pub use suite::{Algorithms, Cipher, Hash, KeyExchange, Suite, UnknownAlgorithm};

/// A source of random bytes. Protocol code takes it as an argument, so that a
/// simulation can replay a seed.
pub trait Entropy {
    /// Fills `bytes` with random bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}
