//! A client in a home network, behind a router that translates addresses: its full tunnel,
//! and what its router sees while the tunnel is away.

use std::net::UdpSocket;

use rustix::process::Signal;
use socket2::Socket;

use crate::{
    host::{Host, Running, eventually},
    probe::{MARK, readable, watch},
    site::reaches,
};

const SERVE: &str = "--serve office --dev office0 --ip 10.9.0.1/24 --masquerade";
/// A host of the internet, which knows of no private network.
const OUTSIDE: &str = "192.0.2.9";

/// The client is 192.168.1.2 behind a router, the server 203.0.113.2; both reach the
/// internet.
struct World {
    server: Host,
    client: Host,
    router: Host,
    _internet: Host,
    _daemons: [Running; 2],
}

impl World {
    fn new() -> Self {
        let (server, client) = (Host::new(), Host::new());
        let (router, internet) = (Host::new(), Host::new());
        client.namespace.cable("eth0", &router.namespace, "lan0");
        router.namespace.cable("wan0", &internet.namespace, "home0");
        server.namespace.cable("eth0", &internet.namespace, "site0");
        for (host, device, address) in [
            (&client, "eth0", "192.168.1.2/24"),
            (&router, "lan0", "192.168.1.1/24"),
            (&router, "wan0", "198.51.100.2/24"),
            (&internet, "home0", "198.51.100.1/24"),
            (&internet, "site0", "203.0.113.1/24"),
            (&server, "eth0", "203.0.113.2/24"),
        ] {
            host.ip(&format!("addr add {address} dev {device}"));
            host.ip(&format!("link set {device} up"));
        }
        internet.ip(&format!("addr add {OUTSIDE}/32 dev lo"));
        client.ip("route add default via 192.168.1.1");
        router.ip("route add default via 198.51.100.1");
        server.ip("route add default via 203.0.113.1");
        for host in [&router, &internet, &server] {
            host.namespace.shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
        }
        let translate = "add table ip nat\n\
                         add chain ip nat post { type nat hook postrouting priority srcnat; }\n\
                         add rule ip nat post oifname \\\"wan0\\\" masquerade\n";
        router.namespace.shell(&format!("printf \"{translate}\" | nft -f -"));
        let _daemons = [server.irmd(), client.irmd()];
        let world = Self { server, client, router, _internet: internet, _daemons };
        eventually("the client reaches the internet by itself", || world.reaches());
        world
    }

    fn reaches(&self) -> bool {
        reaches(&self.client, OUTSIDE)
    }

    fn serve(&self) -> Running {
        self.server.start("ovpn", SERVE, "Waiting")
    }

    /// Has the client send what anybody could read, or try to.
    fn send(&self) {
        self.client.namespace.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let _ = socket.send_to(MARK, (OUTSIDE, 9));
        });
    }

    /// Returns `true` if what the client has sent could be read at its router.
    fn leaks(&self, router: &Socket) -> bool {
        readable(router).1
    }
}

pub(crate) fn a_full_tunnel_from_behind_a_nat_lets_nothing_out_while_it_is_down() {
    let world = World::new();
    let server = world.serve();
    let line = world.server.must("ovpn", "invite laptop");
    let router = watch(&world.router);
    world.send();
    eventually("it leaves in clear without a tunnel", || world.leaks(&router));
    let words = format!("join {} --full-tunnel --kill-switch", line.trim());
    let client = world.client.start("ovpn", &words, "is up");
    let router = watch(&world.router);
    eventually("the internet is reached", || world.reaches());
    world.send();
    let listed = world.server.must("ovpn", "clients list");
    assert!(listed.contains("connected from 198.51.100.2"), "{listed}");

    assert_eq!(server.end(Signal::KILL), None);
    eventually("the client has noticed", || {
        world.send();
        client.lines_with("has ended") > 0
    });
    world.send();
    assert!(!world.reaches());
    let _server = world.serve();
    eventually("the internet is reached again", || world.reaches());
    // Killed, it lets nothing out either.
    assert_eq!(client.end(Signal::KILL), None);
    world.send();
    assert!(!world.reaches());
    let options = world.client.configured("office");
    let client = world.client.start("ovpn", &options, "is up");
    eventually("the internet is reached again", || world.reaches());
    assert!(!world.leaks(&router), "nothing that the client sent could be read at its router");
    // Nobody asks for that any more.
    assert_eq!(client.end(Signal::TERM), Some(0));
    assert!(world.reaches());
}
