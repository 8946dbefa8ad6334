//! The protocol of Ouroboros without I/O: formats, cryptography, state machines.
//! No socket, clock or random source can be reached from here: no dependency has
//! one to offer, and `clippy.toml` refuses those of std. Time and randomness are
//! arguments.
//!
//! - [`packet`]: batches of frames, and the little of an IP header that all need.
//! - [`wire`]: one file per header: bytes to typed values and back.
//! - [`crypto`]: key exchanges, key schedule, AEAD backends, identities.
//! - [`proto`]: state machines: allocation, packet protection, liveness.
//!
//! Applications use the crate `ouroboros`, which drives these and re-exports
//! them; what is public here beyond that may change at any time.

pub mod crypto;
pub mod packet;
pub mod proto;
#[doc(hidden)]
pub mod sync;
mod sys;
mod text;
pub mod wire;
