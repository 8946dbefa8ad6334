//! From the device into the flow: packets and super-packets are read, cut,
//! sealed and sent in one batch. Driven by a tunnel's worker.

use std::{io, iter, sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    LARGEST_SYN, TunnelError, clamp,
    lane::{Lane, Sink},
    mtu::Following,
};
use crate::{
    error::FlowError,
    flow::FlowSender,
    proto::{native::LARGEST_FRAGMENTED, protection::Content},
    tun::{
        Queue,
        offload::{Ecn, SegmentError, Segments, VnetHeader, clamp_mss, packet_too_big},
    },
};

/// Packets read before they are sent, at most.
pub(super) const PACKETS: usize = 64;
/// Largest super-packet, in bytes.
pub(super) const SUPER_PACKET: usize = 65_535;
/// Largest ICMP answer, in bytes.
const LARGEST_ANSWER: usize = 1280;

/// How far a turn got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that was there has moved.
    Moved,
    /// The transport is full: wait until it can be written.
    Full,
}

pub(super) struct Outbound {
    sender: FlowSender,
    packet: Box<[u8]>,
    /// All lanes take the same way: one of them knows it.
    mtu: Option<Following>,
    full: bool,
}

impl Outbound {
    pub(super) fn new(sender: FlowSender, mtu: Option<Following>) -> Self {
        Self { sender, packet: vec![0; SUPER_PACKET].into_boxed_slice(), mtu, full: false }
    }

    pub(super) fn sender(&self) -> &FlowSender {
        &self.sender
    }

    /// Moves what is there, at most a batch.
    pub(super) fn turn(&mut self, lane: &Lane) -> Result<Progress, TunnelError> {
        if !self.full {
            self.fill(lane)?;
            if lane.queue == 0 && lane.exchange.is_due() {
                lane.exchange.transmit(&mut self.sender);
            }
        }
        self.full = !self.sender.try_flush()?;
        if self.full {
            return Ok(Progress::Full);
        }
        self.follow(lane)?;
        Ok(Progress::Moved)
    }

    /// Reads into the sender's batch until there is nothing more, or enough.
    fn fill(&mut self, lane: &Lane) -> Result<(), TunnelError> {
        let (queue, counters) = (lane.queue(), &lane.counters);
        let (mut reads, mut bytes) = (0, 0);
        while reads < PACKETS as u64 {
            let (header, size) = match queue.read(&mut self.packet) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    counters.malformed.add(1);
                    break;
                }
                Err(error) => return Err(lane.device.read_failed(error).into()),
            };
            reads += 1;
            bytes += size as u64;
            cut(&header, &mut self.packet[..size], &mut self.sender, lane.sink())?;
            if header.gso.is_some() {
                // Enough for one system call: the peer can begin with it.
                break;
            }
        }
        counters.reads.add(reads);
        counters.sent_bytes.add(bytes);
        Ok(())
    }

    /// Cuts packets, and has the device tell others to, to what the path
    /// carries now.
    fn follow(&mut self, lane: &Lane) -> Result<(), TunnelError> {
        let Some(following) = &mut self.mtu else { return Ok(()) };
        let now = Instant::now();
        if !following.is_due(now, self.sender.take_oversize()) {
            return Ok(());
        }
        let from = following.mtus();
        if let Some(to) = following.path_says(now, clamp(self.sender.largest_packet())) {
            tracing::info!(from = from.packets, to = to.packets, "the MTU follows the path's");
            lane.mtu.store(to.packets, Relaxed);
            if to.device != from.device {
                lane.device.set_mtu_or_warn(to.device);
            }
        }
        Ok(())
    }
}

/// Puts a packet, or those that a super-packet stands for, into the batch.
pub(super) fn cut(
    header: &VnetHeader,
    packet: &mut [u8],
    sender: &mut FlowSender,
    from: Sink<'_>,
) -> Result<(), FlowError> {
    let Sink { counters, mtu, .. } = from;
    let (size, checksums) = (packet.len(), sender.checksums());
    if size < LARGEST_SYN {
        clamp_mss(packet, mtu, header.checksum.is_some());
    }
    let plan = match Segments::plan(header, packet, size, mtu, checksums) {
        Ok(plan) => plan,
        Err(SegmentError::TooLarge(_)) => return cut_into_fragments(header, packet, sender, from),
        Err(_) => {
            counters.malformed.add(1);
            return Ok(());
        }
    };
    let content = if plan.is_partial() { Content::PartialChecksum } else { Content::Packet };
    let ecn = Ecn::of(packet).unwrap_or(Ecn::NotEct);
    for index in 0..plan.count() {
        let size = plan.size(index);
        if !sender.fits(size) {
            sender.flush()?;
        }
        if let Some(slot) = sender.push_content(size, content, ecn) {
            plan.copy(index, packet, slot);
        }
    }
    counters.sent_packets.add(plan.count() as u64);
    Ok(())
}

/// The same for what does not fit the path: IPv6 has to pass whatever the path carries.
/// What may not pass so either is answered.
fn cut_into_fragments(
    header: &VnetHeader,
    packet: &[u8],
    sender: &mut FlowSender,
    from: Sink<'_>,
) -> Result<(), FlowError> {
    let Sink { queue, counters, mtu } = from;
    let (size, checksums) = (packet.len(), sender.checksums());
    let largest = if sender.takes_fragments() { mtu.max(LARGEST_FRAGMENTED) } else { mtu };
    let plan = match Segments::plan(header, packet, size, largest, checksums) {
        Ok(plan) => plan,
        Err(_) => {
            counters.too_large.add(1);
            answer_too_large(packet, largest, queue);
            return Ok(());
        }
    };
    let content = if plan.is_partial() { Content::PartialChecksum } else { Content::Packet };
    let ecn = Ecn::of(packet).unwrap_or(Ecn::NotEct);
    let mut whole = [0; LARGEST_FRAGMENTED];
    for index in 0..plan.count() {
        let Some(whole) = whole.get_mut(..plan.size(index)) else { break };
        plan.copy(index, packet, whole);
        if !sender.push_fragments(whole, content, ecn, mtu)? {
            counters.too_large.add(1);
        }
    }
    counters.sent_packets.add(plan.count() as u64);
    Ok(())
}

/// Tells the sender of a packet what the tunnel can carry.
fn answer_too_large(packet: &[u8], mtu: usize, queue: &Queue) {
    let mut answer = [0; LARGEST_ANSWER];
    if let Some(size) = packet_too_big(packet, mtu, &mut answer) {
        // One that the device does not take is lost as on any link.
        let _ = queue.write(&VnetHeader::default().encode(), iter::once(&answer[..size]));
    }
}
