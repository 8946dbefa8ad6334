//! How a flow is driven: its connection's frames leave by the path, its events
//! become the flow's state, its clock is the background thread's. Who is in a
//! call reads; otherwise the background thread does, so that keys change, pings
//! are answered and peers are followed whatever the application does. Not here:
//! what the connection decides (`proto::connection`).

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use super::{
    inbox::Reader,
    info::WatchOffPath,
    pool,
    shared::{ARMED, CHECKING, CLOSED, CLOSED_BY_PEER, DOWN, LEFT, LEFT_FOR, Shared, milliseconds},
};
use crate::{
    crypto::SystemEntropy,
    driver::{self, Attended, Cause, Registration},
    log::Limited,
    proto::{
        connection::{Connection, ConnectionEvent, PathState},
        native::Capabilities,
    },
    sync::lock,
    transport::OffPathHandler,
    wire::PeerAddress,
};

static NOT_FOLLOWED: Limited = Limited::new();
static MOVED: Limited = Limited::new();

/// After so long without a packet a flow keeps no memory for the next.
const IDLE: Duration = Duration::from_millis(100);
/// Frames from another address that wait for who reads next; more are lost.
const OFF_PATH: usize = 64;

impl Shared {
    /// Begins to attend to the flow, which `reader` reads at first.
    pub(super) fn start(self: &Arc<Self>, off_path: Option<Box<WatchOffPath>>, reader: Reader) {
        let attended: std::sync::Weak<Self> = Arc::downgrade(self);
        let registration = Registration::new(attended);
        let _ = self.registration.set(registration);
        if let Some(watch) = off_path
            && self.native
        {
            watch(self.off_path_handler.get_or_init(|| off_path_handler(self)));
        }
        if !lock(&self.inbox).opening.early.is_empty() {
            // What proved the peer: the path may say nothing more for a while.
            self.read_unread();
        }
        match reader {
            Reader::Other => self.arm(),
            Reader::Caller | Reader::Taker => self.watch.store(LEFT, SeqCst),
        }
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
                        self.counters.moves.fetch_add(1, Relaxed);
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

    /// Gives back memory that a flow with an order has no use for, once it has been idle for a
    /// while.
    fn shrink_if_idle(&self) {
        let Some(order) = &self.order else { return };
        let (sent, heard) = self.traffic();
        let (used, shrunk) = (sent.max(heard), Duration::from_millis(self.shrunk.load(Relaxed)));
        if used < shrunk {
            return;
        }
        let now = driver::monotonic();
        if now < used + IDLE {
            return self.call_driver_by(used + IDLE);
        }
        let Ok(mut inbox) = self.inbox.try_lock() else {
            return self.call_driver_by(now + IDLE);
        };
        self.shrunk.store(milliseconds(), Relaxed);
        inbox.packets.shrink();
        inbox.opened = Vec::new();
        inbox.opening.opener.rest();
        inbox.opening.early.shrink_to_fit();
        self.account(inbox.packets.size());
        drop(inbox);
        lock(order).shrink();
        lock(&self.connection).shrink();
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

    /// Returns `true` if nothing is due yet: the timer was for a look at who reads, or what
    /// was due has become later meanwhile, as with each packet that is answered. It is called
    /// again when something is.
    fn is_early(&self) -> bool {
        // What FRCT could not send is due as long as it has not left.
        if self.check().is_err() || (self.order.is_some() && !self.is_in_messages) {
            return false;
        }
        let order = self.order_due();
        let connection = lock(&self.connection).poll_timeout();
        let fragments = self.fragments.then(|| lock(&self.reassembly).poll_timeout()).flatten();
        let due = [order, connection, fragments].into_iter().flatten().min();
        let early = due.is_none_or(|due| due > driver::monotonic());
        if early {
            due.into_iter().for_each(|due| self.call_driver_by(due));
        }
        early
    }

    fn path_state(&self) -> PathState {
        PathState {
            largest_frame: self.path.largest_frame(),
            routed: self.path.is_routed(),
            detached: self.path.mobility().is_some_and(|path| path.is_cut_off()),
        }
    }
}

impl Attended for Shared {
    fn attend(self: Arc<Self>, cause: Cause) {
        let lingers = self.lingers();
        if self.check().is_ok() || lingers {
            self.look_after_reading(cause);
        }
        if cause == Cause::Timer && (self.called.swap(false, SeqCst) || !self.is_early()) {
            if self.is_order_due() {
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
        if self.check().is_ok() {
            self.shrink_if_idle();
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

/// Returns the handler that a path or a daemon calls with frames that came from elsewhere.
fn off_path_handler(shared: &Arc<Shared>) -> OffPathHandler {
    let flow = Arc::downgrade(shared);
    Arc::new(move |from, frame: &mut [u8]| {
        if let Some(flow) = flow.upgrade() {
            flow.take_off_path(from, frame);
        }
    })
}
