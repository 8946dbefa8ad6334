//! Receiving by a flow's handle: async, polled and blocking. Not here: who reads the
//! socket when (`drive`).

use std::{
    io,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Poll, ready},
};

use futures_lite::future;
use rustix::event::PollFlags;

use super::{
    Flow, LOOKS, batched,
    inbox::{Inbox, Taken},
    packets::Packets,
    readiness::Interest,
    shared::{Shared, Waiting},
};
use crate::{error::FlowError, sync::lock};

impl Flow {
    /// Receives one packet into `buffer` and returns its size in bytes. What else
    /// is there is read with the same system call, and handed out by later calls.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// The flow has ended, and what came before the peer closed it was received;
    /// the buffer is too small, and the packet is lost; the transport has failed.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        let size = self.receive(|inbox| copy_first(inbox, buffer)).await??;
        self.count_received(size);
        Ok(size)
    }

    /// Receives one packet.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub async fn recv_vec(&self) -> Result<Vec<u8>, FlowError> {
        let take = |inbox: &mut Inbox| {
            let packet = inbox.packets.first().map(|(bytes, _)| bytes.to_vec());
            inbox.packets.remove_first();
            packet.unwrap_or_default()
        };
        let packet = self.receive(take).await?;
        self.count_received(packet.len());
        Ok(packet)
    }

    /// Receives what is there, at least one packet, into `packets`, which lose
    /// what they held; how many there are then.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub async fn recv_many(&self, packets: &mut Packets) -> Result<usize, FlowError> {
        packets.clear();
        self.receive(|inbox| std::mem::swap(&mut inbox.packets, packets)).await?;
        self.count_received(packets.size());
        Ok(packets.len())
    }

    /// Counts bytes of a flow in order that were received: a datagram flow takes what there
    /// is, and no turns.
    fn count_received(&self, bytes: usize) {
        if self.shared.order.is_some() {
            self.pollers.reading.count(bytes);
        }
    }

    /// Receives one packet into `buffer` if there is one; its size in bytes.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, FlowError> {
        match self.shared.take(0, true, |inbox| copy_first(inbox, buffer))? {
            Taken::Packets(size) => size.map(Some),
            Taken::Nothing | Taken::Busy => Ok(None),
        }
    }

    /// [`recv`](Self::recv) as a poll function, for one task at a time.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, FlowError>> {
        ready!(self.pollers.reading.poll(context));
        let polled = self.poll_receive(context, |shared, looks| {
            shared.take(0, looks, |inbox| copy_first(inbox, buffer))
        });
        if polled.is_pending() {
            self.pollers.reading.end();
        }
        let size = ready!(polled)??;
        self.count_received(size);
        Poll::Ready(Ok(size))
    }

    /// Reads into `buffer`, whatever packets it is of; at least one byte, if `buffer`
    /// has room for it.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, FlowError>> {
        let reading = &self.pollers.reading;
        ready!(reading.poll(context));
        let read = self.poll_receive(context, |shared, looks| shared.take_bytes(looks, buffer));
        reading.count_polled(&read);
        read
    }

    /// Ready when `take` has taken something, which is told whether it is worth to look at
    /// the path: for one task at a time.
    fn poll_receive<T>(
        &self,
        context: &mut Context<'_>,
        mut take: impl FnMut(&Shared, bool) -> Result<Taken<T>, FlowError>,
    ) -> Poll<Result<T, FlowError>> {
        self.shared.polled.store(true, SeqCst);
        let polled = self.poll_taken(context, &mut take);
        if polled.is_ready() {
            self.shared.polled.store(false, SeqCst);
            self.shared.stopped_waiting();
        }
        polled
    }

    fn poll_taken<T>(
        &self,
        context: &mut Context<'_>,
        take: &mut impl FnMut(&Shared, bool) -> Result<Taken<T>, FlowError>,
    ) -> Poll<Result<T, FlowError>> {
        for _ in 0..LOOKS {
            // The end first: what changes after this is seen.
            let changed = self.poll_changes(&self.pollers.receive, context);
            let waits = self.readiness.poll_before(context, Interest::Readable)?.is_pending();
            if !waits {
                self.shared.note_told_readable();
            }
            match take(&self.shared, !waits || !self.shared.is_drained())? {
                Taken::Packets(taken) => return Poll::Ready(Ok(taken)),
                Taken::Busy => continue,
                Taken::Nothing if changed => continue,
                Taken::Nothing => {}
            }
            if waits || self.readiness.poll(context, Interest::Readable)?.is_pending() {
                return Poll::Pending;
            }
            self.shared.note_told_readable();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// [`recv`](Self::recv) for threads that may block.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_blocking(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        if self.shared.order.is_some() {
            return async_io::block_on(self.recv(buffer));
        }
        let _waiting = Waiting::new(&self.shared, true);
        loop {
            match self.shared.take(1, true, |inbox| copy_first(inbox, buffer))? {
                Taken::Packets(size) => return size,
                Taken::Busy => {}
                Taken::Nothing => batched::wait(&self.shared, PollFlags::IN)?,
            }
        }
    }

    pub(super) fn has_unread(&self) -> bool {
        !lock(&self.shared.inbox).packets.is_empty() || self.shared.is_readable_in_order()
    }

    /// Waits until the path may be readable.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.readiness.wait(Interest::Readable).await?;
        self.shared.note_told_readable();
        Ok(())
    }

    /// Gives `take` an inbox with a packet in it, when there is one.
    pub(super) async fn receive<T>(
        &self,
        take: impl FnOnce(&mut Inbox) -> T,
    ) -> Result<T, FlowError> {
        self.pollers.reading.wait().await;
        let mut take = Some(take);
        let mut attempt = || self.shared.take(1, true, |inbox| take.take().map(|take| take(inbox)));
        let _waiting = Waiting::new(&self.shared, false);
        loop {
            match attempt()? {
                Taken::Packets(Some(taken)) => return Ok(taken),
                Taken::Packets(None) | Taken::Nothing => {}
                Taken::Busy => {
                    future::yield_now().await;
                    continue;
                }
            }
            let changed = self.shared.changes();
            if self.shared.check().is_err()
                || self.shared.off_path_any.load(SeqCst)
                || self.shared.is_readable_in_order()
            {
                continue;
            }
            self.pollers.reading.end();
            future::or(self.readable(), async {
                changed.await;
                Ok(())
            })
            .await?;
        }
    }
}

fn copy_first(inbox: &mut Inbox, buffer: &mut [u8]) -> Result<usize, FlowError> {
    let Some((packet, _)) = inbox.packets.first() else { return Ok(0) };
    let size = packet.len();
    let copied = match buffer.get_mut(..size) {
        Some(slot) => {
            slot.copy_from_slice(packet);
            Ok(size)
        }
        None => Err(FlowError::BufferTooSmall { size, buffer: buffer.len() }),
    };
    inbox.packets.remove_first();
    copied
}
