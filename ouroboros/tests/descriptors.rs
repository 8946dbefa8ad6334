//! A server without descriptors: alone in its process, whose limit it lowers.

use std::{fs::File, net::Ipv4Addr, pin::pin, time::Duration};

use futures_lite::future;
use ouroboros::{FlowSpec, Irm, transport::Udp};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_server_that_runs_out_of_descriptors_goes_on_accepting_when_there_are_some() {
    future::block_on(async {
        let limit = Rlimit { current: Some(128), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).expect("lowered");
        let loopback = Ipv4Addr::LOCALHOST.into();
        let (server, client) = (Irm::new(), Irm::new());
        let port = 20_935;
        let at = Udp::at(loopback).port(port);
        server.bootstrap("my_layer", at).await.expect("a socket").register("x").await.expect("x");
        let to = Udp::connect_only(loopback).server((loopback, port).into());
        client.bootstrap("my_layer", to).await.expect("a socket");
        let spec = || FlowSpec::raw().encrypted().timeout(Duration::from_secs(2));
        // async-io's reactor begins with its first timer, and cannot without descriptors.
        async_io::Timer::after(Duration::from_millis(1)).await;
        // One descriptor is left: the client's socket, and none for the server's.
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        taken.pop();
        let mut accepting = pin!(server.accept("x"));
        for _ in 0..3 {
            let none = future::or(async { Some(accepting.as_mut().await) }, async {
                let failed = client.allocate("x", spec()).await;
                assert!(failed.is_err(), "without a descriptor: {failed:?}");
                None
            });
            let none = none.await;
            assert!(none.is_none(), "accept returned {none:?}");
        }
        drop(taken);
        let (accepted, allocated) = future::zip(accepting, client.allocate("x", spec())).await;
        assert!(accepted.is_ok() && allocated.is_ok(), "{accepted:?} {allocated:?}");
    });
}
