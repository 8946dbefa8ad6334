//! A server that gets another key: who was told beforehand follows it, and nobody else.

use std::fs;

use rustix::process::Signal;

use crate::{
    host::{Host, eventually},
    site::{Site, pings},
};

fn key(host: &Host) -> String {
    let shown = host.must("irm", "key show");
    shown.split_whitespace().next().expect("a fingerprint").to_owned()
}

/// Some seconds for each of the three restarts that clients have to notice.
pub(crate) fn clients_follow_a_server_to_the_key_that_it_has_announced() {
    let site = Site::new();
    let server = site.serve();
    let join = |host: &Host, words: &str| {
        let line = site.invite(words);
        host.start("ovpn", &format!("join {line}"), "is up")
    };
    // One that was told the key, and one that knows it from the first use.
    let alice = join(&site.alice, "alice --server 10.66.0.1");
    drop(join(&site.bob, "bob --server 10.67.0.1"));
    let file = site.bob.folder.path().join("trust/ovpn.toml");
    let text = fs::read_to_string(&file).expect("read");
    let lines = text.lines().filter(|line| !line.starts_with("server-key"));
    fs::write(&file, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    let bob = site.bob.start("ovpn", &site.bob.configured("office"), "is up");
    let old = key(&site.server);
    let made = site.server.must("irm", "key generate next");
    let next = made.split_whitespace().next().expect("a fingerprint");
    for client in [&alice, &bob] {
        client.must_say(&format!("The server announces its next key: {next}"));
    }
    site.server.must("irm", "key promote");
    assert_eq!((key(&site.server).as_str(), old == next), (next, false));
    assert_eq!(server.end(Signal::KILL), None);
    let server = site.serve();
    for (host, client) in [(&site.alice, &alice), (&site.bob, &bob)] {
        eventually("a client is back with the next key", || pings(host));
        client.must_say(&format!("The peer's key is {next}."));
    }
    // Also when they are started anew.
    assert_eq!(alice.end(Signal::TERM), Some(0));
    let alice = site.alice.start("ovpn", &site.alice.configured("office"), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    // As one that was away when it was announced.
    assert_eq!(alice.end(Signal::TERM), Some(0));
    let kept = site.alice.folder.path().join("trust/next_keys");
    let text = fs::read_to_string(&kept).expect("kept");
    fs::remove_file(&kept).expect("removed");
    let refused = site.alice.run("ovpn", &site.alice.configured("office"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    for part in [next, old.as_str(), "while this machine was away", "irm key show"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    fs::write(&kept, text).expect("written");
    // Whoever has the old key is not taken for the server any more.
    let folder = site.server.folder.path().join("trust");
    fs::copy(folder.join("identity.pem.old"), folder.join("identity.pem")).expect("copied");
    assert_eq!(server.end(Signal::KILL), None);
    let _server = site.serve();
    eventually("the client refuses it", || {
        !pings(&site.bob) && bob.lines_with("No flow yet: the server") > 0
    });
    let refused = site.alice.run("ovpn", &site.alice.configured("office"));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
