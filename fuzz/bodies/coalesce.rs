//! Packets of a batch are joined, held against what they were, and taken apart.
//!
//! The bytes of a packet: a control byte, then either a length byte and that
//! many bytes, or, if bit 2 is set, a place and a value: the packet before,
//! continued, with one byte changed. Bit 0: the checksum is partial. Bit 1:
//! lengths and checksums are made right.

use std::ops::Range;

use ouroboros::tun::offload::{
    Checksums, Coalescer, Fragment, Layout, Run, Segments, Sum, Version, VnetHeader,
};

const MOST_PACKETS: usize = 200;

struct Packet {
    range: Range<usize>,
    partial: bool,
}

pub(crate) fn body(data: &[u8]) {
    let (original, packets) = read(data);
    let mut coalescer = Coalescer::new(true, true);
    let mut buffer = original.clone();
    for packet in &packets {
        coalescer.add(&buffer, packet.range.clone(), packet.partial);
    }
    assert_eq!(buffer, original, "to add changes nothing");
    coalescer.finish(&mut buffer);
    let mut order = Vec::new();
    for run in coalescer.runs() {
        let header = VnetHeader::parse(&run.header()).expect("a header of ours");
        let written: Vec<u8> = run.parts().flat_map(|part| buffer[part].iter().copied()).collect();
        assert_eq!(written.len(), run.bytes());
        let members = members(&run, &mut buffer, &packets);
        assert_eq!(members.len(), run.packets());
        check_run(&header, &written, &members, &packets, &original);
        order.extend(members);
    }
    assert_eq!(buffer, original, "taken apart, all is as it was");
    check_order(&order, &packets, &original);
}

/// The packets of a run as positions in the batch.
fn members(run: &Run<'_>, buffer: &mut [u8], packets: &[Packet]) -> Vec<usize> {
    let find = |range: Range<usize>| {
        packets.iter().position(|packet| packet.range == range).expect("a packet of the batch")
    };
    run.take_apart(buffer).map(|(_, range)| find(range)).collect()
}

/// Cut again, a run gives the packets that it was joined from.
fn check_run(
    header: &VnetHeader,
    written: &[u8],
    members: &[usize],
    packets: &[Packet],
    original: &[u8],
) {
    if let [alone] = *members {
        let Packet { range, partial } = &packets[alone];
        assert_eq!(written, &original[range.clone()]);
        assert!(header.gso.is_none() && (*partial || header.checksum.is_none()));
        return;
    }
    assert!(header.gso.is_some());
    let plan = |checksums| {
        Segments::plan(header, written, written.len(), 65535, checksums).expect("a run can be cut")
    };
    let (full, partial) = (plan(Checksums::Full), plan(Checksums::Partial));
    assert_eq!(full.count(), members.len());
    for (index, member) in members.iter().enumerate() {
        let packet = &packets[*member];
        let plan = if packet.partial { &partial } else { &full };
        let mut cut = vec![0; plan.size(index)];
        plan.copy(index, written, &mut cut);
        let mut packet = original[packet.range.clone()].to_vec();
        if cut[0] >> 4 == 4 && cut[4..6] != packet[4..6] {
            let first = &original[packets[members[0]].range.clone()];
            assert_eq!(packet[4..6], first[4..6], "ids count up or are the same");
            assert_ne!(packet[6] & 0x40, 0, "or the same only if fragmentation is forbidden");
            for packet in [&mut cut, &mut packet] {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
        assert_eq!(without_zeros(cut), without_zeros(packet));
    }
}

/// A packet whose checksums have one of the two zeros of ones' complement.
fn without_zeros(mut packet: Vec<u8>) -> Vec<u8> {
    let layout = Layout::of(&packet).expect("a packet");
    let field = layout.transport + if layout.protocol == 6 { 16 } else { 6 };
    let ip = if layout.version == Version::V4 { 10 } else { field };
    for at in [ip, field] {
        if packet[at..at + 2] == [0xff, 0xff] {
            packet[at..at + 2].fill(0);
        }
    }
    packet
}

/// No packet is before one of its flow that it came after.
fn check_order(order: &[usize], packets: &[Packet], original: &[u8]) {
    let bytes = |position: usize| &original[packets[position].range.clone()];
    assert_eq!(order.len(), packets.len());
    for (at, later) in order.iter().enumerate() {
        for earlier in order[at..].iter().filter(|earlier| *earlier < later) {
            let (one, other) = (bytes(*earlier), bytes(*later));
            assert!(are_of_different_flows(one, other), "{earlier} was overtaken by {later}");
        }
    }
}

fn are_of_different_flows(one: &[u8], other: &[u8]) -> bool {
    let (one, other) = (flow(one), flow(other));
    match (one.ports, other.ports) {
        (Some(ports), Some(others)) if one.addresses == other.addresses => ports != others,
        _ => one.addresses != other.addresses,
    }
}

struct Flow<'a> {
    addresses: Option<&'a [u8]>,
    /// Protocol and ports, if these can be told.
    ports: Option<(u8, &'a [u8])>,
}

fn flow(packet: &[u8]) -> Flow<'_> {
    let addresses = match Version::of(packet) {
        Some(Version::V4) => packet.get(12..20),
        Some(Version::V6) => packet.get(8..40),
        None => None,
    };
    let ports = Layout::of(packet).and_then(|layout| {
        let plain = layout.fragment == Fragment::Whole
            && layout.transport == layout.version.header_length()
            && matches!(layout.protocol, 6 | 17);
        let ports = packet.get(layout.transport..layout.transport + 4)?;
        plain.then_some((layout.protocol, ports))
    });
    Flow { addresses, ports }
}

fn read(mut data: &[u8]) -> (Vec<u8>, Vec<Packet>) {
    let (mut buffer, mut packets) = (Vec::new(), Vec::<Packet>::new());
    while let [control, first, rest @ ..] = data {
        let mut packet;
        if control & 4 == 0 {
            let (bytes, after) = rest.split_at(rest.len().min((*first).into()));
            (packet, data) = (bytes.to_vec(), after);
        } else {
            let last = packets.last().map_or(0..0, |packet| packet.range.clone());
            packet = buffer[last].to_vec();
            advance(&mut packet);
            let Some((value, after)) = rest.split_first() else { break };
            data = after;
            if let Some(byte) = packet.get_mut(usize::from(*first)) {
                *byte ^= value;
            }
        }
        if packet.is_empty() || packets.len() == MOST_PACKETS {
            break;
        }
        let partial = control & 1 != 0;
        if control & 2 != 0 {
            mend(&mut packet, partial);
        }
        let start = buffer.len();
        buffer.extend(packet);
        packets.push(Packet { range: start..buffer.len(), partial });
    }
    (buffer, packets)
}

/// Makes a packet the one that follows it.
fn advance(packet: &mut [u8]) {
    let Some(layout) = Layout::of(packet) else { return };
    if layout.version == Version::V4 {
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
    }
    let end = packet.len();
    let Some(tcp) = packet[layout.transport..].first_chunk_mut::<20>() else { return };
    if layout.protocol == 6 {
        let headers = layout.transport + usize::from(tcp[12] >> 4) * 4;
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let next = sequence.wrapping_add(end.saturating_sub(headers) as u32);
        tcp[4..8].copy_from_slice(&next.to_be_bytes());
    }
}

/// Makes lengths and checksums right.
fn mend(packet: &mut [u8], partial: bool) {
    let Some(version) = Version::of(packet) else { return };
    let header = version.header_length();
    if packet.len() < header {
        return;
    }
    let total = packet.len();
    match version {
        Version::V4 => packet[2..4].copy_from_slice(&(total as u16).to_be_bytes()),
        Version::V6 => packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes()),
    }
    let Some(layout) = Layout::of(packet) else { return };
    let (ip, transport) = packet.split_at_mut(layout.transport);
    if version == Version::V4 {
        ip[10..12].fill(0);
        let checksum = Sum::default().bytes(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let length = transport.len();
    let field = match layout.protocol {
        6 => 16,
        17 if length >= 8 => {
            transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            6
        }
        _ => return,
    };
    if length < field + 2 {
        return;
    }
    transport[field..field + 2].fill(0);
    let addresses = if version == Version::V4 { &ip[12..20] } else { &ip[8..40] };
    let sum = Sum::pseudo_header(addresses, layout.protocol, length);
    let sum = match (partial, field) {
        (true, _) => sum.fold(),
        (false, 6) => sum.bytes(transport).udp_checksum(),
        (false, _) => sum.bytes(transport).checksum(),
    };
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}
