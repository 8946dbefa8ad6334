//! The blocking, batched ends of a flow: what a tunnel's threads use, and what
//! [`Flow`](super::Flow) is built on.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    handles::FlowCloser,
    info::{FlowInfo, FlowStatistics},
    order::Owner,
    pool::{self, Pooled},
    shared::{Shared, Waiting},
};
use crate::{
    error::FlowError,
    proto::{
        native::{FRAGMENT_HEAD, fragments},
        protection::{Content, Sealer},
    },
    sys::socket,
    transport::SendBatch,
    tun::offload::{Checksums, Ecn},
};

/// The sending end: packets are pushed into a batch, then sealed and sent at
/// once.
pub struct FlowSender {
    /// Dropped first: closes a flow in order, which lingers.
    owner: Option<Arc<Owner>>,
    shared: Arc<Shared>,
    sends: Sends,
    /// Taken from the pool for the first packet.
    batch: Option<Pooled<SendBatch>>,
    /// The batch is kept for the next packets.
    keeps_batch: bool,
    /// The content of each frame of the batch.
    contents: Vec<Content>,
    /// Frames of the batch that are sealed.
    sealed: usize,
    /// Plaintext bytes in the batch.
    bytes: u64,
    met_oversize: bool,
    /// Largest frame that the path has said that it carries; to ask it is a
    /// system call.
    known_largest: usize,
}

/// The way that the packets of a batch leave.
pub(super) enum Sends {
    /// They are sealed here, and leave.
    Sealed(Sealer),
    /// They are the flow's order's to send, with so many bytes around each.
    InOrder { overhead: usize },
    /// The same in the reliable profile, which takes messages of up to so many bytes.
    Messages { limit: usize },
}

/// Largest message that a [`FlowSender`] takes, in bytes: it has to fit its batch.
const LARGEST_PUSHED: usize = 128 * 1024;

impl FlowSender {
    pub(super) fn new(shared: Arc<Shared>, sends: Sends, owner: Option<Arc<Owner>>) -> Self {
        let (batch, keeps_batch, contents) = (None, false, Vec::new());
        Self {
            owner,
            shared,
            sends,
            batch,
            keeps_batch,
            contents,
            sealed: 0,
            bytes: 0,
            met_oversize: false,
            known_largest: 0,
        }
    }

    pub(super) fn owner(&self) -> Option<Arc<Owner>> {
        self.owner.clone()
    }

    /// Keeps the batch from now on: for who sends all the time.
    pub(super) fn keep_batch(&mut self) {
        self.keeps_batch = true;
    }

    /// Bytes before and behind a packet in the batch.
    fn room(&self) -> (usize, usize) {
        match &self.sends {
            Sends::Sealed(sealer) => (sealer.headroom(), sealer.tailroom()),
            Sends::InOrder { .. } | Sends::Messages { .. } => (0, 0),
        }
    }

    /// Returns `true` if the current batch has room for a packet of `size` bytes.
    #[must_use]
    pub fn fits(&self, size: usize) -> bool {
        let (head, tail) = self.room();
        let size = head + size + tail;
        self.batch.as_ref().is_none_or(|batch| batch.fits(size))
    }

    /// Room for a packet of `size` bytes in the current batch, for the caller
    /// to fill before the next call; `None` if the batch is full: flush it.
    pub fn push(&mut self, size: usize) -> Option<&mut [u8]> {
        self.push_content(size, Content::Packet, Ecn::NotEct)
    }

    /// Like [`push`](Self::push), for one with a partial checksum, or with a
    /// say in what the outer header says of congestion.
    pub(crate) fn push_content(
        &mut self,
        size: usize,
        content: Content,
        ecn: Ecn,
    ) -> Option<&mut [u8]> {
        let (head, tail) = self.room();
        let batch = self.batch.get_or_insert_with(|| pool::send_batch(self.shared.path.headroom()));
        batch.push(head + size + tail)?;
        batch.mark(ecn);
        self.contents.push(content);
        self.bytes += size as u64;
        let last = batch.len() - 1;
        batch.frame_mut(last).get_mut(head..head + size)
    }

    /// Returns `true` if packets that do not fit a frame may leave in fragments.
    pub(crate) fn takes_fragments(&self) -> bool {
        self.shared.fragments
    }

    /// Puts a packet into the batch in fragments, each of which fits where a packet of
    /// `largest` bytes does; flushes if that does not fit the batch. `false`: it cannot be
    /// sent so, and is not.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub(crate) fn push_fragments(
        &mut self,
        packet: &[u8],
        content: Content,
        ecn: Ecn,
        largest: usize,
    ) -> Result<bool, FlowError> {
        if !self.shared.fragments {
            return Ok(false);
        }
        let id = self.shared.fragmented.fetch_add(1, Relaxed);
        let Some(fragments) = fragments(id, content, packet, largest) else { return Ok(false) };
        for fragment in fragments {
            let size = FRAGMENT_HEAD + fragment.bytes.len();
            if !self.fits(size) {
                self.flush()?;
            }
            if let Some(room) = self.push_content(size, Content::Fragment, ecn) {
                fragment.write(room);
            }
        }
        Ok(true)
    }

    /// Takes back the packet pushed last, if it has not been sealed yet.
    pub fn pop(&mut self) {
        let (head, tail) = self.room();
        if let Some(batch) = self.batch.as_mut().filter(|batch| batch.len() > self.sealed) {
            let last = batch.len() - 1;
            self.bytes -= (batch.frame_mut(last).len() - head - tail) as u64;
            batch.pop();
            self.contents.pop();
        }
    }

    /// Returns whether the far end takes packets with partial checksums.
    pub(crate) fn checksums(&self) -> Checksums {
        if self.shared.partial_checksums.load(Relaxed) {
            Checksums::Partial
        } else {
            Checksums::Full
        }
    }

    /// Returns the descriptor to poll for writing. Poll [`end`](Self::end) with it.
    #[must_use]
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.shared.path.readiness()
    }

    /// Readable once the flow has ended: [`check`](Self::check) tells. It is readable,
    /// too, when the flow's [`FlowReceiver`](crate::FlowReceiver) has something to read.
    #[must_use]
    pub fn end(&self) -> BorrowedFd<'_> {
        end(&self.shared)
    }

    /// Returns whether the flow is still there.
    ///
    /// # Errors
    ///
    /// It is not, and why.
    pub fn check(&self) -> Result<(), FlowError> {
        self.shared.check()
    }

    /// Seals and sends the batch; blocks while the transport is full.
    ///
    /// # Errors
    ///
    /// The flow has ended, or the transport has failed.
    pub fn flush(&mut self) -> Result<(), FlowError> {
        while !self.try_flush()? {
            match self.sends {
                Sends::Sealed(_) => wait(&self.shared, PollFlags::OUT)?,
                Sends::InOrder { .. } | Sends::Messages { .. } => wait_for_room(&self.shared)?,
            }
        }
        Ok(())
    }

    /// Seals the batch and sends what the transport takes; whether it is all
    /// gone.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub fn try_flush(&mut self) -> Result<bool, FlowError> {
        self.shared.check()?;
        if self.batch.as_ref().is_none_or(|batch| batch.is_empty()) {
            return Ok(true);
        }
        if !matches!(self.sends, Sends::Sealed(_)) {
            return self.write_in_order();
        }
        self.seal();
        let Some(batch) = self.batch.as_mut().filter(|batch| !batch.is_empty()) else {
            return Ok(true);
        };
        match self.shared.path.send(batch) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                self.discard();
                return Err(error.into());
            }
        }
        let counters = &self.shared.counters;
        let oversize = batch.oversize() as u64;
        counters.sent_packets.fetch_add(batch.len() as u64 - oversize, Relaxed);
        counters.sent_bytes.fetch_add(self.bytes, Relaxed);
        counters.send_calls.fetch_add(batch.calls(), Relaxed);
        if oversize > 0 {
            self.met_oversize = true;
            self.known_largest = 0;
            counters.oversize.fetch_add(oversize, Relaxed);
        }
        self.shared.note_sent();
        self.discard();
        Ok(true)
    }

    /// Seals what of the batch is not sealed yet. [`try_flush`](Self::try_flush) does it
    /// too: this is for who seals for several flows before it sends on them.
    pub(crate) fn seal(&mut self) {
        let (Some(batch), Sends::Sealed(sealer)) = (&mut self.batch, &mut self.sends) else {
            return;
        };
        if batch.len() == self.sealed {
            return;
        }
        let contents = &self.contents;
        let sealed = sealer.seal_batch(batch, self.sealed, |index| contents[index]);
        self.sealed = batch.len();
        if sealer.wants_attention() {
            self.shared.call_driver();
        }
        if sealed.is_err() {
            // Lost, as on a link that is down for a moment: nothing may be
            // sealed before the next key is agreed.
            self.shared.counters.unsealed.fetch_add(batch.len() as u64, Relaxed);
            self.discard();
        }
    }

    /// Gives the batch's packets to the order of the flow; `true`: all of them.
    fn write_in_order(&mut self) -> Result<bool, FlowError> {
        let Some(batch) = &mut self.batch else { return Ok(true) };
        let (first, mut bytes) = (self.sealed, 0);
        let taken = self.shared.with_order(|order, now| {
            let mut next = first;
            while next < batch.len() {
                match order.write(now, batch.frame_mut(next)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Err(error),
                }
                bytes += batch.frame_mut(next).len() as u64;
                next += 1;
            }
            Ok(next)
        });
        self.sealed = match taken.unwrap_or(Ok(first)) {
            Ok(taken) => taken,
            Err(error) => {
                self.discard();
                return Err(error);
            }
        };
        let counters = &self.shared.counters;
        counters.sent_packets.fetch_add((self.sealed - first) as u64, Relaxed);
        counters.sent_bytes.fetch_add(bytes, Relaxed);
        let all = self.sealed == batch.len();
        if all {
            self.discard();
        }
        Ok(all)
    }

    /// Drops what of the batch has not left.
    pub(crate) fn discard(&mut self) {
        self.batch = self.batch.take().filter(|_| self.keeps_batch);
        if let Some(batch) = &mut self.batch {
            batch.clear();
        }
        self.contents.clear();
        self.sealed = 0;
        self.bytes = 0;
    }

    /// Largest packet that can be sent now, in bytes.
    #[must_use]
    pub fn largest_packet(&self) -> usize {
        if let Sends::Messages { limit } = self.sends {
            return limit.min(LARGEST_PUSHED);
        }
        self.shared.largest_frame().saturating_sub(self.overhead())
    }

    /// Largest packet that can be sent now without a batch, in bytes.
    pub(super) fn largest_sent(&self) -> usize {
        match self.sends {
            Sends::Messages { limit } => limit,
            _ => self.largest_packet(),
        }
    }

    /// Bytes around a packet in its frame.
    fn overhead(&self) -> usize {
        match &self.sends {
            Sends::Sealed(sealer) => sealer.headroom() + sealer.tailroom(),
            Sends::InOrder { overhead } => *overhead,
            Sends::Messages { .. } => 0,
        }
    }

    /// Checks that a packet of `size` bytes can be sent, as far as is known.
    pub(super) fn check_size(&mut self, size: usize) -> Result<(), FlowError> {
        if let Sends::Messages { limit: largest } = self.sends {
            return match size {
                0 => Err(FlowError::Empty),
                _ if size <= largest => Ok(()),
                _ => Err(FlowError::TooLarge { size, largest }),
            };
        }
        let frame = size + self.overhead();
        let mut largest = self.known_largest.min(self.shared.largest.load(Relaxed));
        if frame > largest {
            self.known_largest = self.shared.path.largest_frame();
            largest = self.known_largest.min(self.shared.largest.load(Relaxed));
        }
        match size {
            0 => Err(FlowError::Empty),
            _ if frame <= largest => Ok(()),
            _ => {
                let largest = largest.saturating_sub(self.overhead());
                Err(FlowError::TooLarge { size, largest })
            }
        }
    }

    /// Returns `true` if packets have been too large for the path since the last call.
    pub(crate) fn take_oversize(&mut self) -> bool {
        std::mem::take(&mut self.met_oversize)
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

    /// A handle that closes the flow from elsewhere.
    #[must_use]
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }
}

/// Readable once the flow has ended.
pub(super) fn end(shared: &Shared) -> BorrowedFd<'_> {
    // Without a descriptor to be had the end is noticed with the next packet.
    shared.wake().unwrap_or_else(|_| shared.path.readiness())
}

/// Waits until packets may be written in order, and reads meanwhile what the peer
/// says of that.
fn wait_for_room(shared: &Shared) -> Result<(), FlowError> {
    let _waiting = Waiting::new(shared, true);
    shared.read_unread();
    if shared.is_writable_in_order() {
        return Ok(());
    }
    let mut fds = [
        PollFd::from_borrowed_fd(shared.path.readiness(), PollFlags::IN),
        PollFd::from_borrowed_fd(shared.wake()?, PollFlags::IN),
    ];
    // Who receives in another thread may have read it first.
    socket::wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 }))?;
    shared.clear_wake();
    shared.check()
}

/// Blocks until the path may be ready, or the flow has changed.
pub(super) fn wait(shared: &Shared, interest: PollFlags) -> Result<(), FlowError> {
    let path = shared.path.readiness();
    let wake = shared.wake()?;
    let mut fds =
        [PollFd::from_borrowed_fd(path, interest), PollFd::from_borrowed_fd(wake, PollFlags::IN)];
    if shared.check().is_ok() && !shared.off_path_any.load(SeqCst) {
        socket::wait(&mut fds, None)?;
        if !fds[1].revents().is_empty() {
            shared.clear_wake();
        }
    }
    Ok(())
}

impl std::fmt::Debug for FlowSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowSender").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
