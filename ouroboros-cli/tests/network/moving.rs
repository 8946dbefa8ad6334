//! A client that is moved to another address, loses its link, or sleeps: its
//! tunnel goes on, and nothing of it is sent another way.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    host::{ETH, Host, Pair, UDP4, UDP6, eventually},
    probe::{INSIDE, ping, ping_until_answered, readable, send_datagram, watch},
};

/// Longer than a client is patient with a server that does not answer.
const OUTAGE: Duration = Duration::from_secs(3);
const IS_UP: &str = "is up";

/// Gives a host other addresses in place of its own.
fn readdress(host: &Host, number: u8) {
    host.ip("addr flush dev eth0 scope global");
    host.ip(&format!("addr add 10.66.0.{number}/24 dev eth0"));
    host.ip(&format!("addr add fd66::{number}/64 dev eth0 nodad"));
}

/// Waits until a ping comes back, and says how long after `since` that was.
fn comes_back(client: &Host, what: &str, since: Instant) {
    ping_until_answered(client, INSIDE);
    println!("{what}: a ping came back after {:?}", since.elapsed());
}

pub(crate) fn a_client_s_tunnel_goes_on_from_another_address_and_leaks_nothing_meanwhile() {
    for layer in [UDP4, UDP6] {
        let first = layer.first;
        let pair = Pair::new(layer);
        let (_server, client) = pair.tunnel("--crypt");
        ping(&pair.two, INSIDE);
        let cable = watch(&pair.one);
        for number in [7, 8, 9] {
            readdress(&pair.two, number);
            let since = Instant::now();
            comes_back(&pair.two, first, since);
        }
        assert!(!readable(&cable).1, "nothing readable on the cable");
        // The layer's own address is still none of the machine's.
        assert_eq!(client.end(Signal::TERM), Some(0));
        let client = pair.client("--crypt");
        ping(&pair.two, INSIDE);
        assert_eq!(client.end(Signal::TERM), Some(0));
    }
}

pub(crate) fn a_client_that_was_told_its_address_goes_on_from_another_when_it_is_lost() {
    for (layer, own) in [(UDP4, "10.66.0.2/24"), (UDP6, "fd66::2/64")] {
        let first = layer.first;
        let pair = Pair::new(layer);
        // One that nothing would be sent from otherwise.
        readdress(&pair.two, 7);
        let more = if own.contains(':') { "nodad preferred_lft 0" } else { "" };
        pair.two.ip(&format!("addr add {own} dev eth0 {more}"));
        let (server, client) = pair.tunnel("--identify");
        ping(&pair.two, INSIDE);
        let from_own = own.split('/').next().expect("an address");
        // Asked for from the layer's address.
        server.must_say(from_own);
        let cable = watch(&pair.one);
        readdress(&pair.two, 8);
        let since = Instant::now();
        comes_back(&pair.two, first, since);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        // By another flow.
        client.must_say(IS_UP);
    }
}

pub(crate) fn a_client_s_tunnel_comes_back_with_its_link_and_leaks_nothing_meanwhile() {
    for layer in [UDP4, UDP6, ETH] {
        let first = layer.first;
        let pair = Pair::new(layer);
        let _ends = pair.tunnel("--crypt");
        ping(&pair.two, INSIDE);
        let cable = watch(&pair.one);
        pair.two.ip("link set eth0 down");
        let down = Instant::now();
        eventually("the link has been down for a while", || {
            send_datagram(&pair.two, "10.9.0.1:9");
            down.elapsed() > OUTAGE
        });
        pair.two.ip("link set eth0 up");
        readdress(&pair.two, 7);
        eventually("the link is up", || pair.two.ip("link show eth0").contains("LOWER_UP"));
        let since = Instant::now();
        comes_back(&pair.two, first, since);
        assert!(!readable(&cable).1, "nothing readable on the cable");
        // Over UDP by the same flow, unless the server has been slower than the client is
        // patient (`ouroboros/tests/connection.rs`).
    }
}

/// The server cannot tell that it is the same client, and has its flow still.
pub(crate) fn a_client_that_comes_back_from_another_address_takes_its_place() {
    let pair = Pair::new(UDP4);
    let (_server, client) = pair.tunnel("--crypt");
    ping(&pair.two, INSIDE);
    // What the client sends is lost, and nobody tells it so.
    pair.one.ip("link set eth0 down");
    eventually("the client has noticed", || {
        send_datagram(&pair.two, "10.9.0.1:9");
        client.lines_with("has ended") > 0
    });
    readdress(&pair.two, 7);
    pair.one.ip("link set eth0 up");
    let since = Instant::now();
    comes_back(&pair.two, "given up", since);
    let tunnels = || pair.one.ip("-o link").matches("tun").count();
    eventually("one tunnel at the server", || tunnels() == 1);
    ping(&pair.two, INSIDE);
}

pub(crate) fn a_client_s_tunnel_comes_back_after_a_sleep() {
    for layer in [UDP4, ETH] {
        let first = layer.first;
        let pair = Pair::new(layer);
        let (server, client) = pair.tunnel("--crypt --timeout 2");
        ping(&pair.two, INSIDE);
        let daemon = pair.daemons[1].as_ref().expect("it runs");
        for asleep in [&client, daemon] {
            asleep.signal(Signal::STOP);
        }
        server.must_say("has ended");
        for awake in [daemon, &client] {
            awake.signal(Signal::CONT);
        }
        let since = Instant::now();
        comes_back(&pair.two, first, since);
        // Another flow.
        client.must_say("Encrypted");
    }
}
