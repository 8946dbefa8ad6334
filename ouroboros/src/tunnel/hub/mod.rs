//! A hub: one TUN device for many clients.
//!
//! A worker for each queue of the device serves all clients (`worker`,
//! `outbound`, `inbound`); which client a packet is for, and may be from, is
//! `proto::hub`'s to say. Not here: whom to let in, which addresses to give
//! (the caller's, with [`AddressPool`](crate::proto::hub::AddressPool)).

mod client;
mod inbound;
mod info;
mod outbound;
mod worker;

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::info::{ClientEvent, ClientId, ClientInfo, ClientStatistics};
use self::{
    client::{Client, Shared},
    inbound::Mailbox,
};
use super::{Counters, Tunnel, TunnelBuilder, TunnelError, TunnelStatistics, clamp};
use crate::{
    error::FlowError,
    flow::{Flow, FlowCloser, FlowInfo, FlowSender},
    log::Limited,
    proto::hub::{Configuration, IpNet, Router},
    sync::lock,
    transport::PathOffload,
    tun::{Device, LEAST_IPV6, offload::Version},
};

static MTU_REFUSED: Limited = Limited::new();
static TOO_SMALL: Limited = Limited::new();

/// Events that nobody has taken yet, at most; the oldest are dropped.
const EVENTS: usize = 4096;

/// What a hub will be.
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
        let (tell, told) = async_channel::bounded(EVENTS);
        let Tunnel { device, mtu: fixed_mtu, offload, counters, .. } = tunnel;
        let core = Arc::new(Core {
            device,
            counters,
            forward: self.forward,
            fixed_mtu,
            router: RwLock::default(),
            clients: Mutex::default(),
            mailboxes,
            untold: Mutex::default(),
            any_untold: AtomicBool::new(false),
            events: tell,
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let mut hub = Hub {
            core: core.clone(),
            offload: offload.path,
            events: told,
            next: AtomicU64::new(1),
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

    /// What has made the hub fail, once [`next_event`](Self::next_event) says that it
    /// has.
    #[must_use]
    pub fn take_error(&self) -> Option<TunnelError> {
        lock(&self.core.failure).take()
    }

    /// How many queues the device has.
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
        if let Some(former) = self.core.former(&info) {
            former.close();
            self.core.left(&former, &FlowError::Closed);
        }
        let id = ClientId(self.next.fetch_add(1, Relaxed));
        let watchers = flows.iter().map(Flow::watcher).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            flows.into_iter().map(Flow::split_for_many).unzip();
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
        lock(&self.core.clients).insert(id, client.clone());
        self.core.tell_of(ClientEvent::Joined { client: id, info: Box::new(info) });
        self.core.mtu_changed(&client, mtu);
        for (lane, receiver) in receivers.into_iter().enumerate() {
            // Clients with one flow each do not all go to the first worker.
            let queue = (id.0 as usize + lane) % self.queues();
            self.core.mailboxes[queue].put(client.clone(), receiver);
        }
        closing.into_iter().for_each(CloseOnDrop::keep);
        Ok(id)
    }

    /// Ends a client's flows. `false`: it is not there.
    pub fn remove(&self, client: ClientId) -> bool {
        let found = self.core.client(client);
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
        let found = self.core.client(client);
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
        let Some(client) = self.core.client(client) else { return Ok(false) };
        self.core.set_prefixes(&client, prefixes)?;
        self.core
            .tell_of(ClientEvent::Addressed { client: client.id, prefixes: prefixes.to_vec() });
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

    /// Tells a client its configuration, as soon as it asks and again until it
    /// has heard. `false`: it is not there, or that is more than can be told.
    pub fn tell(&self, client: ClientId, configuration: &Configuration) -> bool {
        let Some(client) = self.core.client(client) else { return false };
        let fits = client.tell(configuration);
        self.core.note_untold(&client);
        self.core.mailboxes[0].wake();
        fits
    }

    /// Has the round trips of all clients' flows measured: see
    /// [`FlowWatcher::measure_round_trip`](crate::FlowWatcher::measure_round_trip).
    pub fn measure_round_trips(&self) {
        let clients: Vec<_> = lock(&self.core.clients).values().cloned().collect();
        clients.iter().for_each(|client| client.measure_round_trips());
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
        let clients = lock(&self.core.clients);
        let mut infos: Vec<_> = clients.values().map(|client| ClientInfo::of(client)).collect();
        infos.sort_by_key(|info| info.client);
        infos
    }

    /// One client.
    #[must_use]
    pub fn client(&self, client: ClientId) -> Option<ClientInfo> {
        self.core.client(client).map(|client| ClientInfo::of(&client))
    }

    /// The next event. Cancel safe. `None`: the hub has failed, and its device is
    /// of no more use; [`take_error`](Self::take_error) says why.
    pub async fn next_event(&self) -> Option<ClientEvent> {
        self.events.recv().await.ok()
    }

    /// What went through the device so far; of the flows, those of the clients
    /// that are there.
    #[must_use]
    pub fn statistics(&self) -> TunnelStatistics {
        let offload = super::Offload {
            device: self.core.device.queues()[0].offload(),
            path: PathOffload::NONE,
        };
        let flows = self.clients().into_iter().map(|client| client.statistics.flows).sum();
        self.core.counters.statistics(flows, offload, (0, 0))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.core.end();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        lock(&self.core.clients).values().for_each(|client| client.close());
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

/// What the workers share.
struct Core {
    device: Arc<Device>,
    counters: Arc<Counters>,
    forward: bool,
    fixed_mtu: Option<u16>,
    /// Read for a batch at a time, replaced as a whole.
    router: RwLock<Arc<Router<Shared>>>,
    clients: Mutex<HashMap<ClientId, Shared>>,
    /// One for each queue.
    mailboxes: Vec<Mailbox>,
    /// Clients that have not heard all yet.
    untold: Mutex<Vec<Shared>>,
    any_untold: AtomicBool,
    events: async_channel::Sender<ClientEvent>,
    ended: AtomicBool,
    failure: Mutex<Option<TunnelError>>,
}

impl Core {
    fn router(&self) -> Arc<Router<Shared>> {
        self.router.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn client(&self, client: ClientId) -> Option<Shared> {
        lock(&self.clients).get(&client).cloned()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn end(&self) {
        self.ended.store(true, Relaxed);
        self.events.close();
        self.mailboxes.iter().for_each(Mailbox::wake);
    }

    fn tell_of(&self, event: ClientEvent) {
        let _ = self.events.force_send(event);
    }

    /// The client that `info` comes back from: the same identity under the same
    /// name.
    fn former(&self, info: &FlowInfo) -> Option<Shared> {
        let key = |info: &FlowInfo| info.identity.as_ref().map(|identity| identity.fingerprint);
        let fingerprint = key(info)?;
        let clients = lock(&self.clients);
        let same = |client: &&Shared| {
            key(&client.info) == Some(fingerprint) && client.info.name == info.name
        };
        clients.values().find(same).cloned()
    }

    fn set_prefixes(&self, client: &Shared, prefixes: &[IpNet]) -> Result<(), TunnelError> {
        let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Router::clone(&router);
        changed.remove(client);
        for prefix in prefixes {
            changed.insert(*prefix, client.clone())?;
        }
        *router = Arc::new(changed);
        *lock(&client.prefixes) = prefixes.to_vec();
        Ok(())
    }

    /// A client's flow has ended.
    fn left(&self, client: &Shared, error: &FlowError) {
        if client.left.swap(true, Relaxed) {
            return;
        }
        lock(&self.clients).remove(&client.id);
        {
            let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
            let mut changed = Router::clone(&router);
            changed.remove(client);
            *router = Arc::new(changed);
        }
        self.tell_of(ClientEvent::Left { client: client.id, reason: error.to_string() });
    }

    /// The device takes packets that some client can be sent, but none that IPv6
    /// could not be had with; those that are too large for one client are
    /// answered.
    fn mtu_changed(&self, client: &Client, mtu: u16) {
        tracing::debug!(client = ?client.id, mtu, "a client's MTU");
        let largest = lock(&self.clients).values().map(|client| client.mtu()).max();
        let mtu = self.fixed_mtu.unwrap_or(largest.unwrap_or(LEAST_IPV6).max(LEAST_IPV6));
        if let Err(error) = self.device.set_mtu(mtu)
            && let Some(times) = MTU_REFUSED.report()
        {
            tracing::warn!(%error, mtu, times, "the device does not take its MTU");
        }
    }

    fn has_untold(&self) -> bool {
        self.any_untold.load(Relaxed)
    }

    fn note_untold(&self, client: &Shared) {
        let mut untold = lock(&self.untold);
        if !untold.contains(client) {
            untold.push(client.clone());
        }
        self.any_untold.store(true, Relaxed);
    }

    /// Says again what was not heard.
    fn repeat(&self) {
        let clients = std::mem::take(&mut *lock(&self.untold));
        let unheard =
            |client: &Shared| !client.left.load(Relaxed) && client.handle_timeout().is_some();
        let still: Vec<_> = clients.into_iter().filter(unheard).collect();
        let mut untold = lock(&self.untold);
        for client in still {
            if !untold.contains(&client) {
                untold.push(client);
            }
        }
        self.any_untold.store(!untold.is_empty(), Relaxed);
    }
}

/// Who a packet says it is from; `None` if it is no IP packet.
fn source(packet: &[u8]) -> Option<IpAddr> {
    addresses(packet).map(|(source, _)| source)
}

/// Who a packet is for; `None` if it is no IP packet.
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
