//! Several clients of one server, which has one device for all of them.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::Signal;

use crate::{
    host::{ETH, Host, Pair, Running, UDP4, eventually, tools},
    probe::transfer,
};

/// A ping through a device comes back.
fn pings(host: &Host, device: &str, to: &str) -> bool {
    host.run("ping", &format!("-c1 -W1 -I {device} {to}")).status.success()
}

fn server(pair: &Pair, more: &str) -> Running {
    pair.one.start(
        "ovpn",
        &format!("--dev office0 --ip 10.9.0.1/24 --ip fd09::1/64 {more}"),
        "Waiting",
    )
}

fn has(host: &Host, device: &str, what: &str) -> bool {
    host.ip(&format!("-o addr show {device}")).contains(what)
}

pub(crate) fn a_server_gives_its_clients_addresses_and_has_one_device() {
    for layer in [UDP4, ETH] {
        let pair = Pair::new(layer);
        let _server = server(&pair, "--route 172.16.0.0/16 --route fd16::/64 --dns 10.9.0.1");
        let first = "-n my_vpn --ip server --crypt --accept-routes";
        let first = pair.two.start("ovpn", first, "is up");
        let words = "-n my_vpn --ip server --crypt --dev mine --accept-dns";
        let second = pair.two.start("ovpn", words, "is up");
        for (device, v4, v6) in
            [("tun0", "10.9.0.2/24", "fd09::2/64"), ("mine", "10.9.0.3/24", "fd09::3/64")]
        {
            assert!(has(&pair.two, device, v4), "{}", pair.two.ip("addr"));
            assert!(has(&pair.two, device, v6), "{}", pair.two.ip("addr"));
            eventually("a ping comes back", || pings(&pair.two, device, "10.9.0.1"));
            eventually("a ping comes back", || pings(&pair.two, device, "fd09::1"));
        }
        eventually("routes that are accepted are there", || {
            pair.two.ip("route").contains("172.16.0.0/16 dev tun0")
                && pair.two.ip("-6 route").contains("fd16::/64 dev tun0")
        });
        assert!(!pair.two.ip("route").contains("172.16.0.0/16 dev mine"));
        second.must_say("The server offers routes");
        let links = pair.one.ip("-o link");
        assert_eq!((links.matches("office0").count(), links.matches("tun").count()), (1, 0));
        // Who stays goes on.
        assert_eq!(first.end(Signal::TERM), Some(0));
        eventually("a ping comes back", || pings(&pair.two, "mine", "10.9.0.1"));
        assert!(pair.one.has_device("office0"));
    }
}

pub(crate) fn resolvconf_has_the_resolvers_where_systemd_resolved_does_not_serve() {
    let pair = Pair::new(UDP4);
    let _server = server(&pair, "--dns 10.9.0.1 --dns fd09::1 --search office.example");
    // Stand for both programs.
    let folder = &pair.two.folder;
    let log = folder.path().join("resolvconf.log");
    for (program, script) in [
        ("resolvectl", "echo no resolved >&2; exit 1".to_owned()),
        ("resolvconf", format!("(echo \"$*\"; cat) >> {}", log.display())),
    ] {
        let path = folder.write(program, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{}:{path}", folder.path().display(), tools().display());
    let words = "ovpn -n my_vpn --ip server --crypt --dev mine --accept-dns";
    let client = pair.two.start("env", &format!("PATH={path} {words}"), "is up");
    client.must_say("Resolvers of mine: 10.9.0.1, fd09::1.");
    let begun = "-a tun.mine\nnameserver 10.9.0.1\nnameserver fd09::1\nsearch office.example\n";
    assert_eq!(fs::read_to_string(&log).expect("text"), begun);
    assert_eq!(client.end(Signal::TERM), Some(0));
    assert_eq!(fs::read_to_string(&log).expect("text"), format!("{begun}-d tun.mine\n"));
}

pub(crate) fn a_server_s_own_demands_refuse_who_does_not_meet_them() {
    for (demand, less, enough) in
        [("--crypt", "", "--crypt"), ("--native", "", "--crypt"), ("--identify", "--crypt", "-I")]
    {
        let pair = Pair::new(UDP4);
        let server = server(&pair, demand);
        let words = |how: &str| format!("-n my_vpn --ip 10.9.0.7/24 {how}");
        let refused = pair.two.start("ovpn", &words(less), "Allocating");
        server.must_say("it is less than");
        assert!(!pings(&pair.two, "tun0", "10.9.0.1"));
        drop(refused);
        let _client = pair.two.start("ovpn", &words(enough), "is up");
        eventually("a ping comes back", || pings(&pair.two, "tun0", "10.9.0.1"));
    }
}

pub(crate) fn clients_with_addresses_of_their_own_share_the_server() {
    let pair = Pair::new(UDP4);
    let server = server(&pair, "");
    let first = pair.two.start("ovpn", "-n my_vpn --ip 10.9.0.7/24 --crypt", "is up");
    eventually("a ping comes back", || pings(&pair.two, "tun0", "10.9.0.1"));
    transfer(&pair.one, &pair.two, "10.9.0.7:4242", 1 << 20);
    let second = pair.two.start("ovpn", "-n my_vpn --ip 10.9.0.8/24 --crypt", "is up");
    server.must_say("has 10.9.0.8/24");
    for device in ["tun0", "tun1"] {
        eventually("a ping comes back", || pings(&pair.two, device, "10.9.0.1"));
    }
    // Who was killed says nothing when it is asked, and loses its address.
    assert_eq!(second.end(Signal::KILL), None);
    let third = pair.two.start("ovpn", "-n my_vpn --ip 10.9.0.8/24 --crypt --dev again", "is up");
    eventually("the address is free", || pings(&pair.two, "again", "10.9.0.1"));
    // Who is there keeps it.
    let asked = server.lines_with("is asked whether it is still there");
    let fourth = pair.two.start("ovpn", "-n my_vpn --ip 10.9.0.8/24 --crypt --dev late", "is up");
    eventually("it is asked", || server.lines_with("is asked whether it is still there") > asked);
    fourth.must_say("does not know this machine");
    assert!(pings(&pair.two, "again", "10.9.0.1"));
    drop((first, third));
}

/// What every IPv6 link has to carry passes, whatever the link outside does; between
/// two clients, too.
pub(crate) fn ipv6_passes_inside_over_the_smallest_links() {
    for mtu in [1000, 576] {
        let pair = Pair::new(UDP4);
        for host in [&pair.one, &pair.two] {
            host.ip(&format!("link set eth0 mtu {mtu}"));
        }
        let _server = server(&pair, "--forward");
        let words = |number: usize| {
            format!(
                "-n my_vpn --ip 10.9.0.{number}/24 --ip fd09::{number}/64 --crypt --dev vpn{number}"
            )
        };
        let third = Host::new();
        let _clients = [7, 8].map(|number| pair.two.start("ovpn", &words(number), "is up"));
        pair.two.ip(&format!("link set vpn8 netns {}", third.namespace.path()));
        third.ip("addr add 10.9.0.8/24 dev vpn8");
        third.ip("addr add fd09::8/64 dev vpn8 nodad");
        third.ip("link set vpn8 up");
        let large = |host: &Host, to: &str| {
            let size = if to.contains(':') { 1280 - 48 } else { 1280 - 28 };
            host.run("ping", &format!("-c1 -W1 -s {size} {to}")).status.success()
        };
        for to in ["10.9.0.1", "fd09::1", "10.9.0.8", "fd09::8"] {
            eventually("a large ping comes back", || large(&pair.two, to));
        }
        for to in ["10.9.0.1", "fd09::1", "10.9.0.7", "fd09::7"] {
            eventually("a large ping comes back", || large(&third, to));
        }
        for (to, at) in [
            (&pair.one, "10.9.0.1:4242"),
            (&pair.one, "[fd09::1]:4242"),
            (&third, "[fd09::8]:4242"),
        ] {
            transfer(&pair.two, to, at, 1 << 20);
        }
        for (host, device) in [(&pair.one, "office0"), (&pair.two, "vpn7"), (&third, "vpn8")] {
            assert!(host.ip(&format!("-o link show {device}")).contains("mtu 1280 "));
        }
    }
}
