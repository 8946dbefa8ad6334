//! Whatever IP packets go in come out as they were, and TCP has all that it
//! uses of the network: its options, and marks of congestion.

use ouroboros::{
    Offload,
    transport::{
        EthDix,
        fault::{Faults, Faulty},
    },
};

use crate::{
    capture::{Capture, Packet, checksum, word},
    hosts::{End, Hosts, address, eventually, udp},
    offloads::counter,
    traffic::{FIRST, transfer},
    wire::{Datagram, Wire},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// An IPv4 packet with a right header checksum.
fn v4(protocol: u8, change: impl FnOnce(&mut Vec<u8>), payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0x6f, 0x37, 0, 0, 64, protocol, 0, 0];
    header.extend_from_slice(&[198, 51, 100, 1, 198, 51, 100, 2]);
    change(&mut header);
    header[0] = 0x40 | (header.len() / 4) as u8;
    let length = (header.len() + payload.len()) as u16;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

/// An IPv6 packet; `next` is the type of what `payload` begins with.
fn v6(next: u8, change: impl FnOnce(&mut Vec<u8>), payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0x0a, 0xbc, 0xde, 0, 0, next, 64];
    header.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    change(&mut header);
    [&header, payload].concat()
}

/// A TCP header with these flags and options, and a payload.
fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = (5 + options.len() / 4) as u8;
    let fixed = [1, 2, 3, 4, 9, 9, 9, 9, 8, 8, 8, 8, words << 4, flags, 7, 7, 0xba, 0xdd, 0, 5];
    [&fixed, options, payload].concat()
}

/// A UDP header, with a checksum that is none or wrong, and a payload.
fn udp_datagram(checksum: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let [sum, more] = checksum.to_be_bytes();
    [&[0x22, 0xb8, 0x22, 0xb9, high, low, sum, more], payload].concat()
}

/// Packets of which a tunnel has nothing to say. None may be joined with its
/// neighbour.
fn packets() -> Vec<Vec<u8>> {
    let same = |_: &mut Vec<u8>| {};
    let payload: Vec<u8> = (0..255).cycle().take(600).collect();
    let echo = |kind: u8| {
        let sum = checksum(&[&[kind, 0, 0, 0], &payload]).to_be_bytes();
        [&[kind, 0, sum[0], sum[1]], &payload[..]].concat()
    };
    // The maximum segment size that fits, SACK permitted, timestamps, scaling.
    let syn = [2, 4, 2, 0, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    // Timestamps, and two blocks.
    let mut sack = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 18];
    sack.extend_from_slice(&[7; 16]);
    let destination = [6, 0, 1, 4, 0, 0, 0, 0];
    let hop_by_hop = [60, 0, 5, 2, 0, 0, 1, 0];
    let routing = [6, 2, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let fragment = |next, offset: u16| {
        let [high, low] = offset.to_be_bytes();
        [next, 0, high, low, 0x6f, 0x37, 0, 1]
    };
    let mut all = vec![
        v4(17, same, &udp_datagram(0, &payload)),
        v4(17, same, &udp_datagram(0xbad0, &payload)),
        v4(17, |header| header[6..8].copy_from_slice(&[0x20, 0]), &udp_datagram(0, &payload)),
        v4(17, |header| header[6..8].copy_from_slice(&[0x20, 75]), &payload),
        v4(17, |header| header[6..8].copy_from_slice(&[0, 150]), &payload[..90]),
        v4(17, |header| header[6] = 0x40, &[1, 2, 3]),
        v4(6, same, &tcp(0x02, &syn, &[])),
        v4(6, |header| header[1] = 2, &tcp(0xc2, &syn, &[])),
        v4(6, |header| header[6] = 0x40, &tcp(0x10, &sack, &[])),
        v4(6, |header| header[1] = 0xb8, &tcp(0xff, &[1, 1, 1, 0], &payload)),
        v4(6, same, &tcp(0x10, &[], &[])[..13]),
        v4(1, same, &echo(8)),
        v4(1, |header| header[8] = 1, &echo(13)),
        v4(253, same, &payload),
        v4(253, same, &[]),
        v4(47, |header| header.extend_from_slice(&[0x94, 4, 0, 0]), &payload),
        v4(2, |header| header[16..20].copy_from_slice(&[224, 0, 0, 251]), &payload[..8]),
        v4(17, |header| header[16..20].copy_from_slice(&[239, 1, 2, 3]), &udp_datagram(0, b"all")),
        v4(17, |header| header[16..20].fill(255), &udp_datagram(0, b"everybody")),
        v6(17, same, &udp_datagram(0xbad0, &payload)),
        v6(6, same, &tcp(0x02, &syn, &[])),
        v6(6, same, &tcp(0x18, &sack, &payload)),
        v6(58, same, &echo(128)),
        v6(58, |header| header[7] = 255, &echo(136)),
        v6(253, same, &payload),
        v6(59, same, &[]),
        v6(60, same, &[&destination, &tcp(0x18, &[], &payload)[..]].concat()),
        v6(0, same, &[&hop_by_hop, &destination, &tcp(0x18, &sack, &payload)[..]].concat()),
        v6(43, same, &[&routing, &tcp(0x18, &[], &payload)[..]].concat()),
        v6(44, same, &[&fragment(17, 1), &udp_datagram(1, &payload)[..]].concat()),
        v6(44, same, &[&fragment(17, 609), &payload[..]].concat()),
        v6(44, same, &[&fragment(17, 1216), &payload[..33]].concat()),
        v6(17, |header| header[24..26].copy_from_slice(&[0xff, 2]), &udp_datagram(7, b"all")),
    ];
    for at in 0..4 {
        all.push(v4(253, |header| header[1] = at, &payload));
        all.push(v6(253, |header| header[1] = at << 4, &payload));
    }
    all
}

/// Sends the packets into the device of one end; they come out of the other's
/// in order and as they are.
fn pass(from: &End<'_>, to: &End<'_>) {
    let packets = packets();
    let (sends, receives) = (Capture::of(from.host), Capture::of(to.host));
    let is_ip = |frame: &[u8]| matches!(frame.first(), Some(byte) if matches!(byte >> 4, 4 | 6));
    // Any packet shows how one leaves by the device.
    let mut device = None;
    from.host.shell(&format!("ping -q -c 1 -I {} 10.9.0.9 -W 0.1 || true", from.device()));
    eventually("a packet on the device", || {
        let seen = std::iter::from_fn(|| sends.next_from());
        device = seen.filter(|(frame, _)| is_ip(frame)).last().map(|(_, device)| device);
        device.is_some()
    });
    for packet in &packets {
        sends.send(packet, device.as_ref().expect("found"));
    }
    let mut expected = packets.iter().peekable();
    eventually("all packets", || {
        while let Some(frame) = receives.next() {
            // What the kernels have to say is no packet of these.
            if expected.peek().is_some_and(|packet| **packet == frame) {
                expected.next();
            } else {
                let known = packets.iter().position(|packet| *packet == frame);
                assert_eq!(known, None, "out of order, or twice: {frame:02x?}");
            }
        }
        expected.peek().is_none()
    });
}

pub(crate) fn packets_of_every_kind_pass_unchanged_and_in_order() {
    for hosts in [Hosts::on_udp(), Hosts::on_ethernet()] {
        for offload in [Offload::ALL, Offload::NONE] {
            let ends = hosts.tunnel([offload; 2]);
            pass(&ends[0], &ends[1]);
            pass(&ends[1], &ends[0]);
        }
    }
}

pub(crate) fn tcp_recovers_from_loss_with_the_help_of_its_options() {
    let faults = Faults { lost: 10, reordered: 5, duplicated: 2, corrupted: 2 };
    let [one, two] = [1, 2].map(|seed| Faulty::new(EthDix::on("eth0"), faults, seed));
    let hosts = Hosts::with_cable().serving((one, two));
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let capture = Capture::of(ends[0].host);
    transfer(&ends, FIRST[0], 8 << 20);
    let mut seen = [false; 2];
    while let Some(frame) = capture.next() {
        let Ok(packet) = Packet::parse(&frame) else { continue };
        if packet.protocol == 6 && packet.destination().ends_with(&[0, 1]) {
            let options = &packet.transport[20..usize::from(packet.transport[12] >> 4) * 4];
            let timestamps = options.windows(2).any(|option| option == [8, 10]);
            assert!(timestamps || packet.transport[13] & 4 != 0, "no timestamps: {frame:02x?}");
            seen[0] |= timestamps;
            seen[1] |= options.windows(4).any(|option| option[..3] == [1, 1, 5] && option[3] > 9);
        }
    }
    assert_eq!(seen, [true; 2], "timestamps, and blocks of selective acknowledgement");
    for end in &ends {
        assert!(counter(end.host, "TcpExt.TCPSackRecovery") > 0);
        assert_eq!(counter(end.host, "Tcp.InCsumErrors"), 0);
    }
}

/// What TCP says of congestion goes outward, and what a router says inward.
pub(crate) fn marks_of_congestion_are_carried_outward_and_inward() {
    let hosts = Hosts::apart();
    let wire = Wire::between(&hosts.one, &hosts.two);
    address(&hosts.one, 1);
    address(&hosts.two, 2);
    for host in [&hosts.one, &hosts.two] {
        host.shell("sysctl -qw net.ipv4.tcp_ecn=1");
    }
    let hosts = hosts.serving(udp("10.66.0.1", "10.66.0.2"));
    let ends = hosts.tunnel([Offload::ALL; 2]);
    // A marked packet whose sender does not understand it is lost, and so the
    // ones that are not TCP's data are left alone.
    let able = Arc::new(AtomicUsize::new(0));
    let counted = able.clone();
    wire.rule(move |from, mut frame, leave| {
        if let Some(mut datagram) = Datagram::of(&mut frame)
            && datagram.ecn() == 2
            && counted.fetch_add(1, Relaxed) % 50 == 49
        {
            datagram.payload();
            datagram.mark_congestion();
        }
        leave(from.other(), &frame);
    });
    let capture = Capture::of(ends[0].host);
    for to in FIRST {
        transfer(&ends, to, 2 << 20);
    }
    assert!(able.load(Relaxed) > 1000, "outer packets say that their senders understand marks");
    let (mut marked, mut reduced) = (0, 0);
    while let Some(frame) = capture.next() {
        // Only the device's own frames begin with an IP header.
        let field = match frame.first() {
            Some(0x45) => frame[1] & 3,
            Some(0x60..=0x6f) => frame[1] >> 4 & 3,
            _ => continue,
        };
        let Ok(packet) = Packet::parse(&frame) else { continue };
        if packet.protocol == 6 && packet.destination().ends_with(&[1]) {
            marked += usize::from(field == 3);
            // The sender says that it has heard of it.
            reduced += usize::from(word(packet.transport, 12) & 0x80 != 0);
        }
    }
    assert!(marked > 10, "{marked} inner packets say that congestion was met");
    assert!(reduced > 2, "the far sender has reduced its window {reduced} times");
    assert_eq!(ends.each_ref().map(|end| end.statistics().congested), [0; 2]);
    assert!(counter(ends[0].host, "IpExt.InCEPkts") > 0, "the kernel has seen the marks");
}
