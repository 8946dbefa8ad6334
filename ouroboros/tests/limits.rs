//! What a resource manager holds at most, and what becomes of who comes too many.

use std::{net::Ipv4Addr, time::Duration};

use futures_lite::future;
use ouroboros::{
    AllocateError, FlowSpec, Irm,
    proto::allocation::Limits,
    transport::{
        Udp,
        fault::{Faults, Faulty},
        memory::Network,
    },
};

#[test]
fn a_server_has_no_more_flows_than_its_manager_allows() {
    future::block_on(async {
        let network = Network::new();
        let limits = Limits { established: 1, ..Limits::default() };
        let (server, client) = (Irm::with_limits(limits), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        layer.register("greeter").await.expect("registered");
        client.bootstrap("my_layer", network.station()).await.expect("a station");
        let spec = || FlowSpec::raw().encrypted();
        let allocate = client.allocate("greeter", spec());
        let (accepted, allocated) = future::zip(server.accept("greeter"), allocate).await;
        let (accepted, allocated) = (accepted.expect("accepted"), allocated.expect("allocated"));
        // The next one is told while there is no room, and has it once there is.
        let short = spec().timeout(Duration::from_secs(1));
        let full = future::or(async { Err(client.allocate("greeter", short).await) }, async {
            Ok(server.accept("greeter").await)
        });
        let full = full.await;
        assert!(matches!(full, Err(Err(AllocateError::Busy))), "{full:?}");
        drop((accepted, allocated));
        let allocate = client.allocate("greeter", spec());
        let (accepted, allocated) = future::zip(server.accept("greeter"), allocate).await;
        assert!(accepted.is_ok() && allocated.is_ok(), "{accepted:?} {allocated:?}");
    });
}

#[test]
fn what_a_socket_drops_since_nobody_reads_is_counted() {
    future::block_on(async {
        let loopback = Ipv4Addr::LOCALHOST.into();
        let (server, client, port) = (Irm::new(), Irm::new(), 20_936);
        let layer = server.bootstrap("my_layer", Udp::at(loopback).port(port)).await;
        layer.expect("a socket").register("greeter").await.expect("registered");
        let to = Udp::connect_only(loopback).server((loopback, port).into());
        client.bootstrap("my_layer", to).await.expect("a socket");
        let allocate = client.allocate("greeter", FlowSpec::raw());
        let (accepted, allocated) = future::zip(server.accept("greeter"), allocate).await;
        let accepted = accepted.expect("accepted");
        let watcher = accepted.watcher();
        let (_sender, mut receiver) = accepted.split();
        let (mut sender, _receiver) = allocated.expect("allocated").split();
        // Who has this is taken to read, and so nobody else does.
        let _ = receiver.readiness();
        let mut sent = 0;
        while watcher.statistics().socket_drops == 0 {
            assert!(sent < 10_000_000, "a buffer without end");
            for _ in 0..100 {
                sender.push(1000).expect("room").fill(7);
                sender.flush().expect("sent");
                sent += 1;
            }
        }
        // What is in the buffer is there still.
        let mut received = 0;
        while let count @ 1.. = receiver.try_receive().expect("the flow is there") {
            received += count as u64;
        }
        let lost = watcher.statistics().socket_drops;
        assert!(received > 0 && received + lost <= sent, "{received} + {lost} of {sent}");
    });
}

#[test]
fn a_sender_learns_how_many_packets_its_peer_did_not_get() {
    future::block_on(async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        layer.register("greeter").await.expect("registered");
        let faults = Faults { lost: 100, ..Faults::default() };
        let faulty = Faulty::new(network.station(), faults, 7);
        client.bootstrap("my_layer", faulty).await.expect("a station");
        let allocate = client.allocate("greeter", FlowSpec::raw().encrypted());
        let (accepted, allocated) = future::zip(server.accept("greeter"), allocate).await;
        let watcher = allocated.as_ref().expect("allocated").watcher();
        let (_sender, mut receiver) = accepted.expect("accepted").split();
        let (mut sender, _receiver) = allocated.expect("allocated").split();
        let (mut sent, mut received) = (0, 0);
        for _ in 0..100 {
            for _ in 0..10 {
                sender.push(100).expect("room").fill(7);
                sent += 1;
            }
            sender.flush().expect("sent");
            while let count @ 1.. = receiver.try_receive().expect("the flow is there") {
                received += count as u64;
            }
        }
        let lost = sent - received;
        assert!(lost > 0);
        // A question or its answer may be lost, too.
        while watcher.statistics().undelivered < lost {
            receiver.try_receive().expect("the flow is there");
            async_io::Timer::after(Duration::from_millis(20)).await;
        }
        assert!(watcher.statistics().undelivered < sent / 2);
    });
}
