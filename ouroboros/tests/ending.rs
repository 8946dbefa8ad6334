//! How accepting ends (with the name, with its layer, with the manager), and how
//! flows do with a certificate.

use std::{
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_lite::future;
use ouroboros::{
    AllocateError, Destruction, Flow, FlowError, FlowSpec, Identity, Irm, ServerSecurity, Trust,
    crypto::{
        SystemEntropy,
        identity::{Authority, CaStore, IdentityKey},
    },
    transport::memory::Network,
    wire::Name,
};

async fn in_memory() -> (Irm, Irm) {
    let network = Network::new();
    let (server, client) = (Irm::new(), Irm::new());
    let layer = server.bootstrap_named("ipcp", "my_layer", network.station()).await.expect("made");
    layer.register("greeter").await.expect("registered");
    client.bootstrap("my_layer", network.station()).await.expect("a station");
    (server, client)
}

async fn pair(server: &Irm, client: &Irm) -> (Flow, Flow) {
    let spec = FlowSpec::raw().encrypted();
    let (accepted, allocated) =
        future::zip(server.accept("greeter"), client.allocate("greeter", spec)).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

#[test]
fn who_accepts_for_a_name_hears_that_it_was_taken_back() {
    future::block_on(async {
        let (server, _client) = in_memory().await;
        let layer = server.layer("my_layer").expect("the layer");
        let (accepted, ()) = future::zip(server.accept("greeter"), async {
            layer.unregister("greeter").await.expect("taken back");
        })
        .await;
        assert!(matches!(accepted, Err(AllocateError::ListenerEnded)), "{accepted:?}");
        let again = server.accept("greeter").await;
        assert!(matches!(again, Err(AllocateError::ListenerEnded)), "{again:?}");
        // It is accepted for again once it is registered again.
        layer.register("greeter").await.expect("registered");
        let (_accepted, _allocated) = pair(&server, &_client).await;
    });
}

#[test]
fn accepting_ends_with_the_layer_and_begins_with_the_first() {
    future::block_on(async {
        // Nothing is served yet: that is no end.
        let server = Irm::new();
        let (mut named, mut any) = (pin!(server.accept("greeter")), pin!(server.accept_any()));
        assert!(future::poll_once(named.as_mut()).await.is_none());
        assert!(future::poll_once(any.as_mut()).await.is_none());
        let station = Network::new().station();
        let layer = server.bootstrap_named("ipcp", "my_layer", station).await.expect("a layer");
        layer.register("greeter").await.expect("registered");
        assert!(future::poll_once(named.as_mut()).await.is_none());
        assert_eq!(server.destroy("ipcp"), Destruction::Destroyed);
        assert!(matches!(named.await, Err(AllocateError::ListenerEnded)));
        assert!(matches!(any.await, Err(AllocateError::ListenerEnded)));
    });
}

#[test]
fn a_shutdown_waits_for_flows_and_closes_those_that_stay() {
    future::block_on(async {
        let (server, client) = in_memory().await;
        let (accepted, allocated) = pair(&server, &client).await;
        let mut buffer = [0; 16];
        // The flow ends by itself: the shutdown waits for no longer than that.
        let serving = async {
            let size = accepted.recv(&mut buffer).await.expect("a packet");
            accepted.send(&buffer[..size]).await.expect("answered");
            drop(accepted);
        };
        let asking = async {
            allocated.send(b"last words").await.expect("sent");
            let mut buffer = [0; 16];
            assert_eq!(allocated.recv(&mut buffer).await.expect("the answer"), 10);
        };
        let shutdown = server.shutdown(Duration::from_secs(600));
        let (closed, _) = future::zip(shutdown, future::zip(serving, asking)).await;
        assert_eq!(closed, 0);
        let ended = server.accept_any().await;
        assert!(matches!(ended, Err(AllocateError::ListenerEnded)), "{ended:?}");
        assert!(server.layers().is_empty());

        let (server, client) = in_memory().await;
        let (accepted, allocated) = pair(&server, &client).await;
        assert_eq!(server.shutdown(Duration::ZERO).await, 1);
        assert!(matches!(accepted.recv(&mut buffer).await, Err(FlowError::Closed)));
        assert!(matches!(allocated.closed().await, FlowError::ClosedByPeer));
    });
}

#[test]
fn a_flow_ends_with_its_clients_certificate_when_the_policy_is_set_again() {
    future::block_on(async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        client.bootstrap("my_layer", network.station()).await.expect("a station");
        // For as long as a slow machine takes to allocate the flow.
        let valid = Duration::from_secs(8);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let (begin, entropy) = (now(), &mut SystemEntropy);
        let utc = u64::try_from(begin.as_nanos()).expect("before 2554");
        let (authority_key, key) = (IdentityKey::generate(entropy), IdentityKey::generate(entropy));
        let name = "laptop".parse().expect("a name");
        let day = Duration::from_secs(86_400);
        let authority = Authority::new(&authority_key, &name, utc, day, entropy).expect("made");
        let certificate = authority.certify(key.public_key(), &name, utc, valid, entropy);
        let certificate = certificate.expect("issued");
        let mut store = CaStore::new();
        store.add(authority.certificate()).expect("an authority");
        let identity = Identity::certified(key, &certificate).expect("of this key");

        let policy = ServerSecurity::encrypted().clients(Trust::Authorities(store));
        let greeter: Name = "greeter".parse().expect("a name");
        server.set_policy(greeter.clone(), policy.clone()).expect("set");
        layer.register("greeter").await.expect("registered");
        let spec = FlowSpec::raw().encrypted().with_identity(identity);
        let (accepted, allocated) =
            future::zip(server.accept("greeter"), client.allocate("greeter", spec)).await;
        let (accepted, _allocated) = (accepted.expect("accepted"), allocated.expect("allocated"));
        server.set_policy(greeter.clone(), policy.clone()).expect("set");
        assert!(future::poll_once(accepted.closed()).await.is_none(), "it is valid still");
        let over = (begin + valid + Duration::from_secs(1)).saturating_sub(now());
        async_io::Timer::after(over).await;
        server.set_policy(greeter, policy).expect("set");
        assert!(matches!(accepted.closed().await, FlowError::Closed));
    });
}
