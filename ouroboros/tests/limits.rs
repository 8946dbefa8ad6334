//! What a resource manager holds at most, and what becomes of who comes too many.

use std::time::Duration;

use futures_lite::future;
use ouroboros::{
    AllocateError, FlowSpec, Irm, proto::endpoint::Limits, transport::memory::Network,
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
