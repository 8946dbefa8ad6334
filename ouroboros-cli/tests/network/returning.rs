//! A client's tunnel comes back by itself, and until then nothing of it is sent
//! another way.

use std::time::Instant;

use rustix::process::Signal;

use crate::{
    host::{ETH, Host, Pair, Running, UDP4, eventually},
    probe::{INSIDE, ping, readable, send_datagram, watch},
};

/// Takes the server for gone soon, so that the test ends soon.
const CRYPT: &str = "--crypt --timeout 2";
/// What the client says then. On a machine that is busy it may say so earlier.
const ENDED: &str = "Allocating another";

fn server(host: &Host) -> Running {
    host.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0 --timeout 2", "Waiting")
}

/// Pings until one comes back, and says how long that took.
fn comes_back(client: &Host, what: &str) {
    let start = Instant::now();
    ping(client, INSIDE);
    println!("{what}: a ping came back after {:?}", start.elapsed());
}

pub(crate) fn a_client_s_tunnel_comes_back_after_its_server_and_leaks_nothing_meanwhile() {
    for layer in [UDP4, ETH] {
        let pair = Pair::new(layer);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {CRYPT}"), "is up");
        ping(&pair.two, INSIDE);
        let cable = watch(&pair.one);
        let before = client.lines_with(ENDED);
        assert_eq!(first.end(Signal::KILL), None);
        send_datagram(&pair.two, "10.9.0.1:9");
        eventually("the client has noticed", || client.lines_with(ENDED) > before);
        send_datagram(&pair.two, "10.9.0.1:9");
        assert!(pair.two.has_device("tun0"), "the device stays");
        let _second = server(&pair.one);
        comes_back(&pair.two, pair.layer.first);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        assert!(client.lines_with("Encrypted") > 0);
        assert_eq!(client.end(Signal::TERM), Some(0));
        assert!(!pair.two.has_device("tun0"));
    }
}

pub(crate) fn a_client_s_tunnel_comes_back_when_both_daemons_have_been_replaced() {
    for layer in [UDP4, ETH] {
        let mut pair = Pair::new(layer);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {CRYPT}"), "is up");
        let cable = watch(&pair.one);
        pair.kill();
        assert_eq!(first.end(Signal::KILL), None);
        // It waits for the daemon, for its layers and for the server.
        eventually("the client tries", || client.lines_with("irmd is not running") > 0);
        send_datagram(&pair.two, "10.9.0.1:9");
        pair.start();
        let _second = server(&pair.one);
        comes_back(&pair.two, pair.layer.first);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        drop(client);
    }
}

pub(crate) fn a_client_without_a_flow_ends_when_it_is_told_to() {
    for signal in [Signal::INT, Signal::TERM] {
        let pair = Pair::new(UDP4);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {CRYPT}"), "is up");
        let before = client.lines_with(ENDED);
        assert_eq!(first.end(Signal::KILL), None);
        eventually("the client has noticed", || client.lines_with(ENDED) > before);
        assert_eq!(client.end(signal), Some(0));
        assert!(!pair.two.has_device("tun0"));
    }
}
