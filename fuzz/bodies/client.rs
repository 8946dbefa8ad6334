//! The allocation core of an IPCP that asks for a flow, and whatever comes
//! instead of a reply. The bytes: one for the dialect, one for what is asked,
//! then steps.

use std::time::Duration;

use ouroboros::{
    crypto::{Cipher, Hash, KeyExchange, Suite, identity::IdentityKey},
    proto::{
        allocation::{
            Agreed, AllocationId, AllocationRequest, Allocator, ClientSecurity, Event, Identity,
            Limits, ProfilePolicy, ServerSecurity, Trust,
        },
        native::Capabilities,
        protection::{FlowKeys, Profile},
    },
    wire::{
        Dialect, Eid, Name, PeerAddress, QosSpec,
        extension::Extensions,
        management::{LARGEST_MESSAGE, Message},
        oap::Allocation,
    },
};

use crate::input::{Counting, Input, at, hash};

const MOST_STEPS: usize = 32;
const SERVER: PeerAddress = PeerAddress::Memory(1);
const STRANGER: PeerAddress = PeerAddress::Memory(2);
const LOCAL: Eid = Eid(300);
const REMOTE: Eid = Eid(400);

struct Client {
    allocator: Allocator,
    server: Allocator,
    allocation: AllocationId,
    dialect: Dialect,
    now: Duration,
    entropy: Counting,
    asked: Option<ClientSecurity>,
    /// The request's header, once it has left; another one for a cookie.
    header: Option<Vec<u8>>,
    cookies: u32,
    /// The message that it left in first, and when.
    request: Vec<u8>,
    requested: Duration,
    /// The server's reply, its header and what it agreed to.
    reply: Option<(Vec<u8>, Vec<u8>, Option<FlowKeys>)>,
    over: bool,
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut client = Client::new(input.byte(), input.byte());
    for _ in 0..MOST_STEPS {
        if input.is_empty() || client.over {
            break;
        }
        client.step(&mut input);
    }
    // Whatever came, it ends.
    for _ in 0..MOST_STEPS {
        if client.over {
            assert_eq!(client.allocator.poll_timeout(), None);
            return;
        }
        client.advance(Duration::from_secs(2));
    }
    panic!("an allocation without an end");
}

fn identity(seed: u64) -> Identity {
    Identity::self_signed(IdentityKey::generate(&mut Counting(seed)), &name())
}

fn name() -> Name {
    "my_vpn".parse().expect("a name")
}

impl Client {
    fn new(dialect: u8, choice: u8) -> Self {
        let dialect = if dialect & 1 == 0 { Dialect::EthDix } else { Dialect::Udp };
        let kex = [KeyExchange::P256, KeyExchange::X25519, KeyExchange::X25519MlKem768]
            [usize::from(choice >> 1) % 3];
        let profile =
            [ProfilePolicy::PreferNative, ProfilePolicy::RequireNative, ProfilePolicy::Wire023]
                [usize::from(choice >> 3) % 3];
        let suite = Suite { kex, ..Suite::default() };
        let capabilities = Capabilities::PARTIAL_CHECKSUMS;
        let trust = if choice & 0x20 == 0 {
            Trust::Anyone
        } else {
            Trust::Keys(vec![identity(7).fingerprint()])
        };
        let security =
            ClientSecurity { profile, capabilities, trust, ..ClientSecurity::from(suite) };
        let asked = (choice & 1 != 0).then_some(security);
        let mut entropy = Counting(1);
        let mut allocator = Allocator::new(dialect, hash(dialect), Limits::default());
        let request = AllocationRequest {
            name: name(),
            qos: QosSpec::RAW,
            security: asked.clone(),
            local: LOCAL,
            peer: (dialect == Dialect::Udp || choice & 0x40 != 0).then_some(SERVER),
            timeout: Duration::from_secs(10),
            largest_message: if choice & 0x80 == 0 { LARGEST_MESSAGE } else { 1000 },
        };
        let mut server = Allocator::new(dialect, hash(dialect), Limits::default());
        server.register(&name());
        let now = Duration::ZERO;
        let allocation = allocator.allocate(at(now), &mut entropy, request).expect("within limits");
        let mut client = Self {
            allocator,
            server,
            allocation,
            dialect,
            now,
            entropy,
            asked,
            header: None,
            cookies: 0,
            request: Vec::new(),
            requested: now,
            reply: None,
            over: false,
        };
        client.sent();
        client
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let from = if step & 0x10 == 0 { SERVER } else { STRANGER };
        let via = step & 0x20 == 0;
        match step & 7 {
            0 => self.deliver(from, via, input.bytes()),
            1 | 2 => {
                if let Some(reply) = self.reply(input.byte()) {
                    self.deliver(from, via, &input.changed(&reply));
                }
            }
            3 | 4 => {
                if let Some(reply) = self.made_up(input) {
                    self.deliver(from, via, &reply);
                }
            }
            5 => {
                let name = hash(self.dialect).of(&name());
                let reply = Message::NameReply(name).encode(self.dialect);
                self.deliver(from, via, &input.changed(&reply));
            }
            6 => {
                let refusal = Message::FlowReply {
                    requester: LOCAL,
                    responder: Eid::MANAGEMENT,
                    response: -1 - i32::from(input.byte()),
                    allocation: &self.refusal(step & 0x40 != 0, input.bytes()),
                };
                self.deliver(from, via, &refusal.encode(self.dialect));
            }
            _ => self.advance(Duration::from_millis(input.short().into())),
        }
    }

    /// What a server makes of the request: its reply, or that it wants a cookie.
    fn reply(&mut self, choice: u8) -> Option<Vec<u8>> {
        if let Some((message, ..)) = &self.reply {
            return Some(message.clone());
        }
        self.header.as_ref()?;
        let profile =
            if choice & 1 == 0 { ProfilePolicy::PreferNative } else { ProfilePolicy::Wire023 };
        let suite = (choice & 2 != 0).then_some(Suite {
            kex: KeyExchange::P256,
            kdf: Hash::Sha512,
            cipher: Cipher::ChaCha20Poly1305,
        });
        let identity = (choice & 4 != 0).then(|| identity(if choice & 8 == 0 { 7 } else { 8 }));
        let security = ServerSecurity { suite, profile, identity, ..ServerSecurity::default() };
        let (now, entropy, server) = (at(self.requested), &mut self.entropy, &mut self.server);
        server.set_policy(&name(), security);
        server.handle(now, entropy, SERVER, None, &self.request);
        if let Some(Event::Requested { request, .. }) = server.poll() {
            let accepted = server.accept(now, entropy, request, REMOTE);
            accepted.expect("nothing speaks against it");
            let keys = server.confirm(request).expect("half-open").agreed.map(|agreed| agreed.keys);
            server.released(request);
            let message = server.poll_transmit().expect("a reply").message;
            let header = self.header_of(&message)?;
            self.reply = Some((message.clone(), header, keys));
            return Some(message);
        }
        let message = self.server.poll_transmit().expect("it wants a cookie").message;
        assert_eq!(self.dialect, Dialect::Udp);
        Some(message)
    }

    /// A reply of any content that answers the request.
    fn made_up(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let request = self.header.as_deref()?;
        let asked = Allocation::parse(request, 0).expect("our own");
        let choice = input.byte();
        let request_hash = if choice & 0x20 == 0 {
            digest(self.asked.is_some()).digest(request)
        } else {
            input.bytes().to_vec()
        };
        let ciphers = [0, Cipher::Aes128Gcm.id(), Cipher::Aes256Gcm.id(), input.short()];
        let hashes = [0, Hash::Sha256.id(), Hash::Sha512.id(), input.short()];
        let header = Allocation {
            cipher: ciphers[usize::from(choice & 3)],
            kdf: hashes[usize::from(choice >> 2 & 3)],
            md: asked.md,
            raw_key: choice & 0x40 != 0,
            kem_role: choice & 0x80 != 0,
            // The client's own key is one, too.
            key: if choice & 0x10 == 0 { asked.key } else { input.bytes() },
            data: input.bytes(),
            certificate: input.bytes(),
            signature: input.bytes(),
            request_hash: &request_hash,
            ..Allocation::plain(asked.id, input.short().into())
        };
        let allocation = header.encode()?;
        let responder = Eid(input.short().into());
        let reply = Message::FlowReply {
            requester: LOCAL,
            responder,
            response: 0,
            allocation: &allocation,
        };
        Some(reply.encode(self.dialect))
    }

    /// What comes with a refusal: a cookie, or anything.
    fn refusal(&self, cookie: bool, bytes: &[u8]) -> Vec<u8> {
        let Some(request) = self.header.as_deref().filter(|_| cookie) else {
            return bytes.to_vec();
        };
        let asked = Allocation::parse(request, 0).expect("our own");
        let cookie = (!bytes.is_empty()).then_some(bytes);
        let data = Extensions { cookie, ..Extensions::default() }.encode();
        let header = Allocation { data: &data, ..Allocation::plain(asked.id, asked.timestamp) };
        header.encode().expect("encodes")
    }

    fn header_of(&self, message: &[u8]) -> Option<Vec<u8>> {
        match Message::parse(self.dialect, hash(self.dialect), message).ok()? {
            Message::FlowRequest { allocation, .. } | Message::FlowReply { allocation, .. } => {
                Some(allocation.to_vec())
            }
            _ => None,
        }
    }

    fn deliver(&mut self, from: PeerAddress, via: bool, message: &[u8]) {
        let path = via.then_some(self.allocation);
        self.allocator.handle(at(self.now), &mut self.entropy, from, path, message);
        while let Some(event) = self.allocator.poll() {
            assert!(!self.over, "{event:?} after the end");
            self.over = true;
            match event {
                Event::Allocated { peer, remote, agreed, .. } => {
                    assert_eq!(peer, from);
                    assert!(from == SERVER || self.dialect == Dialect::EthDix);
                    assert!(via || self.dialect == Dialect::EthDix);
                    assert_ne!(remote, Eid::MANAGEMENT);
                    let asked = self.asked.as_ref().map(|asked| &asked.trust);
                    if let Some(Trust::Keys(keys)) = asked {
                        let who = agreed.as_ref().and_then(|agreed| agreed.identity.as_ref());
                        assert_eq!(who.map(|who| who.fingerprint), keys.first().copied());
                        let genuine = self.reply.as_ref().map(|(_, header, _)| header);
                        assert_eq!(self.header_of(message).as_ref(), genuine, "signed by it");
                    }
                    self.check_allocated(message, agreed);
                }
                Event::Failed { .. } => {}
                event => panic!("{event:?}: nothing is served here"),
            }
        }
        self.sent();
    }

    /// That `message` makes a flow.
    fn check_allocated(&self, message: &[u8], agreed: Option<Agreed>) {
        let header = self.header_of(message).expect("a reply");
        let request = self.header.as_ref().expect("it has left");
        let hash = digest(self.asked.is_some()).digest(request);
        let answer = Allocation::parse(&header, hash.len()).expect("a header");
        assert_eq!(answer.id, request[..16]);
        assert_eq!(answer.request_hash, hash, "it answers the request");
        let (Some(Agreed { keys, suite, .. }), Some(asked)) = (&agreed, &self.asked) else {
            return assert!(agreed.is_none() && self.asked.is_none(), "what is asked for is had");
        };
        let least = asked.suite;
        assert!(suite.kex >= least.kex && suite.kdf >= least.kdf && suite.cipher >= least.cipher);
        match asked.profile {
            ProfilePolicy::RequireNative => assert_eq!(keys.profile(), Profile::Native),
            ProfilePolicy::Wire023 => assert_eq!(keys.profile(), Profile::Wire023),
            ProfilePolicy::PreferNative => {}
        }
        let Some((_, genuine, Some(theirs))) = &self.reply else { return };
        if *genuine == header {
            assert!(keys.is_counterpart(theirs), "the two have a flow");
        } else if keys.profile() == Profile::Native {
            assert!(!keys.is_counterpart(theirs), "what was altered makes no flow");
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.allocator.handle_timeout(at(self.now), &mut self.entropy);
        while let Some(event) = self.allocator.poll() {
            assert!(matches!(event, Event::Failed { .. }) && !self.over, "{event:?}");
            self.over = true;
        }
        self.sent();
    }

    /// Takes what was sent.
    fn sent(&mut self) {
        let mut count = 0;
        while let Some(transmit) = self.allocator.poll_transmit() {
            count += 1;
            let hash = hash(self.dialect);
            let message = Message::parse(self.dialect, hash, &transmit.message);
            let Ok(Message::FlowRequest { allocation, .. }) = message else { continue };
            if self.header.as_deref() != Some(allocation) {
                // To a server that is busy there goes another one, after a while.
                if self.now >= self.requested + Duration::from_millis(50) {
                    self.cookies = 0;
                } else {
                    self.cookies += u32::from(self.header.is_some());
                }
                assert!(self.cookies <= 1, "otherwise it is repeated as it was");
                self.header = Some(allocation.to_vec());
                self.request = transmit.message;
                self.requested = self.now;
                self.reply = None;
            }
        }
        assert!(count <= 1, "one message at a time");
    }
}

/// Which hash of the request a reply has.
fn digest(encrypted: bool) -> Hash {
    if encrypted { Hash::Sha256 } else { Hash::Sha384 }
}
