//! The state that the ends and handles of a flow share: its path, its connection, the received
//! packets that nobody has taken, the tasks that wait. Not here: what is done with it
//! (`drive`).

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{
            AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use event_listener::{Event, EventListener};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    inbox::{Inbox, Opening},
    info::{Counters, FlowInfo, FlowState, FlowStatistics},
    order::Order,
    packets::Packets,
};
use crate::{
    driver::{self, Registration},
    error::FlowError,
    proto::{
        connection::Connection,
        frct::Failure,
        native::{PacketOrder, Reassembly},
        protection::{Content, Opener},
        reliable::CloseReason,
    },
    sync::lock,
    transport::{OffPathHandler, Path, Stray},
    wire::PeerAddress,
};

const OPEN: u8 = 0;
pub(super) const CLOSED: u8 = 1;
pub(super) const DOWN: u8 = 2;
pub(super) const CLOSED_BY_PEER: u8 = 3;
pub(super) const UNACKNOWLEDGED: u8 = 4;
pub(super) const IRRECOVERABLE: u8 = 5;
/// What the flow's frames passed through is gone: a relay with its daemon.
pub(super) const CUT_OFF: u8 = 6;

/// No error that a stream's reader could take for the end of the stream.
pub(super) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "irmd relays the flow no longer")
}

/// The background thread is told when something can be read.
pub(super) const ARMED: u8 = 0;
/// It will look soon whether the flow is read by a caller still.
pub(super) const CHECKING: u8 = 1;
/// The flow is left to who waits for it.
pub(super) const LEFT: u8 = 2;

/// After a caller was seen reading, the flow is left to it for so long.
pub(super) const LEFT_FOR: Duration = Duration::from_millis(100);
/// The same of a flow in order, whose packets are to be acknowledged soon.
const LEFT_FOR_IN_ORDER: Duration = Duration::from_millis(2);

pub(super) struct Shared {
    pub(super) path: Arc<dyn Path>,
    pub(super) info: FlowInfo,
    /// Where the peer is now.
    pub(super) peer: Mutex<PeerAddress>,
    began: Duration,
    pub(super) connection: Mutex<Connection>,
    /// The machine that keeps the packets' order, if the flow has one.
    pub(super) order: Option<Mutex<Order>>,
    /// Packets are pieces of messages: the reliable profile.
    pub(super) is_in_messages: bool,
    /// There is a session, with control packets of its own.
    pub(super) native: bool,
    /// Packets may come, and leave, in fragments.
    pub(super) fragments: bool,
    pub(super) reassembly: Mutex<Reassembly>,
    /// The id of the next packet that leaves in fragments.
    pub(super) fragmented: AtomicU32,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    pub(super) counters: Arc<Counters>,
    /// Data may pass: what has to be agreed before it, is.
    pub(super) ready: AtomicBool,
    /// The far end takes packets with partial checksums; this end has said so.
    pub(super) partial_checksums: AtomicBool,
    pub(super) announced: AtomicBool,
    /// Largest frame that is known to arrive, in bytes.
    pub(super) largest: AtomicUsize,
    /// Packets have come from another address than the peer's.
    pub(super) off_path: AtomicBool,
    /// Data that came from there, sealed, for who reads next.
    pub(super) off_path_frames: Mutex<Vec<Vec<u8>>>,
    /// Something is in `off_path_frames`.
    pub(super) off_path_any: AtomicBool,
    /// Here so that it lives as long as the flow.
    pub(super) off_path_handler: OnceLock<OffPathHandler>,
    pub(super) state: AtomicU8,
    /// Why the peer has closed the flow, if it said so.
    pub(super) close_reason: OnceLock<CloseReason>,
    /// The flow has ended, is ready, or has something that no socket tells.
    changed: Event,
    /// Readable once the flow has ended; wakes blocked threads, and owners that poll the
    /// path by themselves. Made when the first of them is about to block.
    wake: OnceLock<OwnedFd>,
    /// Called in place of the descriptor by an owner that has many flows.
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Who reads has been woken, and has not read since.
    woken: AtomicBool,
    /// How many wait in calls, and of them, in blocked threads.
    pub(super) waiting: AtomicUsize,
    pub(super) blocked: AtomicUsize,
    /// A `poll_recv` has said that it waits.
    pub(super) polled: AtomicBool,
    /// The receiver's owner polls the descriptor by itself.
    pub(super) watched_by_owner: AtomicBool,
    /// Calls that read, ever; and how many there were when it was looked last.
    pub(super) reads: AtomicU64,
    pub(super) reads_seen: AtomicU64,
    pub(super) watch: AtomicU8,
    /// How often a reactor's word that the path is readable was taken, and how often it had
    /// been when the path was last read until there was no more.
    pub(super) told_readable: AtomicU64,
    pub(super) drained: AtomicU64,
    /// Bytes in the inbox when the background thread looked last.
    pub(super) unread: AtomicUsize,
    /// Milliseconds of monotonic time.
    last_sent: AtomicU64,
    last_heard: AtomicU64,
    /// When memory was given back that nothing had been in since, in the same way.
    pub(super) shrunk: AtomicU64,
    pub(super) release: Mutex<Option<Box<dyn Send + Sync>>>,
    pub(super) registration: OnceLock<Registration>,
    /// The background thread is to attend to the flow whatever is due.
    pub(super) called: AtomicBool,
    /// The flow itself while its peer is told that it was given up.
    pub(super) farewell: Mutex<Option<Arc<Self>>>,
}

/// The parts that a flow begins with.
pub(super) struct Parts {
    pub(super) path: Arc<dyn Path>,
    pub(super) info: FlowInfo,
    pub(super) connection: Connection,
    pub(super) order: Option<Order>,
    pub(super) opener: Opener,
    pub(super) early: Vec<Vec<u8>>,
    pub(super) strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    pub(super) release: Option<Box<dyn Send + Sync>>,
    pub(super) native: bool,
    pub(super) fragments: bool,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { path, info, connection, order, opener, early, .. } = parts;
        let Parts { strays, release, native, fragments, .. } = parts;
        let now = milliseconds();
        let by_number = (native && info.ordered).then(PacketOrder::new);
        let opening = Opening { opener, early, order: by_number };
        Self {
            path,
            peer: Mutex::new(info.peer),
            began: driver::monotonic(),
            info,
            ready: AtomicBool::new(connection.is_ready()),
            connection: Mutex::new(connection),
            is_in_messages: order.as_ref().is_some_and(|o| o.message_limit().is_some()),
            // What keeps an order has its own way to be smaller.
            fragments: fragments && order.is_none(),
            order: order.map(Mutex::new),
            native,
            reassembly: Mutex::default(),
            fragmented: AtomicU32::new(0),
            inbox: Mutex::new(Inbox { opening, packets: Packets::new(), opened: Vec::new() }),
            strays,
            counters: Arc::default(),
            partial_checksums: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            largest: AtomicUsize::new(usize::MAX),
            off_path: AtomicBool::new(false),
            off_path_frames: Mutex::default(),
            off_path_any: AtomicBool::new(false),
            off_path_handler: OnceLock::new(),
            state: AtomicU8::new(OPEN),
            close_reason: OnceLock::new(),
            changed: Event::new(),
            wake: OnceLock::new(),
            waker: OnceLock::new(),
            woken: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            polled: AtomicBool::new(false),
            watched_by_owner: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            reads_seen: AtomicU64::new(0),
            watch: AtomicU8::new(ARMED),
            told_readable: AtomicU64::new(1),
            drained: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            last_sent: AtomicU64::new(now),
            last_heard: AtomicU64::new(now),
            shrunk: AtomicU64::new(0),
            release: Mutex::new(release),
            registration: OnceLock::new(),
            called: AtomicBool::new(false),
            farewell: Mutex::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), FlowError> {
        match self.state.load(Relaxed) {
            OPEN => Ok(()),
            DOWN => Err(FlowError::Down),
            CLOSED_BY_PEER => Err(match self.close_reason.get() {
                Some(reason) => FlowError::ClosedWith(reason.clone()),
                None => FlowError::ClosedByPeer,
            }),
            UNACKNOWLEDGED => Err(Failure::Unacknowledged.into()),
            IRRECOVERABLE => Err(Failure::Irrecoverable.into()),
            CUT_OFF => Err(cut_off().into()),
            _ => Err(FlowError::Closed),
        }
    }

    /// Returns `true` if this end has closed the flow.
    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Relaxed) == CLOSED
    }

    /// For how long the flow is left to a caller that was seen reading.
    pub(super) fn left_for(&self) -> Duration {
        if self.order.is_some() { LEFT_FOR_IN_ORDER } else { LEFT_FOR }
    }

    /// Marks the flow as ended; `true` if it had not.
    pub(super) fn set_ended(&self, state: u8) -> bool {
        self.state.compare_exchange(OPEN, state, SeqCst, SeqCst).is_ok()
    }

    /// Told when the flow ends, becomes ready, or has something that its socket
    /// does not tell.
    pub(super) fn changes(&self) -> EventListener {
        self.changed.listen()
    }

    pub(super) fn statistics(&self) -> FlowStatistics {
        if self.native && self.check().is_ok() {
            self.with_connection(|connection| connection.ask_delivery(driver::now()));
        }
        FlowStatistics { socket_drops: self.path.dropped(), ..self.counters.statistics() }
    }

    pub(super) fn snapshot(&self) -> FlowState {
        let now = driver::monotonic();
        let (round_trip, measuring, missed) = {
            let connection = lock(&self.connection);
            (connection.round_trip(), connection.awaits_pong(), connection.missed())
        };
        FlowState {
            info: self.info.clone(),
            peer: *lock(&self.peer),
            age: now.saturating_sub(self.began),
            silence: now.saturating_sub(self.traffic().1),
            round_trip,
            measuring,
            missed,
            largest_frame: self.largest_frame(),
            offload: self.path.offload(),
        }
    }

    /// Wakes who waits in a call.
    pub(super) fn signal(&self) {
        self.changed.notify(usize::MAX);
        let ended = self.check().is_err();
        if ended {
            self.counters.ended.notify(usize::MAX);
        }
        let polls = self.watched_by_owner.load(SeqCst) || self.blocked.load(SeqCst) > 0;
        if !ended && !polls {
            return;
        }
        if let Some(wake) = self.wake.get() {
            // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
        // Behind the write, so that what is taken back is there.
        let woken = self.woken.swap(true, SeqCst);
        if !woken && let Some(waker) = self.waker.get() {
            waker();
        }
    }

    /// Has `waker` called when the flow has ended, or has something that no socket tells,
    /// and again after what is there was read in part.
    pub(super) fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        if self.waker.set(waker).is_ok() {
            // What has happened before there was anything to tell it.
            self.woken.store(false, SeqCst);
            self.signal();
        }
    }

    /// Returns `true` if a [waker](Self::set_waker) is called.
    pub(super) fn has_waker(&self) -> bool {
        self.waker.get().is_some()
    }

    /// Readable once the flow has ended.
    ///
    /// # Errors
    ///
    /// No descriptor is to be had.
    pub(super) fn wake(&self) -> io::Result<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        if self.wake.get().is_none() {
            let _ = self.wake.set(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
            // What has happened before there was anything to tell it.
            self.signal();
        }
        self.wake.get().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes back what [`signal`](Self::signal) did, unless that was the end. Before
    /// what it tells of is looked at.
    pub(super) fn clear_wake(&self) {
        // A look first: this is asked for each batch.
        if self.woken.load(SeqCst)
            && self.woken.swap(false, SeqCst)
            && let Some(wake) = self.wake.get()
            && self.check().is_ok()
        {
            let _ = rustix::io::read(wake, &mut [0u8; 8]);
            if self.check().is_err() {
                self.signal();
            }
        }
    }

    /// Largest frame of the path, in bytes.
    pub(super) fn largest_frame(&self) -> usize {
        self.path.largest_frame().min(self.largest.load(Relaxed))
    }

    /// Returns `true` if packets that are `content` are for the application.
    pub(super) fn awaits(&self, content: Content) -> bool {
        match content {
            Content::Packet => !self.is_in_messages,
            Content::Data | Content::Frames => self.is_in_messages,
            Content::PartialChecksum => self.announced.load(Relaxed),
            _ => false,
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

    /// Has the background thread attend to the flow now.
    pub(super) fn call_driver(&self) {
        self.called.store(true, SeqCst);
        self.call_driver_by(Duration::ZERO);
    }

    pub(super) fn call_driver_by(&self, due: Duration) {
        if let Some(registration) = self.registration.get() {
            registration.schedule_by(due);
        }
    }

    /// Returns `true` if a call waits for something to read.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
            || self.polled.load(SeqCst)
            || self.watched_by_owner.load(SeqCst)
    }

    /// Returns `true` if no more is known of who waits than that it has polled.
    pub(super) fn is_only_polled(&self) -> bool {
        self.polled.load(SeqCst)
            && self.waiting.load(SeqCst) == 0
            && !self.watched_by_owner.load(SeqCst)
    }

    /// A reactor has told that the path can be read, and will not tell it again.
    pub(super) fn note_told_readable(&self) {
        self.told_readable.fetch_add(1, SeqCst);
    }

    /// Returns `true` if a reactor that remembers what it has told, and has nothing to tell,
    /// will tell of all that is there to be read.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(SeqCst) == self.told_readable.load(SeqCst)
            && !self.off_path_any.load(SeqCst)
    }

    /// Nobody waits any more, maybe: the background thread looks soon.
    pub(super) fn stopped_waiting(&self) {
        let leaves = |state| {
            self.watch.load(SeqCst) == state
                && self.watch.compare_exchange(state, CHECKING, SeqCst, SeqCst).is_ok()
        };
        let armed = leaves(ARMED);
        if armed && let Some(registration) = self.registration.get() {
            // Who waited was faster, and will be with what follows.
            registration.quiet(self.path.readiness());
            // It may have been armed again meanwhile, and is not any more.
            self.watch.store(CHECKING, SeqCst);
        }
        if armed || leaves(LEFT) {
            self.call_driver_by(driver::monotonic() + self.left_for());
        }
    }
}

/// Somebody is in a call that waits for something to read: the background thread
/// leaves the flow to it.
pub(super) struct Waiting<'a> {
    shared: &'a Shared,
    blocked: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(shared: &'a Shared, blocked: bool) -> Self {
        shared.waiting.fetch_add(1, SeqCst);
        if blocked {
            shared.blocked.fetch_add(1, SeqCst);
        }
        Self { shared, blocked }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.blocked {
            self.shared.blocked.fetch_sub(1, SeqCst);
        }
        if self.shared.waiting.fetch_sub(1, SeqCst) == 1 {
            self.shared.stopped_waiting();
        }
    }
}

pub(super) fn milliseconds() -> u64 {
    u64::try_from(driver::monotonic().as_millis()).unwrap_or(u64::MAX)
}
