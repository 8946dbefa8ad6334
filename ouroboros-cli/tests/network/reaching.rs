//! How clients that have joined reach their server: over which family, and where it is by
//! now.

use crate::{
    host::eventually,
    probe::send_datagram,
    site::{Site, pings, reaches},
};

pub(crate) fn a_client_without_ipv4_has_both_families_inside() {
    let site = Site::new();
    for device in ["eth0", "lo"] {
        site.alice.ip(&format!("-4 addr flush dev {device}"));
    }
    let words = "--serve office --dev office0 --ip 10.9.0.1/24 --ip fd09::1/64";
    let _server = site.server.start("ovpn", words, "Waiting");
    // The name has addresses of both families.
    let line = site.invite(&format!("alice --server {}", Site::NAME));
    let _alice = site.alice.start("ovpn", &format!("join {line}"), "is up");
    for inside in ["10.9.0.1", "fd09::1"] {
        eventually(inside, || reaches(&site.alice, inside));
    }
    assert!(site.lists("alice", "connected from [fd66::2]"), "{}", site.clients());
    let own = site.alice.ip("-4 -o addr show");
    assert_eq!(own.lines().count(), 1, "only the one inside: {own}");
}

pub(crate) fn a_client_finds_its_server_at_another_address() {
    let mut site = Site::new();
    let _server = site.serve();
    let line = site.invite(&format!("alice --server {}", Site::NAME));
    let alice = site.alice.start("ovpn", &format!("join {line}"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    site.server.ip("addr flush dev eth0 scope global");
    site.server.ip("addr add 10.66.0.9/24 dev eth0");
    eventually("the client has noticed", || {
        send_datagram(&site.alice, "10.9.0.1:9");
        alice.lines_with("The flow has ended") > 0
    });
    site.alice.set_hosts(&format!("10.66.0.9 {}\n", Site::NAME));
    eventually("a ping comes back", || pings(&site.alice));
    let told = site.alice.must("ovpn", "status");
    assert!(told.contains("10.66.0.9:3435"), "{told}");
}
