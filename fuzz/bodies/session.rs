//! Two sessions of a native flow, and whoever is between them: who delays,
//! drops, repeats, reorders and changes frames; or (`HOSTILE`) a peer that has
//! the keys and says what it likes. The bytes: one for what flow it is, then
//! steps.

use std::{collections::VecDeque, time::Duration};

use ouroboros::{
    crypto::{AeadBackend, FlowKey, KeyExchange, Suite},
    proto::native::{
        Capabilities, Channel, Content, Event, HEAD, KeyLimits, NativeKeys, Opener, Role, Sealer,
        Session, SessionConfig, TAIL,
    },
    wire::{Eid, PeerAddress},
};

use crate::input::{Counting, Input, at, key};

const HYBRID_FIRST: u8 = 1;
const HYBRID: u8 = 2;
const HOSTILE: u8 = 4;

const MOST_STEPS: usize = 96;
/// Frames on their way at a time; the oldest are lost.
const MOST_FRAMES: usize = 64;
/// Keys of 16 epochs can be told from one another.
const MOST_KEYS: usize = 16;
const LONGEST_QUEUE: usize = 64;
/// By then two ends that nobody is between have found each other.
const RECOVERY: Duration = Duration::from_secs(30);

struct End {
    session: Session,
    sealer: Sealer,
    opener: Opener,
    /// Packets that it has sent, and whether the peer has them.
    packets: Vec<(Vec<u8>, bool)>,
}

struct Flow {
    ends: [End; 2],
    now: Duration,
    entropy: Counting,
    /// Who sent it, and what was sent.
    frames: VecDeque<(usize, Vec<u8>)>,
    /// All that was ever sealed, by sender.
    genuine: [Vec<Vec<u8>>; 2],
    hostile: bool,
    over: bool,
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut flow = Flow::new(input.byte(), &key(data));
    for _ in 0..MOST_STEPS {
        if input.is_empty() || flow.over {
            break;
        }
        flow.step(&mut input);
        flow.settle();
    }
    if !flow.hostile {
        flow.recover();
    }
}

impl Flow {
    fn new(choice: u8, key: &FlowKey) -> Self {
        let hybrid_first = choice & HYBRID_FIRST != 0;
        let hybrid = hybrid_first || choice & HYBRID != 0;
        let kex = if hybrid { KeyExchange::X25519MlKem768 } else { KeyExchange::X25519 };
        let capabilities =
            if hybrid_first { Capabilities::HYBRID_FIRST } else { Capabilities::PARTIAL_CHECKSUMS };
        let mut entropy = Counting(1);
        // Small, so that they are reached.
        let limits = KeyLimits { due: 20, data: 200, all: 100_000, failures: 1 << 36 };
        let mut end = |role| {
            let suite = Suite { kex, ..Suite::default() };
            let keys = NativeKeys::new(suite, role, capabilities, key.clone(), [9; 32]);
            let ends = match role {
                Role::Client => (Eid(7), Eid(70_000)),
                Role::Server => (Eid(70_000), Eid(7)),
            };
            let channel = Channel::new(keys, ends, AeadBackend::Ring, limits);
            let (sealer, opener) = (channel.sealer(), channel.opener());
            let config = SessionConfig { timeout: Duration::ZERO, largest_frame: 1052 };
            let session = Session::new(at(Duration::ZERO), &mut entropy, channel, config);
            End { session, sealer, opener, packets: Vec::new() }
        };
        let ends = [end(Role::Client), end(Role::Server)];
        Self {
            ends,
            now: Duration::ZERO,
            entropy,
            frames: VecDeque::new(),
            genuine: [Vec::new(), Vec::new()],
            hostile: choice & HOSTILE != 0,
            over: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let sender = usize::from(step >> 7);
        let from = (step & 0x40 != 0).then_some(PeerAddress::Memory(9));
        match step & 15 {
            0..4 => {
                if let Some((sender, frame)) = self.pick(input, true) {
                    self.deliver(sender, from, &frame);
                }
            }
            4 => {
                if let Some((sender, frame)) = self.pick(input, false) {
                    self.deliver(sender, from, &frame);
                }
            }
            5 => {
                if let Some((sender, frame)) = self.pick(input, false) {
                    let changed = input.changed(&frame);
                    self.deliver(sender, from, &changed);
                }
            }
            6 => drop(self.pick(input, true)),
            7 => self.deliver(sender, from, input.bytes()),
            8 => {
                let earlier = &self.genuine[sender];
                let number = usize::from(input.short()).checked_rem(earlier.len());
                if let Some(frame) = number.map(|number| earlier[number].clone()) {
                    self.deliver(sender, from, &frame);
                }
            }
            9 => self.advance(Duration::from_millis(input.short().into())),
            10 => self.advance(Duration::from_secs(input.byte().into())),
            11 => self.send(sender, input.bytes()),
            12 => {
                let (now, session) = (at(self.now), &mut self.ends[sender].session);
                match input.byte() & 3 {
                    0 => session.probe(now, Duration::from_secs(2)),
                    1 => session.announce(now, Capabilities::PARTIAL_CHECKSUMS),
                    _ => session.search(now, usize::from(input.short())),
                }
            }
            _ if self.hostile => {
                let message = input.bytes();
                self.seal(sender, message, Content::Control);
            }
            _ => self.send(sender, b"a packet"),
        }
    }

    fn pick(&mut self, input: &mut Input<'_>, remove: bool) -> Option<(usize, Vec<u8>)> {
        let place = usize::from(input.byte()).checked_rem(self.frames.len())?;
        if remove { self.frames.remove(place) } else { Some(self.frames[place].clone()) }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        for end in &mut self.ends {
            end.session.handle_timeout(at(self.now), &mut self.entropy);
        }
    }

    fn send(&mut self, sender: usize, packet: &[u8]) {
        let packets = &mut self.ends[sender].packets;
        let packet = [&(packets.len() as u32).to_be_bytes(), packet].concat();
        packets.push((packet.clone(), false));
        self.seal(sender, &packet, Content::Packet);
    }

    fn seal(&mut self, sender: usize, packet: &[u8], content: Content) {
        let mut frame = [&[0; HEAD], packet, &[0; TAIL]].concat();
        let data = content != Content::Control;
        let Ok(mut number) = self.ends[sender].sealer.reserve(1, data) else { return };
        number.seal(&mut frame, content);
        self.put(sender, frame);
    }

    fn put(&mut self, sender: usize, frame: Vec<u8>) {
        self.genuine[sender].push(frame.clone());
        self.frames.push_back((sender, frame));
        if self.frames.len() > MOST_FRAMES {
            self.frames.pop_front();
        }
    }

    /// What `sender` sent, as it comes to the other.
    fn deliver(&mut self, sender: usize, from: Option<PeerAddress>, frame: &[u8]) {
        let [client, server] = &mut self.ends;
        let (end, peer) = if sender == 0 { (server, client) } else { (client, server) };
        let mut bytes = frame.to_vec();
        let opened = match from {
            Some(_) => end.opener.open_off_path(&mut bytes),
            None => end.opener.open(&mut bytes),
        };
        let Ok(opened) = opened else { return };
        assert!(self.genuine[sender].iter().any(|genuine| genuine == frame), "none is forged");
        let now = at(self.now);
        end.session.heard_from(now, &mut self.entropy, from, frame.len(), opened.leads);
        let body = &bytes[opened.body.clone()];
        if opened.content == Content::Control {
            return end.session.handle(now, &mut self.entropy, &opened, body);
        }
        if from.is_some() {
            let again = end.opener.open(&mut frame.to_vec()).expect("nothing was taken");
            assert_eq!(again.body, opened.body);
        }
        end.session.traffic(Duration::ZERO, self.now);
        let (_, had) = peer.packets.iter_mut().find(|(packet, _)| packet == body).expect("sent");
        assert!(!std::mem::replace(had, true), "none is had twice");
    }

    /// Takes what the sessions want to send and tell.
    fn settle(&mut self) {
        for sender in 0..2 {
            let session = &mut self.ends[sender].session;
            let (keys, queue) = session.held();
            assert!((1..=MOST_KEYS).contains(&keys), "{keys} keys");
            assert!(queue <= LONGEST_QUEUE);
            let mut sent = Vec::new();
            while let Some(transmit) = session.poll_transmit() {
                assert!(transmit.to.is_none() || sender == 1, "only clients move");
                sent.push(transmit.frame);
            }
            while let Some(event) = session.poll() {
                match event {
                    Event::Closed => self.over = true,
                    Event::Down => panic!("nobody waits for anything"),
                    Event::Moved(address) => {
                        assert_eq!((sender, address), (1, PeerAddress::Memory(9)));
                    }
                    _ => {}
                }
            }
            sent.into_iter().for_each(|frame| self.put(sender, frame));
        }
        let [client, server] = self.ends.each_ref().map(|end| end.session.epoch());
        assert!(self.hostile || client.abs_diff(server) <= 1, "epochs {client} and {server}");
        assert!(self.hostile || !self.over, "nobody has closed the flow");
    }

    /// Whoever was between them has gone.
    fn recover(&mut self) {
        let end = self.now + RECOVERY;
        let mut asked = false;
        while self.now < end {
            self.settle();
            while let Some((sender, frame)) = self.frames.pop_front() {
                self.deliver(sender, None, &frame);
                self.settle();
            }
            let had = |end: &End| end.packets.last().is_some_and(|(_, had)| *had);
            if asked && self.ends.iter().all(had) {
                return;
            }
            asked = true;
            for sender in 0..2 {
                self.send(sender, b"still there");
            }
            let due = self.ends.iter().filter_map(|end| end.session.poll_timeout()).min();
            let wait = due.unwrap_or_default().saturating_sub(self.now);
            self.advance(wait.clamp(Duration::from_millis(10), Duration::from_millis(250)));
        }
        panic!("the flow is not alive");
    }
}
