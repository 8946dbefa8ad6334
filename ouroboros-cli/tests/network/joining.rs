//! A server and its clients with the commands that people type: no file is copied, no
//! hosts file or key is written by hand.

use std::fs;

use ouroboros::{
    crypto::SystemEntropy,
    trust::{Invitation, KeyFile},
};
use rustix::process::Signal;

use crate::{
    host::{Host, eventually},
    site::{Site, pings},
};

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
    let server = site.serve();
    let line = site.invite("alice --server 10.66.0.1");
    assert!(site.lists("alice", "invited until"), "{}", site.clients());
    let alice = site.alice.start("ovpn", &format!("join {line}"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    eventually("alice is there", || site.lists("alice", "connected from 10.66.0.2"));
    // What runs from now on has no secret to show.
    let words = fs::read_to_string(format!("/proc/{}/cmdline", alice.id())).expect("it runs");
    assert!(words.contains("--config") && !words.contains(&line), "{words}");

    let said = refused(&site.bob, &format!("{line}a"));
    assert!(said.contains("mistyped"), "{said}");
    let said = refused(&site.bob, &line.replacen(':', ":a", 1));
    assert!(said.contains("mistyped"), "{said}");
    // Several clients get a line each, with their names in front. The server is not reached
    // from there at the first address.
    let words = "invite bob carol --server 10.66.0.1 --server 10.67.0.1";
    let lines = site.server.must("ovpn", words);
    let lines: Vec<_> =
        lines.lines().map(|line| line.split_once(' ').expect("two words")).collect();
    assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), ["bob", "carol"]);
    let bobs = lines[0].1.to_owned();
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
    assert!(said.contains("may be used, revoked or expired"), "{said}");
    assert!(said.contains("ovpn invite NAME"), "{said}");
    // It may be invited again, by another line.
    let again = site.invite("alice --server 10.66.0.1");
    let _alice = site.alice.start("ovpn", &format!("join {again}"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    eventually("bob goes on", || pings(&site.bob));
    drop(bob);
}

/// The line says the key that the server shows, and so does all that it prints.
pub(crate) fn a_name_with_a_key_of_its_own_is_joined_by_that_key() {
    let site = Site::new();
    let folder = site.server.folder.path();
    let file = KeyFile::at(folder.join("office.pem"));
    file.generate(&mut SystemEntropy).expect("a key");
    let clients = folder.join("office.clients");
    fs::write(&clients, "").expect("written");
    let create = format!(
        "name create office native clients {} key {}",
        clients.display(),
        file.path().display()
    );
    site.server.must("irm", &create);
    let key = |words: &str| {
        let shown = site.server.must("irm", words);
        shown.split_whitespace().next().expect("a fingerprint").to_owned()
    };
    let own = key("key show of office");
    assert_ne!(own, key("key show"), "the machine has another");
    let server = site.serve();
    let said = format!("The key of office on this machine is {own}.");
    assert!(server.said.contains(&said), "{}", server.said);
    assert!(!server.said.contains("This machine's key"), "{}", server.said);
    let line = site.invite("alice --server 10.66.0.1");
    let invitation: Invitation = line.parse().expect("an invitation");
    assert_eq!(invitation.server_key().to_string(), own);
    let alice = site.alice.start("ovpn", &format!("join {line}"), "is up");
    assert!(alice.said.contains(&format!("The peer's key is {own}.")), "{}", alice.said);
    eventually("a ping comes back", || pings(&site.alice));
    assert!(site.alice.must("ovpn", "status --json").contains(&own));
    assert!(site.alice.must("irm", "status --json").contains(&own));
    // The next one is in the lines once it is in force.
    site.server.must("irm", "key generate next of office");
    let invited_to = |client: &str| {
        let line = site.invite(&format!("{client} --server 10.67.0.1"));
        let key = line.parse::<Invitation>().expect("an invitation").server_key().to_string();
        (line, key)
    };
    assert_eq!(invited_to("bob").1, own);
    let next = key("key promote of office");
    assert_eq!(key("key show of office"), next);
    let (line, shown) = invited_to("carol");
    assert_eq!(shown, next);
    let carol = site.bob.start("ovpn", &format!("join {line}"), "is up");
    assert!(carol.said.contains(&format!("The peer's key is {next}.")), "{}", carol.said);
}

pub(crate) fn a_stolen_laptop_that_is_revoked_does_not_come_back() {
    let mut site = Site::new();
    let server = site.serve();
    let line = site.invite("laptop --server 10.66.0.1");
    let laptop = site.alice.start("ovpn", &format!("join {line}"), "is up");
    let line = site.invite("bob --server 10.67.0.1");
    let bob = site.bob.start("ovpn", &format!("join {line}"), "is up");
    for host in [&site.alice, &site.bob] {
        eventually("a ping comes back", || pings(host));
    }
    // The flows outlive the server's daemon, which the next one is told.
    let file = site.server.folder.path().join("trust/irmd.conf");
    site.server.must("irm", &format!("config save {}", file.display()));
    let [one, two, three] = site.daemons;
    assert_eq!(one.end(Signal::KILL), None);
    site.daemons = [site.server.irmd(), two, three];
    eventually("the next daemon knows of both", || {
        ["laptop", "bob"].iter().all(|client| site.lists(client, "connected from"))
    });
    site.server.must("ovpn", "clients revoke laptop");
    laptop.must_say("The flow has ended");
    eventually("one client is left", || !site.server.must("ovpn", "status").contains("10.66.0.2"));
    // Whatever the thief starts anew, and whatever is started anew at the server.
    drop(laptop);
    let [one, two, three] = site.daemons;
    assert_eq!(two.end(Signal::KILL), None);
    site.daemons = [one, site.alice.irmd(), three];
    let options = site.alice.configured("office");
    let laptop = site.alice.start("ovpn", &options, "No flow yet: no answer");
    assert!(pings(&site.bob));
    assert_eq!(bob.lines_with("has ended"), 0);
    drop(server);
    let [one, two, three] = site.daemons;
    assert_eq!(one.end(Signal::KILL), None);
    site.daemons = [site.server.irmd(), two, three];
    let _server = site.serve();
    eventually("bob is back", || pings(&site.bob));
    assert!(!pings(&site.alice));
    assert!(!site.server.must("ovpn", "status").contains("10.66.0.2"));
    assert_eq!(laptop.lines_with("is up"), 0);
}

pub(crate) fn a_client_has_the_addresses_and_networks_that_its_line_says() {
    let site = Site::new();
    let _server = site.serve();
    let line = site.invite("branch --server 10.66.0.1");
    // By hand, before it has joined.
    site.write_prefixes("branch", "10.9.0.77 172.16.2.0/24");
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
