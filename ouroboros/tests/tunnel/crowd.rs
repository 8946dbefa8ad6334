//! A server with very many clients, and the next server after it has been killed. The
//! clients are flows without devices: each is told its address and sends pings.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_executor::Executor;
use async_io::Timer;
use futures_lite::future::{block_on, or};
use ouroboros::{
    ClientEvent, Flow, FlowError, FlowSpec, Hub, HubBuilder, Irm, Tunnel,
    proto::hub::{Configuration, ConfigurationClient, IpNet},
    transport::IntoTransport,
};
use ouroboros_testing::Namespace;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::hosts::{Hosts, eventually, udp};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// How often a client pings until it is answered, and asks for another flow.
const AGAIN: Duration = Duration::from_millis(500);

/// A resource manager in a namespace, with one layer.
fn manager(host: &Namespace, transport: impl IntoTransport, serves: bool) -> Irm {
    host.inside(|| {
        let irm = Irm::new();
        let layer = block_on(irm.bootstrap("layer", transport)).expect("a layer");
        if serves {
            block_on(layer.register(Hosts::NAME)).expect("registered");
        }
        irm
    })
}

/// A server, until it is dropped.
struct Server {
    _irm: Irm,
    hub: Arc<Hub>,
    ended: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Namespace, transport: impl IntoTransport) -> Self {
        let irm = manager(host, transport, true);
        let hub = host.inside(|| {
            let device = Tunnel::builder().address("10.9.0.1/20".parse().expect("an address"));
            HubBuilder::new(device.name("office0").queues(2)).build().expect("a hub")
        });
        let (hub, ended) = (Arc::new(hub), Arc::new(AtomicBool::new(false)));
        let (serves, is_over, accepting) = (hub.clone(), ended.clone(), irm.clone());
        let running = thread::spawn(move || {
            let executor = Executor::new();
            let accept = async {
                while let Ok(flow) = accepting.accept(Hosts::NAME).await {
                    let hub = &serves;
                    executor.spawn(async move { hub.join(vec![flow], &[]).await }).detach();
                }
            };
            let tell = async {
                let mut addresses = HashMap::new();
                while let Some(event) = serves.next_event().await {
                    if let ClientEvent::Requested { client, .. } = event {
                        let next = SERVER.to_bits() + 1 + addresses.len() as u32;
                        let own = *addresses.entry(client).or_insert(Ipv4Addr::from_bits(next));
                        let all = [IpNet::new(own.into(), 32).expect("a prefix")];
                        let _ = serves.set_prefixes(client, &all);
                        let mut configuration = Configuration::default();
                        configuration.addresses =
                            vec![IpNet::new(own.into(), 20).expect("a prefix")];
                        serves.configure(client, &configuration);
                    }
                }
            };
            let over = async {
                while !is_over.load(SeqCst) {
                    Timer::after(Duration::from_millis(20)).await;
                }
            };
            block_on(or(executor.run(or(accept, tell)), over));
        });
        Self { _irm: irm, hub, ended, running: Some(running) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || thread::panicking(), "the server panicked");
        }
    }
}

/// An ICMP echo request in an IPv4 packet.
fn ping(from: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(SERVER.octets());
    packet.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let sum = packet[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = sum.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Returns `true` if the packet answers a ping of `to`.
fn answers(packet: &[u8], to: Ipv4Addr) -> bool {
    packet.len() == 28 && packet[16..20] == to.octets() && packet[20] == 0
}

/// A client's flow: asks for an address, is answered a ping, and goes on until it ends.
async fn use_flow(flow: &Flow, answered: &AtomicBool) -> Result<(), FlowError> {
    flow.expect_answers_within(Duration::from_secs(1));
    let start = Instant::now();
    let mut asking = ConfigurationClient::new(start.elapsed(), &[]);
    let (mut own, mut pinged) = (None, Instant::now());
    let mut buffer = vec![0; 2048];
    loop {
        while let Some(packet) = asking.poll_transmit() {
            flow.send(&packet).await?;
        }
        if let Some(told) = asking.poll().and_then(|told| told.addresses.first().copied()) {
            let IpAddr::V4(address) = told.addr() else { panic!("{told}") };
            own = Some(address);
            flow.send(&ping(address)).await?;
        }
        let received = async { flow.recv(&mut buffer).await.map(Some) };
        let later = async {
            Timer::after(AGAIN).await;
            Ok(None)
        };
        match (or(received, later).await?, own) {
            (Some(size), Some(own)) if answers(&buffer[..size], own) => {
                answered.store(true, SeqCst);
            }
            (Some(size), _) => asking.handle(&buffer[..size]),
            (None, None) => asking.handle_timeout(start.elapsed()),
            (None, Some(_)) => {}
        }
        if let Some(own) = own
            && pinged.elapsed() >= AGAIN
        {
            pinged = Instant::now();
            flow.send(&ping(own)).await?;
        }
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("threads").count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

pub(crate) fn a_hundred_clients_have_a_server_and_the_next_one_when_it_was_killed() {
    serve(100);
}

/// Minutes where the cryptography is not optimised.
pub(crate) fn a_thousand_clients_have_a_server_and_the_next_one_when_it_was_killed() {
    serve(1000);
}

fn serve(clients: usize) {
    let limit =
        Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("as many as may be");
    let hosts = Hosts::with_cable();
    let transports = || udp("10.66.0.1", "10.66.0.2");
    let server = Server::start(&hosts.one, transports().0);
    let irm = manager(&hosts.two, transports().1, false);
    let (before, open) = (threads(), descriptors());
    let answered: Arc<[_]> = (0..clients).map(|_| AtomicBool::new(false)).collect();
    let all_are_answered = || answered.iter().all(|answered| answered.load(SeqCst));
    let over = Arc::new(AtomicBool::new(false));
    let (notes, is_over) = (answered.clone(), over.clone());
    let asking = thread::spawn(move || {
        let executor = Executor::new();
        let irm = &irm;
        for note in notes.iter() {
            let client = async move {
                loop {
                    // Whoever runs a tunnel asks again, too.
                    match irm.allocate(Hosts::NAME, FlowSpec::raw().encrypted()).await {
                        Ok(flow) => {
                            let _ = use_flow(&flow, note).await;
                        }
                        Err(_) => {
                            Timer::after(AGAIN).await;
                        }
                    }
                }
            };
            executor.spawn(client).detach();
        }
        block_on(executor.run(async {
            while !is_over.load(SeqCst) {
                Timer::after(Duration::from_millis(20)).await;
            }
        }));
    });
    let start = Instant::now();
    eventually("all clients are served", all_are_answered);
    println!("{clients} clients were served after {:?}", start.elapsed());
    assert_eq!(server.hub.clients().len(), clients);
    // None for each client: what there is, all of them have together.
    assert!(threads() < before + clients / 4, "{before} threads became {}", threads());
    // A socket at each end.
    let most = open + 2 * clients + clients / 4;
    assert!(descriptors() < most, "{open} descriptors became {}", descriptors());
    // Killed: it tells nobody.
    hosts.one.shell("ip link set eth0 down");
    drop(server);
    answered.iter().for_each(|answered| answered.store(false, SeqCst));
    hosts.one.shell("ip link set eth0 up");
    let start = Instant::now();
    let server = Server::start(&hosts.one, transports().0);
    eventually("all clients are served again", all_are_answered);
    println!("{clients} clients were served again after {:?}", start.elapsed());
    over.store(true, SeqCst);
    asking.join().expect("no panic");
    drop(server);
}
