//! One IPC process of a layer: a transport, the allocation core that speaks on
//! it, and the task that drives both. Names, acceptors and layers are above
//! (`irm`); packets of a flow never pass here.

mod allocate;
mod drive;
mod dropped;
mod refusals;
mod responder;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_executor::Task;
use event_listener::Event as Notify;

pub(crate) use self::allocate::allocate_in;
use self::{
    allocate::{Allocated, Allocating},
    refusals::Refusals,
    responder::Responding,
};
use crate::{
    crypto::{Entropy, SystemEntropy},
    driver,
    flow::{FlowInfo, RawFlow, reserved_after},
    proto::allocation::{
        AllocationId, Allocator, Counters, Event, Limits, Refusal, RefusalReason, RequestId,
        ServerSecurity,
    },
    proto::{
        negotiation::{Agreed, Agreement, Joining},
        protection::FlowKeys,
    },
    sync::lock,
    transport::{Management, Path, ReceiveBatch, Stray, Transport},
    wire::{Dialect, Eid, Name, PeerAddress},
};

/// Endpoint ids in use at once: half of what 16 bits can tell apart.
const MAX_ENDPOINTS: usize = 1 << 15;
/// Frames kept that arrive before the flow they belong to is allocated.
const EARLY_FRAMES: usize = 64;

/// Bytes that are read from one path at a time: two coalesced datagrams (`transport::udp`), so
/// that one of them shows that there is no second, and more than one frame of any transport.
const SCRATCH: usize = 132 * 1024;

/// A flow request that waits to be accepted.
pub(crate) struct Requested {
    pub(crate) ipcp: Weak<Core>,
    pub(crate) request: RequestId,
    pub(crate) name: Name,
    pub(crate) from: PeerAddress,
    remote: Eid,
    /// Its sender has to become a client first.
    pub(crate) joining: Option<Joining>,
}

/// A notice of an IPCP to its layer.
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
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the attachment in words, such as `eth-dix on lo`.
    #[must_use]
    pub fn description(&self) -> String {
        self.0.transport.description()
    }

    /// Management messages dropped, by cause.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}

impl std::fmt::Debug for Ipcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ipcp({}: {})", self.name(), self.description())
    }
}

/// The IPCP itself, shared by its task, its flows and its layer.
pub(crate) struct Core {
    pub(crate) name: String,
    pub(crate) transport: Arc<dyn Transport>,
    management: Option<Arc<dyn Management>>,
    allocator: Mutex<Allocator>,
    allocating: Mutex<HashMap<AllocationId, Allocating>>,
    responding: Mutex<Responding>,
    /// The batch that paths are read into while nobody has their flows yet: large, and one for
    /// all.
    scratch: Mutex<ReceiveBatch>,
    refusals: Mutex<Refusals>,
    eids: Mutex<HashSet<Eid>>,
    wake: Notify,
    /// When the IPCP's task looks at the allocator's clock next, as nanoseconds of monotonic
    /// time. Read and written while the allocator is locked.
    wakes_at: AtomicU64,
    notices: Box<dyn Fn(Notice) + Send + Sync>,
    task: Mutex<Option<Task<()>>>,
}

impl Core {
    pub(crate) fn start(
        name: String,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notices: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let allocator = Allocator::new(transport.dialect(), transport.directory_hash(), limits);
        let core = Arc::new(Self {
            name,
            management: transport.management(),
            transport,
            allocator: Mutex::new(allocator),
            allocating: Mutex::default(),
            responding: Mutex::default(),
            scratch: Mutex::new(ReceiveBatch::new(SCRATCH)),
            refusals: Mutex::default(),
            eids: Mutex::default(),
            wake: Notify::new(),
            wakes_at: AtomicU64::new(u64::MAX),
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

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        lock(&self.allocator)
    }

    /// When something is due by the allocator's clock: the IPCP's task sleeps until then.
    fn sleep_until(&self) -> Option<Duration> {
        let allocator = self.allocator();
        let due = allocator.poll_timeout();
        self.wakes_at.store(due.map_or(u64::MAX, nanoseconds), Relaxed);
        due
    }

    /// Wakes the IPCP's task if something is due before it would look.
    fn keep_clock(&self) {
        let allocator = self.allocator();
        let due = allocator.poll_timeout().map_or(u64::MAX, nanoseconds);
        if due < self.wakes_at.load(Relaxed) {
            drop(allocator);
            self.wake.notify(1);
        }
    }

    /// Returns the counts of what was dropped, by the transport, too.
    fn counters(&self) -> Counters {
        let mut counters = self.allocator().counters();
        counters.malformed += self.transport.oversized();
        counters
    }

    pub(crate) fn set_policy(&self, name: &Name, security: ServerSecurity) {
        self.allocator().set_policy(name, security);
    }

    pub(crate) fn register(&self, name: &Name) -> bool {
        self.allocator().register(name)
    }

    pub(crate) fn unregister(&self, name: &Name) -> bool {
        self.allocator().unregister(name)
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

    /// Moves what has come along `path` to `early`, as much as that may hold; what is not the
    /// flow's is returned, and whether there was no more.
    fn receive_early(
        &self,
        path: &dyn Path,
        early: &mut Vec<Vec<u8>>,
    ) -> io::Result<(Vec<Stray>, bool)> {
        let mut batch = lock(&self.scratch);
        batch.clear();
        path.receive(&mut batch)?;
        for index in 0..batch.len().min(EARLY_FRAMES.saturating_sub(early.len())) {
            early.push(batch.frame(index).to_vec());
        }
        Ok((batch.strays().collect(), batch.is_drained()))
    }

    /// Refuses a request whose sender has not become a client: it hears nothing.
    pub(crate) fn refuse_joining(&self, requested: &Requested) {
        self.refuse(requested.request, Refusal::Security);
    }

    fn refuse(&self, request: RequestId, refusal: Refusal) {
        self.allocator().refuse(driver::now(), request, refusal);
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
                core.transport.watch_off_path(local, take);
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
            off_path: Some(Box::new(watch)),
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
        self.allocator().handle(driver::now(), &mut SystemEntropy, from, via, message);
    }

    /// Sends what the core has to send and passes on what it has to tell.
    fn flush(self: &Arc<Self>) {
        loop {
            let (transmit, event) = {
                let mut allocator = self.allocator();
                // Events first: a path must know its peer before data comes.
                match allocator.poll() {
                    Some(event) => (None, Some(event)),
                    None => (allocator.poll_transmit(), None),
                }
            };
            match (transmit, event) {
                (_, Some(event)) => self.handle_event(event),
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

    fn handle_event(self: &Arc<Self>, event: Event) {
        match event {
            Event::Requested { request, name, from, remote, qos, joining, .. } => {
                if qos.is_supported() {
                    let ipcp = Arc::downgrade(self);
                    let requested = Requested { ipcp, request, name, from, remote, joining };
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
            Event::Unauthorized { name, from, reason } => {
                self.log_refusal(Some(name), from, &reason.into());
            }
            Event::Refused { name, from, reason } => self.log_refusal(name, from, &reason),
            Event::Allocated { allocation, peer, remote, agreed, rtt } => {
                let allocating = lock(&self.allocating).remove(&allocation);
                if let Some(known) = allocating {
                    known.allocated(Allocated { peer, remote, agreed, rtt });
                }
            }
            Event::Failed { allocation, reason } => {
                let allocating = lock(&self.allocating).remove(&allocation);
                allocating.into_iter().for_each(|known| known.failed(reason.clone().into()));
            }
        }
    }
}

fn nanoseconds(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// The same flow with what was agreed of it, and its keys.
fn with_agreement(mut info: FlowInfo, agreed: Agreement) -> (FlowInfo, Option<FlowKeys>) {
    let Some(Agreed { suite, keys, lane, reliable, ordered, identity }) = agreed else {
        return (info, None);
    };
    (info.lane, info.reliable, info.ordered) = (lane, reliable, ordered);
    (info.encrypted(suite, keys.profile(), identity), Some(keys))
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
    /// For how long what the peer has sent may still arrive.
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
                driver::sleep_until(Some(due)).await;
                if let Some(core) = core.upgrade() {
                    lock(&core.eids).remove(&eid);
                }
            };
            driver::spawn(free).detach();
        }
        if let Some(request) = self.request {
            drop(eids);
            core.allocator().released(request);
        }
    }
}
