//! Two ends of a stream, and the link between them.

use std::collections::{BTreeMap, HashSet};

use super::*;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn permille(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }
}

/// A link in one direction. A corrupted packet does not authenticate, so that
/// corruption is loss here.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) delay: Duration,
    pub(super) jitter: u64,
    pub(super) loss: u64,
    pub(super) duplication: u64,
    /// Chances in a thousand that a packet is marked, and that one cannot be sealed.
    pub(super) marks: u64,
    /// Packets that are ECN-capable do not pass.
    pub(super) drops_ect: bool,
    pub(super) unsealed: u64,
    /// Bytes a second; 0: no limit.
    pub(super) rate: u64,
    pub(super) queue: Duration,
    pub(super) blackout: std::ops::Range<Duration>,
    pub(super) busy_until: Duration,
}

impl Link {
    pub(super) fn of(random: &mut Random) -> Self {
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
    pub(super) fn carry(
        &mut self,
        now: Duration,
        size: usize,
        random: &mut Random,
    ) -> Vec<Duration> {
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

pub(super) struct End {
    pub(super) stream: Stream,
    pub(super) numbers: u64,
    pub(super) seen: HashSet<u64>,
    pub(super) to_write: u64,
    pub(super) written: u64,
    pub(super) read: u64,
    pub(super) ended: bool,
    /// Reads nothing before.
    pub(super) stalled_until: Duration,
    /// Largest body of a packet, and from when it is another.
    pub(super) largest: usize,
    pub(super) grows: Option<(Duration, usize)>,
    /// From when on it may hold so many bytes only.
    pub(super) squeezed: Option<(Duration, u64)>,
}

pub(super) type Arrivals = BTreeMap<(Duration, u64), (usize, u64, Body, Vec<u8>)>;

/// The byte of the stream at `offset`.
pub(super) fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl End {
    pub(super) fn new(config: Config, to_write: u64, stalled_until: Duration) -> Self {
        let mut stream = Stream::new(Duration::ZERO, config);
        stream.skip_later(to_write);
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

    pub(super) fn application(&mut self, now: Duration) {
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

    pub(super) fn is_done(&self) -> bool {
        self.ended && self.stream.send_state() == SendState::Finished
    }
}

/// Runs until both ends are done or `limit` has passed; how long it took.
pub(super) fn run(
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
                if end.stream.skips() {
                    end.numbers += 1;
                    end.stream.on_number_skipped(end.numbers);
                    end.stream.skip_later(end.numbers % 101);
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

/// A link that loses nothing but what its queue has no room for.
pub(super) fn plain(delay: Duration, rate: u64, loss: u64) -> Link {
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
