//! Checksums, summed up again by the test: of packets that the library has cut,
//! as they travel, and of what it gives to the kernel at the far end.

use std::collections::BTreeMap;

use ouroboros::{FlowSpec, Offload, Tunnel};

use crate::{
    capture::{Capture, Packet, word},
    hosts::{End, Hosts},
    traffic::{FIRST, datagrams, transfer},
};

/// Behind an Ethernet header: endpoint id and length.
const HEADER: usize = 18;

/// The payload of a TCP connection one way, put together from packets.
#[derive(Default)]
struct Stream {
    first: Option<u32>,
    parts: BTreeMap<u32, usize>,
}

impl Stream {
    fn add(&mut self, tcp: &[u8]) {
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let payload = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        if tcp[13] & 2 != 0 {
            self.first = Some(sequence.wrapping_add(1));
        }
        let Some(first) = self.first.filter(|_| payload > 0) else { return };
        let longest = self.parts.entry(sequence.wrapping_sub(first)).or_default();
        *longest = payload.max(*longest);
    }

    /// Bytes from the beginning without a gap.
    fn whole(&self) -> u32 {
        self.parts.iter().fold(
            0,
            |end, (start, length)| {
                if *start <= end { end.max(start + *length as u32) } else { end }
            },
        )
    }
}

/// What travels in a plain flow is what a network card would have sent.
pub(crate) fn packets_that_were_cut_travel_with_right_headers_and_checksums() {
    const SIZE: usize = 4 << 20;
    for to in FIRST {
        let hosts = Hosts::on_ethernet();
        let builders = [(); 2].map(|()| Tunnel::builder());
        let ends = hosts.run(hosts.flow(FlowSpec::raw()), builders);
        let capture = Capture::of(ends[0].host);
        transfer(&ends, to, SIZE);
        datagrams(&ends, to, ends[0].mtu());
        let seen = ends[1].statistics();
        assert!(seen.sent_packets > 4 * seen.reads, "nothing was cut: {seen}");
        let (mut streams, mut sizes) = ([Stream::default(), Stream::default()], [0; 2]);
        let mtu = ends[0].mtu();
        while let Some(frame) = capture.next() {
            if frame.len() <= HEADER || frame[12..14] != [0xa0, 0] {
                continue;
            }
            let length = usize::from(word(&frame, 16));
            let inner = &frame[HEADER..][..length];
            // Management, keepalives and fragments have no transport header.
            if !matches!(inner.first(), Some(0x45 | 0x60)) || is_fragment(inner) {
                continue;
            }
            let packet = Packet::parse(inner).expect("a right header");
            assert!(packet.is_sound(), "a bad checksum: {inner:02x?}");
            assert!(inner.len() <= mtu, "{} bytes where {mtu} fit", inner.len());
            let way = usize::from(packet.destination().ends_with(&[1]));
            if packet.protocol == 6 {
                streams[way].add(packet.transport);
                sizes[way] += 1;
            }
        }
        for (stream, count) in streams.iter().zip(sizes) {
            assert_eq!(stream.whole() as usize, SIZE);
            assert!(count > SIZE / mtu);
        }
    }
}

fn is_fragment(packet: &[u8]) -> bool {
    match packet[0] {
        0x45 => word(packet, 6) & 0x3fff != 0,
        _ => packet[6] == 44,
    }
}

/// Sees what `end` gives to its kernel during `traffic`: packets that are sound
/// and, if it may leave them, with checksums left.
fn given(end: &End<'_>, traffic: impl FnOnce()) -> (usize, usize) {
    let capture = Capture::of(end.host);
    traffic();
    let (mut sound, mut left) = (0, 0);
    while let Some(frame) = capture.next() {
        // A TUN's frames begin with the IP header. No Ethernet frame here does.
        if !matches!(frame.first(), Some(0x45 | 0x60)) || is_fragment(&frame) {
            continue;
        }
        let packet = Packet::parse(&frame).expect("a right header");
        let inwards = packet.destination().ends_with(&[1]);
        if !inwards || !matches!(packet.destination()[0], 10 | 0xfd) {
            continue;
        }
        if packet.is_sound() {
            sound += 1;
        } else {
            assert!(packet.is_left(), "a bad checksum: {frame:02x?}");
            left += 1;
        }
    }
    (sound, left)
}

/// Partial checksums that come by the flow are left to a kernel that takes
/// them, and completed for one that does not.
pub(crate) fn the_far_kernel_gets_checksums_as_it_takes_them() {
    let hosts = Hosts::on_udp();
    let without = Offload::ALL.without("checksums").expect("its name");
    for to in FIRST {
        for (offload, leaves) in [(Offload::ALL, true), (without, false)] {
            let ends = hosts.tunnel([offload, Offload::ALL]);
            let mtu = ends[1].mtu();
            let (sound, left) = given(&ends[0], || {
                transfer(&ends, to, 1 << 20);
                datagrams(&ends, to, mtu);
            });
            assert_eq!(left > 0, leaves, "{left} left, {sound} sound");
            assert!(left + sound > 100);
        }
    }
}
