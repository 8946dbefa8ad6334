//! Configuration of a session, and its events.

use std::time::Duration;

use crate::{proto::native::Capabilities, wire::PeerAddress};

/// Configuration of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// A flow that hears nothing for so long is down; zero: never. A ping
    /// leaves after a quarter of it without traffic.
    pub timeout: Duration,
    /// Largest frame in bytes, as it is sent to the path.
    pub largest_frame: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(120), largest_frame: 1052 }
    }
}

/// An event of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer has shown that it has the flow's keys.
    Confirmed,
    /// This end seals in a new epoch.
    Rekeyed {
        /// Which, from 0.
        epoch: u64,
    },
    /// The peer answered to [`Session::probe`](super::Session::probe).
    Responded {
        /// From the latest ping to its pong; `None` if an earlier one's pong
        /// came.
        round_trip: Option<Duration>,
    },
    /// The peer did not answer to [`Session::probe`](super::Session::probe) in time.
    Unresponsive,
    /// The capabilities of the program at the other end, beyond packets as they are.
    Announced(Capabilities),
    /// No larger frames than this many bytes arrive, as far as is known.
    LargestFrame(usize),
    /// The peer has told how many packets it got.
    Delivery {
        /// How many packets it did not get, of those up to the newest one that it got.
        undelivered: u64,
    },
    /// The peer is at this address from now on.
    Moved(PeerAddress),
    /// The peer closed the flow.
    Closed,
    /// Nothing was heard for the flow's timeout, or its keys can do no more.
    Down,
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to; `None`: to the peer, where it is.
    pub to: Option<PeerAddress>,
    /// The frame, behind the endpoint id.
    pub frame: Vec<u8>,
}
