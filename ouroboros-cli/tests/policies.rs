//! Policies of names through a daemon: what a program demands, what files say now, and
//! what becomes of flows that they no longer allow.

mod daemon;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use async_std::task::{self, block_on};
use daemon::{Host, hosts};
use futures_lite::future;
use ouroboros::{
    AllocateError, Destruction, Flow, FlowSpec, Identity, Irm, LayerError, PolicyError,
    ServerSecurity,
    crypto::{Algorithms, Cipher, KeyExchange, Suite, SystemEntropy, identity::IdentityKey},
    daemon::{
        protocol::{Request, Response},
        security::{Authentication, NamePolicy},
    },
    transport::memory::Network,
    trust::KeyFile,
    wire::Name,
};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);

impl Host {
    async fn ask(&self, request: Request) -> Response {
        self.state.handle(request).await.expect("done")
    }

    async fn serves(&self) {
        self.application.register("my_vpn", "my_layer").await.expect("registered");
        self.application.bind("my_vpn").await.expect("bound");
    }

    async fn key(&self) -> String {
        match self.ask(Request::ShowKey { name: None }).await {
            Response::Key(key) => key.fingerprint,
            other => panic!("{other:?}"),
        }
    }

    async fn create(&self, authentication: Authentication, client: Option<Algorithms>) {
        let policy = policy(authentication, client);
        self.ask(Request::CreateName { name: "my_vpn".into(), policy }).await;
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.write(name, text);
        for (path, mode) in [(&*path, 0o644), (self.folder.path(), 0o755)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, permissions).expect("changed");
        }
        path
    }
}

fn policy(authentication: Authentication, client: Option<Algorithms>) -> NamePolicy {
    NamePolicy { authentication, client, ..NamePolicy::default() }
}

fn name() -> Name {
    "my_vpn".parse().expect("a name")
}

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    let late = async {
        task::sleep(PATIENCE).await;
        panic!("never: {what}")
    };
    future::or(event, late).await
}

async fn pair(server: &Host, client: &Host, spec: FlowSpec) -> (Flow, Flow) {
    let both = future::zip(
        server.application.accept("my_vpn"),
        client.application.allocate("my_vpn", spec),
    );
    let (accepted, allocated) = within("a flow", both).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

/// Waits until the flow has ended.
async fn end(flow: &Flow) {
    let mut packet = [0; 100];
    within("the end of the flow", async { while flow.recv(&mut packet).await.is_ok() {} }).await;
}

fn encrypted() -> FlowSpec {
    FlowSpec::raw().encrypted()
}

#[test]
fn a_policy_on_a_daemon_s_handle_is_enforced() {
    block_on(async {
        let (server, client) = hosts().await;
        server.serves().await;
        let policy = ServerSecurity::encrypted().require_native();
        server.application.set_policy(name(), policy).expect("set");
        let accepting = server.application.clone();
        let accepting = task::spawn(async move { accepting.accept("my_vpn").await });
        let quick = Duration::from_secs(2);
        let refused = client.application.allocate("my_vpn", FlowSpec::raw().timeout(quick)).await;
        assert!(refused.is_err(), "a plain flow to a name that demands encryption");
        // Who waited does so still, and gets the flow that is as demanded.
        let allocated = client.application.allocate("my_vpn", encrypted()).await;
        let _allocated = allocated.expect("allocated");
        let accepted = within("accepted", accepting).await.expect("accepted");
        assert!(accepted.info().suite.is_some());
    });
}

#[test]
fn a_policy_that_a_handle_cannot_have_lets_nobody_in() {
    block_on(async {
        let (server, _client) = hosts().await;
        server.serves().await;
        let identity = Identity::self_signed(IdentityKey::generate(&mut SystemEntropy), &name());
        let refused = ServerSecurity::encrypted().identity(identity.clone());
        let refused = server.application.set_policy(name(), refused);
        assert_eq!(refused, Err(PolicyError::Identity("my_vpn".to_owned())));
        let accepted = within("an error", server.application.accept("my_vpn")).await;
        assert!(matches!(accepted, Err(AllocateError::Policy(_))), "{accepted:?}");
        assert!(server.application.set_identity(identity).is_err());
    });
}

#[test]
fn a_handle_does_what_it_says_or_says_that_it_does_not() {
    block_on(async {
        let (server, client) = hosts().await;
        server.serves().await;
        let again = server.application.register("my_vpn", "my_layer").await;
        assert!(again.is_err(), "registered twice");
        let layers = server.application.list_layers().await.expect("a list");
        assert_eq!(layers.len(), 1);
        assert_eq!((&*layers[0].name, &*layers[0].names), ("my_layer", &[name()][..]));
        assert!(matches!(server.application.destroy("ipcp-0"), Destruction::NotEmbedded(_)));
        let bootstrapped = server.application.bootstrap("l", Network::new().station()).await;
        assert!(matches!(bootstrapped, Err(LayerError::NotEmbedded(_))), "{bootstrapped:?}");
        // Raw flows, too; one of several names is enough.
        let names = ["other".parse().expect("a name"), name()];
        let raw = future::zip(
            server.application.accept_raw(&names),
            client.application.allocate_raw(&names[1], FlowSpec::raw()),
        );
        let (accepted, allocated) = within("a raw flow", raw).await;
        assert_eq!(accepted.expect("accepted").info.name, names[1]);
        allocated.expect("allocated");
        let absent = Irm::connect_to(server.folder.path().join("nobody.sock"));
        let accepted = within("an error", absent.accept_raw(&names)).await;
        assert!(matches!(accepted, Err(AllocateError::Daemon(_))), "{accepted:?}");
    });
}

#[test]
fn who_is_struck_off_a_list_loses_its_flows_and_the_others_keep_theirs() {
    block_on(async {
        let network = Network::new();
        let [server, good, bad] = [(); 3].map(|()| block_on(Host::new(network.station())));
        let (one, two) = (good.key().await, bad.key().await);
        let list = server.write("clients", &format!("{one} laptop\n{two} phone\n"));
        let keys = Authentication::Keys(list);
        server.create(keys, None).await;
        server.serves().await;
        let spec = || encrypted().with_manager_identity();
        let (kept, keeps) = pair(&server, &good, spec()).await;
        let (lost, loses) = pair(&server, &bad, spec()).await;
        // Whoever wrote the new line made a mistake, too.
        server.write("clients", &format!("{one} laptop\nnonsense\n"));
        server.state.refresh();
        end(&lost).await;
        end(&loses).await;
        keeps.send(b"still here").await.expect("sent");
        let mut packet = [0; 100];
        let size = within("a packet", kept.recv(&mut packet)).await.expect("received");
        assert_eq!(&packet[..size], b"still here");
        pair(&server, &good, spec()).await;
    });
}

#[test]
fn a_policy_that_is_changed_keeps_registrations_bindings_and_the_flows_that_fit() {
    block_on(async {
        let (server, client) = hosts().await;
        server.create(Authentication::None, None).await;
        server.serves().await;
        let (lost, _loses) = pair(&server, &client, FlowSpec::raw()).await;
        let (kept, keeps) = pair(&server, &client, encrypted()).await;
        let policy = policy(Authentication::Server(None), None);
        server.ask(Request::ChangeName { name: "my_vpn".into(), policy }).await;
        end(&lost).await;
        keeps.send(b"still here").await.expect("sent");
        let mut packet = [0; 100];
        within("a packet", kept.recv(&mut packet)).await.expect("received");
        pair(&server, &client, encrypted()).await;
    });
}

#[test]
fn flows_from_before_a_name_s_policy_end_when_it_comes() {
    block_on(async {
        let (server, client) = hosts().await;
        server.serves().await;
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw()).await;
        let (kept, keeps) = pair(&server, &client, encrypted()).await;
        server.create(Authentication::Server(None), None).await;
        end(&accepted).await;
        drop(allocated);
        keeps.send(b"still here").await.expect("sent");
        let mut packet = [0; 100];
        within("a packet", kept.recv(&mut packet)).await.expect("received");
    });
}

#[test]
fn a_key_whose_file_is_lost_or_damaged_stays_in_use() {
    block_on(async {
        let (server, client) = hosts().await;
        server.create(Authentication::Server(None), None).await;
        server.serves().await;
        let identity = |flow: &Flow| flow.info().identity.clone().expect("shown").fingerprint;
        let before = identity(&pair(&server, &client, encrypted()).await.1);
        let file = server.folder.path().join("trust/identity.pem");
        let contents = std::fs::read(&file).expect("a key");
        std::fs::remove_file(&file).expect("removed");
        server.state.refresh();
        assert_eq!(identity(&pair(&server, &client, encrypted()).await.1), before);
        assert_eq!(server.key().await, before.to_string());
        assert!(!file.exists(), "no other key was made in silence");
        std::fs::write(&file, b"rubbish").expect("written");
        server.state.refresh();
        assert_eq!(identity(&pair(&server, &client, encrypted()).await.1), before);
        std::fs::write(&file, contents).expect("restored");
        server.state.refresh();
        assert_eq!(server.key().await, before.to_string());
    });
}

#[test]
fn a_program_that_names_no_algorithms_has_those_of_the_name_and_never_less() {
    block_on(async {
        let (server, client) = hosts().await;
        let named = Algorithms {
            kex: Some(KeyExchange::P256),
            cipher: Some(Cipher::ChaCha20Poly1305),
            ..Algorithms::default()
        };
        client.create(Authentication::None, Some(named)).await;
        server.serves().await;
        let (_, allocated) = pair(&server, &client, encrypted()).await;
        let suite = allocated.info().suite.expect("encrypted");
        assert_eq!((suite.kex, suite.cipher), (KeyExchange::P256, Cipher::ChaCha20Poly1305));
        let weak = Suite { cipher: Cipher::Aes128Gcm, ..Suite::default() };
        let refused = client.application.allocate("my_vpn", FlowSpec::raw().suite(weak)).await;
        let said = refused.expect_err("less than the name has").to_string();
        assert!(said.contains("aes-128-gcm") && said.contains("chacha20-poly1305"), "{said}");
    });
}

#[test]
fn a_client_that_cannot_write_its_known_names_says_so_and_goes_on() {
    block_on(async {
        let (server, client) = hosts().await;
        server.create(Authentication::Server(None), None).await;
        server.serves().await;
        // The file is there to be read, and empty, but nothing can be written: its
        // place does not exist.
        let trust = client.folder.path().join("trust");
        std::fs::create_dir(&trust).expect("a folder");
        // Whatever the umask is: files of trust are refused where their group may write.
        std::fs::set_permissions(&trust, PermissionsExt::from_mode(0o755)).expect("changed");
        let nowhere = client.folder.path().join("nowhere/known_names");
        std::os::unix::fs::symlink(nowhere, trust.join("known_names")).expect("a link");
        let (_, allocated) = pair(&server, &client, encrypted()).await;
        assert!(allocated.info().identity.is_some());
        assert!(allocated.info().first_use && !allocated.info().remembered);
    });
}

#[test]
fn a_name_with_a_key_of_its_own_has_a_next_one_of_its_own() {
    block_on(async {
        let (server, client) = hosts().await;
        let file = KeyFile::at(server.folder.path().join("office.pem"));
        let first = file.generate(&mut SystemEntropy).expect("made").public_key().fingerprint();
        let policy = NamePolicy { key: Some(file.path().to_owned()), ..NamePolicy::default() };
        server.ask(Request::CreateName { name: "my_vpn".into(), policy }).await;
        server.serves().await;
        let own = server.key().await;
        let whose = || Some("my_vpn".to_owned());
        let key = async |request| match server.ask(request).await {
            Response::Key(key) => key,
            other => panic!("{other:?}"),
        };
        let next = key(Request::GenerateNextKey { name: whose(), force: false }).await;
        assert_eq!(PathBuf::from(next.path), server.folder.path().join("office.next.pem"));
        let shown = key(Request::ShowKey { name: whose() }).await;
        assert_eq!(shown.fingerprint, first.to_string());
        assert_eq!(shown.next.as_ref(), Some(&next.fingerprint));
        assert_eq!(key(Request::ShowKey { name: None }).await.next, None);
        key(Request::PromoteKey { name: whose() }).await;
        let flow = pair(&server, &client, encrypted()).await.1;
        let identity = flow.info().identity.clone().expect("shown");
        assert_eq!(identity.fingerprint.to_string(), next.fingerprint);
        assert_eq!(server.key().await, own, "the machine's key stays");
        let unknown = Request::GenerateNextKey { name: Some("other".into()), force: false };
        assert!(server.state.handle(unknown).await.is_err());
    });
}
