//! Cryptography (`ouroboros_proto::crypto`), and the one source of randomness,
//! which the protocol code cannot reach by itself.

pub use ouroboros_proto::crypto::*;

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    ///
    /// If the operating system has no randomness to give: nothing secure can
    /// be done then.
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system's random source works");
    }
}
