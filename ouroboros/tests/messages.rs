//! Two whole ends of reliable flows under virtual time and a seed: messages, packets
//! sealed and opened, keys that change in mid-stream, over a network that loses,
//! delays, repeats, reorders and corrupts, goes dark for seconds, and has somebody in
//! it who replays and alters what passes.

use std::{collections::BTreeMap, time::Duration};

use ouroboros::{
    crypto::{AeadBackend, FlowKey, Suite},
    proto::{
        Now,
        connection::{Connection, ConnectionConfig, ConnectionEvent, PathState},
        native::{Capabilities, Content, KeyLimits, NativeKeys, Role},
        protection::{FlowKeys, Opener, Protection, Sealer, protection},
        reliable::{Body, Config, Front, Messages, Packet, SendState},
    },
    transport::SendBatch,
    wire::Eid,
};
use ouroboros_testing::Random;

const ENDS: [Eid; 2] = [Eid(300), Eid(70_000)];
const FRAME: usize = 1400;
const LARGEST: usize = 100_000;
/// A flow that hears nothing for so long is down.
const TIMEOUT: Duration = Duration::from_secs(120);
/// What could not be sealed is tried again after this time.
const AGAIN: Duration = Duration::from_millis(1);

fn at(monotonic: Duration) -> Now {
    Now { monotonic, utc: 0 }
}

/// What a network is like, in chances of a thousand.
#[derive(Clone, Debug)]
struct Network {
    lost: u64,
    repeated: u64,
    /// Kept by somebody who sends it again later, as it was or altered.
    replayed: u64,
    delay: Duration,
    jitter: u64,
    dark: std::ops::Range<Duration>,
}

struct End {
    sealer: Sealer,
    opener: Opener,
    connection: Connection,
    messages: Messages,
    sent: Duration,
    heard: Duration,
    paused: Option<Duration>,
    written: u64,
    to_write: u64,
    read: u64,
    ended: bool,
    down: bool,
    stalled_until: Duration,
}

/// Message `number` of the end `index`.
fn message(index: usize, number: u64) -> Vec<u8> {
    let random = &mut Random::new(number * 2 + index as u64 + 1);
    let size = match random.below(20) {
        0 => 1 + random.below(60_000),
        _ => 1 + random.below(2_000),
    };
    let mut message = vec![number as u8; size as usize];
    for (byte, counted) in message.iter_mut().zip(number.to_be_bytes()) {
        *byte ^= counted;
    }
    message
}

impl End {
    fn new(index: usize, random: &mut Random, to_write: u64) -> Self {
        let role = [Role::Client, Role::Server][index];
        let capabilities = Capabilities::HYBRID_FIRST;
        let secret = FlowKey::new([7; 32]);
        let keys = NativeKeys::new(Suite::default(), role, capabilities, secret, [9; 32]);
        let ends = (ENDS[index], ENDS[1 - index]);
        // So few that keys change many times.
        let limits = KeyLimits { due: 300, data: 3_000, all: 4_000, ..KeyLimits::default() };
        let Protection { sealer, opener, channel } = protection(
            Some(FlowKeys::Native(keys)),
            ends,
            false,
            AeadBackend::Ring,
            limits,
            random,
        );
        let config = ConnectionConfig { timeout: TIMEOUT, largest_frame: FRAME };
        let connection = Connection::new(at(Duration::ZERO), random, channel, config);
        let window = [8_192, 65_536, 262_144][random.below(3) as usize];
        // Both have the same: each of them is the other's peer.
        let config = Config { window, peer_window: 4_096, ..Config::default() };
        let mut messages = Messages::new(Duration::ZERO, config, (LARGEST, LARGEST));
        let overhead = sealer.headroom() + sealer.tailroom();
        messages.stream_mut().set_largest_body(FRAME - overhead);
        let (sent, heard) = (Duration::ZERO, Duration::ZERO);
        Self {
            sealer,
            opener,
            connection,
            messages,
            sent,
            heard,
            paused: None,
            written: 0,
            to_write,
            read: 0,
            ended: false,
            down: false,
            stalled_until: Duration::from_millis(random.below(2) * random.below(3_000)),
        }
    }

    fn application(&mut self, now: Duration, index: usize) {
        while self.connection.is_ready() && self.written < self.to_write {
            let next = message(index, self.written);
            if !self.messages.write(&next).expect("within the limit") {
                break;
            }
            self.written += 1;
        }
        if self.written == self.to_write {
            self.messages.stream_mut().finish();
        }
        while now >= self.stalled_until {
            match self.messages.front() {
                Front::Message(size) => {
                    let mut read = vec![0; size];
                    self.messages.read(&mut read);
                    assert!(read == message(1 - index, self.read), "message {}", self.read);
                    self.read += 1;
                }
                Front::Blocked => break,
                Front::End => {
                    self.ended = true;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The frames that leave now.
    fn transmit(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit() {
            frames.push(transmit.frame);
        }
        let (head, tail) = (self.sealer.headroom(), self.sealer.tailroom());
        while self.paused.is_none_or(|until| until <= now) {
            self.paused = None;
            let mut batch = SendBatch::new(0, 64 * 1024);
            let mut contents = Vec::new();
            while batch.len() < 8
                && let Some(transmit) = self.messages.stream_mut().poll_transmit(now)
            {
                let frame = batch.push(head + transmit.size + tail).expect("there is room");
                self.messages
                    .stream()
                    .write_body(&transmit, &mut frame[head..head + transmit.size]);
                contents.push(match transmit.body {
                    Body::Data => Content::Data,
                    Body::Frames => Content::Frames,
                });
            }
            if batch.is_empty() {
                break;
            }
            match self.sealer.seal_batch(&mut batch, 0, |index| contents[index]) {
                Ok(first) => {
                    for index in 0..batch.len() {
                        let number = first + index as u64;
                        self.messages.stream_mut().on_packet_sent(now, number);
                        frames.push(batch.frame_mut(index).to_vec());
                    }
                }
                Err(_) => {
                    self.messages.stream_mut().on_packets_unsent();
                    self.paused = Some(now + AGAIN);
                }
            }
        }
        if !frames.is_empty() {
            self.sent = now;
        }
        frames
    }

    fn take(&mut self, now: Duration, random: &mut Random, mut frame: Vec<u8>) {
        let Ok(opened) = self.opener.open(&mut frame) else { return };
        self.heard = now;
        let bytes = &frame[opened.body.clone()];
        let body = match opened.content {
            Content::Control => {
                return self.connection.handle(at(now), random, &opened, bytes);
            }
            Content::Data => Body::Data,
            Content::Frames => Body::Frames,
            other => panic!("{other:?}"),
        };
        let packet = Packet { number: opened.number, marked: false, body, bytes };
        self.messages.handle(now, packet).expect("what ours sends is well-formed");
    }

    fn due(&self) -> Option<Duration> {
        let stream = self.messages.stream().poll_timeout();
        let stream =
            self.paused.map_or(stream, |until| Some(stream.map_or(until, |due| due.max(until))));
        self.connection.poll_timeout().into_iter().chain(stream).min()
    }

    fn tick(&mut self, now: Duration, random: &mut Random) {
        self.messages.stream_mut().handle_timeout(now);
        let wanted = self.sealer.wants_attention() || self.opener.wants_attention();
        if wanted || self.connection.poll_timeout().is_some_and(|due| due <= now) {
            self.connection.traffic(self.sent, self.heard);
            let path = PathState { largest_frame: FRAME, routed: false, detached: false };
            self.connection.path_state(at(now), path);
            self.connection.handle_timeout(at(now), random);
        }
        while let Some(event) = self.connection.poll() {
            self.down |= matches!(event, ConnectionEvent::Down | ConnectionEvent::Closed);
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.messages.send_state() == SendState::Finished
    }
}

/// Runs until both ends are done, or one knows that the flow is down; returns `true` if
/// they are done.
fn run(ends: &mut [End; 2], network: &Network, random: &mut Random) -> bool {
    let mut wire: BTreeMap<(Duration, u64), (usize, Vec<u8>)> = BTreeMap::new();
    let (mut now, mut order) = (Duration::ZERO, 0);
    loop {
        for (index, end) in ends.iter_mut().enumerate() {
            end.tick(now, random);
            if end.down {
                return false;
            }
            end.application(now, index);
            for frame in end.transmit(now) {
                let mut arrives = |later: u64, frame: Vec<u8>, random: &mut Random| {
                    order += 1;
                    let jitter = Duration::from_micros(random.below(network.jitter + 1) + later);
                    wire.insert((now + network.delay + jitter, order), (1 - index, frame));
                };
                if random.permille(network.replayed) {
                    let later = random.below(2_000_000);
                    let mut copy = frame.clone();
                    if random.permille(500) {
                        let bit = random.below(copy.len() as u64 * 8) as usize;
                        copy[bit / 8] ^= 1 << (bit % 8);
                    }
                    arrives(later, copy, random);
                }
                if network.dark.contains(&now) || random.permille(network.lost) {
                    continue;
                }
                if random.permille(network.repeated) {
                    arrives(0, frame.clone(), random);
                }
                arrives(0, frame, random);
            }
            let figures = end.messages.stream().statistics();
            assert!(figures.held <= 4 << 20, "held: {figures:?}");
        }
        if ends.iter().all(End::is_done) {
            return true;
        }
        let due = ends.iter().filter_map(End::due);
        let stalled = ends.iter().map(|end| end.stalled_until).filter(|at| *at > now);
        let arrival = wire.first_key_value().map(|((at, _), _)| *at);
        let next = due.chain(stalled).chain(arrival).min();
        let next = next.unwrap_or_else(|| panic!("deadlock: nothing is due at {now:?}"));
        now = next.max(now + Duration::from_nanos(1));
        assert!(now < Duration::from_secs(3_600), "no end after {now:?}");
        while let Some(entry) = wire.first_entry()
            && entry.key().0 <= now
        {
            let (to, frame) = entry.remove();
            ends[to].take(now, random, frame);
        }
    }
}

/// How often keys have changed in mid-stream.
fn flow(seed: u64) -> u64 {
    let random = &mut Random::new(seed);
    let start = Duration::from_millis(random.below(2_000));
    let dark = if random.permille(300) { random.below(8_000) } else { 0 };
    let network = Network {
        lost: [0, 10, 50, 200][random.below(4) as usize],
        repeated: [0, 20, 200][random.below(3) as usize],
        replayed: [0, 20, 100][random.below(3) as usize],
        delay: Duration::from_micros(50 + random.below(60_000)),
        jitter: [0, 500, 20_000][random.below(3) as usize],
        dark: start..start + Duration::from_millis(dark),
    };
    let to_write = [0, 1, 50, 600];
    let [one, other] = [(); 2].map(|()| to_write[random.below(4) as usize]);
    let mut ends = [End::new(0, random, one), End::new(1, random, other)];
    assert!(run(&mut ends, &network, random), "the flow is down: {network:?}");
    assert_eq!((ends[0].read, ends[1].read), (other, one), "all that was written is read");
    // The first are agreed before data.
    ends[0].connection.epoch() - 1
}

#[test]
fn messages_arrive_once_and_in_order_whatever_the_network_does() {
    let seeds = option_env!("SEEDS").and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let mut changes = 0;
    for seed in 1..=seeds {
        match std::panic::catch_unwind(|| flow(seed)) {
            Ok(more) => changes += more,
            Err(panic) => {
                eprintln!("failed with seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(changes >= seeds / 2, "keys change in mid-stream: {changes} times");
}

#[test]
fn a_network_that_stays_dark_ends_the_flow_and_nobody_takes_it_for_done() {
    let random = &mut Random::new(5);
    let mut ends = [End::new(0, random, 600), End::new(1, random, 600)];
    let network = Network {
        lost: 0,
        repeated: 0,
        replayed: 0,
        delay: Duration::from_millis(20),
        jitter: 0,
        dark: Duration::from_millis(500)..Duration::from_secs(100_000),
    };
    assert!(!run(&mut ends, &network, random), "nothing can have arrived");
    assert!(!ends.iter().all(End::is_done));
    let down = ends.iter().find(|end| end.down).expect("one knows");
    assert!(down.heard < Duration::from_secs(1));
}
