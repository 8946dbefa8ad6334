//! Segmenting and coalescing: what a network card does for the kernel, done for
//! a TUN device.
//!
//! A TUN device with a virtio-net header hands out up to 64 KiB of one TCP
//! stream or UDP run in one read; [`Segments`] cuts it into the packets that a
//! card would have sent. The other way, [`Coalescer`] joins the packets of one
//! batch into runs that each go to the device in one write, as the kernel's
//! generic receive offload would have. Both leave payload where it lies.
//! Beside them stands what else a tunnel does to an inner packet: ECN,
//! [`clamp_mss`] and [`packet_too_big`].
//!
//! No I/O, no clock, no allocation per packet; any bytes may come in. Not here:
//! the device and its settings (`tun::device`), and which offloads are in use
//! (`tunnel`, which drives this).

mod coalesce;
mod flow;
mod icmp;
mod packet;
mod run;
mod segment;
mod vnet;

pub use coalesce::{Coalescer, LARGEST_RUN, LONGEST_RUN};
pub use icmp::packet_too_big;
pub use ouroboros_proto::packet::{Ecn, Sum, Version, replace, replace_at};
pub use packet::{Fragment, Layout, clamp_mss};
pub use run::{Run, Singles};
pub use segment::{Checksums, SegmentError, Segments, complete_checksum};
pub use vnet::{ChecksumPlace, Gso, GsoKind, InvalidVnetHeader, VnetHeader};

/// Protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// Where in a TCP header the checksum stands, in bytes.
const TCP_CHECKSUM: usize = 16;
/// Where in a UDP header the checksum stands, in bytes.
const UDP_CHECKSUM: usize = 6;

/// Flags of a TCP header, in its byte 13.
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const ECE: u8 = 0x40;
    pub(super) const CWR: u8 = 0x80;
}

/// The big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes the big-endian word at `at`.
fn set_word(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
