//! Flows between applications that two daemons serve, over an in-memory
//! network: the daemons run in this process, behind real sockets.

mod daemon;
#[path = "../../ouroboros/tests/exchange/mod.rs"]
mod exchange;

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use async_std::task::{self, block_on};
use daemon::{Host, hosts};
use exchange::exchange;
use futures_lite::future;
use ouroboros::{
    AllocateError, Flow, FlowSpec, Trust,
    crypto::{Cipher, Suite, SystemEntropy, identity::IdentityKey},
    daemon::{
        Client,
        protocol::{Request, Response},
        security::{Authentication, NamePolicy},
    },
};

impl Host {
    async fn ask(&self, request: Request) {
        self.state.handle(request).await.expect("done");
    }

    async fn register(&self) {
        self.ask(Request::Register { name: "my_vpn".into(), layer: "my_layer".into() }).await;
    }

    async fn bind(&self) {
        let (pid, name) = (process::id(), "my_vpn".into());
        self.ask(Request::Process { pid, name, bind: true }).await;
    }

    async fn encrypt(&self, server: Option<Suite>, client: Option<Suite>) {
        let policy = NamePolicy {
            server: server.map(Into::into),
            client: client.map(Into::into),
            authentication: Authentication::None,
            ..NamePolicy::default()
        };
        self.ask(Request::CreateName { name: "my_vpn".into(), policy }).await;
    }
}

async fn pair(server: &Host, client: &Host, spec: FlowSpec) -> (Flow, Flow) {
    let (accepted, allocated) =
        future::zip(server.application.accept_any(), client.application.allocate("my_vpn", spec))
            .await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

#[test]
fn plain_and_encrypted_flows_pass_through_two_daemons() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        server.bind().await;
        let suite = Suite { cipher: Cipher::ChaCha20Poly1305, ..Suite::default() };
        let raw = FlowSpec::raw;
        let specs = [raw(), raw().with_crc32(), raw().encrypted(), raw().suite(suite)];
        let mut open = Vec::new();
        for spec in specs {
            let asked = spec.security().map(|security| security.suite);
            let (accepted, allocated) = pair(&server, &client, spec).await;
            let (here, there) = (accepted.info().suite, allocated.info().suite);
            assert_eq!(here, there);
            assert_eq!(here.map(|suite| suite.cipher), asked.map(|suite| suite.cipher));
            // As asked, or what is stronger and both of ours have.
            assert!(here.map(|suite| suite.kex) >= asked.map(|suite| suite.kex));
            exchange(&accepted, &allocated).await;
            open.push((accepted, allocated));
        }
        // All of them at once, and they outlive the names and bindings.
        server.ask(Request::DestroyName { name: "my_vpn".into() }).await;
        for (accepted, allocated) in &open {
            exchange(accepted, allocated).await;
        }
    });
}

#[test]
fn a_program_is_known_by_its_executable() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        let path = std::env::current_exe().and_then(std::fs::canonicalize).expect("a program");
        let path = path.to_str().expect("UTF-8").to_owned();
        let name = "my_vpn".to_owned();
        server
            .ask(Request::Program { path: "/bin/false".into(), name: "other".into(), bind: true })
            .await;
        server.ask(Request::Program { path, name, bind: true }).await;
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw()).await;
        exchange(&accepted, &allocated).await;
    });
}

#[test]
fn a_binding_reaches_those_who_wait_already() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        let accepted = server.application.accept_any();
        let allocated = async {
            server.bind().await;
            client.application.allocate("my_vpn", FlowSpec::raw()).await
        };
        let (accepted, allocated) = future::zip(accepted, allocated).await;
        exchange(&accepted.expect("accepted"), &allocated.expect("allocated")).await;
    });
}

#[test]
fn whoever_hung_up_gets_no_flow_and_the_next_one_does() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        server.bind().await;
        for _ in 0..5 {
            // Asked, and dropped while the daemon waits for a flow.
            future::poll_once(server.application.accept_any()).await;
        }
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw().encrypted()).await;
        exchange(&accepted, &allocated).await;
    });
}

#[test]
fn a_server_name_with_encryption_refuses_plain_flows() {
    block_on(async {
        let (server, client) = hosts().await;
        server.encrypt(Some(Suite::default()), None).await;
        server.register().await;
        server.bind().await;
        let waiting = server.application.clone();
        let accepting = task::spawn(async move { waiting.accept_any().await });
        let refused = client.application.allocate("my_vpn", FlowSpec::raw()).await;
        assert!(refused.is_err(), "a plain flow to a name that demands encryption");
        // Whoever waited still does, and gets the flow that is as demanded.
        let allocated = client.application.allocate("my_vpn", FlowSpec::raw().encrypted()).await;
        exchange(&accepting.await.expect("accepted"), &allocated.expect("allocated")).await;
    });
}

#[test]
fn a_client_name_with_encryption_makes_its_flows_encrypted() {
    block_on(async {
        let (server, client) = hosts().await;
        let suite = Suite { cipher: Cipher::Aes128Gcm, ..Suite::default() };
        client.encrypt(None, Some(suite)).await;
        server.register().await;
        server.bind().await;
        let (accepted, allocated) = pair(&server, &client, FlowSpec::raw()).await;
        assert_eq!(allocated.info().suite, Some(suite));
        assert_eq!(accepted.info().suite, Some(suite));
        exchange(&accepted, &allocated).await;
    });
}

#[test]
fn a_name_that_nobody_registered_is_not_found() {
    block_on(async {
        let (_server, client) = hosts().await;
        let error = client.application.allocate("nobody", FlowSpec::raw()).await;
        let message = error.expect_err("nobody is there").to_string();
        assert!(message.contains("not found") || message.contains("in time"), "{message}");
    });
}

#[test]
fn nothing_readable_of_an_encrypted_flow_passes_the_daemon() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        server.bind().await;
        // The client's daemon as such: what it holds is what it could relay.
        let name = "my_vpn".parse().expect("a name");
        let (accepted, raw) = future::zip(
            server.application.accept_any(),
            // Nothing has to be agreed inside the flow before data.
            client.state.irm.allocate_raw(&name, FlowSpec::raw().suite(Suite::default())),
        )
        .await;
        let (accepted, raw) = (accepted.expect("accepted"), raw.expect("allocated"));
        accepted.send(&[b'A'; 512]).await.expect("sent");
        let mut batch = ouroboros::transport::ReceiveBatch::new(1 << 16);
        // Probes of the path's MTU, which are longer, and other control messages, which
        // are shorter, may come first.
        let mut arrived = false;
        while !arrived {
            match raw.path.receive(&mut batch) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            for frame in (0..batch.len()).map(|index| batch.frame(index)) {
                assert!(!frame.windows(8).any(|window| window == [b'A'; 8]));
                arrived |= (513..600).contains(&frame.len());
            }
            task::yield_now().await;
        }
    });
}

#[test]
fn no_flow_is_lost_to_an_accept_that_is_dropped() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        server.bind().await;
        let mut accepted = Vec::new();
        for round in 0..100 {
            let spec = FlowSpec::raw().encrypted();
            let mut allocating = Box::pin(client.application.allocate("my_vpn", spec));
            // Each accept is polled more often than the one before and then dropped,
            // wherever that finds it.
            let (mut allocated, mut polls) = (None, round % 7);
            let flow = loop {
                let mut accepting = Box::pin(server.application.accept_any());
                let mut taken = None;
                polls += 10;
                for _ in 0..polls {
                    if allocated.is_none() {
                        allocated = future::poll_once(&mut allocating).await;
                        assert!(!matches!(allocated, Some(Err(_))), "{round}: {allocated:?}");
                    }
                    taken = future::poll_once(&mut accepting).await;
                    if taken.is_some() {
                        break;
                    }
                    task::yield_now().await;
                }
                if let Some(flow) = taken {
                    break flow.expect("accepted");
                }
            };
            let allocated = match allocated {
                Some(allocated) => allocated,
                None => allocating.await,
            };
            accepted.push((flow, allocated.expect("allocated")));
        }
        for (here, there) in &accepted {
            assert_eq!(here.info().remote, there.info().local, "flows are paired as they came");
            there.send(b"hello").await.expect("sent");
            let mut packet = [0; 100];
            assert_eq!(here.recv(&mut packet).await.expect("received"), 5);
        }
    });
}

#[test]
fn what_the_first_program_does_not_take_the_next_one_gets() {
    block_on(async {
        let (server, client) = hosts().await;
        server.register().await;
        server.bind().await;
        // A program that waits, is offered the flow, and dies.
        let path = server.folder.path().join("irmd.sock");
        let connection = ouroboros::daemon::Connection::open(&path).await.expect("connected");
        let request = Request::Accept { name: None, program: None, demands: Vec::new() };
        connection.send(&request, None).await.expect("asked");
        let allocating = task::spawn({
            let application = client.application.clone();
            async move { application.allocate("my_vpn", FlowSpec::raw()).await }
        });
        let offered = connection.receive::<Response>().await.expect("an offer").0;
        assert!(matches!(offered, Response::Offered), "{offered:?}");
        drop(connection);
        let accepted = server.application.accept_any().await.expect("the same flow");
        exchange(&accepted, &allocating.await.expect("allocated")).await;
    });
}

#[test]
fn errors_have_the_type_that_they_have_without_a_daemon() {
    block_on(async {
        let (server, client) = hosts().await;
        let unknown = FlowSpec::raw().timeout(std::time::Duration::from_millis(300));
        let unknown = client.application.allocate("nobody", unknown).await;
        assert!(matches!(unknown, Err(AllocateError::NameNotFound)), "{unknown:?}");
        server.register().await;
        server.bind().await;
        let other = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let pinned = FlowSpec::raw().encrypted().trust(Trust::Keys(vec![other]));
        let accepting = server.application.clone();
        let accepting = task::spawn(async move { accepting.accept_any().await });
        let wrong = client.application.allocate("my_vpn", pinned).await;
        let known = |expected: &[_]| expected == [other];
        assert!(
            matches!(&wrong, Err(AllocateError::WrongKey { expected, .. }) if known(expected)),
            "{wrong:?}"
        );
        drop(accepting);
    });
}

#[test]
fn a_name_that_is_being_registered_is_not_forgotten_by_who_lists_names() {
    const NAMES: usize = 300;
    let (host, _other) = block_on(hosts());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                block_on(host.ask(Request::ListNames));
            }
        });
        for number in 0..NAMES {
            let (name, layer) = (format!("name{number}"), "my_layer".to_owned());
            block_on(host.ask(Request::Register { name, layer }));
        }
        done.store(true, SeqCst);
    });
    let listed = block_on(host.state.handle(Request::ListNames)).expect("listed");
    let Response::Names(names) = listed else { panic!("{listed:?}") };
    assert_eq!(names.len(), NAMES);
}

#[test]
fn long_lists_arrive_whole() {
    block_on(async {
        let (server, _client) = hosts().await;
        for number in 0..2000 {
            let name = format!("{number}-{}", "n".repeat(200));
            server.ask(Request::Program { path: "/bin/false".into(), name, bind: true }).await;
        }
        let path = server.folder.path().join("irmd.sock");
        let listed = Client::at(path).ask(&Request::ListNames).await.expect("a list");
        let Response::Names(names) = listed else { panic!("{listed:?}") };
        assert_eq!(names.len(), 2000);
    });
}

#[test]
fn a_thousand_programs_that_ask_at_once_are_served() {
    block_on(async {
        let (server, _client) = hosts().await;
        let path = server.folder.path().join("irmd.sock");
        let asking: Vec<_> = (0..1000)
            .map(|_| {
                let path = path.clone();
                task::spawn(async move { Client::at(path).ask(&Request::ListIpcps).await })
            })
            .collect();
        for asked in asking {
            assert!(matches!(asked.await, Ok(Response::Ipcps(_))));
        }
    });
}
