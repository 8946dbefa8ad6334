//! What RFC 9002 warns of, each as a scenario: two streams, a link of 10 ms each way
//! under a virtual clock, and somebody in it who takes packets away, holds them back or
//! marks them. That nothing is lost under any seed is proved elsewhere (`messages`, and
//! beside the machine); here it is looked at how, and that it moves under many.

use std::{collections::BTreeMap, time::Duration};

use ouroboros::{
    CongestionControl,
    proto::reliable::{Body, Config, Packet, Read, SendState, Statistics, Stream},
    wire::frame::{Ack, DELAY_UNIT, Frame},
};
use ouroboros_testing::Random;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const DELAY: Duration = ms(10);

/// A packet on its way.
struct Passing {
    from: usize,
    /// Which of that end's packets it is, from 0.
    index: u64,
    now: Duration,
}

enum Fate {
    Passes,
    Lost,
    Late(Duration),
    Marked,
}

type OnWire = (usize, u64, bool, Body, Vec<u8>);

struct Link {
    ends: [Stream; 2],
    now: Duration,
    sent: [u64; 2],
    wire: BTreeMap<(Duration, u64), OnWire>,
    order: u64,
    fate: Box<dyn FnMut(&Passing) -> Fate>,
    read: u64,
    ended: bool,
    /// The second end reads nothing before.
    stalled_until: Duration,
}

impl Link {
    fn new(fate: impl FnMut(&Passing) -> Fate + 'static) -> Self {
        let config = Config { initial_rtt: 2 * DELAY, ..Config::default() };
        Self::with(config, fate)
    }

    fn with(config: Config, fate: impl FnMut(&Passing) -> Fate + 'static) -> Self {
        Self {
            ends: [Stream::new(Duration::ZERO, config), Stream::new(Duration::ZERO, config)],
            now: Duration::ZERO,
            sent: [0, 0],
            wire: BTreeMap::new(),
            order: 0,
            fate: Box::new(fate),
            read: 0,
            ended: false,
            stalled_until: Duration::ZERO,
        }
    }

    fn figures(&self) -> Statistics {
        self.ends[0].statistics()
    }

    /// Sends what is to be sent, and goes on to when something happens next, at most
    /// `until`.
    fn step(&mut self, until: Duration) {
        for from in 0..2 {
            let end = &mut self.ends[from];
            end.handle_timeout(self.now);
            while let Some(transmit) = end.poll_transmit(self.now) {
                let mut bytes = vec![0; transmit.size];
                end.write_body(&transmit, &mut bytes);
                let index = self.sent[from];
                self.sent[from] += 1;
                end.on_packet_sent(self.now, index);
                let (late, marked) = match (self.fate)(&Passing { from, index, now: self.now }) {
                    Fate::Passes => (Duration::ZERO, false),
                    Fate::Late(late) => (late, false),
                    Fate::Marked => (Duration::ZERO, true),
                    Fate::Lost => continue,
                };
                self.order += 1;
                let arrives = self.now + DELAY + late;
                let packet = (1 - from, index, marked, transmit.body, bytes);
                self.wire.insert((arrives, self.order), packet);
            }
        }
        let due = self.ends.iter().filter_map(Stream::poll_timeout);
        let arrives = self.wire.first_key_value().map(|((at, _), _)| *at);
        let stalled = Some(self.stalled_until).filter(|at| *at > self.now);
        let next = due.chain(arrives).chain(stalled).min().unwrap_or(until);
        self.now = next.max(self.now + Duration::from_nanos(1)).min(until);
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, number, marked, body, bytes) = entry.remove();
            let packet = Packet { number, marked, body, bytes: &bytes };
            self.ends[to].handle(self.now, packet).expect("what ours sends is well-formed");
        }
        let mut buffer = [0; 4096];
        while self.now >= self.stalled_until && !self.ended {
            match self.ends[1].read(&mut buffer) {
                Read::Data(count) => self.read += count as u64,
                Read::Blocked => break,
                other => self.ended = other == Read::End,
            }
        }
    }

    /// Runs until `end`, whatever happens.
    fn run_until(&mut self, end: Duration) {
        while self.now < end {
            self.step(end);
        }
    }

    /// Writes `size` bytes and runs until the peer has them all; how long that took.
    fn transfer(&mut self, size: u64) -> Duration {
        let (start, before) = (self.now, self.read);
        let mut written = 0;
        while self.read < before + size || self.figures().unacknowledged > 0 {
            let chunk = vec![7; (size - written).min(60_000) as usize];
            written += self.ends[0].write(&chunk) as u64;
            self.step(self.now + ms(100));
            assert!(self.now < start + Duration::from_secs(600), "no end: {:?}", self.figures());
        }
        self.now - start
    }
}

/// The reader's credit bounds what is in flight, for the link itself does not.
fn bounded(window: u64) -> Config {
    let initial_rtt = 2 * DELAY;
    let (peer_window, max_window) = (window, window);
    Config { initial_rtt, window, peer_window, max_window, ..Config::default() }
}

fn passes(_: &Passing) -> Fate {
    Fate::Passes
}

#[test]
fn the_lost_end_of_a_burst_is_found_by_a_probe_and_not_by_a_second_burst() {
    let mut whole = Link::new(passes);
    whole.transfer(12_000);
    let last = whole.sent[0] - 1;
    for lost in [vec![last], vec![last - 1, last], (0..=last).collect()] {
        let count = lost.len();
        let mut link =
            Link::new(move |packet| match packet.from == 0 && lost.contains(&packet.index) {
                true => Fate::Lost,
                false => Fate::Passes,
            });
        // A probe timeout is three round trips here, before anything was measured.
        let took = link.transfer(12_000);
        assert!(took < ms(200), "{count} lost: {took:?}");
        assert!(link.sent[0] <= last + 1 + 2 * count as u64 + 2, "{} packets", link.sent[0]);
    }
}

#[test]
fn a_delay_that_is_taken_for_a_loss_costs_neither_data_nor_window() {
    // For half a second nothing passes, and then everything does.
    let held = ms(1000)..ms(1500);
    let mut link = Link::new(move |packet| match held.contains(&packet.now) {
        true => Fate::Late(held.end - packet.now),
        false => Fate::Passes,
    });
    link.transfer(4_000_000);
    let before = link.figures();
    assert!(link.now < ms(1000), "warm before it: {:?}", link.now);
    link.run_until(ms(1001));
    link.transfer(40_000);
    let after = link.figures();
    assert_eq!(after.lost - before.lost, after.spurious - before.spurious, "{after:?}");
    assert!(after.congestion_window >= before.congestion_window / 2, "{before:?} {after:?}");
}

#[test]
fn a_path_that_reorders_far_is_learned() {
    // Each seventh packet is overtaken by all that leave within 4 ms, up to 100 at a time.
    let mut link =
        Link::with(bounded(120_000), |packet| match packet.from == 0 && packet.index % 7 == 0 {
            true => Fate::Late(ms(4)),
            false => Fate::Passes,
        });
    link.transfer(3_000_000);
    let learned = link.figures();
    assert!(learned.spurious > 0, "{learned:?}");
    link.transfer(10_000_000);
    let figures = link.figures();
    assert_eq!(figures.lost, figures.spurious, "nothing was lost");
    let (first, second) = (learned.lost, figures.lost - learned.lost);
    assert!(second * 3 < first * 10, "{first} in 3 MB at first, then {second} in 10");
}

#[test]
fn losses_of_one_round_trip_reduce_the_window_once() {
    let mut link = Link::new(|packet| {
        let at = packet.index.wrapping_sub(200);
        let lost = packet.from == 0 && at < 10 && at % 2 == 0;
        if lost { Fate::Lost } else { Fate::Passes }
    });
    link.transfer(1_000_000);
    let figures = link.figures();
    assert_eq!((figures.lost, figures.congestion_events), (5, 1), "{figures:?}");
}

#[test]
fn marks_of_one_round_trip_reduce_the_window_once() {
    let mut link = Link::new(|packet| {
        let marked = packet.from == 0 && (200..210).contains(&packet.index);
        if marked { Fate::Marked } else { Fate::Passes }
    });
    link.transfer(1_000_000);
    let figures = link.figures();
    assert_eq!((figures.marked, figures.congestion_events, figures.lost), (10, 1, 0));
}

#[test]
fn a_sender_with_little_to_send_does_not_open_its_window() {
    let mut link = Link::new(passes);
    link.transfer(1_000);
    let before = link.figures().congestion_window;
    for _ in 0..200 {
        link.transfer(1_000);
    }
    let after = link.figures().congestion_window;
    assert!(after <= 2 * before, "{before} and, never used, {after}");
}

#[test]
fn probes_leave_though_the_window_is_full_and_ever_less_often() {
    let dark = ms(1000)..ms(31_000);
    let within = dark.clone();
    let mut link = Link::new(move |packet| match within.contains(&packet.now) {
        true => Fate::Lost,
        false => Fate::Passes,
    });
    link.ends[0].write(&[7; 1000]);
    link.run_until(dark.start);
    let before = link.sent[0];
    // More than the window.
    link.ends[0].write(&vec![7; 60_000]);
    link.run_until(dark.start + ms(1));
    let burst = link.sent[0];
    assert!(burst > before);
    link.run_until(dark.end);
    let probes = link.sent[0] - burst;
    assert!((10..100).contains(&probes), "{probes} in 30 s");
    // It goes on soon: the longest wait is 2 s.
    while link.figures().unacknowledged > 0 {
        link.step(dark.end + ms(4000));
        assert!(link.now < dark.end + ms(4000), "{:?}", link.figures());
    }
    // What was learned in the dark is forgotten.
    let (took, figures) = (link.transfer(1_000), link.figures());
    assert!(took < ms(100), "{took:?}");
    assert!(figures.rtt < ms(100), "{figures:?}");
}

#[test]
fn a_link_that_was_dark_is_not_met_with_a_burst() {
    let dark = ms(2000)..ms(12_000);
    let within = dark.clone();
    let mut link = Link::with(bounded(120_000), move |packet| match within.contains(&packet.now) {
        true => Fate::Lost,
        false => Fate::Passes,
    });
    while link.now < dark.end {
        link.ends[0].write(&[7; 30_000]);
        link.step(dark.end);
    }
    // Persistent congestion (section 7.6): the window begins anew, with two packets.
    let before = link.figures();
    while link.figures().lost == before.lost {
        link.step(dark.end + ms(10_000));
        assert!(link.now < dark.end + ms(10_000), "never again");
    }
    let figures = link.figures();
    assert!(before.congestion_window > 100_000 && before.in_flight > 50_000, "{before:?}");
    assert!(figures.congestion_window <= 4 * 1200, "{figures:?}");
    assert!(figures.in_flight <= 4 * 1200, "{figures:?}");
}

#[test]
fn after_persistent_congestion_the_least_round_trip_is_measured_anew() {
    for control in [CongestionControl::Bbr, CongestionControl::Cubic] {
        let dark = ms(2000)..ms(12_000);
        let within = dark.clone();
        // What comes back is another path, of 220 ms.
        let mut link = Link::with(bounded(60_000), move |packet| match packet.now {
            now if within.contains(&now) => Fate::Lost,
            now if now >= within.end => Fate::Late(ms(100)),
            _ => Fate::Passes,
        });
        link.ends[0].set_congestion_control(control);
        while link.now < dark.end {
            link.ends[0].write(&[7; 30_000]);
            link.step(dark.end);
        }
        assert_eq!(link.figures().min_rtt, 2 * DELAY);
        link.transfer(1_000_000);
        let figures = link.figures();
        assert!(figures.min_rtt >= ms(220), "{control:?}: {figures:?}");
    }
}

#[test]
fn acknowledgements_alone_are_not_acknowledged() {
    let mut link = Link::new(passes);
    link.transfer(100_000);
    let sent = link.sent;
    link.run_until(link.now + Duration::from_secs(60));
    let more = [link.sent[0] - sent[0], link.sent[1] - sent[1]];
    assert!(more[0] + more[1] <= 1, "{more:?}: at most one that was due");
    assert!(sent[1] <= sent[0] + 5, "{sent:?}");
}

#[test]
fn lost_acknowledgements_cost_no_data() {
    let [bbr, cubic] = [CongestionControl::Bbr, CongestionControl::Cubic].map(|control| {
        // Nine of ten.
        let times = (0..10).map(|passing| {
            let mut link = Link::new(move |packet| {
                let lost = packet.from == 1 && packet.index % 10 != passing;
                if lost { Fate::Lost } else { Fate::Passes }
            });
            link.ends[0].set_congestion_control(control);
            let took = link.transfer(1_000_000);
            let figures = link.figures();
            assert_eq!(figures.lost, figures.spurious, "{figures:?}");
            // What leaves twice is what probes carry.
            assert!(link.sent[0] < 1_000_000 / 1190 * 3 / 2, "{}, {control:?}", link.sent[0]);
            took
        });
        times.sum::<Duration>()
    });
    // Waits for acknowledgements are not taken for the path's rate.
    assert!(bbr < 2 * cubic && cubic < Duration::from_secs(100), "{bbr:?}, {cubic:?}");
}

#[test]
fn credit_that_is_lost_is_given_again() {
    let stalled = ms(500);
    // All that the reader says when it begins to read, and for a while.
    let mut link = Link::with(bounded(16_384), move |packet| {
        let lost = packet.from == 1 && (stalled..stalled + ms(300)).contains(&packet.now);
        if lost { Fate::Lost } else { Fate::Passes }
    });
    link.stalled_until = stalled;
    let took = link.transfer(200_000);
    assert!(took < ms(3000), "{took:?}");
}

/// What the first packet's acknowledgement, after 50 ms, makes of the round trip.
fn acknowledged_after(delay: Duration) -> Statistics {
    let config = Config { initial_rtt: ms(50), max_ack_delay: ms(2), ..Config::default() };
    let mut stream = Stream::new(Duration::ZERO, config);
    for number in 0..20 {
        let now = ms(100) * number;
        stream.write(b"data");
        stream.poll_transmit(now).expect("data");
        stream.on_packet_sent(now, number.into());
        let mut bytes = Vec::new();
        let delay = u16::try_from(delay.as_micros() / u128::from(DELAY_UNIT)).expect("fits");
        Frame::Ack(Ack::new(number, delay, 0, number as u16, &[])).encode(&mut bytes);
        let packet =
            Packet { number: number.into(), marked: false, body: Body::Frames, bytes: &bytes };
        stream.handle(now + ms(50), packet).expect("well-formed");
    }
    stream.statistics()
}

#[test]
fn a_peer_that_says_that_it_waited_long_is_believed_up_to_what_was_agreed() {
    assert_eq!(acknowledged_after(Duration::ZERO).rtt, ms(50));
    let figures = acknowledged_after(ms(500));
    assert!(figures.rtt >= ms(48), "{figures:?}");
    // And never below the least that was measured.
    assert_eq!(figures.min_rtt, ms(50));
}

#[test]
fn an_end_that_has_finished_and_has_all_is_silent_for_ever() {
    let mut link = Link::new(passes);
    link.transfer(10_000);
    link.ends[0].finish();
    link.ends[1].finish();
    while link.ends.iter().any(|end| end.send_state() != SendState::Finished) {
        link.step(link.now + ms(100));
        assert!(link.now < ms(5000), "finished");
    }
    link.run_until(link.now + ms(1000));
    let (sent, due) = (link.sent, link.ends[0].poll_timeout());
    link.run_until(link.now + Duration::from_secs(600));
    assert_eq!((link.sent, due), (sent, None));
}

#[test]
fn a_stream_with_data_and_credit_always_moves() {
    for seed in 0..1000 {
        // Shown if it fails.
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let window = [4_096, 16_384, 120_000][random.below(3) as usize];
        let stalled = ms(random.below(2) * random.below(2000));
        let size = 1 + random.below(60_000);
        let bbr = random.permille(300);
        let lost = [0, 50, 200, 400][random.below(4) as usize];
        let late = [0, 0, 100, 300][random.below(4) as usize];
        let begins = ms(random.below(500));
        let dark = begins..begins + ms(random.below(2) * random.below(5000));
        let mut link = Link::with(bounded(window), move |packet| {
            if dark.contains(&packet.now) || random.permille(lost) {
                Fate::Lost
            } else if random.permille(late) {
                Fate::Late(Duration::from_micros(random.below(30_000)))
            } else {
                Fate::Passes
            }
        });
        link.stalled_until = stalled;
        if bbr {
            link.ends[0].set_congestion_control(CongestionControl::Bbr);
        }
        // With pauses, in which all timers stop.
        for _ in 0..3 {
            link.transfer(size);
            link.run_until(link.now + ms(1000));
        }
    }
}
