//! The blocking, batched ends of a flow: what a tunnel's threads use, and what
//! [`Flow`](super::Flow) is built on.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    FlowCloser, FlowInfo,
    shared::{FlowStatistics, Shared},
};
use crate::{
    error::FlowError,
    proto::protection::{Content, Opened, Opener, Sealer},
    transport::{ReceiveBatch, SendBatch},
};

/// Room for one 64 KiB super-packet cut into frames, twice over.
const BATCH: usize = 160 * 1024;
/// Four receive-coalesced datagrams of 64 KiB.
const RECEIVE_BATCH: usize = 256 * 1024;

/// The sending end: packets are pushed into a batch, then sealed and sent at
/// once.
pub struct FlowSender {
    shared: Arc<Shared>,
    sealer: Sealer,
    batch: SendBatch,
    /// Frames of the batch that are sealed.
    sealed: usize,
    /// Plaintext bytes in the batch.
    bytes: u64,
}

impl FlowSender {
    pub(super) fn new(shared: Arc<Shared>, sealer: Sealer) -> Self {
        let batch = SendBatch::new(shared.path.headroom(), BATCH);
        Self { shared, sealer, batch, sealed: 0, bytes: 0 }
    }

    /// Room for a packet of `size` bytes in the current batch, for the caller
    /// to fill before the next call; `None` if the batch is full: flush it.
    pub fn push(&mut self, size: usize) -> Option<&mut [u8]> {
        let (head, tail) = (self.sealer.headroom(), self.sealer.tailroom());
        let frame = self.batch.push(head + size + tail)?;
        self.bytes += size as u64;
        frame.get_mut(head..head + size)
    }

    /// Takes back the packet pushed last, if it has not been sealed yet.
    pub fn pop(&mut self) {
        if self.batch.len() > self.sealed {
            let frame = self.batch.range(self.batch.len() - 1).len() - self.shared.path.headroom();
            let overhead = self.sealer.headroom() + self.sealer.tailroom();
            self.bytes -= (frame - overhead) as u64;
            self.batch.pop();
        }
    }

    /// Cuts the packet pushed last to its first `size` bytes.
    ///
    /// # Panics
    ///
    /// If it is shorter than that, or was sealed.
    pub fn shrink(&mut self, size: usize) {
        assert!(self.batch.len() > self.sealed, "only an unsealed packet can shrink");
        let frame = self.batch.range(self.batch.len() - 1).len() - self.shared.path.headroom();
        let overhead = self.sealer.headroom() + self.sealer.tailroom();
        assert!(size + overhead <= frame, "a packet cannot shrink to more than it is");
        self.bytes -= (frame - overhead - size) as u64;
        self.batch.shrink(size + overhead);
    }

    /// Readable once the flow has ended.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// Seals and sends the batch; blocks while the transport is full.
    pub fn flush(&mut self) -> Result<(), FlowError> {
        while !self.try_flush()? {
            wait(&self.shared, PollFlags::OUT)?;
        }
        Ok(())
    }

    /// Seals the batch and sends what the transport takes; whether it is all
    /// gone.
    pub fn try_flush(&mut self) -> Result<bool, FlowError> {
        self.shared.check()?;
        if self.batch.is_empty() {
            return Ok(true);
        }
        let sealed = self.sealer.seal_batch(&mut self.batch, self.sealed, |_| Content::Packet);
        if sealed.is_err() {
            // Without the next key nothing may leave: it is lost.
            self.clear();
            return Ok(true);
        }
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
        counters.oversize.fetch_add(oversize, Relaxed);
        self.shared.note_sent();
        self.clear();
        Ok(true)
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.sealed = 0;
        self.bytes = 0;
    }

    /// Largest packet that can be sent now, in bytes.
    pub fn largest_packet(&self) -> usize {
        let overhead = self.sealer.headroom() + self.sealer.tailroom();
        self.shared.path.largest_frame().saturating_sub(overhead)
    }

    /// What was agreed.
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// What went over the flow so far.
    pub fn statistics(&self) -> FlowStatistics {
        self.shared.statistics()
    }

    /// A handle that closes the flow from elsewhere.
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }
}

/// The receiving end: a batch of packets at a time, opened in place.
pub struct FlowReceiver {
    shared: Arc<Shared>,
    opener: Opener,
    batch: ReceiveBatch,
    early: Vec<Vec<u8>>,
    packets: Vec<Opened>,
    /// Next packet for [`next_packet`](Self::next_packet).
    next: usize,
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
        self.packets.clear();
        self.next = 0;
        self.batch.clear();
        if self.early.is_empty() {
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
        self.open();
        Ok(self.packets.len())
    }

    fn open(&mut self) {
        let tally = self.opener.open_batch(&mut self.batch, &mut self.packets);
        let heard = tally.keepalives > 0 || !self.packets.is_empty();
        self.packets.retain(|opened| opened.content == Content::Packet && !opened.body.is_empty());
        let bytes = self.packets.iter().map(|opened| opened.body.len() as u64).sum();
        let counters = &self.shared.counters;
        counters.received_packets.fetch_add(self.packets.len() as u64, Relaxed);
        counters.received_bytes.fetch_add(bytes, Relaxed);
        if tally.unopened > 0 {
            counters.unopened.fetch_add(tally.unopened as u64, Relaxed);
        }
        if heard {
            self.shared.note_heard();
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

    /// The next packet, from this batch or a new one; `None`: none there now.
    pub(super) fn next_packet(&mut self) -> Result<Option<&[u8]>, FlowError> {
        if self.next >= self.packets.len() && self.try_receive()? == 0 {
            return Ok(None);
        }
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
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => shared.check(),
        Err(error) => Err(io::Error::from(error).into()),
    }
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
