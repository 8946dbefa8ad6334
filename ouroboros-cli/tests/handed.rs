//! Flows over UDP whose own sockets applications have: what reaches such a
//! socket and is not the flow's, what ends it, and what an application that
//! lies can do. The daemons run in this process, behind real sockets; a peer
//! that does what ours does not is a plain UDP socket.

mod daemon;
#[path = "../../ouroboros/tests/exchange/mod.rs"]
mod exchange;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_std::task::{self, block_on};
use daemon::Host;
use exchange::exchange;
use futures_lite::future;
use ouroboros::{
    Flow, FlowSpec, ServerSecurity,
    crypto::{KeyExchange, SystemEntropy},
    proto::negotiation::{Client, Terms, answer},
    transport::{Udp, memory::Network},
    wire::{Dialect, DirectoryHash, Eid, QosSpec, management::Message, oap::Allocation},
};
use ouroboros_cli::irmd::{Flows, State};
use socket2::{Domain, SockAddr, Socket, Type};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A loopback address that no other test has.
fn address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Relaxed) as u8)
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        task::sleep(Duration::from_millis(5)).await;
    }
}

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    let late = async {
        task::sleep(PATIENCE).await;
        panic!("never: {what}")
    };
    future::or(event, late).await
}

async fn receive(flow: &Flow) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let size = within("a packet", flow.recv(&mut buffer)).await.expect("received");
    buffer.truncate(size);
    buffer
}

/// A peer that speaks the format by hand, from one port.
struct Peer {
    socket: UdpSocket,
    next: u8,
}

impl Peer {
    /// The peer's endpoint of its flow `number`.
    fn eid(number: u8) -> Eid {
        Eid(7000 + u32::from(number))
    }

    fn of(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address(), 3435)).expect("a socket");
        socket.connect(server).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { socket, next: 1 }
    }

    /// A request for a plain flow.
    fn request(&mut self) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let timestamp = u64::try_from(utc.as_nanos()).expect("before 2554");
        let header = Allocation::plain([number; 16], timestamp).encode().expect("a header");
        let request = Message::FlowRequest {
            source: Self::eid(number),
            qos: QosSpec::RAW,
            name: DirectoryHash::Md5.of(&"my_vpn".parse().expect("a name")),
            allocation: &header,
        };
        [&[0; 4][..], &request.encode(Dialect::Udp)].concat()
    }

    fn send(&self, datagram: &[u8]) {
        self.socket.send(datagram).expect("sent");
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 9000];
        let size = self.socket.recv(&mut buffer).expect("a datagram");
        buffer[..size].to_vec()
    }

    /// The server's endpoint and the response in a reply to flow `number`.
    fn reply(&self, number: u8) -> (Eid, i32) {
        parse_reply(&self.receive(), number)
    }
}

fn parse_reply(datagram: &[u8], number: u8) -> (Eid, i32) {
    match Message::parse(Dialect::Udp, DirectoryHash::Md5, &datagram[4..]) {
        Ok(Message::FlowReply { requester, responder, response, .. }) => {
            assert_eq!(requester, Peer::eid(number));
            (responder, response)
        }
        other => panic!("no reply: {other:?}"),
    }
}

fn with_eid(eid: Eid, payload: &[u8]) -> Vec<u8> {
    [&eid.0.to_be_bytes(), payload].concat()
}

async fn server_and_peer() -> (Host, Peer) {
    let own = address();
    let server = Host::new(Udp::at(own.into())).await;
    server.register_and_bind("my_vpn").await;
    (server, Peer::of((own, 3435).into()))
}

#[test]
fn packets_of_udp_flows_do_not_pass_the_daemons() {
    block_on(async {
        let (one, two) = (address(), address());
        let server = Host::new(Udp::at(one.into())).await;
        let client = Host::new(Udp::at(two.into()).server((one, 3435).into())).await;
        server.register_and_bind("my_vpn").await;
        let mut open = Vec::new();
        for spec in [FlowSpec::raw(), FlowSpec::raw().encrypted()] {
            let encrypted = spec.is_encrypted();
            let (accepted, allocated) = future::zip(
                server.application.accept_any(),
                client.application.allocate("my_vpn", spec),
            )
            .await;
            let (accepted, allocated) = (accepted.expect("accepted"), allocated.expect("one"));
            let hybrid =
                accepted.info().suite.map(|suite| suite.kex == KeyExchange::X25519MlKem768);
            assert_eq!(hybrid, encrypted.then_some(true));
            exchange(&accepted, &allocated).await;
            open.push((accepted, allocated));
        }
        assert_eq!((server.relayed(), client.relayed()), (vec![false; 2], vec![false; 2]));
        open.pop();
        for host in [&server, &client] {
            eventually("the ended flow is let go", || host.relayed().len() == 1).await;
        }
        exchange(&open[0].0, &open[0].1).await;
    });
}

/// The flow that the peer asks for, which is one once the peer has shown that it
/// has the reply; and the reply.
async fn accepted_from(server: &Host, peer: &Peer, request: &[u8], number: u8) -> (Flow, Vec<u8>) {
    let application = server.application.clone();
    let accepting = task::spawn(async move { application.accept_any().await });
    peer.send(request);
    let reply = peer.receive();
    let (responder, response) = parse_reply(&reply, number);
    assert_eq!(response, 0);
    peer.send(&with_eid(responder, &[]));
    (within("a flow", accepting).await.expect("accepted"), reply)
}

#[test]
fn a_repeated_request_that_reaches_the_flow_s_socket_is_answered() {
    block_on(async {
        let (server, mut peer) = server_and_peer().await;
        let request = peer.request();
        let (flow, reply) = accepted_from(&server, &peer, &request, 1).await;
        let (responder, response) = parse_reply(&reply, 1);
        assert_eq!((server.relayed(), response), (vec![false], 0));
        // As if the reply had been lost; the peer's first packet is behind it.
        peer.send(&request);
        peer.send(&with_eid(responder, b"a packet"));
        assert_eq!(receive(&flow).await, b"a packet");
        assert_eq!(peer.receive(), reply);
        flow.send(b"another").await.expect("sent");
        assert_eq!(peer.receive(), with_eid(Peer::eid(1), b"another"));
    });
}

#[test]
fn packets_ahead_of_the_reply_reach_the_application() {
    block_on(async {
        let peer = UdpSocket::bind((address(), 3435)).expect("a socket");
        peer.set_read_timeout(Some(PATIENCE)).expect("set");
        let at = peer.local_addr().expect("bound");
        let client = Host::new(Udp::at(address().into()).server(at)).await;
        let application = client.application.clone();
        let flow =
            task::spawn(async move { application.allocate("my_vpn", FlowSpec::raw()).await });
        let mut request = [0; 2048];
        let (size, from) = peer.recv_from(&mut request).expect("a request");
        let request = Message::parse(Dialect::Udp, DirectoryHash::Md5, &request[4..size]);
        let Ok(Message::FlowRequest { source, qos, name, allocation }) = request else {
            panic!("no request: {request:?}")
        };
        let (terms, security) = (Terms { name, qos }, ServerSecurity::default());
        let answered =
            answer(Client::Unchecked, allocation, 0, &terms, &security, &mut SystemEntropy);
        let (header, _) = answered.expect("agreed");
        let (responder, response) = (Eid(1), 0);
        let reply =
            Message::FlowReply { requester: source, responder, response, allocation: &header };
        for packet in [b"first", b"other"] {
            peer.send_to(&with_eid(source, packet), from).expect("sent");
        }
        peer.send_to(&with_eid(Eid::MANAGEMENT, &reply.encode(Dialect::Udp)), from).expect("sent");
        let flow = flow.await.expect("allocated");
        assert_eq!(client.relayed(), [false]);
        assert_eq!(
            (receive(&flow).await, receive(&flow).await),
            (b"first".into(), b"other".into())
        );
    });
}

#[test]
fn once_the_application_has_ended_the_flow_its_request_is_refused() {
    block_on(async {
        let (server, mut peer) = server_and_peer().await;
        let request = peer.request();
        let (flow, _) = accepted_from(&server, &peer, &request, 1).await;
        flow.closer().close();
        eventually("the flow is let go", || server.relayed().is_empty()).await;
        drop(flow);
        peer.send(&request);
        assert!(peer.reply(1).1 < 0, "a copy of the request of a flow that has ended");
    });
}

#[test]
fn further_flows_from_the_same_port_are_relayed() {
    block_on(async {
        let (server, mut peer) = server_and_peer().await;
        let request = peer.request();
        let (first, reply) = accepted_from(&server, &peer, &request, 1).await;
        let (first, to_first) = (Arc::new(first), parse_reply(&reply, 1).0);
        // Reads all the while, as a tunnel does: what is not its own passes on.
        let reading = first.clone();
        let reading = task::spawn(async move { receive(&reading).await });
        let request = peer.request();
        let (second, reply) = accepted_from(&server, &peer, &request, 2).await;
        let (to_second, response) = parse_reply(&reply, 2);
        assert_eq!((server.relayed(), response), (vec![false, true], 0));
        for count in 0..20 {
            peer.send(&with_eid(to_second, &[count; 100]));
            assert_eq!(receive(&second).await, [count; 100]);
            second.send(&[count; 100]).await.expect("sent");
            assert_eq!(peer.receive(), with_eid(Peer::eid(2), &[count; 100]));
        }
        peer.send(&with_eid(to_first, b"a packet"));
        assert_eq!(reading.await, b"a packet");
        // The first flow's end gives the port back to the daemon.
        drop(first);
        eventually("the first flow is let go", || server.relayed() == [true]).await;
        peer.send(&with_eid(to_second, b"a packet"));
        assert_eq!(receive(&second).await, b"a packet");
    });
}

/// An application that says to the daemon what it likes. It loses the socket
/// that comes with a flow.
fn accept_by_hand(host: &Host) -> Socket {
    let mut socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    let path = host.folder.path().join("irmd.sock");
    socket.connect(&SockAddr::unix(path).expect("an address")).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.write_all(br#"{"accept":{"name":null}}"#).expect("asked");
    socket
}

#[test]
fn what_an_application_makes_up_harms_nobody_else() {
    const STRAY: u8 = 1;
    block_on(async {
        let (server, mut peer) = server_and_peer().await;
        let mut liar = accept_by_hand(&server);
        let request = peer.request();
        peer.send(&request);
        let (to_liar, response) = peer.reply(1);
        assert_eq!(response, 0);
        peer.send(&with_eid(to_liar, &[]));
        let mut grant = [0; 4096];
        let size = liar.read(&mut grant).expect("an offer");
        assert_eq!(&grant[..size], br#""offered""#);
        liar.write_all(br#""take""#).expect("taken");
        let size = liar.read(&mut grant).expect("a grant");
        assert!(grant[..size].starts_with(br#"{"flow""#), "{}", grant[..size].escape_ascii());

        let mut other = Peer { next: 9, ..Peer::of(peer.socket.peer_addr().expect("connected")) };
        let request = other.request();
        let (flow, reply) = accepted_from(&server, &other, &request, 9).await;
        let (to_flow, _) = parse_reply(&reply, 9);

        let from = |peer: &Peer| {
            let SocketAddr::V4(address) = peer.socket.local_addr().expect("bound") else {
                unreachable!("a peer over IPv4")
            };
            [&[STRAY, 4][..], &address.ip().octets(), &address.port().to_be_bytes()].concat()
        };
        let (its_own, the_others) = (from(&peer), from(&other));
        let stray = |frame: &[u8]| [&its_own[..], frame].concat();
        let forged = Message::FlowReply {
            requester: flow.info().local,
            responder: Eid(1),
            response: -1,
            allocation: &[],
        };
        let mut datagrams = vec![
            vec![STRAY],
            vec![0; 9],
            vec![2; 100],
            vec![0xff; 20_000],
            stray(&[0; 3]),
            stray(&[0; 47]),
            stray(&[0xff; 9000]),
            stray(&[0; 9500]),
            stray(&with_eid(Eid(0), &forged.encode(Dialect::Udp))),
            // In the name of another peer's flow: the daemon knows better.
            stray(&with_eid(to_flow, b"made up")),
            [&the_others[..], &with_eid(to_flow, b"made up")].concat(),
        ];
        datagrams.extend((0..5000u32).map(|i| stray(&with_eid(Eid(i), &[0; 60]))));
        for datagram in &datagrams {
            liar.write_all(datagram).expect("the daemon reads on");
        }
        other.send(&with_eid(to_flow, b"a packet"));
        assert_eq!(receive(&flow).await, b"a packet");
        assert_eq!(server.relayed(), [false, false]);
        drop(liar);
        eventually("the liar's flow is let go", || server.relayed() == [false]).await;
        flow.send(b"another").await.expect("sent");
        assert_eq!(other.receive(), with_eid(Peer::eid(9), b"another"));
    });
}

#[test]
fn as_many_flows_are_relayed_as_may_be_and_one_more_is_refused() {
    block_on(async {
        let network = Network::new();
        let limited = || {
            let mut state = State::default();
            state.flows = Flows::limited(2, 0);
            Host::start(state)
        };
        let (server, client) = (Host::start(State::default()), limited());
        for host in [&server, &client] {
            host.state.irm.bootstrap("my_layer", network.station()).await.expect("a layer");
        }
        server.register_and_bind("my_vpn").await;
        let pair = || {
            let (server, client) = (&server.application, &client.application);
            future::zip(server.accept_any(), client.allocate("my_vpn", FlowSpec::raw()))
        };
        let (first, second) = (pair().await, pair().await);
        // Whether the server sees anything of it is its network's affair.
        let accepting = async {
            loop {
                drop(server.application.accept_any().await);
            }
        };
        let allocating = client.application.allocate("my_vpn", FlowSpec::raw());
        let refused = future::or(allocating, accepting).await.expect_err("one more than may be");
        assert!(refused.to_string().contains("relays 2 flows already"), "{refused}");
        exchange(&first.0.expect("accepted"), &first.1.expect("allocated")).await;
        eventually("the first flow is let go", || client.relayed().len() == 1).await;
        // The server may have been asked for the refused one, and have a flow of which
        // nobody has told it the end.
        let application = server.application.clone();
        let (accepted, arrived) = async_std::channel::unbounded();
        let accepting = task::spawn(async move {
            while let Ok(flow) = application.accept_any().await {
                let _ = accepted.send(flow).await;
            }
        });
        let allocated = client.application.allocate("my_vpn", FlowSpec::raw()).await;
        let allocated = allocated.expect("allocated");
        let third = async {
            loop {
                let flow: Flow = arrived.recv().await.expect("a flow");
                if flow.info().remote == allocated.info().local {
                    return flow;
                }
            }
        };
        exchange(&within("accepted", third).await, &allocated).await;
        accepting.cancel().await;
        exchange(&second.0.expect("accepted"), &second.1.expect("allocated")).await;
    });
}

#[test]
fn who_waits_for_a_flow_goes_on_waiting_when_one_is_too_many() {
    block_on(async {
        let (one, two) = (address(), address());
        let mut state = State::default();
        state.flows = Flows::limited(0, 1);
        let server = Host::start(state);
        server.state.irm.bootstrap("my_layer", Udp::at(one.into())).await.expect("a layer");
        server.register_and_bind("my_vpn").await;
        let client = Host::new(Udp::at(two.into()).server((one, 3435).into())).await;
        let allocate = || client.application.allocate("my_vpn", FlowSpec::raw());
        let (first, held) = future::zip(server.application.accept_any(), allocate()).await;
        let waiting = server.application.clone();
        let waiting = task::spawn(async move { waiting.accept_any().await });
        let refused = client.application.allocate("my_vpn", FlowSpec::raw().encrypted()).await;
        // The server's daemon ends it, before the client has it or soon after.
        if let Ok(refused) = refused {
            within("its end", refused.closed()).await;
        }
        drop((first, held));
        eventually("the first flow is let go", || server.relayed().is_empty()).await;
        let allocated = allocate().await.expect("allocated");
        exchange(&waiting.await.expect("accepted"), &allocated).await;
    });
}
