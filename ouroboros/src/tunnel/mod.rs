//! An IP tunnel: a TUN device at this end of a flow.
//!
//! Threads of their own move the packets, in batches and without a queue
//! between the steps (`worker`, `outbound`, `inbound`). Not here: how the flow
//! came to be, and what becomes of the tunnel when it ends (the caller's).

mod delay;
mod exchange;
mod hub;
mod inbound;
mod lane;
mod mtu;
mod offload;
mod outbound;
mod second;
mod statistics;
mod worker;

use std::{
    io,
    sync::{Arc, Mutex, atomic::AtomicU16},
    thread,
    time::Instant,
};

pub use hub::{ClientEvent, ClientId, ClientInfo, ClientStatistics, Hub, HubBuilder};
pub use offload::{Offload, UnknownOffload};
pub use statistics::TunnelStatistics;

use self::{
    exchange::Exchange, inbound::Inbound, lane::Lane, mtu::Following, outbound::Outbound,
    statistics::Counters,
};
use crate::{
    error::FlowError,
    flow::{Flow, FlowCloser, FlowState, FlowWatcher},
    proto::{
        hub::{Configuration, IpNet, Taken},
        negotiation::Profile,
    },
    sync::lock,
    transport::PathOffload,
    tun::{Device, DeviceError, DeviceSettings, InterfaceAddress, LEAST_IPV6},
};

/// Packets that wait in the device, at most: some milliseconds of the smallest,
/// which is how long a busy machine may let a thread wait for its turn.
const QUEUE_LENGTH: u16 = 2048;

/// A SYN is smaller, in bytes: only such packets are looked at for one.
const LARGEST_SYN: usize = 256;

/// A tunnel cannot be built, or ended by a failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// Environment: the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The flow went down, or its transport failed.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// Misuse: a tunnel runs over as many flows as its device has queues.
    #[error("a tunnel with {queues} queues cannot run over {flows} flows")]
    Lanes {
        /// Queues of the device.
        queues: usize,
        /// Flows.
        flows: usize,
    },
    /// Misuse: a prefix is another client's.
    #[error(transparent)]
    Prefix(#[from] Taken),
    /// Environment: no threads can be started, or the device cannot be read.
    #[error("tunnel: {0}")]
    Io(#[from] io::Error),
}

/// Builder of a [`Tunnel`].
#[derive(Clone, Debug)]
pub struct TunnelBuilder {
    addresses: Vec<InterfaceAddress>,
    name: Option<String>,
    mtu: Option<u16>,
    offload: Offload,
    queues: usize,
}

impl Default for TunnelBuilder {
    fn default() -> Self {
        Self { addresses: Vec::new(), name: None, mtu: None, offload: Offload::ALL, queues: 1 }
    }
}

impl TunnelBuilder {
    /// Gives the device an address. May be called again, for one of the other
    /// family.
    #[must_use]
    pub fn address(mut self, address: InterfaceAddress) -> Self {
        self.addresses.push(address);
        self
    }

    /// Names the device; the kernel picks `tun0`, `tun1`, … otherwise.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Fixes the device's MTU, in bytes; it follows from the flow otherwise.
    /// Packets that are too large for the flow are answered as a router would.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Leaves no more than this to the kernel; all that it has by default.
    #[must_use]
    pub fn offload(mut self, offload: Offload) -> Self {
        self.offload = offload;
        self
    }

    /// Gives the device `queues` queues, at least one: see
    /// [`Tunnel::run_lanes`].
    #[must_use]
    pub fn queues(mut self, queues: usize) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// As [`DeviceError`] says: most often, this user may not.
    pub fn build(self) -> Result<Tunnel, TunnelError> {
        let device = Device::open(&DeviceSettings {
            name: self.name.as_deref(),
            addresses: &self.addresses,
            mtu: self.mtu.unwrap_or(LEAST_IPV6),
            queues: self.queues,
            offload: self.offload.device,
            queue_length: QUEUE_LENGTH,
        })?;
        let (news, configurations) = async_channel::bounded(1);
        Ok(Tunnel {
            device: Arc::new(device),
            mtu: self.mtu,
            offload: self.offload,
            counters: Arc::default(),
            flows: Mutex::default(),
            wanted: Mutex::default(),
            exchange: Arc::new(Exchange::new(news)),
            configurations,
        })
    }
}

/// A TUN device, and a flow's packets through it while [`run`](Self::run)
/// runs. The device goes away with this value.
///
/// ```no_run
/// # async fn example(flow: ouroboros::Flow) -> Result<(), Box<dyn std::error::Error>> {
/// use ouroboros::Tunnel;
/// let tunnel = Tunnel::builder().address("10.0.0.1/24".parse()?).build()?;
/// println!("{} is up", tunnel.interface_name());
/// tunnel.run(flow).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tunnel {
    device: Arc<Device>,
    mtu: Option<u16>,
    offload: Offload,
    counters: Arc<Counters>,
    flows: Mutex<Vec<FlowWatcher>>,
    /// The addresses to ask a hub for.
    wanted: Mutex<Option<Vec<IpNet>>>,
    exchange: Arc<Exchange>,
    configurations: async_channel::Receiver<Configuration>,
}

impl Tunnel {
    /// A tunnel to be described.
    #[must_use]
    pub fn builder() -> TunnelBuilder {
        TunnelBuilder::default()
    }

    /// The device's name when it was made, such as `tun0`.
    #[must_use]
    pub fn interface_name(&self) -> &str {
        self.device.name()
    }

    /// The device's name now: it may have been renamed.
    #[must_use]
    pub fn interface_name_now(&self) -> String {
        self.device.name_now()
    }

    /// Returns how many queues the device has: over as many flows it runs.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.device.queues().len()
    }

    /// Returns the tunnel's statistics.
    #[must_use]
    pub fn statistics(&self) -> TunnelStatistics {
        let flows = lock(&self.flows);
        let path = flows.first().map_or(PathOffload::NONE, FlowWatcher::offload);
        let offload = Offload { device: self.device.queues()[0].offload(), path };
        let buffers = flows.first().map_or((0, 0), FlowWatcher::buffers);
        self.counters.statistics(flows.iter().map(FlowWatcher::statistics).sum(), offload, buffers)
    }

    /// The flows of the tunnel that are there, as they are now.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowState> {
        lock(&self.flows).iter().filter_map(FlowWatcher::state).collect()
    }

    /// Has the round trips of its flows measured: see
    /// [`FlowWatcher::measure_round_trip`](crate::FlowWatcher::measure_round_trip).
    pub fn measure_round_trips(&self) {
        lock(&self.flows).iter().for_each(FlowWatcher::measure_round_trip);
    }

    /// The device's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn mtu(&self) -> Result<u16, TunnelError> {
        Ok(self.device.mtu()?)
    }

    /// Has the other end asked, whenever a native flow begins, for what a client
    /// of a [`Hub`] has to know; `wanted` are the addresses that this end has, or
    /// would like. Who does not know the exchange drops the question.
    pub fn ask(&self, wanted: &[IpNet]) {
        *lock(&self.wanted) = Some(wanted.to_vec());
    }

    /// Routes a network through the device; the route goes with it.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn add_route(&self, network: IpNet) -> Result<(), TunnelError> {
        Ok(self.device.add_route(network.network(), network.prefix_len())?)
    }

    /// Takes such a route away.
    ///
    /// # Errors
    ///
    /// The kernel does not.
    pub fn remove_route(&self, network: IpNet) -> Result<(), TunnelError> {
        Ok(self.device.remove_route(network.network(), network.prefix_len())?)
    }

    /// Waits for the configuration of the hub at the other end: the first, and then whenever it
    /// changes. Nothing is done about it here. Cancel safe.
    pub async fn configuration(&self) -> Configuration {
        match self.configurations.recv().await {
            Ok(configuration) => configuration,
            // The sender is this tunnel's.
            Err(_) => std::future::pending().await,
        }
    }

    /// Moves packets both ways until the flow ends. The device's MTU becomes
    /// the flow's largest packet. Dropping the future closes the flow; the
    /// tunnel can then run another one.
    ///
    /// # Errors
    ///
    /// The flow went down or failed; that it was closed is none. The device has
    /// several queues.
    pub async fn run(&self, flow: Flow) -> Result<(), TunnelError> {
        self.run_lanes(vec![flow]).await
    }

    /// Like [`run`](Self::run), over as many flows as the device has queues,
    /// each with threads of its own: for machines with more cores than one
    /// thread can use. The kernel keeps each connection inside to one queue, so
    /// that its packets keep their order. The first flow that ends ends all.
    ///
    /// Dropping the future closes the flows.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub async fn run_lanes(&self, flows: Vec<Flow>) -> Result<(), TunnelError> {
        let queues = self.queues();
        if flows.len() != queues {
            return Err(TunnelError::Lanes { queues, flows: flows.len() });
        }
        let ends: Vec<_> = flows.iter().map(|flow| EndOnDrop(flow.closer())).collect();
        *lock(&self.flows) = flows.iter().map(Flow::watcher).collect();
        let mut largest = usize::MAX;
        for flow in &flows {
            flow.limit_offload(self.offload.path);
            flow.ready().await?;
            flow.take_partial_checksums();
            largest = largest.min(flow.largest_packet());
        }
        let fragments = flows.iter().all(Flow::takes_fragments);
        let following = Following::new(Instant::now(), self.mtu, clamp(largest), fragments);
        let mtus = following.mtus();
        let mut following = Some(following);
        self.device.set_mtu_or_warn(mtus.device);
        if mtus.packets < LEAST_IPV6 && !fragments {
            mtu::warn_of(mtus.packets);
        }
        let mtu = Arc::new(AtomicU16::new(mtus.packets));
        let native = flows.iter().all(|flow| flow.info().profile == Some(Profile::Native));
        let wanted = lock(&self.wanted).clone().filter(|_| native);
        self.exchange.begin(wanted.as_deref());
        let (done, ended) = async_channel::bounded(queues);
        for (queue, flow) in flows.into_iter().enumerate() {
            let (sender, receiver) = flow.split();
            let outbound = Outbound::new(sender, following.take());
            let inbound = Inbound::new(receiver);
            let (device, counters) = (self.device.clone(), self.counters.clone());
            let lane = Arc::new(Lane {
                device,
                queue,
                counters,
                mtu: mtu.clone(),
                exchange: self.exchange.clone(),
            });
            let done = done.clone();
            thread::Builder::new().name(format!("tunnel-{queue}")).spawn(move || {
                let _ = done.try_send(worker::run(&lane, outbound, inbound));
            })?;
        }
        drop(done);
        let result = ended.recv().await;
        drop(ends);
        match result {
            Ok(Ok(()) | Err(TunnelError::Flow(FlowError::Closed))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("a packet thread ended unexpectedly").into()),
        }
    }
}

struct EndOnDrop(FlowCloser);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn clamp(largest: usize) -> u16 {
    u16::try_from(largest).unwrap_or(u16::MAX)
}
