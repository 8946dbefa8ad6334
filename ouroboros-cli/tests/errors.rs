//! What goes wrong has the same type, whether a program hosts its layers itself or
//! has its flows from a daemon.

mod daemon;

use std::time::Duration;

use async_std::task::block_on;
use daemon::{Host, hosts};
use futures_lite::future;
use ouroboros::{
    AllocateError, FlowSpec, Identity, Irm, LayerError, NotEmbedded, ServerSecurity, Trust,
    crypto::{SystemEntropy, identity::IdentityKey},
    error::DaemonError,
    proto::allocation::Refusal,
    transport::memory::Network,
    wire::QosSpec,
};
use ouroboros_cli::irmd::{Flows, State};

/// A server and a client with the layer `my_layer`.
struct Managers {
    server: Irm,
    client: Irm,
    /// Ends with the test.
    _daemons: Option<(Host, Host)>,
}

/// Once without and once with daemons.
async fn both_ways() -> [Managers; 2] {
    let network = Network::new();
    let (server, client) = (Irm::new(), Irm::new());
    server.bootstrap("my_layer", network.station()).await.expect("a layer");
    client.bootstrap("my_layer", network.station()).await.expect("a layer");
    let embedded = Managers { server, client, _daemons: None };
    let (one, two) = hosts().await;
    let (server, client) = (one.application.clone(), two.application.clone());
    [embedded, Managers { server, client, _daemons: Some((one, two)) }]
}

fn key() -> IdentityKey {
    IdentityKey::generate(&mut SystemEntropy)
}

#[test]
fn errors_of_layers_are_the_same_with_a_daemon() {
    block_on(async {
        for Managers { server, .. } in &both_ways().await {
            let error = server.register("my_vpn", "nowhere").await;
            assert!(
                matches!(&error, Err(LayerError::NoSuchLayer(l)) if l == "nowhere"),
                "{error:?}"
            );
            server.register("my_vpn", "my_layer").await.expect("registered");
            let error = server.register("my_vpn", "my_layer").await;
            assert!(
                matches!(&error, Err(LayerError::AlreadyRegistered(name, layer))
                    if name == "my_vpn" && layer == "my_layer"),
                "{error:?}"
            );
            let error = server.unregister("other", "my_layer").await;
            assert!(
                matches!(&error, Err(LayerError::NotRegistered(name, layer))
                    if name == "other" && layer == "my_layer"),
                "{error:?}"
            );
            let error = server.register("", "my_layer").await;
            assert!(matches!(error, Err(LayerError::InvalidName(_))), "{error:?}");
        }
    });
}

#[test]
fn errors_of_allocation_are_the_same_with_a_daemon() {
    block_on(async {
        for Managers { server, client, .. } in &both_ways().await {
            let error = client.allocate("", FlowSpec::raw()).await;
            assert!(matches!(error, Err(AllocateError::InvalidName(_))), "{error:?}");
            let soon = FlowSpec::raw().timeout(Duration::from_millis(300));
            let error = client.allocate("nobody", soon).await;
            assert!(matches!(error, Err(AllocateError::NameNotFound)), "{error:?}");
            let unchecked = QosSpec { bit_error_rate: 0, in_order: true, ..QosSpec::RAW };
            let error = client.allocate("nobody", FlowSpec::with_qos(unchecked)).await;
            assert!(matches!(error, Err(AllocateError::UnsupportedQos)), "{error:?}");

            let name = "my_vpn".parse().expect("a name");
            server.set_policy(name, ServerSecurity::encrypted()).expect("a policy");
            server.bind("my_vpn").await.expect("bound");
            server.register("my_vpn", "my_layer").await.expect("registered");
            let other = key().public_key().fingerprint();
            let asking = async {
                let plain = client.allocate("my_vpn", FlowSpec::raw()).await;
                let pinned = FlowSpec::raw().encrypted().trust(Trust::Keys(vec![other]));
                (plain, client.allocate("my_vpn", pinned).await)
            };
            let serving = async {
                loop {
                    drop(server.accept("my_vpn").await);
                }
            };
            let (plain, pinned) = future::or(asking, serving).await;
            let security = Refusal::Security.code();
            assert!(
                matches!(plain, Err(AllocateError::Refused(code)) if code == security),
                "{plain:?}"
            );
            // A server without an identity, and one with another.
            match pinned {
                Err(AllocateError::NotAuthenticated { .. }) => {}
                Err(AllocateError::WrongKey { expected, found, .. }) => {
                    assert!(expected == [other] && found != other);
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_manager_without_layers_says_so_with_a_daemon_too() {
    block_on(async {
        let daemon = Host::start(State::default());
        for irm in [Irm::new(), daemon.application.clone()] {
            let error = irm.allocate("my_vpn", FlowSpec::raw()).await;
            assert!(matches!(error, Err(AllocateError::NoLayer)), "{error:?}");
        }
    });
}

#[test]
fn what_only_a_daemon_can_say_has_a_type() {
    block_on(async {
        let daemon = Host::new(Network::new().station()).await;
        let irm = &daemon.application;
        let error = irm.unbind("my_vpn").await;
        assert!(matches!(&error, Err(LayerError::NotBound(n)) if n == "my_vpn"), "{error:?}");
        let own = Identity::self_signed(key(), &"laptop".parse().expect("a name"));
        let error = irm.allocate("my_vpn", FlowSpec::raw().encrypted().with_identity(own)).await;
        let Err(AllocateError::NotEmbedded(NotEmbedded { .. })) = error else {
            panic!("{error:?}");
        };
    });
}

#[test]
fn a_full_daemon_says_so_by_type() {
    block_on(async {
        let network = Network::new();
        let server = Host::new(network.station()).await;
        let mut full = State::default();
        full.flows = Flows::limited(0, 0);
        let client = Host::start(full);
        client.state.irm.bootstrap("my_layer", network.station()).await.expect("a layer");
        server.register_and_bind("my_vpn").await;
        let serving = async {
            loop {
                drop(server.application.accept_any().await);
            }
        };
        let asked = client.application.allocate("my_vpn", FlowSpec::raw());
        let error = future::or(asked, serving).await;
        assert!(
            matches!(error, Err(AllocateError::Daemon(DaemonError::TooManyFlows(_)))),
            "{error:?}"
        );
    });
}
