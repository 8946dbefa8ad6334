//! Sizes: what a tunnel says of packets that are too large, and that it follows
//! a path that carries less than it did.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    thread,
};

use ouroboros::{FlowSpec, Offload, Tunnel, transport::EthDix};
use ouroboros_testing::Namespace;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use crate::{
    capture::{Capture, Packet, word},
    hosts::{End, Hosts, address, eventually, udp},
    traffic::{Echo, FIRST, exchange, transfer},
    wire::Wire,
};

/// What the tunnel takes of each packet over UDP: header and endpoint id, the
/// native profile's head and tail.
const OVER_UDP4: usize = 28 + 4 + 6 + 16;
const OVER_UDP6: usize = 20 + OVER_UDP4;
/// On Ethernet: endpoint id and length, and the same.
const OVER_ETHERNET: usize = 4 + 6 + 16;

/// A socket that forbids fragments is told the MTU, by an error and by number,
/// though the device would take more.
pub(crate) fn packets_that_are_too_large_are_answered_with_the_mtu() {
    let hosts = Hosts::on_udp();
    let builders = [Tunnel::builder(), Tunnel::builder().mtu(1500)];
    let ends = hosts.run(hosts.flow(FlowSpec::raw().encrypted()), builders);
    assert_eq!(ends[1].mtu(), 1500);
    let mtu = 1500 - OVER_UDP4;
    assert_eq!(ends[0].mtu(), mtu);
    for to in FIRST {
        let v6 = to.contains(':');
        let any: SocketAddr = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("an address");
        let socket = ends[1].host.inside(|| UdpSocket::bind(any)).expect("bound");
        socket.connect((to, 9)).expect("a route");
        let headers = if v6 { 48 } else { 28 };
        if v6 {
            sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO).expect("set");
        } else {
            sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).expect("set");
        }
        let told = || if v6 { sockopt::ipv6_mtu(&socket) } else { sockopt::ip_mtu(&socket) };
        let largest = vec![0; 1500 - headers];
        socket.send(&largest).expect("the device takes it");
        eventually("the kernel learns the MTU", || told().is_ok_and(|told| told as usize == mtu));
        let errors = || (0..3).map(|_| socket.send(&largest).err()).collect::<Vec<_>>();
        let code = |error: Option<io::Error>| error.and_then(|error| error.raw_os_error());
        let too_large = Some(rustix::io::Errno::MSGSIZE.raw_os_error());
        assert!(errors().into_iter().any(|error| code(error) == too_large));
        // Nothing listens there, which the kernel says to the next who sends.
        let fits = |_| socket.send(&largest[..mtu - headers]).is_ok();
        assert!((0..3).any(fits), "what fits is sent");
    }
    assert!(ends[1].statistics().too_large >= 2);
    for to in FIRST {
        transfer(&ends, to, 1 << 20);
    }
}

/// The maximum segment size that a SYN offers.
fn offered(packet: &[u8]) -> Option<u16> {
    let packet = Packet::parse(packet).ok().filter(|packet| packet.protocol == 6)?;
    let tcp = packet.transport;
    // It is the first option that Linux writes.
    (tcp[13] & 2 != 0 && tcp[20..22] == [2, 4]).then(|| word(tcp, 22))
}

/// Hosts behind the ends know nothing of the tunnel, and need not.
pub(crate) fn connections_of_hosts_behind_the_ends_offer_segments_that_fit() {
    let hosts = Hosts::on_udp();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let mtu = ends[0].mtu();
    let behind = [Namespace::new(), Namespace::new()];
    for (number, (end, behind)) in ends.iter().zip(&behind).enumerate() {
        let (near, far) = (71 + number, 72 - number);
        end.host.cable("lan0", behind, "eth0");
        end.host.shell(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; \
             ip addr add 10.{near}.0.1/24 dev lan0; ip addr add fd{near}::1/64 dev lan0 nodad; \
             ip link set lan0 up; ip route add 10.{far}.0.0/24 dev {tun}; \
             ip -6 route add fd{far}::/64 dev {tun}",
            tun = end.device(),
        ));
        behind.shell(&format!(
            "ip addr add 10.{near}.0.2/24 dev eth0; ip addr add fd{near}::2/64 dev eth0 nodad; \
             ip link set eth0 up; ip route add default via 10.{near}.0.1; \
             ip -6 route add default via fd{near}::1"
        ));
    }
    for (to, headers) in [("10.71.0.2", 40), ("fd71::2", 60)] {
        let captures = behind.each_ref().map(Capture::of);
        exchange(&behind[1], &behind[0], to, 1 << 20);
        for capture in captures {
            let frames = std::iter::from_fn(|| capture.next());
            let sizes: Vec<_> = frames
                .filter(|frame| frame.len() > 14)
                .filter_map(|frame| offered(&frame[14..]))
                .collect();
            let fits = (mtu - headers) as u16;
            // The SYN that came is small enough, the one that left is not yet.
            assert_eq!(
                (sizes.iter().min(), sizes.iter().max()),
                (Some(&fits), Some(&(1500 - headers as u16)))
            );
        }
    }
    assert_eq!(ends.each_ref().map(|end| end.statistics().too_large), [0; 2]);
}

/// Transfers while something happens, once a part has passed.
fn during_a_transfer(ends: &[End<'_>; 2], happens: impl FnOnce()) {
    let start = ends[0].statistics().received_bytes;
    thread::scope(|scope| {
        let transferring = scope.spawn(|| transfer(ends, FIRST[0], 24 << 20));
        eventually("a part has passed", || {
            ends[0].statistics().received_bytes > start + (2 << 20) || transferring.is_finished()
        });
        assert!(!transferring.is_finished(), "too little to transfer");
        happens();
        transferring.join().expect("the transfer completes");
    });
}

fn follow(ends: &[End<'_>; 2], mtu: usize) {
    eventually("the devices follow the path", || ends.iter().all(|end| end.mtu() == mtu));
    for to in FIRST {
        transfer(ends, to, 1 << 20);
    }
}

pub(crate) fn an_interface_whose_mtu_is_lowered_and_raised_is_followed() {
    let layers = [
        (Hosts::on_udp as fn() -> Hosts, OVER_UDP4),
        (Hosts::on_udp6, OVER_UDP6),
        (Hosts::on_ethernet, OVER_ETHERNET),
    ];
    for (hosts, overhead) in layers {
        let hosts = hosts();
        let ends = hosts.tunnel([Offload::ALL; 2]);
        assert_eq!(ends.each_ref().map(End::mtu), [1500 - overhead; 2]);
        let set = |mtu: usize| {
            for end in &ends {
                end.host.shell(&format!("ip link set eth0 mtu {mtu}"));
            }
        };
        during_a_transfer(&ends, || set(1400));
        follow(&ends, 1400 - overhead);
        set(1500);
        eventually("the devices follow the path", || {
            // It is looked at when packets leave.
            transfer(&ends, FIRST[0], 1000);
            ends.iter().all(|end| end.mtu() == 1500 - overhead)
        });
    }
}

/// The hosts are in networks of their own, with a router between them.
fn routed(one: &str, two: &str) -> (Hosts, Namespace) {
    let (hosts, router) = (Hosts::apart(), Namespace::new());
    router.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for (number, host) in [(1, &hosts.one), (2, &hosts.two)] {
        router.cable(&format!("to{number}"), host, "eth0");
        router.shell(&format!(
            "ip addr add 10.7{number}.0.1/24 dev to{number}; \
             ip addr add fd7{number}::1/64 dev to{number} nodad; ip link set to{number} up"
        ));
        host.shell(&format!(
            "ip addr add 10.7{number}.0.2/24 dev eth0; \
             ip addr add fd7{number}::2/64 dev eth0 nodad; ip link set eth0 up; \
             ip route add default via 10.7{number}.0.1; \
             ip -6 route add default via fd7{number}::1"
        ));
    }
    (hosts.serving(udp(one, two)), router)
}

pub(crate) fn a_router_that_says_that_its_link_carries_less_is_believed() {
    for (one, two, overhead) in
        [("10.71.0.2", "10.72.0.2", OVER_UDP4), ("fd71::2", "fd72::2", OVER_UDP6)]
    {
        let (hosts, router) = routed(one, two);
        let ends = hosts.tunnel([Offload::ALL; 2]);
        assert_eq!(ends[1].mtu(), 1500 - overhead);
        during_a_transfer(&ends, || {
            router.shell("ip link set to1 mtu 1400");
            hosts.one.shell("ip link set eth0 mtu 1400");
        });
        follow(&ends, 1400 - overhead);
    }
}

/// Nobody says anything: the tunnel finds out what arrives, and IPv6 inside it
/// outlives the search.
pub(crate) fn a_path_that_drops_what_is_too_large_and_says_nothing_is_measured() {
    const CARRIED: usize = 1400;
    let hosts = Hosts::apart();
    let wire = Wire::between(&hosts.one, &hosts.two);
    wire.rule(|from, frame, leave| {
        if frame.len() <= 14 + CARRIED {
            leave(from.other(), &frame);
        }
    });
    address(&hosts.one, 1);
    address(&hosts.two, 2);
    let hosts = hosts.serving(udp("10.66.0.1", "10.66.0.2"));
    let ends = hosts.tunnel([Offload::ALL; 2]);
    transfer(&ends, FIRST[0], 1 << 20);
    let found = CARRIED - OVER_UDP4;
    eventually("it is found out", || {
        transfer(&ends, FIRST[0], 1000);
        ends.iter().all(|end| (found - 16..=found).contains(&end.mtu()))
    });
    transfer(&ends, FIRST[1], 1 << 20);
}

/// A link that carries less than IPv6 has to be carried in: what is inside does not
/// notice, but for the fragments of packets that are not TCP.
pub(crate) fn the_smallest_links_carry_ipv6_and_packets_of_its_least_mtu() {
    let udp4 = || udp("10.66.0.1", "10.66.0.2");
    small_link(1000, |hosts| hosts.serving(udp4()), OVER_UDP4);
    small_link(576, |hosts| hosts.serving(udp4()), OVER_UDP4);
    small_link(1280, |hosts| hosts.serving(udp("fd66::1", "fd66::2")), OVER_UDP6);
    small_link(
        1000,
        |hosts| hosts.serving((EthDix::on("eth0"), EthDix::on("eth0"))),
        OVER_ETHERNET,
    );
}

fn small_link(mtu: usize, serving: impl Fn(Hosts) -> Hosts, overhead: usize) {
    let hosts = Hosts::with_cable();
    for host in [&hosts.one, &hosts.two] {
        host.shell(&format!("ip link set eth0 mtu {mtu}"));
    }
    let hosts = serving(hosts);
    let ends = hosts.tunnel([Offload::ALL; 2]);
    assert_eq!(ends.each_ref().map(End::mtu), [1280; 2]);
    for to in FIRST {
        let headers = if to.contains(':') { 48 } else { 28 };
        let echo = Echo::at(&hosts.one, to);
        let asks = echo.client(&hosts.two);
        let mut buffer = [0; 2048];
        for size in [8, mtu - overhead - headers, mtu - overhead - headers + 1, 1280 - headers] {
            let datagram: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            asks.send(&datagram).expect("sent");
            let answered = asks.recv(&mut buffer).expect("an answer");
            assert!(buffer[..answered] == datagram, "{size} bytes to {to} over {mtu}");
        }
        echo.stop(&hosts.one);
        transfer(&ends, to, 1 << 20);
    }
    // Packets of TCP fit, so that hardly anything is in fragments.
    let statistics = ends[1].statistics();
    assert_eq!((statistics.too_large, statistics.flow.oversize), (0, 0));
}

/// A path that comes to carry less while packets pass keeps what is inside.
pub(crate) fn a_link_that_becomes_too_small_for_ipv6_keeps_it() {
    let hosts = Hosts::on_udp();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let set = |mtu: usize| {
        for end in &ends {
            end.host.shell(&format!("ip link set eth0 mtu {mtu}"));
        }
    };
    during_a_transfer(&ends, || set(900));
    follow(&ends, 1280);
}
