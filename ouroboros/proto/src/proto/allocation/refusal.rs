//! Why requests are refused: what the peer is told, and what this side's log is told. Not
//! here: when they are (`server`).

use std::time::Duration;

use super::NegotiationError;
use crate::wire::QosSpec;

/// Why a request is refused: the response code that the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody serves the name, or accepts the flow in time.
    NotAvailable,
    /// The request is stale, from the future, or a replay.
    NotFresh,
    /// The encryption asked for is not had here.
    Security,
    /// Flows of the quality of service asked for are not had here.
    Quality,
    /// There are too many requests. One that offers the native profile gets a
    /// cookie with it, to ask again.
    Busy,
}

impl Refusal {
    /// The response code (WIRE.md: any negative number refuses).
    pub const fn code(self) -> i32 {
        match self {
            Self::NotAvailable => -1,
            Self::NotFresh => -2,
            Self::Security => -3,
            Self::Busy => -4,
            Self::Quality => -5,
        }
    }
}

/// How far a peer's clock is from this side's, by the time in its request. A
/// request of long ago that somebody repeats looks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockDifference {
    /// The peer's is late.
    #[error("its clock is {:.1} s behind ours", .0.as_secs_f64())]
    Behind(Duration),
    /// The peer's is early.
    #[error("its clock is {:.1} s ahead of ours", .0.as_secs_f64())]
    Ahead(Duration),
}

/// Why a request was refused, for the log of this side: the peer is told a
/// [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Its algorithms, or what is demanded of it.
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    /// It is not fresh, and its sender does not speak the native profile.
    #[error(transparent)]
    Clock(#[from] ClockDifference),
    /// Flows of this quality of service are not had here.
    #[error("flows with this quality of service are not supported: {0:?}")]
    Quality(QosSpec),
}

/// A request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It waits no longer.
    #[error("the request is gone")]
    Gone,
    /// It was refused: this side's policy or the request's key forbids it.
    #[error(transparent)]
    Refused(#[from] NegotiationError),
}
