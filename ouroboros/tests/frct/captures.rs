//! Our machine in the place of either end of a capture: it takes what the other end
//! sent, and sends packets of the same kinds.

use std::{collections::BTreeSet, time::Duration};

use ouroboros::{
    proto::frct::{Frct, Service},
    wire::frct::{Flags, HEADER, Header},
};

use crate::{Random, machine, ms, transmit};

macro_rules! capture {
    ($name:literal) => {
        packets(include_bytes!(concat!("../vectors/frct/", $name, ".pcap")))
    };
}

struct Packet {
    at: Duration,
    by_client: bool,
    bytes: Vec<u8>,
}

/// The packets of the flow in a capture from eth-dix. The first frame is the
/// client's name query.
fn packets(pcap: &[u8]) -> Vec<Packet> {
    let word = |at: usize| u32::from_le_bytes(pcap[at..at + 4].try_into().expect("a word"));
    assert_eq!(word(0), 0xa1b2_c3d4, "microseconds, little-endian");
    let (mut at, mut start, mut client, mut packets) = (24, None, None, Vec::new());
    while at < pcap.len() {
        let time = Duration::new(word(at).into(), 1000 * word(at + 4));
        let size = word(at + 8) as usize;
        let frame = &pcap[at + 16..at + 16 + size];
        at += 16 + size;
        let source = &frame[6..12];
        let client = *client.get_or_insert(source);
        let endpoint = u16::from_be_bytes([frame[14], frame[15]]);
        let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let bytes = frame[18..18 + length].to_vec();
        if endpoint != 0 && !bytes.is_empty() {
            let at = time - *start.get_or_insert(time);
            packets.push(Packet { at, by_client: source == client, bytes });
        }
    }
    assert!(!packets.is_empty());
    packets
}

fn header(packet: &[u8]) -> Header {
    Header::parse(packet).expect("well-formed").0
}

#[test]
fn every_header_is_read_and_written_back() {
    for capture in [
        capture!("best-oneway"),
        capture!("best-paced"),
        capture!("best-pp"),
        capture!("data-late"),
        capture!("data-pp"),
        capture!("oping-data"),
        capture!("oping-data-loss"),
    ] {
        for Packet { bytes, .. } in capture {
            assert_eq!(header(&bytes).encode(), bytes[..HEADER]);
        }
    }
}

/// Puts our machine in the place of the client, or the server; the packets of the
/// other come as captured, and its own application writes when the one in the
/// capture did. What the machine sent, and how many packets it handed over.
fn replay(capture: &[Packet], service: Service, as_client: bool) -> (Vec<Header>, usize) {
    let mut frct = machine(service, Duration::ZERO, &mut Random::seeded(1));
    let (mut sent, mut read, mut known) = (Vec::new(), 0, BTreeSet::new());
    // What our end's numbers are, and were in the capture.
    let first = |packets: &[Packet], ours: bool| {
        let mut data = packets.iter().filter(|packet| (packet.by_client == as_client) == ours);
        data.find_map(|packet| {
            let header = header(&packet.bytes);
            header.flags.contains(Flags::DATA).then_some(header.sequence)
        })
    };
    let theirs = first(capture, true);
    for packet in capture {
        run_to(&mut frct, packet.at, &mut sent);
        let captured = header(&packet.bytes);
        if packet.by_client == as_client {
            if captured.flags.contains(Flags::DATA) && known.insert(captured.sequence) {
                frct.write(packet.at, &packet.bytes[HEADER..]).expect("room");
            }
        } else {
            let mut bytes = packet.bytes.clone();
            let ours = sent.iter().find(|header: &&Header| header.flags.contains(Flags::DATA));
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                // As if it had heard our numbers.
                let moved = ours.sequence.wrapping_sub(theirs);
                let mut header = captured;
                if header.flags.contains(Flags::ACK) && header.acknowledgement != 0 {
                    header.acknowledgement = header.acknowledgement.wrapping_add(moved);
                }
                if header.flags.contains(Flags::FC) && header.window != 0 {
                    header.window = header.window.wrapping_add(moved) & 0xff_ffff;
                }
                bytes[..HEADER].copy_from_slice(&header.encode());
            }
            frct.handle(packet.at, &bytes);
        }
        while frct.read(packet.at).is_some() {
            read += 1;
        }
        drain(&mut frct, packet.at, &mut sent);
    }
    let end = capture.last().expect("packets").at + ms(200);
    run_to(&mut frct, end, &mut sent);
    (sent, read)
}

fn run_to(frct: &mut Frct, end: Duration, sent: &mut Vec<Header>) {
    while let Some(due) = frct.poll_timeout().filter(|due| *due <= end) {
        frct.handle_timeout(due);
        drain(frct, due, sent);
    }
}

fn drain(frct: &mut Frct, now: Duration, sent: &mut Vec<Header>) {
    let packets = std::iter::from_fn(|| transmit(frct, now)).filter(|packet| !packet.is_empty());
    sent.extend(packets.map(|packet| header(&packet)));
}

/// The numbers of data that one end sent, each once.
fn numbers(capture: &[Packet], by_client: bool) -> usize {
    let data = capture.iter().filter(|packet| packet.by_client == by_client);
    let headers = data.map(|packet| header(&packet.bytes));
    let data = headers.filter(|header| header.flags.contains(Flags::DATA));
    data.map(|header| header.sequence).collect::<BTreeSet<_>>().len()
}

/// The kinds of packets; that of a bare packet without DRF, which is ours to add.
fn kinds(headers: impl Iterator<Item = Header>) -> BTreeSet<u8> {
    let kind = |header: Header| match header.flags.contains(Flags::DATA) {
        true => header.flags.bits(),
        false => header.flags.bits() & !Flags::DRF.bits(),
    };
    headers.map(kind).collect()
}

#[test]
fn either_end_of_a_reliable_flow_is_ours() {
    for (name, capture) in [
        ("data-pp", capture!("data-pp")),
        ("data-late", capture!("data-late")),
        ("oping-data", capture!("oping-data")),
    ] {
        for as_client in [true, false] {
            let (sent, read) = replay(&capture, Service::Reliable, as_client);
            // All of it, also where the 0.23 peer lost it for ever.
            assert_eq!(read, numbers(&capture, !as_client), "{name}, client: {as_client}");
            let theirs = capture.iter().filter(|packet| packet.by_client == as_client);
            let theirs = kinds(theirs.map(|packet| header(&packet.bytes)));
            let ours = kinds(sent.into_iter());
            let new: Vec<_> = ours.difference(&theirs).collect();
            // Where ours acknowledges by itself after 5 ms, and the other after 10.
            let expected = new.iter().all(|kind| **kind == (Flags::ACK | Flags::FC).bits());
            assert!(expected, "{name}, client: {as_client}: {new:02x?} beside {theirs:02x?}");
        }
    }
}

#[test]
fn either_end_of_an_ordered_flow_is_ours() {
    for (name, capture) in [
        ("best-pp", capture!("best-pp")),
        ("best-oneway", capture!("best-oneway")),
        ("best-paced", capture!("best-paced")),
    ] {
        for as_client in [true, false] {
            let (sent, read) = replay(&capture, Service::Ordered, as_client);
            assert_eq!(read, numbers(&capture, !as_client), "{name}, client: {as_client}");
            let known = [Flags::DATA | Flags::DRF, Flags::DATA | Flags::DRF | Flags::FC, Flags::FC];
            let known = known.map(Flags::bits);
            let ours = kinds(sent.into_iter());
            assert!(ours.iter().all(|kind| known.contains(kind)), "{name}: {ours:02x?}");
        }
    }
}

#[test]
fn losses_in_a_capture_are_healed_by_what_was_captured() {
    let capture = capture!("oping-data-loss");
    for as_client in [true, false] {
        let (_, read) = replay(&capture, Service::Reliable, as_client);
        // Seen at the client: of what was lost on the way there, nothing is left.
        let there = numbers(&capture, !as_client);
        assert!(read + 3 >= there, "{read} of {there}, client: {as_client}");
    }
}
