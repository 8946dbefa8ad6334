//! Flows whose packets do not pass the daemon: that they are had where they can
//! be, and that they go on when the daemons are killed and started again. With
//! the real tools on real interfaces.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, thread};

use async_std::task::block_on;
use futures_lite::future;
use ouroboros::{Flow, FlowSpec, Irm};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    host::{ETH, Host, PATIENCE, Pair, Running, UDP4, eventually},
    probe::transfer,
};

/// Whether each flow of a host is relayed, as `irm` tells.
pub(crate) fn relayed(host: &Host) -> Vec<bool> {
    let list = host.must("irm", "--json flow list");
    let flows: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    flows.iter().map(|flow| flow["relayed"].as_bool().expect("a boolean")).collect()
}

/// How many of a process's threads relay.
fn relaying(daemon: &Option<Running>) -> usize {
    let daemon = daemon.as_ref().expect("it runs");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs");
    let name = |task: PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.filter(|task| name(task.as_ref().expect("an entry").path()).starts_with("relay")).count()
}

pub(crate) fn tunnels_outlive_both_daemons_and_the_next_ones_serve_more() {
    for layer in [UDP4, ETH] {
        let mut pair = Pair::new(layer);
        let _first = pair.tunnel("--crypt");
        for (host, daemon) in [&pair.one, &pair.two].into_iter().zip(&pair.daemons) {
            assert_eq!((relayed(host), relaying(daemon)), (vec![false], 0));
        }
        pair.kill();
        transfer(&pair.two, &pair.one, "10.9.0.1:1", 1000);
        transfer(&pair.one, &pair.two, "10.9.0.2:1", 1000);

        pair.start();
        let (server, client) = (&pair.one, &pair.two);
        eventually("the next daemons know of the flow", || {
            [server, client].iter().all(|host| relayed(host) == [false])
        });
        server.must("irm", "reg name other layer my_layer");
        let second = server.start("ovpn", "--ip 10.8.0.1 --mask 255.255.255.0", "Waiting");
        server.must("irm", &format!("bind process {} name other", second.id()));
        let _client = client.start("ovpn", "-n other -i 10.8.0.2/24 -C", "is up");
        transfer(client, server, "10.8.0.1:1", 1000);
        transfer(client, server, "10.9.0.1:1", 1000);
        assert_eq!((relayed(server), relayed(client)), (vec![false; 2], vec![false; 2]));
    }
}

pub(crate) fn a_tunnel_over_several_flows_outlives_the_daemons_that_granted_them() {
    for layer in [UDP4, ETH] {
        let mut pair = Pair::new(layer);
        let server = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
        let client = pair.client("--crypt --queues 3");
        server.must_say("is up");
        assert_eq!((relayed(&pair.one), relayed(&pair.two)), (vec![false; 3], vec![false; 3]));
        transfer(&pair.two, &pair.one, "10.9.0.1:1", 1 << 20);
        pair.kill();
        transfer(&pair.one, &pair.two, "10.9.0.2:1", 1 << 20);
        for host in [&pair.one, &pair.two] {
            assert!(host.ip("-d link show tun0").contains("multi_queue"));
        }
        drop((server, client));
    }
}

pub(crate) fn a_server_that_waits_meets_the_next_daemon() {
    let mut pair = Pair::new(UDP4);
    let _far = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    // The kernel's list has the socket of each connection beside the listener.
    let socket = pair.one.socket().display().to_string();
    let sockets = || pair.one.namespace.shell("cat /proc/net/unix").matches(&socket).count();
    eventually("the server asks the daemon", || sockets() == 2);
    pair.kill();
    pair.start();
    let _near = pair.client("-C");
    transfer(&pair.two, &pair.one, "10.9.0.1:1", 1000);
}

pub(crate) fn root_without_the_right_to_packet_sockets_is_given_none() {
    let pair = Pair::new(ETH);
    let _far = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let words = "--bounding-set=-net_raw ovpn -n my_vpn -i 10.9.0.2/24 --crypt";
    let _near = pair.two.start("setpriv", words, "is up");
    assert_eq!((relayed(&pair.one), relayed(&pair.two)), (vec![false], vec![true]));
    assert_eq!((relaying(&pair.daemons[0]), relaying(&pair.daemons[1])), (0, 2));
    // More than any buffer on the way holds.
    transfer(&pair.two, &pair.one, "10.9.0.1:1", 16 << 20);
    transfer(&pair.one, &pair.two, "10.9.0.2:1", 16 << 20);
}

/// Runs `work` inside a host, as a user without any privilege if so wanted. A
/// connection's credentials are the thread's.
fn inside<T: Send>(host: &Host, root: bool, work: impl FnOnce() -> T + Send) -> T {
    host.namespace.inside(|| {
        if !root {
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            set_thread_groups(&[]).expect("root may");
            set_thread_res_gid(group, group, group).expect("root may");
            set_thread_res_uid(user, user, user).expect("root may");
        }
        work()
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

pub(crate) fn an_application_without_privilege_has_its_ethernet_flows_relayed_and_its_udp_flows_not()
 {
    for (layer, expected) in [(ETH, true), (UDP4, false)] {
        let pair = Pair::new(layer);
        let (server, client) = (&pair.one, &pair.two);
        server.must("irm", &format!("bind process {} name my_vpn", std::process::id()));
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(client.socket(), everybody).expect("set");
        let (far, near) = (Irm::connect_to(server.socket()), Irm::connect_to(client.socket()));
        let spec = FlowSpec::raw().encrypted();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| inside(server, true, || block_on(far.accept("my_vpn"))));
            let allocated = inside(client, false, || block_on(near.allocate("my_vpn", spec)));
            let accepted = accepting.join().expect("no panic").expect("accepted");
            let allocated = allocated.expect("allocated");
            block_on(future::or(echo(&accepted, &allocated), late()));
            assert_eq!((relayed(server), relayed(client)), (vec![false], vec![expected]));
        });
    }
}

/// Only ends a test that has failed.
async fn late() {
    async_std::task::sleep(PATIENCE).await;
    panic!("never");
}
