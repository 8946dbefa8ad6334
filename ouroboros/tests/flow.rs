//! Flows through the public API, over an in-memory network.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, UdpSocket},
    pin::pin,
    time::Duration,
};

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

async fn exchange(a: &Flow, b: &Flow) {
    for (from, to) in [(a, b), (b, a)] {
        for size in [1, 64, 1000, from.largest_packet().min(to.largest_packet())] {
            let packet: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            from.send(&packet).await.expect("sent");
            let mut buffer = vec![0; 65_536];
            let size = to.recv(&mut buffer).await.expect("received");
            assert_eq!(&buffer[..size], packet);
        }
    }
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

fn identity(name: &str) -> Identity {
    let key = IdentityKey::generate(&mut SystemEntropy);
    Identity::self_signed(key, &name.parse().expect("a name"))
}

#[test]
fn both_ends_of_a_flow_know_each_other_if_they_are_to() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let (ours, theirs, other) = (identity("my_vpn"), identity("laptop"), identity("other"));
        let trust = |identity: &Identity| Trust::Keys(vec![identity.fingerprint()]);
        let policy = ServerSecurity::encrypted().identity(ours.clone()).clients(trust(&theirs));
        server.set_policy("my_vpn".parse().expect("a name"), policy).expect("set");
        let spec = FlowSpec::raw().trust(trust(&ours)).require_native();
        let (accepted, allocated) =
            pair(&server, &client, spec.clone().with_identity(theirs.clone())).await;
        exchange(&accepted, &allocated).await;
        for (flow, peer) in [(&accepted, &theirs), (&allocated, &ours)] {
            let info = flow.info();
            let known = info.identity.as_ref().map(|identity| identity.fingerprint);
            assert_eq!(known, Some(peer.fingerprint()));
            assert_eq!(info.profile, Some(Profile::Native));
        }
        // Under the identity that the manager has, once it has one.
        let managed = spec.clone().with_manager_identity();
        assert!(matches!(
            client.allocate("my_vpn", managed.clone()).await,
            Err(AllocateError::NoIdentity)
        ));
        client.set_identity(theirs.clone()).expect("set");
        let (accepted, _allocated) = pair(&server, &client, managed).await;
        assert!(accepted.info().identity.is_some());
        // A server with another key.
        let spec = FlowSpec::raw().with_identity(theirs).trust(trust(&other));
        let wrong = future::or(client.allocate("my_vpn", spec), async {
            let _flow = server.accept("my_vpn").await;
            future::pending().await
        })
        .await;
        assert!(matches!(
            wrong,
            Err(AllocateError::WrongKey { expected, found, .. })
                if expected == [other.fingerprint()] && found == ours.fingerprint()
        ));
        // A stranger hears nothing.
        let spec = FlowSpec::raw().with_identity(other).timeout(Duration::from_secs(1));
        assert!(matches!(client.allocate("my_vpn", spec).await, Err(AllocateError::TimedOut)));
    });
}

#[test]
fn what_a_server_is_not_or_does_not_speak_is_told() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let old = ServerSecurity { profile: ProfilePolicy::Wire023, ..ServerSecurity::default() };
        server.set_policy("my_vpn".parse().expect("a name"), old).expect("set");
        let failed = async |spec| {
            future::or(client.allocate("my_vpn", spec), async {
                let _flow = server.accept("my_vpn").await;
                future::pending().await
            })
            .await
        };
        let native = failed(FlowSpec::raw().require_native()).await;
        assert!(matches!(native, Err(AllocateError::NotNative)), "{native:?}");
        let known = failed(FlowSpec::raw().trust(Trust::FirstUse)).await;
        assert!(matches!(known, Err(AllocateError::NotAuthenticated { .. })), "{known:?}");
        // Whoever asks for no more sees what it got.
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        for flow in [accepted, allocated] {
            assert_eq!(flow.info().profile, Some(Profile::Wire023));
            assert!(flow.info().identity.is_none());
        }
        let (_accepted, plain) = pair(&server, &client, FlowSpec::raw()).await;
        assert_eq!(plain.info().profile, None);
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
fn batches_go_through_the_blocking_pair() {
    let (accepted, allocated) = future::block_on(async {
        let (server, client) = in_memory().await;
        pair(&server, &client, FlowSpec::raw().encrypted()).await
    });
    let (mut sender, _keep) = allocated.split();
    let (_keep_too, mut receiver) = accepted.split();
    for number in 0..20u8 {
        sender.push(100).expect("room").fill(number);
    }
    sender.pop();
    sender.flush().expect("sent");
    let mut next = 0;
    while next < 19 {
        for index in 0..receiver.receive().expect("received") {
            assert_eq!(receiver.packet(index), [next; 100]);
            next += 1;
        }
    }
}

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

/// Two ends of an encrypted flow that hears nothing for no longer than `timeout`
/// milliseconds.
async fn encrypted_pair(timeout: u32) -> ((Irm, Irm), (Flow, Flow)) {
    let (server, client) = in_memory().await;
    let qos = QosSpec { timeout, ..QosSpec::RAW };
    let pair = pair(&server, &client, FlowSpec::with_qos(qos).encrypted()).await;
    ((server, client), pair)
}

#[test]
fn a_flow_that_nobody_reads_stays_and_keeps_what_came() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(400).await;
        for number in 0..20u8 {
            allocated.send(&[number]).await.expect("sent");
            async_io::Timer::after(Duration::from_millis(100)).await;
        }
        for number in 0..20u8 {
            assert_eq!(accepted.recv_vec().await.expect("kept"), [number]);
        }
        accepted.send(b"alive").await.expect("sent");
        assert_eq!(allocated.recv_vec().await.expect("received"), b"alive");
    });
}

#[test]
fn what_is_too_much_to_wait_is_dropped_and_counted_and_the_flow_stays() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(400).await;
        let packet = [7; 1000];
        let mut sent = 0;
        while accepted.statistics().dropped_unread == 0 {
            allocated.send(&packet).await.expect("sent");
            sent += 1;
        }
        async_io::Timer::after(Duration::from_secs(4)).await;
        let mut received = 0;
        let mut buffer = [0; 2000];
        while accepted.try_recv(&mut buffer).expect("there").is_some() {
            received += 1;
        }
        // 128 KiB, and what came within one read of the limit.
        assert!((100..sent).contains(&received), "{received} of {sent}");
        accepted.send(b"alive").await.expect("sent");
        assert_eq!(allocated.recv_vec().await.expect("received"), b"alive");
    });
}

#[test]
fn what_came_before_the_peer_closed_is_received_and_then_the_end() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        allocated.send_many((0..50u8).map(|number| [number; 500])).await.expect("sent");
        allocated.close();
        assert!(matches!(allocated.closed().await, FlowError::Closed));
        assert!(matches!(accepted.closed().await, FlowError::ClosedByPeer));
        for number in 0..50u8 {
            assert_eq!(accepted.recv_vec().await.expect("came before"), [number; 500]);
        }
        assert!(matches!(accepted.recv_vec().await, Err(FlowError::ClosedByPeer)));
        assert!(matches!(accepted.send(b"late").await, Err(FlowError::ClosedByPeer)));
    });
}

#[test]
fn batches_polls_and_attempts_carry_the_same_packets() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        let mut buffer = [0; 100];
        assert_eq!(accepted.try_recv(&mut buffer).expect("a flow"), None);
        assert_eq!(allocated.send_many([b"one", b"two"]).await.expect("sent"), 2);
        assert!(allocated.try_send(b"three").expect("a flow"));
        poll_fn(|context| allocated.poll_send(context, b"four")).await.expect("sent");
        let mut packets = Packets::new();
        let mut all = Vec::new();
        while all.len() < 3 {
            accepted.recv_many(&mut packets).await.expect("received");
            all.extend(packets.iter().map(<[u8]>::to_vec));
        }
        if all.len() < 4 {
            let size = poll_fn(|context| accepted.poll_recv(context, &mut buffer)).await;
            all.push(buffer[..size.expect("received")].to_vec());
        }
        assert_eq!(all, [&b"one"[..], b"two", b"three", b"four"]);
        // Who polls is woken by what comes, and by the end.
        let waits = poll_fn(|context| accepted.poll_recv(context, &mut buffer));
        let (size, sent) = future::zip(waits, allocated.send(b"five")).await;
        sent.expect("sent");
        assert_eq!(&buffer[..size.expect("received")], b"five");
        let waits = poll_fn(|context| accepted.poll_recv(context, &mut buffer));
        let (end, ()) = future::zip(waits, async { allocated.close() }).await;
        assert!(matches!(end, Err(FlowError::ClosedByPeer)));
    });
}

/// Futures of both directions are dropped at any point, thousands of times.
#[test]
fn dropped_futures_lose_no_packet() {
    const PACKETS: u32 = 5_000;
    /// Polls `future` at most `polls` times.
    async fn within<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        for _ in 0..polls {
            if let Some(done) = future::poll_once(future.as_mut()).await {
                return Some(done);
            }
            future::yield_now().await;
        }
        None
    }
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        let sends = async {
            for number in 0..PACKETS {
                // One that was dropped may have been sent: it is sent again.
                let mut polls = number % 3;
                while within(polls, allocated.send(&number.to_be_bytes())).await.is_none() {
                    polls += 1;
                }
            }
        };
        let receives = async {
            let (mut next, mut polls) = (0, 0);
            while next < PACKETS {
                polls = (polls + 1) % 4;
                let Some(packet) = within(polls, accepted.recv_vec()).await else { continue };
                let packet = packet.expect("received");
                let number = u32::from_be_bytes(packet.try_into().expect("a number"));
                // In the memory network nothing is lost or overtaken.
                assert!(number == next || number + 1 == next, "{number} after {next}");
                next = number + 1;
            }
        };
        future::zip(sends, receives).await;
    });
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
