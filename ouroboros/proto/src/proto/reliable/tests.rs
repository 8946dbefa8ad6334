//! Two streams over a modelled link under a seed and a virtual clock.

use std::collections::{BTreeMap, HashSet};

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn permille(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }
}

/// A link in one direction. A corrupted packet does not authenticate, so that
/// corruption is loss here.
#[derive(Clone, Debug)]
struct Link {
    delay: Duration,
    jitter: u64,
    loss: u64,
    duplication: u64,
    /// Chances in a thousand that a packet is marked, and that one cannot be sealed.
    marks: u64,
    /// Packets that are ECN-capable do not pass.
    drops_ect: bool,
    unsealed: u64,
    /// Bytes a second; 0: no limit.
    rate: u64,
    queue: Duration,
    blackout: std::ops::Range<Duration>,
    busy_until: Duration,
}

impl Link {
    fn of(random: &mut Random) -> Self {
        let start = Duration::from_millis(random.below(2_000));
        let dark = if random.permille(250) { random.below(4_000) } else { 0 };
        Self {
            delay: Duration::from_micros(random.below(60_000)),
            jitter: [0, 0, 500, 20_000][random.below(4) as usize],
            loss: [0, 1, 50, 300][random.below(4) as usize],
            duplication: [0, 20, 200][random.below(3) as usize],
            marks: 2,
            drops_ect: random.permille(100),
            unsealed: 5,
            rate: [0, 200_000, 25_000_000][random.below(3) as usize],
            queue: Duration::from_millis(5 + random.below(50)),
            blackout: start..start + Duration::from_millis(dark),
            busy_until: Duration::ZERO,
        }
    }

    /// When the copies of a packet of `size` bytes arrive.
    fn carry(&mut self, now: Duration, size: usize, random: &mut Random) -> Vec<Duration> {
        let mut arrivals = Vec::new();
        if self.blackout.contains(&now) || random.permille(self.loss) {
            return arrivals;
        }
        let mut at = now;
        if self.rate > 0 {
            let begin = self.busy_until.max(now);
            if begin > now + self.queue {
                return arrivals;
            }
            self.busy_until = begin + Duration::from_secs_f64(size as f64 / self.rate as f64);
            at = self.busy_until;
        }
        for _ in 0..1 + u64::from(random.permille(self.duplication)) {
            arrivals.push(at + self.delay + Duration::from_micros(random.below(self.jitter + 1)));
        }
        arrivals
    }
}

struct End {
    stream: Stream,
    numbers: u64,
    seen: HashSet<u64>,
    to_write: u64,
    written: u64,
    read: u64,
    ended: bool,
    /// Reads nothing before.
    stalled_until: Duration,
    /// Largest body of a packet, and from when it is another.
    largest: usize,
    grows: Option<(Duration, usize)>,
    /// From when on it may hold so many bytes only.
    squeezed: Option<(Duration, u64)>,
}

type Arrivals = BTreeMap<(Duration, u64), (usize, u64, Body, Vec<u8>)>;

/// The byte of the stream at `offset`.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl End {
    fn new(config: Config, to_write: u64, stalled_until: Duration) -> Self {
        let stream = Stream::new(Duration::ZERO, config);
        let (numbers, written, read, ended) = (0, 0, 0, false);
        Self {
            stream,
            numbers,
            seen: HashSet::new(),
            to_write,
            written,
            read,
            ended,
            stalled_until,
            largest: config.largest_body,
            grows: None,
            squeezed: None,
        }
    }

    fn application(&mut self, now: Duration) {
        while self.written < self.to_write {
            let size = (self.to_write - self.written).min(10_000);
            let data: Vec<u8> = (self.written..self.written + size).map(byte).collect();
            let count = self.stream.write(&data);
            self.written += count as u64;
            if count == 0 {
                break;
            }
        }
        if self.written == self.to_write {
            self.stream.finish();
        }
        let mut buffer = [0; 4000];
        while now >= self.stalled_until && !self.ended {
            match self.stream.read(&mut buffer) {
                Read::Data(count) => {
                    for (at, read) in (self.read..).zip(&buffer[..count]) {
                        assert_eq!(*read, byte(at), "the byte at {at} is what was written there");
                    }
                    self.read += count as u64;
                }
                Read::Blocked => break,
                Read::End => self.ended = true,
                Read::Aborted(_) => panic!("nobody has aborted"),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.stream.send_state() == SendState::Finished
    }
}

/// Runs until both ends are done or `limit` has passed; how long it took.
fn run(
    ends: &mut [End; 2],
    links: &mut [Link; 2],
    random: &mut Random,
    limit: Duration,
) -> Duration {
    let mut wire: Arrivals = BTreeMap::new();
    let (mut now, mut order) = (Duration::ZERO, 0);
    loop {
        let mut again = None;
        for index in 0..2 {
            let end = &mut ends[index];
            end.stream.handle_timeout(now);
            end.application(now);
            if let Some((at, size)) = end.grows
                && at <= now
            {
                end.largest = size;
            }
            end.stream.set_largest_body(end.largest);
            if let Some((at, limit)) = end.squeezed
                && at <= now
            {
                end.stream.set_memory_limit(limit);
            }
            while let Some(transmit) = end.stream.poll_transmit(now) {
                assert!(transmit.size <= end.largest, "a packet is no larger than it may be");
                let mut bytes = vec![0; transmit.size];
                end.stream.write_body(&transmit, &mut bytes);
                if random.permille(links[index].unsealed) {
                    // No key: sealing is paused.
                    end.stream.on_packets_unsent();
                    again = Some(now + MILLISECOND);
                    break;
                }
                // Control takes numbers, too.
                end.numbers += 1 + u64::from(random.permille(10));
                end.stream.on_packet_sent(now, end.numbers);
                if transmit.ect && links[index].drops_ect {
                    continue;
                }
                for at in links[index].carry(now, bytes.len() + 26, random) {
                    order += 1;
                    wire.insert(
                        (at, order),
                        (1 - index, end.numbers, transmit.body, bytes.clone()),
                    );
                }
            }
            let figures = end.stream.statistics();
            assert!(figures.held <= 64 * 1024 * 1024 + 8192, "held: {figures:?}");
        }
        if ends.iter().all(End::is_done) {
            return now;
        }
        let due = ends.iter().filter_map(|end| end.stream.poll_timeout());
        let stalled = ends.iter().map(|end| end.stalled_until).filter(|at| *at > now);
        let arrives = wire.first_key_value().map(|((at, _), _)| *at);
        let next = due.chain(stalled).chain(arrives).chain(again).min();
        let next = next.unwrap_or_else(|| panic!("deadlock: nothing is due at {now:?}"));
        now = next.max(now + Duration::from_nanos(1));
        let figures = [0, 1].map(|end: usize| ends[end].stream.statistics());
        assert!(now < limit, "no end after {now:?}: {figures:?}");
        while let Some(entry) = wire.first_entry()
            && entry.key().0 <= now
        {
            let (to, number, body, bytes) = entry.remove();
            // The replay window.
            if ends[to].seen.insert(number) {
                let marked = random.permille(links[1 - to].marks);
                let packet = Packet { number, marked, body, bytes: &bytes };
                ends[to].stream.handle(now, packet).expect("what ours sends is well-formed");
            }
        }
    }
}

fn transfer(seed: u64) {
    let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let end = |random: &mut Random| {
        let window = [4_096, 65_536, 262_144][random.below(3) as usize];
        let stalled = Duration::from_millis(random.below(2) * random.below(3_000));
        (window, [0, 1, 5_000, 300_000][random.below(4) as usize], stalled)
    };
    let (one, other) = (end(random), end(random));
    let config =
        |own: u64, peer: u64| Config { window: own, peer_window: peer, ..Config::default() };
    let mut ends = [
        End::new(config(one.0, other.0), one.1, one.2),
        End::new(config(other.0, one.0), other.1, other.2),
    ];
    for end in &mut ends {
        if random.permille(500) {
            end.stream.set_congestion_control(CongestionControl::Bbr);
        }
        let at = Duration::from_millis(random.below(1_000));
        end.squeezed = random.permille(250).then(|| (at, random.below(100_000)));
    }
    let mut links = [Link::of(random), Link::of(random)];
    run(&mut ends, &mut links, random, Duration::from_secs(600));
    for (end, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        assert_eq!(end.read, other.to_write, "all that was written is read");
        assert!(end.stream.packets_held() < 20_000);
    }
}

#[test]
fn what_is_written_is_read_once_and_in_order_whatever_the_network_does() {
    let seeds = option_env!("SEEDS").and_then(|seeds| seeds.parse().ok()).unwrap_or(100);
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| transfer(seed)) {
            eprintln!("failed with seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A link that loses nothing but what its queue has no room for.
fn plain(delay: Duration, rate: u64, loss: u64) -> Link {
    Link {
        delay,
        jitter: 0,
        loss,
        duplication: 0,
        marks: 0,
        drops_ect: false,
        unsealed: 0,
        rate,
        queue: 2 * delay,
        blackout: Duration::ZERO..Duration::ZERO,
        busy_until: Duration::ZERO,
    }
}

#[test]
#[ignore = "prints figures: goodput over 200 Mbit/s and 20 ms by loss"]
fn goodput() {
    let of = [CongestionControl::Cubic, CongestionControl::Bbr];
    for (control, loss) in of.into_iter().flat_map(|of| [0, 1, 10, 50].map(|loss| (of, loss))) {
        let (size, rtt) = (
            if control == CongestionControl::Bbr { 50_000_000 } else { 10_000_000 },
            20 * MILLISECOND,
        );
        let config = Config { initial_rtt: rtt, ..Config::default() };
        let mut ends =
            [End::new(config, size, Duration::ZERO), End::new(config, 0, Duration::ZERO)];
        ends[0].stream.set_congestion_control(control);
        let mut links = [plain(rtt / 2, 25_000_000, loss), plain(rtt / 2, 25_000_000, 0)];
        let took = run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(3600));
        let goodput = size as f64 * 8e-6 / took.as_secs_f64();
        let figures = ends[0].stream.statistics();
        eprintln!("{control:?}, loss {loss}/1000: {goodput:.1} Mbit/s, {figures:?}");
    }
}

#[test]
fn marks_reduce_the_window_and_nothing_is_lost_for_them() {
    let config = Config { initial_rtt: MILLISECOND, ..Config::default() };
    let mut ends =
        [End::new(config, 3_000_000, Duration::ZERO), End::new(config, 0, Duration::ZERO)];
    let mut links = [plain(10 * MILLISECOND, 0, 0), plain(10 * MILLISECOND, 0, 0)];
    links[0].marks = 20;
    run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(600));
    let figures = ends[0].stream.statistics();
    assert!(figures.marked > 10 && figures.congestion_events > 1, "{figures:?}");
    assert_eq!(figures.lost, 0, "{figures:?}");
    let unmarked = {
        let mut ends =
            [End::new(config, 3_000_000, Duration::ZERO), End::new(config, 0, Duration::ZERO)];
        let mut links = [plain(10 * MILLISECOND, 0, 0), plain(10 * MILLISECOND, 0, 0)];
        run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(600));
        ends[0].stream.statistics().congestion_window
    };
    assert!(figures.congestion_window < unmarked / 2, "{figures:?}, {unmarked} unmarked");
}

#[test]
fn a_path_that_drops_what_is_ecn_capable_is_used_without() {
    let config = Config { initial_rtt: 20 * MILLISECOND, ..Config::default() };
    let mut ends =
        [End::new(config, 300_000, Duration::ZERO), End::new(config, 300_000, Duration::ZERO)];
    let mut links = [plain(10 * MILLISECOND, 0, 0), plain(10 * MILLISECOND, 0, 0)];
    links[0].drops_ect = true;
    links[1].drops_ect = true;
    run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(60));
    assert_eq!((ends[0].read, ends[1].read), (300_000, 300_000));
}

#[test]
fn packets_that_are_larger_than_the_window_leave_one_at_a_time() {
    let config = Config { initial_rtt: MILLISECOND, ..Config::default() };
    let mut ends =
        [End::new(config, 3_000_000, Duration::ZERO), End::new(config, 0, Duration::ZERO)];
    for end in &mut ends {
        end.largest = 9000;
    }
    // So much loss that the window is at its least.
    let mut links = [plain(MILLISECOND, 0, 200), plain(MILLISECOND, 0, 200)];
    run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(600));
    // And the path comes to carry more while it is.
    for seed in 1..20 {
        let mut ends =
            [End::new(config, 1_000_000, Duration::ZERO), End::new(config, 0, Duration::ZERO)];
        ends[0].grows = Some((Duration::from_millis(20 * seed), 60_000));
        let mut links = [plain(MILLISECOND, 0, 200), plain(MILLISECOND, 0, 200)];
        run(&mut ends, &mut links, &mut Random(seed), Duration::from_secs(600));
    }
}

#[test]
fn an_abort_and_a_stop_are_told_and_are_no_end() {
    let config = Config::default();
    let (mut one, mut other) =
        (Stream::new(Duration::ZERO, config), Stream::new(Duration::ZERO, config));
    assert_eq!(one.write(b"never read"), 10);
    one.abort(7);
    one.stop(8);
    assert_eq!(one.write(b"more"), 0, "an aborted stream takes nothing");
    let mut number = 0;
    let mut carry = |from: &mut Stream, to: &mut Stream| {
        while let Some(transmit) = from.poll_transmit(MILLISECOND) {
            let mut bytes = vec![0; transmit.size];
            from.write_body(&transmit, &mut bytes);
            number += 1;
            from.on_packet_sent(MILLISECOND, number);
            let packet = Packet { number, marked: false, body: transmit.body, bytes: &bytes };
            to.handle(MILLISECOND, packet).expect("well-formed");
        }
    };
    carry(&mut one, &mut other);
    assert_eq!(other.read(&mut [0; 20]), Read::Aborted(7));
    assert_eq!(other.send_state(), SendState::Stopped(8));
    assert_eq!(other.write(b"data"), 0);
    carry(&mut other, &mut one);
    assert_eq!(one.send_state(), SendState::Aborted(7));
    assert!(one.is_drained() && other.is_drained());
}

#[test]
fn a_close_is_told_behind_all_data_whatever_is_lost() {
    for lost in 0..12 {
        let config = Config { initial_rtt: MILLISECOND, ..Config::default() };
        let (mut one, mut other) =
            (Stream::new(Duration::ZERO, config), Stream::new(Duration::ZERO, config));
        one.write(&[7; 5_000]);
        one.finish_with(42, b"a reason");
        one.finish_with(43, b"another");
        let (mut numbers, mut now, mut read) = ([0, 0], Duration::ZERO, 0);
        let mut count = 0;
        while one.send_state() != SendState::Finished {
            now += MILLISECOND;
            assert!(now < Duration::from_secs(60), "the close arrives");
            let mut carry = |from: &mut Stream, to: &mut Stream, number: &mut u64| {
                from.handle_timeout(now);
                while let Some(transmit) = from.poll_transmit(now) {
                    let mut bytes = vec![0; transmit.size];
                    from.write_body(&transmit, &mut bytes);
                    *number += 1;
                    from.on_packet_sent(now, *number);
                    count += 1;
                    if count == lost + 1 {
                        continue;
                    }
                    let (number, body) = (*number, transmit.body);
                    to.handle(now, Packet { number, marked: false, body, bytes: &bytes })
                        .expect("well-formed");
                }
            };
            carry(&mut one, &mut other, &mut numbers[0]);
            while let Read::Data(count) = other.read(&mut [0; 1000]) {
                read += count;
            }
            carry(&mut other, &mut one, &mut numbers[1]);
        }
        assert_eq!((read, other.read(&mut [0; 1])), (5_000, Read::End));
        let reason = other.close_reason().expect("told");
        assert_eq!((reason.code, &reason.reason[..]), (42, &b"a reason"[..]));
    }
}

#[test]
fn a_peer_that_keeps_no_credit_costs_no_more_than_it_has() {
    let config = Config { window: 8192, ..Config::default() };
    let mut stream = Stream::new(Duration::ZERO, config);
    for number in 0..20_000u64 {
        // A byte in every second place, far beyond the credit.
        let offset = (number * 2 + 1) as u32;
        let bytes = [&offset.to_be_bytes()[..], &[1]].concat();
        let packet = Packet { number, marked: false, body: Body::Data, bytes: &bytes };
        stream.handle(Duration::ZERO, packet).expect("well-formed");
    }
    assert!(stream.statistics().held <= 3 * 4096);
    assert_eq!(stream.read(&mut [0; 10]), Read::Blocked);
}

#[test]
fn who_may_hold_little_holds_little_whatever_credit_was_given() {
    let config = Config { window: 1 << 20, peer_window: 1 << 20, ..Config::default() };
    let mut stream = Stream::new(Duration::ZERO, config);
    stream.set_memory_limit(100_000);
    let mut number = 0;
    let mut carry = |stream: &mut Stream, offset: u32, size: usize| {
        let bytes = [&offset.to_be_bytes()[..], &vec![1; size]].concat();
        let packet = Packet { number, marked: false, body: Body::Data, bytes: &bytes };
        number += 1;
        stream.handle(Duration::ZERO, packet).expect("well-formed");
    };
    // Everything but the first byte, of which no more is kept than may be.
    for at in 0..700 {
        carry(&mut stream, at * 1000 + 1, 1000);
    }
    assert!(stream.memory() <= 110_000, "{}", stream.memory());
    // What can be read at once is taken all the same.
    carry(&mut stream, 0, 1);
    assert!(stream.readable() > 90_000);
    assert!(stream.memory() <= 110_000);
    let mut buffer = vec![0; 200_000];
    let Read::Data(read) = stream.read(&mut buffer) else { panic!("there is something") };
    assert_eq!((stream.memory(), stream.readable()), (0, 0));
    carry(&mut stream, read as u32, 1000);
    assert_eq!(stream.readable(), 1000, "there is room again");
    // And writing waits for room.
    stream.set_memory_limit(0);
    assert!(stream.write(&[0; 100_000]) <= 32 * 1024);
}

#[test]
fn a_sender_whose_data_was_dropped_goes_on_when_there_is_room() {
    let config = Config { initial_rtt: MILLISECOND, ..Config::default() };
    let stalled = Duration::from_secs(20);
    let mut ends = [End::new(config, 300_000, Duration::ZERO), End::new(config, 0, stalled)];
    ends[1].squeezed = Some((Duration::ZERO, 0));
    let mut links = [plain(MILLISECOND, 0, 0), plain(MILLISECOND, 0, 0)];
    let took = run(&mut ends, &mut links, &mut Random(7), Duration::from_secs(60));
    assert!(took < stalled + Duration::from_millis(200), "not by its timer: {took:?}");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_malformed() {
    let mut stream = Stream::new(Duration::ZERO, Config::default());
    stream.write(b"data");
    stream.poll_transmit(Duration::ZERO).expect("data");
    stream.on_packet_sent(Duration::ZERO, 5);
    let mut bytes = Vec::new();
    Frame::Ack(crate::wire::frame::Ack::new(6, 0, 0, 6, &[])).encode(&mut bytes);
    let packet = Packet { number: 0, marked: false, body: Body::Frames, bytes: &bytes };
    assert!(stream.handle(MILLISECOND, packet).is_err());
    assert_eq!(stream.statistics().unacknowledged, 4);
}
