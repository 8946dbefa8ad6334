//! The accept queue: requests that nobody has accepted yet, and flows whose peers
//! are proved to be there, until somebody takes them. Bounded, and served in
//! turn: a source with many flows keeps no other waiting.
//!
//! Not here: what proves a peer (`proto::allocation`), and half-open flows (`ipcp`).

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use event_listener::{Event, EventListener};
use futures_lite::future;

use crate::{
    driver,
    error::FlowError,
    flow::{Flow, RawFlow},
    ipcp::{Notice, Requested},
    log::Limited,
    proto::negotiation::Joining,
    sync::lock,
    wire::{Name, PeerAddress},
};

static TOO_MANY: Limited = Limited::new();

/// Flows that wait to be taken, at most. Requests wait while there are so many.
const MAX_WAITING: usize = 1024;
/// The same from one host.
const MAX_WAITING_OF_HOST: usize = 512;
/// How long a client may take to agree the keys that come before data.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests and flows that wait. Requests are bounded by the limits of the IPCPs,
/// which withdraw what waits too long.
#[derive(Default)]
pub(crate) struct AcceptQueue {
    waiting: Mutex<Waiting>,
    served: Mutex<Served>,
    /// Flows that agree keys before data.
    beginning: AtomicUsize,
    changed: Event,
    /// Takes up clients that are invited.
    admission: Mutex<Option<Arc<Admission>>>,
    /// Who waits for a flow.
    acceptors: Mutex<Acceptors>,
}

/// Who waits for a flow, by an id: to which names (`None`: to any), and as what.
#[derive(Default)]
struct Acceptors {
    all: HashMap<u64, Acceptor>,
    next: u64,
}

struct Acceptor {
    names: Option<Vec<Name>>,
    /// It has no use for a flow before packets may pass.
    of_ready: bool,
}

impl Acceptors {
    fn wants(&self, name: &Name, accepts: impl Fn(&Acceptor) -> bool) -> bool {
        let has = |names: &Option<Vec<Name>>| names.as_ref().is_none_or(|it| it.contains(name));
        self.all.values().any(|acceptor| accepts(acceptor) && has(&acceptor.names))
    }
}

/// Somebody waits for a flow, until this is dropped: requests are accepted where they
/// arrive, and nobody is woken for them.
pub(super) struct Accepting<'a> {
    queue: &'a AcceptQueue,
    id: u64,
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        lock(&self.queue.acceptors).all.remove(&self.id);
    }
}

/// Makes a client of an invited one, and returns `true` if it is one now.
pub(super) type Admission = dyn Fn(&Name, Joining) -> bool + Send + Sync;

/// The names that flows can come for.
#[derive(Default)]
struct Served {
    /// The names that are or were registered, and in how many layers they are.
    names: HashMap<Name, usize>,
    layers: usize,
    had_layers: bool,
    /// The manager accepts nothing any more.
    shut_down: bool,
}

#[derive(Default)]
struct Waiting {
    requests: Fair<Requested>,
    established: Fair<RawFlow>,
    ready: Fair<Flow>,
}

impl Waiting {
    /// Returns `true` if one more flow may wait, while `beginning` agree their keys.
    fn has_room(&self, beginning: usize) -> bool {
        self.established.len() + self.ready.len() + beginning < MAX_WAITING
    }

    /// How many flows of `host` wait.
    fn of(&self, host: &PeerAddress) -> usize {
        self.established.of(host) + self.ready.of(host)
    }
}

impl AcceptQueue {
    /// Says that somebody waits for flows to `names` (`None`: to any), until what is
    /// returned is dropped. `of_ready`: who has no use for one before packets may pass.
    pub(super) fn accepting(&self, names: Option<&[Name]>, of_ready: bool) -> Accepting<'_> {
        let mut acceptors = lock(&self.acceptors);
        let id = acceptors.next;
        acceptors.next += 1;
        acceptors.all.insert(id, Acceptor { names: names.map(<[Name]>::to_vec), of_ready });
        Accepting { queue: self, id }
    }

    /// Takes what an IPCP tells.
    pub(super) fn take_notice(self: &Arc<Self>, notice: Notice) {
        let mut waiting = lock(&self.waiting);
        match notice {
            Notice::Requested(requested) => {
                let (name, host) = (&requested.name, requested.from.host());
                // An invited client is admitted on the thread that accepts.
                let at_once = requested.joining.is_none()
                    && waiting.requests.len() == 0
                    && waiting.has_room(self.beginning.load(Relaxed))
                    && waiting.of(&host) < MAX_WAITING_OF_HOST
                    && lock(&self.acceptors).wants(name, |_| true);
                if at_once && let Some(ipcp) = requested.ipcp.upgrade() {
                    drop(waiting);
                    ipcp.answer(requested);
                    return;
                }
                waiting.requests.push(host, requested);
            }
            Notice::Withdrawn(ipcp, request) => {
                let is_it =
                    |known: &Requested| known.request == request && known.ipcp.ptr_eq(&ipcp);
                drop(waiting.requests.take(is_it));
            }
            Notice::Confirmed(flow) => {
                let host = flow.info.peer.host();
                let all = waiting.established.len() + waiting.ready.len();
                let room = all < 2 * MAX_WAITING
                    && waiting.established.of(&host) < 2 * MAX_WAITING_OF_HOST;
                if room {
                    let name = &flow.info.name;
                    let acceptors = lock(&self.acceptors);
                    let of_ready = acceptors.wants(name, |it| it.of_ready)
                        && !acceptors.wants(name, |it| !it.of_ready);
                    drop(acceptors);
                    if of_ready && waiting.established.len() == 0 {
                        drop(waiting);
                        match Flow::new(*flow) {
                            Ok(flow) => self.wait_for(flow),
                            Err(error) => tracing::debug!(%error, "a flow did not begin"),
                        }
                        return;
                    }
                    waiting.established.push(host, *flow);
                } else {
                    drop(waiting);
                    if let Some(times) = TOO_MANY.report() {
                        let peer = &flow.info.peer;
                        tracing::warn!(%peer, times, "too many flows wait to be accepted");
                    }
                    return;
                }
            }
        }
        drop(waiting);
        self.changed.notify(usize::MAX);
    }

    /// One more layer (`1`) or one less (`-1`).
    pub(crate) fn count_layer(&self, change: isize) {
        let mut served = lock(&self.served);
        served.layers = served.layers.saturating_add_signed(change);
        served.had_layers = true;
        drop(served);
        self.changed.notify(usize::MAX);
    }

    /// `name` is registered in one more layer (`1`) or in one less (`-1`).
    pub(crate) fn count_name(&self, name: &Name, change: isize) {
        let mut served = lock(&self.served);
        let layers = served.names.entry(name.clone()).or_default();
        *layers = layers.saturating_add_signed(change);
        drop(served);
        self.changed.notify(usize::MAX);
    }

    /// Returns `true` if no flow can come any more to `name`; `None`: to any name.
    /// What was never served may be yet.
    pub(super) fn has_ended(&self, name: Option<&Name>) -> bool {
        let served = lock(&self.served);
        served.shut_down
            || match name {
                Some(name) => served.names.get(name) == Some(&0),
                None => served.had_layers && served.layers == 0,
            }
    }

    /// Returns `true` if nothing is accepted any more.
    pub(super) fn is_shut_down(&self) -> bool {
        lock(&self.served).shut_down
    }

    /// Accepts nothing from now on: flows that nobody has taken end.
    pub(super) fn shut_down(&self) {
        lock(&self.served).shut_down = true;
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for flow in waiting.established.into_items() {
            drop(Flow::new(flow));
        }
        self.changed.notify(usize::MAX);
    }

    /// Tells of the next change.
    pub(super) fn changed(&self) -> EventListener {
        self.changed.listen()
    }

    /// Accepts the requests for names that are `wanted`, in turn, as long as their
    /// flows have room to wait.
    pub(super) fn begin(&self, wanted: impl Fn(&Name) -> bool) {
        loop {
            let requested = {
                let mut waiting = lock(&self.waiting);
                let beginning = self.beginning.load(Relaxed);
                if !waiting.has_room(beginning) {
                    return;
                }
                let Waiting { requests, established, ready } = &mut *waiting;
                requests.take(|requested| {
                    let host = requested.from.host();
                    let of_host = established.of(&host) + ready.of(&host);
                    wanted(&requested.name) && of_host < MAX_WAITING_OF_HOST
                })
            };
            let Some(requested) = requested else { return };
            let Some(ipcp) = requested.ipcp.upgrade() else { continue };
            if requested.joining.is_none_or(|joining| self.admit(&requested.name, joining)) {
                ipcp.begin(requested);
            } else {
                ipcp.refuse_joining(&requested);
            }
        }
    }

    fn admit(&self, name: &Name, joining: Joining) -> bool {
        let admission = lock(&self.admission).clone();
        admission.is_some_and(|admit| admit(name, joining))
    }

    /// Has `admission` take up clients that are invited.
    pub(super) fn set_admission(&self, admission: Arc<Admission>) {
        *lock(&self.admission) = Some(admission);
    }

    /// A flow to a name that is `wanted`, whose peer is proved to be there.
    pub(super) fn take_established(&self, wanted: impl Fn(&Name) -> bool) -> Option<RawFlow> {
        lock(&self.waiting).established.take(|flow| wanted(&flow.info.name))
    }

    /// A flow to a name that is `wanted` and may carry packets.
    pub(super) fn take_ready(&self, wanted: impl Fn(&Name) -> bool) -> Option<Flow> {
        lock(&self.waiting).ready.take(|flow| wanted(&flow.info().name))
    }

    /// Has the keys agreed that come before data, if any do; the flow waits here then.
    pub(super) fn wait_for(self: &Arc<Self>, flow: Flow) {
        if flow.is_ready().unwrap_or(false) {
            return self.put_ready(flow);
        }
        self.beginning.fetch_add(1, Relaxed);
        let queue = self.clone();
        driver::spawn(async move {
            let result = within(READY_TIMEOUT, flow.ready_in_background()).await;
            queue.beginning.fetch_sub(1, Relaxed);
            match result {
                Some(Ok(())) => queue.put_ready(flow),
                Some(Err(error)) => tracing::debug!(%error, "a flow did not begin"),
                None => tracing::debug!(error = %FlowError::Down, "a flow did not begin"),
            }
        })
        .detach();
    }

    fn put_ready(&self, flow: Flow) {
        let host = flow.info().peer.host();
        lock(&self.waiting).ready.push(host, flow);
        self.changed.notify(usize::MAX);
    }
}

/// Returns the output of `work`; `None` if it takes longer than `timeout`.
async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(work.await) }, async {
        driver::sleep_until(Some(driver::monotonic() + timeout)).await;
        None
    })
    .await
}

/// Items of several hosts, given out host by host in turn; those of one host in
/// the order in which they came.
struct Fair<T> {
    hosts: VecDeque<(PeerAddress, VecDeque<T>)>,
    len: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { hosts: VecDeque::new(), len: 0 }
    }
}

impl<T> Fair<T> {
    fn len(&self) -> usize {
        self.len
    }

    /// Returns how many there are of `host`.
    fn of(&self, host: &PeerAddress) -> usize {
        self.hosts.iter().find(|(known, _)| known == host).map_or(0, |(_, items)| items.len())
    }

    fn push(&mut self, host: PeerAddress, item: T) {
        self.len += 1;
        match self.hosts.iter_mut().find(|(known, _)| *known == host) {
            Some((_, items)) => items.push_back(item),
            None => self.hosts.push_back((host, VecDeque::from([item]))),
        }
    }

    fn into_items(self) -> impl Iterator<Item = T> {
        self.hosts.into_iter().flat_map(|(_, items)| items)
    }

    /// Takes the first item of the first host that has one which is `wanted`; the
    /// host goes to the end.
    fn take(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let found = |items: &VecDeque<T>| items.iter().position(&wanted);
        let (index, at) = self
            .hosts
            .iter()
            .enumerate()
            .find_map(|(index, (_, items))| found(items).map(|at| (index, at)))?;
        let (host, mut items) = self.hosts.remove(index)?;
        let item = items.remove(at);
        if !items.is_empty() {
            self.hosts.push_back((host, items));
        }
        self.len -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> PeerAddress {
        PeerAddress::Udp(([10, 0, 0, number], 0).into())
    }

    #[test]
    fn hosts_are_served_in_turn_and_each_in_order() {
        let mut fair = Fair::default();
        for (from, item) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            fair.push(host(from), item);
        }
        assert_eq!((fair.len(), fair.of(&host(1)), fair.of(&host(9))), (6, 3, 0));
        let order: Vec<_> = std::iter::from_fn(|| fair.take(|_| true)).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!((fair.len(), fair.hosts.len()), (0, 0));
    }

    #[test]
    fn what_is_not_wanted_stays() {
        let mut fair = Fair::default();
        for (from, item) in [(1, 1), (1, 2), (2, 3)] {
            fair.push(host(from), item);
        }
        assert_eq!(fair.take(|item| *item == 2), Some(2));
        assert_eq!(fair.take(|item| *item == 2), None);
        assert_eq!((fair.take(|_| true), fair.take(|_| true)), (Some(3), Some(1)));
    }
}
