//! The transports over real sockets, each test in a network namespace of its
//! own.

mod eth_dix;

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use ouroboros::{
    transport::{
        Destination, IntoTransport, Management, OpenError, Path, ReceiveBatch, SendBatch, Stray,
        Transport, Udp,
    },
    wire::{Eid, PeerAddress},
};
use ouroboros_testing::{Namespace, Needs, isolated};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use eth_dix::*;

fn main() -> ExitCode {
    let tests = ouroboros_testing::tests![
        Needs::Namespaces:
            udp_over_ipv4,
            udp_over_ipv6,
            udp_at_the_unspecified_ipv6_address_serves_both_families,
            udp_at_the_unspecified_ipv6_address_leaves_ipv4_to_who_serves_it,
            udp_serves_link_local_addresses_in_their_zones,
            a_udp_client_whose_address_is_gone_asks_from_another_or_says_at_once_that_it_is,
            a_udp_client_asks_where_only_its_address_has_a_route,
            udp_flows_from_one_port_do_not_mix,
            udp_drops_what_is_too_large_for_management,
            udp_flow_survives_an_unreachable_port_and_a_new_listener,
            a_udp_path_that_was_handed_over_carries_on,
            eth_dix_on_loopback,
            an_eth_dix_path_that_was_handed_over_carries_on_and_nobody_can_widen_its_filter,
            eth_dix_says_what_is_missing,
    ];
    #[cfg(feature = "pcap")]
    let tests = tests.with(
        Needs::Namespaces,
        "eth_dix_by_libpcap_talks_to_packet_sockets",
        eth_dix_by_libpcap_talks_to_packet_sockets,
    );
    tests.run()
}

fn wait(fd: std::os::fd::BorrowedFd<'_>) {
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None);
    assert!(ready.is_ok());
}

fn message(management: &dyn Management) -> (Vec<u8>, PeerAddress) {
    let mut buffer = [0; 4096];
    wait(management.readiness());
    let (length, from) = management.receive(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

fn send(path: &dyn Path, frames: &[Vec<u8>]) -> usize {
    let mut batch = SendBatch::new(path.headroom(), 1 << 20);
    for frame in frames {
        batch.push(frame.len()).unwrap().copy_from_slice(frame);
    }
    path.send(&mut batch).unwrap();
    assert_eq!(batch.sent(), frames.len());
    batch.oversize()
}

/// `count` frames of `path`; strays go to `transport`.
fn receive(transport: &dyn Transport, path: &dyn Path, count: usize) -> Vec<Vec<u8>> {
    let mut batch = ReceiveBatch::new(1 << 16);
    let mut frames = Vec::new();
    while frames.len() < count {
        wait(path.readiness());
        batch.clear();
        match path.receive(&mut batch) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            Ok(()) => frames.extend((0..batch.len()).map(|i| batch.frame_mut(i).to_vec())),
        }
        for stray in batch.strays() {
            assert_eq!(transport.dispatch(stray), None);
        }
    }
    frames
}

/// Runs of equal sizes, single frames, keepalives.
fn mixed() -> Vec<Vec<u8>> {
    let sizes = [1400, 1400, 1400, 700, 1400, 1, 0, 0, 900, 900, 1300, 1300, 5];
    let long = std::iter::repeat_n(1200, 150);
    let all = sizes.into_iter().chain(long);
    all.enumerate().map(|(i, size)| vec![i as u8; size]).collect()
}

fn udp_pair(ip: &str) -> (Arc<dyn Transport>, Arc<dyn Transport>, SocketAddr) {
    let ip: IpAddr = ip.parse().unwrap();
    let server = Udp::at(ip).open().unwrap();
    let client = Udp::connect_only(ip).open().unwrap();
    (server, client, SocketAddr::new(ip, 3435))
}

/// Two flows that a peer has from one port: each has its own packets, and one of them answers.
fn flows_from_one_port(
    server: &dyn Transport,
    listens: SocketAddr,
) -> (UdpSocket, PeerAddress, [Arc<dyn Path>; 2]) {
    let peer = UdpSocket::bind((listens.ip(), 0)).unwrap();
    peer.connect(listens).unwrap();
    let from = PeerAddress::Udp(peer.local_addr().unwrap());
    let first = server.open_responder(Eid(1), Eid(101), from).unwrap();
    let second = server.open_responder(Eid(2), Eid(102), from).unwrap();
    peer.send(b"\0\0\0\x02second").unwrap();
    peer.send(b"\0\0\0\x03nobody").unwrap();
    peer.send(b"\0\0\0\x01first").unwrap();
    assert_eq!(receive(server, &*first, 1), [b"first"]);
    assert_eq!(receive(server, &*second, 1), [b"second"]);

    send(&*second, &[b"answer".to_vec()]);
    let mut buffer = [0; 100];
    let length = peer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\0\0\0\x66answer");
    (peer, from, [first, second])
}

fn udp_both_ways(ip: &'static str) {
    isolated(move || {
        let (server, client, listens) = udp_pair(ip);
        assert!(client.management().is_none());
        let management = server.management().unwrap();
        let asks = client.open_requester(Eid(7), Some(PeerAddress::Udp(listens))).unwrap();
        asks.send_management(b"request").unwrap().unwrap();
        let (request, from) = message(&*management);
        assert_eq!(request, b"request");

        let answers = server.open_responder(Eid(9), Eid(7), from).unwrap();
        // Before the requester knows the peer's endpoint.
        send(&*answers, &[b"early".to_vec()]);
        asks.connect(Eid(9), PeerAddress::Udp(listens)).unwrap();
        assert_eq!(receive(&*client, &*asks, 1), [b"early"]);
        send(&*asks, &mixed());
        assert_eq!(receive(&*server, &*answers, mixed().len()), mixed());
        send(&*answers, &mixed());
        assert_eq!(receive(&*client, &*asks, mixed().len()), mixed());

        assert_eq!(asks.largest_frame(), 8976);
        let oversize = [vec![1; 100], vec![2; 8977], vec![3; 100]];
        assert_eq!(send(&*asks, &oversize), 1);
        assert_eq!(receive(&*server, &*answers, 2), [vec![1; 100], vec![3; 100]]);

        // Management goes on beside the flow, and reaches the flow's socket.
        management.send(Destination::Peer(from), b"reply").unwrap();
        wait(asks.readiness());
        let mut batch = ReceiveBatch::new(1 << 16);
        asks.receive(&mut batch).unwrap();
        let strays: Vec<_> = batch.strays().collect();
        assert_eq!(strays[0].frame, b"\0\0\0\0reply");
        let handed = client.dispatch(strays[0].clone()).unwrap();
        assert_eq!(handed, (PeerAddress::Udp(listens), b"reply".to_vec()));
    });
}

fn udp_over_ipv4() {
    udp_both_ways("127.0.0.1");
}

fn udp_over_ipv6() {
    udp_both_ways("::1");
}

/// A flow between two transports, whose second one finds the first, in the namespace
/// `host`, at `listens`.
fn carry(
    host: &Namespace,
    server: &dyn Transport,
    client: &dyn Transport,
    listens: SocketAddr,
) -> PeerAddress {
    let listens = PeerAddress::Udp(listens);
    let management = server.management().unwrap();
    let asks = client.open_requester(Eid(7), Some(listens)).unwrap();
    asks.send_management(b"request").unwrap().unwrap();
    let (request, from) = message(&*management);
    assert_eq!(request, b"request");
    let answers = host.inside(|| server.open_responder(Eid(9), Eid(7), from)).unwrap();
    asks.connect(Eid(9), listens).unwrap();
    send(&*asks, &mixed());
    assert_eq!(receive(server, &*answers, mixed().len()), mixed());
    send(&*answers, &mixed());
    assert_eq!(receive(client, &*asks, mixed().len()), mixed());
    management.send(Destination::Peer(from), b"reply").unwrap();
    wait(asks.readiness());
    let mut batch = ReceiveBatch::new(1 << 16);
    asks.receive(&mut batch).unwrap();
    let stray = batch.strays().next().unwrap();
    assert_eq!(client.dispatch(stray), Some((listens, b"reply".to_vec())));
    from
}

fn udp_at_the_unspecified_ipv6_address_serves_both_families() {
    let host = Namespace::new();
    host.inside(|| {
        let any: IpAddr = "::".parse().unwrap();
        let server = Udp::at(any).open().unwrap();
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let client = Udp::connect_only(ip).open().unwrap();
            let PeerAddress::Udp(from) =
                carry(&host, &*server, &*client, SocketAddr::new(ip, 3435))
            else {
                panic!("not UDP");
            };
            assert_eq!(from.ip(), ip, "in the form that it has for everybody");
            let client = Udp::connect_only(any).open().unwrap();
            carry(&host, &*server, &*client, SocketAddr::new(ip, 3435));
            // Two flows from one port share the listening socket.
            flows_from_one_port(&*server, SocketAddr::new(ip, 3435));
        }
        for taken in ["::", "0.0.0.0", "127.0.0.1", "::1"] {
            let again = Udp::at(taken.parse().unwrap()).open().err();
            assert!(matches!(again, Some(OpenError::AddressInUse(_))), "{taken}: {again:?}");
        }
    });
}

fn udp_at_the_unspecified_ipv6_address_leaves_ipv4_to_who_serves_it() {
    let host = Namespace::new();
    host.inside(|| {
        let v4: IpAddr = "127.0.0.1".parse().unwrap();
        let other = Udp::at(v4).open().unwrap();
        let server = Udp::at("::".parse().unwrap()).open().unwrap();
        let client = Udp::connect_only("::".parse().unwrap()).open().unwrap();
        carry(&host, &*server, &*client, SocketAddr::new("::1".parse().unwrap(), 3435));
        carry(&host, &*other, &*client, SocketAddr::new(v4, 3435));
    });
}

fn udp_serves_link_local_addresses_in_their_zones() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.cable("eth0", &two, "eth7");
    // The same address at both ends of another cable: only the zone tells them apart.
    one.cable("eth1", &two, "eth8");
    for (host, devices) in [(&one, ["eth0", "eth1"]), (&two, ["eth7", "eth8"])] {
        let number = if devices[0] == "eth0" { 1 } else { 2 };
        for device in devices {
            host.shell(&format!("ip link set {device} addrgenmode none up"));
            host.shell(&format!("ip address add fe80::{number}/64 dev {device} nodad"));
        }
    }
    let here: IpAddr = "fe80::1".parse().unwrap();
    one.inside(|| {
        let without = Udp::at(here).open().err();
        assert!(matches!(without, Some(OpenError::ZoneRequired(_))), "{without:?}");
        let nowhere = Udp::at(here).zone("eth5").open().err();
        assert!(matches!(nowhere, Some(OpenError::NoSuchInterface(_))), "{nowhere:?}");
    });
    let open = |zone: &str| one.inside(|| Udp::at(here).zone(zone).open().unwrap());
    let servers = [open("eth0"), open("eth1")];
    let index = |device: &str| {
        let text = two.shell(&format!(
            "timeout 10 sh -c 'until ip link show {device} | grep LOWER_UP; do sleep 0.02; done'"
        ));
        text.split(':').next().unwrap().trim().parse::<u32>().unwrap()
    };
    for (server, device) in servers.iter().zip(["eth7", "eth8"]) {
        let own: IpAddr = "fe80::2".parse().unwrap();
        let zones = [device.to_owned(), index(device).to_string()];
        for zone in zones {
            let listens = SocketAddrV6::new("fe80::1".parse().unwrap(), 3435, 0, index(device));
            let client = two.inside(|| Udp::connect_only(own).zone(zone).open().unwrap());
            two.inside(|| carry(&one, &**server, &*client, listens.into()));
        }
        let listens = SocketAddrV6::new("fe80::1".parse().unwrap(), 3435, 0, index(device));
        let anywhere = two.inside(|| Udp::connect_only("::".parse().unwrap()).open().unwrap());
        two.inside(|| carry(&one, &**server, &*anywhere, listens.into()));
    }
    // One server for both links knows two peers of the same address apart.
    let both = one.inside(|| Udp::at("::".parse().unwrap()).port(4000).open().unwrap());
    let from: Vec<_> = ["eth7", "eth8"]
        .map(|device| {
            let listens = SocketAddrV6::new("fe80::1".parse().unwrap(), 4000, 0, index(device));
            let client = two.inside(|| Udp::connect_only("::".parse().unwrap()).open().unwrap());
            two.inside(|| carry(&one, &*both, &*client, listens.into())).host()
        })
        .to_vec();
    assert_ne!(from[0], from[1]);
}

/// Two hosts at the ends of a cable, 10.66.0.1 and 10.66.0.2.
fn linked() -> (Namespace, Namespace) {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.connect(&two);
    one.shell("ip link set eth0 up && ip address add 10.66.0.1/24 dev eth0");
    two.shell("ip link set eth0 up && ip address add 10.66.0.2/24 dev eth0");
    two.shell("timeout 10 sh -c 'until ip link show eth0 | grep LOWER_UP; do sleep 0.02; done'");
    (one, two)
}

fn a_udp_client_whose_address_is_gone_asks_from_another_or_says_at_once_that_it_is() {
    let (one, two) = linked();
    let listens: SocketAddr = "10.66.0.1:3435".parse().unwrap();
    let server = one.inside(|| Udp::at(listens.ip()).open().unwrap());
    let client = two.inside(|| Udp::at("10.66.0.2".parse().unwrap()).open().unwrap());
    two.shell("ip address flush dev eth0");
    let asked = two.inside(|| client.open_requester(Eid(7), Some(PeerAddress::Udp(listens))));
    let error = asked.err().expect("there is no way").to_string();
    assert!(error.contains("10.66.0.2 is no address of this machine any more"), "{error}");
    two.shell("ip address add 10.66.0.3/24 dev eth0");
    let from = two.inside(|| carry(&one, &*server, &*client, listens));
    assert_eq!(from.host(), PeerAddress::Udp("10.66.0.3:0".parse().unwrap()));
}

fn a_udp_client_asks_where_only_its_address_has_a_route() {
    let (one, two) = linked();
    one.shell("ip address add 10.70.0.1/32 dev lo");
    two.shell("ip rule add from 10.66.0.2 table 22 && ip route add default via 10.66.0.1 table 22");
    let listens: SocketAddr = "10.70.0.1:3435".parse().unwrap();
    let server = one.inside(|| Udp::at(listens.ip()).open().unwrap());
    let client = two.inside(|| Udp::at("10.66.0.2".parse().unwrap()).open().unwrap());
    two.inside(|| carry(&one, &*server, &*client, listens));
}

fn udp_flows_from_one_port_do_not_mix() {
    isolated(|| {
        let (server, _, listens) = udp_pair("127.0.0.1");
        let management = server.management().unwrap();
        let (peer, from, [first, second]) = flows_from_one_port(&*server, listens);

        // The first flow ends: its peer's frames come to the listening socket.
        drop(first);
        // Sent again until heard: a process that another test is just starting has
        // the socket, too, until it runs its program.
        let mut ready = 0;
        while ready == 0 {
            peer.send(b"\0\0\0\x02again").unwrap();
            peer.send(b"\0\0\0\0request").unwrap();
            let mut listener = [PollFd::from_borrowed_fd(management.readiness(), PollFlags::IN)];
            let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            ready = poll(&mut listener, Some(&moment)).unwrap();
        }
        assert_eq!(message(&*management), (b"request".to_vec(), from));
        assert_eq!(receive(&*server, &*second, 1)[0], b"again");
    });
}

fn udp_drops_what_is_too_large_for_management() {
    isolated(|| {
        let (server, _, listens) = udp_pair("127.0.0.1");
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for datagram in [&[0; 2049][..], &[0; 65_507], &[0; 3], b"", b"\0\0\0\0next"] {
            peer.send_to(datagram, listens).unwrap();
        }
        assert_eq!(message(&*server.management().unwrap()).0, b"next");
        assert_eq!(server.oversized(), 2);
        let frame = vec![0; 2049];
        let from = PeerAddress::Udp(listens);
        assert_eq!(server.dispatch(Stray { from, frame }), None);
        assert_eq!(server.oversized(), 3, "and what reached a flow's socket");
    });
}

/// Listens where a listener was closed: a process that another test is just starting may
/// have a copy of its socket for a moment.
fn listen_again(ip: IpAddr) -> Arc<dyn Transport> {
    let begin = Instant::now();
    loop {
        match Udp::at(ip).open() {
            Err(OpenError::AddressInUse(_)) if begin.elapsed() < Duration::from_secs(60) => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

fn udp_flow_survives_an_unreachable_port_and_a_new_listener() {
    isolated(|| {
        let (server, client, listens) = udp_pair("127.0.0.1");
        assert!(matches!(
            Udp::at(listens.ip()).open().err(),
            Some(OpenError::AddressInUse(address)) if address == listens
        ));
        let asks = client.open_requester(Eid(7), Some(PeerAddress::Udp(listens))).unwrap();
        asks.send_management(b"request").unwrap().unwrap();
        let (_, from) = message(&*server.management().unwrap());
        asks.connect(Eid(9), PeerAddress::Udp(listens)).unwrap();
        drop(server);
        for _ in 0..5 {
            send(&*asks, &[vec![0; 10], vec![0; 10]]);
        }
        let server = listen_again(listens.ip());
        let answers = server.open_responder(Eid(9), Eid(7), from).unwrap();
        drop(server);
        // Only the flow holds the port now: that is no listener.
        let _server = listen_again(listens.ip());
        let client_frames = [b"one".to_vec()];
        send(&*asks, &client_frames);
        assert_eq!(receive(&*client, &*answers, 1), client_frames);
    });
}

/// The other end of a path that was handed over: what another process has.
fn handed(path: &dyn Path, ends: (Eid, Eid), peer: PeerAddress) -> Arc<dyn Path> {
    let hand_over = path.hand_over().unwrap().unwrap();
    let path = hand_over.open(ends, peer).unwrap();
    // Whoever has it may pass it on.
    path.hand_over().unwrap().unwrap().open(ends, peer).unwrap()
}

fn a_udp_path_that_was_handed_over_carries_on() {
    isolated(|| {
        let (server, client, listens) = udp_pair("127.0.0.1");
        let listens = PeerAddress::Udp(listens);
        let asks = client.open_requester(Eid(7), Some(listens)).unwrap();
        assert!(asks.hand_over().is_none(), "the peer's endpoint is not known yet");
        asks.send_management(b"request").unwrap().unwrap();
        let (_, from) = message(&*server.management().unwrap());
        let answers = server.open_responder(Eid(9), Eid(7), from).unwrap();
        asks.connect(Eid(9), listens).unwrap();
        // Queued when the socket moves.
        send(&*asks, &[b"first".to_vec()]);
        let (asked, answered) =
            (handed(&*asks, (Eid(7), Eid(9)), listens), handed(&*answers, (Eid(9), Eid(7)), from));
        drop((asks, client));
        send(&*asked, &mixed());
        assert_eq!(receive(&*server, &*answered, 1 + mixed().len())[1..], mixed());
        send(&*answered, &mixed());
        assert_eq!(receive(&*server, &*asked, mixed().len()), mixed());
        assert_eq!(asked.largest_frame(), 8976);

        let shared = server.open_responder(Eid(10), Eid(8), from).unwrap();
        assert!(shared.hand_over().is_none(), "a path on the listening socket");
    });
}
