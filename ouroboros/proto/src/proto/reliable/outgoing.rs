//! Packets that leave: the next one, and what is in it. Not here: whether it may leave
//! (`recovery`).

use std::time::Duration;

use super::{
    Body, MAX_WINDOW, OFFSET, Stream, Transmit,
    recovery::{MAX_BURST, Payload},
};
use crate::wire::frame::Frame;

impl Stream {
    fn fin_due(&self) -> bool {
        self.fin.is_due() && self.send.sent() == self.send.end()
    }

    fn closing_due(&self) -> bool {
        self.closing.is_due() && self.send.sent() == self.send.end()
    }

    /// Returns `true` if there is something that asks for an acknowledgement.
    fn has_work(&self) -> bool {
        self.send.can_send(self.credit)
            || self.fin_due()
            || self.abort.is_due()
            || self.stop.is_due()
            || self.last.is_due()
            || self.closing_due()
            || self.blocked_due
            || self.recovery.probes() > 0
    }

    /// Returns `true` if there is only data to be sent, and it waits to be a batch.
    fn defers(&self) -> bool {
        let only_data = !(self.fin_due()
            || self.abort.is_due()
            || self.stop.is_due()
            || self.last.is_due()
            || self.closing_due()
            || self.blocked_due);
        only_data && self.send.unsent(self.credit).is_some_and(|bytes| self.recovery.defers(bytes))
    }

    /// The next packet to send. Its body is to be written before the next call,
    /// and [`on_packet_sent`](Self::on_packet_sent) told when it is sealed.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Transmit> {
        self.scratch.clear();
        self.paced = None;
        if self.send.wants() && !self.send.can_send(self.credit) && self.blocked.is_none() {
            let wait = self.recovery.probe_timeout();
            (self.blocked, self.blocked_due) = (Some((now + wait, wait)), true);
        }
        let largest = self.config.largest_body;
        let mut work = self.has_work();
        if !work {
            self.recovery.on_nothing_to_send();
        }
        if work && self.burst == 0 && self.defers() {
            work = false;
        }
        if work && let Err(paced) = self.recovery.may_send(now, largest as u64) {
            self.paced = paced;
            work = false;
        }
        self.burst = if work { (self.burst + 1) % MAX_BURST } else { 0 };
        let ack = self.acks.due().is_some_and(|due| due <= now)
            || (work && (self.acks.is_waiting() || self.fin_due() || self.last.is_due()));
        if ack {
            self.acks.write(now, work, &mut self.scratch);
        }
        if self.credit_due {
            self.extend(now);
        }
        let acknowledges = (ack && work).then(|| self.acks.largest());
        let mut payload = Payload { ack: acknowledges, ..Payload::default() };
        if work {
            self.gather(&mut payload, largest);
        }
        let data = payload.data.clone();
        let length = (data.end - data.start) as usize;
        let head = self.scratch.len();
        if head == 0 && length == 0 {
            return None;
        }
        let body = if head == 0 { Body::Data } else { Body::Frames };
        let size = length + if head == 0 { OFFSET } else { head };
        let eliciting = work.then(|| {
            self.recovery.on_leaving(size as u64);
            (size as u64, payload)
        });
        self.unnumbered.push_back(eliciting);
        Some(Transmit { body, size, ect: work && self.recovery.ect(), data })
    }

    /// Gives the peer new credit, and more of it if a quarter of the last was read within two
    /// round trips: what a blocked peer asks for is no reason for more.
    fn extend(&mut self, now: Duration) {
        self.credit_due = false;
        let (rtt, _) = self.recovery.round_trip();
        let read = self.receive.read_offset();
        self.window = self.window.min(self.memory_limit);
        if read + self.window > self.granted {
            let is_read = read + self.window >= self.granted + self.window / 4;
            if is_read && now.saturating_sub(self.granted_at) < 2 * rtt {
                self.window = (2 * self.window).min(self.config.max_window).min(MAX_WINDOW);
            }
            (self.granted, self.granted_at) = (read + self.window, now);
        }
        Frame::Credit(self.granted as u32).encode(&mut self.scratch);
    }

    fn gather(&mut self, payload: &mut Payload, largest: usize) {
        let scratch = &mut self.scratch;
        if self.abort.is_due() {
            Frame::Abort(self.abort.code().unwrap_or(0)).encode(scratch);
            self.abort.sent();
            payload.abort = true;
        }
        if self.stop.is_due() {
            Frame::Stop(self.stop.code().unwrap_or(0)).encode(scratch);
            self.stop.sent();
            payload.stop = true;
        }
        if self.last.is_due() {
            Frame::Ping.encode(scratch);
            self.last.sent();
            payload.last = true;
        }
        if std::mem::take(&mut self.blocked_due) {
            Frame::Blocked(self.credit as u32).encode(scratch);
        }
        // A frame of data needs room for its own head and for an end.
        let plain = scratch.is_empty() && !self.fin.is_due() && !self.closing.is_due();
        let closing = if self.closing.is_due() { Frame::CLOSE_HEAD + self.reason.len() } else { 0 };
        let head = if plain { OFFSET } else { scratch.len() + Frame::DATA_HEAD + 5 + closing };
        if let Some(data) =
            largest.checked_sub(head).and_then(|room| self.send.take(room as u64, self.credit))
        {
            payload.data = data;
        }
        if self.fin.is_due() && self.send.sent() == self.send.end() && !self.send.wants() {
            Frame::Fin(self.send.end() as u32).encode(scratch);
            self.fin.sent();
            payload.fin = true;
        }
        if self.closing.is_due() && self.send.sent() == self.send.end() && !self.send.wants() {
            let code = self.closing.code().unwrap_or(0);
            Frame::Close { code, reason: &self.reason }.encode(scratch);
            self.closing.sent();
            payload.close = true;
        }
        let size = payload.data.end - payload.data.start;
        if size > 0 && !scratch.is_empty() {
            Frame::encode_data_head(payload.data.start as u32, size as u16, scratch);
        }
        let Payload { fin, abort, stop, last, close, .. } = *payload;
        if size == 0 && !(fin || abort || stop || last || close) {
            Frame::Ping.encode(scratch);
        }
    }

    /// Writes the body of `transmit` to `out`, which has its size.
    pub fn write_body(&self, transmit: &Transmit, out: &mut [u8]) {
        let offset = (transmit.data.start as u32).to_be_bytes();
        let head = if transmit.body == Body::Data { &offset[..] } else { &self.scratch[..] };
        let (front, data) = out.split_at_mut(head.len());
        front.copy_from_slice(head);
        self.send.copy(transmit.data.clone(), data);
    }

    /// The packet that was handed out first, of those without a number, was
    /// sealed as `number` and left.
    pub fn on_packet_sent(&mut self, now: Duration, number: u64) {
        if let Some(sent) = self.unnumbered.pop_front() {
            if sent.is_some() {
                self.skipped.on_sent();
            }
            self.recovery.on_sent(now, number, sent);
        }
    }

    /// The packets that were handed out and have no number never left.
    pub fn on_packets_unsent(&mut self) {
        while let Some(unsent) = self.unnumbered.pop_front() {
            if let Some((size, payload)) = unsent {
                self.recovery.on_unsent(size);
                self.lost(payload);
            }
        }
    }
}
