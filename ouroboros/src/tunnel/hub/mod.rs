//! A hub: one TUN device for many clients.
//!
//! A worker for each queue of the device serves all clients (`worker`,
//! `outbound`, `inbound`); which client a packet is for, and may be from, is
//! `proto::hub`'s to say. Not here: whom to let in, which addresses to give
//! (the caller's, with [`AddressPool`](crate::proto::hub::AddressPool)).

mod client;
mod clients;
mod core;
mod inbound;
mod info;
mod outbound;
mod worker;

use std::{
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::info::{ClientEvent, ClientId, ClientInfo, ClientStatistics};
use self::{
    client::{Client, Shared},
    core::Core,
    inbound::Mailbox,
};
use super::{Tunnel, TunnelBuilder, TunnelError, TunnelStatistics, clamp};
use crate::{
    error::FlowError,
    flow::{Flow, FlowCloser, FlowSender},
    log::Limited,
    proto::hub::{Configuration, IpNet},
    sync::lock,
    transport::PathOffload,
    tun::{LEAST_IPV6, offload::Version},
};

static TOO_SMALL: Limited = Limited::new();

/// Builder of a [`Hub`].
#[derive(Clone, Debug, Default)]
pub struct HubBuilder {
    tunnel: TunnelBuilder,
    forward: bool,
}

impl HubBuilder {
    /// Takes the device that `tunnel` describes: addresses, name, MTU, offloads,
    /// queues.
    #[must_use]
    pub fn new(tunnel: TunnelBuilder) -> Self {
        Self { tunnel, forward: false }
    }

    /// Moves packets between clients in this process. Off by default: they go to
    /// the device, and the kernel's routing and firewall decide.
    #[must_use]
    pub fn forward_between_clients(mut self, forward: bool) -> Self {
        self.forward = forward;
        self
    }

    /// Opens the device and starts the workers: a thread for each queue, and one
    /// more each for when both directions are busy.
    ///
    /// # Errors
    ///
    /// As for [`TunnelBuilder::build`]; no threads can be started.
    pub fn build(self) -> Result<Hub, TunnelError> {
        let tunnel = self.tunnel.build()?;
        let queues = tunnel.queues();
        let mailboxes = (0..queues).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let (emitted, events) = async_channel::unbounded();
        let Tunnel { device, mtu: fixed_mtu, offload, counters, .. } = tunnel;
        let core = Arc::new(Core {
            device,
            counters,
            forward: self.forward,
            fixed_mtu,
            router: RwLock::default(),
            clients: Mutex::default(),
            device_mtu: Mutex::default(),
            mailboxes,
            unacknowledged: Mutex::default(),
            any_unacknowledged: AtomicBool::new(false),
            events: emitted,
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let mut hub = Hub {
            core: core.clone(),
            offload: offload.path,
            events,
            next: AtomicU64::new(1),
            next_flow: AtomicU64::new(0),
            workers: Vec::new(),
        };
        for queue in 0..queues {
            let core = core.clone();
            let builder = thread::Builder::new().name(format!("hub-{queue}"));
            hub.workers.push(builder.spawn(move || {
                if let Err(error) = worker::run(&core, queue) {
                    tracing::debug!(%error, "the hub has failed");
                    lock(&core.failure).get_or_insert(error);
                    core.end();
                }
            })?);
        }
        Ok(hub)
    }
}

/// One TUN device, and the packets of any number of clients through it. Clients
/// come and go while it runs; it goes away, and they with it, when dropped.
///
/// A packet from the device goes to the client that has the longest prefix it is
/// for. A packet from a client goes on if that client has the longest prefix it
/// is from, and is dropped otherwise.
///
/// ```no_run
/// # async fn example(irm: ouroboros::Irm) -> Result<(), Box<dyn std::error::Error>> {
/// use ouroboros::{HubBuilder, Tunnel};
/// let device = Tunnel::builder().address("10.0.0.1/24".parse()?).name("office0");
/// let hub = HubBuilder::new(device).build()?;
/// let flow = irm.accept("office").await?;
/// let client = hub.join(vec![flow], &["10.0.0.2/32".parse()?]).await?;
/// println!("{client:?} of {:?}", hub.clients());
/// # Ok(())
/// # }
/// ```
pub struct Hub {
    core: Arc<Core>,
    offload: PathOffload,
    events: async_channel::Receiver<ClientEvent>,
    next: AtomicU64,
    next_flow: AtomicU64,
    workers: Vec<JoinHandle<()>>,
}

impl Hub {
    /// The device's name when it was made, such as `tun0`.
    #[must_use]
    pub fn interface_name(&self) -> &str {
        self.core.device.name()
    }

    /// The device's name now: it may have been renamed.
    #[must_use]
    pub fn interface_name_now(&self) -> String {
        self.core.device.name_now()
    }

    /// Returns the error that has made the hub fail, once [`next_event`](Self::next_event) says
    /// that it has.
    #[must_use]
    pub fn take_error(&self) -> Option<TunnelError> {
        lock(&self.core.failure).take()
    }

    /// Returns how many queues the device has.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.core.device.queues().len()
    }

    /// Takes a client in: its flows, one or several, in order, and the prefixes
    /// that it has. A former client with the same identity and name is removed
    /// first, and its prefixes are free.
    ///
    /// Dropping the future closes the flows.
    ///
    /// # Errors
    ///
    /// A flow has ended; there is none; a prefix is another client's.
    pub async fn join(
        &self,
        flows: Vec<Flow>,
        prefixes: &[IpNet],
    ) -> Result<ClientId, TunnelError> {
        let closing: Vec<_> = flows.iter().map(|flow| CloseOnDrop(Some(flow.closer()))).collect();
        let mut largest = usize::MAX;
        for flow in &flows {
            flow.limit_offload(self.offload);
            flow.ready().await?;
            flow.take_partial_checksums();
            largest = largest.min(flow.largest_packet());
        }
        let Some(info) = flows.first().map(|flow| flow.info().clone()) else {
            return Err(TunnelError::Lanes { queues: self.queues(), flows: 0 });
        };
        let former = lock(&self.core.clients).by_identity(&info);
        if let Some(former) = former {
            former.close();
            self.core.left(&former, &FlowError::Closed);
        }
        let id = ClientId(self.next.fetch_add(1, Relaxed));
        let watchers = flows.iter().map(Flow::watcher).collect();
        let split = |(lane, flow): (usize, Flow)| {
            // Clients with one flow each do not all go to the first worker.
            let queue = (id.0 as usize + lane) % self.queues();
            let token = self.next_flow.fetch_add(1, Relaxed);
            let waker = self.core.mailboxes[queue].waker.clone();
            let (sender, receiver) = flow.split_with_waker(move || waker.wake_for(token));
            (sender, (queue, token, receiver))
        };
        let (senders, receivers): (Vec<_>, Vec<_>) =
            flows.into_iter().enumerate().map(split).unzip();
        let mtu = clamp(largest);
        if mtu < LEAST_IPV6
            && !senders.iter().all(FlowSender::takes_fragments)
            && let Some(times) = TOO_SMALL.report()
        {
            let peer = info.peer;
            tracing::warn!(%peer, times, "a client's path is too small for IPv6");
            super::mtu::warn_of(mtu);
        }
        let client = Arc::new(Client::new(id, senders, watchers, mtu));
        self.core.set_prefixes(&client, prefixes)?;
        lock(&self.core.clients).insert(&client);
        self.core.emit(ClientEvent::Joined { client: id, info: Box::new(info) });
        self.core.mtu_changed(&client, mtu);
        for (queue, token, receiver) in receivers {
            self.core.mailboxes[queue].put(token, client.clone(), receiver);
        }
        closing.into_iter().for_each(CloseOnDrop::keep);
        Ok(id)
    }

    /// Ends a client's flows. `false`: it is not there.
    pub fn remove(&self, client: ClientId) -> bool {
        let found = self.find(client);
        if let Some(client) = &found {
            client.close();
            self.core.left(client, &FlowError::Closed);
        }
        found.is_some()
    }

    /// Asks a client whether it is there: its flows end, and
    /// [`ClientEvent::Left`] says so, when it does not answer within `patience`. No
    /// effect on a client in the 0.23 format. `false`: it is not there.
    pub fn probe(&self, client: ClientId, patience: Duration) -> bool {
        let found = self.find(client);
        if let Some(client) = &found {
            client.probe(patience);
        }
        found.is_some()
    }

    /// Gives a client other prefixes than it had. `false`: it is not there.
    ///
    /// # Errors
    ///
    /// One is another client's; nothing has changed.
    pub fn set_prefixes(&self, client: ClientId, prefixes: &[IpNet]) -> Result<bool, TunnelError> {
        let Some(client) = self.find(client) else { return Ok(false) };
        self.core.set_prefixes(&client, prefixes)?;
        self.core.emit(ClientEvent::Addressed { client: client.id, prefixes: prefixes.to_vec() });
        Ok(true)
    }

    /// Routes a network through the device; the route goes with it.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn add_route(&self, network: IpNet) -> Result<(), TunnelError> {
        Ok(self.core.device.add_route(network.network(), network.prefix_len())?)
    }

    /// Takes such a route away.
    ///
    /// # Errors
    ///
    /// The kernel does not.
    pub fn remove_route(&self, network: IpNet) -> Result<(), TunnelError> {
        Ok(self.core.device.remove_route(network.network(), network.prefix_len())?)
    }

    /// Sends a client its configuration as soon as it asks, and again until it has
    /// acknowledged it (PROTOCOL.md, "Tunnels"). `false`: it is not there, or the
    /// configuration is longer than
    /// [`LARGEST`](crate::proto::hub::configuration::LARGEST).
    pub fn configure(&self, client: ClientId, configuration: &Configuration) -> bool {
        let Some(client) = self.find(client) else { return false };
        let fits = client.configure(configuration);
        self.core.note_unacknowledged(&client);
        self.core.mailboxes[0].waker.wake();
        fits
    }

    /// Has the round trips of all clients' flows measured: see
    /// [`FlowWatcher::measure_round_trip`](crate::FlowWatcher::measure_round_trip).
    pub fn measure_round_trips(&self) {
        self.all().iter().for_each(|client| client.measure_round_trips());
    }

    /// The device's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn mtu(&self) -> Result<u16, TunnelError> {
        Ok(self.core.device.mtu()?)
    }

    /// The clients that are there, in the order in which they came.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut clients = self.all();
        clients.sort_by_key(|client| client.id);
        clients.iter().map(|client| ClientInfo::of(client)).collect()
    }

    fn all(&self) -> Vec<Shared> {
        lock(&self.core.clients).iter().cloned().collect()
    }

    fn find(&self, client: ClientId) -> Option<Shared> {
        lock(&self.core.clients).by_id(client)
    }

    /// One client.
    #[must_use]
    pub fn client(&self, client: ClientId) -> Option<ClientInfo> {
        self.find(client).map(|client| ClientInfo::of(&client))
    }

    /// The next event. Cancel safe. `None`: the hub has failed, and its device is
    /// of no more use; [`take_error`](Self::take_error) says why.
    ///
    /// Events are kept until they are taken: 4,096, and of those that say which clients there
    /// are and what they ask for 65,536. Later ones are dropped.
    pub async fn next_event(&self) -> Option<ClientEvent> {
        self.events.recv().await.ok()
    }

    /// Returns the statistics of the device and, of the flows, those of the clients that are
    /// there.
    #[must_use]
    pub fn statistics(&self) -> TunnelStatistics {
        let offload = super::Offload {
            device: self.core.device.queues()[0].offload(),
            path: PathOffload::NONE,
        };
        let flows = self.all().iter().map(|client| client.statistics().flows).sum();
        self.core.counters.statistics(flows, offload, (0, 0))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.core.end();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.all().iter().for_each(|client| client.close());
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.interface_name()).finish()
    }
}

/// Closes a flow that nobody else will.
struct CloseOnDrop(Option<FlowCloser>);

impl CloseOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(closer) = &self.0 {
            closer.close();
        }
    }
}

/// Returns the source address of a packet; `None` if it is no IP packet.
fn source(packet: &[u8]) -> Option<IpAddr> {
    addresses(packet).map(|(source, _)| source)
}

/// Returns the destination address of a packet; `None` if it is no IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    addresses(packet).map(|(_, destination)| destination)
}

fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let version = Version::of(packet)?;
    if packet.len() < version.header_length() {
        return None;
    }
    let addresses = version.addresses(packet);
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    Some(match version {
        Version::V4 => {
            let v4 = |bytes| <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            (v4(source).ok()?, v4(destination).ok()?)
        }
        Version::V6 => {
            let v6 = |bytes| <[u8; 16]>::try_from(bytes).map(IpAddr::from);
            (v6(source).ok()?, v6(destination).ok()?)
        }
    })
}
