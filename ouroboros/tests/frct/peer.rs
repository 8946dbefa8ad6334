//! A model of a 0.23 peer on a flow in order, faults and all, written from what is
//! known of it and not from our machine: its two records, whole seconds, windows
//! that shrink, acknowledgements of what was read only, repetitions that are garbled
//! when the flow is encrypted, readers that a frame does not wake.

use std::{collections::VecDeque, time::Duration};

use ouroboros::{
    proto::frct::Service,
    wire::frct::{Flags, Header},
};

use crate::{Random, ms};

const SLOTS: u32 = 256;
const FIRST_WINDOW: u32 = 64;
/// Of Ethernet: both records are kept for so many whole seconds.
const INACTIVITY: u64 = 131;
const TICK: Duration = ms(5);

/// A frame that the peer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Packet(Vec<u8>),
    /// Does not authenticate.
    Garbled,
}

/// How the peer's application reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reader {
    /// All that is there.
    #[default]
    Prompt,
    /// Blocks in a read; one of five frames wakes it only when the next one comes.
    Blocking,
    /// Waits for events, of which each frame is one, and reads a packet for each.
    OnEvents,
}

struct Kept {
    sequence: u32,
    packet: Vec<u8>,
    first: Duration,
    due: Duration,
}

pub(crate) struct Peer {
    reliable: bool,
    pub(crate) encrypted: bool,
    pub(crate) random: Random,
    // The send record.
    left: u32,
    next: u32,
    right: u32,
    last_new: Option<u64>,
    heard_window: bool,
    closed_since: Option<Duration>,
    asked: Option<Duration>,
    last_data: Option<Duration>,
    kept: Vec<Kept>,
    timed: Option<(u32, Duration)>,
    smoothed: Option<f64>,
    deviation: f64,
    timeout: Duration,
    // The receive record.
    expected: u32,
    edge: u32,
    last_any: Option<u64>,
    slots: Vec<Option<Vec<u8>>>,
    acknowledged: Option<u32>,
    acknowledge_at: Option<Duration>,
    /// Frames that nobody has processed: all is done inside of a read.
    ring: VecDeque<Vec<u8>>,
    pub(crate) out: Vec<Frame>,
    pub(crate) read: Vec<Vec<u8>>,
    /// The flow is down at this end.
    pub(crate) down: bool,
    /// More came behind a gap.
    pub(crate) crashed: bool,
    /// Its application does not read before this.
    pub(crate) stalled_until: Duration,
    pub(crate) reader: Reader,
    /// A frame has come and has not woken it.
    asleep: bool,
    /// The first number, if it is not to be a random one.
    pub(crate) first: Option<u32>,
}

fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Peer {
    pub(crate) fn new(service: Service, encrypted: bool, random: Random) -> Self {
        Self {
            reliable: service == Service::Reliable,
            encrypted,
            random,
            left: 0,
            next: 0,
            right: 0,
            last_new: None,
            heard_window: false,
            closed_since: None,
            asked: None,
            last_data: None,
            kept: Vec::new(),
            timed: None,
            smoothed: None,
            deviation: 0.0,
            timeout: ms(1000),
            expected: 0,
            edge: 0,
            last_any: None,
            slots: vec![None; SLOTS as usize],
            acknowledged: None,
            acknowledge_at: None,
            ring: VecDeque::new(),
            out: Vec::new(),
            read: Vec::new(),
            down: false,
            crashed: false,
            stalled_until: Duration::ZERO,
            reader: Reader::default(),
            asleep: false,
            first: None,
        }
    }

    fn heard_within(&self, now: Duration, seconds: u64) -> bool {
        self.last_any.is_some_and(|last| now.as_secs() - last <= seconds)
    }

    /// The application writes without blocking; whether it could.
    pub(crate) fn write(&mut self, now: Duration, payload: &[u8]) -> bool {
        if self.down || self.crashed {
            return false;
        }
        if self.last_new.is_none_or(|last| now.as_secs() - last > INACTIVITY) {
            self.next = self.first.take().unwrap_or(self.random.next() as u32);
            (self.left, self.right) = (self.next, self.next.wrapping_add(FIRST_WINDOW));
        }
        if !after(self.right, self.next) {
            self.rendezvous(now);
            return false;
        }
        self.closed_since = None;
        self.last_new = Some(now.as_secs());
        let mut flags = Flags::DATA;
        if !self.reliable || self.left == self.next {
            flags = flags | Flags::DRF;
        }
        let (mut window, mut acknowledgement) = (0, 0);
        if self.heard_within(now, INACTIVITY) {
            flags = flags | Flags::FC;
            window = self.edge & 0x00ff_ffff;
        }
        if self.reliable && self.heard_within(now, 10) {
            flags = flags | Flags::ACK;
            acknowledgement = self.expected;
            self.acknowledged = Some(self.expected);
        }
        let header = Header { flags, window, sequence: self.next, acknowledgement };
        let packet = [&header.encode()[..], payload].concat();
        if self.reliable {
            let due = now + self.timeout;
            let (sequence, packet) = (self.next, packet.clone());
            self.kept.push(Kept { sequence, packet, first: now, due });
            self.timed.get_or_insert((self.next, now));
        }
        self.last_data = Some(now);
        self.next = self.next.wrapping_add(1);
        self.out.push(Frame::Packet(packet));
        true
    }

    /// At most every 100 ms, and for 1 s after the window closed.
    fn rendezvous(&mut self, now: Duration) {
        let since = *self.closed_since.get_or_insert(now);
        let lately = self.asked.is_some_and(|at| now - at < ms(100));
        if self.heard_window && !lately && now - since <= ms(1000) {
            self.asked = Some(now);
            self.bare(Flags::RDVS, 0, 0);
        }
    }

    fn bare(&mut self, flags: Flags, window: u32, acknowledgement: u32) {
        let window = window & 0x00ff_ffff;
        let header = Header { flags, window, sequence: 0, acknowledgement };
        self.out.push(Frame::Packet(header.encode().to_vec()));
    }

    /// A frame arrives. Nobody looks at it before somebody reads.
    pub(crate) fn arrive(&mut self, frame: Vec<u8>) {
        if self.ring.len() < 1024 {
            self.ring.push_back(frame);
        }
        self.asleep = !self.asleep && self.reader == Reader::Blocking && self.random.percent(20);
    }

    /// What goes on by itself or because the application, which reads whenever it
    /// can, is not stalled.
    pub(crate) fn run(&mut self, now: Duration) {
        if self.down || self.crashed {
            return;
        }
        if now >= self.stalled_until && !self.asleep {
            while let Some(frame) = self.ring.pop_front() {
                self.process(now, &frame);
                self.hand_over();
            }
            if self.acknowledge_at.is_some_and(|at| at <= now) {
                self.acknowledge_at = None;
                self.acknowledge(now);
            }
        }
        self.repeat(now);
    }

    fn process(&mut self, now: Duration, frame: &[u8]) {
        if frame.is_empty() {
            return;
        }
        let (header, payload) = Header::parse(frame).expect("we send nothing else");
        let Header { flags, sequence, .. } = header;
        let data = flags.contains(Flags::DATA);
        if !self.heard_within(now, INACTIVITY) {
            if flags.contains(Flags::DRF) {
                self.expected = sequence;
                self.edge = sequence.wrapping_add(SLOTS);
                self.slots.fill(None);
            } else if data {
                return;
            }
        }
        self.last_any = Some(now.as_secs());
        if flags.contains(Flags::ACK) && after(header.acknowledgement, self.left) {
            self.left = header.acknowledgement;
            if let Some((number, sent)) = self.timed
                && after(self.left, number)
            {
                self.timed = None;
                self.measured((now - sent).as_secs_f64());
            }
            let left = self.left;
            self.kept.retain(|kept| !after(left, kept.sequence));
        }
        if flags.contains(Flags::FC) {
            self.heard_window = true;
            let mut edge = self.right & 0xff00_0000 | header.window;
            if self.right.wrapping_sub(edge) as i32 > 0x7f_ffff {
                edge = edge.wrapping_add(1 << 24);
            }
            self.right = edge;
        }
        if flags.contains(Flags::RDVS) {
            self.bare(Flags::FC, self.edge, 0);
        }
        if !data {
            return;
        }
        if self.reliable {
            let ahead = sequence.wrapping_sub(self.expected);
            if (ahead as i32) < 0 {
                // Each old packet is answered (seen).
                self.acknowledged = None;
                self.acknowledge(now);
            } else if ahead < SLOTS && after(self.edge, sequence) {
                let slot = &mut self.slots[(sequence % SLOTS) as usize];
                if slot.is_none() {
                    *slot = Some(payload.to_vec());
                    self.crashed |= ahead > 0 && self.is_beyond_a_gap();
                    let spread = self.random.below(6);
                    self.acknowledge_at.get_or_insert(now + ms(10 + spread));
                }
            }
        } else if (sequence.wrapping_sub(self.expected) as i32) >= 0 {
            self.expected = sequence.wrapping_add(1);
            self.edge = self.edge.wrapping_add(1);
            self.read.push(payload.to_vec());
        }
    }

    /// The expected packet is missing, and more than one is there behind it.
    fn is_beyond_a_gap(&self) -> bool {
        let there = self.slots.iter().flatten().count();
        self.slots[(self.expected % SLOTS) as usize].is_none() && there > 1
    }

    fn hand_over(&mut self) {
        let most = if self.reader == Reader::OnEvents { 1 } else { SLOTS };
        for _ in 0..most {
            if !self.reliable {
                return;
            }
            let Some(packet) = self.slots[(self.expected % SLOTS) as usize].take() else {
                return;
            };
            self.expected = self.expected.wrapping_add(1);
            self.edge = self.edge.wrapping_add(1);
            self.read.push(packet);
        }
    }

    fn acknowledge(&mut self, now: Duration) {
        let nothing_new = self.acknowledged == Some(self.expected);
        let sent_lately = self.last_data.is_some_and(|at| now - at < TICK);
        if nothing_new || !self.heard_within(now, 10) || sent_lately {
            return;
        }
        self.acknowledged = Some(self.expected);
        self.bare(Flags::ACK | Flags::FC, self.edge, self.expected);
    }

    fn measured(&mut self, sample: f64) {
        let smoothed = match self.smoothed {
            None => {
                self.deviation = sample / 2.0;
                sample
            }
            Some(smoothed) => {
                let difference = sample - smoothed;
                let error = (difference.abs() - self.deviation) / 4.0;
                self.deviation += if error < 0.0 { error / 8.0 } else { error };
                smoothed + difference / 8.0
            }
        };
        self.smoothed = Some(smoothed);
        let timeout = Duration::from_secs_f64(smoothed + 4.0 * self.deviation.max(0.0));
        self.timeout = timeout.max(Duration::from_micros(250));
    }

    fn repeat(&mut self, now: Duration) {
        for kept in &mut self.kept {
            if kept.due > now {
                continue;
            }
            if now - kept.first > Duration::from_secs(120) {
                self.down = true;
                return;
            }
            if self.timed.is_some_and(|(number, _)| number == kept.sequence) {
                self.timed = None;
                self.timeout *= 2;
            }
            kept.due = now + self.timeout.max(TICK);
            if self.encrypted {
                self.out.push(Frame::Garbled);
                continue;
            }
            // As first sent, but for the acknowledgement.
            kept.packet[8..12].copy_from_slice(&self.expected.to_be_bytes());
            self.out.push(Frame::Packet(kept.packet.clone()));
        }
    }

    /// When [`run`](Self::run) has something to do, if no frame arrives before.
    pub(crate) fn next_time(&self, now: Duration) -> Option<Duration> {
        if self.down || self.crashed {
            return None;
        }
        let stalled = now < self.stalled_until;
        if self.asleep {
            return self.kept.iter().map(|kept| kept.due).min();
        }
        let read = (!self.ring.is_empty() || self.acknowledge_at.is_some()) && stalled;
        let acknowledge = self.acknowledge_at.filter(|_| !stalled);
        let repeat = self.kept.iter().map(|kept| kept.due).min();
        [read.then_some(self.stalled_until), acknowledge, repeat].into_iter().flatten().min()
    }
}
