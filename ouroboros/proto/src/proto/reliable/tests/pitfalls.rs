//! What RFC 9002 warns of that shows at one end: timers, samples and bursts. What takes
//! both ends is in the library's tests of the same name.

use std::collections::VecDeque;

use super::*;
use crate::wire::{frame::Ack, management::Malformed};

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// A sender, and a peer that acknowledges each packet that is not lost.
struct Sender {
    stream: Stream,
    now: Duration,
    /// Packets that have left.
    sent: u64,
    /// Packets that came.
    came: u64,
    on_wire: VecDeque<(Duration, u64)>,
    lost: std::ops::Range<u64>,
}

impl Sender {
    fn new() -> Self {
        let config = Config { initial_rtt: ROUND_TRIP, peer_window: 1 << 29, ..Config::default() };
        Self {
            stream: Stream::new(Duration::ZERO, config),
            now: Duration::ZERO,
            sent: 0,
            came: 0,
            on_wire: VecDeque::new(),
            lost: 0..0,
        }
    }

    /// Sends what may leave now; how many packets.
    fn send(&mut self) -> u64 {
        let before = self.sent;
        while self.stream.poll_transmit(self.now).is_some() {
            if self.stream.skips() {
                self.stream.on_number_skipped(self.sent);
                self.sent += 1;
            }
            self.stream.on_packet_sent(self.now, self.sent);
            if !self.lost.contains(&self.sent) {
                self.on_wire.push_back((self.now + ROUND_TRIP, self.sent));
            }
            self.sent += 1;
        }
        self.sent - before
    }

    /// The peer has packet `number`, and has got `marked` packets with congestion experienced.
    fn acknowledge(&mut self, number: u64, marked: u32) {
        self.handle(Ack::new(number as u32, 0, marked, 0, &[])).expect("well-formed");
    }

    fn handle(&mut self, ack: Ack<'_>) -> Result<(), Malformed> {
        let mut bytes = Vec::new();
        Frame::Ack(ack).encode(&mut bytes);
        let packet = Packet { number: self.came, marked: false, body: Body::Frames, bytes: &bytes };
        self.came += 1;
        self.stream.handle(self.now, packet)
    }

    fn run(&mut self, until: Duration) {
        while self.now < until {
            self.now += MILLISECOND / 4;
            while let Some(&(at, number)) = self.on_wire.front()
                && at <= self.now
            {
                self.on_wire.pop_front();
                self.acknowledge(number, 0);
            }
            self.stream.handle_timeout(self.now);
            self.send();
        }
    }

    /// Writes for a while, until the window is open, and runs until all was acknowledged.
    fn warm_up(&mut self) {
        for _ in 0..200 {
            self.stream.write(&[7; 100_000]);
            self.run(self.now + MILLISECOND);
        }
        self.run(self.now + 10 * ROUND_TRIP);
        let figures = self.stream.statistics();
        assert_eq!(figures.unacknowledged, 0);
        assert!(figures.congestion_window > 150_000, "{figures:?}");
    }
}

#[test]
fn the_round_trip_is_that_of_the_repetition_that_was_acknowledged() {
    let mut sender = Sender::new();
    sender.stream.write(&[7; 100]);
    assert_eq!(sender.send(), 1);
    sender.now = sender.stream.poll_timeout().expect("a probe");
    sender.stream.handle_timeout(sender.now);
    let repeated = sender.sent;
    assert!(sender.send() > 0);
    sender.now += ROUND_TRIP;
    sender.acknowledge(repeated, 0);
    let figures = sender.stream.statistics();
    assert_eq!((figures.rtt, figures.min_rtt), (ROUND_TRIP, ROUND_TRIP));
    // The packet itself comes late, and is older than what was acknowledged.
    sender.now += 50 * ROUND_TRIP;
    sender.acknowledge(0, 0);
    assert_eq!(sender.stream.statistics().rtt, ROUND_TRIP);
}

#[test]
fn losses_on_both_sides_of_an_idle_period_are_no_persistent_congestion() {
    for control in [CongestionControl::Bbr, CongestionControl::Cubic] {
        let mut sender = Sender::new();
        sender.stream.set_congestion_control(control);
        sender.warm_up();
        let before = sender.stream.statistics();
        for _ in 0..2 {
            sender.lost = sender.sent..sender.sent + 2;
            sender.stream.write(&[7; 20_000]);
            sender.run(sender.now + Duration::from_secs(20));
        }
        let after = sender.stream.statistics();
        assert_eq!((after.lost - before.lost, after.unacknowledged), (4, 0));
        assert!(after.congestion_window > before.congestion_window / 3, "{before:?} {after:?}");
    }
}

#[test]
fn marks_that_are_counted_back_are_no_congestion() {
    let mut sender = Sender::new();
    sender.stream.set_congestion_control(CongestionControl::Cubic);
    sender.stream.write(&[7; 8_000]);
    assert!(sender.send() > 4);
    sender.now += ROUND_TRIP;
    sender.acknowledge(0, 5);
    let figures = sender.stream.statistics();
    assert_eq!((figures.congestion_events, figures.marked), (1, 5));
    // A path that clears the marks from now on, and a peer that loses count.
    for (number, marked) in [(1, 5), (2, 3), (3, 0)] {
        sender.now += 2 * ROUND_TRIP;
        sender.acknowledge(number, marked);
    }
    let figures = sender.stream.statistics();
    assert_eq!((figures.congestion_events, figures.marked), (1, 5));
}

#[test]
fn after_an_idle_period_no_more_than_a_burst_leaves_at_once() {
    for control in [CongestionControl::Bbr, CongestionControl::Cubic] {
        let mut sender = Sender::new();
        sender.stream.set_congestion_control(control);
        sender.warm_up();
        sender.run(sender.now + Duration::from_secs(2));
        assert!(sender.stream.write(&[7; 150_000]) > 100_000);
        let burst = sender.send();
        assert!((1..=recovery::MAX_BURST + 1).contains(&burst), "{control:?}: {burst}");
        // The rest is paced, and does not wait for an acknowledgement.
        sender.run(sender.now + ROUND_TRIP / 2);
        assert!(sender.stream.statistics().in_flight > burst * 1200, "{control:?}");
    }
}

#[test]
fn a_timer_that_is_handled_late_is_not_due_again_at_once() {
    let mut sender = Sender::new();
    sender.stream.write(&[7; 12_000]);
    let sent = sender.send();
    assert!(sent >= 10);
    sender.now += ROUND_TRIP;
    // The last one only: the others are lost, the newest of them when time has told.
    sender.acknowledge(sent - 1, 0);
    assert!(sender.stream.poll_timeout().is_some_and(|due| due < Duration::from_secs(1)));
    sender.now = Duration::from_secs(10);
    sender.stream.handle_timeout(sender.now);
    assert_eq!(sender.stream.statistics().lost, sent - 1);
    assert!(sender.send() > 0, "they are repeated");
    assert!(sender.stream.poll_timeout().is_none_or(|due| due > sender.now));
}

#[test]
fn nothing_is_due_while_nothing_is_in_flight() {
    let mut sender = Sender::new();
    assert_eq!(sender.stream.poll_timeout(), None);
    sender.warm_up();
    assert_eq!(sender.stream.poll_timeout(), None);
    let sent = sender.sent;
    sender.now += Duration::from_secs(3600);
    sender.stream.handle_timeout(sender.now);
    assert_eq!((sender.send(), sender.sent), (0, sent));
}

#[test]
fn who_acknowledges_a_number_that_was_left_out_has_made_it_up() {
    let mut sender = Sender::new();
    sender.stream.skip_later(2);
    sender.stream.write(&[7; 8_000]);
    let sent = sender.send();
    assert!(sent > 5);
    sender.now += ROUND_TRIP;
    // Not the third, which no packet had.
    for number in [1, 0, 3] {
        sender.acknowledge(number, 0);
    }
    let honest = sender.stream.statistics();
    assert!(!sender.stream.is_deceived());
    let all = Ack::new(sent as u32 - 1, 0, 0, sent as u16 - 1, &[]);
    assert!(sender.handle(all).is_err());
    assert!(sender.stream.is_deceived());
    let figures = sender.stream.statistics();
    assert_eq!(figures.congestion_window, honest.congestion_window, "it has opened nothing");
    assert_eq!((sender.stream.write(b"more"), figures.unacknowledged), (0, 0));
    // It is told, until it has acknowledged that, in whatever way.
    let transmit = sender.stream.poll_transmit(sender.now).expect("the end");
    let mut body = vec![0; transmit.size];
    sender.stream.write_body(&transmit, &mut body);
    let frames: Vec<_> = Frame::parse_all(&body).expect("well-formed").collect();
    assert!(frames.contains(&Frame::Abort(MADE_UP)) && frames.contains(&Frame::Stop(MADE_UP)));
    sender.stream.on_packet_sent(sender.now, sent);
    sender.handle(Ack::new(sent as u32, 0, 0, sent as u16, &[])).expect("taken");
    assert!(sender.stream.is_drained());
}

#[test]
fn gaps_are_not_told_again_once_the_peer_knows_of_them() {
    let config = Config { initial_rtt: MILLISECOND, ..Config::default() };
    let mut ends = [(); 2].map(|()| Stream::new(Duration::ZERO, config));
    let (mut numbers, mut now, mut largest) = ([0, 0], Duration::ZERO, 0);
    // Each packet is an answer, and beside it leaves one of control that takes a number.
    for turn in 0..1000 {
        now += MILLISECOND;
        let [one, other] = &mut ends;
        let (from, to) = if turn % 2 == 0 { (one, other) } else { (other, one) };
        from.handle_timeout(now);
        from.write(&[7; 8]);
        while let Some(transmit) = from.poll_transmit(now) {
            let mut bytes = vec![0; transmit.size];
            from.write_body(&transmit, &mut bytes);
            largest = largest.max(transmit.size);
            let number = numbers[turn % 2];
            numbers[turn % 2] += 2;
            from.on_packet_sent(now, number);
            let packet = Packet { number, marked: false, body: transmit.body, bytes: &bytes };
            to.handle(now, packet).expect("well-formed");
        }
        to.read(&mut [0; 8]);
    }
    assert!(largest < 64, "{largest} bytes for 8");
    assert_eq!(ends[0].statistics().lost + ends[1].statistics().lost, 0);
}
