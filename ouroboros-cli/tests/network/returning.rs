//! A client's tunnel comes back by itself, and until then nothing of it is sent
//! another way.

use std::time::Instant;

use rustix::process::Signal;

use crate::{
    host::{ETH, Host, Pair, Running, UDP4, eventually},
    probe::{INSIDE, ping, ping_until_answered, readable, send_datagram, watch},
};

const CLIENT: &str = "-n my_vpn -i 10.9.0.2/24 --crypt";
/// What the client says when it has noticed. On a machine that is busy it may
/// say so earlier.
const ENDED: &str = "Allocating another";

fn server(host: &Host) -> Running {
    host.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting")
}

/// Sends until the client notices that nobody answers.
fn notices(host: &Host, client: &Running, before: usize) {
    eventually("the client has noticed", || {
        send_datagram(host, "10.9.0.1:9");
        client.lines_with(ENDED) > before
    });
}

/// Waits until a ping comes back, and says how long after `since` that was.
fn comes_back(client: &Host, since: Instant) {
    // As with any link, a packet may be lost.
    ping_until_answered(client, INSIDE);
    println!("a ping came back after {:?}", since.elapsed());
}

pub(crate) fn a_client_s_tunnel_comes_back_after_its_server_and_leaks_nothing_meanwhile() {
    for layer in [UDP4, ETH] {
        let pair = Pair::new(layer);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", CLIENT, "is up");
        ping(&pair.two, INSIDE);
        let cable = watch(&pair.one);
        let before = client.lines_with(ENDED);
        let since = Instant::now();
        assert_eq!(first.end(Signal::KILL), None);
        notices(&pair.two, &client, before);
        send_datagram(&pair.two, "10.9.0.1:9");
        assert!(pair.two.has_device("tun0"), "the device stays");
        let _second = server(&pair.one);
        comes_back(&pair.two, since);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        client.must_say("Encrypted");
        assert_eq!(client.end(Signal::TERM), Some(0));
        assert!(!pair.two.has_device("tun0"));
    }
}

pub(crate) fn a_client_s_tunnel_comes_back_when_both_daemons_have_been_replaced() {
    for layer in [UDP4, ETH] {
        let mut pair = Pair::new(layer);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", CLIENT, "is up");
        let cable = watch(&pair.one);
        let before = client.lines_with(ENDED);
        pair.kill();
        assert_eq!(first.end(Signal::KILL), None);
        // Until then it has a flow, and what it sends is lost with its server.
        notices(&pair.two, &client, before);
        // It waits for the daemon, for its layers and for the server.
        client.must_say("No flow yet: irmd is not running");
        send_datagram(&pair.two, "10.9.0.1:9");
        pair.start();
        let since = Instant::now();
        let _second = server(&pair.one);
        comes_back(&pair.two, since);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        drop(client);
    }
}

pub(crate) fn a_client_without_a_flow_ends_when_it_is_told_to() {
    for signal in [Signal::INT, Signal::TERM] {
        let pair = Pair::new(UDP4);
        let first = server(&pair.one);
        let client = pair.two.start("ovpn", CLIENT, "is up");
        let before = client.lines_with(ENDED);
        assert_eq!(first.end(Signal::KILL), None);
        notices(&pair.two, &client, before);
        assert_eq!(client.end(signal), Some(0));
        assert!(!pair.two.has_device("tun0"));
    }
}
