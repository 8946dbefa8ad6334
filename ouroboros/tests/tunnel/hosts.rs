//! Two hosts, what lies between them, and the tunnels that they run: the
//! library alone, an end in each network namespace.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, or, poll_once, zip};
use ouroboros::{
    Flow, FlowCloser, FlowSpec, FlowStatistics, FlowWatcher, Irm, Offload, RawFlow, Tunnel,
    TunnelBuilder, TunnelStatistics,
    transport::{EthDix, IntoTransport, Udp},
};
use ouroboros_testing::Namespace;

/// Only ends a test that has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done`, or fails.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Two hosts that reach each other by `eth0`: 10.66.0.1 and 10.66.0.2, fd66::1
/// and fd66::2 (or, where there is a router, by what it has for them).
pub(crate) struct Hosts {
    pub(crate) one: Namespace,
    pub(crate) two: Namespace,
    irms: [Irm; 2],
}

/// `eth0` of a host comes up with its addresses.
pub(crate) fn address(host: &Namespace, number: u8) {
    host.shell(&format!(
        "ip addr add 10.66.0.{number}/24 dev eth0 && \
         ip addr add fd66::{number}/64 dev eth0 nodad && ip link set eth0 up"
    ));
}

/// The ends of a layer over UDP between two addresses.
pub(crate) fn udp(one: &str, two: &str) -> (Udp, Udp) {
    let [one, two] = [one, two].map(|address| address.parse().expect("an address"));
    (Udp::at(one), Udp::connect_only(two).server((one, Udp::PORT).into()))
}

impl Hosts {
    /// The name that the first host serves.
    pub(crate) const NAME: &str = "my_vpn";

    /// Hosts with a cable between them and a layer of raw Ethernet on it.
    pub(crate) fn on_ethernet() -> Self {
        Self::with_cable().serving((EthDix::on("eth0"), EthDix::on("eth0")))
    }

    /// Hosts with a cable between them and a layer over UDP on it.
    pub(crate) fn on_udp() -> Self {
        Self::with_cable().serving(udp("10.66.0.1", "10.66.0.2"))
    }

    /// The same, over IPv6.
    pub(crate) fn on_udp6() -> Self {
        Self::with_cable().serving(udp("fd66::1", "fd66::2"))
    }

    /// Hosts with a cable between them and no layer.
    pub(crate) fn with_cable() -> Self {
        let hosts = Self::apart();
        hosts.one.connect(&hosts.two);
        address(&hosts.one, 1);
        address(&hosts.two, 2);
        hosts
    }

    /// Hosts with nothing between them.
    pub(crate) fn apart() -> Self {
        Self { one: Namespace::new(), two: Namespace::new(), irms: [Irm::new(), Irm::new()] }
    }

    /// The first serves a name in a layer, and the second is in it.
    pub(crate) fn serving(self, ends: (impl IntoTransport, impl IntoTransport)) -> Self {
        let (server, client) = ends;
        let [serves, asks] = &self.irms;
        self.one.inside(|| {
            let layer = block_on(serves.bootstrap("layer", server)).expect("a layer");
            block_on(layer.register(Self::NAME)).expect("registered");
        });
        self.two.inside(|| block_on(asks.bootstrap("layer", client)).expect("a layer"));
        self
    }

    /// Their resource managers.
    pub(crate) fn irms(&self) -> [&Irm; 2] {
        self.irms.each_ref()
    }

    /// A flow from the second host to the first: its ends.
    pub(crate) fn flow(&self, spec: FlowSpec) -> [Flow; 2] {
        self.raw_flow(spec).map(|raw| Flow::new(raw).expect("a flow"))
    }

    /// The same, before packets are protected.
    pub(crate) fn raw_flow(&self, spec: FlowSpec) -> [RawFlow; 2] {
        let [serves, asks] = &self.irms;
        let name = Self::NAME.parse().expect("a name");
        thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                let accept = || block_on(serves.accept_raw(std::slice::from_ref(&name)));
                self.one.inside(accept).expect("accepted")
            });
            let asked = self.two.inside(|| block_on(asks.allocate_raw(&name, spec)));
            let asked = asked.expect("allocated");
            [accepting.join().expect("no panic"), asked]
        })
    }

    /// An encrypted tunnel with these offloads at its ends.
    pub(crate) fn tunnel(&self, offloads: [Offload; 2]) -> [End<'_>; 2] {
        let builders = offloads.map(|offload| Tunnel::builder().offload(offload));
        self.run(self.flow(FlowSpec::raw().encrypted()), builders)
    }

    /// A tunnel over a flow, with addresses 10.9.0.1 and 10.9.0.2, fd09::1 and
    /// fd09::2. Both ends are ready when this returns.
    pub(crate) fn run(&self, flow: [Flow; 2], builders: [TunnelBuilder; 2]) -> [End<'_>; 2] {
        self.run_lanes(flow.map(|flow| vec![flow]), builders)
    }

    /// The same, over several flows.
    pub(crate) fn run_lanes(
        &self,
        flows: [Vec<Flow>; 2],
        builders: [TunnelBuilder; 2],
    ) -> [End<'_>; 2] {
        let all: Vec<_> = flows.iter().flatten().map(Flow::watcher).collect();
        let ready = async {
            let [one, two] = &flows;
            for (one, two) in one.iter().zip(two) {
                let (one, two) = zip(one.ready(), two.ready()).await;
                one.and(two).expect("a flow");
            }
        };
        block_on(or(ready, async {
            async_io::Timer::after(PATIENCE).await;
            panic!("the flows are not ready: {all:?}");
        }));
        let [first, second] = flows;
        let [here, there] = builders;
        [End::start(&self.one, 1, first, here), End::start(&self.two, 2, second, there)]
    }
}

/// One end of a tunnel that runs; ends when dropped.
pub(crate) struct End<'a> {
    pub(crate) host: &'a Namespace,
    tunnel: Arc<Tunnel>,
    closers: Vec<FlowCloser>,
    watchers: Vec<FlowWatcher>,
    running: Option<JoinHandle<()>>,
}

impl<'a> End<'a> {
    fn start(host: &'a Namespace, number: u8, flows: Vec<Flow>, builder: TunnelBuilder) -> Self {
        let closers = flows.iter().map(Flow::closer).collect();
        let watchers = flows.iter().map(Flow::watcher).collect();
        let (tunnel, running) = host.inside(|| {
            let v4 = format!("10.9.0.{number}/24").parse().expect("an address");
            let v6 = format!("fd09::{number}/64").parse().expect("an address");
            let tunnel = Arc::new(builder.address(v4).address(v6).build().expect("a device"));
            let runs = tunnel.clone();
            let mut run = Box::pin(async move { runs.run_lanes(flows).await });
            // As far as it gets without waiting: packets pass when this is done.
            let early = block_on(poll_once(&mut run));
            assert!(early.is_none(), "ended at once: {early:?}");
            let running = thread::spawn(move || {
                // The end that goes first may take the other with it.
                let _ = block_on(run);
            });
            (tunnel, running)
        });
        // The kernel takes an IPv6 address into use behind one's back.
        let local = format!("local fd09::{number} dev {}", tunnel.interface_name());
        eventually("the address is in use", || {
            host.shell("ip -6 route show table local").contains(&local)
        });
        Self { host, tunnel, closers, watchers, running: Some(running) }
    }

    pub(crate) fn device(&self) -> &str {
        self.tunnel.interface_name()
    }

    pub(crate) fn statistics(&self) -> TunnelStatistics {
        self.tunnel.statistics()
    }

    /// What went over each of its flows.
    pub(crate) fn lanes(&self) -> Vec<FlowStatistics> {
        self.watchers.iter().map(FlowWatcher::statistics).collect()
    }

    pub(crate) fn close_lane(&self, index: usize) {
        self.closers[index].close();
    }

    /// Whether the tunnel has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.running.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The device's MTU, as the kernel tells.
    pub(crate) fn mtu(&self) -> usize {
        let link = self.host.shell(&format!("ip -o link show {}", self.device()));
        let words: Vec<_> = link.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "mtu").expect("an MTU");
        words[at + 1].parse().expect("a number")
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        for closer in &self.closers {
            closer.close();
        }
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || thread::panicking(), "the tunnel's thread panicked");
        }
    }
}
