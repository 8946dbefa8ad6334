//! Flows through the public API, over an in-memory network.

mod accept;
#[path = "../exchange/mod.rs"]
mod exchange;
mod identity;
mod receive;
mod udp;

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, UdpSocket},
    pin::pin,
    time::Duration,
};

use exchange::exchange;
use futures_lite::future;
use ouroboros::{
    AllocateError, Destruction, Flow, FlowError, FlowSpec, Identity, Irm, Packets, ServerSecurity,
    Trust,
    crypto::{Cipher, Hash, KeyExchange, Suite, SystemEntropy, identity::IdentityKey},
    proto::negotiation::{Profile, ProfilePolicy},
    transport::{Udp, memory::Network},
    wire::{Name, QosSpec},
};

async fn pair(server: &Irm, client: &Irm, spec: FlowSpec) -> (Flow, Flow) {
    let (accepted, allocated) =
        future::zip(server.accept("my_vpn"), client.allocate("my_vpn", spec)).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

async fn in_memory() -> (Irm, Irm) {
    let network = Network::new();
    let (server, client) = (Irm::new(), Irm::new());
    let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
    layer.register("my_vpn").await.expect("registered");
    client.bootstrap("my_layer", network.station()).await.expect("a station");
    (server, client)
}

#[test]
fn every_suite_and_qos_carries_packets_both_ways() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let mut specs = vec![FlowSpec::raw(), FlowSpec::raw().with_crc32()];
        for kex in [KeyExchange::X25519, KeyExchange::P256, KeyExchange::X25519MlKem768] {
            for kdf in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
                for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
                    let spec = FlowSpec::raw().suite(Suite { kex, kdf, cipher });
                    specs.extend([spec.clone(), spec.with_crc32()]);
                }
            }
        }
        for spec in specs {
            let suite = spec.security().map(|security| security.suite);
            let (accepted, allocated) = pair(&server, &client, spec).await;
            assert_eq!(accepted.info().suite, suite);
            assert_eq!(allocated.info().suite, suite);
            exchange(&accepted, &allocated).await;
        }
    });
}

#[test]
fn an_encrypted_flow_is_hybrid_by_default_before_any_data() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        for flow in [&accepted, &allocated] {
            flow.ready().await.expect("keys are agreed");
            let kex = flow.info().suite.map(|suite| suite.kex);
            assert_eq!(kex, Some(KeyExchange::X25519MlKem768));
            assert_eq!(flow.info().profile, Some(Profile::Native));
            // That of the header's X25519 is over.
            let statistics = flow.statistics();
            assert_eq!((statistics.epoch, statistics.sent_packets), (1, 0));
        }
        exchange(&accepted, &allocated).await;
    });
}

#[test]
fn what_cannot_be_had_is_refused_with_its_reason() {
    future::block_on(async {
        let (_server, client) = in_memory().await;
        let in_order = QosSpec { bit_error_rate: 0, ..QosSpec::DATA };
        assert!(matches!(
            client.allocate("my_vpn", FlowSpec::with_qos(in_order)).await,
            Err(AllocateError::UnsupportedQos)
        ));
        assert!(matches!(
            client.allocate("nobody", FlowSpec::raw()).await,
            Err(AllocateError::NameNotFound)
        ));
        assert!(matches!(
            Irm::new().allocate("my_vpn", FlowSpec::raw()).await,
            Err(AllocateError::NoLayer)
        ));
        assert!(matches!(
            client.allocate("", FlowSpec::raw()).await,
            Err(AllocateError::InvalidName(_))
        ));
    });
}

#[test]
fn a_flow_says_what_it_cannot_send() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let (_accepted, flow) = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        let largest = flow.largest_packet();
        assert!(matches!(
            flow.send(&vec![0; largest + 1]).await,
            Err(FlowError::TooLarge { size, largest: l }) if size == largest + 1 && l == largest
        ));
        assert!(matches!(flow.send(&[]).await, Err(FlowError::Empty)));
    });
}

#[test]
fn closing_a_flow_wakes_who_waits_on_it() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw()).await;
        let closer = allocated.closer();
        let (result, ()) = future::zip(allocated.recv(&mut [0; 16]), async {
            closer.close();
        })
        .await;
        assert!(matches!(result, Err(FlowError::Closed)));

        let (_sender, mut receiver) = accepted.split();
        let closer = receiver.closer();
        let waiting = std::thread::spawn(move || receiver.receive());
        closer.close();
        assert!(matches!(waiting.join().expect("no panic"), Err(FlowError::Closed)));
    });
}

#[test]
fn a_silent_peer_is_noticed_and_a_living_one_is_not() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let qos = QosSpec { timeout: 1500, ..QosSpec::RAW };
        let (accepted, allocated) = pair(&server, &client, FlowSpec::with_qos(qos)).await;
        // Keepalives alone hold both ends up, for longer than the timeout.
        let (mut first, mut second) = ([0; 16], [0; 16]);
        let idle = future::or(
            async {
                async_io::Timer::after(Duration::from_secs(4)).await;
                "both alive"
            },
            future::or(
                async {
                    let _ = future::zip(allocated.recv(&mut first), future::pending::<()>()).await;
                    "never"
                },
                async {
                    let _ = accepted.recv(&mut second).await;
                    "ended"
                },
            ),
        )
        .await;
        assert_eq!(idle, "both alive");
        // An end that only stops reading still answers; one that is gone does not.
        drop(accepted);
        assert!(matches!(allocated.recv(&mut first).await, Err(FlowError::Down)));
    });
}

#[test]
fn a_name_that_requires_encryption_refuses_plain_flows() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let policy = ServerSecurity { require_encryption: true, ..Default::default() };
        server.set_policy("my_vpn".parse().expect("a name"), policy).expect("set");
        let refused = future::or(
            async { client.allocate("my_vpn", FlowSpec::raw()).await.map(drop) },
            async { server.accept("my_vpn").await.map(drop) },
        )
        .await;
        assert!(matches!(refused, Err(AllocateError::Refused(_))), "{refused:?}");
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        exchange(&accepted, &allocated).await;
    });
}

#[test]
fn what_a_client_sends_first_is_not_lost_on_a_server_that_splits_its_flow() {
    for _ in 0..20 {
        let (accepted, _allocated) = future::block_on(async {
            let (server, client) = in_memory().await;
            let first = async {
                let spec = FlowSpec::raw().encrypted();
                let flow = client.allocate("my_vpn", spec).await.expect("allocated");
                flow.send(b"first").await.expect("sent");
                flow
            };
            let (accepted, allocated) = future::zip(server.accept("my_vpn"), first).await;
            (accepted.expect("accepted"), allocated)
        });
        let (_sender, mut receiver) = accepted.split();
        assert_eq!(receiver.receive().expect("received"), 1);
        assert_eq!(receiver.packet(0), b"first");
    }
}

#[test]
fn two_million_packets_pass_through_one_encrypted_flow() {
    let (accepted, allocated) = future::block_on(async {
        let (server, client) = in_memory().await;
        pair(&server, &client, FlowSpec::raw().encrypted()).await
    });
    let (mut a, mut b) = (allocated.split(), accepted.split());
    let mut count = 0_u32;
    while count < 1_000_000 {
        for (sender, receiver) in [(&mut a.0, &mut b.1), (&mut b.0, &mut a.1)] {
            for number in 0..32 {
                let packet = (count + number).to_be_bytes();
                sender.push(packet.len()).expect("room").copy_from_slice(&packet);
            }
            sender.flush().expect("sent");
            let mut next = count;
            while next < count + 32 {
                for index in 0..receiver.receive().expect("received") {
                    assert_eq!(receiver.packet(index), next.to_be_bytes());
                    next += 1;
                }
            }
        }
        count += 32;
    }
    assert_eq!(a.0.statistics().unopened + b.0.statistics().unopened, 0);
}

#[test]
fn a_layer_that_outlives_its_resource_manager_still_allocates() {
    future::block_on(async {
        let network = Network::new();
        let server = Irm::new();
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        layer.register("my_vpn").await.expect("registered");
        let layer = Irm::new().bootstrap("my_layer", network.station()).await.expect("a station");
        let spec = FlowSpec::raw().encrypted();
        let (accepted, allocated) =
            future::zip(server.accept("my_vpn"), layer.allocate("my_vpn", spec)).await;
        exchange(&accepted.expect("accepted"), &allocated.expect("allocated")).await;
    });
}
