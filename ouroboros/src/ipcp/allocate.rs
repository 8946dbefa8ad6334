//! Allocation from a program's side: which IPCP is asked, at which of the
//! addresses that its transport's resolver knows, and what becomes of what a
//! program no longer waits for. The messages are `proto::allocation`'s.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt, future};

use super::{Core, Ipcp, Reserved, with_agreement};
use crate::{
    crypto::SystemEntropy,
    driver,
    error::AllocateError,
    flow::{Flow, FlowInfo, FlowSpec, Interest, RawFlow, Readiness},
    proto::{
        allocation::{AllocationId, AllocationRequest},
        negotiation::Agreement,
    },
    sync::lock,
    transport::{Path, SendBatch},
    wire::{Eid, Name, PeerAddress, QosSpec},
};

/// Keepalives with which a client's flow begins, the last after 6.3 s.
const GREETINGS: u32 = 7;

/// How long one address of a server is waited for before the next one is asked,
/// too (RFC 8305, section 5: the Connection Attempt Delay).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Allocates a flow to `name` by the first of `ipcps` that finds it.
pub(crate) async fn allocate_in(
    ipcps: Vec<Ipcp>,
    name: &Name,
    spec: FlowSpec,
) -> Result<RawFlow, AllocateError> {
    let mut failure = AllocateError::NoLayer;
    let until = driver::monotonic().saturating_add(spec.timeout);
    let mut left = u32::try_from(ipcps.len()).unwrap_or(u32::MAX);
    for ipcp in ipcps {
        // What is left of the time is for all that are left.
        let timeout = until.saturating_sub(driver::monotonic()) / left;
        left -= 1;
        match ipcp.0.allocate(name, spec.clone().timeout(timeout)).await {
            Ok(flow) => return Ok(flow),
            Err(error) if !may_be_elsewhere(&error) => return Err(error),
            Err(error) => failure = more_telling(failure, error),
        }
    }
    Err(failure)
}

/// Returns `true` if another layer may have the name nevertheless: the trouble of
/// one, such as a resolver out of reach, does not hide that another one knows it.
fn may_be_elsewhere(error: &AllocateError) -> bool {
    matches!(
        error,
        AllocateError::NameNotFound
            | AllocateError::NotResolved { .. }
            | AllocateError::NoSuchServer { .. }
            | AllocateError::Transport(_)
            | AllocateError::Refused(_)
            | AllocateError::Busy
            | AllocateError::TimedOut
            | AllocateError::Gone
    )
}

/// Of two failures the one that says more; the later one of the same kind.
fn more_telling(one: AllocateError, other: AllocateError) -> AllocateError {
    let telling = |error: &AllocateError| match error {
        AllocateError::NoLayer => 0,
        AllocateError::NameNotFound
        | AllocateError::NotResolved { .. }
        | AllocateError::NoSuchServer { .. }
        | AllocateError::Gone => 1,
        AllocateError::TimedOut => 2,
        AllocateError::Transport(_) => 3,
        AllocateError::Refused(_) | AllocateError::Busy => 4,
        _ => 5,
    };
    if telling(&other) >= telling(&one) { other } else { one }
}

impl Core {
    /// Allocates a flow to `name`, wherever this IPCP's transport finds it.
    pub(crate) async fn allocate(
        self: &Arc<Self>,
        name: &Name,
        spec: FlowSpec,
    ) -> Result<RawFlow, AllocateError> {
        if !spec.qos.is_supported() {
            return Err(AllocateError::UnsupportedQos);
        }
        if spec.manager_identity && spec.security.as_ref().is_none_or(|s| s.identity.is_none()) {
            return Err(AllocateError::NoIdentity);
        }
        let until = driver::monotonic().saturating_add(spec.timeout);
        match self.resolve(name, &spec, until).await {
            None => self.attempt(name, spec, until, None).await,
            Some(peers) => self.allocate_at_any(peers?, name, spec, until).await,
        }
    }

    /// Where the transport's resolver knows `name`; `None`: it is asked for on the network.
    async fn resolve(
        &self,
        name: &Name,
        spec: &FlowSpec,
        until: Duration,
    ) -> Option<io::Result<Vec<PeerAddress>>> {
        if spec.server.is_none() && self.transport.resolves_at_once() {
            return self.transport.resolve(name);
        }
        let (transport, name) = (self.transport.clone(), name.clone());
        let server = spec.server.clone();
        let resolved = blocking::unblock(move || match server {
            None => transport.resolve(&name),
            // Where nothing has a host's name, no server is at one.
            Some(server) => Some(transport.resolve_server(&server).unwrap_or(Ok(Vec::new()))),
        });
        let late = async {
            driver::sleep_until(Some(until)).await;
            Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer")))
        };
        future::or(resolved, late).await
    }

    /// Asks one address after the other, without waiting for one to time out; the
    /// first flow counts.
    async fn allocate_at_any(
        self: &Arc<Self>,
        peers: Vec<PeerAddress>,
        name: &Name,
        spec: FlowSpec,
        until: Duration,
    ) -> Result<RawFlow, AllocateError> {
        if let (Some(server), true) = (&spec.server, peers.is_empty()) {
            let (name, host) = (name.to_string(), server.to_string());
            return Err(AllocateError::NoSuchServer { name, host });
        }
        let hash = self.transport.directory_hash().of(name).to_string();
        let mut failure = AllocateError::NotResolved { name: name.to_string(), hash };
        let mut peers = peers.into_iter().take(MAX_ADDRESSES);
        let mut attempts: Vec<Attempting> = Vec::new();
        loop {
            let next = match peers.next() {
                Some(peer) => {
                    attempts.push(self.attempt(name, spec.clone(), until, Some(peer)));
                    (peers.len() > 0).then(|| driver::monotonic() + NEXT_ADDRESS)
                }
                None if attempts.is_empty() => return Err(failure),
                None => None,
            };
            let ended = future::poll_fn(|context| {
                for index in 0..attempts.len() {
                    if let Poll::Ready(outcome) = attempts[index].poll(context) {
                        drop(attempts.swap_remove(index));
                        return Poll::Ready(Some(outcome));
                    }
                }
                Poll::Pending
            });
            let late = async {
                driver::sleep_until(next).await;
                None
            };
            match future::or(ended, late).await {
                Some(Ok(flow)) => return Ok(flow),
                Some(Err(error)) => failure = more_telling(failure, error),
                None => {}
            }
        }
    }

    /// Asks for the flow once; an [`Attempt`] that fails to begin has failed.
    fn attempt(
        self: &Arc<Self>,
        name: &Name,
        spec: FlowSpec,
        until: Duration,
        peer: Option<PeerAddress>,
    ) -> Attempting {
        let spec = spec.timeout(until.saturating_sub(driver::monotonic()));
        let attempt = Attempt::begin(self, name, spec, peer);
        Box::pin(async move { attempt?.outcome().await })
    }
}

type Attempting = Pin<Box<dyn Future<Output = Result<RawFlow, AllocateError>> + Send>>;

type Outcome = Result<Allocated, AllocateError>;

/// A flow that a peer has granted.
pub(super) struct Allocated {
    pub(super) peer: PeerAddress,
    pub(super) remote: Eid,
    pub(super) agreed: Agreement,
    pub(super) rtt: Option<Duration>,
}

/// An allocation whose messages are under way.
pub(super) struct Allocating {
    pub(super) path: Arc<dyn Path>,
    outcome: Sender<Outcome>,
}

impl Allocating {
    /// Passes on what the peer has granted: the flow goes along the path from now on.
    pub(super) fn allocated(self, allocated: Allocated) {
        let connected = self.path.connect(allocated.remote, allocated.peer);
        let _ = self.outcome.try_send(connected.map(|()| allocated).map_err(AllocateError::from));
    }

    pub(super) fn failed(self, error: AllocateError) {
        let _ = self.outcome.try_send(Err(error));
    }
}

/// One request for a flow, at one address. Dropped before its outcome is known, it
/// goes on for a while without its program, to close what the server accepts.
struct Attempt(Option<Pending>);

struct Pending {
    core: Arc<Core>,
    allocation: AllocationId,
    path: Arc<dyn Path>,
    outcome: Receiver<Outcome>,
    early: Vec<Vec<u8>>,
    reserved: Reserved,
    name: Name,
    qos: QosSpec,
}

impl Attempt {
    fn begin(
        core: &Arc<Core>,
        name: &Name,
        spec: FlowSpec,
        peer: Option<PeerAddress>,
    ) -> Result<Self, AllocateError> {
        let reserved = core.reserve().ok_or(AllocateError::TooManyAllocations)?;
        let path = core.transport.open_requester(reserved.eid, peer)?;
        let (sender, outcome) = async_channel::bounded(1);
        let request = AllocationRequest {
            name: name.clone(),
            qos: spec.qos,
            security: spec.security,
            local: reserved.eid,
            peer,
            timeout: spec.timeout,
            largest_message: path.largest_frame(),
        };
        let mut allocator = core.allocator();
        let allocation = allocator
            .allocate(driver::now(), &mut SystemEntropy, request)
            .map_err(|_| AllocateError::TooManyAllocations)?;
        let allocating = Allocating { path: path.clone(), outcome: sender };
        lock(&core.allocating).insert(allocation, allocating);
        drop(allocator);
        // The request leaves here; that it is to be repeated is for the IPCP's task.
        core.flush();
        core.keep_clock();
        let (core, name, early) = (core.clone(), name.clone(), Vec::new());
        let qos = spec.qos;
        Ok(Self(Some(Pending { core, allocation, path, outcome, early, reserved, name, qos })))
    }

    async fn outcome(mut self) -> Result<RawFlow, AllocateError> {
        let Some(pending) = &mut self.0 else { return Err(AllocateError::Gone) };
        let outcome = pending.outcome().await;
        let Some(pending) = self.0.take() else { return Err(AllocateError::Gone) };
        pending.cancel();
        Ok(pending.flow(outcome?))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(mut pending) = self.0.take() else { return };
        if !pending.core.allocator().abandon(driver::now(), pending.allocation) {
            return pending.cancel();
        }
        let abandoned = async move {
            let outcome = pending.outcome().await;
            pending.cancel();
            if let Ok(agreed) = outcome {
                // Says farewell, as every flow that is dropped.
                drop(Flow::new(pending.flow(agreed)));
            }
        };
        driver::spawn(abandoned).detach();
    }
}

impl Pending {
    async fn outcome(&mut self) -> Outcome {
        // Made anew for each reactor that waits.
        let readiness = Readiness::new(self.path.clone());
        let received = self.outcome.recv();
        let reading =
            self.core.read_requester((&*self.path, &readiness), self.allocation, &mut self.early);
        future::or(async { received.await.unwrap_or(Err(AllocateError::Gone)) }, async {
            Err(reading.await.into())
        })
        .await
    }

    /// Nothing more is heard of the request.
    fn cancel(&self) {
        self.core.allocator().cancel(self.allocation);
        lock(&self.core.allocating).remove(&self.allocation);
    }

    fn flow(self, allocated: Allocated) -> RawFlow {
        let Self { core, path, early, reserved, name, qos, .. } = self;
        let Allocated { peer, remote, agreed, rtt } = allocated;
        let ends = (reserved.eid, remote);
        let (mut info, mut keys) = with_agreement(FlowInfo::new(name, peer, ends, qos), agreed);
        info.allocation_rtt = rtt;
        let greeting = keys.as_mut().map_or_else(Vec::new, |keys| keys.greeting(ends));
        if greeting.is_empty() {
            driver::spawn(greet(Arc::downgrade(&path))).detach();
        } else {
            // A native flow's session goes on by itself, if this one is lost.
            send_greeting(&*path, &greeting);
        }
        core.raw_flow(path, info, keys, early, reserved)
    }
}

impl Core {
    /// Reads a requester's path until the flow is allocated: a UDP reply comes
    /// there, and the peer's first packets may be right behind it.
    async fn read_requester(
        self: &Arc<Self>,
        (path, readiness): (&dyn Path, &Readiness),
        allocation: AllocationId,
        early: &mut Vec<Vec<u8>>,
    ) -> io::Error {
        // The request has just left.
        let mut drained = true;
        loop {
            if drained && let Err(error) = readiness.wait(Interest::Readable).await {
                return error;
            }
            match self.receive_early(path, early) {
                Ok((strays, is_drained)) => {
                    drained = is_drained;
                    for stray in strays {
                        self.take_stray(stray, Some(allocation));
                    }
                    self.flush();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drained = true,
                Err(error) => return error,
            }
        }
    }
}

/// Sends the frame by which the server sees that its reply has come.
fn send_greeting(path: &dyn Path, frame: &[u8]) {
    let mut batch = SendBatch::new(path.headroom(), 64);
    if let Some(room) = batch.push(frame.len()) {
        room.copy_from_slice(frame);
    }
    // Lost like any other.
    let _ = path.send(&mut batch);
}

/// Greets a few times with a keepalive of the 0.23 format, since one may be lost.
async fn greet(path: Weak<dyn Path>) {
    let mut wait = Duration::from_millis(100);
    for _ in 0..GREETINGS {
        {
            let Some(path) = path.upgrade() else { return };
            send_greeting(&*path, &[]);
        }
        driver::sleep_until(Some(driver::monotonic() + wait)).await;
        wait *= 2;
    }
}
