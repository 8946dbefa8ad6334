//! Three offices with a network behind each: their hosts reach one another by what is typed
//! at the gateways.

use rustix::process::Signal;

use crate::{
    host::{Host, eventually},
    site::{Site, reaches},
};

const SERVE: &str = "--serve office --dev office0 --ip 10.9.0.1/24 --route 172.16.0.0/16";

/// A host in the network 172.16.`number`.0/24 behind an office's gateway, which is its way
/// to everything else.
fn behind(gateway: &Host, number: u8) -> Host {
    let host = Host::new();
    gateway.namespace.cable("lan0", &host.namespace, "eth0");
    gateway.ip(&format!("addr add 172.16.{number}.1/24 dev lan0"));
    gateway.ip("link set lan0 up");
    gateway.namespace.shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.ip(&format!("addr add 172.16.{number}.9/24 dev eth0"));
    host.ip("link set eth0 up");
    host.ip(&format!("route add default via 172.16.{number}.1"));
    host
}

pub(crate) fn hosts_behind_three_offices_reach_one_another() {
    let site = Site::new();
    let hosts = [(1, &site.server), (2, &site.alice), (3, &site.bob)]
        .map(|(number, gateway)| (number, behind(gateway, number)));
    let server = site.server.start("ovpn", SERVE, "Waiting");
    let join = |gateway: &Host, words: &str| {
        let line = site.invite(words);
        gateway.start("ovpn", &format!("join {line} --accept-routes"), "is up")
    };
    let _north = join(&site.alice, "north --server 10.66.0.1 --behind 172.16.2.0/24");
    let _south = join(&site.bob, "south --server 10.67.0.1 --behind 172.16.3.0/24");
    let all_reach_all = |when: &str| {
        for (from, host) in &hosts {
            for (to, _) in hosts.iter().filter(|(to, _)| to != from) {
                let what = format!("{when}: from office {from} to office {to}");
                eventually(&what, || reaches(host, &format!("172.16.{to}.9")));
            }
        }
    };
    all_reach_all("at first");
    assert_eq!(server.end(Signal::KILL), None);
    let _server = site.server.start("ovpn", SERVE, "Waiting");
    all_reach_all("after the server was started anew");

    site.server.must("ovpn", "clients revoke south");
    let [(_, first), ..] = &hosts;
    eventually("the south is cut off", || !reaches(first, "172.16.3.9"));
    eventually("the north is not", || reaches(first, "172.16.2.9"));
}
