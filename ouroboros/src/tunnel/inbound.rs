//! From the flow into the device: a batch is received and opened, runs of one
//! connection are joined and written at once. Driven by a tunnel's worker.

use std::{io, time::Instant};

use super::{
    Counters, LARGEST_SYN, TunnelError,
    delay::Delay,
    lane::{Lane, Sink},
};
use crate::{
    error::FlowError,
    flow::{FlowReceiver, Received},
    proto::{hub::ConfigurationClient, protection::Content},
    tun::{
        DeviceOffload, Queue,
        offload::{
            Checksums, Coalescer, Ecn, GsoKind, Layout, TCP, VnetHeader, clamp_mss,
            complete_checksum,
        },
    },
};

/// Packets of a batch, at least, that a standing queue gives.
const STANDING_QUEUE: usize = 32;
/// In bytes.
const LARGEST_TCP_HEADER: usize = 60;

pub(super) struct Inbound {
    receiver: FlowReceiver,
    delay: Delay,
    joiner: Joiner,
}

impl Inbound {
    pub(super) fn new(receiver: FlowReceiver) -> Self {
        receiver.set_watched();
        Self { receiver, delay: Delay::default(), joiner: Joiner::new() }
    }

    pub(super) fn receiver(&self) -> &FlowReceiver {
        &self.receiver
    }

    /// Moves what is there, at most a batch; how many packets that was.
    pub(super) fn turn(&mut self, lane: &Lane) -> Result<usize, TunnelError> {
        let Self { receiver, delay, joiner } = self;
        Ok(joiner.transfer(receiver, delay, lane.sink(), |packet, _| {
            let exchange = ConfigurationClient::is_for(packet);
            if exchange {
                lane.exchange.handle(packet);
            }
            !exchange
        })?)
    }
}

/// Joins the packets of a batch into runs, and writes them.
pub(super) struct Joiner(Coalescer);

impl Joiner {
    pub(super) fn new() -> Self {
        Self(Coalescer::new(true, true))
    }

    /// Moves what has come, at most a batch, of what `admit` says may go to the
    /// device; how many packets have come.
    pub(super) fn transfer(
        &mut self,
        receiver: &mut FlowReceiver,
        delay: &mut Delay,
        to: Sink<'_>,
        mut admit: impl FnMut(&mut [u8], &Received) -> bool,
    ) -> Result<usize, FlowError> {
        let Sink { queue, counters, mtu } = to;
        let count = receiver.try_receive()?;
        if count == 0 {
            return Ok(0);
        }
        let offload = queue.offload();
        self.0.clear();
        self.0.set_joined(offload.tcp, offload.udp);
        let mut signal = count >= STANDING_QUEUE
            && receiver.waited().is_some_and(|waited| delay.should_signal(Instant::now(), waited));
        let (mut packets, mut bytes) = (0, 0);
        for index in 0..count {
            let received = receiver.received(index);
            let buffer = receiver.buffer_mut();
            let packet = &mut buffer[received.range.clone()];
            if !admit(packet, &received) {
                continue;
            }
            if !matches!(packet.first().map(|byte| byte >> 4), Some(4 | 6)) {
                counters.not_ip.add(1);
                continue;
            }
            if received.ecn != Ecn::NotEct && !decapsulate(packet, received.ecn) {
                counters.congested.add(1);
                continue;
            }
            if signal && is_tcp_data(packet) {
                signal = false;
                counters.queue_signals.add(1);
                if !decapsulate(packet, Ecn::Ce) {
                    continue;
                }
            }
            let partial = received.content == Content::PartialChecksum;
            if packet.len() < LARGEST_SYN {
                clamp_mss(packet, mtu, partial);
            }
            let partial = partial && !complete_for(packet, offload);
            packets += 1;
            bytes += packet.len() as u64;
            self.0.add(buffer, received.range, partial);
        }
        self.0.finish(receiver.buffer_mut());
        counters.received_packets.add(packets);
        counters.received_bytes.add(bytes);
        self.write(receiver, queue, counters);
        Ok(count)
    }

    fn write(&mut self, receiver: &mut FlowReceiver, queue: &Queue, counters: &Counters) {
        let (mut writes, mut not_taken) = (0, 0);
        for run in self.0.runs() {
            writes += 1;
            let header = run.header();
            let buffer = receiver.buffer();
            match queue.write(&header, run.parts().map(|part| &buffer[part])) {
                Ok(()) => {}
                // Some kernels refuse super-packets that others take.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && run.packets() > 1 => {
                    let kind = VnetHeader::parse(&header).ok().and_then(|header| header.gso);
                    let kind = kind.map_or(GsoKind::Tcp4, |gso| gso.kind);
                    tracing::info!(%error, ?kind, "the device takes no such super-packets");
                    queue.refused(kind);
                    for (header, range) in run.take_apart(receiver.buffer_mut()) {
                        let packet = &receiver.buffer()[range];
                        not_taken += u64::from(queue.write(&header, [packet].into_iter()).is_err());
                        writes += 1;
                    }
                }
                // The device keeps no error: what it does not take is lost as
                // on any link.
                Err(_) => not_taken += 1,
            }
        }
        counters.writes.add(writes);
        if not_taken > 0 {
            counters.not_taken.add(not_taken);
        }
    }
}

/// Returns `true` if its sender listens to losses and marks.
fn is_tcp_data(packet: &[u8]) -> bool {
    let tcp = Layout::of(packet).filter(|layout| layout.protocol == TCP);
    tcp.is_some_and(|layout| packet.len() > layout.transport + LARGEST_TCP_HEADER)
}

/// Carries what the outer header says of congestion inward; whether the packet
/// may go on (RFC 6040, section 4.2).
fn decapsulate(packet: &mut [u8], outer: Ecn) -> bool {
    let Some(inner) = Ecn::of(packet) else { return true };
    match inner.decapsulated(outer) {
        Some(new) if new != inner => new.write(packet),
        Some(_) => {}
        None => return false,
    }
    true
}

/// Completes a partial checksum where the device takes none; whether it is
/// complete now.
pub(super) fn complete_for(packet: &mut [u8], offload: DeviceOffload) -> bool {
    if offload.checksums {
        return false;
    }
    let size = packet.len();
    let checksum = Layout::of(packet).and_then(|layout| layout.checksum_place(size));
    let header = VnetHeader { checksum, ..VnetHeader::default() };
    complete_checksum(packet, &header, Checksums::Full).is_ok()
}
