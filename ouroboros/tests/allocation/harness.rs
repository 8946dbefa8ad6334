//! A server and a client side by side, and messages between them by hand.

use std::time::Duration;

use ouroboros::{
    crypto::{
        AeadBackend, Entropy, Suite,
        identity::{CaStore, IdentityKey},
    },
    proto::{
        Now,
        allocation::{
            AcceptError, Accepted, AllocationId, AllocationRequest, Allocator, ClientSecurity,
            Event, Identity, Limits, ProfilePolicy, RequestId, ServerSecurity, Transmit, Trust,
        },
        native::{Capabilities, KeyLimits},
        protection::{Content, FlowKeys, protection},
    },
    transport::Destination,
    wire::{
        Dialect, DirectoryHash, Eid, Name, PeerAddress, QosSpec,
        management::{LARGEST_MESSAGE, Message},
        oap::Allocation,
    },
};

/// A different byte each time is all that is asked of it here.
pub(crate) struct Counting(pub(crate) u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            self.0
        });
    }
}

pub(crate) const SERVER: PeerAddress = PeerAddress::Memory(1);
pub(crate) const CLIENT: PeerAddress = PeerAddress::Memory(2);
pub(crate) const STRANGER: PeerAddress = PeerAddress::Memory(3);
pub(crate) const LOCAL: Eid = Eid(300);
pub(crate) const REMOTE: Eid = Eid(400);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const PLAIN: ServerSecurity = ServerSecurity {
    suite: None,
    require_encryption: false,
    profile: ProfilePolicy::PreferNative,
    capabilities: Capabilities::NONE,
    reliable: None,
    ordered: false,
    identity: None,
    identify_to_old: true,
    clients: Trust::Anyone,
    invited: Vec::new(),
};

pub(crate) fn at(milliseconds: u64) -> Now {
    // A start that leaves room for timestamps in the past.
    let monotonic = Duration::from_millis(milliseconds);
    Now { monotonic, utc: 1_800_000_000_000_000_000 + milliseconds * 1_000_000 }
}

pub(crate) fn name() -> Name {
    "my_vpn".parse().expect("a name")
}

pub(crate) fn hash_of(dialect: Dialect) -> DirectoryHash {
    match dialect {
        Dialect::EthDix => DirectoryHash::Sha3_256,
        Dialect::Udp => DirectoryHash::Md5,
    }
}

/// A flow to `my_vpn` as clients here ask for it.
pub(crate) fn asked(security: Option<ClientSecurity>) -> AllocationRequest {
    AllocationRequest {
        name: name(),
        qos: QosSpec::RAW,
        security,
        local: LOCAL,
        peer: Some(SERVER),
        timeout: TIMEOUT,
        largest_message: LARGEST_MESSAGE,
    }
}

/// A server of `my_vpn` and a client that allocates a flow to it.
pub(crate) struct Pair {
    pub(crate) dialect: Dialect,
    pub(crate) server: Allocator,
    pub(crate) client: Allocator,
    pub(crate) allocation: AllocationId,
    pub(crate) entropy: Counting,
}

impl Pair {
    /// Both, the allocation begun at time 0; straight to the request.
    pub(crate) fn new(dialect: Dialect, security: Option<Suite>) -> Self {
        let mut entropy = Counting(1);
        let allocator = || Allocator::new(dialect, hash_of(dialect), Limits::default());
        let (mut server, mut client) = (allocator(), allocator());
        assert!(server.register(&name()));
        let request = asked(security.map(Into::into));
        let allocation = client.allocate(at(0), &mut entropy, request).expect("within limits");
        Self { dialect, server, client, allocation, entropy }
    }

    pub(crate) fn via(&self) -> Option<AllocationId> {
        (self.dialect == Dialect::Udp).then_some(self.allocation)
    }

    pub(crate) fn sent_by_client(&mut self) -> Vec<u8> {
        let Transmit { to, message, .. } = self.client.poll_transmit().expect("a message");
        assert_eq!(to, Destination::Peer(SERVER));
        message
    }

    pub(crate) fn sent_by_server(&mut self) -> Vec<u8> {
        self.server.poll_transmit().expect("a message").message
    }

    pub(crate) fn give_server(&mut self, now: Now, from: PeerAddress, message: &[u8]) {
        self.server.handle(now, &mut self.entropy, from, None, message);
    }

    pub(crate) fn give_client(&mut self, now: Now, from: PeerAddress, message: &[u8]) {
        let via = self.via();
        self.client.handle(now, &mut self.entropy, from, via, message);
    }

    /// The request that the server tells of.
    pub(crate) fn requested(&mut self) -> RequestId {
        match self.server.poll() {
            Some(Event::Requested { request, .. }) => request,
            other => panic!("no request but {other:?}"),
        }
    }

    pub(crate) fn accept(
        &mut self,
        now: Now,
        request: RequestId,
        security: &ServerSecurity,
    ) -> Result<Accepted, AcceptError> {
        self.server.set_policy(&name(), security.clone());
        self.server.accept(now, &mut self.entropy, request, REMOTE)?;
        Ok(self.server.confirm(request).expect("half-open"))
    }

    /// The client's request, as the server accepts it: both messages.
    pub(crate) fn accepted(&mut self) -> (Vec<u8>, Vec<u8>, RequestId) {
        let message = self.sent_by_client();
        self.give_server(at(1), CLIENT, &message);
        let request = self.requested();
        self.accept(at(1), request, &PLAIN).expect("accepted");
        let reply = self.sent_by_server();
        (message, reply, request)
    }

    pub(crate) fn response(&self, message: &[u8]) -> i32 {
        match Message::parse(self.dialect, hash_of(self.dialect), message) {
            Ok(Message::FlowReply { requester, response, .. }) => {
                assert_eq!(requester, LOCAL);
                response
            }
            other => panic!("no reply but {other:?}"),
        }
    }
}

pub(crate) fn header_of(dialect: Dialect, message: &[u8]) -> &[u8] {
    match Message::parse(dialect, hash_of(dialect), message).expect("a message") {
        Message::FlowRequest { allocation, .. } | Message::FlowReply { allocation, .. } => {
            allocation
        }
        other => panic!("no header in {other:?}"),
    }
}

pub(crate) fn request_with(dialect: Dialect, header: &Allocation<'_>) -> Vec<u8> {
    let allocation = header.encode().expect("encodes");
    let name = hash_of(dialect).of(&name());
    Message::FlowRequest { source: LOCAL, qos: QosSpec::RAW, name, allocation: &allocation }
        .encode(dialect)
}

pub(crate) const DIALECTS: [Dialect; 2] = [Dialect::EthDix, Dialect::Udp];

macro_rules! made {
    ($name:literal) => {
        include_bytes!(concat!("../vectors/certificates/", $name))
    };
}

/// A key of the vectors' and the certificate that their authority has made.
pub(crate) fn certified() -> [Identity; 3] {
    let files: [(&[u8], &[u8]); 3] = [
        (made!("ed25519.key"), made!("ed25519.der")),
        (made!("p256.key"), made!("p256.der")),
        (made!("p384.key"), made!("p384.der")),
    ];
    files.map(|(key, certificate)| {
        let key = std::str::from_utf8(key).expect("text");
        let key = IdentityKey::from_pkcs8_pem(key).expect("a key");
        Identity::certified(key, certificate).expect("of this key")
    })
}

/// The vectors' authority.
pub(crate) fn authority() -> Trust {
    let mut store = CaStore::new();
    store.add(made!("authority.pem")).expect("a certificate");
    Trust::Authorities(store)
}

/// A key that vouches for itself as `name`; always the same for one `seed`.
pub(crate) fn own(seed: u8, name: &str) -> Identity {
    let key = IdentityKey::generate(&mut Counting(seed));
    Identity::self_signed(key, &name.parse().expect("a name"))
}

pub(crate) fn only(identity: &Identity) -> Trust {
    Trust::Keys(vec![identity.fingerprint()])
}

/// How an allocation went.
pub(crate) struct Met {
    /// The request was put to the server's application, and this came of it.
    pub(crate) accepted: Option<Result<Accepted, AcceptError>>,
    /// The request and what the server sent, of which the client got the last.
    pub(crate) request: Vec<u8>,
    pub(crate) replies: Vec<Vec<u8>>,
    /// What the client was told at last.
    pub(crate) told: Event,
}

/// Headers as they come, and as they go on.
pub(crate) type Alter<'a> = &'a dyn Fn(&mut Vec<u8>);

/// A flow from `client` to `server`, the headers altered on their way.
pub(crate) fn meet(
    dialect: Dialect,
    now: Now,
    client: Option<ClientSecurity>,
    server: &ServerSecurity,
    (on_request, on_reply): (Alter<'_>, Alter<'_>),
) -> Met {
    let entropy = &mut Counting(99);
    let allocator = || Allocator::new(dialect, hash_of(dialect), Limits::default());
    let (mut responder, mut requester) = (allocator(), allocator());
    responder.set_policy(&name(), server.clone());
    responder.register(&name());
    let request = asked(client);
    let id = requester.allocate(now, entropy, request).expect("within limits");
    let via = (dialect == Dialect::Udp).then_some(id);
    let sent = requester.poll_transmit().expect("a request").message;
    let request = altered(dialect, &sent, on_request);
    responder.handle(now, entropy, CLIENT, None, &request);
    let mut accepted = None;
    if let Some(Event::Requested { request, .. }) = responder.poll() {
        let done = responder.accept(now, entropy, request, REMOTE);
        accepted = Some(done.map(|()| responder.confirm(request).expect("half-open")));
    }
    let mut replies = Vec::new();
    while let Some(reply) = responder.poll_transmit() {
        let reply = altered(dialect, &reply.message, on_reply);
        requester.handle(now, entropy, SERVER, via, &reply);
        replies.push(reply);
    }
    let told = loop {
        if let Some(told) = requester.poll() {
            break told;
        }
        let monotonic = requester.poll_timeout().expect("it ends some time");
        let later = (monotonic - now.monotonic).as_nanos() as u64;
        requester.handle_timeout(Now { monotonic, utc: now.utc + later }, entropy);
    };
    Met { accepted, request, replies, told }
}

pub(crate) fn unaltered(_: &mut Vec<u8>) {}

fn altered(dialect: Dialect, message: &[u8], alter: Alter<'_>) -> Vec<u8> {
    let message = Message::parse(dialect, hash_of(dialect), message).expect("a message");
    let changed = |header: &[u8]| {
        let mut header = header.to_vec();
        alter(&mut header);
        header
    };
    match message {
        Message::FlowRequest { source, qos, name, allocation } => {
            let allocation = &changed(allocation);
            Message::FlowRequest { source, qos, name, allocation }.encode(dialect)
        }
        Message::FlowReply { requester, responder, response, allocation } => {
            let allocation = &changed(allocation);
            Message::FlowReply { requester, responder, response, allocation }.encode(dialect)
        }
        other => panic!("no header in {other:?}"),
    }
}

/// The request over UDP of a client that asks for `security`.
pub(crate) fn template(security: Option<ClientSecurity>) -> Vec<u8> {
    let mut allocator = Allocator::new(Dialect::Udp, hash_of(Dialect::Udp), Limits::default());
    allocator.allocate(at(0), &mut Counting(77), asked(security)).expect("within limits");
    allocator.poll_transmit().expect("a request").message
}

/// A request like `template`, and of its own, whichever number.
pub(crate) fn request_like(number: u32, now: Now, template: &[u8]) -> Vec<u8> {
    let mut header = Allocation::parse(header_of(Dialect::Udp, template), 0).expect("a header");
    header.id[..4].copy_from_slice(&number.to_be_bytes());
    header.timestamp = now.utc;
    request_with(Dialect::Udp, &header)
}

/// What a client seals first, to the endpoint `remote`.
pub(crate) fn first_frame(keys: Option<FlowKeys>, remote: Eid) -> Vec<u8> {
    let (backend, limits) = (AeadBackend::default(), KeyLimits::default());
    let mut ends = protection(keys, (LOCAL, remote), false, backend, limits, &mut Counting(5));
    let (head, tail) = (ends.sealer.headroom(), ends.sealer.tailroom());
    let mut frame = vec![7; head + 5 + tail];
    ends.sealer.seal(&mut frame, Content::Packet).expect("sealed");
    frame
}
