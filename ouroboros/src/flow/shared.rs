//! What both directions of a flow share: its end, its clock, its counters, and
//! the liveness task of a flow in the 0.23 format, which sends keepalives and
//! notices silence (WIRE.md, "Packets of a flow"). No packet data passes here.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_io::Timer;
use event_listener::{Event, EventListener};
use futures_lite::future;
use rustix::event::{EventfdFlags, eventfd};

use super::control::{self, Control};
use crate::{
    crypto::Suite,
    driver,
    error::FlowError,
    proto::{
        native::{Channel, Content},
        negotiation::PeerIdentity,
        protection::{FlowKeys, Profile},
    },
    transport::{Path, PathOffload, SendBatch, Stray, Wanderer},
    wire::{Eid, Name, PeerAddress, QosSpec, extension::Lane},
};

/// What was agreed for a flow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlowInfo {
    /// The name the flow was allocated to.
    pub name: Name,
    /// The IPCP at the other end, as the transport addresses it.
    pub peer: PeerAddress,
    /// This side's endpoint.
    pub local: Eid,
    /// The peer's endpoint.
    pub remote: Eid,
    /// The quality of service.
    pub qos: QosSpec,
    /// How packets are encrypted; `None`: they are not.
    pub suite: Option<Suite>,
    /// Which format encrypted packets have. Who asked for the native profile
    /// and sees that of 0.23 speaks with a 0.23 peer, or with somebody in
    /// between who took the offer away.
    pub profile: Option<Profile>,
    /// Who the peer is; `None`: nobody knows.
    pub identity: Option<PeerIdentity>,
    /// The flow's place in a tunnel of several, as its client says; native
    /// flows only.
    pub lane: Option<Lane>,
    /// Whether the peer's key is that of a first use, and known to `irmd` from
    /// this flow on: nobody has compared it yet.
    pub first_use: bool,
}

impl FlowInfo {
    /// The terms of a flow whose packets are not encrypted. For those who
    /// carry flows between processes.
    pub fn new(name: Name, peer: PeerAddress, (local, remote): (Eid, Eid), qos: QosSpec) -> Self {
        let (suite, profile, identity, lane) = (None, None, None, None);
        let first_use = false;
        Self { name, peer, local, remote, qos, suite, profile, identity, lane, first_use }
    }

    /// The same for one whose packets are.
    #[must_use]
    pub fn encrypted(
        mut self,
        suite: Suite,
        profile: Profile,
        identity: Option<PeerIdentity>,
    ) -> Self {
        (self.suite, self.profile, self.identity) = (Some(suite), Some(profile), identity);
        self
    }
}

/// What went over a flow. Bytes are those of the application's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowStatistics {
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and, if encrypted, authenticated.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames dropped because they could not be opened: forged, corrupted or
    /// under a key that is not the flow's.
    pub unopened: u64,
    /// Packets dropped because the path could not carry their size.
    pub oversize: u64,
    /// Packets dropped because no key may seal them now.
    pub unsealed: u64,
    /// System calls that sent.
    pub send_calls: u64,
    /// System calls that received.
    pub receive_calls: u64,
    /// The key epoch that this end seals in, from 0; 0 in the 0.23 format.
    pub epoch: u64,
}

/// Over several flows.
impl std::iter::Sum for FlowStatistics {
    fn sum<I: Iterator<Item = Self>>(flows: I) -> Self {
        flows.fold(Self::default(), |sum, flow| Self {
            sent_packets: sum.sent_packets + flow.sent_packets,
            sent_bytes: sum.sent_bytes + flow.sent_bytes,
            received_packets: sum.received_packets + flow.received_packets,
            received_bytes: sum.received_bytes + flow.received_bytes,
            unopened: sum.unopened + flow.unopened,
            oversize: sum.oversize + flow.oversize,
            unsealed: sum.unsealed + flow.unsealed,
            send_calls: sum.send_calls + flow.send_calls,
            receive_calls: sum.receive_calls + flow.receive_calls,
            epoch: sum.epoch.max(flow.epoch),
        })
    }
}

/// An allocated flow before its packets are protected: what the daemon relays
/// and [`Flow::new`](crate::Flow::new) takes.
pub struct RawFlow {
    /// The flow's own data path.
    pub path: Arc<dyn Path>,
    /// What was agreed.
    pub info: FlowInfo,
    /// The agreed keys; `None` for a plain flow.
    pub keys: Option<FlowKeys>,
    /// Frames that came while the flow was being allocated.
    pub early: Vec<Vec<u8>>,
    /// Where frames go that reach the path and are not the flow's.
    pub strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    /// Given what takes frames for the flow that come from elsewhere than its
    /// peer; it lets go of it when the flow has ended.
    pub elsewhere: Option<Box<WatchElsewhere>>,
    /// Dropped when the flow ends.
    pub release: Option<Box<dyn Send + Sync>>,
}

/// Has a [`Wanderer`] called with frames from elsewhere.
pub type WatchElsewhere = dyn FnOnce(&Wanderer) + Send + Sync;

/// What of a [`RawFlow`] is neither its terms nor its packets.
pub(super) struct Rest {
    pub(super) strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    pub(super) elsewhere: Option<Box<WatchElsewhere>>,
    pub(super) release: Option<Box<dyn Send + Sync>>,
}

impl std::fmt::Debug for RawFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawFlow").field("info", &self.info).finish_non_exhaustive()
    }
}

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
pub(super) const DOWN: u8 = 2;
pub(super) const CLOSED_BY_PEER: u8 = 3;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) sent_packets: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_packets: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) unopened: AtomicU64,
    pub(super) oversize: AtomicU64,
    pub(super) unsealed: AtomicU64,
    pub(super) send_calls: AtomicU64,
    pub(super) receive_calls: AtomicU64,
    /// Batches that were received.
    pub(super) reads: AtomicU64,
    pub(super) epoch: AtomicU64,
}

impl Counters {
    pub(super) fn statistics(&self) -> FlowStatistics {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        FlowStatistics {
            sent_packets: of(&self.sent_packets),
            sent_bytes: of(&self.sent_bytes),
            received_packets: of(&self.received_packets),
            received_bytes: of(&self.received_bytes),
            unopened: of(&self.unopened),
            oversize: of(&self.oversize),
            unsealed: of(&self.unsealed),
            send_calls: of(&self.send_calls),
            receive_calls: of(&self.receive_calls),
            epoch: of(&self.epoch),
        }
    }
}

pub(super) struct Shared {
    pub(super) path: Arc<dyn Path>,
    pub(super) info: FlowInfo,
    pub(super) control: Option<Control>,
    pub(super) strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    pub(super) counters: Arc<Counters>,
    /// Readable once the flow has ended; wakes blocked threads.
    pub(super) wake: OwnedFd,
    state: AtomicU8,
    end: Event,
    /// Milliseconds of monotonic time.
    last_sent: AtomicU64,
    last_heard: AtomicU64,
    release: Mutex<Option<Box<dyn Send + Sync>>>,
    /// Here so that it lives as long as the flow.
    wanderer: OnceLock<Wanderer>,
}

impl Shared {
    pub(super) fn start(
        path: Arc<dyn Path>,
        info: FlowInfo,
        raw: Rest,
        channel: Option<Channel>,
    ) -> io::Result<Arc<Self>> {
        let Rest { strays, elsewhere, release } = raw;
        let now = milliseconds();
        let shared = Arc::new(Self {
            control: channel.map(|channel| {
                let timeout = Duration::from_millis(info.qos.timeout.into());
                Control::new(channel, timeout, path.largest_frame(), path.headroom())
            }),
            path,
            info,
            strays,
            counters: Arc::default(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            state: AtomicU8::new(OPEN),
            end: Event::new(),
            last_sent: AtomicU64::new(now),
            last_heard: AtomicU64::new(now),
            release: Mutex::new(release),
            wanderer: OnceLock::new(),
        });
        if let Some(watch) = elsewhere
            && shared.control.is_some()
        {
            watch(shared.wanderer.get_or_init(|| control::wanderer(&shared)));
        }
        if shared.control.is_some() {
            driver::spawn(control::attend(Arc::downgrade(&shared))).detach();
        } else if shared.info.qos.timeout > 0 {
            let timeout = u64::from(shared.info.qos.timeout);
            driver::spawn(keep_alive(Arc::downgrade(&shared), timeout)).detach();
        }
        Ok(shared)
    }

    pub(super) fn check(&self) -> Result<(), FlowError> {
        match self.state.load(Relaxed) {
            OPEN => Ok(()),
            DOWN => Err(FlowError::Down),
            CLOSED_BY_PEER => Err(FlowError::ClosedByPeer),
            _ => Err(FlowError::Closed),
        }
    }

    pub(super) fn ended(&self) -> EventListener {
        self.end.listen()
    }

    pub(super) fn end(&self, state: u8) {
        if self.state.compare_exchange(OPEN, state, Relaxed, Relaxed).is_ok() {
            if state == CLOSED {
                self.say_goodbye();
            }
            // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
            self.end.notify(usize::MAX);
            self.release.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Largest frame of the path, in bytes.
    pub(super) fn largest_frame(&self) -> usize {
        let found = self.control.as_ref().map_or(usize::MAX, Control::largest_frame);
        self.path.largest_frame().min(found)
    }

    /// Whether the far end takes packets whose transport checksums are partial.
    pub(super) fn takes_partial_checksums(&self) -> bool {
        self.control.as_ref().is_some_and(Control::takes_partial_checksums)
    }

    /// Whether packets that are `content` are for the application.
    pub(super) fn awaits(&self, content: Content) -> bool {
        match &self.control {
            Some(control) => control.awaits(content),
            None => content == Content::Packet,
        }
    }

    /// When the latest frame left, and when the latest was heard.
    pub(super) fn traffic(&self) -> (Duration, Duration) {
        let of = |at: &AtomicU64| Duration::from_millis(at.load(Relaxed));
        (of(&self.last_sent), of(&self.last_heard))
    }

    pub(super) fn note_sent(&self) {
        self.last_sent.store(milliseconds(), Relaxed);
    }

    pub(super) fn note_heard(&self) {
        self.last_heard.store(milliseconds(), Relaxed);
    }
}

/// Closes a flow from another thread or task: both directions then say
/// [`FlowError::Closed`].
#[derive(Clone)]
pub struct FlowCloser(Weak<Shared>);

impl FlowCloser {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// Closes the flow, if it is still there.
    pub fn close(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.end(CLOSED);
        }
    }
}

impl std::fmt::Debug for FlowCloser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowCloser")
    }
}

/// Watches a flow that somebody else uses.
#[derive(Clone)]
pub struct FlowWatcher {
    counters: Arc<Counters>,
    flow: Weak<Shared>,
}

impl FlowWatcher {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { counters: shared.counters.clone(), flow: Arc::downgrade(shared) }
    }

    /// What went over the flow so far.
    pub fn statistics(&self) -> FlowStatistics {
        self.counters.statistics()
    }

    /// How large the socket's buffers for sending and receiving are, in bytes as
    /// the kernel counts them.
    pub fn buffers(&self) -> (usize, usize) {
        self.flow.upgrade().map_or((0, 0), |flow| flow.path.buffers())
    }

    /// What the kernel does in super-packets at the flow's socket.
    pub fn offload(&self) -> PathOffload {
        self.flow.upgrade().map_or(PathOffload::NONE, |flow| flow.path.offload())
    }
}

impl std::fmt::Debug for FlowWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowWatcher")
    }
}

pub(super) fn milliseconds() -> u64 {
    u64::try_from(driver::monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// Sends a zero-length frame after a quarter of `timeout` (milliseconds)
/// without traffic, and ends the flow after a whole one of silence.
async fn keep_alive(flow: Weak<Shared>, timeout: u64) {
    let interval = (timeout / 4).max(1);
    loop {
        let (sleep, ended) = {
            let Some(shared) = flow.upgrade() else { return };
            let ended = shared.ended();
            if shared.check().is_err() {
                return;
            }
            let now = milliseconds();
            let heard = shared.last_heard.load(Relaxed);
            if now.saturating_sub(heard) >= timeout {
                shared.end(DOWN);
                return;
            }
            if now.saturating_sub(shared.last_sent.load(Relaxed)) >= interval {
                let mut batch = SendBatch::new(shared.path.headroom(), 64);
                batch.push(0);
                // A full socket buffer is traffic enough; other errors are the
                // sender's to meet.
                let _ = shared.path.send(&mut batch);
                shared.note_sent();
            }
            let due = (shared.last_sent.load(Relaxed) + interval).min(heard + timeout);
            (due.saturating_sub(now).max(1), ended)
        };
        future::or(
            async {
                Timer::after(Duration::from_millis(sleep)).await;
            },
            ended,
        )
        .await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end(CLOSED);
    }
}
