//! Who the peer of a flow is, and what a server that is not who it should be is told.

use super::*;

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
