//! Whole flows of the library, by its public API and with its own clock and threads,
//! with the model of a 0.23 peer at the other end of a UDP socket, in both roles, plain
//! and encrypted, over a network that loses, repeats and reorders.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_lite::{FutureExt, future};
use ouroboros::{
    Flow, FlowSpec, Irm,
    crypto::{AeadBackend, SystemEntropy},
    proto::{
        frct::Service,
        native::KeyLimits,
        negotiation::{
            Client, ClientSecurity, Offer, ProfilePolicy, ServerSecurity, Shape, Terms, answer,
        },
        protection::{Content, FlowKeys, Protection, protection},
    },
    transport::Udp,
    wire::{Dialect, DirectoryHash, Eid, QosSpec, management::Message},
};

use crate::{
    Random, ms,
    peer::{Frame, Peer},
};

const PORT: u16 = 3435;
/// The peer's endpoint.
const ITS: Eid = Eid(77);
/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A loopback address that no other test has.
fn address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Relaxed) as u8)
}

fn utc() -> u64 {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(utc.as_nanos()).expect("before 2554")
}

/// A flow that is to be, and what its network does.
#[derive(Clone, Copy, Debug)]
struct Case {
    qos: QosSpec,
    encrypted: bool,
    /// Percent; of what an encrypting peer sends nothing, for it could not repeat it.
    loss: u64,
}

impl Case {
    fn terms(&self) -> Terms {
        Terms { name: DirectoryHash::Md5.of(&"my_vpn".parse().expect("a name")), qos: self.qos }
    }
}

/// The peer's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Returns what it reads.
    Echo,
    /// Writes so many numbers.
    Write(u32),
}

/// The peer, and its end of the socket.
struct Host {
    socket: UdpSocket,
    /// The library's endpoint.
    ours: Eid,
    case: Case,
    protection: Protection,
    peer: Peer,
    random: Random,
    /// Has been overtaken, if it is not lost.
    late: Option<Vec<u8>>,
}

impl Host {
    fn new(socket: UdpSocket, ours: Eid, case: Case, keys: Option<FlowKeys>) -> Self {
        let service = Service::of(&case.qos).expect("in order");
        let (ends, limits) = ((ITS, ours), KeyLimits::default());
        let backend = AeadBackend::default();
        let protection = protection(keys, ends, false, backend, limits, &mut SystemEntropy);
        let random = Random::seeded(u64::from(ours.0));
        let peer = Peer::new(service, case.encrypted, Random::seeded(5));
        Self { socket, ours, case, protection, peer, random, late: None }
    }

    fn seal(&mut self, frame: Frame) -> Vec<u8> {
        let eid = self.ours.0.to_be_bytes();
        match frame {
            Frame::Garbled => [&eid[..], &[0x5a; 60]].concat(),
            Frame::Packet(packet) => {
                let sealer = &mut self.protection.sealer;
                let (head, tail) = (sealer.headroom(), sealer.tailroom());
                let mut frame = [&vec![0; head][..], &packet, &vec![0; tail]].concat();
                sealer.seal(&mut frame, Content::Packet).expect("sealed");
                [&eid[..], &frame].concat()
            }
        }
    }

    fn send(&mut self, frame: Frame) {
        let frame = self.seal(frame);
        let lost = !self.case.encrypted && self.random.percent(self.case.loss);
        if lost {
            return;
        }
        if self.late.is_none() && self.random.percent(self.case.loss) {
            self.late = Some(frame);
            return;
        }
        let _ = self.socket.send(&frame);
        if let Some(late) = self.late.take() {
            let _ = self.socket.send(&late);
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let Some((eid, frame)) = datagram.split_first_chunk::<4>() else { return };
        if *eid != ITS.0.to_be_bytes() || self.random.percent(self.case.loss) {
            return;
        }
        let mut frame = frame.to_vec();
        let packet = match frame.is_empty() {
            true => Vec::new(),
            false => {
                let opened = self.protection.opener.open(&mut frame).expect("of the library");
                frame[opened.body].to_vec()
            }
        };
        if self.random.percent(self.case.loss) {
            self.peer.arrive(packet.clone());
        }
        self.peer.arrive(packet);
    }

    fn run(mut self, program: Program, end: &AtomicBool) -> Peer {
        let (start, mut buffer) = (Instant::now(), vec![0; 65_536]);
        let mut unwritten: VecDeque<Vec<u8>> = match program {
            Program::Echo => VecDeque::new(),
            Program::Write(count) => (0..count).map(packet).collect(),
        };
        self.socket.set_read_timeout(Some(ms(1))).expect("set");
        while !end.load(SeqCst) {
            match self.socket.recv(&mut buffer) {
                Ok(size) => self.take(&buffer[..size]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
            }
            // Of a peer that has run for a while.
            let now = Duration::from_secs(1000) + start.elapsed();
            self.peer.run(now);
            if program == Program::Echo {
                unwritten.extend(self.peer.read.drain(..));
            }
            while let Some(packet) = unwritten.front()
                && self.peer.write(now, packet)
            {
                unwritten.pop_front();
            }
            for frame in std::mem::take(&mut self.peer.out) {
                self.send(frame);
            }
            if let Some(late) = self.late.take_if(|_| self.random.percent(50)) {
                let _ = self.socket.send(&late);
            }
        }
        self.peer
    }
}

/// A peer that runs until this is dropped, or ended.
struct Running {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Peer>>,
}

impl Running {
    fn new(host: Host, program: Program) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let until = end.clone();
        Self { end, thread: Some(thread::spawn(move || host.run(program, &until))) }
    }

    fn end(mut self) -> Peer {
        self.end.store(true, SeqCst);
        self.thread.take().expect("it runs").join().expect("no panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.store(true, SeqCst);
    }
}

/// The next management message that comes.
fn management(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut buffer = [0; 2048];
    loop {
        let (size, from) = socket.recv_from(&mut buffer).expect("a message");
        if let Some(message) = buffer[..size].strip_prefix(&[0; 4]) {
            return (message.to_vec(), from);
        }
    }
}

fn parse(message: &[u8]) -> Message<'_> {
    Message::parse(Dialect::Udp, DirectoryHash::Md5, message).expect("well-formed")
}

fn encode(message: Message<'_>) -> Vec<u8> {
    [&[0; 4][..], &message.encode(Dialect::Udp)].concat()
}

/// The peer answers the library's request.
fn with_server(case: Case, program: Program) -> (Flow, Running) {
    let (ip, own) = (address(), address());
    let socket = UdpSocket::bind((ip, PORT)).expect("a port");
    let serving = thread::spawn(move || {
        let (request, from) = management(&socket);
        let Message::FlowRequest { source, qos, allocation, .. } = parse(&request) else {
            panic!("no request");
        };
        assert_eq!(qos, case.qos);
        let security =
            ServerSecurity { profile: ProfilePolicy::Wire023, ..ServerSecurity::default() };
        let entropy = &mut SystemEntropy;
        let answered =
            answer(Client::Unchecked, allocation, utc(), &case.terms(), &security, entropy);
        let (reply, agreed) = answered.expect("acceptable");
        let reply = Message::FlowReply {
            requester: source,
            responder: ITS,
            response: 0,
            allocation: &reply,
        };
        socket.send_to(&encode(reply), from).expect("sent");
        socket.connect(from).expect("connected");
        let keys = agreed.map(|agreed| agreed.keys);
        Running::new(Host::new(socket, source, case, keys), program)
    });
    let irm = Irm::new();
    let flow = future::block_on(async {
        let transport = Udp::connect_only(own.into()).server((ip, PORT).into());
        irm.bootstrap("my_layer", transport).await.expect("a layer");
        let spec = FlowSpec::with_qos(case.qos);
        let spec = if case.encrypted { spec.encrypted() } else { spec };
        irm.allocate("my_vpn", spec).await.expect("allocated")
    });
    (flow, serving.join().expect("no panic"))
}

/// The peer asks the library for a flow.
fn with_client(case: Case, program: Program) -> (Flow, Running) {
    let (ip, own) = (address(), address());
    let socket = UdpSocket::bind((own, PORT)).expect("a port");
    let irm = Irm::new();
    future::block_on(async {
        let layer = irm.bootstrap("my_layer", Udp::at(ip.into()).port(PORT)).await.expect("one");
        layer.register("my_vpn").await.expect("registered");
    });
    let asking = thread::spawn(move || {
        let security = case.encrypted.then(|| ClientSecurity {
            profile: ProfilePolicy::Wire023,
            ..ClientSecurity::default()
        });
        let shape = Shape::default();
        let offer = Offer::new(utc(), case.terms(), security, shape, &mut SystemEntropy);
        let request = Message::FlowRequest {
            source: ITS,
            qos: case.qos,
            name: case.terms().name,
            allocation: &offer.header,
        };
        socket.send_to(&encode(request), (ip, PORT)).expect("sent");
        let (reply, from) = management(&socket);
        let Message::FlowReply { requester: ITS, responder, response: 0, allocation } =
            parse(&reply)
        else {
            panic!("refused");
        };
        let name = "my_vpn".parse().expect("a name");
        let agreed = offer.check(allocation, &name, utc()).expect("an answer");
        socket.connect(from).expect("connected");
        let keys = agreed.map(|agreed| agreed.keys);
        Running::new(Host::new(socket, responder, case, keys), program)
    });
    let flow = future::block_on(irm.accept("my_vpn")).expect("accepted");
    (flow, asking.join().expect("no panic"))
}

fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![number as u8; 4 + number as usize % 1000];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet
}

fn within<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing moves any more");
    };
    future::block_on(work.or(late))
}

const RELIABLE: [Case; 3] = [
    Case { qos: QosSpec::DATA, encrypted: false, loss: 0 },
    Case { qos: QosSpec::DATA, encrypted: false, loss: 10 },
    Case { qos: QosSpec::DATA, encrypted: true, loss: 10 },
];

/// A conversation, one packet at a time: all that a 0.23 receiver survives with losses.
fn converse((flow, peer): (Flow, Running)) {
    within(async {
        for number in 0..100 {
            flow.send(&packet(number)).await.expect("sent");
            assert_eq!(flow.recv_vec().await.expect("answered"), packet(number));
        }
        flow.finish().await.expect("acknowledged");
    });
    let peer = peer.end();
    assert!(!peer.crashed && !peer.down);
}

#[test]
fn a_conversation_with_a_server_survives_losses() {
    for case in RELIABLE {
        converse(with_server(case, Program::Echo));
    }
}

#[test]
fn a_conversation_with_a_client_survives_losses() {
    const COUNT: u32 = 50;
    for case in RELIABLE {
        let (flow, peer) = with_client(case, Program::Write(COUNT));
        within(async {
            for number in 0..COUNT {
                assert_eq!(flow.recv_vec().await.expect("received"), packet(number));
                flow.send(&packet(number)).await.expect("sent");
                flow.finish().await.expect("acknowledged");
            }
        });
        let peer = peer.end();
        assert!(!peer.crashed && !peer.down);
        assert_eq!(peer.read, (0..COUNT).map(packet).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_peer_writes_arrives_once_and_in_order_from_either_role() {
    for case in RELIABLE {
        for role in [with_server, with_client] {
            let (flow, _peer) = role(case, Program::Write(1000));
            within(async {
                for number in 0..1000 {
                    assert_eq!(flow.recv_vec().await.expect("received"), packet(number));
                }
            });
        }
    }
}

#[test]
fn an_ordered_peer_that_hears_no_data_goes_on_beyond_64_packets() {
    for qos in [QosSpec::BEST_EFFORT, QosSpec::VIDEO, QosSpec::VOICE] {
        for role in [with_server, with_client] {
            let case = Case { qos, encrypted: false, loss: 2 };
            let (flow, _peer) = role(case, Program::Write(2000));
            let count = within(async {
                let (mut last, mut count) = (None, 0);
                while last.is_none_or(|last| last < 1900) {
                    let found = flow.recv_vec().await.expect("received");
                    let number = u32::from_be_bytes(found[..4].try_into().expect("four bytes"));
                    assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                    assert_eq!(found, packet(number));
                    (last, count) = (Some(number), count + 1);
                }
                count
            });
            assert!(count > 1000, "{count} packets of 1900");
        }
    }
}
