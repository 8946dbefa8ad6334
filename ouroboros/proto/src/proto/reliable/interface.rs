//! Configuration of a [`Stream`](super::Stream), its input and its events.

use std::{ops::Range, time::Duration};

/// How an end of a stream is to be.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Largest body of a packet, in bytes; at least 512.
    pub largest_body: usize,
    /// The round trip as it is known before the first packet.
    pub initial_rtt: Duration,
    /// For how long an acknowledgement waits at most, at both ends.
    pub max_ack_delay: Duration,
    /// The credit that the peer has at first, in bytes.
    pub window: u64,
    /// How far that may grow.
    pub max_window: u64,
    /// The credit that the peer gives at first, in bytes.
    pub peer_window: u64,
    /// Bytes that may be written and not acknowledged, whatever the path.
    pub send_buffer: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            largest_body: 1200,
            initial_rtt: Duration::from_millis(100),
            max_ack_delay: Duration::from_millis(2),
            window: 256 * 1024,
            max_window: 64 * 1024 * 1024,
            peer_window: 256 * 1024,
            send_buffer: 64 * 1024,
        }
    }
}

/// The kind of a packet's body (PROTOCOL.md, "Packets").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// An offset and bytes of the stream.
    Data,
    /// Frames.
    Frames,
}

/// A packet that came.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its number. The caller drops packets whose numbers were there before.
    pub number: u64,
    /// Marked with congestion experienced.
    pub marked: bool,
    /// The kind of `bytes`.
    pub body: Body,
    /// Its body.
    pub bytes: &'a [u8],
}

/// A packet to send: [`Stream::write_body`](super::Stream::write_body) writes its body.
#[derive(Debug)]
pub struct Transmit {
    /// The kind of body.
    pub body: Body,
    /// Its size in bytes.
    pub size: usize,
    /// It is to leave as ECN-capable, ECT(0).
    pub ect: bool,
    pub(super) data: Range<u64>,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// None now.
    Blocked,
    /// None will come: the peer has finished, and all that it wrote was read.
    End,
    /// None will come: the peer has aborted with this code.
    Aborted(u32),
}

/// How far this end's direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// More can be written.
    Open,
    /// It was finished, and the peer does not have all of it yet.
    Finishing,
    /// The peer has all of it.
    Finished,
    /// It was aborted with this code.
    Aborted(u32),
    /// The peer reads no more, for this code.
    Stopped(u32),
}

/// Why the peer has closed the flow, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The code of its application.
    pub code: u32,
    /// The reason that it gave: mostly text, maybe none.
    pub reason: Vec<u8>,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {}", self.code)?;
        if self.reason.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", String::from_utf8_lossy(&self.reason).escape_debug())
    }
}

/// Figures of a reliable flow now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Least round trip.
    pub min_rtt: Duration,
    /// Congestion window in bytes.
    pub congestion_window: u64,
    /// The pace at which packets leave, in bytes per second.
    pub rate: u64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Packets that were taken for lost.
    pub lost: u64,
    /// Of those, packets that had only been late.
    pub spurious: u64,
    /// How often the congestion window was reduced.
    pub congestion_events: u64,
    /// Packets that arrived at the peer marked with congestion experienced.
    pub marked: u64,
    /// Largest body of a packet in bytes.
    pub mtu: usize,
    /// Bytes that the peer would take now beyond what was sent.
    pub credit: u64,
    /// Bytes that were written and are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes of memory that hold what was received and not read.
    pub held: u64,
}
