//! From packets to runs.

use std::ops::Range;

use ouroboros::tun::offload::{ChecksumPlace, Checksums, Coalescer, LONGEST_RUN, VnetHeader};
use proptest::prelude::*;

#[path = "../../../fuzz/bodies/coalesce.rs"]
mod body;

use crate::{
    packets::{ACK, CWR, DF, ECE, FIN, PSH, Packet, RST, SYN, URG, is_right, super_packet},
    segment::cut,
};

/// Packets one after the other, as a batch holds them, with some room between.
fn batch(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut buffer = Vec::new();
    let mut place = |packet: &Vec<u8>| {
        buffer.extend([0xee; 3]);
        let start = buffer.len();
        buffer.extend(packet);
        start..buffer.len()
    };
    let ranges = packets.iter().map(&mut place).collect();
    (buffer, ranges)
}

/// What is written for packets, all with partial checksums or none: virtio-net
/// headers and packets.
fn join_by(
    coalescer: &mut Coalescer,
    packets: &[Vec<u8>],
    partial: bool,
) -> Vec<(VnetHeader, Vec<u8>)> {
    let (mut buffer, ranges) = batch(packets);
    coalescer.clear();
    for range in ranges {
        coalescer.add(&buffer, range, partial);
    }
    coalescer.finish(&mut buffer);
    let written = coalescer.runs().map(|run| {
        let header = VnetHeader::parse(&run.header()).expect("a header");
        let bytes = run.parts().flat_map(|part| buffer[part].to_vec()).collect();
        (header, bytes)
    });
    written.collect()
}

fn join(packets: &[Vec<u8>], partial: bool) -> Vec<(VnetHeader, Vec<u8>)> {
    join_by(&mut Coalescer::new(true, true), packets, partial)
}

/// The packet that follows another, with as much payload.
fn next(packet: &Packet) -> Packet {
    let mut next = packet.clone();
    next.id = next.id.wrapping_add(1);
    if let Some(tcp) = &mut next.tcp {
        tcp.sequence = tcp.sequence.wrapping_add(packet.payload.len() as u32);
    }
    next
}

fn build(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(Packet::build).collect()
}

/// How many packets there are in each run.
fn lengths(packets: &[Packet]) -> Vec<usize> {
    let (buffer, ranges) = batch(&build(packets));
    let mut coalescer = Coalescer::new(true, true);
    for range in ranges {
        coalescer.add(&buffer, range, false);
    }
    coalescer.runs().map(|run| run.packets()).collect()
}

fn kinds() -> Vec<Packet> {
    let of = |v6| [Packet::tcp(v6, vec![1; 100]), Packet::udp(v6, vec![2; 100])];
    [of(false), of(true)].concat()
}

proptest! {
    #[test]
    fn what_was_cut_is_joined_to_what_it_was((packet, size) in super_packet(), partial: bool) {
        let (vnet, whole) = (packet.vnet(Some(size)), packet.build_partial());
        let checksums = if partial { Checksums::Partial } else { Checksums::Full };
        let parts = cut(&vnet, &whole, 65535, checksums)?;
        let joined = join(&parts, partial);
        if parts.len() > 1 {
            prop_assert_eq!(joined, vec![(vnet, whole)]);
        } else {
            let vnet = if partial { packet.vnet(None) } else { VnetHeader::default() };
            prop_assert_eq!(joined, vec![(vnet, parts[0].clone())]);
        }
    }

    #[test]
    fn taken_apart_a_run_is_the_packets_that_it_was((packet, size) in super_packet(), mix: u64) {
        let (vnet, whole) = (packet.vnet(Some(size)), packet.build_partial());
        let full = cut(&vnet, &whole, 65535, Checksums::Full)?;
        let partial = cut(&vnet, &whole, 65535, Checksums::Partial)?;
        // Of one flow some packets may come with partial checksums.
        let is_partial = |index: usize| mix >> (index % 64) & 1 == 1;
        let parts: Vec<_> = (0..full.len())
            .map(|index| if is_partial(index) { &partial } else { &full }[index].clone())
            .collect();
        let (mut buffer, ranges) = batch(&parts);
        let original = buffer.clone();
        let mut coalescer = Coalescer::new(true, true);
        for (index, range) in ranges.iter().enumerate() {
            coalescer.add(&buffer, range.clone(), is_partial(index));
        }
        coalescer.finish(&mut buffer);
        prop_assert_eq!(coalescer.runs().len(), 1);
        for run in coalescer.runs() {
            prop_assert_eq!(run.packets(), parts.len());
            let singles: Vec<_> = run.take_apart(&mut buffer).collect();
            prop_assert_eq!(&buffer, &original);
            for (index, (header, range)) in singles.into_iter().enumerate() {
                let partial = packet.vnet(None);
                let wanted = if is_partial(index) { partial } else { VnetHeader::default() };
                prop_assert_eq!((header, range), (wanted.encode(), ranges[index].clone()));
            }
        }
    }

    #[test]
    fn interleaved_flows_are_joined_each_in_its_order(
        flows in prop::collection::vec(super_packet(), 1..8),
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let mut queues = Vec::new();
        for (index, (mut packet, size)) in flows.into_iter().enumerate() {
            packet.ports = (index as u16, 1);
            packet.payload.truncate(usize::from(size) * 12);
            let (vnet, whole) = (packet.vnet(Some(size)), packet.build_partial());
            let mut parts = cut(&vnet, &whole, 65535, Checksums::Full)?;
            let alone = parts.len() == 1;
            let written = if alone { (VnetHeader::default(), packet.build()) } else { (vnet, whole) };
            parts.reverse();
            queues.push((parts, Some(written)));
        }
        let (mut packets, mut wanted) = (Vec::new(), Vec::new());
        for turn in order.into_iter().cycle() {
            queues.retain(|(parts, _)| !parts.is_empty());
            if queues.is_empty() {
                break;
            }
            let index = turn.index(queues.len());
            let (parts, written) = &mut queues[index];
            packets.extend(parts.pop());
            wanted.extend(written.take());
        }
        prop_assert_eq!(join(&packets, false), wanted);
    }

    #[test]
    fn arbitrary_packets_are_joined_only_to_what_can_be_cut_again(
        starts in prop::collection::vec((super_packet(), 0_usize..200), 1..4),
        steps in prop::collection::vec((0_u8..8, any::<u8>(), any::<u8>(), 0_u8..4), 0..60),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        // The input of the fuzz target: packets and changed copies of them.
        let mut data = Vec::new();
        for ((mut packet, _), length) in starts {
            packet.payload.truncate(length);
            let bytes = packet.build();
            data.extend([2, bytes.len() as u8]);
            data.extend(bytes);
            for (control, place, value, change) in &steps {
                // Three of four copies follow unchanged.
                let value = if *change == 0 { *value } else { 0 };
                data.extend([control | 6, *place % 80, value]);
            }
        }
        data.extend(garbage);
        body::body(&data);
    }
}

#[test]
fn packets_that_follow_each_other_become_one() {
    for packet in kinds() {
        let follower = next(&packet);
        let mut short = next(&follower);
        short.payload.truncate(1);
        let packets = build(&[packet.clone(), follower.clone(), short.clone()]);
        let joined = join(&packets, false);
        let mut whole = packet.clone();
        whole.payload.extend([&follower.payload[..], &short.payload].concat());
        assert_eq!(joined, [(packet.vnet(Some(100)), whole.build_partial())]);
        // After a shorter one none follows.
        short = next(&packet);
        short.payload.truncate(1);
        assert_eq!(lengths(&[packet.clone(), short.clone(), next(&short)]), [2, 1]);
        // A longer one does not follow.
        let mut longer = follower.clone();
        longer.payload.push(3);
        assert_eq!(lengths(&[packet, longer]), [1, 1]);
    }
}

#[test]
fn a_packet_that_differs_in_any_field_is_not_joined() {
    type Change = fn(&mut Packet);
    let any: [(&str, Change); 8] = [
        ("source", |packet| packet.source += 1),
        ("destination", |packet| packet.destination += 1),
        ("class", |packet| packet.class ^= 0x10),
        ("ECN", |packet| packet.class ^= 1),
        ("hops", |packet| packet.hops -= 1),
        ("source port", |packet| packet.ports.0 += 1),
        ("destination port", |packet| packet.ports.1 += 1),
        ("no payload", |packet| packet.payload.clear()),
    ];
    let v4: [(&str, Change); 7] = [
        ("id", |packet| packet.id = packet.id.wrapping_add(1)),
        ("id behind", |packet| packet.id = packet.id.wrapping_sub(2)),
        ("fragmentation allowed", |packet| packet.fragment = 0),
        ("more fragments", |packet| packet.fragment |= 0x2000),
        ("fragment offset", |packet| packet.fragment |= 1),
        ("reserved flag", |packet| packet.fragment |= 0x8000),
        ("IP options", |packet| packet.ip_options = vec![1; 4]),
    ];
    let v6: [(&str, Change); 2] = [
        ("flow label", |packet| packet.label += 1),
        ("extension header", |packet| packet.extensions = vec![(60, vec![0; 8])]),
    ];
    let tcp: [(&str, Change); 14] = [
        ("sequence", |packet| packet.tcp_mut().sequence += 1),
        ("sequence behind", |packet| packet.tcp_mut().sequence -= 1),
        ("acknowledgement", |packet| packet.tcp_mut().acknowledgement += 1),
        ("reserved", |packet| packet.tcp_mut().reserved ^= 1),
        ("window", |packet| packet.tcp_mut().window += 1),
        ("urgent pointer", |packet| packet.tcp_mut().urgent += 1),
        ("timestamp", |packet| packet.tcp_mut().options[7] += 1),
        ("more options", |packet| packet.tcp_mut().options.extend([1; 4])),
        ("ECE", |packet| packet.tcp_mut().flags ^= ECE),
        ("no ACK", |packet| packet.tcp_mut().flags ^= ACK),
        ("SYN", |packet| packet.tcp_mut().flags |= SYN),
        ("RST", |packet| packet.tcp_mut().flags |= RST),
        ("URG", |packet| packet.tcp_mut().flags |= URG),
        ("CWR", |packet| packet.tcp_mut().flags |= CWR),
    ];
    for packet in kinds() {
        let mut changes = any.to_vec();
        changes.extend(if packet.v6 { &v6[..] } else { &v4[..] });
        changes.extend(if packet.tcp.is_some() { &tcp[..] } else { &[] });
        for (name, change) in changes {
            let follower = next(&packet);
            assert_eq!(lengths(&[packet.clone(), follower.clone()]), [2]);
            let mut changed = follower;
            change(&mut changed);
            let packets = build(&[packet.clone(), changed]);
            let alone = packets.iter().map(|packet| (VnetHeader::default(), packet.clone()));
            assert_eq!(join(&packets, false), alone.collect::<Vec<_>>(), "{name}");
        }
    }
}

#[test]
fn what_none_may_follow_is_followed_by_none() {
    for v6 in [false, true] {
        for flags in [SYN, RST, URG, CWR] {
            let mut packet = Packet::tcp(v6, vec![1; 100]);
            packet.tcp_mut().flags |= flags;
            assert_eq!(lengths(&[packet.clone(), next(&packet)]), [1, 1]);
        }
        let mut acknowledgement = Packet::tcp(v6, Vec::new());
        acknowledgement.tcp_mut().flags = ACK;
        assert_eq!(lengths(&[acknowledgement.clone(), next(&acknowledgement)]), [1, 1]);
        let empty = Packet::udp(v6, Vec::new());
        assert_eq!(lengths(&[empty.clone(), next(&empty)]), [1, 1]);
    }
    for mut packet in kinds().into_iter().filter(|packet| !packet.v6) {
        packet.fragment |= 0x8000;
        assert_eq!(lengths(&[packet.clone(), next(&packet)]), [1, 1]);
    }
}

#[test]
fn push_and_fin_end_a_run_and_are_its() {
    for v6 in [false, true] {
        for flags in [PSH, FIN, PSH | FIN] {
            let packet = Packet::tcp(v6, vec![1; 100]);
            let mut last = next(&packet);
            last.tcp_mut().flags |= flags;
            let mut after = next(&last);
            after.tcp_mut().flags = ACK;
            let joined = join(&build(&[packet.clone(), last.clone(), after.clone()]), false);
            let mut whole = packet.clone();
            whole.tcp_mut().flags |= flags;
            whole.payload.extend(&last.payload);
            assert_eq!(joined.len(), 2);
            assert_eq!(joined[0], (packet.vnet(Some(100)), whole.build_partial()));
            assert_eq!(joined[1], (VnetHeader::default(), after.build()));
            // Nothing follows a first one with it.
            assert_eq!(lengths(&[last.clone(), after]), [1, 1]);
        }
    }
}

#[test]
fn ids_stay_the_same_only_where_fragmentation_is_forbidden() {
    for mut packet in kinds().into_iter().filter(|packet| !packet.v6) {
        let same = |packet: &Packet| Packet { id: packet.id, ..next(packet) };
        let [second, third] = [same(&packet), same(&same(&packet))];
        assert_eq!(lengths(&[packet.clone(), second.clone(), third.clone()]), [3]);
        // The second decides.
        assert_eq!(lengths(&[packet.clone(), second.clone(), next(&second)]), [2, 1]);
        let counted = next(&packet);
        assert_eq!(lengths(&[packet.clone(), counted.clone(), same(&counted)]), [2, 1]);
        packet.fragment = 0;
        assert_eq!(lengths(&[packet.clone(), same(&packet)]), [1, 1]);
        assert_eq!(lengths(&[packet.clone(), next(&packet)]), [2]);
    }
}

#[test]
fn a_packet_that_is_not_intact_passes_as_it_is() {
    for packet in kinds() {
        let follower = next(&packet);
        // IPv4's checksum, the transport's, and the payload.
        let mut places = vec![packet.field(), packet.length() - 1];
        places.extend((!packet.v6).then_some(10));
        for place in places {
            for damaged in 0..2 {
                let mut packets = build(&[packet.clone(), follower.clone()]);
                packets[damaged][place] ^= 1;
                let alone = packets.iter().map(|packet| (VnetHeader::default(), packet.clone()));
                assert_eq!(join(&packets, false), alone.collect::<Vec<_>>());
            }
        }
        // Cut off, or with something behind.
        let mut packets = build(&[packet.clone(), follower]);
        packets[1].pop();
        assert_eq!(join(&packets, false).len(), 2);
        packets[1].extend([0; 2]);
        assert_eq!(join(&packets, false).len(), 2);
    }
    let mut unsummed = Packet::udp(false, vec![1; 10]).build();
    unsummed[26..28].fill(0);
    assert_eq!(join(&[unsummed.clone(), unsummed], false).len(), 2);
}

#[test]
fn partial_checksums_are_the_kernels_to_complete() {
    for packet in kinds() {
        let alone = join(&[packet.build_partial()], true);
        assert_eq!(alone, [(packet.vnet(None), packet.build_partial())]);
        // One that is not even the pseudo-header's is not joined.
        let packets = [packet.build_partial(), next(&packet).build()];
        let place = packet.vnet(None);
        let written = packets.iter().map(|packet| (place, packet.clone()));
        assert_eq!(join(&packets, true), written.collect::<Vec<_>>());
    }
    // With extension headers or options the place is another.
    let mut packet = Packet::tcp(true, vec![1; 10]);
    packet.extensions = vec![(0, vec![0; 8]), (60, vec![0; 8])];
    assert_eq!(
        join(&[packet.build_partial()], true),
        [(packet.vnet(None), packet.build_partial())]
    );
    let place = packet.vnet(None).checksum;
    assert_eq!(place, Some(ChecksumPlace { start: 56, offset: 16 }));
}

#[test]
fn what_cannot_be_completed_is_written_plain_and_counted() {
    let packet = Packet::udp(false, vec![1; 10]);
    let fragment = Packet { fragment: DF | 0x2000, ..packet.clone() }.build();
    let mut icmp = packet.build();
    icmp[9] = 1;
    let packets = [fragment, icmp, packet.build()[..27].to_vec(), b"no packet".to_vec(), vec![]];
    let mut coalescer = Coalescer::new(true, true);
    let plain = packets.iter().map(|packet| (VnetHeader::default(), packet.clone()));
    let plain: Vec<_> = plain.collect();
    assert_eq!(join_by(&mut coalescer, &packets, true), plain);
    assert_eq!(coalescer.not_completable(), packets.len());
    assert_eq!(join_by(&mut coalescer, &packets, false), plain);
    assert_eq!(coalescer.not_completable(), 0);
}

#[test]
fn a_run_is_bounded_in_packets_and_bytes() {
    for mut packet in kinds() {
        let mut packets = vec![packet.clone()];
        for _ in 0..2 * LONGEST_RUN {
            packets.push(next(&packets[packets.len() - 1]));
        }
        assert_eq!(lengths(&packets), [LONGEST_RUN, LONGEST_RUN, 1]);
        packet.payload = vec![0; 8000];
        let mut packets = vec![packet.clone()];
        for _ in 0..10 {
            packets.push(next(&packets[packets.len() - 1]));
        }
        assert_eq!(lengths(&packets), [8, 3]);
    }
}

#[test]
fn protocols_are_joined_only_if_asked_for() {
    for packet in kinds() {
        let packets = build(&[packet.clone(), next(&packet)]);
        for (tcp, udp) in [(false, false), (false, true), (true, false)] {
            let wanted = if packet.tcp.is_some() { tcp } else { udp };
            let mut coalescer = Coalescer::new(true, true);
            coalescer.set_joined(tcp, udp);
            let runs = join_by(&mut coalescer, &packets, false).len();
            assert_eq!(runs, if wanted { 1 } else { 2 });
        }
    }
}

#[test]
fn a_packet_without_ports_keeps_its_place_between_its_hosts() {
    for packet in kinds() {
        let mut other = packet.build();
        other[if packet.v6 { 6 } else { 9 }] = 50;
        let others = Packet { source: 9, ..packet.clone() };
        let packets =
            [packet.build(), others.build(), other, next(&packet).build(), next(&others).build()];
        let written: Vec<_> = join(&packets, false).into_iter().map(|(_, bytes)| bytes).collect();
        let mut both = others.clone();
        both.payload.extend(next(&others).payload);
        let wanted =
            [packets[0].clone(), both.build_partial(), packets[2].clone(), packets[3].clone()];
        assert_eq!(written, wanted);
    }
}

#[test]
fn many_flows_at_once_are_all_there_and_in_order() {
    let flow = |index: u16| Packet { ports: (index, 1), ..Packet::tcp(false, vec![1; 50]) };
    let firsts: Vec<_> = (0..20).map(flow).collect();
    let seconds: Vec<_> = firsts.iter().map(next).collect();
    let packets = build(&[firsts.clone(), seconds.clone()].concat());
    let written: Vec<_> = join(&packets, false).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(written, packets);
    // The most recent are those that are still open.
    let last = seconds[19].clone();
    let packets = [firsts, vec![last]].concat();
    assert_eq!(lengths(&packets), [vec![1; 19], vec![2]].concat());
    assert!(build(&packets).iter().all(|packet| is_right(packet)));
}
