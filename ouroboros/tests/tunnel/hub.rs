//! One device for many clients, each a tunnel in a namespace of its own.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, or, poll_once, zip};
use ouroboros::{
    ClientEvent, ClientId, ClientInfo, Flow, FlowCloser, FlowError, FlowSpec, Hub, HubBuilder,
    Identity, Tunnel,
    crypto::{SystemEntropy, identity::IdentityKey},
    proto::hub::{Configuration, ConfigurationClient, IpNet},
};
use ouroboros_testing::Namespace;

use crate::{
    hosts::{Hosts, PATIENCE, eventually},
    traffic::{Echo, PORT, answers, exchange},
};

/// A client: a tunnel in a namespace of its own, over a flow of the second host.
pub(crate) struct Client {
    pub(crate) host: Namespace,
    pub(crate) id: ClientId,
    closer: FlowCloser,
    running: Option<JoinHandle<()>>,
    _tunnel: Arc<Tunnel>,
}

impl Client {
    pub(crate) fn start(hosts: &Hosts, hub: &Hub, spec: FlowSpec, number: u8) -> Self {
        let [here, there] = hosts.flow(spec);
        let prefixes = own(number);
        let host = Namespace::new();
        let closer = there.closer();
        let (id, tunnel, running) = host.inside(|| {
            let v4 = format!("10.9.0.{number}/24").parse().expect("an address");
            let v6 = format!("fd09::{number}/64").parse().expect("an address");
            let tunnel = Tunnel::builder().address(v4).address(v6).build().expect("a device");
            let tunnel = Arc::new(tunnel);
            let runs = tunnel.clone();
            let mut run = Box::pin(async move { runs.run(there).await });
            let id = block_on(or(
                async {
                    let (id, _) = zip(hub.join(vec![here], &prefixes), poll_once(&mut run)).await;
                    id.expect("joined")
                },
                async {
                    async_io::Timer::after(PATIENCE).await;
                    panic!("never joined");
                },
            ));
            let running = thread::spawn(move || {
                let _ = block_on(run);
            });
            (id, tunnel, running)
        });
        let local = format!("local fd09::{number} dev {}", tunnel.interface_name());
        eventually("the address is in use", || {
            host.shell("ip -6 route show table local").contains(&local)
        });
        Self { host, id, closer, running: Some(running), _tunnel: tunnel }
    }

    fn info(&self, hub: &Hub) -> ClientInfo {
        hub.client(self.id).expect("still there")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.closer.close();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || thread::panicking(), "the tunnel's thread panicked");
        }
    }
}

/// The prefixes of client `number`.
fn own(number: u8) -> [IpNet; 2] {
    [format!("10.9.0.{number}/32"), format!("fd09::{number}/128")]
        .map(|prefix| prefix.parse().expect("a prefix"))
}

pub(crate) fn hub(hosts: &Hosts, queues: usize, forward: bool) -> Hub {
    let hub = hosts.one.inside(|| {
        let device = Tunnel::builder()
            .address("10.9.0.1/24".parse().expect("an address"))
            .address("fd09::1/64".parse().expect("an address"))
            .name("office0")
            .queues(queues);
        HubBuilder::new(device).forward_between_clients(forward).build().expect("a hub")
    });
    eventually("the address is in use", || {
        hosts.one.shell("ip -6 route show table local").contains("local fd09::1 dev office0")
    });
    hub
}

/// The next event of the kind that `wanted` picks.
fn event<T>(hub: &Hub, wanted: impl Fn(ClientEvent) -> Option<T>) -> T {
    block_on(or(
        async {
            loop {
                let event = hub.next_event().await.expect("the hub runs");
                if let Some(wanted) = wanted(event) {
                    return wanted;
                }
            }
        },
        async {
            async_io::Timer::after(PATIENCE).await;
            panic!("no such event");
        },
    ))
}

fn reaches(from: &Namespace, to: &Namespace, address: &str) {
    let echo = Echo::at(to, address);
    let socket = echo.client(from);
    eventually("an answer", || answers(&socket, 7, Duration::from_millis(500)));
    echo.stop(to);
    eventually("the port is free", || to.inside(|| UdpSocket::bind((address, PORT)).is_ok()));
}

pub(crate) fn many_clients_share_one_device_and_each_has_its_own_address() {
    for (hosts, queues) in [(Hosts::on_udp(), 1), (Hosts::on_ethernet(), 2)] {
        let hub = hub(&hosts, queues, false);
        let spec = || FlowSpec::raw().encrypted();
        let clients: Vec<_> = (2..6).map(|n| Client::start(&hosts, &hub, spec(), n)).collect();
        assert_eq!(hub.clients().len(), 4);
        for (number, client) in (2..).zip(&clients) {
            for (own, server) in [("10.9.0.", "10.9.0.1"), ("fd09::", "fd09::1")] {
                reaches(&client.host, &hosts.one, server);
                reaches(&hosts.one, &client.host, &format!("{own}{number}"));
            }
        }
        // All at once, both ways.
        thread::scope(|scope| {
            for (number, client) in (2..6).zip(&clients) {
                let one = &hosts.one;
                scope.spawn(move || {
                    exchange(one, &client.host, &format!("10.9.0.{number}"), 4 << 20);
                });
            }
        });
        for client in &clients {
            let statistics = client.info(&hub).statistics;
            assert!(statistics.sent_packets > 10 && statistics.received_packets > 10);
            assert_eq!((statistics.foreign_source, statistics.flows.unopened), (0, 0));
        }
        let devices = hosts.one.shell("ip -o link");
        assert_eq!(devices.matches("office0").count(), 1, "{devices}");
        assert!(!devices.contains("tun0"), "{devices}");
        let gone = clients[0].id;
        clients[0].closer.close();
        let left = event(&hub, |event| match event {
            ClientEvent::Left { client, .. } => Some(client),
            _ => None,
        });
        assert_eq!(left, gone);
        reaches(&clients[1].host, &hosts.one, "10.9.0.1");
        assert!(hub.remove(clients[1].id) && !hub.remove(clients[1].id));
        assert_eq!(hub.clients().len(), 2);
        reaches(&clients[2].host, &hosts.one, "10.9.0.1");
    }
}

pub(crate) fn a_client_joins_and_leaves_while_the_only_other_one_floods() {
    let hosts = Hosts::on_ethernet();
    let hub = hub(&hosts, 1, false);
    let first = Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), 2);
    let flood = first.host.inside(|| UdpSocket::bind(("10.9.0.2", 0))).expect("bound");
    let heard = hosts.one.inside(|| UdpSocket::bind(("10.9.0.1", 7))).expect("bound");
    heard.set_read_timeout(Some(PATIENCE)).expect("set");
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stopped);
        scope.spawn(|| {
            while !stopped.load(Relaxed) {
                // What is full loses some.
                let _ = flood.send_to(&[0; 1000], ("10.9.0.1", 7));
            }
        });
        heard.recv_from(&mut [0; 1000]).expect("the flood has begun");
        for _ in 0..2 {
            let second = Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), 3);
            reaches(&second.host, &hosts.one, "10.9.0.1");
            let gone = second.id;
            drop(second);
            eventually("it has left", || hub.client(gone).is_none());
        }
    });
    reaches(&first.host, &hosts.one, "10.9.0.1");
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

pub(crate) fn a_client_sends_from_its_own_address_only() {
    let hosts = Hosts::on_udp();
    let hub = hub(&hosts, 1, false);
    let clients = [2, 3].map(|n| Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), n));
    let heard = hosts.one.inside(|| UdpSocket::bind(("10.9.0.1", PORT))).expect("bound");
    heard.set_read_timeout(Some(PATIENCE)).expect("set");
    let device = clients[0]._tunnel.interface_name();
    for foreign in ["10.9.0.3", "10.9.0.77", "10.9.0.1"] {
        clients[0].host.shell(&format!("ip addr add {foreign}/32 dev {device}"));
        let before = clients[0].info(&hub).statistics.foreign_source;
        let own = clients[0].host.inside(|| UdpSocket::bind((foreign, 0))).expect("bound");
        // To itself it would not leave.
        let to = if foreign == "10.9.0.1" { "10.9.0.9" } else { "10.9.0.1" };
        own.send_to(b"not mine", (to, PORT)).expect("sent");
        eventually("it is dropped and counted", || {
            clients[0].info(&hub).statistics.foreign_source > before
        });
        clients[0].host.shell(&format!("ip addr del {foreign}/32 dev {device}"));
    }
    let own = clients[1].host.inside(|| UdpSocket::bind(("10.9.0.3", 0))).expect("bound");
    own.send_to(b"mine", ("10.9.0.1", PORT)).expect("sent");
    let mut buffer = [0; 64];
    let (size, from) = heard.recv_from(&mut buffer).expect("it came");
    assert_eq!((&buffer[..size], from.ip()), (&b"mine"[..], "10.9.0.3".parse().unwrap()));
    assert_eq!(clients[1].info(&hub).statistics.foreign_source, 0);
}

pub(crate) fn clients_reach_each_other_if_the_hub_forwards() {
    let hosts = Hosts::on_udp();
    let hub = hub(&hosts, 1, true);
    let clients = [2, 3].map(|n| Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), n));
    for address in ["10.9.0.3", "fd09::3"] {
        reaches(&clients[0].host, &clients[1].host, address);
        exchange(&clients[0].host, &clients[1].host, address, 4 << 20);
    }
    for client in &clients {
        assert!(client.info(&hub).statistics.forwarded_packets > 10);
    }
    // The kernel did not take part.
    assert_eq!(hub.statistics().received_packets, 0);
    reaches(&clients[0].host, &hosts.one, "10.9.0.1");
}

pub(crate) fn a_client_that_comes_back_takes_its_own_place_only() {
    let hosts = Hosts::on_udp();
    let hub = hub(&hosts, 1, false);
    let name = Hosts::NAME.parse().expect("a name");
    let identity = || Identity::self_signed(IdentityKey::generate(&mut SystemEntropy), &name);
    let (alice, bob) = (identity(), identity());
    let spec = |who: &Identity| FlowSpec::raw().encrypted().with_identity(who.clone());
    let first = Client::start(&hosts, &hub, spec(&alice), 2);
    let other = Client::start(&hosts, &hub, spec(&bob), 3);
    // Bob cannot have what is Alice's.
    let [here, _there] = hosts.flow(spec(&bob));
    let refused = block_on(hub.join(vec![here], &own(2)));
    assert!(refused.is_err(), "{refused:?}");
    assert!(hub.client(first.id).is_some());
    let again = Client::start(&hosts, &hub, spec(&alice), 2);
    assert!(hub.client(first.id).is_none());
    reaches(&again.host, &hosts.one, "10.9.0.1");
    drop(other);
}

pub(crate) fn a_client_that_is_asked_and_does_not_answer_has_left() {
    let hosts = Hosts::on_udp();
    let hub = hub(&hosts, 1, false);
    let client = Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), 2);
    reaches(&client.host, &hosts.one, "10.9.0.1");
    hosts.two.shell("ip link set eth0 down");
    assert!(hub.probe(client.id, Duration::from_secs(1)));
    let left = event(&hub, |event| match event {
        ClientEvent::Left { client, reason } => Some((client, reason)),
        _ => None,
    });
    assert_eq!(left, (client.id, FlowError::Down.to_string()));
    assert!(!hub.probe(client.id, Duration::from_secs(1)), "it is not there");
}

pub(crate) fn a_client_hears_its_configuration_and_its_changes() {
    let hosts = Hosts::on_udp();
    let hub = hub(&hosts, 1, false);
    let [here, there] = hosts.flow(FlowSpec::raw().encrypted());
    let id = block_on(hub.join(vec![here], &[])).expect("joined");
    let wanted: IpNet = "10.9.0.8/24".parse().expect("a prefix");
    let start = Instant::now();
    let mut asking = ConfigurationClient::new(start.elapsed(), &[wanted]);
    let asked = hears(&there, &mut asking, start, &|| {
        let (client, asked) = event(&hub, |event| match event {
            ClientEvent::Requested { client, wanted } => Some((client, wanted)),
            _ => None,
        });
        assert_eq!((client, asked), (id, vec![wanted]));
        let mut configuration = Configuration::default();
        configuration.addresses = vec![wanted];
        configuration.routes =
            (0..250).map(|n| IpNet::new([172, 16, n, 0].into(), 24).expect("a prefix")).collect();
        assert!(hub.configure(id, &configuration));
        configuration
    });
    assert_eq!(asked.0, asked.1);
    let changed = hears(&there, &mut asking, start, &|| {
        let mut configuration = Configuration::default();
        configuration.server_name = Some("office".to_owned());
        assert!(hub.configure(id, &configuration));
        configuration
    });
    assert_eq!(changed.0, changed.1);
}

/// What is told, and what arrives.
fn hears(
    flow: &Flow,
    asking: &mut ConfigurationClient,
    start: Instant,
    tell: &(dyn Fn() -> Configuration + Sync),
) -> (Configuration, Configuration) {
    thread::scope(|scope| {
        let telling = scope.spawn(tell);
        let heard = block_on(async {
            let mut buffer = vec![0; 2048];
            loop {
                assert!(start.elapsed() < PATIENCE, "nothing is heard");
                while let Some(packet) = asking.poll_transmit() {
                    flow.send(&packet).await.expect("sent");
                }
                if let Some(heard) = asking.poll() {
                    return heard;
                }
                let received = async { Some(flow.recv(&mut buffer).await.expect("received")) };
                let later = async {
                    async_io::Timer::after(Duration::from_millis(250)).await;
                    None
                };
                match or(received, later).await {
                    Some(size) => asking.handle(&buffer[..size]),
                    None => asking.handle_timeout(start.elapsed()),
                }
            }
        });
        (telling.join().expect("no panic"), heard)
    })
}
