//! What the C prototype did not survive, or was not tried with: each as a test.
//! What a whole daemon does with the same is in `network/hostile.rs`.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use futures_lite::future;
use ouroboros::{
    FlowSpec, Irm,
    crypto::{AeadBackend, Cipher, Entropy, FlowKey, Suite},
    proto::{
        Now,
        allocation::{AllocationRequest, Allocator, Event, Limits},
        native::{Capabilities, KeyLimits, NativeKeys, Role},
        protection::{Content, FlowKeys, Opened, Protection, Tally, protection},
    },
    transport::{ReceiveBatch, SendBatch, Udp},
    wire::{
        Dialect, DirectoryHash, Eid, PeerAddress, QosSpec,
        management::{LARGEST_MESSAGE, Message},
    },
};

/// The bit of a packet's first byte that rotated the prototype's keys.
const PHASE: u8 = 0x80;
/// Packets of a batch.
const BATCH: usize = 64;

struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

fn old() -> [Protection; 2] {
    [1, 2].map(|seed| {
        let keys = FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key: FlowKey::new([7; 32]) };
        let ends = (Eid(1), Eid(1));
        let (limits, entropy) = (KeyLimits::default(), &mut Seeded(seed));
        protection(Some(keys), ends, false, AeadBackend::Ring, limits, entropy)
    })
}

fn native() -> [Protection; 2] {
    [Role::Client, Role::Server].map(|role| {
        let (suite, key) = (Suite::default(), FlowKey::new([7; 32]));
        let keys = NativeKeys::new(suite, role, Capabilities::NONE, key, [9; 32]);
        let (keys, ends) = (Some(FlowKeys::Native(keys)), (Eid(1), Eid(1)));
        let (limits, entropy) = (KeyLimits::default(), &mut Seeded(3));
        protection(keys, ends, false, AeadBackend::Ring, limits, entropy)
    })
}

#[test]
fn a_management_datagram_of_65507_bytes_is_counted_and_the_next_one_served() {
    let ip = Ipv4Addr::LOCALHOST.into();
    // A port that is free, from the kernel.
    let port = UdpSocket::bind((ip, 0)).and_then(|s| s.local_addr()).expect("loopback").port();
    future::block_on(async {
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("layer", Udp::at(ip).port(port)).await.expect("bound");
        layer.register("my_vpn").await.expect("registered");
        let stranger = UdpSocket::bind((ip, 0)).expect("loopback");
        stranger.send_to(&[0; 65_507], (ip, port)).expect("sent");
        let there = Udp::connect_only(ip).server((ip, port).into());
        client.bootstrap("layer", there).await.expect("an address");
        let allocated = client.allocate("my_vpn", FlowSpec::raw());
        let (accepted, allocated) = future::zip(server.accept("my_vpn"), allocated).await;
        let (accepted, allocated) = (accepted.expect("accepted"), allocated.expect("allocated"));
        allocated.send(b"packet").await.expect("sent");
        let mut buffer = [0; 100];
        assert_eq!(accepted.recv(&mut buffer).await.expect("received"), 6);
        assert_eq!(layer.ipcps()[0].counters().malformed, 1);
    });
}

#[test]
fn a_reply_for_endpoint_2147483647_is_for_nobody() {
    let peer = PeerAddress::Udp(([10, 0, 0, 1], 3435).into());
    let now = Now { monotonic: Duration::ZERO, utc: 1_800_000_000_000_000_000 };
    let entropy = &mut Seeded(1);
    let mut allocator = Allocator::new(Dialect::Udp, DirectoryHash::Md5, Limits::default());
    let request = AllocationRequest {
        name: "my_vpn".parse().expect("a name"),
        qos: QosSpec::RAW,
        security: None,
        local: Eid(300),
        peer: Some(peer),
        timeout: Duration::from_secs(5),
        largest_message: LARGEST_MESSAGE,
    };
    let allocation = allocator.allocate(now, entropy, request).expect("within limits");
    let others = [0x7fff_ffff, 0x8000_0000, u32::MAX, 0, 301];
    for (number, requester) in others.into_iter().enumerate() {
        for response in [0, -1] {
            let reply = Message::FlowReply {
                requester: Eid(requester),
                responder: Eid(400),
                response,
                allocation: &[0; 36],
            };
            let reply = reply.encode(Dialect::Udp);
            for via in [None, Some(allocation)] {
                allocator.handle(now, entropy, peer, via, &reply);
            }
        }
        assert!(allocator.poll().is_none());
        assert_eq!(allocator.counters().unexpected, 4 * (number as u64 + 1));
    }
    // The allocation goes on, and ends as it would have.
    let late = Now { monotonic: Duration::from_secs(6), ..now };
    allocator.handle_timeout(late, entropy);
    assert!(matches!(allocator.poll(), Some(Event::Failed { .. })));
}

#[test]
fn three_quarters_of_a_million_garbage_packets_rotate_no_key() {
    for [mut peer, mut end] in [old(), native()] {
        // What the flow's own packets begin with, and what the peer has sent so
        // far.
        let kind = deliver(&mut peer, &mut end, 0)[0];
        let mut random = Seeded(5);
        let (mut batch, mut opened) = (ReceiveBatch::new(BATCH * 64), Vec::new());
        let mut sent = 0;
        while sent < 750_000 {
            batch.clear();
            for number in 0..BATCH {
                // Mostly short, so that three quarters of a million are soon
                // done.
                let place = number * 64..number * 64 + 1 + (sent + number) % 48;
                let garbage = &mut batch.buffer_mut()[place.clone()];
                random.fill(garbage);
                garbage[0] = if number % 2 == 0 { garbage[0] | PHASE } else { kind };
                batch.push(place);
            }
            let tally = end.opener.open_batch(&mut batch, &mut opened);
            assert_eq!(tally, Tally { unopened: BATCH, keepalives: 0 });
            assert!(opened.is_empty());
            sent += BATCH;
        }
        for number in 1..200 {
            deliver(&mut peer, &mut end, number);
        }
    }
}

/// A packet from one end to the other, and the frame it was in.
fn deliver(from: &mut Protection, to: &mut Protection, number: u32) -> Vec<u8> {
    let packet = number.to_be_bytes();
    let head = from.sealer.headroom();
    let mut frame = vec![0; head + packet.len() + from.sealer.tailroom()];
    frame[head..head + packet.len()].copy_from_slice(&packet);
    from.sealer.seal(&mut frame, Content::Packet).expect("within the key's limits");
    let sent = frame.clone();
    let opened = to.opener.open(&mut frame).expect("authentic");
    assert_eq!(frame[opened.body], packet);
    sent
}

/// A batch of packets from one end to the other, each told by `round`. The first
/// byte on the wire.
fn exchange(from: &mut Protection, to: &mut Protection, round: u32) -> u8 {
    let (head, tail) = (from.sealer.headroom(), from.sealer.tailroom());
    let packet = |number: usize| (round << 6 | number as u32).to_be_bytes();
    let mut sending = SendBatch::new(0, BATCH * 64);
    for number in 0..BATCH {
        let packet = packet(number);
        let frame = sending.push(head + packet.len() + tail).expect("room");
        frame[head..head + packet.len()].copy_from_slice(&packet);
    }
    let sealed = from.sealer.seal_batch(&mut sending, 0, |_| Content::Packet);
    sealed.expect("within the key's limits");
    let mut receiving = ReceiveBatch::new(BATCH * 64);
    receiving.buffer_mut().copy_from_slice(sending.bytes());
    (0..BATCH).for_each(|index| receiving.push(sending.range(index)));
    let mut opened = Vec::new();
    assert_eq!(to.opener.open_batch(&mut receiving, &mut opened), Tally::default());
    assert_eq!(opened.len(), BATCH);
    for (number, Opened { index, body, .. }) in opened.into_iter().enumerate() {
        assert_eq!(receiving.frame(index)[body], packet(number));
    }
    sending.bytes()[0]
}

#[test]
fn two_million_packets_of_two_way_traffic_pass_the_rotations() {
    for [mut one, mut other] in [old(), native()] {
        let mut phases = std::collections::BTreeSet::new();
        for round in 0..1_000_000u32.div_ceil(BATCH as u32) {
            phases.insert(exchange(&mut one, &mut other, round) & PHASE);
            phases.insert(exchange(&mut other, &mut one, round) & PHASE);
        }
        // 0.23's keys were rotated on the way; native ones last longer.
        assert_eq!(phases.len(), if one.channel.is_none() { 2 } else { 1 });
    }
}
