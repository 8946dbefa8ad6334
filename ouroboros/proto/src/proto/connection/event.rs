//! Configuration of a connection, and its events.

use std::time::Duration;

use crate::{proto::native::Capabilities, wire::PeerAddress};

/// Configuration of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// A flow that hears nothing for so long is down; zero: never. A sign of
    /// life leaves after a quarter of it without traffic (WIRE.md, "Packets of a
    /// flow"; PROTOCOL.md, "Control").
    pub timeout: Duration,
    /// Largest frame in bytes, as it is sent to the path.
    pub largest_frame: usize,
}

/// The state of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathState {
    /// Largest frame that the path carries as far as this host knows, in bytes.
    pub largest_frame: usize,
    /// There may be routers on the way that carry less than this host knows.
    pub routed: bool,
    /// This host has no network: the frame that was sent last did not leave it.
    pub detached: bool,
}

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The peer was heard: on an encrypted flow it has shown that it has the
    /// flow's keys.
    Confirmed,
    /// This end seals in a new epoch. Data may pass.
    Rekeyed {
        /// Which, from 0.
        epoch: u64,
    },
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
    /// Frames leave and none comes: find out whether this end's own address is
    /// lost.
    RevalidatePath,
    /// The peer closed the flow.
    Closed,
    /// Nothing was heard in time, or the flow's keys can do no more. Frames may
    /// go on leaving: [`poll_timeout`](super::Connection::poll_timeout) tells.
    Down,
}
