//! A flow: packets to and from one program of a peer.
//!
//! [`Flow`] is the async handle; [`Flow::split`] gives the blocking, batched
//! pair that a tunnel's threads use. Sealing and opening happen in the calling
//! thread; who calls drives the flow, and the background thread while nobody
//! does (`drive`). Not here: how a flow comes to be (`ipcp`), what keeps it alive
//! and ends it (`proto::connection`).

mod batched;
mod drive;
mod finishing;
mod handles;
mod inbox;
mod info;
mod memory;
mod order;
mod packets;
mod pool;
mod readiness;
mod receiver;
mod receiving;
mod reliable;
mod sending;
mod shared;
mod spec;
mod stream;
mod turn;

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::SeqCst},
    task::Context,
    time::Duration,
};

use event_listener::EventListener;
use futures_lite::future;

pub use self::{
    batched::FlowSender,
    handles::{FlowCloser, FlowWatcher},
    info::{FlowInfo, FlowState, FlowStatistics, RawFlow, WatchOffPath},
    memory::{buffered_bytes, set_buffer_budget},
    packets::Packets,
    receiver::FlowReceiver,
    spec::FlowSpec,
    stream::{FlowReadHalf, FlowStream, FlowWriteHalf},
};
use self::{
    batched::Sends,
    inbox::Reader,
    order::{Order, Owner},
    readiness::Wait,
    shared::{CLOSED, Parts, Shared, Waiting},
    turn::Turn,
};
pub(crate) use self::{
    order::reserved_after,
    readiness::{Interest, Readiness},
    receiver::Received,
};
use crate::{
    crypto::{AeadBackend, SystemEntropy},
    driver,
    error::{AllocateError, FlowError},
    proto::{
        connection::{Connection, ConnectionConfig},
        native::{Capabilities, KeyLimits},
        protection::{Protection, protection},
        reliable::{Statistics as ReliableStatistics, congestion::CongestionControl},
    },
    sync::lock,
    transport::PathOffload,
};

/// Times that one poll looks at the path for what its task waits for, among what comes for
/// others.
const LOOKS: usize = 4;

/// A flow to a program of a peer: packets that may be lost and may come in
/// another order, unless its quality of service says otherwise
/// ([`QosSpec`](crate::wire::QosSpec)). Dropping it ends it; what was sent in order
/// and has to arrive is repeated in the background until it has, for as long as the
/// process lives. The peer of a native flow is told; the
/// 0.23 format has no message for that, so that its peer learns of it by silence.
///
/// All methods take `&self`: tasks and threads may share a flow, each packet goes
/// to one of those that receive.
///
/// # While nobody receives
///
/// The flow goes on: keys change, the peer's pings are answered, a peer that
/// moves is followed. Up to 128 KiB of data wait to be received; beyond that, data
/// is dropped ([`FlowStatistics::dropped_unread`]), as a full socket drops it.
pub struct Flow {
    sender: Mutex<FlowSender>,
    readiness: Readiness,
    /// The tasks that a `poll_` form has told to wait: they are woken at the flow's end.
    pollers: Pollers,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Pollers {
    receive: Mutex<Option<EventListener>>,
    send: Mutex<Option<EventListener>>,
    finish: Mutex<Option<EventListener>>,
    /// When there is something to read for who writes, and who finishes.
    acknowledged: [Mutex<Option<Wait>>; 2],
    reading: Turn,
    writing: Turn,
}

impl Flow {
    /// A flow over an allocated path, with packets protected by its keys. For
    /// those who carry flows between processes; others allocate or accept.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn new(raw: RawFlow) -> io::Result<Self> {
        Self::with_backend(raw, AeadBackend::default())
    }

    /// Like [`new`](Self::new), with the AEAD implementation chosen.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_backend(raw: RawFlow, backend: AeadBackend) -> io::Result<Self> {
        Self::with_limits(raw, backend, KeyLimits::default())
    }

    /// Like [`with_backend`](Self::with_backend), with keys that may do as much
    /// as `limits` says before the next are agreed. Of no effect on a flow in
    /// the 0.23 format.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_limits(raw: RawFlow, backend: AeadBackend, limits: KeyLimits) -> io::Result<Self> {
        Ok(Self::read_by(Reader::Other, raw, backend, limits))
    }

    /// A flow that is read by the background thread at first, or by the caller, who waits
    /// for something of it at once.
    fn read_by(reader: Reader, raw: RawFlow, backend: AeadBackend, limits: KeyLimits) -> Self {
        let RawFlow { path, info, keys, early, strays, off_path, closer, release } = raw;
        let (ends, checks_errors) = ((info.local, info.remote), info.qos.checks_errors());
        let Protection { sealer, opener, channel } =
            protection(keys, ends, checks_errors, backend, limits, &mut SystemEntropy);
        let native = channel.is_some();
        let fragments =
            channel.as_ref().is_some_and(|it| it.capabilities().contains(Capabilities::FRAGMENTS));
        let config = ConnectionConfig {
            timeout: Duration::from_millis(info.qos.timeout.into()),
            largest_frame: path.largest_frame(),
        };
        let connection = Connection::new(driver::now(), &mut SystemEntropy, channel, config);
        let readiness = Readiness::new(path.clone());
        let (order, sends) = match Order::new(&info, sealer, native) {
            Err(sealer) => (None, Sends::Sealed(sealer)),
            Ok(order) => {
                let overhead = order.overhead();
                let sends = match order.message_limit() {
                    None => Sends::InOrder { overhead },
                    Some(limit) => Sends::Messages { limit },
                };
                (Some(order), sends)
            }
        };
        let parts = Parts {
            path,
            info,
            connection,
            order,
            opener,
            early,
            strays,
            release,
            native,
            fragments,
        };
        let shared = Arc::new(Shared::new(parts));
        shared.start(off_path, reader);
        if let Some(take) = closer {
            take(FlowCloser::new(&shared));
        }
        let owner = shared.order.is_some().then(|| Arc::new(Owner(shared.clone())));
        let sender = Mutex::new(FlowSender::new(shared.clone(), sends, owner));
        Self { sender, readiness, pollers: Pollers::default(), shared }
    }

    /// A flow that was allocated within `timeout`, and can be used by then.
    pub(crate) async fn begin(raw: RawFlow, timeout: Duration) -> Result<Self, AllocateError> {
        let backend = AeadBackend::default();
        let flow = Self::read_by(Reader::Caller, raw, backend, KeyLimits::default());
        let waiting = Waiting::new(&flow.shared, false);
        let late = async {
            driver::sleep_until(driver::monotonic().checked_add(timeout)).await;
            Err(AllocateError::TimedOut)
        };
        let ready = async {
            flow.ready().await.map_err(|error| match error {
                FlowError::Transport(error) => AllocateError::Transport(error),
                FlowError::ClosedByPeer => AllocateError::Gone,
                _ => AllocateError::TimedOut,
            })
        };
        future::or(ready, late).await?;
        drop(waiting);
        Ok(flow)
    }

    /// Returns `true` if packets that do not fit a frame may travel in fragments, in a
    /// tunnel.
    pub(crate) fn takes_fragments(&self) -> bool {
        self.shared.fragments
    }

    /// Returns `true` if the flow has changed since the last call; wakes
    /// `context` when it does.
    fn poll_changes(
        &self,
        listener: &Mutex<Option<EventListener>>,
        context: &mut Context<'_>,
    ) -> bool {
        let mut listener = lock(listener);
        let listening = listener.get_or_insert_with(|| self.shared.changes());
        let changed = pin!(listening).poll(context).is_ready();
        if changed {
            *listener = None;
        }
        changed
    }

    /// Largest packet that can be sent now, in bytes.
    #[must_use]
    pub fn largest_packet(&self) -> usize {
        lock(&self.sender).largest_sent()
    }

    /// Returns the agreed terms of the flow.
    #[must_use]
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// Returns the flow's statistics.
    #[must_use]
    pub fn statistics(&self) -> FlowStatistics {
        self.shared.statistics()
    }

    /// Has another congestion control from now on, at this end; BBR by default. Of no
    /// effect on a flow that is not in the reliable profile.
    ///
    /// ```
    /// # fn with(flow: &ouroboros::Flow) {
    /// use ouroboros::CongestionControl;
    /// // To share a link as the kernel's TCP with CUBIC does.
    /// flow.set_congestion_control(CongestionControl::Cubic);
    /// # }
    /// ```
    pub fn set_congestion_control(&self, control: CongestionControl) {
        self.shared.set_congestion_control(control);
    }

    /// Sets how many bytes may be written and wait to be sent for the first time. Writers
    /// wait sooner, and what they write leaves the sooner: for who chooses what to send
    /// next as late as possible (TCP's `TCP_NOTSENT_LOWAT`). By default what is bounded is
    /// what is not acknowledged: twice the congestion window, at least 64 KiB. Of no effect
    /// on a flow that is not in the reliable profile.
    ///
    /// ```
    /// # fn with(flow: &ouroboros::Flow) {
    /// flow.set_unsent_limit(16 * 1024);
    /// # }
    /// ```
    pub fn set_unsent_limit(&self, bytes: usize) {
        self.shared.set_unsent_limit(bytes as u64);
    }

    /// Sets for how long what was written goes on in the background once the flow is
    /// dropped: by default 30 s, towards a 0.23 peer 120 s, and as long as the process
    /// lives. With [`Duration::ZERO`] what the peer does not have yet is lost. Of no effect
    /// on flows that repeat nothing.
    pub fn set_linger(&self, linger: Duration) {
        self.shared.set_linger(linger);
    }

    /// Figures of a flow in the reliable profile now: round trip, congestion window,
    /// losses, credit. `None` of any other flow.
    ///
    /// They are told as an event of the level TRACE, too, once a second while the flow is in use.
    #[must_use]
    pub fn reliable_statistics(&self) -> Option<ReliableStatistics> {
        self.shared.order_statistics()
    }

    /// A handle that watches the flow from elsewhere.
    #[must_use]
    pub fn watcher(&self) -> FlowWatcher {
        FlowWatcher::new(&self.shared)
    }

    /// A handle that closes the flow from elsewhere.
    #[must_use]
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }

    /// Ends the flow; the peer of a native flow is told. Calls that wait return
    /// [`FlowError::Closed`].
    pub fn close(&self) {
        self.shared.end(CLOSED);
    }

    /// Waits until the flow has ended, or the peer has said why it closes it and has sent
    /// everything; why it did. What the peer sent before can
    /// still be received.
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> FlowError {
        loop {
            let changed = self.shared.changes();
            if let Err(error) = self.shared.check() {
                return error;
            }
            if let Some(error) = self.shared.closed_with() {
                return error;
            }
            changed.await;
        }
    }

    /// Waits until packets may pass: until the keys are agreed that have to be
    /// before them. Sending waits for the same.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The flow has ended, and nothing was received before.
    pub async fn ready(&self) -> Result<(), FlowError> {
        if self.is_ready()? {
            return Ok(());
        }
        // Who waits reads: no other thread stands between the keys and the caller.
        let _waiting = Waiting::new(&self.shared, false);
        loop {
            self.shared.read_unread();
            let changed = self.shared.changes();
            if self.is_ready()? {
                return Ok(());
            }
            let changed = async {
                changed.await;
                Ok(())
            };
            future::or(self.readable(), changed).await?;
        }
    }

    /// Like [`ready`](Self::ready), for the background thread, which reads by itself.
    pub(crate) async fn ready_in_background(&self) -> Result<(), FlowError> {
        loop {
            let changed = self.shared.changes();
            if self.is_ready()? {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Returns `true` if packets may pass, or have passed.
    ///
    /// # Errors
    ///
    /// The flow has ended, and nothing was received before.
    pub(crate) fn is_ready(&self) -> Result<bool, FlowError> {
        let ready = self.shared.ready.load(SeqCst);
        match self.shared.check() {
            Ok(()) => Ok(ready),
            Err(FlowError::ClosedByPeer) if ready && self.has_unread() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Ends the flow with [`FlowError::Down`] when the peer, asked whether it
    /// is there, does not say so within `patience`. It is asked when packets
    /// have left for a while and none has come. Without this only the flow's own
    /// timeout ends it. No effect on a flow in the 0.23 format.
    pub fn expect_answers_within(&self, patience: Duration) {
        lock(&self.shared.connection).expect_answers_within(patience);
        self.shared.call_driver();
    }

    /// Says that packets of this flow go to an IP stack, which finishes partial
    /// checksums by itself.
    pub(crate) fn take_partial_checksums(&self) {
        self.shared.announce_partial_checksums();
    }

    /// Leaves no more than this to the kernel; all that it has by default.
    pub(crate) fn limit_offload(&self, offload: PathOffload) {
        self.shared.path.limit_offload(offload);
    }

    /// Returns the offloads in use at the flow's socket now.
    #[must_use]
    pub fn offload(&self) -> PathOffload {
        self.shared.path.offload()
    }

    /// The blocking, batched pair of ends for two threads, each with a batch of
    /// its own. The flow ends when both are gone.
    #[must_use]
    pub fn split(self) -> (FlowSender, FlowReceiver) {
        let (mut sender, receiver) = self.split_for_many();
        sender.keep_batch();
        (sender, receiver)
    }

    /// As [`split`](Self::split), for who has many flows: the ends keep no batch
    /// while they are idle, if the receiver is told to
    /// [release](FlowReceiver::release) its own.
    #[must_use]
    pub fn split_for_many(self) -> (FlowSender, FlowReceiver) {
        // Made now rather than when a thread is about to block. If there is none
        // to be had, it is tried again then.
        let _ = self.shared.wake();
        self.into_ends()
    }

    /// As [`split_for_many`](Self::split_for_many), without a descriptor beside the
    /// path's: `waker` is called in place of [`FlowReceiver::end`] becoming readable,
    /// from any thread.
    pub(crate) fn split_with_waker(
        self,
        waker: impl Fn() + Send + Sync + 'static,
    ) -> (FlowSender, FlowReceiver) {
        self.shared.set_waker(Box::new(waker));
        self.into_ends()
    }

    fn into_ends(self) -> (FlowSender, FlowReceiver) {
        let Self { sender, readiness, shared, .. } = self;
        drop(readiness);
        let sender = sender.into_inner().unwrap_or_else(PoisonError::into_inner);
        let owner = sender.owner();
        (sender, FlowReceiver::new(shared, owner))
    }
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
