//! What goes wrong between two 0.23 peers, each as a test.

use std::time::Duration;

use ouroboros::{
    proto::frct::{Event, Failure, Frct, Service},
    wire::frct::{Flags, Header},
};

use crate::{
    Random, machine, ms,
    peer::{Frame, Peer},
    transmit,
};

fn reliable() -> Frct {
    machine(Service::Reliable, Duration::ZERO, &mut Random::seeded(1))
}

fn data(flags: Flags, sequence: u32) -> Vec<u8> {
    let header = Header { flags: Flags::DATA | flags, sequence, ..Header::default() };
    [&header.encode()[..], &[7]].concat()
}

/// What leaves at `now`, keepalives aside.
fn sent(frct: &mut Frct, now: Duration) -> Vec<Header> {
    let packets = std::iter::from_fn(|| transmit(frct, now)).filter(|packet| !packet.is_empty());
    packets.map(|packet| Header::parse(&packet).expect("well-formed").0).collect()
}

#[test]
fn a_bare_packet_before_the_first_data_kills_neither_direction() {
    let (mut frct, mut peer) = (reliable(), Peer::new(Service::Reliable, false, Random::seeded(2)));
    // The peer's request is acknowledged at once, and answered after a second.
    assert!(peer.write(ms(0), b"request"));
    let Some(Frame::Packet(request)) = peer.out.pop() else { panic!("sent") };
    frct.handle(ms(1), &request);
    let bare = transmit(&mut frct, ms(6)).expect("an acknowledgement");
    let (header, _) = Header::parse(&bare).expect("well-formed");
    assert_eq!(header.flags, Flags::DRF | Flags::ACK | Flags::FC);
    peer.arrive(bare);
    peer.run(ms(7));
    frct.write(ms(1000), b"answer").expect("room");
    let answer = transmit(&mut frct, ms(1000)).expect("data");
    assert_eq!(Header::parse(&answer).expect("well-formed").0.sequence, header.sequence);
    peer.arrive(answer);
    peer.run(ms(1001));
    assert_eq!(peer.read, [b"answer"]);
    // And the other way: one of the peer's, which says nothing of numbers.
    let mut frct = reliable();
    let zeros = Header { flags: Flags::ACK | Flags::FC, ..Header::default() };
    frct.handle(ms(0), &zeros.encode());
    frct.handle(ms(1000), &data(Flags::DRF | Flags::ACK | Flags::FC, 0x8000_0007));
    assert_eq!(frct.read(ms(1000)), Some(vec![7]));
    // Its zeros close no window.
    for _ in 0..64 {
        frct.write(ms(1000), b"packet").expect("room");
    }
    assert_eq!(sent(&mut frct, ms(1000)).len(), 64);
}

#[test]
fn a_bare_packet_while_the_first_data_is_lost_kills_nothing() {
    let (mut frct, mut peer) = (reliable(), Peer::new(Service::Reliable, false, Random::seeded(2)));
    frct.write(ms(0), b"lost").expect("room");
    transmit(&mut frct, ms(0)).expect("data");
    // What the peer says meanwhile is acknowledged.
    frct.handle(ms(1), &data(Flags::DRF, 5));
    let mut now = ms(6);
    while peer.read.is_empty() {
        assert!(now < ms(2000), "never taken");
        frct.handle_timeout(now);
        while let Some(packet) = transmit(&mut frct, now) {
            peer.arrive(packet);
        }
        peer.run(now);
        now += ms(1);
    }
    assert_eq!(peer.read, [b"lost"]);
}

#[test]
fn nothing_is_said_of_a_run_that_has_not_begun() {
    let mut frct = reliable();
    let bare = Header { flags: Flags::ACK | Flags::FC, ..Header::default() };
    frct.handle(ms(0), &bare.encode());
    frct.handle(ms(0), &data(Flags::NONE, 5));
    frct.write(ms(1), b"packet").expect("room");
    let [first] = sent(&mut frct, ms(1))[..] else { panic!("one packet") };
    assert_eq!(first.flags, Flags::DATA | Flags::DRF);
    assert_eq!((first.window, first.acknowledgement), (0, 0));
}

#[test]
fn a_window_does_not_shrink() {
    let mut frct = reliable();
    frct.handle(ms(0), &data(Flags::DRF, 5));
    for _ in 0..256 {
        frct.write(ms(0), b"packet").expect("room");
    }
    let first = sent(&mut frct, ms(0))[0].sequence;
    let says = |frct: &mut Frct, now, edge: u32, next: u32| {
        let flags = Flags::ACK | Flags::FC;
        let header = Header {
            flags,
            window: first.wrapping_add(edge) & 0xff_ffff,
            sequence: 0,
            acknowledgement: first.wrapping_add(next),
        };
        frct.handle(now, &header.encode());
    };
    says(&mut frct, ms(1), 320, 64);
    let more = sent(&mut frct, ms(1)).len();
    assert!(more >= 64, "{more}");
    // One that was overtaken, and one of a peer that has only zeros to say.
    says(&mut frct, ms(2), 70, 10);
    frct.handle(ms(2), &Header { flags: Flags::FC, ..Header::default() }.encode());
    let mut number = 64 + more as u32;
    while number < 256 {
        says(&mut frct, ms(3), number + 256, number);
        let data = sent(&mut frct, ms(3));
        number += data.iter().filter(|h| h.flags.contains(Flags::DATA)).count() as u32;
        assert!(!data.is_empty(), "stopped at {number}");
    }
}

#[test]
fn an_ordered_flow_does_not_stop_after_64_packets() {
    let mut frct = machine(Service::Ordered, Duration::ZERO, &mut Random::seeded(1));
    let mut peer = Peer::new(Service::Ordered, false, Random::seeded(2));
    // Nothing goes the other way but what the machine says by itself, and each
    // packet is read at once.
    for number in 0..1000u32 {
        let now = ms(u64::from(number));
        assert!(peer.write(now, &number.to_be_bytes()), "stopped after {number}");
        for frame in std::mem::take(&mut peer.out) {
            let Frame::Packet(packet) = frame else { panic!("plain") };
            frct.handle(now, &packet);
        }
        assert_eq!(frct.read(now), Some(number.to_be_bytes().to_vec()));
        while let Some(packet) = transmit(&mut frct, now) {
            peer.arrive(packet);
        }
        peer.run(now);
    }
}

#[test]
fn a_lost_packet_of_an_encrypted_flow_ends_it_with_the_reason() {
    let mut frct = reliable();
    let mut peer = Peer::new(Service::Reliable, true, Random::seeded(2));
    let (mut now, mut outcome) = (ms(0), None);
    for number in 0..1000u32 {
        peer.write(now, &number.to_be_bytes());
        for frame in std::mem::take(&mut peer.out) {
            match frame {
                // The fourth is lost, and no repetition opens.
                Frame::Packet(_) if number == 3 => {}
                Frame::Packet(packet) => frct.handle(now, &packet),
                Frame::Garbled => frct.handle_garbled(now),
            }
        }
        while frct.read(now).is_some() {}
        while let Some(packet) = transmit(&mut frct, now) {
            peer.arrive(packet);
        }
        frct.handle_timeout(now);
        peer.run(now);
        outcome = outcome.or(std::iter::from_fn(|| frct.poll())
            .find_map(|event| if let Event::Failed(why) = event { Some(why) } else { None }));
        now += ms(100);
    }
    assert_eq!(outcome, Some(Failure::Irrecoverable));
    assert!(frct.statistics().garbled > 0);
    assert!(frct.is_drained());
}

#[test]
fn garbage_alone_ends_nothing() {
    let mut frct = reliable();
    frct.handle(ms(0), &data(Flags::DRF, 5));
    for second in 0..200 {
        frct.handle_garbled(ms(1000 * second));
    }
    frct.handle(ms(200_000), &data(Flags::NONE, 6));
    assert_eq!([frct.read(ms(200_000)), frct.read(ms(200_000))], [Some(vec![7]), Some(vec![7])]);
}

#[test]
fn numbers_go_on_after_hours_and_the_peer_takes_them() {
    let mut frct = reliable();
    let mut peer = Peer::new(Service::Reliable, false, Random::seeded(2));
    for (number, hour) in (0..4u64).enumerate() {
        let now = Duration::from_secs(3600 * hour);
        frct.write(now, &[number as u8]).expect("room");
        let mut later = now;
        while let Some(packet) = transmit(&mut frct, later) {
            peer.arrive(packet);
            peer.run(later);
            later += ms(20);
            peer.run(later);
            for frame in std::mem::take(&mut peer.out) {
                let Frame::Packet(packet) = frame else { panic!("plain") };
                frct.handle(later, &packet);
            }
        }
        assert_eq!(peer.read.len(), number + 1);
    }
}

#[test]
fn a_peer_that_begins_a_new_run_is_taken() {
    let mut frct = reliable();
    let mut peer = Peer::new(Service::Reliable, false, Random::seeded(2));
    let mut read = 0;
    for number in 0..3u64 {
        // It only acknowledges in between, which keeps nothing of its own fresh.
        let now = Duration::from_secs(200 * number);
        assert!(peer.write(now, b"packet"));
        for frame in std::mem::take(&mut peer.out) {
            let Frame::Packet(packet) = frame else { panic!("plain") };
            frct.handle(now, &packet);
        }
        read += usize::from(frct.read(now).is_some());
        for packet in std::iter::from_fn(|| transmit(&mut frct, now + ms(5))) {
            peer.arrive(packet);
            peer.run(now + ms(6));
        }
    }
    assert_eq!(read, 3);
}

#[test]
fn a_closed_window_is_asked_for_without_end_and_said_again_when_it_opens() {
    let mut frct = reliable();
    for _ in 0..100 {
        frct.write(ms(0), b"packet").expect("room");
    }
    let first = sent(&mut frct, ms(0))[0].sequence;
    let acknowledgement = first.wrapping_add(64);
    let closed = Header {
        flags: Flags::ACK | Flags::FC,
        window: acknowledgement & 0xff_ffff,
        sequence: 0,
        acknowledgement,
    };
    frct.handle(ms(10), &closed.encode());
    let mut asked = 0;
    for tenth in 0..3000 {
        let now = ms(100 * tenth);
        frct.handle_timeout(now);
        asked += sent(&mut frct, now).iter().filter(|h| h.flags == Flags::RDVS).count();
    }
    assert!(asked > 50, "{asked}");
    // The other side of it: 256 unread packets, then the reader goes on.
    let mut frct = reliable();
    for number in 0..256 {
        let drf = if number == 0 { Flags::DRF } else { Flags::NONE };
        frct.handle(ms(0), &data(drf, number));
    }
    let [.., last] = sent(&mut frct, ms(10))[..] else { panic!("acknowledged") };
    assert_eq!(last.window, 256);
    while frct.read(ms(20)).is_some() {}
    let mut said = 0;
    for now in (20..1000).map(ms) {
        said += sent(&mut frct, now).iter().filter(|header| header.window == 512).count();
    }
    assert!(said >= 4, "{said}");
    // Until data comes.
    frct.handle(ms(1000), &data(Flags::NONE, 256));
    let rest: usize = (1001..100_000).map(|now| sent(&mut frct, ms(now)).len()).sum();
    assert_eq!(rest, 2, "an acknowledgement, and once more should it have been overtaken");
}

#[test]
fn an_empty_frame_follows_what_is_not_acknowledged() {
    let mut frct = reliable();
    frct.write(ms(0), b"packet").expect("room");
    let mut frames = Vec::new();
    for now in (0..100).map(ms) {
        while let Some(packet) = transmit(&mut frct, now) {
            frames.push((now.as_millis(), packet.len()));
        }
    }
    assert_eq!(frames, [(0, 18), (2, 0), (8, 0), (32, 0)]);
}

#[test]
fn at_a_gap_one_packet_is_in_flight() {
    let mut frct = reliable();
    for _ in 0..10 {
        frct.write(ms(0), b"packet").expect("room");
    }
    let first = sent(&mut frct, ms(0))[0].sequence;
    frct.handle_timeout(ms(1000));
    frct.write(ms(1000), b"held back").expect("room");
    let again: Vec<_> = sent(&mut frct, ms(1000)).iter().map(|h| h.sequence).collect();
    assert_eq!(again, [first]);
    // A partial acknowledgement: the next one at once, and it alone.
    let flags = Flags::ACK;
    let header = Header { flags, acknowledgement: first.wrapping_add(4), ..Header::default() };
    frct.handle(ms(1010), &header.encode());
    let again: Vec<_> = sent(&mut frct, ms(1010)).iter().map(|h| h.sequence).collect();
    assert_eq!(again, [first.wrapping_add(4)]);
    let header = Header { acknowledgement: first.wrapping_add(10), ..header };
    frct.handle(ms(1020), &header.encode());
    assert_eq!(sent(&mut frct, ms(1020)).len(), 1);
}

#[test]
fn a_dead_peer_is_given_up_after_two_minutes() {
    let mut frct = reliable();
    frct.write(ms(0), b"packet").expect("room");
    let (mut now, mut repeated) = (ms(0), 0);
    let failed = loop {
        repeated += sent(&mut frct, now).len();
        if let Some(Event::Failed(why)) = frct.poll() {
            break why;
        }
        now = frct.poll_timeout().expect("something to wait for");
        frct.handle_timeout(now);
    };
    assert_eq!(failed, Failure::Unacknowledged);
    assert!(now >= Duration::from_secs(120) && now < Duration::from_secs(130), "{now:?}");
    assert!(repeated > 20, "{repeated}");
}
