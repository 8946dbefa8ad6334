//! The allocation core of an IPCP that serves a name, before strangers: their
//! requests, changed, twice, made up, and what is no request. The bytes: one for
//! the dialect and who is served, then steps.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    time::Duration,
};

use ouroboros::{
    crypto::{Cipher, Hash, KeyExchange, Suite, identity::IdentityKey},
    proto::allocation::{
        Agreed, AllocationRequest, Allocator, ClientSecurity, Event, Identity, Limits,
        ProfilePolicy, Refusal, RequestId, ServerSecurity, Trust,
    },
    transport::Destination,
    wire::{
        Dialect, Eid, MacAddress, Name, PeerAddress, QosSpec,
        extension::Extensions,
        management::{LARGEST_MESSAGE, Message},
        oap::Allocation,
    },
};

use crate::input::{Counting, Input, at, hash};

const MOST_STEPS: usize = 48;
const PENDING: usize = 4;
const REMEMBERED: usize = 12;
const ANSWERS: u32 = 5;
const COOKIES: u32 = 3;
/// What a request may be off by, in nanoseconds: behind and ahead.
const FRESH: (u64, u64) = (20_000_000_000, 100_000_000);

struct Server {
    allocator: Allocator,
    dialect: Dialect,
    /// Whether it serves a friend only.
    demands: bool,
    security: ServerSecurity,
    now: Duration,
    entropy: Counting,
    /// Valid requests that were made.
    requests: Vec<Vec<u8>>,
    pending: Vec<RequestId>,
    /// How long they were, of whom no reply may be longer.
    sizes: HashMap<RequestId, usize>,
    accepted: Vec<RequestId>,
    /// What opened a flow request, by id and timestamp.
    seen: HashSet<([u8; 16], u64)>,
    /// When answers left.
    answers: Vec<Duration>,
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut server = Server::new(input.byte());
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        server.step(&mut input);
        let (pending, remembered) = server.allocator.held();
        assert!(pending <= PENDING && remembered <= REMEMBERED);
        assert_eq!(pending, server.pending.len(), "the application knows of all");
    }
    // All is forgotten in time, and who comes then is served.
    server.advance(Duration::from_secs(30));
    assert_eq!(server.allocator.held().0, 0);
    let request = server.request(FRIEND | 2 | 4);
    server.deliver(99, &request);
    assert_eq!(server.pending.len(), 1, "who is honest is heard");
}

/// A request of who is known to the server.
const FRIEND: u8 = 0x80;

fn identity(seed: u64) -> Identity {
    Identity::self_signed(IdentityKey::generate(&mut Counting(seed)), &name())
}

fn name() -> Name {
    "my_vpn".parse().expect("a name")
}

impl Server {
    fn new(choice: u8) -> Self {
        let dialect = if choice & 1 == 0 { Dialect::EthDix } else { Dialect::Udp };
        let limits = Limits {
            pending_requests: PENDING,
            remembered_requests: REMEMBERED,
            answers_per_second: ANSWERS,
            cookies_per_second: COOKIES,
            unvalidated_per_second: 6,
            ..Limits::default()
        };
        let mut allocator = Allocator::new(dialect, hash(dialect), limits);
        allocator.register(&name());
        let demands = choice & 2 != 0;
        let clients =
            if demands { Trust::Keys(vec![identity(7).fingerprint()]) } else { Trust::Anyone };
        let identity = (choice & 4 != 0).then(|| identity(8));
        let security = ServerSecurity { identity, clients, ..ServerSecurity::default() };
        allocator.set_policy(&name(), security.clone());
        Self {
            allocator,
            dialect,
            demands,
            security,
            now: Duration::ZERO,
            entropy: Counting(1),
            requests: Vec::new(),
            pending: Vec::new(),
            sizes: HashMap::new(),
            accepted: Vec::new(),
            seen: HashSet::new(),
            answers: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let host = step >> 5;
        match step & 7 {
            0 => self.deliver(host, input.bytes()),
            1 => {
                let request = self.request(input.byte());
                self.deliver(host, &input.changed(&request));
            }
            2 => {
                let number = usize::from(input.byte()).checked_rem(self.requests.len());
                if let Some(number) = number {
                    let request = input.changed(&self.requests[number]);
                    self.deliver(host, &request);
                }
            }
            3 => {
                let request = self.made_up(input);
                self.deliver(host, &request);
            }
            4 => self.advance(Duration::from_millis(input.short().into())),
            5 => {
                if let Some(request) = pick(&mut self.pending, input.byte()) {
                    self.accept(request, input.byte());
                }
            }
            6 => {
                if let Some(request) = pick(&mut self.pending, input.byte()) {
                    self.allocator.refuse(at(self.now), request, Refusal::NotAvailable);
                    assert!(self.transmitted().len() <= 1);
                }
            }
            _ => {
                if let Some(request) = pick(&mut self.accepted, input.byte()) {
                    self.allocator.released(request);
                }
            }
        }
    }

    /// A valid request of a client of its own.
    fn request(&mut self, choice: u8) -> Vec<u8> {
        let kex = [KeyExchange::P256, KeyExchange::X25519, KeyExchange::X25519MlKem768]
            [usize::from(choice >> 2) % 3];
        let profile =
            [ProfilePolicy::PreferNative, ProfilePolicy::Wire023][usize::from(choice & 1)];
        let suite = Suite { kex, ..Suite::default() };
        let identity = match choice & 0xc0 {
            0 => None,
            0x40 => Some(identity(9)),
            _ => Some(identity(7)),
        };
        let security = ClientSecurity { profile, identity, ..ClientSecurity::from(suite) };
        let request = AllocationRequest {
            name: name(),
            qos: QosSpec::RAW,
            security: (choice & 2 != 0).then_some(security),
            local: Eid(300 + self.requests.len() as u32),
            peer: Some(PeerAddress::Memory(0)),
            timeout: Duration::from_secs(5),
            largest_message: LARGEST_MESSAGE,
        };
        let mut client = Allocator::new(self.dialect, hash(self.dialect), Limits::default());
        client.allocate(at(self.now), &mut self.entropy, request).expect("within limits");
        let message = client.poll_transmit().expect("a request").message;
        self.requests.push(message.clone());
        message
    }

    /// A request with a header of any content in the right shape.
    fn made_up(&self, input: &mut Input<'_>) -> Vec<u8> {
        let ciphers = [0, Cipher::Aes128Gcm.id(), Cipher::Aes256Gcm.id(), input.short()];
        let hashes = [0, Hash::Sha256.id(), Hash::Sha384.id(), input.short()];
        let choice = input.byte();
        let milliseconds = i64::from(input.short() as i16);
        let timestamp = at(self.now).utc.wrapping_add_signed(milliseconds * 1_000_000);
        let header = Allocation {
            cipher: ciphers[usize::from(choice & 3)],
            kdf: hashes[usize::from(choice >> 2 & 3)],
            md: hashes[usize::from(choice >> 4 & 3)],
            raw_key: choice & 0x40 != 0,
            kem_role: choice & 0x80 != 0,
            key: input.bytes(),
            data: input.bytes(),
            certificate: input.bytes(),
            signature: input.bytes(),
            ..Allocation::plain([input.byte(); 16], timestamp)
        };
        let allocation = header.encode().unwrap_or_default();
        let (source, name) = (Eid(input.short().into()), hash(self.dialect).of(&name()));
        Message::FlowRequest { source, qos: QosSpec::RAW, name, allocation: &allocation }
            .encode(self.dialect)
    }

    fn address(&self, host: u8) -> PeerAddress {
        match self.dialect {
            Dialect::EthDix => PeerAddress::Mac(MacAddress([2, 0, 0, 0, 0, host])),
            Dialect::Udp => {
                let port = 3435 + u16::from(host & 1);
                PeerAddress::Udp((Ipv4Addr::new(10, 0, host >> 1, 1), port).into())
            }
        }
    }

    fn deliver(&mut self, host: u8, message: &[u8]) {
        let from = self.address(host);
        self.allocator.handle(at(self.now), &mut self.entropy, from, None, message);
        let parsed = Message::parse(self.dialect, hash(self.dialect), message);
        let sent = self.transmitted();
        assert!(sent.len() <= 1, "one message, one answer at most");
        for (to, answer) in sent {
            assert_eq!(to, Destination::Peer(from), "nobody else hears of it");
            let parsed = parsed.as_ref().expect("what is malformed is not answered");
            self.check_answer(parsed, message, &answer);
        }
        while let Some(event) = self.allocator.poll() {
            let (request, asked, source, remote, encrypted) = match event {
                Event::Requested { request, name, from, remote, encrypted, .. } => {
                    (request, name, from, remote, encrypted)
                }
                // For the log: nothing is kept of it.
                Event::Refused { .. } => continue,
                Event::Unauthorized { from: source, .. } if self.demands => {
                    assert_eq!(source, from);
                    continue;
                }
                event => panic!("{event:?}: strangers do no more than ask"),
            };
            assert_eq!((asked, source), (name(), from));
            let Ok(Message::FlowRequest { source, name: hashed, allocation, .. }) = &parsed else {
                panic!("it is no request");
            };
            assert_eq!((*source, *hashed), (remote, hash(self.dialect).of(&name())));
            assert_ne!(remote, Eid::MANAGEMENT);
            let header = Allocation::parse(allocation, 0).expect("a header");
            let (behind, ahead) = FRESH;
            let utc = at(self.now).utc;
            assert!(utc.saturating_sub(header.timestamp) <= behind, "it is not stale");
            assert!(header.timestamp.saturating_sub(utc) <= ahead, "it is not from the future");
            assert_eq!(encrypted, !header.key.is_empty());
            assert!(self.seen.insert((header.id, header.timestamp)), "none comes twice");
            assert!(!self.demands || !header.certificate.is_empty());
            self.pending.push(request);
            let extensions = Extensions::parse(header.data).expect("it was looked at");
            let native = encrypted && extensions.profile.is_some();
            if self.dialect == Dialect::Udp && native && extensions.cookie.is_none() {
                self.sizes.insert(request, message.len());
            }
        }
    }

    fn check_answer(&mut self, asked: &Message<'_>, message: &[u8], answer: &[u8]) {
        let answer_to =
            Message::parse(self.dialect, hash(self.dialect), answer).expect("a message");
        match (asked, answer_to) {
            (Message::NameQuery(name), Message::NameReply(answered)) => {
                assert_eq!(*name, answered);
            }
            (
                Message::FlowRequest { source, allocation, .. },
                Message::FlowReply { requester, response, allocation: header, .. },
            ) => {
                if response == 0 {
                    // To where the request was from that it is a copy of.
                    assert_eq!(header[..16], allocation[..16], "it was accepted before");
                    return;
                }
                let (asked, answered) = (source.0, requester.0);
                assert!(asked == answered || self.dialect == Dialect::EthDix);
                let cookie = !header.is_empty()
                    && match response {
                        response if response == Refusal::Busy.code() => true,
                        // Clocks that differ: who is known shows by a cookie that it is there.
                        response if response == Refusal::NotFresh.code() => {
                            let request = Allocation::parse(allocation, 0).expect("a header");
                            !self.demands || !request.certificate.is_empty()
                        }
                        _ => false,
                    };
                assert!(!self.demands || cookie, "strangers hear of no name: {response}");
                assert!(answer.len() <= message.len(), "a refusal is no amplifier");
            }
            (asked, answer) => panic!("{answer:?} is no answer to {asked:?}"),
        }
        self.answers.push(self.now);
        let recent = self.now.saturating_sub(Duration::from_millis(999));
        self.answers.retain(|at| *at >= recent);
        let most = 2 * (ANSWERS + COOKIES) as usize;
        assert!(self.answers.len() <= most, "answers are within their rate");
    }

    fn accept(&mut self, request: RequestId, choice: u8) {
        let profile =
            [ProfilePolicy::PreferNative, ProfilePolicy::RequireNative, ProfilePolicy::Wire023]
                [usize::from(choice & 3) % 3];
        let suite = (choice & 4 != 0).then(Suite::default);
        let require_encryption = choice & 8 != 0;
        let security =
            ServerSecurity { suite, require_encryption, profile, ..self.security.clone() };
        self.allocator.set_policy(&name(), security);
        let (now, local) = (at(self.now), Eid(70_000));
        let accepted = self.allocator.accept(now, &mut self.entropy, request, local);
        let sent = self.transmitted();
        assert!(sent.len() <= 1);
        if accepted.is_ok() {
            // None if it is one of too many.
            let Some(accepted) = self.allocator.confirm(request) else { return };
            let agreed = accepted.agreed;
            assert!(agreed.is_some() || !require_encryption);
            assert!(agreed.as_ref().is_none_or(|Agreed { suite: had, .. }| {
                suite.is_none_or(|least| {
                    had.kex >= least.kex && had.kdf >= least.kdf && had.cipher >= least.cipher
                })
            }));
            let known = agreed
                .and_then(|agreed| agreed.identity)
                .is_some_and(|who| who.fingerprint == identity(7).fingerprint());
            assert!(known || !self.demands, "only friends are served");
            let [(_, reply)] = &sent[..] else { panic!("no reply") };
            let most = self.sizes.get(&request).copied().unwrap_or(usize::MAX);
            assert!(reply.len() <= most, "a reply is no amplifier");
            self.accepted.push(request);
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.allocator.handle_timeout(at(self.now), &mut self.entropy);
        while let Some(event) = self.allocator.poll() {
            match event {
                Event::Withdrawn { request } => {
                    self.pending.retain(|pending| *pending != request);
                }
                // For the log: `accept` asked for more than the client had offered.
                Event::Refused { .. } => {}
                event => panic!("{event:?} out of nothing"),
            }
        }
        self.transmitted();
    }

    fn transmitted(&mut self) -> Vec<(Destination, Vec<u8>)> {
        let next = || self.allocator.poll_transmit();
        std::iter::from_fn(next).map(|transmit| (transmit.to, transmit.message)).collect()
    }
}

fn pick(requests: &mut Vec<RequestId>, place: u8) -> Option<RequestId> {
    let place = usize::from(place).checked_rem(requests.len())?;
    Some(requests.remove(place))
}
