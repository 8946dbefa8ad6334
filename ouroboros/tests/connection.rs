//! Whole flows of every kind (plain, 0.23, native) under virtual time and a seed:
//! two ends that protect, send, receive and keep their connections, over a network
//! that loses, delays, repeats and corrupts, and can be cut.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use ouroboros::{
    crypto::{AeadBackend, Cipher, FlowKey, Suite},
    proto::{
        Now,
        connection::{Connection, ConnectionConfig, ConnectionEvent, PathState},
        native::{Capabilities, Content, KeyLimits, NativeKeys, Role},
        protection::{FlowKeys, Opener, Protection, Sealer, protection},
    },
    wire::{Eid, PeerAddress},
};
use ouroboros_testing::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Wire023,
    Native,
    Hybrid,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Wire023, Kind::Native, Kind::Hybrid];
const TIMEOUT: Duration = Duration::from_secs(120);
const ENDS: [Eid; 2] = [Eid(300), Eid(70_000)];

fn at(monotonic: Duration) -> Now {
    Now { monotonic, utc: 0 }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

struct End {
    sealer: Sealer,
    opener: Opener,
    connection: Connection,
    sent: Duration,
    heard: Duration,
    events: Vec<(Duration, ConnectionEvent)>,
    received: Vec<Vec<u8>>,
}

impl End {
    fn new(kind: Kind, index: usize, random: &mut Random) -> Self {
        let role = [Role::Client, Role::Server][index];
        let native = |capabilities| {
            let secret = FlowKey::new([7; 32]);
            let keys = NativeKeys::new(Suite::default(), role, capabilities, secret, [9; 32]);
            Some(FlowKeys::Native(keys))
        };
        let keys = match kind {
            Kind::Plain => None,
            Kind::Wire023 => {
                let key = FlowKey::new([7; 32]);
                Some(FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key })
            }
            Kind::Native => native(Capabilities::NONE),
            Kind::Hybrid => native(Capabilities::HYBRID_FIRST),
        };
        let ends = (ENDS[index], ENDS[1 - index]);
        let limits = KeyLimits::default();
        let Protection { sealer, opener, channel } =
            protection(keys, ends, false, AeadBackend::Ring, limits, random);
        let config = ConnectionConfig { timeout: TIMEOUT, largest_frame: 1400 };
        let connection = Connection::new(at(Duration::ZERO), random, channel, config);
        let (sent, heard) = (Duration::ZERO, Duration::ZERO);
        Self { sealer, opener, connection, sent, heard, events: Vec::new(), received: Vec::new() }
    }

    fn seal(&mut self, now: Duration, packet: &[u8]) -> Option<Vec<u8>> {
        let head = self.sealer.headroom();
        let mut frame = vec![0; head + packet.len() + self.sealer.tailroom()];
        frame[head..head + packet.len()].copy_from_slice(packet);
        self.sealer.seal(&mut frame, Content::Packet).ok()?;
        self.sent = now;
        Some(frame)
    }

    fn take(
        &mut self,
        now: Duration,
        random: &mut Random,
        from: Option<PeerAddress>,
        frame: &[u8],
    ) {
        let mut bytes = frame.to_vec();
        if let Some(from) = from {
            if self.connection.handle_off_path(at(now), random, from, &mut bytes) != Ok(true) {
                return;
            }
            bytes = frame.to_vec();
        }
        if frame.is_empty() {
            self.opener.heard_keepalive();
            self.heard = now;
            return;
        }
        let Ok(opened) = self.opener.open(&mut bytes) else { return };
        self.heard = now;
        let body = &bytes[opened.body.clone()];
        if opened.content == Content::Control {
            self.connection.handle(at(now), random, &opened, body);
        } else {
            self.received.push(body.to_vec());
        }
        if from.is_none() {
            self.connection.heard_on_path(at(now), random);
        }
    }

    fn tick(&mut self, now: Duration, random: &mut Random) {
        self.connection.traffic(self.sent, self.heard);
        let path = PathState { largest_frame: 1400, routed: true, detached: false };
        self.connection.path_state(at(now), path);
        self.connection.handle_timeout(at(now), random);
    }

    fn is_down(&self) -> bool {
        self.ended().is_some()
    }

    /// When and how it ended.
    fn ended(&self) -> Option<(Duration, ConnectionEvent)> {
        let is_end = |event| matches!(event, ConnectionEvent::Down | ConnectionEvent::Closed);
        self.events.iter().copied().find(|(_, event)| is_end(*event))
    }
}

/// For which end, from where if not from the other one's address, and the frame.
type OnTheWay = (usize, Option<PeerAddress>, Vec<u8>);

/// Two ends, and what is on its way between them.
struct World {
    now: Duration,
    random: Random,
    ends: [End; 2],
    /// By arrival, in the order in which they left.
    on_the_way: BTreeMap<(Duration, u64), OnTheWay>,
    count: u64,
    /// One of so many is lost, repeated, corrupted; 0: none.
    trouble: u64,
    /// Frames to this end are lost.
    cut: [bool; 2],
    /// Where the client's frames seem to come from, if not from where it was.
    client_at: Option<PeerAddress>,
}

impl World {
    fn new(kind: Kind, seed: u64, trouble: u64) -> Self {
        let mut random = Random::new(seed);
        let ends = [End::new(kind, 0, &mut random), End::new(kind, 1, &mut random)];
        let (on_the_way, cut) = (BTreeMap::new(), [false; 2]);
        Self {
            now: Duration::ZERO,
            random,
            ends,
            on_the_way,
            count: 0,
            trouble,
            cut,
            client_at: None,
        }
    }

    fn one_in_trouble(&mut self) -> bool {
        self.trouble > 0 && self.random.below(self.trouble) == 0
    }

    fn send(&mut self, from: usize, to: Option<PeerAddress>, frame: Vec<u8>) {
        let receiver = 1 - from;
        if from == 1 && to != self.client_at {
            // Nobody is there.
            return;
        }
        let seen_from = if from == 0 { self.client_at } else { None };
        let lost = self.cut[receiver] || self.one_in_trouble();
        let repeated = self.one_in_trouble();
        let mut copies = vec![frame.clone(); usize::from(!lost) + usize::from(repeated && !lost)];
        if !self.cut[receiver] && self.one_in_trouble() && !frame.is_empty() {
            let mut forged = frame;
            let at = self.random.below(forged.len() as u64) as usize;
            forged[at] ^= 1 << self.random.below(8);
            copies.push(forged);
        }
        for copy in copies {
            let delay = if self.trouble > 0 { self.random.below(150) } else { 10 };
            let arrival = self.now + Duration::from_millis(1 + delay);
            self.count += 1;
            self.on_the_way.insert((arrival, self.count), (receiver, seen_from, copy));
        }
    }

    /// Runs until `end`; each end sends a packet in each `interval`.
    fn run(&mut self, end: Duration, interval: Option<Duration>) {
        let mut next = interval.map(|interval| self.now + interval);
        loop {
            for index in 0..2 {
                while let Some(transmit) = self.ends[index].connection.poll_transmit() {
                    self.ends[index].sent = self.now;
                    self.send(index, transmit.to, transmit.frame);
                }
                while let Some(event) = self.ends[index].connection.poll() {
                    if let ConnectionEvent::Moved(address) = event
                        && Some(address) == self.client_at
                    {
                        self.client_at = None;
                    }
                    self.ends[index].events.push((self.now, event));
                }
            }
            let arrival = self.on_the_way.keys().next().map(|(at, _)| *at);
            let timers = self.ends.iter().map(|end| end.connection.poll_timeout());
            let due = timers.chain([arrival, next]).flatten().min().unwrap_or(end);
            if due >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(due);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (index, from, frame)) = self.on_the_way.pop_first().expect("an arrival");
                self.ends[index].take(self.now, &mut self.random, from, &frame);
                continue;
            }
            if next.is_some_and(|at| at <= self.now) {
                next = interval.map(|interval| self.now + interval);
                for index in 0..2 {
                    let number = self.count.to_be_bytes();
                    self.count += 1;
                    if !self.ends[index].is_down()
                        && let Some(frame) = self.ends[index].seal(self.now, &number)
                    {
                        self.send(index, None, frame);
                    }
                }
            }
            for index in 0..2 {
                let due = self.ends[index].connection.poll_timeout();
                if due.is_some_and(|due| due <= self.now) {
                    self.ends[index].tick(self.now, &mut self.random);
                }
            }
        }
    }
}

#[test]
fn flows_of_every_kind_live_on_a_bad_network_busy_or_idle() {
    for kind in KINDS {
        for seed in 1..=15 {
            let mut world = World::new(kind, seed, 12);
            world.run(seconds(300), Some(Duration::from_millis(700)));
            world.run(seconds(900), None);
            world.run(seconds(1000), Some(Duration::from_millis(700)));
            for end in &world.ends {
                assert_eq!(end.ended(), None, "{kind:?}, seed {seed}");
                let unique: HashSet<_> = end.received.iter().collect();
                assert!(unique.len() > 400, "{kind:?}, seed {seed}: {}", unique.len());
                assert!(end.connection.is_ready());
                if matches!(kind, Kind::Native | Kind::Hybrid) {
                    assert_eq!(unique.len(), end.received.len(), "nothing twice, seed {seed}");
                    assert!(end.connection.epoch() >= 7, "{kind:?}: {}", end.connection.epoch());
                    let (keys, queued) = end.connection.held();
                    assert!(keys <= 2 && queued <= 64);
                }
                if kind != Kind::Plain {
                    assert!(end.received.iter().all(|packet| packet.len() == 8), "nothing forged");
                }
            }
        }
    }
}

#[test]
fn a_peer_that_is_gone_is_noticed_after_the_timeout_and_not_before() {
    for kind in KINDS {
        let mut world = World::new(kind, 3, 0);
        world.run(seconds(10), Some(seconds(1)));
        world.cut = [true; 2];
        world.run(seconds(400), None);
        for end in &world.ends {
            let (when, how) = end.ended().expect("noticed");
            assert_eq!(how, ConnectionEvent::Down, "{kind:?}");
            assert!((seconds(129)..=seconds(131)).contains(&when), "{kind:?}: {when:?}");
            // And then nothing more is to be done.
            assert_eq!(end.connection.poll_timeout(), None, "{kind:?}");
        }
    }
}

#[test]
fn who_has_no_patience_notices_sooner_and_the_peer_is_told_when_it_is_in_reach() {
    for kind in [Kind::Native, Kind::Hybrid] {
        let mut world = World::new(kind, 4, 0);
        world.ends[0].connection.expect_answers_within(seconds(3));
        world.run(seconds(10), Some(Duration::from_millis(100)));
        world.cut = [true; 2];
        world.run(seconds(20), Some(Duration::from_millis(100)));
        let (when, how) = world.ends[0].ended().expect("noticed");
        assert_eq!(how, ConnectionEvent::Down);
        assert!((seconds(13)..=seconds(14)).contains(&when), "{when:?}");
        assert_eq!(world.ends[1].ended(), None, "it waits for its timeout");
        world.cut = [false; 2];
        world.run(seconds(22), None);
        let (when, how) = world.ends[1].ended().expect("told");
        assert_eq!(how, ConnectionEvent::Closed);
        assert!(when <= seconds(21), "{when:?}");
    }
}

#[test]
fn a_peer_that_still_sends_but_hears_nothing_is_told_when_it_is_given_up() {
    // The server's frames arrive nowhere; the client's arrive.
    let mut world = World::new(Kind::Native, 5, 0);
    world.run(seconds(10), Some(seconds(1)));
    world.cut = [true, false];
    world.run(seconds(135), Some(seconds(1)));
    let [client, server] = &world.ends;
    assert_eq!(client.ended().map(|(_, how)| how), Some(ConnectionEvent::Down));
    assert_eq!(server.ended().map(|(_, how)| how), Some(ConnectionEvent::Closed));
}

#[test]
fn a_client_that_gets_another_address_is_followed_at_once() {
    let mut world = World::new(Kind::Native, 6, 0);
    world.run(seconds(10), Some(seconds(1)));
    world.client_at = Some(PeerAddress::Memory(77));
    let before = world.ends[1].received.len();
    world.run(seconds(12), Some(Duration::from_millis(100)));
    let server = &world.ends[1];
    let moved = ConnectionEvent::Moved(PeerAddress::Memory(77));
    let (when, _) = server.events.iter().find(|(_, event)| *event == moved).expect("followed");
    assert!(*when <= seconds(11), "{when:?}");
    assert!(server.received.len() >= before + 18, "what comes from there is received");
}

#[test]
fn closing_ends_the_other_end_where_the_format_can_say_it() {
    for kind in KINDS {
        let mut world = World::new(kind, 7, 0);
        world.run(seconds(10), Some(seconds(1)));
        let now = at(world.now);
        world.ends[0].connection.close(now);
        world.run(seconds(11), None);
        let told = world.ends[1].ended().map(|(_, how)| how);
        let native = matches!(kind, Kind::Native | Kind::Hybrid);
        assert_eq!(told, native.then_some(ConnectionEvent::Closed), "{kind:?}");
        assert_eq!(world.ends[0].connection.poll_timeout(), None);
    }
}

/// The 0.23 format has no farewell: what is said is that nothing is said any more, at
/// once, so that the peer's own timeout is all that it takes.
#[test]
fn a_peer_that_cannot_be_told_notices_by_the_keepalives_that_stop() {
    for kind in [Kind::Plain, Kind::Wire023] {
        let mut world = World::new(kind, 9, 0);
        // Idle, and alive by keepalives alone.
        world.run(seconds(1000), None);
        assert!(world.ends.iter().all(|end| end.ended().is_none()), "{kind:?}");
        let now = at(world.now);
        world.ends[0].connection.close(now);
        assert_eq!(world.ends[0].connection.poll_transmit(), None, "{kind:?}");
        world.run(seconds(1200), None);
        let (when, how) = world.ends[1].ended().expect("noticed");
        assert_eq!(how, ConnectionEvent::Down, "{kind:?}");
        assert!(when <= now.monotonic + TIMEOUT + seconds(1), "{kind:?}: {when:?}");
    }
}

#[test]
fn a_flow_without_a_timeout_is_kept_for_ever_and_says_nothing_of_itself() {
    for kind in [Kind::Plain, Kind::Wire023] {
        let random = &mut Random::new(8);
        let keys = (kind == Kind::Wire023)
            .then(|| FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key: FlowKey::new([7; 32]) });
        let ends = (ENDS[0], ENDS[1]);
        let limits = KeyLimits::default();
        let channel = protection(keys, ends, false, AeadBackend::Ring, limits, random).channel;
        let config = ConnectionConfig { timeout: Duration::ZERO, largest_frame: 1400 };
        let mut connection = Connection::new(at(Duration::ZERO), random, channel, config);
        assert_eq!(connection.poll_timeout(), None);
        connection.handle_timeout(at(seconds(100_000)), random);
        assert_eq!((connection.poll(), connection.poll_transmit()), (None, None));
    }
}
