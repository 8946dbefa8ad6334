//! The blocking, batched ends of a flow: what a tunnel's threads use, and what
//! [`Flow`](super::Flow) is built on.

use std::{
    io,
    ops::Range,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags};

use super::{
    handles::FlowCloser,
    info::{FlowInfo, FlowStatistics},
    pool::{self, Pooled},
    shared::{Inbox, Shared, Waiting},
};
use crate::{
    error::FlowError,
    proto::protection::{Content, Opened, Sealer},
    sync::lock,
    sys::socket,
    transport::{ReceiveBatch, SendBatch},
    tun::offload::{Checksums, Ecn},
};

/// The sending end: packets are pushed into a batch, then sealed and sent at
/// once.
pub struct FlowSender {
    shared: Arc<Shared>,
    sealer: Sealer,
    /// Taken from the pool for the first packet.
    batch: Option<Pooled<SendBatch>>,
    /// The batch is kept for the next packets.
    keeps_batch: bool,
    /// What each frame of the batch carries.
    contents: Vec<Content>,
    /// Frames of the batch that are sealed.
    sealed: usize,
    /// Plaintext bytes in the batch.
    bytes: u64,
    met_oversize: bool,
}

impl FlowSender {
    pub(super) fn new(shared: Arc<Shared>, sealer: Sealer) -> Self {
        let (batch, keeps_batch, contents) = (None, false, Vec::new());
        let (sealed, bytes, met_oversize) = (0, 0, false);
        Self { shared, sealer, batch, keeps_batch, contents, sealed, bytes, met_oversize }
    }

    /// Keeps the batch from now on: for who sends all the time.
    pub(super) fn keep_batch(&mut self) {
        self.keeps_batch = true;
    }

    fn overhead(&self) -> usize {
        self.sealer.headroom() + self.sealer.tailroom()
    }

    /// Whether the current batch has room for a packet of `size` bytes.
    pub fn fits(&self, size: usize) -> bool {
        let size = self.overhead() + size;
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
        let (head, overhead) = (self.sealer.headroom(), self.overhead());
        let batch = self.batch.get_or_insert_with(|| pool::send_batch(self.shared.path.headroom()));
        batch.push(overhead + size)?;
        batch.mark(ecn);
        self.contents.push(content);
        self.bytes += size as u64;
        let last = batch.len() - 1;
        batch.frame_mut(last).get_mut(head..head + size)
    }

    /// Takes back the packet pushed last, if it has not been sealed yet.
    pub fn pop(&mut self) {
        let overhead = self.overhead();
        if let Some(batch) = self.batch.as_mut().filter(|batch| batch.len() > self.sealed) {
            let last = batch.len() - 1;
            self.bytes -= (batch.frame_mut(last).len() - overhead) as u64;
            batch.pop();
            self.contents.pop();
        }
    }

    /// Whether the far end takes packets with partial checksums.
    pub(crate) fn checksums(&self) -> Checksums {
        if self.shared.partial_checksums.load(Relaxed) {
            Checksums::Partial
        } else {
            Checksums::Full
        }
    }

    /// What to poll for writing. Poll [`end`](Self::end) with it.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.shared.path.readiness()
    }

    /// Readable once the flow has ended: [`check`](Self::check) tells. It may be
    /// readable for a moment before.
    pub fn end(&self) -> BorrowedFd<'_> {
        end(&self.shared)
    }

    /// Whether the flow is still there.
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
            wait(&self.shared, PollFlags::OUT)?;
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
        let Some(batch) = self.batch.as_mut().filter(|batch| !batch.is_empty()) else {
            return Ok(true);
        };
        let contents = &self.contents;
        let sealed = self.sealer.seal_batch(batch, self.sealed, |index| contents[index]);
        if self.sealer.wants_attention() {
            self.shared.call_driver();
        }
        if sealed.is_err() {
            // Lost, as on a link that is down for a moment: nothing may be
            // sealed before the next key is agreed.
            self.shared.counters.unsealed.fetch_add(batch.len() as u64, Relaxed);
            self.discard();
            return Ok(true);
        }
        self.sealed = batch.len();
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
            counters.oversize.fetch_add(oversize, Relaxed);
        }
        self.shared.note_sent();
        self.discard();
        Ok(true)
    }

    /// Drops what of the batch has not left.
    pub(super) fn discard(&mut self) {
        self.batch = self.batch.take().filter(|_| self.keeps_batch);
        if let Some(batch) = &mut self.batch {
            batch.clear();
        }
        self.contents.clear();
        self.sealed = 0;
        self.bytes = 0;
    }

    /// Largest packet that can be sent now, in bytes.
    pub fn largest_packet(&self) -> usize {
        self.shared.largest_frame().saturating_sub(self.overhead())
    }

    /// Whether packets have been too large for the path since the last call.
    pub(crate) fn take_oversize(&mut self) -> bool {
        std::mem::take(&mut self.met_oversize)
    }

    /// What was agreed.
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// What went over the flow so far.
    pub fn statistics(&self) -> FlowStatistics {
        self.shared.counters.statistics()
    }

    /// A handle that closes the flow from elsewhere.
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }
}

/// A packet of a batch, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Where it is in the batch's buffer.
    pub(crate) range: Range<usize>,
    pub(crate) content: Content,
    pub(crate) ecn: Ecn,
}

/// The receiving end: a batch of packets at a time, opened in place.
///
/// While nobody receives, the background thread answers the peer's control
/// packets and keeps some data: see [`Flow`](super::Flow).
pub struct FlowReceiver {
    shared: Arc<Shared>,
    /// Kept for as long as the receiver is.
    batch: Pooled<ReceiveBatch>,
    packets: Vec<Opened>,
}

impl FlowReceiver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, batch: pool::receive_batch(), packets: Vec::with_capacity(64) }
    }

    /// Blocks until there is at least one packet; how many there are. They
    /// stay valid until the next call.
    ///
    /// # Errors
    ///
    /// The flow has ended, and what came before the peer closed it was received;
    /// or the transport has failed.
    pub fn receive(&mut self) -> Result<usize, FlowError> {
        let mut waits = false;
        loop {
            let shared = self.shared.clone();
            let _waiting = waits.then(|| Waiting::new(&shared, true));
            match self.try_receive()? {
                0 if waits => wait(&shared, PollFlags::IN)?,
                // Not before this call is known to wait.
                0 => waits = true,
                count => return Ok(count),
            }
        }
    }

    /// Receives what is there now; 0 if that is nothing.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<usize, FlowError> {
        let shared = &*self.shared;
        let ended = shared.check();
        if let Err(error @ FlowError::Closed) = ended {
            return Err(error);
        }
        let mut inbox = lock(&shared.inbox);
        shared.reads.fetch_add(1, Relaxed);
        if !inbox.packets.is_empty() {
            self.packets.clear();
            self.batch.clear();
            let mut start = 0;
            while let Some((bytes, packet)) = inbox.packets.first() {
                let range = start..start + bytes.len();
                let Some(room) = self.batch.buffer_mut().get_mut(range.clone()) else { break };
                room.copy_from_slice(bytes);
                let body = 0..bytes.len();
                self.packets.push(Opened::unnumbered(self.batch.len(), packet.content, body));
                self.batch.push_marked(range.clone(), packet.ecn);
                start = range.end;
                inbox.packets.remove_first();
            }
            shared.clear_wake();
            return Ok(self.packets.len());
        }
        let Inbox { opener, early, .. } = &mut *inbox;
        let any = shared.read((opener, early), &mut self.batch, &mut self.packets)?;
        if !any {
            ended?;
        }
        Ok(self.packets.len())
    }

    /// Packet `index` of the last batch.
    ///
    /// # Panics
    ///
    /// If the batch has no such packet.
    pub fn packet(&self, index: usize) -> &[u8] {
        let opened = &self.packets[index];
        &self.batch.frame(opened.index)[opened.body.clone()]
    }

    /// Packet `index` of the last batch, and what is known of it.
    pub(crate) fn received(&self, index: usize) -> Received {
        let opened = &self.packets[index];
        let start = self.batch.range(opened.index).start;
        Received {
            range: start + opened.body.start..start + opened.body.end,
            content: opened.content,
            ecn: self.batch.ecn(opened.index),
        }
    }

    /// How long the frame received last had waited for that.
    pub(crate) fn waited(&self) -> Option<Duration> {
        self.shared.path.waited()
    }

    /// The batch's buffer, for what moves packets on in place.
    pub(crate) fn buffer_mut(&mut self) -> &mut [u8] {
        self.batch.buffer_mut()
    }

    /// The batch's buffer.
    pub(crate) fn buffer(&self) -> &[u8] {
        self.batch.buffer()
    }

    /// What to poll for reading. Poll [`end`](Self::end) with it. Who has this is
    /// taken to poll and to receive from now on; if it does not, the peer's
    /// control packets are answered late.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.set_watched();
        self.shared.path.readiness()
    }

    /// Says that whoever has this polls the path.
    pub(crate) fn set_watched(&self) {
        if !self.shared.watched_by_owner.load(Relaxed) {
            self.shared.watched_by_owner.store(true, SeqCst);
        }
    }

    /// Readable once the flow has ended:
    /// [`try_receive`](Self::try_receive) tells. It may be readable for a moment
    /// before.
    pub fn end(&self) -> BorrowedFd<'_> {
        end(&self.shared)
    }

    /// What was agreed.
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// A handle that closes the flow from elsewhere.
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }
}

/// Readable once the flow has ended.
fn end(shared: &Shared) -> BorrowedFd<'_> {
    // Without a descriptor to be had the end is noticed with the next packet.
    shared.wake().unwrap_or_else(|_| shared.path.readiness())
}

fn wait(shared: &Shared, interest: PollFlags) -> Result<(), FlowError> {
    let path = shared.path.readiness();
    let wake = shared.wake()?;
    let mut fds =
        [PollFd::from_borrowed_fd(path, interest), PollFd::from_borrowed_fd(wake, PollFlags::IN)];
    if shared.check().is_ok() {
        socket::wait(&mut fds, None)?;
        shared.clear_wake();
    }
    Ok(())
}

impl std::fmt::Debug for FlowSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowSender").field("info", &self.shared.info).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for FlowReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowReceiver").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
