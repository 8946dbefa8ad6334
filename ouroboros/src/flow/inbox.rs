//! How packets of a flow are received: read, opened, put together, and kept for who takes
//! them. Not here: who reads when (`drive`), what an application calls (`receiving`,
//! `receiver`).

use std::{
    io,
    sync::{
        TryLockError,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use super::{
    packets::Packets,
    pool,
    shared::{CUT_OFF, Shared, cut_off},
};
use crate::{
    crypto::SystemEntropy,
    driver,
    error::FlowError,
    proto::{
        native::PacketOrder,
        protection::{Content, Opened, Opener},
    },
    sync::lock,
    transport::ReceiveBatch,
};

/// Bytes of data that wait in one flow that is not read, at most; more are lost,
/// as in a full socket.
const UNREAD: usize = 128 * 1024;
/// The same over all flows of the process.
const UNREAD_IN_ALL: usize = 64 << 20;
/// Batches read in one turn of the background thread.
const BATCHES: usize = 4;

/// Bytes that wait in all flows that are not read, roughly.
static UNREAD_NOW: AtomicUsize = AtomicUsize::new(0);

/// The opener of a flow's frames, and the queue of fragments.
pub(super) struct Opening {
    pub(super) opener: Opener,
    /// Frames that came before the flow began, or from another address.
    pub(super) early: Vec<Vec<u8>>,
    /// Keeps the packets' order by their numbers, if they have one.
    pub(super) order: Option<PacketOrder>,
}

/// The receiving half of a flow, and the packets that nobody has taken yet.
pub(super) struct Inbox {
    pub(super) opening: Opening,
    pub(super) packets: Packets,
    /// Kept to be filled again.
    pub(super) opened: Vec<Opened>,
}

/// On whose behalf packets are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A caller that looks for them by itself.
    Caller,
    /// One that takes at once what of them is in order.
    Taker,
    /// Whoever waits for them.
    Other,
}

/// The outcome of [`Shared::fill`] where there was something.
pub(super) struct Filled {
    /// How many packets were more than there was room for.
    lost: u64,
    /// There was no more.
    drained: bool,
}

/// The result of [`Shared::take`].
pub(super) enum Taken<T> {
    /// Packets, of which this was made.
    Packets(T),
    /// Nothing is there now: wait for more.
    Nothing,
    /// There was much that was not for the application: try again soon.
    Busy,
}

impl Shared {
    /// Receives what is there now into `batch`, in `opened` what of it is data
    /// for the application. Control is handled. `false`: there was nothing.
    pub(super) fn read(
        &self,
        opening: &mut Opening,
        batch: &mut ReceiveBatch,
        opened: &mut Vec<Opened>,
        reader: Reader,
    ) -> io::Result<bool> {
        let early = &mut opening.early;
        opened.clear();
        batch.clear();
        if self.off_path_any.load(SeqCst) {
            let mut frames = lock(&self.off_path_frames);
            self.off_path_any.store(false, SeqCst);
            early.append(&mut frames);
        }
        let on_path = early.is_empty();
        if on_path {
            let told = self.told_readable.load(SeqCst);
            let received = self.path.receive(batch);
            let is_empty = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock);
            if batch.is_drained() || received.as_ref().is_err_and(is_empty) {
                self.drained.store(told, SeqCst);
            }
            match received {
                Ok(()) => {}
                Err(error) if is_empty(&error) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    // Nothing will come or leave any more.
                    self.end(CUT_OFF);
                    return Err(cut_off());
                }
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
        self.open(opening, batch, opened, on_path, reader);
        Ok(true)
    }

    /// Opens the batch; `on_path`: it came from the peer's own address.
    fn open(
        &self,
        opening: &mut Opening,
        batch: &mut ReceiveBatch,
        opened: &mut Vec<Opened>,
        on_path: bool,
        reader: Reader,
    ) {
        let Opening { opener, order, .. } = opening;
        let tally = opener.open_batch(batch, opened);
        let heard = tally.keepalives > 0 || !opened.is_empty();
        let (mut unawaited, mut controlled) = (0, false);
        opened.retain_mut(|packet| match packet.content {
            Content::Control => {
                let body = &batch.frame(packet.index)[packet.body.clone()];
                self.with_connection(|connection| {
                    connection.handle(driver::now(), &mut SystemEntropy, packet, body);
                });
                controlled = true;
                false
            }
            content if self.awaits(content) => !packet.body.is_empty(),
            Content::Fragment if self.fragments => match self.reassemble(batch, packet) {
                Ok(whole) => whole,
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
        let counters = &self.counters;
        if let Some(order) = order {
            counters.late.fetch_add(order.handle(opened) as u64, Relaxed);
        }
        self.take_in_order(batch, opened, tally.unopened, reader);
        let bytes = opened.iter().map(|packet| packet.body.len() as u64).sum();
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
        if opener.wants_attention() {
            self.call_driver();
        } else if controlled {
            // Its clock may have changed; mostly to something later, which wakes nobody.
            let due = lock(&self.connection).poll_timeout();
            due.into_iter().for_each(|due| self.call_driver_by(due));
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
    pub(super) fn forget_fragments(&self) -> Option<Duration> {
        if !self.fragments {
            return None;
        }
        let mut reassembly = lock(&self.reassembly);
        reassembly.handle_timeout(driver::monotonic());
        reassembly.poll_timeout()
    }

    /// Receives what is there now into the inbox, at most `room` bytes of data; `None`: there
    /// was nothing.
    pub(super) fn fill(
        &self,
        inbox: &mut Inbox,
        room: usize,
        reader: Reader,
    ) -> io::Result<Option<Filled>> {
        let mut batch = pool::receive_batch();
        let Inbox { opening, packets, opened } = inbox;
        if !self.read(opening, &mut batch, opened, reader)? {
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
        Ok(Some(Filled { lost, drained: batch.is_drained() }))
    }

    /// Gives `take` the inbox if there is a packet in it, now or after what is
    /// there has been received. `own`: how many of those who wait for packets are the
    /// caller; `looks`: there may be something.
    ///
    /// # Errors
    ///
    /// The flow has ended, and what came before was taken.
    pub(super) fn take<T>(
        &self,
        own: usize,
        looks: bool,
        take: impl FnOnce(&mut Inbox) -> T,
    ) -> Result<Taken<T>, FlowError> {
        let mut take = Some(take);
        self.take_found(own, looks, |inbox| {
            self.hand_over_in_order(&mut inbox.packets);
            let found = !inbox.packets.is_empty();
            take.take_if(|_| found).map(|take| take(inbox))
        })
    }

    /// Copies into `buffer`, which is not empty, what there is of a stream, now or after
    /// what is there has been received; how many bytes.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(super) fn take_bytes(
        &self,
        looks: bool,
        buffer: &mut [u8],
    ) -> Result<Taken<usize>, FlowError> {
        self.take_found(0, looks, |inbox| {
            if inbox.packets.is_empty() && self.is_in_messages {
                return self.read_in_order(buffer);
            }
            self.hand_over_in_order(&mut inbox.packets);
            Some(inbox.packets.read(buffer)).filter(|count| *count > 0)
        })
    }

    /// Asks `find` for what it finds in the inbox, now and after what is there has been
    /// received.
    fn take_found<T>(
        &self,
        own: usize,
        looks: bool,
        mut find: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Result<Taken<T>, FlowError> {
        let taken = self.take_first(looks, &mut find);
        // Who else waits is not told by the socket of what was read here.
        if self.order.is_some()
            && self.waiting.load(SeqCst) > own
            && !matches!(taken, Ok(Taken::Nothing | Taken::Busy))
        {
            self.signal();
        }
        taken
    }

    fn take_first<T>(
        &self,
        looks: bool,
        find: &mut impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Result<Taken<T>, FlowError> {
        let mut inbox = lock(&self.inbox);
        self.reads.fetch_add(1, Relaxed);
        for _ in 0..BATCHES {
            let ended = self.check();
            if let Err(error @ FlowError::Closed) = ended {
                return Err(error);
            }
            if let Some(found) = find(&mut inbox) {
                return Ok(Taken::Packets(found));
            }
            let filled =
                if looks { self.fill(&mut inbox, usize::MAX, Reader::Taker) } else { Ok(None) };
            // What came before the flow ended is had, and so is the end of what was sent.
            if !matches!(filled, Ok(Some(_))) {
                self.check_end_of_reading()?;
                filled?;
                if let Err(FlowError::ClosedWith(_)) = ended {
                    // Not all of what it sent has come.
                    return Err(FlowError::ClosedByPeer);
                }
                ended?;
                return Ok(Taken::Nothing);
            }
        }
        Ok(find(&mut inbox).map_or(Taken::Busy, Taken::Packets))
    }

    /// Counts what waits in this flow to what waits in all.
    pub(super) fn account(&self, size: usize) {
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
            match self.fill(&mut inbox, room, Reader::Other) {
                Ok(Some(filled)) => {
                    lost += filled.lost;
                    // Whoever waits for more is told of it.
                    if filled.drained {
                        break;
                    }
                }
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
}
