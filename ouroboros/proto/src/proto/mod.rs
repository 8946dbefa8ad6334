//! State machines without I/O. `ipcp` and `flow` drive them; tests drive them
//! under a seed and a virtual clock.
//!
//! One vocabulary for each: `handle(now, input)`, `poll_transmit`,
//! `poll_timeout`, `handle_timeout(now)`, and `poll` for events.

pub mod allocation;
pub mod connection;
pub mod frct;
pub mod hub;
pub mod native;
pub mod negotiation;
pub mod packet;
pub mod protection;
pub mod reliable;
mod rotation;

/// As [`allocation`] was called.
#[doc(hidden)]
pub mod endpoint {
    pub use super::allocation::{Allocator as Endpoint, *};
}

use std::time::Duration;

/// The present time of the clocks, handed to every state machine that needs time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic time since an arbitrary start.
    pub monotonic: Duration,
    /// UTC, nanoseconds since 1970 (for allocation headers).
    pub utc: u64,
}
