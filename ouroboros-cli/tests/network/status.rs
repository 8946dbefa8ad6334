//! What running tunnels tell of themselves, over real sockets.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::Signal;

use crate::{
    host::{Host, Pair, UDP4, eventually},
    probe::{INSIDE, ping_until_answered},
};

/// What `ovpn status --json` says, as a list of tunnels.
fn status(host: &Host, more: &str) -> Vec<serde_json::Value> {
    let text = host.must("ovpn", &format!("status --json {more}"));
    serde_json::from_str(&text).expect("a list")
}

/// What an HTTP client is answered at a port of the host.
fn scrape(host: &Host, port: u16) -> String {
    let mut stream =
        host.namespace.inside(|| TcpStream::connect(("127.0.0.1", port))).expect("connected");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

/// The value of a metric, of the first sample whose labels have `label`.
fn sample(page: &str, name: &str, label: &str) -> f64 {
    let start = format!("{name}{{");
    let found = page.lines().find(|line| line.starts_with(&start) && line.contains(label));
    let value = found.and_then(|line| line.rsplit(' ').next()).expect("a sample");
    value.parse().expect("a number")
}

pub(crate) fn a_server_and_its_clients_tell_how_their_tunnels_are() {
    let pair = Pair::new(UDP4);
    assert_eq!(status(&pair.one, ""), [] as [serde_json::Value; 0]);
    pair.one.ip("link set lo up");
    let words = "--dev office0 --ip 10.9.0.1/24 --metrics 127.0.0.1:9586";
    let server = pair.one.start("ovpn", words, "Waiting");
    let words = "-n my_vpn --ip server --native -I --dev";
    let first = pair.two.start("ovpn", &format!("{words} first"), "is up");
    let second = pair.two.start("ovpn", "-n my_vpn --ip server -C --dev second", "is up");
    ping_until_answered(&pair.two, INSIDE);
    let peers = || status(&pair.one, "--dev office0")[0]["peers"].as_array().cloned();
    eventually("both have addresses", || {
        let inner = |peer: &serde_json::Value| !peer["inner"].as_array().unwrap().is_empty();
        peers().is_some_and(|peers| peers.len() == 2 && peers.iter().all(inner))
    });

    let tunnels = status(&pair.one, "");
    assert_eq!(tunnels.len(), 1);
    let tunnel = &tunnels[0];
    assert_eq!(tunnel["role"], "server");
    assert_eq!(tunnel["device"], "office0");
    assert_eq!(tunnel["process"], server.id());
    assert_eq!(tunnel["addresses"], serde_json::json!(["10.9.0.1/24"]));
    let own = pair.two.must("irm", "key show");
    let own = own.split(' ').next().expect("a fingerprint");
    let peers = peers().expect("a list");
    let known = peers.iter().find(|peer| peer["identity"] == own).expect("the one that says so");
    let unknown = peers.iter().find(|peer| peer["identity"].is_null()).expect("the other");
    assert_eq!(known["inner"], serde_json::json!(["10.9.0.2/32"]));
    assert_eq!(unknown["inner"], serde_json::json!(["10.9.0.3/32"]));
    for peer in [known, unknown] {
        assert!(peer["outer"].as_str().expect("text").contains("10.66.0.2"), "{peer}");
        assert_eq!(peer["name"], "my_vpn");
        assert_eq!(peer["profile"], "native");
        assert!(peer["round_trip"].as_f64().is_some(), "{peer}");
        assert!(peer["mtu"].as_u64().is_some_and(|mtu| mtu > 1280), "{peer}");
        assert!(peer["age"].as_f64() > Some(0.0) && peer["silence"].is_f64(), "{peer}");
        assert!(peer["missed"].is_u64(), "{peer}");
    }
    let passed = |peer: &serde_json::Value| peer["traffic"]["received_packets"].as_u64();
    assert!(passed(known) > Some(0) || passed(unknown) > Some(0), "{tunnel}");

    let clients = status(&pair.two, "");
    let devices: Vec<_> = clients.iter().map(|client| client["device"].as_str()).collect();
    assert_eq!(devices, [Some("first"), Some("second")]);
    assert_eq!(clients[0]["role"], "client");
    assert_eq!(clients[0]["addresses"], serde_json::json!(["10.9.0.2/24"]));
    let peer = &clients[0]["peers"][0];
    assert!(peer["outer"].as_str().expect("text").contains("10.66.0.1"), "{peer}");
    assert!(peer["round_trip"].as_f64().is_some(), "{peer}");

    let table = pair.one.must("ovpn", "status");
    for part in ["office0: server", "10.9.0.2/32", "10.9.0.3/32", "native", "10.66.0.2"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let page = scrape(&pair.one, 9586);
    assert!(page.starts_with("HTTP/1.0 200 OK\r\n"), "{page}");
    assert!(page.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{page}");
    assert_eq!(sample(&page, "ovpn_peers", "office0"), 2.0);
    assert!(sample(&page, "ovpn_received_bytes_total", "office0") > 0.0, "{page}");
    assert!(sample(&page, "ovpn_peer_age_seconds", own) > 0.0, "{page}");

    // Who goes is not told of any more, and a killed one leaves nothing that is in the way.
    assert_eq!(second.end(Signal::TERM), Some(0));
    drop(first);
    eventually("nobody is left to ask", || status(&pair.two, "").is_empty());
    let none = pair.two.run("ovpn", "status --dev first");
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no tunnel has the device first"));
}

pub(crate) fn a_tunnel_that_waits_tells_what_it_waits_for() {
    let host = Host::new();
    let waiting = host.start("ovpn", "-n my_vpn --ip 10.9.0.2/24", "irmd is not running");
    eventually("it tells what it waits for", || {
        let text = host.must("ovpn", "status");
        text.contains(&waiting.id().to_string()) && text.contains("irmd is not running")
    });
    assert_eq!(waiting.end(Signal::TERM), Some(0));
    assert!(host.must("ovpn", "status").contains("No tunnel runs here."));
}

pub(crate) fn the_doctor_finds_what_is_missing() {
    let mut pair = Pair::new(UDP4);
    let text = pair.one.must("ovpn", "doctor");
    for part in ["/dev/net/tun can be opened", "irmd: it serves", "my_vpn is as it should be"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = pair.two.must("ovpn", "doctor --name my_vpn");
    assert!(text.contains("(2694581a473adbf3d988f56c79953cae) is at 10.66.0.1"), "{text}");
    let failed = |words: &str| {
        let output = pair.two.run("ovpn", words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    };
    let text = failed("doctor --name nobody_s_vpn");
    let problem = text.lines().find(|line| line.starts_with("PROBLEM")).expect("one");
    assert!(problem.contains("nobody_s_vpn is looked up as "), "{problem}");
    assert!(problem.contains("irm name dns nobody_s_vpn"), "{problem}");
    let findings: serde_json::Value =
        serde_json::from_str(&failed("doctor --json --name nobody_s_vpn")).expect("JSON");
    let findings = findings.as_array().expect("a list");
    let lookup = findings.iter().find(|finding| finding["check"] == "lookup").expect("looked up");
    assert_eq!(lookup["severity"], "problem");
    pair.kill();
    let output = pair.two.run("ovpn", "doctor");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("PROBLEM  irmd: irmd is not running"), "{text}");
}
