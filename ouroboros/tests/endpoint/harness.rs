//! A server and a client side by side, and messages between them by hand.

use std::time::Duration;

use ouroboros::{
    crypto::{Entropy, Suite},
    proto::{
        Now,
        endpoint::{
            AcceptError, Accepted, AllocationId, AllocationRequest, Endpoint, Event, Limits,
            ProfilePolicy, RequestId, ServerSecurity, Transmit, Trust,
        },
        native::Capabilities,
    },
    transport::Destination,
    wire::{
        Dialect, DirectoryHash, Eid, Name, PeerAddress, QosSpec, management::Message,
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
    identity: None,
    clients: Trust::Anyone,
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

/// A server of `my_vpn` and a client that allocates a flow to it.
pub(crate) struct Pair {
    pub(crate) dialect: Dialect,
    pub(crate) server: Endpoint,
    pub(crate) client: Endpoint,
    pub(crate) allocation: AllocationId,
    pub(crate) entropy: Counting,
}

impl Pair {
    /// Both, the allocation begun at time 0; straight to the request.
    pub(crate) fn new(dialect: Dialect, security: Option<Suite>) -> Self {
        let mut entropy = Counting(1);
        let endpoint = || Endpoint::new(dialect, hash_of(dialect), Limits::default());
        let (mut server, mut client) = (endpoint(), endpoint());
        assert!(server.register(&name()));
        let request = AllocationRequest {
            name: name(),
            qos: QosSpec::RAW,
            security: security.map(Into::into),
            local: LOCAL,
            peer: Some(SERVER),
            timeout: TIMEOUT,
        };
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
        self.server.accept(now, &mut self.entropy, request, REMOTE)
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
