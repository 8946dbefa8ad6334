//! Bulk transfers over reliable flows that daemons have granted: every byte, over a socket
//! that was handed over and relayed, and when the daemons are killed meanwhile.

mod daemon;
mod tool;
#[path = "../../ouroboros/tests/transfer/mod.rs"]
mod transfer;

use std::{
    net::Ipv4Addr,
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use async_std::task::block_on;
use daemon::{Host, hosts};
use futures_lite::{AsyncWriteExt, future};
use ouroboros::{Flow, FlowSpec, Irm, transport::Udp};
use ouroboros_testing::Folder;
use rustix::process::Signal;
use tool::{Daemon, irm, socket_in, told};
use transfer::{Pattern, in_time, read, size, transfer};

/// A loopback address that no other test has.
fn address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Relaxed) as u8)
}

async fn flows(server: &Irm, client: &Irm, spec: FlowSpec) -> (Flow, Flow) {
    let (accepted, allocated) =
        future::zip(server.accept("files"), client.allocate("files", spec)).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

fn reliable() -> FlowSpec {
    FlowSpec::reliable().encrypted()
}

#[test]
fn a_transfer_arrives_whole_over_a_socket_that_was_handed_over() {
    block_on(in_time(async {
        let ip = address();
        let server = Host::new(Udp::at(ip.into()).port(3435)).await;
        let client = Host::new(Udp::connect_only(ip.into()).server((ip, 3435).into())).await;
        server.register_and_bind("files").await;
        let (accepted, allocated) =
            flows(&server.application, &client.application, reliable()).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![false], vec![false]));
        transfer(allocated, accepted, size()).await;
    }));
}

#[test]
fn a_transfer_arrives_whole_through_a_relay() {
    block_on(in_time(async {
        let (server, client) = hosts().await;
        server.register_and_bind("files").await;
        let (accepted, allocated) =
            flows(&server.application, &client.application, reliable()).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![true], vec![true]));
        transfer(allocated, accepted, size()).await;
    }));
}

#[test]
fn a_transfer_goes_on_when_both_daemons_are_killed() {
    let ip = address();
    let folders = [Folder::new(), Folder::new()];
    let sockets = folders.each_ref().map(socket_in);
    let daemons = sockets.each_ref().map(|socket| Daemon::start(socket));
    let [server, client] = &sockets;
    let udp = "ipcp bootstrap type udp name udp layer my_layer ip";
    told(irm(server, &format!("{udp} {ip}")));
    told(irm(server, "name register files layer my_layer"));
    told(irm(server, &format!("bind process {} name files", process::id())));
    told(irm(client, &format!("{udp} {}", address())));
    let [server, client] = sockets.map(Irm::connect_to);
    block_on(in_time(async {
        let spec = reliable().at_server(ip.to_string().parse().expect("a host"));
        let (accepted, allocated) = flows(&server, &client, spec).await;
        let (mut writer, mut reader) = (allocated.into_stream(), accepted.into_stream());
        let mut daemons = Some(daemons);
        let write = async {
            let mut pattern = Pattern::new(7);
            while pattern.count() < 8_000_000 {
                writer.write_all(pattern.next(u64::MAX)).await.expect("written");
                if pattern.count() > 4_000_000
                    && let Some(daemons) = daemons.take()
                {
                    for daemon in daemons {
                        assert_eq!(daemon.end(Signal::KILL).0, None);
                    }
                }
            }
            writer.close().await.expect("the peer has all of it");
            pattern.count()
        };
        let (written, count) = future::zip(write, read(&mut reader, 7)).await;
        assert_eq!(written, count);
    }));
}
