//! Two ends that allocate a flow, each with its session, under virtual time.

use std::time::Duration;

use ouroboros::{
    crypto::{AeadBackend, Entropy, KeyExchange, Suite},
    proto::{
        Now,
        allocation::{
            AcceptError, AllocationRequest, Allocator, ClientSecurity, Event, Limits,
            ServerSecurity,
        },
        native::{
            Channel, Content, HEAD, KeyLimits, NativeKeys, Opened, Opener, SealError, Sealer,
            Session, SessionConfig, TAIL, Transmit,
        },
        protection::{FlowKeys, OpenError, Profile},
    },
    wire::{
        Dialect, DirectoryHash, Eid, PeerAddress, QosSpec,
        management::{LARGEST_MESSAGE, Message},
        oap::Allocation,
    },
};
pub(crate) use ouroboros_testing::Random;

pub(crate) fn at(monotonic: Duration) -> Now {
    Now { monotonic, utc: 1_800_000_000_000_000_000 + monotonic.as_nanos() as u64 }
}

pub(crate) const SERVER: PeerAddress = PeerAddress::Memory(1);
pub(crate) const CLIENT: PeerAddress = PeerAddress::Memory(2);
pub(crate) const SERVER_EID: Eid = Eid(70_001);
pub(crate) const CLIENT_EID: Eid = Eid(302);

/// Random bytes that count, for vectors.
pub(crate) struct Counting(pub(crate) u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| {
            self.0 = self.0.wrapping_add(1);
            self.0
        });
    }
}

/// Bytes as vectors have them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What each side has of an allocation.
pub(crate) struct Allocated {
    pub(crate) client: Option<FlowKeys>,
    /// `None`: it accepted nothing.
    pub(crate) server: Option<Option<FlowKeys>>,
}

/// Allocates a flow; `on_request` and `on_reply` may alter the headers on their
/// way.
pub(crate) fn allocate(
    random: &mut Random,
    client: Option<ClientSecurity>,
    server: ServerSecurity,
    on_request: impl Fn(&[u8]) -> Vec<u8>,
    on_reply: impl Fn(&[u8], &[u8]) -> Vec<u8>,
) -> Allocated {
    let allocator = || Allocator::new(Dialect::EthDix, DirectoryHash::Sha3_256, Limits::default());
    let (mut requester, mut responder) = (allocator(), allocator());
    let name = "my_vpn".parse().expect("a name");
    responder.set_policy(&name, server);
    responder.register(&name);
    let request = AllocationRequest {
        name,
        qos: QosSpec::RAW,
        security: client,
        local: CLIENT_EID,
        peer: Some(SERVER),
        timeout: Duration::from_secs(5),
        largest_message: LARGEST_MESSAGE,
    };
    let start = at(Duration::ZERO);
    requester.allocate(start, random, request).expect("within limits");
    let sent = requester.poll_transmit().expect("a request").message;
    let (message, header) = altered(&sent, |header| on_request(header));
    responder.handle(start, random, CLIENT, None, &message);
    let accepted = match responder.poll() {
        Some(Event::Requested { request, .. }) => {
            match responder.accept(start, random, request, SERVER_EID) {
                Ok(()) => Some(
                    responder.confirm(request).expect("half-open").agreed.map(|agreed| agreed.keys),
                ),
                Err(AcceptError::Refused(_)) => None,
                Err(error) => panic!("{error}"),
            }
        }
        None | Some(Event::Refused { .. }) => None,
        other => panic!("{other:?}"),
    };
    if let Some(reply) = responder.poll_transmit() {
        let (reply, _) = altered(&reply.message, |reply| on_reply(&header, reply));
        requester.handle(start, random, SERVER, None, &reply);
    }
    let allocated = match requester.poll() {
        Some(Event::Allocated { agreed, .. }) => Some(agreed.map(|agreed| agreed.keys)),
        None | Some(Event::Failed { .. }) => None,
        other => panic!("{other:?}"),
    };
    Allocated { client: allocated.flatten(), server: accepted }
}

fn altered(message: &[u8], alter: impl FnOnce(&[u8]) -> Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let hash = DirectoryHash::Sha3_256;
    let dialect = Dialect::EthDix;
    match Message::parse(dialect, hash, message).expect("a message") {
        Message::FlowRequest { source, qos, name, allocation } => {
            let header = alter(allocation);
            let message = Message::FlowRequest { source, qos, name, allocation: &header };
            (message.encode(dialect), header)
        }
        Message::FlowReply { requester, responder, response, allocation } => {
            let header = if response == 0 { alter(allocation) } else { allocation.to_vec() };
            let message =
                Message::FlowReply { requester, responder, response, allocation: &header };
            (message.encode(dialect), header)
        }
        other => panic!("{other:?}"),
    }
}

/// The header with `change` made to it; `hash`: bytes of request hash in it.
pub(crate) fn changed<'a>(
    header: &'a [u8],
    hash: usize,
    change: impl FnOnce(&mut Allocation<'a>),
) -> Vec<u8> {
    let mut header = Allocation::parse(header, hash).expect("a header");
    change(&mut header);
    header.encode().expect("encodes")
}

/// One end of a flow.
pub(crate) struct End {
    pub(crate) session: Session,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) sent: Duration,
    pub(crate) heard: Duration,
}

impl End {
    pub(crate) fn new(
        now: Duration,
        random: &mut Random,
        keys: NativeKeys,
        ends: (Eid, Eid),
        limits: KeyLimits,
        config: SessionConfig,
    ) -> Self {
        let channel = Channel::new(keys, ends, AeadBackend::Ring, limits);
        let (sealer, opener) = (channel.sealer(), channel.opener());
        let session = Session::new(at(now), random, channel, config);
        Self { session, sealer, opener, sent: now, heard: now }
    }

    /// A sealed packet.
    pub(crate) fn seal(&mut self, now: Duration, packet: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut number = self.sealer.reserve(1, true)?;
        let mut frame = [&[0; HEAD], packet, &[0; TAIL]].concat();
        number.seal(&mut frame, Content::Packet);
        self.sent = now;
        Ok(frame)
    }

    /// The packet in `frame`; `None` if it was the session's.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        random: &mut Random,
        frame: &[u8],
        from: Option<PeerAddress>,
    ) -> Result<Option<Vec<u8>>, OpenError> {
        let mut bytes = frame.to_vec();
        let opened: Opened = self.opener.open(&mut bytes)?;
        let body = &bytes[opened.body.clone()];
        self.heard = now;
        self.session.heard_from(at(now), random, from, frame.len(), opened.leads);
        if opened.content == Content::Control {
            self.session.handle(at(now), random, &opened, body);
            return Ok(None);
        }
        Ok(Some(body.to_vec()))
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Duration, random: &mut Random) {
        self.session.traffic(self.sent, self.heard);
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.handle_timeout(at(now), random);
        }
        if self.sealer.wants_attention() || self.opener.wants_attention() {
            self.session.handle_timeout(at(now), random);
        }
    }
}

/// The two ends of an allocated native flow: client and server.
pub(crate) fn pair(
    random: &mut Random,
    client: ClientSecurity,
    limits: KeyLimits,
    config: SessionConfig,
) -> [End; 2] {
    let keys = native_keys(random, client);
    ends(random, keys, limits, config)
}

/// The keys of a flow that was allocated: the client's and the server's.
pub(crate) fn native_keys(random: &mut Random, client: ClientSecurity) -> [NativeKeys; 2] {
    let server = ServerSecurity { capabilities: client.capabilities, ..ServerSecurity::default() };
    let allocated =
        allocate(random, Some(client), server, <[u8]>::to_vec, |_, reply| reply.to_vec());
    match (allocated.client, allocated.server) {
        (Some(FlowKeys::Native(client)), Some(Some(FlowKeys::Native(server)))) => [client, server],
        _ => panic!("both ends have native keys"),
    }
}

/// The keys as another process gets them: without what was kept of the headers' agreement.
pub(crate) fn through_bytes(keys: NativeKeys) -> NativeKeys {
    let (suite, bytes) = (keys.suite(), FlowKeys::Native(keys).into_bytes());
    match FlowKeys::from_bytes(Profile::Native, suite, &bytes) {
        Some(FlowKeys::Native(keys)) => keys,
        other => panic!("{other:?}"),
    }
}

/// The ends of a flow with these keys.
pub(crate) fn ends(
    random: &mut Random,
    [client, server]: [NativeKeys; 2],
    limits: KeyLimits,
    config: SessionConfig,
) -> [End; 2] {
    let now = Duration::ZERO;
    [
        End::new(now, random, client, (CLIENT_EID, SERVER_EID), limits, config),
        End::new(now, random, server, (SERVER_EID, CLIENT_EID), limits, config),
    ]
}

pub(crate) fn suite(kex: KeyExchange) -> ClientSecurity {
    ClientSecurity::from(Suite { kex, ..Suite::default() })
}

/// Passes what both have to send until neither has anything.
pub(crate) fn exchange(ends: &mut [End; 2], random: &mut Random, now: Duration) -> usize {
    let mut passed = 0;
    loop {
        let mut quiet = true;
        for index in 0..2 {
            ends[index].tick(now, random);
            while let Some(Transmit { frame, .. }) = ends[index].session.poll_transmit() {
                quiet = false;
                passed += 1;
                ends[1 - index].take(now, random, &frame, None).expect("authentic");
            }
        }
        if quiet {
            return passed;
        }
    }
}
