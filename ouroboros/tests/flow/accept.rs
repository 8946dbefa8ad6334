//! Flows that are accepted: by whom, under which policy, and none is lost.

use super::*;

#[test]
fn a_dropped_accept_loses_no_flow() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let impatient = async {
            loop {
                let accepted = future::or(async { Some(server.accept("my_vpn").await) }, async {
                    future::yield_now().await;
                    None
                });
                if let Some(flow) = accepted.await {
                    return flow.expect("accepted");
                }
            }
        };
        let spec = FlowSpec::raw().encrypted();
        let (accepted, allocated) = future::zip(impatient, client.allocate("my_vpn", spec)).await;
        exchange(&accepted, &allocated.expect("allocated")).await;
    });
}

#[test]
fn a_name_that_is_registered_later_is_accepted_by_who_waits_for_any() {
    future::block_on(async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a layer");
        client.bootstrap("my_layer", network.station()).await.expect("a layer");
        let later = async {
            // Once who waits has begun to.
            future::yield_now().await;
            layer.register("late").await.expect("registered");
            client.allocate("late", FlowSpec::raw().encrypted()).await
        };
        let (accepted, allocated) = future::zip(server.accept_any(), later).await;
        assert_eq!(accepted.expect("accepted").info().name.as_str(), "late");
        allocated.expect("allocated");
    });
}

#[test]
fn a_stricter_policy_ends_the_flows_that_do_not_meet_it() {
    future::block_on(async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a layer");
        layer.register("my_vpn").await.expect("registered");
        client.bootstrap("my_layer", network.station()).await.expect("a layer");
        let pair = |spec| future::zip(server.accept("my_vpn"), client.allocate("my_vpn", spec));
        let plain = pair(FlowSpec::raw()).await.0.expect("accepted");
        let encrypted = pair(FlowSpec::raw().encrypted()).await;
        let (kept, keeps) = (encrypted.0.expect("accepted"), encrypted.1.expect("allocated"));
        let name = "my_vpn".parse().expect("a name");
        server.set_policy(name, ServerSecurity::encrypted()).expect("set");
        assert!(matches!(plain.recv(&mut [0; 9]).await, Err(FlowError::Closed)));
        keeps.send(b"still here").await.expect("sent");
        assert_eq!(kept.recv(&mut [0; 99]).await.expect("received"), 10);
    });
}

#[test]
fn a_program_that_waits_and_is_busy_keeps_no_client_waiting() {
    future::block_on(async {
        for spec in [FlowSpec::raw(), FlowSpec::reliable().encrypted()] {
            let (server, client) = in_memory().await;
            let mut accepting = pin!(server.accept("my_vpn"));
            assert!(future::poll_once(accepting.as_mut()).await.is_none());
            // The program does something else now.
            let allocated = client.allocate("my_vpn", spec).await.expect("allocated");
            let accepted = accepting.await.expect("accepted");
            allocated.send(b"here").await.expect("sent");
            assert_eq!(accepted.recv_vec().await.expect("received"), b"here");
        }
    });
}
