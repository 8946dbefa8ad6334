//! From super-packets to packets.

use ouroboros::tun::offload::{
    ChecksumPlace, Checksums, Gso, GsoKind, SegmentError, Segments, VnetHeader, complete_checksum,
};
use proptest::prelude::*;

use crate::packets::{CWR, FIN, PSH, Packet, Tcp, any_super_packet, is_right};

/// All packets of a plan, each made in a slot of its own.
pub(crate) fn cut(
    vnet: &VnetHeader,
    packet: &[u8],
    largest: usize,
    checksums: Checksums,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let segments = Segments::plan(vnet, packet, packet.len(), largest, checksums)?;
    let make = |index| {
        let mut slot = vec![0xaa; segments.size(index)];
        segments.copy(index, packet, &mut slot);
        slot
    };
    Ok((0..segments.count()).map(make).collect())
}

/// What a card would make of a super-packet, by building each packet anew.
fn expected(packet: &Packet, size: usize) -> Vec<Packet> {
    let count = packet.payload.len().div_ceil(size).max(1);
    let part = |index: usize| {
        let from = index * size;
        let payload = packet.payload[from..packet.payload.len().min(from + size)].to_vec();
        let tcp = packet.tcp.clone().map(|tcp| Tcp {
            sequence: tcp.sequence.wrapping_add(from as u32),
            flags: tcp.flags
                & !(if index > 0 { CWR } else { 0 })
                & !(if index + 1 < count { FIN | PSH } else { 0 }),
            ..tcp
        });
        Packet { id: packet.id.wrapping_add(index as u16), tcp, payload, ..packet.clone() }
    };
    (0..count).map(part).collect()
}

proptest! {
    #[test]
    fn packets_are_those_that_a_card_would_have_sent((packet, size) in any_super_packet()) {
        let cut = cut(&packet.vnet(Some(size)), &packet.build_partial(), 65535, Checksums::Full)?;
        let expected = expected(&packet, size.into());
        prop_assert_eq!(cut.len(), expected.len());
        for (cut, expected) in cut.iter().zip(&expected) {
            prop_assert!(is_right(cut));
            prop_assert_eq!(cut, &expected.build());
        }
    }

    #[test]
    fn partial_checksums_complete_to_the_same((packet, size) in any_super_packet()) {
        let (vnet, whole) = (packet.vnet(Some(size)), packet.build_partial());
        let full = cut(&vnet, &whole, 65535, Checksums::Full)?;
        let partial = cut(&vnet, &whole, 65535, Checksums::Partial)?;
        let expected: Vec<_> =
            expected(&packet, size.into()).iter().map(Packet::build_partial).collect();
        prop_assert_eq!(&partial, &expected);
        for (full, mut partial) in full.into_iter().zip(partial) {
            let completed = complete_checksum(&mut partial, &packet.vnet(None), Checksums::Full);
            prop_assert_eq!(completed, Ok(false));
            prop_assert_eq!(partial, full);
        }
    }

    #[test]
    fn a_smaller_path_gets_smaller_packets_of_tcp_and_none_of_udp(
        (packet, size) in any_super_packet(),
        less in 1..2000_usize,
    ) {
        let asked = usize::from(size).min(packet.payload.len());
        let largest = (packet.header_length() + asked).saturating_sub(less);
        let result = cut(&packet.vnet(Some(size)), &packet.build_partial(), largest, Checksums::Full);
        if packet.tcp.is_none() || largest <= packet.header_length() {
            let too_large = packet.header_length() + asked;
            prop_assert_eq!(result, Err(SegmentError::TooLarge(too_large)));
        } else {
            let fitting = expected(&packet, largest - packet.header_length());
            let fitting: Vec<_> = fitting.iter().map(Packet::build).collect();
            prop_assert!(fitting.iter().all(|packet| packet.len() <= largest));
            prop_assert_eq!(result, Ok(fitting));
        }
    }

    #[test]
    fn no_more_than_the_headers_is_needed_to_plan((packet, size) in any_super_packet()) {
        let (vnet, whole) = (packet.vnet(Some(size)), packet.build_partial());
        let headers = &whole[..packet.header_length()];
        let segments = Segments::plan(&vnet, headers, whole.len(), 65535, Checksums::Full)?;
        let mut next = headers.len();
        for index in 0..segments.count() {
            let payload = segments.payload(index);
            prop_assert_eq!(payload.start, next);
            prop_assert_eq!(segments.size(index), segments.header_length() + payload.len());
            next = payload.end;
            let mut slot = vec![0; segments.header_length()];
            slot.extend(&whole[payload]);
            segments.write(index, &mut slot);
            prop_assert!(is_right(&slot));
        }
        prop_assert_eq!(next, whole.len());
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_cut_to_what_fits(
        vnet: [u8; 10],
        gso in prop::sample::select(vec![0_u8, 1, 4, 5]),
        (packet, _) in any_super_packet(),
        damage in prop::collection::vec((0_usize..120, any::<u8>()), 0..4),
        length in 0_usize..300,
        largest in 0_usize..300,
        partial: bool,
    ) {
        let mut bytes = packet.build_partial();
        bytes.truncate(length);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let mut vnet = vnet;
        vnet[1] = vnet[1] & 0x80 | gso;
        let Ok(vnet) = VnetHeader::parse(&vnet) else { return Ok(()) };
        let checksums = if partial { Checksums::Partial } else { Checksums::Full };
        if let Ok(packets) = cut(&vnet, &bytes, largest, checksums) {
            prop_assert!(packets.iter().all(|packet| packet.len() <= largest));
        }
        let _ = complete_checksum(&mut bytes, &vnet, checksums);
    }

    #[test]
    fn virtio_net_headers_read_and_write_as_given(
        flags in 0_u8..4,
        kind in prop::sample::select(vec![0_u8, 1, 0x81, 3, 4, 0x84, 5]),
        words: [u16; 4],
    ) {
        let mut bytes = [0; 10];
        (bytes[0], bytes[1]) = (flags, kind);
        for (field, word) in bytes[2..].chunks_mut(2).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        if kind == 0 {
            bytes[4..6].fill(0);
        } else if words[1] == 0 {
            prop_assert!(VnetHeader::parse(&bytes).is_err());
            return Ok(());
        }
        if flags & 1 == 0 {
            bytes[6..].fill(0);
        }
        let header = VnetHeader::parse(&bytes)?;
        prop_assert_eq!(header.encode(), bytes);
        prop_assert_eq!(header.header_length, words[0]);
        prop_assert_eq!(header.checksum.map(|place| (place.start, place.offset)),
            (flags & 1 != 0).then_some((words[2], words[3])));
    }
}

#[test]
fn a_checksum_beyond_the_routing_header_is_the_kernels() {
    // With a routing header the pseudo-header has the last destination, which
    // is not in the IP header (RFC 8200 section 8.1).
    let mut packet = Packet::tcp(true, vec![7; 300]);
    let mut routing = vec![0, 2, 3, 1, 0, 0, 0, 0];
    routing.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extensions.push((43, routing));
    let last = Packet { destination: 9, ..packet.clone() };
    let with_last_destination = |packet: &Packet, part: Vec<u8>| {
        let mut bytes = packet.build_partial();
        let len = bytes.len();
        bytes[packet.transport()..len].copy_from_slice(&part[packet.transport()..]);
        bytes
    };
    let whole = with_last_destination(&packet, last.build_partial());
    let parts = cut(&packet.vnet(Some(200)), &whole, 1280, Checksums::Full);
    let wanted = expected(&packet, 200).into_iter().zip(expected(&last, 200));
    let wanted = wanted.map(|(part, last)| with_last_destination(&part, last.build()));
    assert_eq!(parts, Ok(wanted.collect()));
}

#[test]
fn headers_that_do_not_agree_are_refused() {
    let packet = Packet::tcp(false, vec![1; 3000]);
    let (vnet, bytes) = (packet.vnet(Some(1400)), packet.build_partial());
    assert_eq!(cut(&vnet, &bytes, 1500, Checksums::Full).map(|cut| cut.len()), Ok(3));
    let place =
        |start, offset| VnetHeader { checksum: Some(ChecksumPlace { start, offset }), ..vnet };
    let gso = |kind| VnetHeader { gso: Some(Gso { kind, ecn: false, size: 1400 }), ..vnet };
    let refused = |vnet: &VnetHeader, bytes: &[u8]| {
        let error = cut(vnet, bytes, 1500, Checksums::Full).expect_err("refused");
        assert!(!matches!(error, SegmentError::TooLarge(_)));
    };
    for vnet in [
        place(24, 16),
        place(20, 6),
        place(u16::MAX, 16),
        place(20, u16::MAX),
        gso(GsoKind::Tcp6),
        gso(GsoKind::Udp),
        gso(GsoKind::UdpFragments),
    ] {
        refused(&vnet, &bytes);
    }
    // Of the IP header: version, header length, total length, offset,
    // protocol; of the TCP header: the data offset.
    for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x46), (3, 0), (7, 1), (9, 17), (32, 0x40)] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        refused(&vnet, &bytes);
    }
    for length in [0, 1, 19, 20, 33, 51] {
        refused(&vnet, &bytes[..length]);
    }
    // A hint is no more than that.
    let hint = VnetHeader { header_length: u16::MAX, ..vnet };
    assert_eq!(cut(&hint, &bytes, 1500, Checksums::Full).map(|cut| cut.len()), Ok(3));
}

#[test]
fn a_packet_that_stands_for_itself_gets_its_checksum() {
    for packet in [Packet::tcp(false, vec![5; 101]), Packet::udp(true, vec![6; 7])] {
        let (vnet, partial) = (packet.vnet(None), packet.build_partial());
        assert_eq!(cut(&vnet, &partial, 1280, Checksums::Full), Ok(vec![packet.build()]));
        assert_eq!(cut(&vnet, &partial, 1280, Checksums::Partial), Ok(vec![partial.clone()]));
        let plan = Segments::plan(&vnet, &partial, partial.len(), 1280, Checksums::Partial);
        assert!(plan.is_ok_and(|plan| plan.is_partial()));
        let none = VnetHeader::default();
        assert_eq!(cut(&none, &packet.build(), 1280, Checksums::Partial), Ok(vec![packet.build()]));
        let large = cut(&vnet, &partial, packet.length() - 1, Checksums::Full);
        assert_eq!(large, Err(SegmentError::TooLarge(packet.length())));
    }
}

#[test]
fn what_the_receiver_could_not_complete_is_completed() {
    // A fragment, another protocol, and a place that is not the protocol's.
    let mut fragment = Packet::udp(false, vec![1; 64]);
    fragment.fragment = 0x2000;
    let vnet = fragment.vnet(None);
    let mut other = Packet::udp(false, vec![2; 64]).build_partial();
    other[9] = 136;
    let odd = VnetHeader { checksum: Some(ChecksumPlace { start: 20, offset: 16 }), ..vnet };
    let packet = Packet::udp(false, vec![3; 64]).build_partial();
    for (vnet, bytes) in [(vnet, fragment.build_partial()), (vnet, other), (odd, packet)] {
        let mut full = bytes.clone();
        assert_eq!(complete_checksum(&mut full, &vnet, Checksums::Full), Ok(false));
        assert_ne!(full, bytes);
        let mut completed = bytes.clone();
        assert_eq!(complete_checksum(&mut completed, &vnet, Checksums::Partial), Ok(false));
        assert_eq!(completed, full);
        assert_eq!(cut(&vnet, &bytes, 1280, Checksums::Partial), Ok(vec![full]));
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // A payload that makes the sum all ones.
    let mut packet = Packet::udp(false, vec![0, 0]);
    let sum = u16::from_be_bytes(packet.build()[26..28].try_into().expect("two bytes"));
    packet.payload = sum.to_be_bytes().to_vec();
    let parts = cut(&packet.vnet(Some(2)), &packet.build_partial(), 1280, Checksums::Full);
    let parts = parts.expect("a right packet");
    assert_eq!(parts[0][26..28], [0xff, 0xff]);
    let mut single = packet.build_partial();
    assert_eq!(complete_checksum(&mut single, &packet.vnet(None), Checksums::Full), Ok(false));
    assert_eq!(single[26..28], [0xff, 0xff]);
}
