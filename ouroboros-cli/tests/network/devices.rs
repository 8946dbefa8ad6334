//! TUN devices that others rename, move, take down and delete.

use std::thread;

use rustix::process::Signal;

use crate::{
    host::{Host, Pair, Running, UDP4, eventually},
    probe::{INSIDE, INSIDE6, ping, ping_until_answered},
};

const CLIENT: &str = "-n my_vpn --ip 10.9.0.2/24 --ip fd09::2/64 --crypt";

fn server(host: &Host) -> Running {
    host.start("ovpn", "--ip 10.9.0.1/24 --ip fd09::1/64 --dev office0", "Waiting")
}

/// A tunnel whose ends can reach each other.
fn tunnel(pair: &Pair) -> (Running, Running) {
    let server = server(&pair.one);
    let client = pair.two.start("ovpn", CLIENT, "is up");
    for to in [INSIDE, INSIDE6] {
        ping_until_answered(&pair.two, to);
    }
    (server, client)
}

fn has(host: &Host, device: &str, what: &str) -> bool {
    host.ip(&format!("-o addr show {device}")).contains(what)
}

fn mtu_is(host: &Host, device: &str, mtu: usize) -> bool {
    host.ip(&format!("-o link show {device}")).contains(&format!("mtu {mtu} "))
}

/// Has the path carry less, and packets find that out.
fn shrink_the_path(pair: &Pair, mtu: usize) {
    for host in [&pair.one, &pair.two] {
        host.ip(&format!("link set eth0 mtu {mtu}"));
    }
}

/// Another server in place of the first: the client's flow ends, and there is a next.
fn replace_server(pair: &Pair, first: Running, client: &Running, from: &Host) -> Running {
    let before = client.lines_with("is up");
    assert_eq!(first.end(Signal::TERM), Some(0));
    let next = server(&pair.one);
    eventually("the tunnel is up again", || client.lines_with("is up") > before);
    ping_until_answered(from, INSIDE);
    next
}

pub(crate) fn a_device_that_was_down_gets_its_ipv6_addresses_and_routes_back() {
    let pair = Pair::new(UDP4);
    let words = "--ip 10.9.0.1/24 --ip fd09::1/64 --dev office0 --route fd16::/64";
    let _server = pair.one.start("ovpn", words, "Waiting");
    let _client = pair.two.start("ovpn", &format!("{CLIENT} --accept-routes"), "is up");
    let routed = || pair.two.ip("-6 route").contains("fd16::/64 dev tun0");
    eventually("the route is there", routed);
    for (host, device, own) in
        [(&pair.one, "office0", "fd09::1/64"), (&pair.two, "tun0", "fd09::2/64")]
    {
        host.ip(&format!("link set {device} down"));
        assert!(!has(host, device, own));
        host.ip(&format!("link set {device} up"));
        eventually("the address is there", || has(host, device, own));
    }
    eventually("the route is there", routed);
    ping_until_answered(&pair.two, INSIDE6);
    // What somebody takes away on purpose stays away.
    pair.two.ip("addr del fd09::2/64 dev tun0");
    pair.two.ip("link set tun0 txqueuelen 100");
    ping(&pair.two, INSIDE);
    assert!(!has(&pair.two, "tun0", "fd09::2/64"));
}

pub(crate) fn a_device_that_is_renamed_is_followed() {
    let pair = Pair::new(UDP4);
    let (server, client) = tunnel(&pair);
    pair.two.ip("link set tun0 down");
    pair.two.ip("link set tun0 name vpn9");
    pair.two.ip("link set vpn9 up");
    eventually("the address is there", || has(&pair.two, "vpn9", "fd09::2/64"));
    for to in [INSIDE, INSIDE6] {
        ping_until_answered(&pair.two, to);
    }
    shrink_the_path(&pair, 1400);
    eventually("the device follows the path", || {
        ping_until_answered(&pair.two, INSIDE);
        mtu_is(&pair.two, "vpn9", 1400 - 54)
    });
    let _server = replace_server(&pair, server, &client, &pair.two);
    client.must_say("Tunnel device vpn9");
}

pub(crate) fn a_device_in_another_network_namespace_goes_on() {
    let pair = Pair::new(UDP4);
    let (server, client) = tunnel(&pair);
    let other = Host::new();
    pair.two.ip(&format!("link set tun0 netns {}", other.namespace.path()));
    // Somebody else's, by the same name.
    pair.two.ip("link add tun0 mtu 1500 type veth peer name spare");
    other.ip("addr add 10.9.0.2/24 dev tun0");
    other.ip("addr add fd09::2/64 dev tun0");
    other.ip("link set tun0 up");
    for to in [INSIDE, INSIDE6] {
        ping_until_answered(&other, to);
    }
    // The next flow's MTU is less than the device's.
    shrink_the_path(&pair, 1400);
    let _server = replace_server(&pair, server, &client, &other);
    assert!(mtu_is(&pair.two, "tun0", 1500), "another device was changed");
}

pub(crate) fn a_device_that_is_deleted_ends_its_tunnel_and_is_named() {
    let pair = Pair::new(UDP4);
    let told = |output: std::process::Output, device: &str| {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("the device {device} was deleted")), "{error}");
    };
    let first = server(&pair.one);
    thread::scope(|scope| {
        let client = scope.spawn(|| pair.two.run("ovpn", CLIENT));
        eventually("the client is up", || {
            pair.two.has_device("tun0") && has(&pair.two, "tun0", "fd09::2/64")
        });
        ping_until_answered(&pair.two, INSIDE);
        pair.two.ip("link del tun0");
        told(client.join().expect("no panic"), "tun0");
    });
    assert_eq!(first.end(Signal::TERM), Some(0));
    thread::scope(|scope| {
        let words = "--ip 10.9.0.1/24 --ip fd09::1/64 --dev office0";
        let server = scope.spawn(|| pair.one.run("ovpn", words));
        eventually("the server has its device", || pair.one.has_device("office0"));
        let _client = pair.two.start("ovpn", CLIENT, "is up");
        ping_until_answered(&pair.two, INSIDE);
        pair.one.ip("link del office0");
        told(server.join().expect("no panic"), "office0");
    });
}
