//! A server and its clients with the commands that people type: no file is copied, no
//! hosts file or key is written by hand.

use std::fs;

use rustix::process::Signal;

use crate::host::{Host, Running, eventually};

/// A server with a cable to each of two clients, 10.66.0.1 and 10.67.0.1 there. Nothing
/// but irmd runs.
struct Site {
    server: Host,
    alice: Host,
    bob: Host,
    _daemons: [Running; 3],
}

impl Site {
    fn new() -> Self {
        let (server, alice, bob) = (Host::new(), Host::new(), Host::new());
        server.namespace.cable("eth0", &alice.namespace, "eth0");
        server.namespace.cable("eth1", &bob.namespace, "eth0");
        for (host, device, address) in [
            (&server, "eth0", "10.66.0.1/24"),
            (&server, "eth1", "10.67.0.1/24"),
            (&alice, "eth0", "10.66.0.2/24"),
            (&bob, "eth0", "10.67.0.2/24"),
        ] {
            host.ip(&format!("addr add {address} dev {device}"));
            host.ip(&format!("link set {device} up"));
        }
        for host in [&alice, &bob] {
            eventually("the link is up", || host.ip("link show eth0").contains("LOWER_UP"));
        }
        let _daemons = [server.irmd(), alice.irmd(), bob.irmd()];
        Self { server, alice, bob, _daemons }
    }

    /// What `ovpn invite` prints: one line.
    fn invite(&self, words: &str) -> String {
        let line = self.server.must("ovpn", &format!("invite {words}"));
        assert_eq!((line.lines().count(), line.split_whitespace().count()), (1, 1), "{line}");
        line.trim().to_owned()
    }

    fn clients(&self) -> String {
        self.server.must("ovpn", "clients list")
    }

    /// The line of a client in the list has `what`.
    fn lists(&self, client: &str, what: &str) -> bool {
        let of_client = |line: &&str| line.split_whitespace().next() == Some(client);
        self.clients().lines().find(of_client).is_some_and(|line| line.contains(what))
    }
}

fn pings(host: &Host) -> bool {
    host.run("ping", "-c1 -W1 10.9.0.1").status.success()
}

fn serve(site: &Site) -> Running {
    site.server.start("ovpn", "--serve office --dev office0 --ip 10.9.0.1/24", "Waiting")
}

/// What a `join` says that fails.
fn refused(host: &Host, line: &str) -> String {
    let output = host.run("ovpn", &format!("join {line}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

pub(crate) fn clients_join_by_a_line_and_are_listed_renamed_and_revoked() {
    let site = Site::new();
    let server = serve(&site);
    let line = site.invite("alice --server 10.66.0.1");
    assert!(site.lists("alice", "invited until"), "{}", site.clients());
    let alice = site.alice.start("ovpn", &format!("join {line}"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    eventually("alice is there", || site.lists("alice", "connected from 10.66.0.2"));
    // What runs from now on has no secret to show.
    let words = fs::read_to_string(format!("/proc/{}/cmdline", alice.id())).expect("it runs");
    assert!(words.contains("--server-key") && !words.contains(&line), "{words}");

    let said = refused(&site.bob, &format!("{line}a"));
    assert!(said.contains("mistyped"), "{said}");
    let said = refused(&site.bob, &line.replacen(':', ":a", 1));
    assert!(said.contains("mistyped"), "{said}");
    // Not reached from there at the first address.
    let bobs = site.invite("bob --server 10.66.0.1 --server 10.67.0.1");
    let bob = site.bob.start("ovpn", &format!("join {bobs}"), "is up");
    eventually("a ping comes back", || pings(&site.bob));

    site.server.must("ovpn", "clients rename alice laptop");
    assert!(site.lists("laptop", "connected from"), "{}", site.clients());
    site.server.must("ovpn", "clients revoke laptop");
    alice.must_say("The flow has ended");
    server.must_say("The flow has ended");
    eventually("alice is gone", || !pings(&site.alice));
    alice.must_say("No flow yet");
    assert!(!site.clients().contains("laptop"), "{}", site.clients());
    assert!(site.lists("bob", "connected from"), "{}", site.clients());
    eventually("bob goes on", || pings(&site.bob));
    // What it was invited with is of no more use, to itself or to others.
    assert_eq!(alice.end(Signal::TERM), Some(0));
    let said = refused(&site.alice, &line);
    assert!(said.contains("used, revoked or over"), "{said}");
    // It may be invited again, by another line.
    let again = site.invite("alice --server 10.66.0.1");
    let _alice = site.alice.start("ovpn", &format!("join {again}"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    eventually("bob goes on", || pings(&site.bob));
    drop(bob);
}

pub(crate) fn a_client_has_the_addresses_and_networks_that_its_line_says() {
    let site = Site::new();
    let _server = serve(&site);
    let line = site.invite("branch --server 10.66.0.1");
    // By hand, before it has joined.
    let clients = site.server.folder.path().join("trust/office.clients");
    let text = fs::read_to_string(&clients).expect("read");
    let text = text.replace(" branch ", " branch 10.9.0.77 172.16.2.0/24 ");
    fs::write(&clients, text).expect("written");
    site.alice.ip("link set lo up");
    site.alice.ip("addr add 172.16.2.1/24 dev lo");
    let _client = site.alice.start("ovpn", &format!("join {line}"), "is up");
    let has = |what: &str| site.alice.ip("-o addr show tun0").contains(what);
    eventually("its address is there", || has("10.9.0.77/24"));
    eventually("its network is reached", || {
        site.server.run("ping", "-c1 -W1 172.16.2.1").status.success()
    });
    assert!(site.server.ip("route").contains("172.16.2.0/24 dev office0"));
    assert!(site.lists("branch", "172.16.2.0/24"), "{}", site.clients());
    site.server.must("ovpn", "clients revoke branch");
    eventually("the route is gone", || !site.server.ip("route").contains("172.16.2.0/24"));
}

pub(crate) fn a_server_and_its_client_are_back_when_all_was_started_anew() {
    let mut site = Site::new();
    let server = serve(&site);
    let line = site.alice.folder.write("line", &site.invite("alice --server 10.66.0.1"));
    let script = format!("exec ovpn join - --dev office < {}\n", line.display());
    let script = site.alice.folder.write("script", &script);
    let first = site.alice.start("sh", &script.display().to_string(), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    // As at a reboot: nothing that was typed is typed again but by the units.
    drop((server, first));
    let [one, two, three] = site._daemons;
    for daemon in [one, two] {
        assert_eq!(daemon.end(Signal::KILL), None);
    }
    site._daemons = [site.server.irmd(), site.alice.irmd(), three];
    let file = site.alice.folder.path().join("trust/ovpn/office.env");
    let text = fs::read_to_string(file).expect("written");
    let options = text.lines().find_map(|line| line.strip_prefix("OPTIONS=")).expect("options");
    let _server = serve(&site);
    let _client = site.alice.start("ovpn", options, "is up");
    eventually("a ping comes back", || pings(&site.alice));
    assert!(site.alice.has_device("office"));
    assert!(site.lists("alice", "connected from"), "{}", site.clients());
}
