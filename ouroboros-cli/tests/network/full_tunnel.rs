//! A full tunnel from behind a NAT, and a server that masquerades: what leaves when, and
//! by which way.

use ouroboros_testing::Namespace;
use rustix::process::Signal;

use crate::{
    host::{Host, Pair, Running, UDP4, eventually},
    probe::{INSIDE, ping},
};

const SERVER: &str = "--ip 10.9.0.1/24 --masquerade";
const CLIENT: &str = "-n my_vpn -i 10.9.0.2/24 --crypt --full-tunnel";
/// A host of the internet, which knows neither the client's network nor the tunnel's.
const OUTSIDE: &str = "192.0.2.9";

/// The server at 10.66.0.1 has a way to the internet; so has the client, another one.
struct World {
    pair: Pair,
    _internet: Namespace,
}

fn world() -> World {
    let (pair, internet) = (Pair::new(UDP4), Namespace::new());
    for (host, number) in [(&pair.one, 1), (&pair.two, 2)] {
        let (link, there) = ("wan0", format!("host{number}"));
        host.namespace.cable(link, &internet, &there);
        host.ip(&format!("addr add 198.51.{number}.2/24 dev {link}"));
        host.ip(&format!("link set {link} up"));
        host.ip(&format!("route add default via 198.51.{number}.1"));
        internet.shell(&format!("ip addr add 198.51.{number}.1/24 dev {there}"));
        internet.shell(&format!("ip link set {there} up"));
        host.namespace.shell("echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter");
    }
    internet.shell(&format!("ip addr add {OUTSIDE}/32 dev lo"));
    pair.one.namespace.shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
    let world = World { pair, _internet: internet };
    eventually("the client reaches the internet by itself", || world.reaches());
    world
}

impl World {
    fn client(&self) -> &Host {
        &self.pair.two
    }

    /// Returns `true` if the client's ping to the internet comes back.
    fn reaches(&self) -> bool {
        self.client().run("ping", &format!("-c1 -W1 {OUTSIDE}")).status.success()
    }

    /// The device by which the client's packets to the internet leave.
    fn way(&self) -> String {
        let told = self.client().run("ip", &format!("route get {OUTSIDE}"));
        String::from_utf8_lossy(&told.stdout).into_owned()
    }

    fn server(&self) -> Running {
        self.pair.one.start("ovpn", SERVER, "Waiting")
    }

    /// Waits until the internet is reached through the tunnel.
    fn must_reach_through(&self, device: &str) {
        eventually("the internet is reached", || self.reaches());
        assert!(self.way().contains(&format!("dev {device}")), "{}", self.way());
    }
}

pub(crate) fn a_full_tunnel_takes_everything_but_its_own_packets_and_is_undone() {
    let world = world();
    let server = world.server();
    let before = [world.client().ip("rule"), world.client().ip("-6 rule")];
    let client = world.client().start("ovpn", CLIENT, "is up");
    ping(world.client(), INSIDE);
    world.must_reach_through("tun0");
    // What has no address in the tunnel goes nowhere.
    let v6 = world.client().run("ip", "-6 route get 2001:db8::9");
    assert!(!String::from_utf8_lossy(&v6.stdout).contains("dev wan0"), "{v6:?}");
    // Another one is refused.
    let words = "-n my_vpn -i 10.9.0.3/24 --crypt --full-tunnel";
    let other = world.client().run("ovpn", words);
    let complaint = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(complaint.contains("tun0 is the device of another full tunnel"), "{complaint}");
    // The server may go and come back: its flow is asked for outside of the tunnel.
    assert_eq!(server.end(Signal::KILL), None);
    assert!(!world.reaches(), "not by another way");
    let server = world.server();
    world.must_reach_through("tun0");
    assert_eq!(client.end(Signal::TERM), Some(0));
    assert_eq!([world.client().ip("rule"), world.client().ip("-6 rule")], before);
    assert!(world.way().contains("dev wan0"), "{}", world.way());
    let masquerades = || world.pair.one.namespace.shell("nft list tables").contains("ovpn-tun0");
    assert!(masquerades());
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(!masquerades());
}

pub(crate) fn a_kill_switch_lets_nothing_out_before_and_after_the_tunnel() {
    let world = world();
    let words = format!("{CLIENT} --kill-switch");
    // There is no server yet.
    let client = world.client().start("ovpn", &words, "Allocating");
    assert!(!world.reaches() && !world.way().contains("wan0"), "{}", world.way());
    let _server = world.server();
    client.must_say("is up");
    world.must_reach_through("tun0");
    // Killed, it still holds.
    assert_eq!(client.end(Signal::KILL), None);
    assert!(!world.reaches() && !world.way().contains("wan0"), "{}", world.way());
    let client = world.client().start("ovpn", &words, "is up");
    world.must_reach_through("tun0");
    assert_eq!(client.end(Signal::TERM), Some(0));
    assert!(world.way().contains("dev wan0"), "{}", world.way());
    // What is left of one without a kill switch is taken away by the next start.
    let client = world.client().start("ovpn", CLIENT, "is up");
    assert_eq!(client.end(Signal::KILL), None);
    let client = world.client().start("ovpn", "-n my_vpn -i 10.9.0.2/24 --crypt", "is up");
    assert!(!world.client().ip("rule").contains("28534"), "{}", world.client().ip("rule"));
    drop(client);
}
