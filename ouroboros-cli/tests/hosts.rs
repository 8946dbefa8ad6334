//! Pings between two hosts: what an eavesdropper on the cable can read, IP of
//! both versions inside the tunnel, and what is left when a daemon or an
//! application is killed.

#[allow(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use common::{Host, Running, cable, eventually};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

const MARK: &[u8] = b"an echo request that nobody on the wire should read";

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs `work` on a thread inside a host's network namespace.
fn inside<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{}", host.name)).expect("a namespace");
    let network = Some(LinkNameSpaceType::Network);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), network).expect("root may enter it");
            work()
        });
        thread.join().expect("no panic inside")
    })
}

fn checksum(packet: &[u8]) -> u16 {
    let word = |word: &[u8]| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends an echo request and waits for its reply.
fn ping(from: &Host, to: IpAddr) {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut message = vec![request, 0, 0, 0, 0x6f, 0x37, 0, 1];
    message.extend_from_slice(MARK);
    if to.is_ipv4() {
        // The kernel sums ICMPv6 itself.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    inside(from, || {
        let mut socket = &Socket::new(domain, Type::RAW, Some(protocol)).expect("root");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.connect(&SocketAddr::from((to, 0)).into()).expect("a route");
        socket.send(&message).expect("sent");
        let mut packet = [0; 2048];
        loop {
            let size = socket.read(&mut packet).expect("an echo reply");
            // An ICMPv4 socket gives the IP header too, an ICMPv6 one does not.
            let answer = if to.is_ipv4() { &packet[20..size] } else { &packet[..size] };
            if answer.first() == Some(&reply) && answer.ends_with(MARK) {
                return;
            }
        }
    });
}

/// A socket that keeps every frame that a host sends or receives from now on.
fn watch(host: &Host) -> Socket {
    const EVERY_ETHERTYPE: u16 = 3;
    inside(host, || {
        let protocol = Protocol::from(i32::from(EVERY_ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root");
        socket.set_nonblocking(true).expect("set");
        socket
    })
}

/// Whether the mark could be read so far on the host's TUN, and on its cable.
fn readable(mut socket: &Socket) -> (bool, bool) {
    let (mut tun, mut cable) = (false, false);
    let mut frame = [0; 16_384];
    while let Ok(size) = socket.read(&mut frame) {
        if frame[..size].windows(MARK.len()).any(|window| window == MARK) {
            // A TUN's frames begin with the IPv4 header. No Ethernet frame here
            // does: its receiver's address would be a multicast one.
            let seen = if frame[0] == 0x45 { &mut tun } else { &mut cable };
            *seen = true;
        }
    }
    (tun, cable)
}

const ETH: &str = "type eth-dix name dix layer my_layer dev eth0";

fn set_up(server: &Host, client: &Host, [first, second]: [&str; 2]) -> [Running; 2] {
    let daemons = [server.irmd(), client.irmd()];
    client.must("irm", &format!("ipcp bootstrap {second}"));
    serve(server, first);
    daemons
}

fn serve(server: &Host, ipcp: &str) {
    server.must("irm", &format!("ipcp bootstrap {ipcp}"));
    server.must("irm", "reg name my_vpn layer my_layer");
    server.must("irm", "bind program ovpn name my_vpn");
}

fn tunnel(server: &Host, client: &Host, crypt: &str) -> (Running, Running) {
    let far = server.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let near = client.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {crypt}"), "is up");
    assert_eq!(near.said.contains("NOT encrypted"), crypt.is_empty());
    eventually("the server's device", || server.has_device("tun0"));
    (far, near)
}

const INSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1));

#[test]
fn an_eavesdropper_reads_pings_of_a_plain_tunnel_only() {
    let udp = |ip: &str| format!("type udp name udp layer my_layer ip {ip}");
    for (first, second, resolved) in [
        (ETH.to_owned(), ETH.to_owned(), "127.0.0.1"),
        (udp("10.66.0.1"), udp("10.66.0.2"), "10.66.0.1"),
        (udp("fd66::1"), udp("fd66::2"), "fd66::1"),
    ] {
        let (server, client) = cable();
        client.hosts(&format!("{resolved} 2694581a473adbf3d988f56c79953cae\n"));
        let _daemons = set_up(&server, &client, [&first, &second]);
        for crypt in ["", "--crypt"] {
            let _ends = tunnel(&server, &client, crypt);
            let watched = watch(&server);
            ping(&client, INSIDE);
            let (tun, cable) = readable(&watched);
            assert!(tun, "the echo request arrives on the server's TUN");
            assert_eq!(cable, crypt.is_empty(), "{first} {crypt}: readable on the cable");
        }
    }
}

#[test]
fn ipv6_passes_inside_the_tunnel() {
    let (server, client) = cable();
    let _daemons = set_up(&server, &client, [ETH, ETH]);
    let _ends = tunnel(&server, &client, "--crypt");
    for (host, address) in [(&server, "fd09::1"), (&client, "fd09::2")] {
        host.ip(&format!("addr add {address}/64 dev tun0 nodad"));
        // The kernel takes the address into use behind the command's back.
        eventually("the address is in use", || {
            host.ip("-6 route show table local").contains(&format!("local {address} dev tun0"))
        });
    }
    ping(&client, "fd09::1".parse().expect("an address"));
}

#[test]
fn the_tunnel_of_a_killed_daemon_goes_on_and_a_new_one_takes_its_place() {
    let (server, client) = cable();
    let [daemon, _other] = set_up(&server, &client, [ETH, ETH]);
    let (_far, near) = tunnel(&server, &client, "--crypt");
    ping(&client, INSIDE);
    assert_eq!(daemon.end("KILL"), None);
    ping(&client, INSIDE);

    // The socket and the lock that the dead one left do not stand in the way.
    let _daemon = server.irmd();
    serve(&server, ETH);
    drop(near);
    let _near = client.start("ovpn", "-n my_vpn -i 10.9.0.2/24 --crypt", "is up");
    eventually("one tunnel at the server", || server.ip("-o link").matches("tun").count() == 1);
    ping(&client, INSIDE);
}

#[test]
fn killed_applications_leave_nothing_and_the_next_ones_connect() {
    let (server, client) = cable();
    let _daemons = set_up(&server, &client, [ETH, ETH]);
    for _ in 0..3 {
        let (far, near) = tunnel(&server, &client, "--crypt");
        ping(&client, INSIDE);
        assert_eq!(near.end("KILL"), None);
        assert_eq!(far.end("KILL"), None);
        assert!(!client.has_device("tun0") && !server.has_device("tun0"));
    }
}
