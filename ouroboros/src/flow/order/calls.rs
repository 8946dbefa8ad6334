//! Calls on the order of a flow's packets: by a task in a call of the application, and by the
//! background thread. Not here: what the machine decides (`proto::frct`, `proto::reliable`).

use std::{ops::Range, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;

use super::{Order, Protocol};
use crate::{
    driver,
    error::FlowError,
    flow::{
        inbox::Reader,
        packets::Packets,
        shared::{IRRECOVERABLE, Shared, UNACKNOWLEDGED},
    },
    proto::{
        frct::Failure,
        protection::Opened,
        reliable::{Statistics, congestion::CongestionControl},
    },
    sync::lock,
    transport::ReceiveBatch,
};

/// A stream is written in packets of at most so many bytes, and so many of them at once.
const CHUNK: usize = 16_383;
const CHUNKS: usize = 4;

impl Shared {
    /// Does something with the order of the flow's packets, then what follows from
    /// it; `None`: they have none.
    pub(in crate::flow) fn with_order<T>(
        &self,
        work: impl FnOnce(&mut Order, Duration) -> T,
    ) -> Option<T> {
        self.with_order_for(Reader::Other, work)
    }

    /// As [`with_order`](Self::with_order); a caller that reads is not told that there is
    /// something to read, and one that takes it at once sends with that what there is to send.
    fn with_order_for<T>(
        &self,
        reader: Reader,
        work: impl FnOnce(&mut Order, Duration) -> T,
    ) -> Option<T> {
        let order = self.order.as_ref()?;
        let (done, news, due) = {
            let mut order = lock(order);
            let now = driver::monotonic();
            let (done, news) = order.with(now, self, reader, |order| work(order, now));
            (done, news, order.due(now))
        };
        if news.signal || (news.readable && reader == Reader::Other) {
            self.signal();
        }
        if news.drained {
            self.call_driver();
        }
        match news.failure {
            Some(Failure::Irrecoverable) => self.end(IRRECOVERABLE),
            Some(_) => self.end(UNACKNOWLEDGED),
            None => {}
        }
        // Of a flow that has ended otherwise nothing is due.
        if let Some(due) = due.filter(|_| self.check().is_ok() || self.is_closed()) {
            self.call_driver_by(due);
        }
        Some(done)
    }

    /// Gives what was opened to the order of the flow's packets, if they have one.
    pub(in crate::flow) fn take_in_order(
        &self,
        batch: &ReceiveBatch,
        opened: &mut Vec<Opened>,
        garbled: usize,
        reader: Reader,
    ) {
        if self.order.is_none() || (opened.is_empty() && garbled == 0) {
            return;
        }
        self.with_order_for(reader, |order, now| match &mut order.protocol {
            Protocol::Frct(order) => {
                for packet in opened.drain(..) {
                    let body = &batch.frame(packet.index)[packet.body];
                    order.frct.handle(now, body);
                }
                for _ in 0..garbled {
                    order.frct.handle_garbled(now);
                }
            }
            Protocol::Reliable(reliable) => {
                opened.drain(..).for_each(|packet| reliable.handle(now, batch, &packet));
            }
        });
    }

    /// Moves what is in order to `packets`, if there is nothing.
    pub(in crate::flow) fn hand_over_in_order(&self, packets: &mut Packets) {
        if self.order.is_some() && packets.is_empty() && self.is_readable_in_order() {
            let moved = self.with_order(|order, now| order.hand_over(now, packets));
            let (count, bytes) = moved.unwrap_or_default();
            self.counters.received_packets.fetch_add(count, Relaxed);
            self.counters.received_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Copies into `buffer` what is in order of a reliable flow's messages, whatever their
    /// sizes; how many bytes. `None`: nothing, or the packets are to be
    /// [handed over](Self::hand_over_in_order).
    pub(in crate::flow) fn read_in_order(&self, buffer: &mut [u8]) -> Option<usize> {
        if !self.is_in_messages || !self.is_readable_in_order() {
            return None;
        }
        let (count, bytes) = self.with_order(|order, _| match &mut order.protocol {
            Protocol::Reliable(reliable) => reliable.read_bytes(buffer),
            Protocol::Frct(_) => (0, 0),
        })?;
        self.counters.received_packets.fetch_add(count, Relaxed);
        self.counters.received_bytes.fetch_add(bytes as u64, Relaxed);
        Some(bytes).filter(|bytes| *bytes > 0)
    }

    /// When something is due by the order's clock.
    pub(in crate::flow) fn order_due(&self) -> Option<Duration> {
        lock(self.order.as_ref()?).due(driver::monotonic())
    }

    /// Returns `true` if something is due by the order's clock.
    pub(in crate::flow) fn is_order_due(&self) -> bool {
        self.order_due().is_some_and(|due| due <= driver::monotonic())
    }

    pub(in crate::flow) fn is_readable_in_order(&self) -> bool {
        self.order.as_ref().is_some_and(|order| lock(order).is_readable())
    }

    /// Returns `true` if a packet can be written in order now, or never any more.
    pub(in crate::flow) fn is_writable_in_order(&self) -> bool {
        self.order.as_ref().is_none_or(|order| lock(order).is_writable())
    }

    /// Writes what there is room for of `data` as packets of any size; how many bytes.
    pub(in crate::flow) fn write_stream(&self, data: &[u8]) -> Result<usize, FlowError> {
        self.write_chunks(data.len(), |order, now, chunk| order.write(now, &data[chunk]))
    }

    /// As [`write_stream`](Self::write_stream), without copying `data`.
    pub(in crate::flow) fn write_stream_owned(&self, data: &Bytes) -> Result<usize, FlowError> {
        self.write_chunks(data.len(), |order, now, chunk| order.write_owned(now, data.slice(chunk)))
    }

    /// Has `size` bytes written in chunks, while each is taken; how many bytes were.
    fn write_chunks(
        &self,
        size: usize,
        mut write: impl FnMut(&mut Order, Duration, Range<usize>) -> Result<bool, FlowError>,
    ) -> Result<usize, FlowError> {
        self.check()?;
        let written = self.with_order(|order, now| {
            let limit = order
                .message_limit()
                .unwrap_or_else(|| self.largest_frame().saturating_sub(order.overhead()));
            let (mut count, mut packets) = (0, 0);
            while count < size && packets < CHUNKS {
                let end = size.min(count + limit.clamp(1, CHUNK));
                match write(order, now, count..end) {
                    Ok(true) => (count, packets) = (end, packets + 1),
                    Ok(false) => break,
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok((count, packets))
        });
        let (count, packets) = written.unwrap_or(Ok((0, 0)))?;
        self.counters.sent_packets.fetch_add(packets as u64, Relaxed);
        self.counters.sent_bytes.fetch_add(count as u64, Relaxed);
        Ok(count)
    }

    /// Writes a packet in order; `false`: there is no room now.
    pub(in crate::flow) fn write_in_order(&self, packet: &[u8]) -> Result<bool, FlowError> {
        self.check()?;
        let written = self.with_order(|order, now| order.write(now, packet));
        let written = written.unwrap_or(Ok(false))?;
        if written {
            self.counters.sent_packets.fetch_add(1, Relaxed);
            self.counters.sent_bytes.fetch_add(packet.len() as u64, Relaxed);
        }
        Ok(written)
    }

    /// Fails if all that the peer sent in order was read, and no more will come.
    pub(in crate::flow) fn check_end_of_reading(&self) -> Result<(), FlowError> {
        let end = self.order.as_ref().and_then(|order| lock(order).end_of_reading());
        end.map_or(Ok(()), Err)
    }

    /// Why the peer has closed the flow, if it said so and all that it sent is here.
    pub(in crate::flow) fn closed_with(&self) -> Option<FlowError> {
        let Protocol::Reliable(reliable) = &lock(self.order.as_ref()?).protocol else {
            return None;
        };
        let reason = reliable.stream().close_reason().filter(|_| reliable.stream().is_complete());
        reason.cloned().map(FlowError::ClosedWith)
    }

    /// Says that nothing more is written, and whether the peer has all that was.
    pub(in crate::flow) fn finish_order(&self) -> Result<bool, FlowError> {
        self.with_order(|order, _| {
            order.finish();
            order.is_finished()
        })
        .unwrap_or(Ok(true))
    }

    /// Finishes, and tells the peer why; whether the peer has all of it.
    pub(in crate::flow) fn finish_order_with(
        &self,
        code: u32,
        reason: &[u8],
    ) -> Result<bool, FlowError> {
        self.with_order(|order, _| {
            match &mut order.protocol {
                Protocol::Reliable(reliable) => reliable.stream_mut().finish_with(code, reason),
                Protocol::Frct(_) => order.finish(),
            }
            order.is_finished()
        })
        .unwrap_or(Ok(true))
    }

    /// Says that nothing more is read, with an application's code.
    pub(in crate::flow) fn stop_order(&self, code: u32) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().stop(code);
            }
        });
    }

    /// Has another congestion control from now on.
    pub(in crate::flow) fn set_congestion_control(&self, control: CongestionControl) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().set_congestion_control(control);
            }
        });
    }

    /// Sets how many bytes may be written and not sent.
    pub(in crate::flow) fn set_unsent_limit(&self, limit: u64) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().set_unsent_limit(limit);
            }
        });
    }

    /// Sets for how long the flow goes on once it is closed.
    pub(in crate::flow) fn set_linger(&self, linger: Duration) {
        self.with_order(|order, _| order.linger = linger);
    }

    /// Figures of the reliable profile, if the flow has it.
    pub(in crate::flow) fn order_statistics(&self) -> Option<Statistics> {
        match &lock(self.order.as_ref()?).protocol {
            Protocol::Reliable(reliable) => Some(reliable.stream().statistics()),
            Protocol::Frct(_) => None,
        }
    }

    /// Ends the direction of this end at once, with an application's code.
    pub(in crate::flow) fn abort_order(&self, code: u32) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().abort(code);
            }
        });
    }

    /// Nothing more is read or written; what was written goes on.
    pub(in crate::flow) fn close_order(&self) {
        self.with_order(|order, now| order.close(now));
    }

    /// Returns `true` while a flow that was closed has packets that the peer has not
    /// acknowledged.
    pub(in crate::flow) fn lingers(&self) -> bool {
        let Some(order) = self.order.as_ref().filter(|_| self.is_closed()) else { return false };
        let order = lock(order);
        let late = |until| driver::monotonic() >= until;
        !order.is_drained() && !order.lingers_until().is_some_and(late)
    }

    /// Does what is due by the order's clock; when that is next.
    pub(in crate::flow) fn keep_order_s_time(&self) -> Option<Duration> {
        self.with_order(|order, now| order.handle_timeout(now))?;
        self.order_due()
    }
}
