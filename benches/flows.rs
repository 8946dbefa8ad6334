//! Flows end to end: throughput over memory and, as root, over eth-dix on a
//! loopback interface; and how many can be allocated in a second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_lite::future::{block_on, zip};
use ouroboros::{
    Flow, FlowSpec, Irm,
    transport::{EthDix, IntoTransport, memory::Network},
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

fn throughput(criterion: &mut Criterion) {
    let network = Network::new();
    let lo = || EthDix::on("lo").ethertype(0xa0be);
    let layers = [
        ("memory", irms(network.station(), network.station())),
        ("eth-dix on lo", irms(lo(), lo())),
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
        group.bench_function(kind, |bencher| bencher.iter(|| flow(&irms, spec)));
    }
    group.finish();
}

criterion_group!(benches, throughput, allocation);
criterion_main!(benches);
