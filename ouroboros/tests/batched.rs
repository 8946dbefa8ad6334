//! The batched ends of a flow, used as a tunnel uses them: who waits for what the two
//! descriptors tell misses nothing of what the background thread has read before.

use std::time::{Duration, Instant};

use futures_lite::future;
use ouroboros::{
    Flow, FlowReceiver, FlowSpec, Irm,
    transport::{IntoTransport, Udp, memory::Network},
    wire::QosSpec,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);

async fn pair(
    server: impl IntoTransport,
    client: impl IntoTransport,
    spec: FlowSpec,
) -> ((Irm, Irm), (Flow, Flow)) {
    let irms = (Irm::new(), Irm::new());
    let layer = irms.0.bootstrap("my_layer", server).await.expect("a layer");
    layer.register("my_vpn").await.expect("registered");
    irms.1.bootstrap("my_layer", client).await.expect("a layer");
    let flows = future::zip(irms.0.accept("my_vpn"), irms.1.allocate("my_vpn", spec)).await;
    (irms, (flows.0.expect("accepted"), flows.1.expect("allocated")))
}

/// Plain, as with a 0.23 peer, and in the native profile.
fn protections(qos: QosSpec) -> [FlowSpec; 3] {
    let spec = FlowSpec::with_qos(qos);
    [spec.clone(), spec.clone().native(false), spec.encrypted()]
}

/// Waits as a tunnel does, and receives what is there.
fn next(receiver: &mut FlowReceiver) -> usize {
    let mut ready = [
        PollFd::from_borrowed_fd(receiver.readiness(), PollFlags::IN),
        PollFd::from_borrowed_fd(receiver.end(), PollFlags::IN),
    ];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let any = poll(&mut ready, Some(&patience)).expect("polled");
    assert!(any > 0, "something is there, and no descriptor tells of it");
    receiver.try_receive().expect("received")
}

fn receive(receiver: &mut FlowReceiver, numbers: impl Iterator<Item = u32>) {
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        for index in 0..next(receiver) {
            let number = numbers.next().expect("no more than was sent");
            assert_eq!(receiver.packet(index), number.to_be_bytes());
        }
    }
}

fn send(flow: &Flow, numbers: impl Iterator<Item = u32>) {
    future::block_on(async {
        for number in numbers {
            flow.send(&number.to_be_bytes()).await.expect("sent");
        }
    });
}

fn nothing_is_left_lying(accepted: Flow, allocated: &Flow, in_order: bool) {
    const COUNT: u32 = 100;
    future::block_on(async {
        allocated.ready().await.expect("a flow");
        accepted.ready().await.expect("a flow");
    });
    // Nobody receives: the background thread does.
    send(allocated, 0..COUNT);
    let start = Instant::now();
    while !in_order && accepted.statistics().received_packets < COUNT.into() {
        assert!(start.elapsed() < PATIENCE, "never read: {:?}", accepted.statistics());
        std::thread::yield_now();
    }
    let (_sender, mut receiver) = accepted.split();
    receive(&mut receiver, 0..COUNT);
    // Each for itself, as pings are.
    for number in COUNT..2 * COUNT {
        send(allocated, number..=number);
        receive(&mut receiver, number..=number);
    }
    // And with a burst before each.
    for burst in 2..5 {
        send(allocated, burst * COUNT..(burst + 1) * COUNT);
        receive(&mut receiver, burst * COUNT..(burst + 1) * COUNT);
    }
}

#[test]
fn who_polls_a_flow_misses_nothing_of_it() {
    for (qos, in_order) in
        [(QosSpec::RAW, false), (QosSpec::BEST_EFFORT, true), (QosSpec::DATA, true)]
    {
        for spec in protections(qos) {
            let network = Network::new();
            let ends = pair(network.station(), network.station(), spec);
            let (_irms, (accepted, allocated)) = future::block_on(ends);
            nothing_is_left_lying(accepted, &allocated, in_order);
        }
    }
}

#[test]
fn who_polls_a_flow_over_udp_misses_nothing_of_it() {
    for spec in protections(QosSpec::RAW) {
        let address = "127.3.16.1".parse().expect("an address");
        let server = Udp::at(address).port(3516);
        let client = Udp::connect_only("127.3.16.2".parse().expect("an address"))
            .server((address, 3516).into());
        let (_irms, (accepted, allocated)) = future::block_on(pair(server, client, spec));
        nothing_is_left_lying(accepted, &allocated, false);
    }
}
