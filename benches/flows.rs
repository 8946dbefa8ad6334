//! Flows end to end: throughput over memory, UDP on loopback and, as root,
//! eth-dix on a veth pair; and how many can be allocated in a second.

use std::{net::Ipv4Addr, process::Command};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_lite::future::{block_on, zip};
use ouroboros::{
    Flow, FlowSpec, Irm,
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
            let (accepted, allocated) = flow(&irms, spec);
            let (mut sender, _other) = allocated.split();
            let (_another, mut receiver) = accepted.split();
            group.bench_function(kind, |bencher| {
                bencher.iter(|| {
                    for _ in 0..BATCH {
                        sender.push(SIZE).expect("room");
                    }
                    sender.flush().expect("sent");
                    // All of them: nothing on these paths drops a batch this small.
                    let mut received = 0;
                    while received < BATCH {
                        received += receiver.receive().expect("received");
                    }
                });
            });
        }
        group.finish();
    }
}

fn allocation(criterion: &mut Criterion) {
    let network = Network::new();
    let irms = irms(network.station(), network.station()).expect("memory is always there");
    let mut group = criterion.benchmark_group("allocation over memory");
    group.throughput(Throughput::Elements(1));
    // Requests are remembered for 21 s against replay, 65,536 at the most.
    group.sample_size(10).measurement_time(std::time::Duration::from_secs(3));
    for (kind, spec) in [("plain", FlowSpec::raw()), ("encrypted", FlowSpec::raw().encrypted())] {
        group.bench_function(kind, |bencher| bencher.iter(|| flow(&irms, spec.clone())));
    }
    group.finish();
}

criterion_group!(benches, throughput, allocation);
criterion_main!(benches);
