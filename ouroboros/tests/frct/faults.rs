//! What goes wrong between two 0.23 peers, each as a test.

use std::time::Duration;

use ouroboros::{
    proto::frct::{Event, Failure, Frct, Service},
    wire::frct::{Flags, Header},
};

use crate::{
    Random, data, machine, ms,
    peer::{Frame, Peer},
    reliable, sent, transmit,
};

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
fn an_ordered_flow_is_paced_and_not_held_up() {
    let mut frct = machine(Service::Ordered, Duration::ZERO, &mut Random::seeded(1));
    let (mut now, mut left) = (ms(0), Vec::new());
    while left.len() < 1000 {
        while frct.write(now, b"packet").is_ok() {}
        left.extend(sent(&mut frct, now).iter().map(|_| now));
        // By its timer alone: the peer says nothing.
        now = frct.poll_timeout().expect("packets wait").max(now + Duration::from_micros(1));
        frct.handle_timeout(now);
    }
    assert_eq!(left.iter().filter(|at| **at == ms(0)).count(), 64);
    // A 0.23 peer has 384 buffers, and looks each 5 ms.
    for from in &left {
        let within = left.iter().filter(|at| (*from..=*from + ms(5)).contains(at));
        assert!(within.count() <= 384, "from {from:?}");
    }
    assert!(now < ms(20), "{now:?}");
    // When the last has left, that is told; and it does when the flow is closed, too.
    while frct.write(now, b"packet").is_ok() {}
    let mut told = false;
    while !frct.is_delivered() {
        while frct.poll().is_some() {}
        now = frct.poll_timeout().expect("packets wait").max(now + Duration::from_micros(1));
        frct.handle_timeout(now);
        sent(&mut frct, now);
        told = std::iter::from_fn(|| frct.poll()).any(|event| event == Event::Writable);
    }
    assert!(told);
    while frct.write(now, b"packet").is_ok() {}
    frct.close(now);
    while !frct.is_drained() {
        now = frct.poll_timeout().expect("packets wait").max(now + Duration::from_micros(1));
        frct.handle_timeout(now);
        sent(&mut frct, now);
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

/// Gives the machine frames that cannot be opened as often as a peer repeats; after how
/// long it fails, and why.
fn repeated_in_vain(frct: &mut Frct) -> Option<(Duration, Failure)> {
    let times = std::iter::successors(Some(ms(20)), |time| Some(2 * *time));
    for now in times.take_while(|time| *time < Duration::from_secs(120)) {
        frct.handle_garbled(now);
        while frct.read(now).is_some() {}
        while transmit(frct, now).is_some() {}
        frct.handle_timeout(now);
        let failed = std::iter::from_fn(|| frct.poll())
            .find_map(|event| if let Event::Failed(why) = event { Some(why) } else { None });
        if let Some(why) = failed {
            return Some((now, why));
        }
    }
    None
}

#[test]
fn a_peer_that_only_repeats_what_cannot_be_opened_is_found_out_soon() {
    // All that its window allows has come but for the fourth packet, or the first.
    for lost in [3, 0] {
        let mut frct = reliable();
        for number in (0..64).filter(|number| *number != lost) {
            let drf = if number == 0 { Flags::DRF } else { Flags::NONE };
            frct.handle(ms(0), &data(drf, number));
        }
        let (after, why) = repeated_in_vain(&mut frct).expect("a failure");
        assert_eq!(why, Failure::Irrecoverable);
        assert!(after >= ms(10_000) && after < ms(40_000), "{after:?}, {lost} lost");
    }
}

#[test]
fn packets_that_overtake_the_first_of_a_run_are_kept() {
    let mut frct = reliable();
    for number in [6, 8, 7, 6] {
        frct.handle(ms(0), &data(Flags::NONE, number));
    }
    assert!(sent(&mut frct, ms(50)).is_empty(), "the run has not begun");
    frct.handle(ms(50), &data(Flags::DRF, 5));
    assert_eq!(std::iter::from_fn(|| frct.read(ms(50))).count(), 4);
    let [said] = sent(&mut frct, ms(50))[..] else { panic!("acknowledged at once") };
    assert_eq!(said.acknowledgement, 9);
    assert_eq!(frct.statistics().duplicates + frct.statistics().misplaced, 1);
}

#[test]
fn only_so_much_is_kept_before_a_run_begins() {
    let mut frct = reliable();
    for number in 0..1000 {
        frct.handle(ms(0), &data(Flags::NONE, 7 * number + 1));
    }
    assert!(frct.statistics().misplaced > 900);
    frct.handle(ms(1), &data(Flags::DRF, 0));
    assert!(std::iter::from_fn(|| frct.read(ms(1))).count() < 64);
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
fn a_new_run_after_a_long_repetition_is_taken() {
    let mut frct = reliable();
    frct.handle(ms(0), &data(Flags::DRF, 5));
    // Sent at once, repeated in a blackout, and at last here: for the peer, that was
    // 131 s before it chose its next number.
    frct.handle(ms(115_000), &data(Flags::DRF, 6));
    frct.handle(ms(132_500), &data(Flags::DRF, 0x9000_0000));
    assert_eq!(std::iter::from_fn(|| frct.read(ms(132_500))).count(), 3);
    // A late packet of the run before begins none.
    frct.handle(ms(160_000), &data(Flags::DRF, 0x8fff_ff00));
    assert_eq!(frct.read(ms(160_000)), None);
    frct.handle(ms(160_000), &data(Flags::DRF, 0x9000_0001));
    assert!(frct.read(ms(160_000)).is_some());
}

#[test]
fn a_reader_that_was_slow_delays_no_repetition() {
    let mut frct = reliable();
    frct.write(ms(0), b"read late").expect("room");
    let [first] = sent(&mut frct, ms(0))[..] else { panic!("sent") };
    let acknowledgement = first.sequence.wrapping_add(1);
    let header = Header { flags: Flags::ACK, acknowledgement, ..Header::default() };
    frct.handle(ms(90_000), &header.encode());
    frct.write(ms(90_000), b"lost").expect("room");
    assert_eq!(sent(&mut frct, ms(90_000)).len(), 1);
    frct.handle_timeout(ms(95_000));
    assert_eq!(sent(&mut frct, ms(95_000)).len(), 1, "repeated after 5 s at most");
}

#[test]
fn a_closed_flow_acknowledges_what_is_repeated_until_it_is_quiet() {
    let mut frct = reliable();
    frct.handle(ms(0), &data(Flags::DRF, 5));
    frct.close(ms(1));
    let last = |frct: &mut Frct, now| {
        let [said] = sent(frct, now)[..] else { panic!("one packet at {now:?}") };
        (said.flags.contains(Flags::ACK), said.flags.contains(Flags::FC), said.acknowledgement)
    };
    assert_eq!(last(&mut frct, ms(1)), (true, false, 6));
    // That was lost.
    frct.handle(ms(500), &data(Flags::DRF, 5));
    assert_eq!(last(&mut frct, ms(500)), (true, false, 6));
    // What is new is not acknowledged: nobody will read it.
    frct.handle(ms(600), &data(Flags::NONE, 6));
    assert!(sent(&mut frct, ms(600)).is_empty());
    assert!(!frct.is_drained());
    frct.handle_timeout(frct.poll_timeout().expect("an end"));
    assert!(frct.is_drained());
    assert_eq!(std::iter::from_fn(|| frct.poll()).last(), Some(Event::Drained));
}
