//! What is left when a daemon or a tool is killed, and who goes on.

use rustix::process::Signal;

use crate::{
    host::{ETH, Pair, UDP4, eventually},
    probe::{INSIDE, ping, ping_until_answered, transfer},
};

pub(crate) fn the_server_outlives_a_client_that_was_killed() {
    let pair = Pair::new(ETH);
    let (_server, client) = pair.tunnel("--crypt");
    assert_eq!(client.end(Signal::KILL), None);
    eventually("the client's device is gone", || !pair.two.has_device("tun0"));
    // It comes back at once, while the server still believes in the old flow.
    let _client = pair.client("-C");
    eventually("one tunnel at the server", || pair.one.ip("-o link").matches("tun").count() == 1);
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 20);
}

pub(crate) fn a_client_outlives_a_server_that_was_killed() {
    let pair = Pair::new(UDP4);
    let (server, client) = pair.tunnel("-C");
    assert_eq!(server.end(Signal::KILL), None);
    eventually("the server's device is gone", || !pair.one.has_device("tun0"));
    assert!(pair.two.has_device("tun0"), "the client learns of it by silence alone");
    assert_eq!(client.end(Signal::TERM), Some(0));
    assert!(!pair.two.has_device("tun0"));
    drop(pair.tunnel("-C"));
}

pub(crate) fn the_tunnel_of_a_killed_daemon_goes_on_and_a_new_one_takes_its_place() {
    let mut pair = Pair::new(ETH);
    let (_far, near) = pair.tunnel("--crypt");
    ping(&pair.two, INSIDE);
    let daemon = pair.daemons[0].take().expect("it runs");
    assert_eq!(daemon.end(Signal::KILL), None);
    ping(&pair.two, INSIDE);

    // The socket and the lock that the dead one left do not stand in the way.
    pair.daemons[0] = Some(pair.one.irmd());
    pair.serve();
    drop(near);
    let _near = pair.client("--crypt");
    eventually("one tunnel at the server", || pair.one.ip("-o link").matches("tun").count() == 1);
    // Once the server knows that the former client is gone, whose address it is.
    ping_until_answered(&pair.two, INSIDE);
}

pub(crate) fn killed_applications_leave_nothing_and_the_next_ones_connect() {
    let pair = Pair::new(ETH);
    for _ in 0..3 {
        let (far, near) = pair.tunnel("--crypt");
        ping(&pair.two, INSIDE);
        assert_eq!(near.end(Signal::KILL), None);
        assert_eq!(far.end(Signal::KILL), None);
        assert!(!pair.two.has_device("tun0") && !pair.one.has_device("tun0"));
    }
}
