//! Our machine and the model of a 0.23 peer, or two of ours, over a network that
//! loses, repeats, delays and reorders, and with applications that stall.

use std::{collections::VecDeque, time::Duration};

use ouroboros::proto::frct::{Event, Frct, Service};

use crate::{
    First, Random, machine, ms,
    peer::{Frame, Peer, Reader},
    transmit,
};

/// Only ends a run that has failed.
const PATIENCE: Duration = Duration::from_secs(3_000);

/// The other end.
enum Other {
    Ours(Box<Frct>),
    Old(Box<Peer>),
}

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ours,
    Old,
    /// What it repeats is garbled, so that nothing of it may be lost.
    OldEncrypted,
}

/// Some flows begin shortly before one of their numbers wraps: its 32 bits, the 24 of
/// the window, the sign of a difference.
fn first_number(seed: u64) -> Option<u32> {
    match seed % 7 {
        1 => Some(u32::MAX - 30),
        2 => Some(0x00ff_ff80),
        3 => Some(0x7fff_ff80),
        4 => Some(0xffff_ff00),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Faults {
    /// Percent.
    loss: u64,
    copies: u64,
    /// Milliseconds beyond one.
    jitter: u64,
    /// Of the applications, percent of their turns.
    stalls: u64,
}

struct Run {
    random: Random,
    faults: Faults,
    now: Duration,
    ours: Frct,
    other: Other,
    /// Arrives, whether at ours, frame.
    wire: Vec<(Duration, bool, Frame)>,
    stalled_until: Duration,
    received: VecDeque<Vec<u8>>,
}

fn message(number: u32) -> Vec<u8> {
    let size = 4 + number as usize % 40;
    let mut message = vec![number as u8; size];
    message[..4].copy_from_slice(&number.to_be_bytes());
    message
}

fn number(message: &[u8]) -> u32 {
    u32::from_be_bytes(message[..4].try_into().expect("four bytes"))
}

impl Run {
    fn new(seed: u64, service: Service, faults: Faults, end: End) -> Self {
        let mut random = Random::seeded(seed);
        let (first, second) = (first_number(seed), first_number(seed / 7));
        let ours = match first {
            Some(first) => machine(service, Duration::ZERO, &mut First(first)),
            None => machine(service, Duration::ZERO, &mut random),
        };
        let other = match end {
            End::Old | End::OldEncrypted => {
                let encrypted = end == End::OldEncrypted;
                let mut peer = Peer::new(service, encrypted, Random::seeded(!seed));
                peer.first = second;
                peer.reader =
                    [Reader::Prompt, Reader::Blocking, Reader::OnEvents][(seed / 3 % 3) as usize];
                Other::Old(Box::new(peer))
            }
            End::Ours => Other::Ours(Box::new(machine(service, Duration::ZERO, &mut random))),
        };
        let (now, stalled_until) = (Duration::ZERO, Duration::ZERO);
        let (wire, received) = (Vec::new(), VecDeque::new());
        Self { random, faults, now, ours, other, wire, stalled_until, received }
    }

    fn put(&mut self, to_us: bool, frame: Frame) {
        let Faults { loss, copies, jitter, .. } = self.faults;
        let copies = if self.random.percent(copies) { 2 } else { 1 };
        for _ in 0..copies {
            let whole = to_us && matches!(&self.other, Other::Old(peer) if peer.encrypted);
            if whole || !self.random.percent(loss) {
                let delay = ms(1 + self.random.below(jitter + 1));
                self.wire.push((self.now + delay, to_us, frame.clone()));
            }
        }
    }

    fn transmit(&mut self) {
        while let Some(packet) = transmit(&mut self.ours, self.now) {
            self.put(false, Frame::Packet(packet));
        }
        let frames = match &mut self.other {
            Other::Old(peer) => std::mem::take(&mut peer.out),
            Other::Ours(frct) => {
                std::iter::from_fn(|| transmit(frct, self.now)).map(Frame::Packet).collect()
            }
        };
        for frame in frames {
            self.put(true, frame);
        }
    }

    fn write(&mut self, ours: bool, number: u32) -> bool {
        match (&mut self.other, ours) {
            (_, true) => self.ours.write(self.now, &message(number)).is_ok(),
            (Other::Ours(frct), false) => frct.write(self.now, &message(number)).is_ok(),
            (Other::Old(peer), false) => peer.write(self.now, &message(number)),
        }
    }

    /// What is there to be read at the other end so far.
    fn read_by_other(&mut self) -> Vec<Vec<u8>> {
        match &mut self.other {
            Other::Ours(frct) => std::iter::from_fn(|| frct.read(self.now)).collect(),
            Other::Old(peer) => std::mem::take(&mut peer.read),
        }
    }

    /// Goes on to when something happens next, at most `step`.
    fn step(&mut self, step: Duration) {
        self.transmit();
        let wire = self.wire.iter().map(|(at, ..)| *at).min();
        let other = match &self.other {
            Other::Ours(frct) => frct.poll_timeout(),
            Other::Old(peer) => peer.next_time(self.now),
        };
        let next = [wire, self.ours.poll_timeout(), other].into_iter().flatten().min();
        let limit = self.now + step;
        self.now = next.map_or(limit, |next| next.clamp(self.now, limit));
        let now = self.now;
        let mut later = Vec::new();
        for (at, to_us, frame) in std::mem::take(&mut self.wire) {
            match (at <= now, to_us, frame, &mut self.other) {
                (false, to_us, frame, _) => later.push((at, to_us, frame)),
                (_, true, Frame::Garbled, _) => self.ours.handle_garbled(now),
                (_, false, Frame::Garbled, _) => unreachable!("we garble nothing"),
                // Keepalives are below the machine.
                (_, true, Frame::Packet(packet), _) if packet.is_empty() => {}
                (_, true, Frame::Packet(packet), _) => self.ours.handle(now, &packet),
                (_, false, Frame::Packet(packet), Other::Old(peer)) => peer.arrive(packet),
                (_, false, Frame::Packet(packet), Other::Ours(_)) if packet.is_empty() => {}
                (_, false, Frame::Packet(packet), Other::Ours(frct)) => frct.handle(now, &packet),
            }
        }
        self.wire.append(&mut later);
        self.ours.handle_timeout(now);
        match &mut self.other {
            Other::Ours(frct) => frct.handle_timeout(now),
            Other::Old(peer) => {
                if now >= peer.stalled_until && self.random.below(1000) < self.faults.stalls {
                    peer.stalled_until = now + ms(self.random.below(3000));
                }
                peer.run(now);
            }
        }
        if now >= self.stalled_until && self.random.below(1000) < self.faults.stalls {
            self.stalled_until = now + ms(self.random.below(3000));
        }
        if now >= self.stalled_until {
            self.received.extend(std::iter::from_fn(|| self.ours.read(now)));
        }
        while let Some(event) = self.ours.poll() {
            assert!(!matches!(event, Event::Failed(_)), "{event:?} at {now:?}");
        }
    }
}

/// `count` messages each way; panics where something is lost, comes twice or out of
/// order, or nothing moves any more.
fn reliable(seed: u64, faults: Faults, end: End, count: u32) {
    let mut run = Run::new(seed, Service::Reliable, faults, end);
    let (mut written, mut read) = ([0; 2], [0; 2]);
    // One side may have nothing to say, or begin late.
    let counts = match seed % 4 {
        0 => [count, 0],
        1 => [0, count],
        _ => [count, count],
    };
    while read != [counts[1], counts[0]] {
        assert!(run.now < PATIENCE, "stuck: written {written:?}, read {read:?} of {counts:?}");
        if let Other::Old(peer) = &run.other {
            assert!(!peer.down, "the peer gave up at {:?}", run.now);
        }
        for (side, ours) in [(0, true), (1, false)] {
            while written[side] < counts[side]
                && !run.random.percent(10)
                && run.write(ours, written[side])
            {
                written[side] += 1;
            }
        }
        run.step(ms(50));
        for packet in std::mem::take(&mut run.received) {
            assert_eq!(packet, message(read[0]));
            read[0] += 1;
        }
        for packet in run.read_by_other() {
            assert_eq!(packet, message(read[1]));
            read[1] += 1;
        }
        if let Other::Old(peer) = &mut run.other {
            // What no sender with more than one packet in flight survives.
            peer.crashed = false;
        }
    }
    // All is acknowledged in the end, and nothing is left to do for ever.
    run.ours.close(run.now);
    while !run.ours.is_drained() {
        assert!(run.now < PATIENCE, "never drained");
        run.step(ms(50));
        run.read_by_other();
    }
}

const QUIET: Faults = Faults { loss: 0, copies: 0, jitter: 0, stalls: 0 };

fn all_faults(seed: u64) -> Faults {
    match seed % 5 {
        0 => Faults { jitter: 0, ..QUIET },
        1 => Faults { loss: 5, jitter: 3, ..QUIET },
        2 => Faults { copies: 20, jitter: 30, ..QUIET },
        3 => Faults { stalls: 10, jitter: 1, ..QUIET },
        _ => Faults { loss: 15, copies: 5, jitter: 20, stalls: 5 },
    }
}

#[test]
fn everything_arrives_once_and_in_order_at_and_from_a_0_23_peer() {
    for seed in 0..400 {
        println!("seed {seed}");
        reliable(seed, all_faults(seed), End::Old, 300);
    }
}

#[test]
fn everything_arrives_once_and_in_order_at_and_from_an_encrypting_0_23_peer() {
    for seed in 0..400 {
        println!("seed {seed}");
        reliable(seed, all_faults(seed), End::OldEncrypted, 300);
    }
}

#[test]
fn everything_arrives_once_and_in_order_between_two_of_ours() {
    for seed in 0..400 {
        println!("seed {seed}");
        reliable(seed, all_faults(seed), End::Ours, 600);
    }
}

/// One packet at a time: a 0.23 receiver survives losses only then.
#[test]
fn a_peer_that_crashes_at_a_gap_survives_losses_of_a_conversation() {
    for seed in 0..200 {
        println!("seed {seed}");
        let faults = Faults { loss: 20, copies: 10, jitter: 5, stalls: 0 };
        let mut run = Run::new(seed, Service::Reliable, faults, End::Old);
        for round in 0..50 {
            assert!(run.write(true, round));
            let mut answered = false;
            while !answered {
                assert!(run.now < PATIENCE, "no answer to {round}");
                run.step(ms(50));
                for request in run.read_by_other() {
                    while !run.write(false, number(&request)) {
                        run.step(ms(50));
                    }
                }
                if let Other::Old(peer) = &run.other {
                    assert!(!peer.crashed && !peer.down);
                }
                answered = run.received.pop_front().is_some_and(|answer| {
                    assert_eq!(answer, message(round));
                    true
                });
            }
        }
    }
}

#[test]
fn an_ordered_flow_keeps_its_order_and_never_stops() {
    for seed in 0..300 {
        println!("seed {seed}");
        let end = if seed % 2 == 0 { End::Old } else { End::Ours };
        let mut run = Run::new(seed, Service::Ordered, all_faults(seed), end);
        let (mut written, mut read, mut counts) = ([0; 2], [None; 2], [0; 2]);
        const COUNT: u32 = 400;
        while written != [COUNT; 2] {
            assert!(run.now < PATIENCE, "stuck: written {written:?}");
            for (side, ours) in [(0, true), (1, false)] {
                if written[side] < COUNT && run.write(ours, written[side]) {
                    written[side] += 1;
                }
            }
            run.step(ms(1 + seed % 3));
            let received = std::mem::take(&mut run.received);
            for (side, packets) in [(0, received.into()), (1, run.read_by_other())] {
                for packet in packets {
                    let found = number(&packet);
                    assert_eq!(packet, message(found));
                    assert!(
                        read[side].is_none_or(|last| found > last),
                        "{found} after {:?} at {side}",
                        read[side]
                    );
                    read[side] = Some(found);
                    counts[side] += 1;
                }
            }
        }
        if seed % 5 == 0 {
            // Without faults nothing is lost but what is on the way still.
            assert!(counts.iter().all(|count| count + 5 >= COUNT), "{counts:?} of {COUNT}");
        }
    }
}
