//! Sending by a flow's handle: async, polled and blocking. Not here: batches
//! (`batched`).

use std::task::{Context, Poll, ready};

use event_listener::EventListener;
use futures_lite::future;
use rustix::event::PollFlags;

use super::{
    Flow,
    batched::{self, FlowSender},
    readiness::Interest,
    shared::Waiting,
};
use crate::{error::FlowError, sync::lock};

impl Flow {
    /// Sends one packet, with a system call of its own: for many at a time,
    /// [`send_many`](Self::send_many) takes a fraction of the time. Returns when the
    /// transport has taken it; the network may still lose it.
    ///
    /// Cancel safe: a packet whose future is dropped is sent or is not sent;
    /// nothing else is lost.
    ///
    /// # Errors
    ///
    /// The packet is empty or too large, the flow has ended, or the transport has
    /// failed.
    pub async fn send(&self, packet: &[u8]) -> Result<(), FlowError> {
        self.ready().await?;
        if self.shared.order.is_some() {
            lock(&self.sender).check_size(packet.len())?;
            self.pollers.writing.wait().await;
            while !self.shared.write_in_order(packet)? {
                self.writable().await?;
            }
            self.pollers.writing.count(packet.len());
            return Ok(());
        }
        while !self.push(packet)? {
            self.writable().await?;
        }
        self.flush().await
    }

    /// Sends packets, many with one system call; how many. Returns when the
    /// transport has taken them; the network may still lose some.
    ///
    /// Cancel safe: of packets whose future is dropped, the first ones are sent;
    /// nothing else is lost.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), of the first packet that cannot be sent. Those
    /// before it have been sent, or will be with the next.
    pub async fn send_many<P: AsRef<[u8]>>(
        &self,
        packets: impl IntoIterator<Item = P>,
    ) -> Result<usize, FlowError> {
        self.ready().await?;
        let mut packets = packets.into_iter();
        if self.shared.order.is_some() {
            let mut count = 0;
            for packet in packets {
                self.send(packet.as_ref()).await?;
                count += 1;
            }
            return Ok(count);
        }
        let (mut count, mut next) = (0, packets.next());
        while next.is_some() {
            {
                let mut sender = lock(&self.sender);
                while let Some(packet) = &next {
                    if !self.push_to(&mut sender, packet.as_ref())? {
                        break;
                    }
                    count += 1;
                    next = packets.next();
                }
            }
            self.flush().await?;
        }
        Ok(count)
    }

    /// Sends one packet if that is possible at once. `false`: the transport is
    /// full, or the flow's first keys are not agreed yet, and nothing was sent.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn try_send(&self, packet: &[u8]) -> Result<bool, FlowError> {
        if !self.is_ready()? {
            return Ok(false);
        }
        let mut sender = lock(&self.sender);
        if self.shared.order.is_some() {
            sender.check_size(packet.len())?;
            return self.shared.write_in_order(packet);
        }
        if !sender.try_flush()? || !self.push_to(&mut sender, packet)? {
            return Ok(false);
        }
        let sent = sender.try_flush()?;
        if !sent {
            // The caller still has it.
            sender.discard();
        }
        Ok(sent)
    }

    /// [`send`](Self::send) as a poll function, for one task at a time.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn poll_send(
        &self,
        context: &mut Context<'_>,
        packet: &[u8],
    ) -> Poll<Result<(), FlowError>> {
        if self.shared.order.is_some() {
            let writing = &self.pollers.writing;
            ready!(writing.poll(context));
            let sent = self.poll_send_in_order(context, packet);
            writing.count_polled(&sent);
            return sent.map_ok(|_| ());
        }
        loop {
            if self.try_send(packet)? {
                return Poll::Ready(Ok(()));
            }
            let changed = self.poll_changes(&self.pollers.send, context);
            if self.is_ready()? {
                if !changed && self.readiness.poll(context, Interest::Writable)?.is_pending() {
                    return Poll::Pending;
                }
            } else if !changed {
                return Poll::Pending;
            }
        }
    }

    /// Ready with the packet's size when the peer's window takes it.
    fn poll_send_in_order(
        &self,
        context: &mut Context<'_>,
        packet: &[u8],
    ) -> Poll<Result<usize, FlowError>> {
        loop {
            if self.try_send(packet)? {
                return Poll::Ready(Ok(packet.len()));
            }
            if !self.poll_changes(&self.pollers.send, context) {
                // It may have opened before this task was to be told.
                return match self.try_send(packet)? {
                    true => Poll::Ready(Ok(packet.len())),
                    false => Poll::Pending,
                };
            }
        }
    }

    /// [`send`](Self::send) for threads that may block.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_blocking(&self, packet: &[u8]) -> Result<(), FlowError> {
        if self.shared.order.is_some() {
            return async_io::block_on(self.send(packet));
        }
        if !self.is_ready()? {
            future::block_on(self.ready())?;
        }
        while !self.push(packet)? {
            batched::wait(&self.shared, PollFlags::OUT)?;
        }
        while !lock(&self.sender).try_flush()? {
            batched::wait(&self.shared, PollFlags::OUT)?;
        }
        Ok(())
    }

    /// Puts a packet into the sender's batch; `false`: it is full.
    fn push(&self, packet: &[u8]) -> Result<bool, FlowError> {
        let mut sender = lock(&self.sender);
        Ok(self.push_to(&mut sender, packet)?
            || (sender.try_flush()? && self.push_to(&mut sender, packet)?))
    }

    fn push_to(&self, sender: &mut FlowSender, packet: &[u8]) -> Result<bool, FlowError> {
        sender.check_size(packet.len())?;
        let Some(slot) = sender.push(packet.len()) else { return Ok(false) };
        slot.copy_from_slice(packet);
        Ok(true)
    }

    async fn flush(&self) -> Result<(), FlowError> {
        while !lock(&self.sender).try_flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    async fn writable(&self) -> Result<(), FlowError> {
        let changed = self.shared.changes();
        self.shared.check()?;
        if self.shared.order.is_some() {
            return self.writable_in_order(changed).await;
        }
        let ready = self.readiness.wait(Interest::Writable);
        future::or(async { Ok(ready.await?) }, async {
            changed.await;
            Ok(())
        })
        .await
    }

    /// Waits until a packet may be written in order, and reads meanwhile what the
    /// peer says of that.
    async fn writable_in_order(&self, changed: EventListener) -> Result<(), FlowError> {
        let _waiting = Waiting::new(&self.shared, false);
        self.shared.read_unread();
        if self.shared.is_writable_in_order() {
            return Ok(());
        }
        self.pollers.writing.end();
        future::or(async { Ok(self.readable().await?) }, async {
            changed.await;
            Ok(())
        })
        .await
    }
}
