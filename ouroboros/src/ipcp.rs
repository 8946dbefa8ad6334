//! One IPC process of a layer: a transport, the allocation core that speaks on
//! it, and the task that drives both. Names, acceptors and layers are above
//! (`irm`); packets of a flow never pass here.

mod drive;
mod dropped;
mod refusals;
mod responder;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use async_channel::Sender;
use async_executor::Task;
use event_listener::Event as Notify;
use futures_lite::future;

use self::{refusals::Refusals, responder::Responding};
use crate::{
    crypto::{Entropy, Suite, SystemEntropy},
    driver,
    error::AllocateError,
    flow::{FlowInfo, FlowSpec, Interest, RawFlow, Readiness, reserved_after},
    proto::endpoint::{
        AllocationId, AllocationRequest, Counters, Endpoint, Event, Limits, PeerIdentity, Refusal,
        RefusalReason, RequestId, ServerSecurity,
    },
    proto::protection::FlowKeys,
    sync::lock,
    sys::namespace::NetworkNamespace,
    transport::{Management, Path, ReceiveBatch, SendBatch, Stray, Transport},
    wire::{Dialect, Eid, Name, PeerAddress, extension::Lane},
};

/// Endpoint ids in use at once: half of what 16 bits can tell apart.
const MAX_ENDPOINTS: usize = 1 << 15;
/// Frames kept that arrive before the flow they belong to is allocated.
const EARLY_FRAMES: usize = 64;

/// Keepalives with which a client's flow begins, the last after 6.3 s.
const GREETINGS: u32 = 7;

/// Bytes that are read from one path at a time: a coalesced datagram, and more
/// than one frame of any transport.
const SCRATCH: usize = 128 * 1024;

/// A flow request that waits to be accepted.
pub(crate) struct Requested {
    pub(crate) ipcp: Weak<Core>,
    pub(crate) request: RequestId,
    pub(crate) name: Name,
    pub(crate) from: PeerAddress,
    remote: Eid,
}

/// What an IPCP tells those above it.
pub(crate) enum Notice {
    Requested(Requested),
    /// The peer of a flow that was accepted has proved that it is there.
    Confirmed(Box<RawFlow>),
    /// The request of this IPCP is no longer there.
    Withdrawn(Weak<Core>, RequestId),
}

/// An IPC process of a layer.
///
/// A value of this type is a view; the IPCP lives as long as its layer.
#[derive(Clone)]
pub struct Ipcp(pub(crate) Arc<Core>);

impl Ipcp {
    /// The IPCP's own name, unique in its process.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is attached to, such as `eth-dix on lo`.
    pub fn description(&self) -> String {
        self.0.transport.description()
    }

    /// Management messages dropped, by cause.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}

impl std::fmt::Debug for Ipcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ipcp({}: {})", self.name(), self.description())
    }
}

/// Allocates a flow to `name` by the first of `ipcps` that finds it.
pub(crate) async fn allocate_in(
    ipcps: Vec<Ipcp>,
    name: &Name,
    spec: FlowSpec,
) -> Result<RawFlow, AllocateError> {
    let mut failure = AllocateError::NoLayer;
    let start = driver::monotonic();
    let mut left = u32::try_from(ipcps.len()).unwrap_or(u32::MAX);
    for ipcp in ipcps {
        // What is left of the time is for all that are left.
        let rest = spec.timeout.saturating_sub(driver::monotonic().saturating_sub(start));
        let timeout = rest / left;
        left -= 1;
        let late = async {
            driver::reaches(driver::monotonic().checked_add(timeout)).await;
            Err(AllocateError::TimedOut)
        };
        let allocated = ipcp.0.allocate(name, spec.clone().timeout(timeout));
        match future::or(allocated, late).await {
            // The trouble of one, such as a resolver out of reach, must not
            // hide that another one knows the name; nor must one that does not
            // serve it, or does not answer.
            Err(
                error @ (AllocateError::Transport(_)
                | AllocateError::NotResolved { .. }
                | AllocateError::Refused(_)
                | AllocateError::TimedOut),
            ) => failure = error,
            Err(AllocateError::NameNotFound) => {
                if matches!(failure, AllocateError::NoLayer) {
                    failure = AllocateError::NameNotFound;
                }
            }
            other => return other,
        }
    }
    Err(failure)
}

type Outcome = Result<Agreed, AllocateError>;

struct Agreed {
    peer: PeerAddress,
    remote: Eid,
    keys: Option<FlowKeys>,
    suite: Option<Suite>,
    lane: Option<Lane>,
    identity: Option<PeerIdentity>,
}

struct Allocating {
    path: Arc<dyn Path>,
    outcome: Sender<Outcome>,
}

/// The IPCP itself, shared by its task, its flows and its layer.
pub(crate) struct Core {
    pub(crate) name: String,
    pub(crate) transport: Arc<dyn Transport>,
    management: Option<Arc<dyn Management>>,
    /// Where the transport's sockets are.
    namespace: NetworkNamespace,
    endpoint: Mutex<Endpoint>,
    allocating: Mutex<HashMap<AllocationId, Allocating>>,
    responding: Mutex<Responding>,
    /// What paths are read into while nobody has their flows yet: large, and one
    /// for all.
    scratch: Mutex<ReceiveBatch>,
    refusals: Mutex<Refusals>,
    eids: Mutex<HashSet<Eid>>,
    wake: Notify,
    notices: Box<dyn Fn(Notice) + Send + Sync>,
    task: Mutex<Option<Task<()>>>,
}

impl Core {
    pub(crate) fn start(
        name: String,
        transport: Arc<dyn Transport>,
        notices: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let endpoint =
            Endpoint::new(transport.dialect(), transport.directory_hash(), Limits::default());
        let core = Arc::new(Self {
            name,
            management: transport.management(),
            namespace: NetworkNamespace::current(),
            transport,
            endpoint: Mutex::new(endpoint),
            allocating: Mutex::default(),
            responding: Mutex::default(),
            scratch: Mutex::new(ReceiveBatch::new(SCRATCH)),
            refusals: Mutex::default(),
            eids: Mutex::default(),
            wake: Notify::new(),
            notices: Box::new(notices),
            task: Mutex::default(),
        });
        *lock(&core.task) = Some(driver::spawn(drive::drive(Arc::downgrade(&core))));
        core
    }

    /// Ends the IPCP's task; its flows live on.
    pub(crate) fn stop(&self) {
        let task = lock(&self.task).take();
        task.into_iter().for_each(driver::end);
        lock(&self.allocating).clear();
        self.abandon_half_open();
    }

    fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        lock(&self.endpoint)
    }

    /// What was dropped, by the transport, too.
    fn counters(&self) -> Counters {
        let mut counters = self.endpoint().counters();
        counters.malformed += self.transport.oversized();
        counters
    }

    pub(crate) fn set_policy(&self, name: &Name, security: ServerSecurity) {
        self.endpoint().set_policy(name, security);
    }

    pub(crate) fn register(&self, name: &Name) -> bool {
        self.endpoint().register(name)
    }

    pub(crate) fn unregister(&self, name: &Name) -> bool {
        self.endpoint().unregister(name)
    }

    /// A random endpoint id that no flow of this IPCP has. Random, so that
    /// processes which share an interface do not meet.
    /// `None` if so many are in use that one would be hard to find.
    fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let mut eids = lock(&self.eids);
        if eids.len() >= MAX_ENDPOINTS {
            return None;
        }
        loop {
            let mut bytes = [0; 4];
            SystemEntropy.fill(&mut bytes);
            let random = u32::from_be_bytes(bytes);
            let eid = Eid(match self.transport.dialect() {
                Dialect::EthDix => random & 0xffff,
                Dialect::Udp => random & 0x7fff_ffff,
            });
            if eid.0 >= 0x100 && eids.insert(eid) {
                return Some(Reserved {
                    core: Arc::downgrade(self),
                    eid,
                    request: None,
                    reserved_for: Duration::ZERO,
                });
            }
        }
    }

    /// Allocates a flow to `name`, wherever this IPCP's transport finds it.
    pub(crate) async fn allocate(
        self: &Arc<Self>,
        name: &Name,
        spec: FlowSpec,
    ) -> Result<RawFlow, AllocateError> {
        if !spec.qos.is_supported() {
            return Err(AllocateError::UnsupportedQos);
        }
        if spec.identified && spec.security.as_ref().is_none_or(|s| s.identity.is_none()) {
            return Err(AllocateError::NoIdentity);
        }
        let (transport, looked_up) = (self.transport.clone(), name.clone());
        let Some(peers) = blocking::unblock(move || transport.resolve(&looked_up)).await else {
            return self.allocate_at(name, spec, None).await;
        };
        let not_resolved = |reason| AllocateError::NotResolved {
            name: name.to_string(),
            hash: self.transport.directory_hash().of(name).to_string(),
            reason,
        };
        let peers = peers.map_err(|error| not_resolved(error.to_string()))?;
        let mut last = not_resolved("none of this layer's version of IP".to_owned());
        for peer in peers {
            match self.allocate_at(name, spec.clone(), Some(peer)).await {
                Ok(flow) => return Ok(flow),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn allocate_at(
        self: &Arc<Self>,
        name: &Name,
        spec: FlowSpec,
        peer: Option<PeerAddress>,
    ) -> Result<RawFlow, AllocateError> {
        let reserved = self.reserve().ok_or(AllocateError::TooManyAllocations)?;
        let path = self.namespace.run(|| self.transport.open_requester(reserved.eid, peer))?;
        let (sender, outcome) = async_channel::bounded(1);
        let allocation = {
            let request = AllocationRequest {
                name: name.clone(),
                qos: spec.qos,
                security: spec.security,
                local: reserved.eid,
                peer,
                timeout: spec.timeout,
                largest_message: path.largest_frame(),
            };
            let mut endpoint = self.endpoint();
            let allocation = endpoint
                .allocate(driver::now(), &mut SystemEntropy, request)
                .map_err(|_| AllocateError::TooManyAllocations)?;
            let allocating = Allocating { path: path.clone(), outcome: sender };
            lock(&self.allocating).insert(allocation, allocating);
            allocation
        };
        let cancel = Cancel { core: self, allocation };
        self.wake.notify(1);
        let mut early = Vec::new();
        let agreed = {
            let readiness = Readiness::new(path.clone());
            let received = outcome.recv();
            let reading = self.read_requester((&*path, &readiness), allocation, &mut early);
            future::or(async { received.await.map_err(|_| AllocateError::Gone) }, async {
                Err(reading.await.into())
            })
            .await?
        };
        drop(cancel);
        let Agreed { peer, remote, mut keys, suite, lane, identity } = agreed?;
        let info = FlowInfo::new(name.clone(), peer, (reserved.eid, remote), spec.qos);
        let mut info = told(info, &keys, suite, identity);
        info.lane = lane;
        let ends = (reserved.eid, remote);
        let greeting = keys.as_mut().map_or_else(Vec::new, |keys| keys.greeting(ends));
        // A native flow's session goes on by itself, if this one is lost.
        let times = if greeting.is_empty() { GREETINGS } else { 1 };
        driver::spawn(greet(Arc::downgrade(&path), greeting, times)).detach();
        Ok(self.raw_flow(path, info, keys, early, reserved))
    }

    /// Reads a requester's path until the flow is allocated: a UDP reply comes
    /// there, and the peer's first packets may be right behind it.
    async fn read_requester(
        self: &Arc<Self>,
        (path, readiness): (&dyn Path, &Readiness),
        allocation: AllocationId,
        early: &mut Vec<Vec<u8>>,
    ) -> io::Error {
        loop {
            match self.receive_early(path, early) {
                Ok(strays) => {
                    for stray in strays {
                        self.take_stray(stray, Some(allocation));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = readiness.wait(Interest::Readable).await {
                        return error;
                    }
                    continue;
                }
                Err(error) => return error,
            }
            self.flush();
        }
    }

    /// Moves what has come along `path` to `early`, as much as that may hold;
    /// what is not the flow's is returned.
    fn receive_early(&self, path: &dyn Path, early: &mut Vec<Vec<u8>>) -> io::Result<Vec<Stray>> {
        let mut batch = lock(&self.scratch);
        batch.clear();
        path.receive(&mut batch)?;
        for index in 0..batch.len().min(EARLY_FRAMES.saturating_sub(early.len())) {
            early.push(batch.frame(index).to_vec());
        }
        Ok(batch.strays().collect())
    }

    fn refuse(&self, request: RequestId, refusal: Refusal) {
        self.endpoint().refuse(driver::now(), request, refusal);
        self.wake.notify(1);
    }

    fn raw_flow(
        self: &Arc<Self>,
        path: Arc<dyn Path>,
        info: FlowInfo,
        keys: Option<FlowKeys>,
        early: Vec<Vec<u8>>,
        mut reserved: Reserved,
    ) -> RawFlow {
        reserved.reserved_for = reserved_after(&info);
        let (core, local) = (Arc::downgrade(self), info.local);
        let watcher = core.clone();
        let watch = move |take: &_| {
            if let Some(core) = watcher.upgrade() {
                core.transport.watch_elsewhere(local, take);
            }
        };
        let strays = move |stray| {
            if let Some(core) = core.upgrade() {
                core.take_stray(stray, None);
                core.wake.notify(1);
            }
        };
        RawFlow {
            path,
            info,
            keys,
            early,
            elsewhere: Some(Box::new(watch)),
            strays: Some(Box::new(strays)),
            closer: None,
            release: Some(Box::new(reserved)),
        }
    }

    fn take_stray(&self, stray: Stray, via: Option<AllocationId>) {
        if let Some((from, message)) = self.transport.dispatch(stray) {
            self.take_message(from, via, &message);
        }
    }

    fn take_message(&self, from: PeerAddress, via: Option<AllocationId>, message: &[u8]) {
        self.endpoint().handle(driver::now(), &mut SystemEntropy, from, via, message);
    }

    /// Sends what the core has to send and passes on what it has to tell.
    fn flush(self: &Arc<Self>) {
        loop {
            let (transmit, event) = {
                let mut endpoint = self.endpoint();
                // Events first: a path must know its peer before data comes.
                match endpoint.poll() {
                    Some(event) => (None, Some(event)),
                    None => (endpoint.poll_transmit(), None),
                }
            };
            match (transmit, event) {
                (_, Some(event)) => self.tell(event),
                (Some(transmit), None) => {
                    let path = transmit
                        .via
                        .and_then(|id| lock(&self.allocating).get(&id).map(|a| a.path.clone()));
                    let by_path = path.and_then(|path| path.send_management(&transmit.message));
                    let result = by_path.or_else(|| {
                        Some(self.management.as_ref()?.send(transmit.to, &transmit.message))
                    });
                    if let Some(Err(error)) = result {
                        // Lost like any other: the core sends again.
                        tracing::debug!(ipcp = self.name, %error, "management message not sent");
                    }
                }
                (None, None) => return,
            }
        }
    }

    fn log_refusal(&self, name: Option<Name>, from: PeerAddress, reason: &RefusalReason) {
        let Some(silent) = lock(&self.refusals).admit(driver::now().monotonic, reason) else {
            return;
        };
        let name = name.as_ref().map_or("(none that is served)", Name::as_str);
        let more = if silent == 0 { String::new() } else { format!(" ({silent} more since)") };
        tracing::warn!(ipcp = self.name, name, peer = %from, "refused a flow: {reason}{more}");
    }

    fn tell(self: &Arc<Self>, event: Event) {
        match event {
            Event::Requested { request, name, from, remote, qos, .. } => {
                if qos.is_supported() {
                    let ipcp = Arc::downgrade(self);
                    let requested = Requested { ipcp, request, name, from, remote };
                    (self.notices)(Notice::Requested(requested));
                } else {
                    self.refuse(request, Refusal::Quality);
                }
            }
            Event::Withdrawn { request } => {
                (self.notices)(Notice::Withdrawn(Arc::downgrade(self), request));
            }
            Event::Confirmed { request, accepted, frame } => {
                self.establish(request, accepted, frame);
            }
            Event::Expired { request } => self.forget_half_open(request),
            Event::Unheard { name, from, reason } => {
                self.log_refusal(Some(name), from, &reason.into());
            }
            Event::Refused { name, from, reason } => self.log_refusal(name, from, &reason),
            Event::Allocated { allocation, peer, remote, keys, suite, lane, identity } => {
                if let Some(allocating) = lock(&self.allocating).remove(&allocation) {
                    let agreed = Agreed { peer, remote, keys, suite, lane, identity };
                    let connected = allocating.path.connect(remote, peer);
                    let outcome = connected.map(|()| agreed).map_err(AllocateError::from);
                    let _ = allocating.outcome.try_send(outcome);
                }
            }
            Event::Failed { allocation, reason } => {
                if let Some(allocating) = lock(&self.allocating).remove(&allocation) {
                    let _ = allocating.outcome.try_send(Err(reason.into()));
                }
            }
        }
    }
}

/// Sends the same frame a few times, since one may be lost, so that the server sees
/// that its reply has come.
async fn greet(path: Weak<dyn Path>, frame: Vec<u8>, times: u32) {
    let mut wait = Duration::from_millis(100);
    for _ in 0..times {
        {
            let Some(path) = path.upgrade() else { return };
            let mut batch = SendBatch::new(path.headroom(), 64);
            if let Some(room) = batch.push(frame.len()) {
                room.copy_from_slice(&frame);
            }
            // Lost like any other.
            let _ = path.send(&mut batch);
        }
        driver::reaches(Some(driver::monotonic() + wait)).await;
        wait *= 2;
    }
}

fn told(
    info: FlowInfo,
    keys: &Option<FlowKeys>,
    suite: Option<Suite>,
    identity: Option<PeerIdentity>,
) -> FlowInfo {
    match (suite, keys) {
        (Some(suite), Some(keys)) => info.encrypted(suite, keys.profile(), identity),
        _ => info,
    }
}

/// Of the endpoint ids, so many may be kept from use; Ethernet has 65,536.
const RESERVED: usize = 1 << 14;

/// An endpoint id in use; given back when dropped.
struct Reserved {
    /// Not kept alive: the transport's own sockets close with the IPCP, and flows
    /// may go on.
    core: Weak<Core>,
    eid: Eid,
    request: Option<RequestId>,
    /// What the peer has sent may still arrive for so long.
    reserved_for: Duration,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else { return };
        let eid = self.eid;
        let mut eids = lock(&core.eids);
        if self.reserved_for.is_zero() || eids.len() > RESERVED {
            eids.remove(&eid);
        } else {
            let (core, due) = (self.core.clone(), driver::monotonic() + self.reserved_for);
            let free = async move {
                driver::reaches(Some(due)).await;
                if let Some(core) = core.upgrade() {
                    lock(&core.eids).remove(&eid);
                }
            };
            driver::spawn(free).detach();
        }
        if let Some(request) = self.request {
            drop(eids);
            core.endpoint().released(request);
        }
    }
}

/// Takes an allocation back if its future is dropped, or after it ended.
struct Cancel<'a> {
    core: &'a Core,
    allocation: AllocationId,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        self.core.endpoint().cancel(self.allocation);
        lock(&self.core.allocating).remove(&self.allocation);
    }
}
