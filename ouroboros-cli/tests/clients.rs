//! The clients of a name, as its daemon keeps them: listed, renamed, revoked, invited and
//! joined.

mod daemon;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use async_std::task::{self, block_on};
use daemon::{Host, hosts};
use futures_lite::future;
use ouroboros::{
    AllocateError, Flow, FlowSpec, Irm, Trust,
    crypto::{SystemEntropy, identity::Fingerprint},
    daemon::{
        protocol::{ClientRow, Request, Response},
        security::{Authentication, NamePolicy},
    },
    proto::negotiation::InvitationSecret,
    transport::memory::Network,
};
use ouroboros_cli::irmd::State;

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The end of all time that a file can say.
const FOREVER: u64 = 253_402_300_799;

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    let late = async {
        task::sleep(PATIENCE).await;
        panic!("never: {what}")
    };
    future::or(event, late).await
}

/// Has `server` serve `my_vpn` to the clients of a file, which is empty.
async fn serve(server: &Host) -> PathBuf {
    let path = server.folder.write("clients", "");
    for (path, mode) in [(&*path, 0o644), (server.folder.path(), 0o755)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
    }
    let policy = NamePolicy {
        authentication: Authentication::Keys(path.clone()),
        native: true,
        ..NamePolicy::default()
    };
    let request = Request::CreateName { name: "my_vpn".into(), policy };
    server.state.handle(request).await.expect("created");
    server.register_and_bind("my_vpn").await;
    path
}

async fn key(state: &State) -> Fingerprint {
    match state.handle(Request::ShowKey { name: None }).await {
        Ok(Response::Key(key)) => key.fingerprint.parse().expect("a fingerprint"),
        other => panic!("{other:?}"),
    }
}

async fn clients(server: &Host) -> Vec<ClientRow> {
    match server.state.handle(Request::ListClients { name: None, key: None }).await {
        Ok(Response::Clients(rows)) => rows,
        other => panic!("{other:?}"),
    }
}

/// Invites `client`: the secret, and the key that the daemon says is the server's.
async fn invite(server: &Host, client: &str, until: u64) -> (InvitationSecret, Fingerprint) {
    let secret = InvitationSecret::generate(&mut SystemEntropy);
    let key = secret.key().public_key().fingerprint().to_string();
    let request = Request::InviteClient {
        name: None,
        client: client.into(),
        key,
        until,
        prefixes: Vec::new(),
    };
    match server.state.handle(request).await {
        Ok(Response::Invited { name, server_key }) => {
            assert_eq!(name, "my_vpn");
            (secret, server_key.parse().expect("a fingerprint"))
        }
        other => panic!("{other:?}"),
    }
}

async fn accept(irm: &Irm) -> Flow {
    within("accepted", irm.accept("my_vpn")).await.expect("accepted")
}

async fn pair(server: &Host, client: &Host, spec: FlowSpec) -> (Flow, Flow) {
    let allocated = async {
        within("allocated", client.application.allocate("my_vpn", spec)).await.expect("allocated")
    };
    future::zip(accept(&server.application), allocated).await
}

/// Waits until the flow has ended.
async fn end(flow: &Flow) {
    let mut packet = [0; 100];
    within("the end of the flow", async { while flow.recv(&mut packet).await.is_ok() {} }).await;
}

/// The server hears the request, and says nothing.
async fn must_hear_nothing(server: &Host, client: &Host, spec: FlowSpec) {
    let spec = spec.timeout(Duration::from_millis(1500));
    let accepted = async {
        let _ = server.application.accept("my_vpn").await;
        panic!("a flow is accepted")
    };
    let asked = within("an answer", client.application.allocate("my_vpn", spec));
    let refused = future::or(asked, accepted).await;
    assert!(matches!(refused, Err(AllocateError::TimedOut)), "{refused:?}");
}

fn with_manager_identity() -> FlowSpec {
    FlowSpec::raw().with_manager_identity()
}

#[test]
fn an_invited_client_is_one_from_its_first_flow_on_until_it_is_revoked() {
    block_on(async {
        let (server, client) = hosts().await;
        let path = serve(&server).await;
        let (secret, server_key) = invite(&server, "alice", FOREVER).await;
        let mine = key(&client.state).await;
        let spec = with_manager_identity().trust(Trust::Keys(vec![server_key]));
        must_hear_nothing(&server, &client, spec.clone()).await;
        let joining = spec.clone().with_invitation(secret.clone());
        let (accepted, _allocated) = pair(&server, &client, joining.clone()).await;
        let peer = accepted.info().identity.clone().expect("who it is");
        assert_eq!(peer.fingerprint, mine);
        assert_eq!(fs::read_to_string(&path).expect("read"), format!("{mine} alice\n"));
        let rows = clients(&server).await;
        assert_eq!((rows.len(), rows[0].peers.len(), rows[0].invited_until), (1, 1, None));

        // It is known by its key now, and what it was invited with does no harm.
        for spec in [spec.clone(), joining.clone()] {
            drop(pair(&server, &client, spec).await);
        }
        let rename = Request::RenameClient {
            name: Some("my_vpn".into()),
            client: "alice".into(),
            to: "bob".into(),
        };
        server.state.handle(rename).await.expect("renamed");
        assert_eq!(clients(&server).await[0].name.as_deref(), Some("bob"));

        let revoke = Request::RevokeClient { name: None, client: "bob".into() };
        server.state.handle(revoke.clone()).await.expect("revoked");
        end(&accepted).await;
        must_hear_nothing(&server, &client, spec).await;
        must_hear_nothing(&server, &client, joining).await;
        assert_eq!(fs::read_to_string(&path).expect("read"), "");
        let again = server.state.handle(revoke).await.expect_err("nobody is left");
        assert!(again.to_string().contains("no client of that name"), "{again}");
    });
}

#[test]
fn an_invitation_lets_in_one_client_in_time_and_nobody_without_its_secret() {
    block_on(async {
        let (server, first) = hosts().await;
        let path = serve(&server).await;
        let (secret, server_key) = invite(&server, "alice", FOREVER).await;
        let (over, _) = invite(&server, "bob", 1).await;
        let spec = with_manager_identity().trust(Trust::Keys(vec![server_key]));
        let other = InvitationSecret::generate(&mut SystemEntropy);
        for wrong in [over, other] {
            must_hear_nothing(&server, &first, spec.clone().with_invitation(wrong)).await;
        }
        // Who does not say who it is cannot join either.
        let nobody = FlowSpec::raw().trust(Trust::Keys(vec![server_key]));
        must_hear_nothing(&server, &first, nobody.with_invitation(secret.clone())).await;
        let spec = spec.with_invitation(secret);
        let (_accepted, _allocated) = pair(&server, &first, spec.clone()).await;
        // Another machine is too late with it.
        let key = Request::GenerateKey { force: true };
        first.state.handle(key).await.expect("another machine");
        must_hear_nothing(&server, &first, spec).await;
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().filter(|line| line.starts_with("o7s:")).count(), 1, "{text}");
    });
}

#[test]
fn who_is_revoked_before_a_program_has_its_flow_has_none() {
    block_on(async {
        let network = Network::new();
        let server = Host::new(network.station()).await;
        serve(&server).await;
        let mut allocated = Vec::new();
        for name in ["alice", "bob", "carol"] {
            let client = Host::new(network.station()).await;
            let (secret, key) = invite(&server, name, FOREVER).await;
            let spec =
                with_manager_identity().trust(Trust::Keys(vec![key])).with_invitation(secret);
            let spec = spec.timeout(Duration::from_secs(10));
            allocated.push(task::spawn(async move {
                let flow = client.application.allocate("my_vpn", spec).await;
                (client, flow)
            }));
        }
        // One program, one flow: the others wait for it, as requests or as flows.
        let first = accept(&server.application).await;
        for name in ["alice", "bob", "carol"] {
            let revoke = Request::RevokeClient { name: None, client: name.into() };
            server.state.handle(revoke).await.expect("revoked");
        }
        end(&first).await;
        // A program that would take them lets none live.
        let taking = server.application.clone();
        let taking = task::spawn(async move { while taking.accept("my_vpn").await.is_ok() {} });
        let mut held = Vec::new();
        for allocated in allocated {
            held.push(within("the end of an allocation", allocated).await);
        }
        within("the end of all flows", async {
            while !server.state.flows.list().is_empty() {
                task::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        drop(held);
        taking.cancel().await;
    });
}

#[test]
fn an_edit_is_refused_with_what_to_do() {
    block_on(async {
        let (server, _) = hosts().await;
        let list =
            |name: Option<&str>| Request::ListClients { name: name.map(str::to_owned), key: None };
        let revoke = Request::RevokeClient { name: None, client: "alice".into() };
        let none = server.state.handle(revoke).await.expect_err("no file");
        assert!(none.to_string().contains("irm name create NAME clients FILE"), "{none}");
        let path = serve(&server).await;
        let other = server.state.handle(list(Some("other"))).await.expect_err("no such name");
        assert!(other.to_string().contains("irm name change other clients"), "{other}");
        let to = "al ice".to_owned();
        let rename = Request::RenameClient { name: None, client: "alice".into(), to };
        let bad = server.state.handle(rename).await.expect_err("no name");
        assert!(bad.to_string().contains("a client's name is"), "{bad}");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("changed");
        let flaw = server.state.handle(list(None)).await.expect_err("others can change it");
        assert!(flaw.to_string().contains("chmod go-w"), "{flaw}");
    });
}
