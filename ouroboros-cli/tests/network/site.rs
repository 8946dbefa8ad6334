//! A server and two clients that nothing has been told to but what people type: `ovpn
//! --serve`, `ovpn invite`, `ovpn join`.

use std::fs;

use crate::host::{Host, Running, eventually};

/// How the server is started.
pub(crate) const SERVE: &str = "--serve office --dev office0 --ip 10.9.0.1/24";

/// A server with a cable to each of two clients: 10.66.0.1 and fd66::1 to alice,
/// 10.67.0.1 and fd67::1 to bob. Nothing but irmd runs.
pub(crate) struct Site {
    pub(crate) server: Host,
    pub(crate) alice: Host,
    pub(crate) bob: Host,
    /// Of each of them.
    pub(crate) daemons: [Running; 3],
}

impl Site {
    /// The server's host, as the clients know it.
    pub(crate) const NAME: &str = "vpn.example";

    pub(crate) fn new() -> Self {
        let (server, mut alice, mut bob) = (Host::new(), Host::new(), Host::new());
        server.namespace.cable("eth0", &alice.namespace, "eth0");
        server.namespace.cable("eth1", &bob.namespace, "eth0");
        for (host, device, network, number) in [
            (&server, "eth0", 66, 1),
            (&server, "eth1", 67, 1),
            (&alice, "eth0", 66, 2),
            (&bob, "eth0", 67, 2),
        ] {
            address(host, device, network, number);
        }
        for host in [&alice, &bob] {
            eventually("the link is up", || host.ip("link show eth0").contains("LOWER_UP"));
        }
        alice.set_hosts(&format!("10.66.0.1 {0}\nfd66::1 {0}\n", Self::NAME));
        bob.set_hosts(&format!("10.67.0.1 {0}\nfd67::1 {0}\n", Self::NAME));
        let daemons = [server.irmd(), alice.irmd(), bob.irmd()];
        Self { server, alice, bob, daemons }
    }

    /// Starts the server.
    pub(crate) fn serve(&self) -> Running {
        self.server.start("ovpn", SERVE, "Waiting")
    }

    /// What `ovpn invite` prints: one line.
    pub(crate) fn invite(&self, words: &str) -> String {
        let line = self.server.must("ovpn", &format!("invite {words}"));
        assert_eq!((line.lines().count(), line.split_whitespace().count()), (1, 1), "{line}");
        line.trim().to_owned()
    }

    pub(crate) fn clients(&self) -> String {
        self.server.must("ovpn", "clients list")
    }

    /// The line of a client in the list has `what`.
    pub(crate) fn lists(&self, client: &str, what: &str) -> bool {
        let of_client = |line: &&str| line.split_whitespace().next() == Some(client);
        self.clients().lines().find(of_client).is_some_and(|line| line.contains(what))
    }

    /// Writes the addresses and networks of a client behind its name in the server's file of
    /// clients, as a person does.
    pub(crate) fn write_prefixes(&self, client: &str, prefixes: &str) {
        let clients = self.server.folder.path().join("trust/office.clients");
        let text = fs::read_to_string(&clients).expect("read");
        let text = text.replacen(&format!(" {client}"), &format!(" {client} {prefixes}"), 1);
        fs::write(&clients, text).expect("written");
    }
}

/// Gives a device its addresses, and has it up.
pub(crate) fn address(host: &Host, device: &str, network: u8, number: u8) {
    host.ip(&format!("addr add 10.{network}.0.{number}/24 dev {device}"));
    host.ip(&format!("addr add fd{network}::{number}/64 dev {device} nodad"));
    host.ip(&format!("link set {device} up"));
}

/// Returns `true` if the server answers inside the tunnel.
pub(crate) fn pings(host: &Host) -> bool {
    reaches(host, "10.9.0.1")
}

/// Returns `true` if the host's ping to `address` comes back.
pub(crate) fn reaches(host: &Host, address: &str) -> bool {
    host.run("ping", &format!("-c1 -W1 {address}")).status.success()
}
