//! The blocking, batched receiving end of a flow. Not here: the sending end (`batched`).

use std::{
    ops::Range,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use rustix::event::PollFlags;

use super::{
    batched::{end, wait},
    handles::FlowCloser,
    inbox::Reader,
    info::FlowInfo,
    order::Owner,
    pool::{self, Pooled},
    shared::{Shared, Waiting},
};
use crate::{
    error::FlowError,
    proto::protection::{Content, Opened},
    sync::lock,
    transport::ReceiveBatch,
    tun::offload::Ecn,
    wire::PeerAddress,
};

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
    /// Dropped first, as the sender's.
    _owner: Option<Arc<Owner>>,
    shared: Arc<Shared>,
    /// Kept until it is [released](Self::release).
    batch: Option<Pooled<ReceiveBatch>>,
    packets: Vec<Opened>,
}

impl FlowReceiver {
    pub(super) fn new(shared: Arc<Shared>, owner: Option<Arc<Owner>>) -> Self {
        Self { _owner: owner, shared, batch: None, packets: Vec::new() }
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

    /// Returns how often the peer has moved.
    pub(crate) fn moves(&self) -> u64 {
        self.shared.counters.moves.load(Relaxed)
    }

    /// Returns where the peer is.
    pub(crate) fn peer(&self) -> PeerAddress {
        *lock(&self.shared.peer)
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
        let batch = self.batch.get_or_insert_with(pool::receive_batch);
        shared.clear_wake();
        let mut inbox = lock(&shared.inbox);
        shared.reads.fetch_add(1, Relaxed);
        let mut any = true;
        if shared.order.is_some() {
            any = shared.fill(&mut inbox, usize::MAX, Reader::Caller)?.is_some();
            shared.hand_over_in_order(&mut inbox.packets);
        }
        if !inbox.packets.is_empty() {
            self.packets.clear();
            batch.clear();
            let mut start = 0;
            while let Some((bytes, packet)) = inbox.packets.first() {
                let range = start..start + bytes.len();
                let Some(room) = batch.buffer_mut().get_mut(range.clone()) else { break };
                room.copy_from_slice(bytes);
                let body = 0..bytes.len();
                self.packets.push(Opened::unnumbered(batch.len(), packet.content, body));
                batch.push_marked(range.clone(), packet.ecn);
                start = range.end;
                inbox.packets.remove_first();
            }
            let rest = !inbox.packets.is_empty() || shared.is_readable_in_order();
            if rest || ended.is_err() && shared.has_waker() {
                // No socket tells of the rest, and a waker of the end once.
                shared.signal();
            }
            return Ok(self.packets.len());
        }
        self.packets.clear();
        if shared.order.is_none() {
            any = shared.read(&mut inbox.opening, batch, &mut self.packets, Reader::Caller)?;
        }
        if !any {
            shared.check_end_of_reading()?;
            ended?;
        } else if ended.is_err() && shared.has_waker() {
            // The waker tells of the end once, unlike the descriptor.
            shared.signal();
        }
        Ok(self.packets.len())
    }

    /// Packet `index` of the last batch.
    ///
    /// # Panics
    ///
    /// If the batch has no such packet.
    #[must_use]
    pub fn packet(&self, index: usize) -> &[u8] {
        let opened = &self.packets[index];
        &self.batch().frame(opened.index)[opened.body.clone()]
    }

    /// Packet `index` of the last batch, and what is known of it.
    pub(crate) fn received(&self, index: usize) -> Received {
        let opened = &self.packets[index];
        let batch = self.batch();
        let start = batch.range(opened.index).start;
        Received {
            range: start + opened.body.start..start + opened.body.end,
            content: opened.content,
            ecn: batch.ecn(opened.index),
        }
    }

    /// Returns how long the frame received last had waited for that.
    pub(crate) fn waited(&self) -> Option<Duration> {
        self.shared.path.waited()
    }

    /// Gives the batch back until there is more to receive: for who has many
    /// receivers, most of them idle.
    pub fn release(&mut self) {
        self.batch = None;
        self.packets.clear();
    }

    fn batch(&self) -> &ReceiveBatch {
        self.batch.as_ref().expect("what was received is there until it is released")
    }

    /// The batch's buffer, for what moves packets on in place.
    pub(crate) fn buffer_mut(&mut self) -> &mut [u8] {
        self.batch.get_or_insert_with(pool::receive_batch).buffer_mut()
    }

    /// The batch's buffer.
    pub(crate) fn buffer(&self) -> &[u8] {
        self.batch().buffer()
    }

    /// Returns the descriptor to poll for reading. Poll [`end`](Self::end) with it. The caller
    /// is taken to poll and to receive from now on; if it does not, the peer's control packets
    /// are answered late.
    #[must_use]
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.set_watched();
        self.shared.path.readiness()
    }

    /// Says that whoever has this polls the path and [`end`](Self::end).
    pub(crate) fn set_watched(&self) {
        if !self.shared.watched_by_owner.load(Relaxed) {
            self.shared.watched_by_owner.store(true, SeqCst);
            // What was read for it before, no socket tells of.
            self.shared.signal();
        }
    }

    /// Readable once the flow has ended, and when there are packets that
    /// [`readiness`](Self::readiness) does not tell of: call
    /// [`try_receive`](Self::try_receive). It may be readable though there is nothing.
    #[must_use]
    pub fn end(&self) -> BorrowedFd<'_> {
        end(&self.shared)
    }

    /// Returns the agreed terms of the flow.
    #[must_use]
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// A handle that closes the flow from elsewhere.
    #[must_use]
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }
}

impl std::fmt::Debug for FlowReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowReceiver").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
