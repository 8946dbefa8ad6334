//! Flows end to end: throughput over memory, UDP on loopback and, as root,
//! eth-dix on a veth pair; what lanes win; how many can be allocated in a second.

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_lite::future::{block_on, zip};
use ouroboros::{
    Flow, FlowReceiver, FlowSender, FlowSpec, Irm, LaneAcceptor,
    transport::{EthDix, IntoTransport, Udp, memory::Network},
};

const BATCH: usize = 32;
const SIZE: usize = 1400;

fn irms(server: impl IntoTransport, client: impl IntoTransport) -> Option<(Irm, Irm)> {
    block_on(async {
        let pair = (Irm::new(), Irm::new());
        pair.0.bootstrap("layer", server).await.ok()?.register("bench").await.ok()?;
        pair.1.bootstrap("layer", client).await.ok()?;
        Some(pair)
    })
}

fn flow((server, client): &(Irm, Irm), spec: FlowSpec) -> (Flow, Flow) {
    let (accepted, allocated) =
        block_on(zip(server.accept("bench"), client.allocate("bench", spec)));
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

const LEFT: &str = "o7sbench0";
const RIGHT: &str = "o7sbench1";

/// A veth pair, as long as it is held; `None` without root.
struct Cable;

impl Cable {
    fn lay() -> Option<Self> {
        let run = |words: String| {
            let status = Command::new("ip").args(words.split(' ')).status();
            status.is_ok_and(|status| status.success())
        };
        let laid = run(format!("link add {LEFT} type veth peer name {RIGHT}"))
            && run(format!("link set {LEFT} up"))
            && run(format!("link set {RIGHT} up"));
        laid.then_some(Self)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", LEFT]).status();
    }
}

/// One way of a flow.
struct Way {
    sender: FlowSender,
    receiver: FlowReceiver,
    /// What the receiving end's session has to say comes here: new keys.
    back: FlowReceiver,
    /// It ends with its sender.
    _other: FlowSender,
    passed: u64,
}

impl Way {
    fn of((accepted, allocated): (Flow, Flow)) -> Self {
        let (sender, back) = allocated.split();
        let (_other, receiver) = accepted.split();
        Self { sender, receiver, back, _other, passed: 0 }
    }

    /// A batch from one end to the other.
    fn pass(&mut self) {
        for _ in 0..BATCH {
            self.sender.push(SIZE).expect("room");
        }
        self.sender.flush().expect("sent");
        // All of them: nothing on these paths drops a batch this small.
        let mut received = 0;
        while received < BATCH {
            received += self.receiver.receive().expect("received");
        }
        self.passed += 1;
        if self.passed.is_multiple_of(1024) {
            self.back.try_receive().expect("nothing, or the session's");
        }
    }
}

fn throughput(criterion: &mut Criterion) {
    let network = Network::new();
    let (here, port) = (Ipv4Addr::LOCALHOST.into(), 34_350);
    let cable = Cable::lay();
    let ends = || cable.as_ref().and_then(|_| irms(EthDix::on(LEFT), EthDix::on(RIGHT)));
    let udp =
        || irms(Udp::at(here).port(port), Udp::connect_only(here).server((here, port).into()));
    let layers = [
        ("memory", irms(network.station(), network.station())),
        ("UDP on loopback", udp()),
        ("eth-dix on veth", ends()),
    ];
    for (name, irms) in layers {
        let Some(irms) = irms else {
            eprintln!("left out, since it needs root: throughput over {name}");
            continue;
        };
        let mut group = criterion.benchmark_group(format!("{BATCH} packets of {SIZE}, {name}"));
        group.throughput(Throughput::Bytes((BATCH * SIZE) as u64));
        for (kind, spec) in [("plain", FlowSpec::raw()), ("encrypted", FlowSpec::raw().encrypted())]
        {
            let mut way = Way::of(flow(&irms, spec));
            group.bench_function(kind, |bencher| bencher.iter(|| way.pass()));
        }
        group.finish();
    }
}

/// Lanes have no packet path in common: so many threads, one for both ends of
/// each lane, move so many times as much where there are as many cores.
fn lanes(criterion: &mut Criterion) {
    let (here, port) = (Ipv4Addr::LOCALHOST.into(), 34_351);
    let server = Udp::at(here).port(port);
    let irms = irms(server, Udp::connect_only(here).server((here, port).into()));
    let (server, client) = irms.expect("loopback is always there");
    let mut group = criterion.benchmark_group(format!("lanes, {BATCH} packets of {SIZE} in each"));
    for lanes in [1, 2] {
        let mut acceptor = LaneAcceptor::new(&server, Some("bench"));
        let spec = FlowSpec::raw().encrypted();
        let (accepted, allocated) =
            block_on(zip(acceptor.accept(), client.allocate_lanes("bench", spec, lanes)));
        let pairs = accepted.expect("accepted").into_iter().zip(allocated.expect("allocated"));
        let mut ways: Vec<_> = pairs.map(Way::of).collect();
        group.throughput(Throughput::Bytes(u64::from(lanes) * (BATCH * SIZE) as u64));
        group.bench_function(format!("{lanes}"), |bencher| {
            bencher.iter_custom(|count| {
                let begin = Barrier::new(ways.len());
                let slowest = thread::scope(|scope| {
                    let threads: Vec<_> = (ways.iter_mut())
                        .map(|way| {
                            scope.spawn(|| {
                                begin.wait();
                                let start = Instant::now();
                                (0..count).for_each(|_| way.pass());
                                start.elapsed()
                            })
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
                });
                slowest.expect("at least one lane")
            });
        });
    }
    group.finish();
}

fn allocation(criterion: &mut Criterion) {
    let network = Network::new();
    let irms = irms(network.station(), network.station()).expect("memory is always there");
    let mut group = criterion.benchmark_group("allocation over memory");
    group.throughput(Throughput::Elements(1));
    // Requests are remembered for 21 s against replay, 65,536 at the most.
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (kind, spec) in [("plain", FlowSpec::raw()), ("encrypted", FlowSpec::raw().encrypted())] {
        group.bench_function(kind, |bencher| bencher.iter(|| flow(&irms, spec.clone())));
    }
    group.finish();
}

criterion_group!(benches, throughput, lanes, allocation);
criterion_main!(benches);
