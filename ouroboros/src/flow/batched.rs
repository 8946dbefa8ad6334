//! The blocking, batched ends of a flow: what a tunnel's threads use, and what
//! [`Flow`](super::Flow) is built on.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    FlowCloser, FlowInfo,
    shared::{FlowStatistics, Shared, milliseconds},
};
use crate::{
    error::FlowError,
    proto::protection::{Content, Opened, Opener, Sealer},
    sys::socket,
    transport::{ReceiveBatch, SendBatch},
    tun::offload::{Checksums, Ecn},
};

/// Room for one 64 KiB super-packet cut into frames, more than twice over.
const BATCH: usize = 192 * 1024;
/// How long nobody may read what is there to be read, in milliseconds, before a
/// sender that waits for a new key says so.
const UNREAD: u64 = 1000;
/// Eight receive-coalesced datagrams of 64 KiB, with room between them.
const RECEIVE_BATCH: usize = 8 * (64 * 1024 + 192);

/// The sending end: packets are pushed into a batch, then sealed and sent at
/// once.
pub struct FlowSender {
    shared: Arc<Shared>,
    sealer: Sealer,
    batch: SendBatch,
    /// What each frame of the batch carries.
    contents: Vec<Content>,
    /// Frames of the batch that are sealed.
    sealed: usize,
    /// Plaintext bytes in the batch.
    bytes: u64,
    met_oversize: bool,
    /// Since when, in milliseconds, nobody reads, and how often had by then.
    unread: Option<(u64, u64)>,
}

impl FlowSender {
    pub(super) fn new(shared: Arc<Shared>, sealer: Sealer) -> Self {
        let batch = SendBatch::new(shared.path.headroom(), BATCH);
        let contents = Vec::with_capacity(64);
        let (sealed, bytes, met_oversize, unread) = (0, 0, false, None);
        Self { shared, sealer, batch, contents, sealed, bytes, met_oversize, unread }
    }

    fn overhead(&self) -> usize {
        self.sealer.headroom() + self.sealer.tailroom()
    }

    /// Whether the current batch has room for a packet of `size` bytes.
    pub fn fits(&self, size: usize) -> bool {
        self.batch.fits(self.overhead() + size)
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
        let head = self.sealer.headroom();
        self.batch.push(self.overhead() + size)?;
        self.batch.mark(ecn);
        self.contents.push(content);
        self.bytes += size as u64;
        let last = self.batch.len() - 1;
        self.batch.frame_mut(last).get_mut(head..head + size)
    }

    /// Takes back the packet pushed last, if it has not been sealed yet.
    pub fn pop(&mut self) {
        if self.batch.len() > self.sealed {
            let last = self.batch.frame_mut(self.batch.len() - 1).len();
            self.bytes -= (last - self.overhead()) as u64;
            self.batch.pop();
            self.contents.pop();
        }
    }

    /// Whether the far end takes packets with partial checksums.
    pub(crate) fn checksums(&self) -> Checksums {
        if self.shared.takes_partial_checksums() { Checksums::Partial } else { Checksums::Full }
    }

    /// What to poll for writing. Poll [`end`](Self::end) with it.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.shared.path.readiness()
    }

    /// Readable once the flow has ended.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
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
    /// [`FlowError::Unread`] if new keys are due and the receiver is not read;
    /// that the flow has ended; errors of the transport.
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
        if self.batch.is_empty() {
            return Ok(true);
        }
        let contents = &self.contents;
        let sealed = self.sealer.seal_batch(&mut self.batch, self.sealed, |index| contents[index]);
        if self.sealer.wants_attention() {
            self.shared.attend();
        }
        if sealed.is_err() {
            // Lost, as on a link that is down for a moment: nothing may be
            // sealed before the next key is agreed.
            self.shared.counters.unsealed.fetch_add(self.batch.len() as u64, Relaxed);
            self.clear();
            return if self.is_unread()? { Err(FlowError::Unread) } else { Ok(true) };
        }
        self.unread = None;
        self.sealed = self.batch.len();
        match self.shared.path.send(&mut self.batch) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                self.clear();
                return Err(error.into());
            }
        }
        let counters = &self.shared.counters;
        let oversize = self.batch.oversize() as u64;
        counters.sent_packets.fetch_add(self.batch.len() as u64 - oversize, Relaxed);
        counters.sent_bytes.fetch_add(self.bytes, Relaxed);
        counters.send_calls.fetch_add(self.batch.calls(), Relaxed);
        if oversize > 0 {
            self.met_oversize = true;
            counters.oversize.fetch_add(oversize, Relaxed);
        }
        self.shared.note_sent();
        self.clear();
        Ok(true)
    }

    /// Whether something has been there to be read for a while, and nobody has
    /// read.
    fn is_unread(&mut self) -> Result<bool, FlowError> {
        let mut fds = [PollFd::from_borrowed_fd(self.shared.path.readiness(), PollFlags::IN)];
        let readable = socket::wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0;
        let (now, reads) = (milliseconds(), self.shared.counters.reads.load(Relaxed));
        let since = self.unread.filter(|(_, then)| readable && *then == reads);
        let (since, _) = *self.unread.insert(since.unwrap_or((now, reads)));
        Ok(readable && now >= since + UNREAD)
    }

    fn clear(&mut self) {
        self.batch.clear();
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
pub struct FlowReceiver {
    shared: Arc<Shared>,
    opener: Opener,
    batch: ReceiveBatch,
    /// Frames that came before the flow began, or from elsewhere.
    early: Vec<Vec<u8>>,
    packets: Vec<Opened>,
    /// Next packet for [`next_packet`](Self::next_packet).
    next: usize,
    /// The batch was received by [`look`](Self::look), and nobody has had
    /// anything of it.
    looked: bool,
}

impl FlowReceiver {
    pub(super) fn new(shared: Arc<Shared>, opener: Opener, early: Vec<Vec<u8>>) -> Self {
        Self {
            shared,
            opener,
            batch: ReceiveBatch::new(RECEIVE_BATCH),
            early,
            packets: Vec::with_capacity(64),
            next: 0,
            looked: false,
        }
    }

    /// Blocks until there is at least one packet; how many there are. They
    /// stay valid until the next call.
    pub fn receive(&mut self) -> Result<usize, FlowError> {
        loop {
            match self.try_receive()? {
                0 => wait(&self.shared, PollFlags::IN)?,
                count => return Ok(count),
            }
        }
    }

    /// Receives what is there now; 0 if that is nothing.
    pub fn try_receive(&mut self) -> Result<usize, FlowError> {
        self.shared.check()?;
        if std::mem::take(&mut self.looked) {
            return Ok(self.packets.len());
        }
        self.packets.clear();
        self.next = 0;
        self.batch.clear();
        if let Some(control) = &self.shared.control {
            control.take_wandered(&mut self.early);
        }
        let at_home = self.early.is_empty();
        if at_home {
            match self.shared.path.receive(&mut self.batch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        } else {
            let mut end = 0;
            for frame in self.early.drain(..) {
                let range = end..end + frame.len();
                if let Some(room) = self.batch.buffer_mut().get_mut(range.clone()) {
                    room.copy_from_slice(&frame);
                    end = range.end;
                    self.batch.push(range);
                }
            }
        }
        if let Some(take) = &self.shared.strays {
            self.batch.strays().for_each(take);
        }
        self.open(at_home);
        Ok(self.packets.len())
    }

    /// Opens the batch; `at_home`: it came from the peer's own address.
    fn open(&mut self, at_home: bool) {
        let tally = self.opener.open_batch(&mut self.batch, &mut self.packets);
        let heard = tally.keepalives > 0 || !self.packets.is_empty();
        let shared = &self.shared;
        let batch = &self.batch;
        let (mut bytes, mut unawaited) = (0, 0);
        self.packets.retain(|opened| match opened.content {
            Content::Control => {
                shared.handle_control(opened, &batch.frame(opened.index)[opened.body.clone()]);
                false
            }
            content if shared.awaits(content) => {
                bytes += opened.body.len() as u64;
                !opened.body.is_empty()
            }
            _ => {
                unawaited += 1;
                false
            }
        });
        if self.opener.wants_attention() {
            shared.attend();
        }
        let counters = &shared.counters;
        counters.received_packets.fetch_add(self.packets.len() as u64, Relaxed);
        counters.received_bytes.fetch_add(bytes, Relaxed);
        counters.receive_calls.fetch_add(batch.calls(), Relaxed);
        counters.reads.fetch_add(1, Relaxed);
        if tally.unopened + unawaited > 0 {
            counters.unopened.fetch_add((tally.unopened + unawaited) as u64, Relaxed);
        }
        if heard {
            if at_home {
                shared.heard_at_home();
            }
            shared.note_heard();
        }
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

    /// Receives if no packet waits to be taken.
    pub(super) fn look(&mut self) -> Result<(), FlowError> {
        if self.next >= self.packets.len() {
            self.looked = self.try_receive()? > 0;
        }
        Ok(())
    }

    /// The next packet, from this batch or a new one; `None`: none there now.
    pub(super) fn next_packet(&mut self) -> Result<Option<&[u8]>, FlowError> {
        if self.next >= self.packets.len() && self.try_receive()? == 0 {
            return Ok(None);
        }
        self.looked = false;
        self.next += 1;
        Ok(Some(self.packet(self.next - 1)))
    }

    /// What to poll for reading. Poll [`end`](Self::end) with it.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.shared.path.readiness()
    }

    /// Readable once the flow has ended.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
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

fn wait(shared: &Shared, interest: PollFlags) -> Result<(), FlowError> {
    let path = shared.path.readiness();
    let mut fds =
        [PollFd::from_borrowed_fd(path, interest), PollFd::new(&shared.wake, PollFlags::IN)];
    socket::wait(&mut fds, None)?;
    shared.check()
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
