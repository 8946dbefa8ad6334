//! Statistics of a tunnel. Counted by its threads, read by anyone.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::Offload;
use crate::flow::FlowStatistics;

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent_packets: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) received_packets: Counter,
    pub(super) received_bytes: Counter,
    pub(super) reads: Counter,
    pub(super) writes: Counter,
    pub(super) not_ip: Counter,
    pub(super) not_taken: Counter,
    pub(super) too_large: Counter,
    pub(super) malformed: Counter,
    pub(super) congested: Counter,
    pub(super) queue_signals: Counter,
    pub(super) no_client: Counter,
}

/// Statistics of a tunnel. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelStatistics {
    /// Packets from the device into the flow, as they were cut.
    pub sent_packets: u64,
    /// Bytes from the device into the flow, before they were cut.
    pub sent_bytes: u64,
    /// Packets from the flow into the device, before they were joined.
    pub received_packets: u64,
    /// Bytes from the flow into the device.
    pub received_bytes: u64,
    /// Packets and super-packets read from the device, a system call each.
    pub reads: u64,
    /// Packets and super-packets written to the device, a system call each.
    pub writes: u64,
    /// Dropped: what came out of the flow and was no IP packet.
    pub not_ip: u64,
    /// Dropped: packets that the device did not take.
    pub not_taken: u64,
    /// Answered with ICMP: packets from the device that were too large.
    pub too_large: u64,
    /// Dropped: packets from the device whose headers make no sense.
    pub malformed: u64,
    /// Dropped: packets that a router marked as having met congestion, and
    /// whose senders do not understand marks (RFC 6040, section 4.2).
    pub congested: u64,
    /// Dropped, or marked where the sender understands marks: packets of TCP,
    /// to keep the queue in front of the tunnel short.
    pub queue_signals: u64,
    /// Dropped: packets from the device that are for no client of a hub.
    pub no_client: u64,
    /// The flow's own, of the one that runs or ran last.
    pub flow: FlowStatistics,
    /// Offloads in use.
    pub offload: Offload,
    /// Size of the flow's socket buffer for sending, in bytes as the kernel
    /// counts them.
    pub send_buffer: usize,
    /// The same for receiving.
    pub receive_buffer: usize,
}

impl TunnelStatistics {
    /// Packets that were dropped at the device, and in words why; 0 of some.
    #[must_use]
    pub fn device_drops(&self) -> [(u64, &'static str); 7] {
        [
            (self.not_ip, "not IP"),
            (self.not_taken, "not taken by the device"),
            (self.too_large, "too large"),
            (self.malformed, "malformed"),
            (self.congested, "congested"),
            (self.queue_signals, "to keep the queue short"),
            (self.no_client, "for no client"),
        ]
    }
}

impl fmt::Display for TunnelStatistics {
    /// In one line, for people: packets and bytes each way, packets in each
    /// system call, offloads in use, drops by cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = |packets: u64, calls: u64| packets as f64 / calls.max(1) as f64;
        let flow = &self.flow;
        write!(
            f,
            "out {} packets, {} bytes ({:.1} a read, {:.1} a send); in {} packets, {} bytes \
             ({:.1} a receive, {:.1} a write); offload {}; buffers {}/{}; dropped",
            self.sent_packets,
            self.sent_bytes,
            per(self.sent_packets, self.reads),
            per(flow.sent_packets, flow.send_calls),
            self.received_packets,
            self.received_bytes,
            per(flow.received_packets, flow.receive_calls),
            per(self.received_packets, self.writes),
            self.offload,
            self.send_buffer,
            self.receive_buffer,
        )?;
        let of_flow = [
            (flow.unopened, "not authentic"),
            (flow.oversize, "too large for the path"),
            (flow.unsealed, "without a key"),
            (flow.socket_drops, "in the socket's full buffer"),
            (flow.undelivered, "on the way to the peer"),
        ];
        let mut nothing = true;
        for (count, cause) in self.device_drops().into_iter().chain(of_flow) {
            if count > 0 {
                write!(f, "{} {count} {cause}", if nothing { "" } else { "," })?;
                nothing = false;
            }
        }
        if nothing { f.write_str(" none") } else { Ok(()) }
    }
}

impl Counters {
    pub(super) fn statistics(
        &self,
        flow: FlowStatistics,
        offload: Offload,
        (send_buffer, receive_buffer): (usize, usize),
    ) -> TunnelStatistics {
        TunnelStatistics {
            flow,
            offload,
            send_buffer,
            receive_buffer,
            sent_packets: self.sent_packets.count(),
            sent_bytes: self.sent_bytes.count(),
            received_packets: self.received_packets.count(),
            received_bytes: self.received_bytes.count(),
            reads: self.reads.count(),
            writes: self.writes.count(),
            not_ip: self.not_ip.count(),
            not_taken: self.not_taken.count(),
            too_large: self.too_large.count(),
            malformed: self.malformed.count(),
            congested: self.congested.count(),
            queue_signals: self.queue_signals.count(),
            no_client: self.no_client.count(),
        }
    }
}
