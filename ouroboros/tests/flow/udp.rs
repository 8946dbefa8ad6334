//! Flows over UDP: both families, and where names are.

use super::*;

#[test]
fn udp_flows_go_over_both_families_and_share_a_port() {
    for address in ["127.0.0.1", "::1"] {
        block_on_udp(address.parse().expect("an address"));
    }
}

fn block_on_udp(ip: IpAddr) {
    // A port that is free, from the kernel.
    let port = UdpSocket::bind((ip, 0)).and_then(|s| s.local_addr()).expect("loopback").port();
    future::block_on(async {
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("layer", Udp::at(ip).port(port)).await.expect("bound");
        layer.register("my_vpn").await.expect("registered");
        let there = Udp::connect_only(ip).server((ip, port).into());
        client.bootstrap("layer", there).await.expect("an address");
        let first = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        let second = pair(&server, &client, FlowSpec::raw()).await;
        for (accepted, allocated) in [&first, &second] {
            exchange(accepted, allocated).await;
        }
        // The port is free with the IPCP; the flows go on.
        drop(layer);
        assert_eq!(server.destroy("ipcp-0"), Destruction::Destroyed);
        let layer = server.bootstrap("layer", Udp::at(ip).port(port)).await.expect("bound again");
        layer.register("my_vpn").await.expect("registered");
        let third = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        for (accepted, allocated) in [&first, &second, &third] {
            exchange(accepted, allocated).await;
        }
    });
}

#[test]
fn a_given_resolver_says_where_names_are_and_an_address_that_never_answers_holds_nobody_up() {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let silent = UdpSocket::bind((loopback, 0)).expect("loopback");
    let first = silent.local_addr().expect("bound");
    let port = UdpSocket::bind((loopback, 0)).and_then(|s| s.local_addr()).expect("bound").port();
    let resolver = move |name: &Name| match name.to_string().as_str() {
        // One that this layer does not reach, one that is silent, and the server.
        "my_vpn" => Ok(vec![([0; 16], port).into(), first, (loopback, port).into()]),
        "unknown" => Ok(Vec::new()),
        _ => Err(io::Error::other("the directory is closed")),
    };
    future::block_on(async {
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("layer", Udp::at(loopback).port(port)).await.expect("bound");
        layer.register("my_vpn").await.expect("registered");
        let there = Udp::connect_only(loopback).resolver(resolver);
        client.bootstrap("layer", there).await.expect("an address");
        // All of the time is the first address's as well: were it waited for until
        // it is over, nothing would be left for the server.
        let spec = || FlowSpec::raw().encrypted().timeout(Duration::from_secs(10));
        let (accepted, allocated) = pair(&server, &client, spec()).await;
        exchange(&accepted, &allocated).await;
        assert!(silent.recv(&mut [0; 2048]).is_ok_and(|size| size > 0), "the first was asked");

        let unknown = client.allocate("unknown", spec()).await;
        assert!(matches!(unknown, Err(AllocateError::NotResolved { .. })), "{unknown:?}");
        let failed = client.allocate("other", spec()).await.map(drop);
        let failed = failed.expect_err("an error of the resolver").to_string();
        assert!(failed.contains("the directory is closed"), "{failed}");
    });
}
