//! Flows whose packets do not pass the daemon: that they are had where they can
//! be, and that they go on when the daemons are killed and started again. With
//! the real tools on real interfaces.

#[allow(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::PathBuf,
    thread,
};

use async_std::task::block_on;
use common::{Host, Running, cable, eventually};
use futures_lite::future;
use ouroboros::{Flow, FlowSpec, Irm};
use rustix::{
    process::{Gid, Uid},
    thread::{
        LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

const ETH: [&str; 2] = ["type eth-dix name dix layer my_layer dev eth0"; 2];
const UDP: [&str; 2] = [
    "type udp name udp layer my_layer ip 10.66.0.1",
    "type udp name udp layer my_layer ip 10.66.0.2",
];
/// `my_vpn` and `other`, where a UDP layer looks for names.
const NAMES: &str = "10.66.0.1 2694581a473adbf3d988f56c79953cae 795f3202b17cb6bc3d4b771d8c6c9eaf\n";

fn hosts() -> (Host, Host) {
    let (server, client) = cable();
    client.hosts(NAMES);
    (server, client)
}

/// Starts both daemons and tells them what they have to know.
fn daemons(server: &Host, client: &Host, layer: [&str; 2]) -> [Running; 2] {
    let daemons = [server.irmd(), client.irmd()];
    server.must("irm", &format!("ipcp bootstrap {}", layer[0]));
    client.must("irm", &format!("ipcp bootstrap {}", layer[1]));
    server.must("irm", "reg name my_vpn layer my_layer");
    server.must("irm", "bind program ovpn name my_vpn");
    daemons
}

/// A tunnel whose client is started by another program, or `env`.
fn tunnel(server: &Host, client: &Host, (starter, words): (&str, &str)) -> [Running; 2] {
    let far = server.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let words = format!("{words} ovpn -n my_vpn -i 10.9.0.2/24 --crypt");
    let near = client.start(starter, &words, "is up");
    eventually("the server's device", || server.has_device("tun0"));
    [far, near]
}

/// Whether each flow of a host is relayed, as `irm` tells.
fn relayed(host: &Host) -> Vec<bool> {
    let list = host.must("irm", "--json flow list");
    let flows: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    flows.iter().map(|flow| flow["relayed"].as_bool().expect("a boolean")).collect()
}

/// How many of a process's threads relay.
fn relaying(daemon: &Running) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs");
    let name = |task: PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.filter(|task| name(task.as_ref().expect("an entry").path()).starts_with("relay")).count()
}

#[test]
fn tunnels_outlive_both_daemons_and_the_next_ones_serve_more() {
    for layer in [UDP, ETH] {
        let (server, client) = hosts();
        let old = daemons(&server, &client, layer);
        let _first = tunnel(&server, &client, ("env", ""));
        for (host, daemon) in [(&server, &old[0]), (&client, &old[1])] {
            assert_eq!((relayed(host), relaying(daemon)), (vec![false], 0));
        }
        for daemon in old {
            assert_eq!(daemon.end("KILL"), None);
        }
        transfer(&client, &server, "10.9.0.1:1", 1000);
        transfer(&server, &client, "10.9.0.2:1", 1000);

        let _daemons = daemons(&server, &client, layer);
        server.must("irm", "reg name other layer my_layer");
        let second = server.start("ovpn", "--ip 10.8.0.1 --mask 255.255.255.0", "Waiting");
        server.must("irm", &format!("bind process {} name other", second.id()));
        let _client = client.start("ovpn", "-n other -i 10.8.0.2/24 -C", "is up");
        eventually("the second server's device", || server.has_device("tun1"));
        transfer(&client, &server, "10.8.0.1:1", 1000);
        transfer(&client, &server, "10.9.0.1:1", 1000);
        assert_eq!((relayed(&server), relayed(&client)), (vec![false], vec![false]));
    }
}

#[test]
fn a_server_that_waits_meets_the_next_daemon() {
    let (server, client) = hosts();
    let old = daemons(&server, &client, UDP);
    let _far = server.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    for daemon in old {
        assert_eq!(daemon.end("KILL"), None);
    }
    let _daemons = daemons(&server, &client, UDP);
    let _near = client.start("ovpn", "-n my_vpn -i 10.9.0.2/24 -C", "is up");
    transfer(&client, &server, "10.9.0.1:1", 1000);
}

#[test]
fn root_without_the_right_to_packet_sockets_is_given_none() {
    let (server, client) = hosts();
    let daemons = daemons(&server, &client, ETH);
    let _ends = tunnel(&server, &client, ("setpriv", "--bounding-set=-net_raw"));
    assert_eq!((relayed(&server), relayed(&client)), (vec![false], vec![true]));
    assert_eq!((relaying(&daemons[0]), relaying(&daemons[1])), (0, 2));
    // More than any buffer on the way holds.
    transfer(&client, &server, "10.9.0.1:1", 16 << 20);
    transfer(&server, &client, "10.9.0.2:1", 16 << 20);
}

/// Sends `size` bytes over TCP.
fn transfer(from: &Host, to: &Host, address: &str, size: usize) {
    let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let listener = inside(to, true, || TcpListener::bind(address).expect("listening"));
    thread::scope(|scope| {
        let arrived = scope.spawn(|| {
            let (mut stream, mut arrived) = (listener.accept().expect("connected").0, Vec::new());
            stream.read_to_end(&mut arrived).expect("read");
            arrived
        });
        inside(from, true, || {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.write_all(&data).expect("written");
        });
        assert!(arrived.join().expect("no panic") == data, "what arrived is what was sent");
    });
}

/// Runs `work` on a thread inside a host's namespace, as a user without any
/// privilege if so wanted. The connection's credentials are the thread's.
fn inside<T: Send>(host: &Host, root: bool, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{}", host.name)).expect("a namespace");
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("root may enter it");
            if !root {
                let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
                set_thread_groups(&[]).expect("root may");
                set_thread_res_gid(group, group, group).expect("root may");
                set_thread_res_uid(user, user, user).expect("root may");
            }
            work()
        });
        thread.join().expect("no panic inside")
    })
}

async fn echo(a: &Flow, b: &Flow) {
    for (from, to) in [(a, b), (b, a)] {
        from.send(b"a packet").await.expect("sent");
        let mut buffer = [0; 2000];
        let size = to.recv(&mut buffer).await.expect("received");
        assert_eq!(&buffer[..size], b"a packet");
    }
}

#[test]
fn an_application_without_privilege_has_its_ethernet_flows_relayed_and_its_udp_flows_not() {
    for (layer, expected) in [(ETH, true), (UDP, false)] {
        let (server, client) = hosts();
        let _daemons = daemons(&server, &client, layer);
        server.must("irm", &format!("bind process {} name my_vpn", std::process::id()));
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(client.socket(), everybody).expect("set");
        let (far, near) = (Irm::connect_to(server.socket()), Irm::connect_to(client.socket()));
        let spec = FlowSpec::raw().encrypted();
        thread::scope(|scope| {
            let accepting =
                scope.spawn(|| inside(&server, true, || block_on(far.accept("my_vpn"))));
            let allocated = inside(&client, false, || block_on(near.allocate("my_vpn", spec)));
            let accepted = accepting.join().expect("no panic").expect("accepted");
            let allocated = allocated.expect("allocated");
            block_on(future::or(echo(&accepted, &allocated), late()));
            assert_eq!((relayed(&server), relayed(&client)), (vec![false], vec![expected]));
        });
    }
}

/// Only ends a test that has failed.
async fn late() {
    async_std::task::sleep(std::time::Duration::from_secs(15)).await;
    panic!("never");
}
