//! How a flow is driven: its connection's frames leave by the path, its events
//! become the flow's state, its clock is the background thread's. Who is in a
//! call reads; otherwise the background thread does, so that keys change, pings
//! are answered and peers are followed whatever the application does. Not here:
//! what the connection decides (`proto::connection`).

use std::{
    io,
    sync::{
        Arc, TryLockError,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use super::{
    info::WatchOffPath,
    pool,
    shared::{ARMED, CHECKING, CLOSED, CLOSED_BY_PEER, DOWN, Inbox, LEFT, LEFT_FOR, Shared},
};
use crate::{
    crypto::SystemEntropy,
    driver::{self, Attended, Cause, Registration},
    error::FlowError,
    log::Limited,
    proto::{
        connection::{Connection, ConnectionEvent, PathState},
        native::Capabilities,
        protection::{Content, Opened, Opener},
    },
    sync::lock,
    transport::{OffPathHandler, ReceiveBatch},
    wire::PeerAddress,
};

static NOT_FOLLOWED: Limited = Limited::new();
static MOVED: Limited = Limited::new();

/// Bytes of data that wait in one flow that is not read, at most; more are lost,
/// as in a full socket.
const UNREAD: usize = 128 * 1024;
/// The same over all flows of the process.
const UNREAD_IN_ALL: usize = 64 << 20;
/// Frames from another address that wait for who reads next; more are lost.
const OFF_PATH: usize = 64;
/// Batches read in one turn of the background thread.
const BATCHES: usize = 4;

/// What waits in all flows that are not read, in bytes; roughly.
static UNREAD_NOW: AtomicUsize = AtomicUsize::new(0);

impl Shared {
    /// Begins to attend to the flow.
    pub(super) fn start(self: &Arc<Self>, off_path: Option<Box<WatchOffPath>>) {
        let attended: std::sync::Weak<Self> = Arc::downgrade(self);
        let registration = Registration::new(attended);
        let _ = self.registration.set(registration);
        if let Some(watch) = off_path
            && self.native
        {
            watch(self.off_path_handler.get_or_init(|| off_path_handler(self)));
        }
        if !lock(&self.inbox).early.is_empty() {
            // What proved the peer: the path may say nothing more for a while.
            self.read_unread();
        }
        self.arm();
        let due = self.with_connection(|connection| {
            connection.path_state(driver::now(), self.path_state());
            connection.poll_timeout()
        });
        if let Some(due) = due {
            self.call_driver_by(due);
        }
    }

    fn arm(&self) {
        self.watch.store(ARMED, SeqCst);
        let armed = self.registration.get().map(|at| at.arm(self.path.readiness()));
        if let Some(Err(error)) = armed {
            // Looked at now and then instead.
            tracing::debug!(%error, "a flow that is not read cannot be watched");
            self.read_unread();
            self.check_again();
        }
    }

    /// Does something with the connection, then what follows from it.
    pub(super) fn with_connection<T>(&self, work: impl FnOnce(&mut Connection) -> T) -> T {
        let (done, events) = {
            let mut connection = lock(&self.connection);
            let done = work(&mut connection);
            self.transmit(&mut connection);
            let mut events = Vec::new();
            events.extend(std::iter::from_fn(|| connection.poll()));
            for event in &events {
                if let ConnectionEvent::Moved(address) = event
                    && let Some(path) = self.path.mobility()
                {
                    if let Err(error) = path.follow(*address) {
                        if let Some(times) = NOT_FOLLOWED.report() {
                            tracing::warn!(%address, %error, times, "a peer cannot be followed");
                        }
                    } else {
                        *lock(&self.peer) = *address;
                        if let Some(times) = MOVED.report() {
                            tracing::info!(%address, times, "a peer has moved");
                        }
                    }
                }
            }
            (done, events)
        };
        for event in events {
            self.apply(event);
        }
        done
    }

    /// Sends what the connection has to send.
    fn transmit(&self, connection: &mut Connection) {
        let mut batch = None;
        while let Some(transmit) = connection.poll_transmit() {
            if let Some(to) = transmit.to {
                // Lost like any other: the session sends again.
                if let Some(path) = self.path.mobility() {
                    let _ = path.send_off_path(to, &transmit.frame);
                }
                continue;
            }
            let batch = batch.get_or_insert_with(|| pool::send_batch(self.path.headroom()));
            if !batch.fits(transmit.frame.len()) {
                let _ = self.path.send(batch);
                batch.clear();
            }
            if let Some(room) = batch.push(transmit.frame.len()) {
                room.copy_from_slice(&transmit.frame);
            }
        }
        if let Some(mut batch) = batch {
            // A full socket buffer is traffic enough; other errors are the
            // sender's to meet.
            let _ = self.path.send(&mut batch);
            self.note_sent();
        }
    }

    fn apply(&self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Rekeyed { epoch } => {
                self.counters.epoch.store(epoch, Relaxed);
                if !self.ready.swap(true, SeqCst) {
                    self.signal();
                }
            }
            ConnectionEvent::Announced(capabilities) => {
                let takes = capabilities.contains(Capabilities::PARTIAL_CHECKSUMS);
                self.partial_checksums.store(takes, Relaxed);
            }
            ConnectionEvent::Delivery { undelivered } => {
                self.counters.undelivered.store(undelivered, Relaxed);
            }
            ConnectionEvent::LargestFrame(size) => self.largest.store(size, Relaxed),
            ConnectionEvent::RevalidatePath => {
                if let Some(path) = self.path.mobility() {
                    path.revalidate_local_address();
                }
            }
            ConnectionEvent::Closed => self.end(CLOSED_BY_PEER),
            ConnectionEvent::Down => self.end(DOWN),
            _ => {}
        }
    }

    /// Ends the flow, and tells the peer if it was this end's wish.
    pub(super) fn end(&self, state: u8) {
        if self.set_ended(state) {
            if state == CLOSED {
                self.close_order();
            }
            let lingers = self.lingers();
            // The peer is told when it has all that was sent.
            if state == CLOSED && !lingers {
                let mut connection = lock(&self.connection);
                connection.close(driver::now());
                self.transmit(&mut connection);
            }
            self.signal();
            if !lingers {
                lock(&self.release).take();
            }
            // For the farewell, or for the last time.
            self.call_driver();
        }
    }

    /// Says that this end is a tunnel, which takes partial checksums.
    pub(super) fn announce_partial_checksums(&self) {
        if self.native {
            self.announced.store(true, Relaxed);
            self.with_connection(|connection| {
                connection.announce(driver::now(), Capabilities::PARTIAL_CHECKSUMS);
            });
            self.call_driver();
        }
    }

    /// A frame for this flow came from elsewhere than its peer: the peer may
    /// have moved.
    fn take_off_path(self: &Arc<Self>, from: PeerAddress, frame: &mut [u8]) {
        let sealed = frame.to_vec();
        let data = self.with_connection(|connection| {
            connection.handle_off_path(driver::now(), &mut SystemEntropy, from, frame)
        });
        let Ok(data) = data else { return };
        self.off_path.store(true, SeqCst);
        self.note_heard();
        if data {
            let mut frames = lock(&self.off_path_frames);
            if frames.len() < OFF_PATH {
                frames.push(sealed);
                self.off_path_any.store(true, SeqCst);
            }
            drop(frames);
            self.signal();
        }
        self.call_driver();
    }

    /// Receives what is there now into `batch`, in `opened` what of it is data
    /// for the application. Control is handled. `false`: there was nothing.
    pub(super) fn read(
        &self,
        (opener, early): (&mut Opener, &mut Vec<Vec<u8>>),
        batch: &mut ReceiveBatch,
        opened: &mut Vec<Opened>,
    ) -> io::Result<bool> {
        opened.clear();
        batch.clear();
        if self.off_path_any.load(SeqCst) {
            let mut frames = lock(&self.off_path_frames);
            self.off_path_any.store(false, SeqCst);
            early.append(&mut frames);
        }
        let on_path = early.is_empty();
        if on_path {
            match self.path.receive(batch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        } else {
            let mut end = 0;
            for frame in early.drain(..) {
                let range = end..end + frame.len();
                if let Some(room) = batch.buffer_mut().get_mut(range.clone()) {
                    room.copy_from_slice(&frame);
                    end = range.end;
                    batch.push(range);
                }
            }
        }
        if let Some(take) = &self.strays {
            batch.strays().for_each(take);
        }
        self.open(opener, batch, opened, on_path);
        Ok(true)
    }

    /// Opens the batch; `on_path`: it came from the peer's own address.
    fn open(
        &self,
        opener: &mut Opener,
        batch: &mut ReceiveBatch,
        opened: &mut Vec<Opened>,
        on_path: bool,
    ) {
        let tally = opener.open_batch(batch, opened);
        let heard = tally.keepalives > 0 || !opened.is_empty();
        let (mut bytes, mut unawaited, mut controlled) = (0, 0, false);
        opened.retain_mut(|packet| match packet.content {
            Content::Control => {
                let body = &batch.frame(packet.index)[packet.body.clone()];
                self.with_connection(|connection| {
                    connection.handle(driver::now(), &mut SystemEntropy, packet, body);
                });
                controlled = true;
                false
            }
            content if self.awaits(content) => {
                bytes += packet.body.len() as u64;
                !packet.body.is_empty()
            }
            Content::Fragment if self.fragments => match self.reassemble(batch, packet) {
                Ok(whole) => {
                    bytes += if whole { packet.body.len() as u64 } else { 0 };
                    whole
                }
                Err(()) => {
                    unawaited += 1;
                    false
                }
            },
            _ => {
                unawaited += 1;
                false
            }
        });
        if self.order.is_some() {
            bytes = 0;
            self.take_in_order(batch, opened, tally.unopened);
        }
        let counters = &self.counters;
        counters.received_packets.fetch_add(opened.len() as u64, Relaxed);
        counters.received_bytes.fetch_add(bytes, Relaxed);
        counters.receive_calls.fetch_add(batch.calls(), Relaxed);
        if tally.unopened + unawaited > 0 {
            counters.unopened.fetch_add((tally.unopened + unawaited) as u64, Relaxed);
        }
        if heard {
            if on_path && self.off_path.load(Relaxed) && self.off_path.swap(false, SeqCst) {
                self.with_connection(|connection| {
                    connection.heard_on_path(driver::now(), &mut SystemEntropy);
                });
            }
            self.note_heard();
        }
        if controlled || opener.wants_attention() {
            self.call_driver();
        }
    }

    /// Takes a fragment, and turns it into its packet once that is whole. `false`: it is
    /// not, yet. `Err`: what came is of no use.
    fn reassemble(&self, batch: &mut ReceiveBatch, fragment: &mut Opened) -> Result<bool, ()> {
        let now = driver::monotonic();
        let body = &batch.frame(fragment.index)[fragment.body.clone()];
        let mut reassembly = lock(&self.reassembly);
        let was_empty = reassembly.poll_timeout().is_none();
        let whole = reassembly.handle(now, batch.ecn(fragment.index), body).map_err(|_| ())?;
        let due = reassembly.poll_timeout().filter(|_| was_empty);
        drop(reassembly);
        if let Some(due) = due {
            self.call_driver_by(due);
        }
        let Some(whole) = whole else { return Ok(false) };
        if !self.awaits(whole.content) {
            return Err(());
        }
        fragment.index = batch.push_joined(&whole.bytes, whole.ecn).ok_or(())?;
        fragment.content = whole.content;
        fragment.body = 0..whole.bytes.len();
        Ok(true)
    }

    /// Drops fragments whose packets are not waited for any more; when to look again.
    fn forget_fragments(&self) -> Option<Duration> {
        if !self.fragments {
            return None;
        }
        let mut reassembly = lock(&self.reassembly);
        reassembly.handle_timeout(driver::monotonic());
        reassembly.poll_timeout()
    }

    /// Receives what is there now into the inbox, at most `room` bytes of data; how
    /// many packets were more than that. `None`: there was nothing.
    pub(super) fn fill(&self, inbox: &mut Inbox, room: usize) -> io::Result<Option<u64>> {
        let mut batch = pool::receive_batch();
        let Inbox { opener, early, packets, opened } = inbox;
        if !self.read((opener, early), &mut batch, opened)? {
            return Ok(None);
        }
        let bytes: usize = opened.iter().map(|packet| packet.body.len()).sum();
        let (mut room, mut lost) = (bytes.min(room), 0);
        packets.reserve(room);
        for packet in opened.drain(..) {
            match room.checked_sub(packet.body.len()) {
                Some(rest) => room = rest,
                None => {
                    lost += 1;
                    continue;
                }
            }
            let body = &batch.frame(packet.index)[packet.body.clone()];
            packets.push(body, packet.content, batch.ecn(packet.index));
        }
        if lost > 0 {
            self.counters.dropped_unread.fetch_add(lost, Relaxed);
        }
        Ok(Some(lost))
    }

    /// Gives `take` the inbox if there is a packet in it, now or after what is
    /// there has been received.
    ///
    /// # Errors
    ///
    /// The flow has ended, and what came before was taken.
    pub(super) fn take<T>(
        &self,
        take: impl FnOnce(&mut Inbox) -> T,
    ) -> Result<Taken<T>, FlowError> {
        let mut inbox = lock(&self.inbox);
        self.reads.fetch_add(1, Relaxed);
        for _ in 0..BATCHES {
            let ended = self.check();
            if let Err(error @ FlowError::Closed) = ended {
                return Err(error);
            }
            self.hand_over_in_order(&mut inbox.packets);
            if !inbox.packets.is_empty() {
                return Ok(Taken::Packets(take(&mut inbox)));
            }
            // What came before the peer closed the flow is had.
            if self.fill(&mut inbox, usize::MAX)?.is_none() {
                self.check_end_of_reading()?;
                if let Err(FlowError::ClosedWith(_)) = ended {
                    // Not all of what it sent has come.
                    return Err(FlowError::ClosedByPeer);
                }
                ended?;
                return Ok(Taken::Nothing);
            }
        }
        Ok(Taken::Busy)
    }

    /// Counts what waits in this flow to what waits in all.
    fn account(&self, size: usize) {
        let before = self.unread.swap(size, Relaxed);
        UNREAD_NOW.fetch_add(size.wrapping_sub(before), Relaxed);
    }

    /// Reads on behalf of an application that does not: control is handled, data
    /// waits. `false`: somebody else reads, or there is more than may wait.
    pub(super) fn read_unread(&self) -> bool {
        let mut inbox = match self.inbox.try_lock() {
            Ok(inbox) => inbox,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let (before, mut lost) = (inbox.packets.len(), 0);
        for _ in 0..BATCHES {
            self.account(inbox.packets.size());
            let room = UNREAD
                .saturating_sub(inbox.packets.size())
                .min(UNREAD_IN_ALL.saturating_sub(UNREAD_NOW.load(Relaxed)));
            match self.fill(&mut inbox, room) {
                Ok(Some(more)) => lost += more,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a flow that is not read cannot be read");
                    return false;
                }
            }
        }
        self.account(inbox.packets.size());
        let more = inbox.packets.len() > before;
        drop(inbox);
        if more {
            self.signal();
        }
        lost == 0
    }

    /// Sees to it that the flow is read: by a caller, or from here.
    fn look_after_reading(&self, cause: Cause) {
        let off_path = self.off_path_any.load(SeqCst);
        if cause == Cause::Timer && self.watch.load(SeqCst) != CHECKING && !off_path {
            return;
        }
        let reads = self.reads.load(Relaxed);
        let is_read = self.reads_seen.swap(reads, Relaxed) != reads;
        // Who has polled once need not come back: acknowledging does not wait for it.
        let only_polled = self.order.is_some() && self.is_only_polled();
        if only_polled && is_read {
            return self.check_again();
        }
        if !only_polled && self.is_waited_for() {
            self.watch.store(LEFT, SeqCst);
            if self.watched_by_owner.load(SeqCst)
                && let Some(registration) = self.registration.get()
            {
                // For good: epoll's lock would be taken for each packet that arrives.
                registration.disarm(self.path.readiness());
            }
            if !self.is_waited_for() {
                self.stopped_waiting();
            }
            return;
        }
        let armed = !is_read
            && if cause == Cause::Readable || off_path {
                self.read_unread()
            } else {
                self.inbox.try_lock().is_ok_and(|mut inbox| {
                    inbox.packets.shrink();
                    self.account(inbox.packets.size());
                    true
                })
            };
        if armed { self.arm() } else { self.check_again() }
    }

    /// Before anything is concluded from silence: reads what may be there, though
    /// somebody says that it does.
    fn look_before_judging(&self) {
        let timeout = Duration::from_millis(self.info.qos.timeout.into());
        let (_, heard) = self.traffic();
        let by_owner = self.watched_by_owner.load(SeqCst);
        let silent = driver::monotonic().saturating_sub(heard);
        let after = if by_owner { timeout / 4 * 3 } else { timeout / 4 };
        if self.watch.load(SeqCst) == LEFT && silent >= after.max(LEFT_FOR) {
            self.read_unread();
        }
    }

    fn check_again(&self) {
        self.watch.store(CHECKING, SeqCst);
        self.call_driver_by(driver::monotonic() + self.left_for());
    }

    /// Does what is due by the connection's clock; `None`: the flow has ended,
    /// and nothing is left to say.
    fn keep_time(self: &Arc<Self>) -> Option<Duration> {
        let in_order = self.keep_order_s_time().filter(|_| self.check().is_ok() || self.lingers());
        let due = self.with_connection(|connection| {
            let now = driver::now();
            let (sent, heard) = self.traffic();
            connection.traffic(sent, heard);
            connection.path_state(now, self.path_state());
            connection.handle_timeout(now, &mut SystemEntropy);
            if self.is_closed() && in_order.is_none() {
                connection.close(now);
            }
            connection.poll_timeout()
        });
        let fragments = self.forget_fragments().filter(|_| self.check().is_ok());
        let due = due.into_iter().chain(in_order).chain(fragments).min();
        let mut held = lock(&self.farewell);
        let ended = self.check().is_err();
        if ended && due.is_some() {
            held.get_or_insert_with(|| self.clone());
        } else if let Some(itself) = held.take() {
            // Not the last one: the caller has another.
            drop(itself);
        }
        due
    }

    fn path_state(&self) -> PathState {
        PathState {
            largest_frame: self.path.largest_frame(),
            routed: self.path.is_routed(),
            detached: self.path.mobility().is_some_and(|path| path.is_cut_off()),
        }
    }
}

/// What [`Shared::take`] has found.
pub(super) enum Taken<T> {
    /// Packets, of which this was made.
    Packets(T),
    /// Nothing is there now: wait for more.
    Nothing,
    /// There was much that was not for the application: try again soon.
    Busy,
}

impl Attended for Shared {
    fn attend(self: Arc<Self>, cause: Cause) {
        let lingers = self.lingers();
        if self.check().is_ok() || lingers {
            self.look_after_reading(cause);
        }
        if cause == Cause::Timer {
            if self.order.is_some() {
                // Nothing is repeated that is acknowledged by what is there.
                self.read_unread();
            }
            if self.check().is_ok() {
                self.look_before_judging();
            }
            if let Some(due) = self.keep_time() {
                self.call_driver_by(due);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end(CLOSED);
        self.account(0);
        if let Some(registration) = self.registration.get() {
            registration.disarm(self.path.readiness());
        }
    }
}

/// What a path or a daemon calls with frames that came from elsewhere.
fn off_path_handler(shared: &Arc<Shared>) -> OffPathHandler {
    let flow = Arc::downgrade(shared);
    Arc::new(move |from, frame: &mut [u8]| {
        if let Some(flow) = flow.upgrade() {
            flow.take_off_path(from, frame);
        }
    })
}
