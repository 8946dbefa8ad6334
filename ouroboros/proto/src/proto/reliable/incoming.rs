//! Received packets: their frames, and the fate of packets that were sent. Not here: the
//! packets that leave for it (`outgoing`).

use std::time::Duration;

use super::{
    Body, CloseReason, MADE_UP, MAX_WINDOW, MIN_MEMORY, Notice, OFFSET, Packet, SendState, Stream,
    recovery::{Outcome, Payload},
};
use crate::wire::{
    frame::{Ack, Frame, complete},
    management::Malformed,
};

impl Stream {
    /// Handles a packet whose number was not there before.
    ///
    /// # Errors
    ///
    /// It is malformed; nothing of it counts.
    pub fn handle(&mut self, now: Duration, packet: Packet<'_>) -> Result<(), Malformed> {
        let handled = self.handle_body(now, packet);
        self.malformed += u64::from(handled.is_err());
        handled
    }

    fn handle_body(&mut self, now: Duration, packet: Packet<'_>) -> Result<(), Malformed> {
        let Packet { number, marked, body, bytes } = packet;
        if !self.acks.is_new(number) {
            return Ok(());
        }
        self.heard = now;
        let (mut eliciting, mut at_once, mut taken) = (true, false, true);
        match body {
            Body::Data => {
                let (offset, data) = bytes.split_first_chunk::<OFFSET>().ok_or(Malformed)?;
                if data.is_empty() {
                    return Err(Malformed);
                }
                taken = self.take_data(u32::from_be_bytes(*offset), data);
            }
            Body::Frames => {
                let frames = Frame::parse_all(bytes)?;
                eliciting = frames.clone().any(|frame| frame.is_ack_eliciting());
                for frame in frames {
                    match frame {
                        Frame::Ack(ack) => {
                            self.check_ack(&ack)?;
                            let outcome = self.recovery.on_ack(now, &ack)?;
                            self.settle(outcome);
                        }
                        Frame::Credit(offset) => {
                            self.recovery.on_room();
                            let credit = complete(offset, self.credit);
                            if credit > self.credit && credit <= self.send.sent() + MAX_WINDOW {
                                self.credit = credit;
                                self.blocked = None;
                            }
                        }
                        Frame::Data { offset, bytes } => taken &= self.take_data(offset, bytes),
                        Frame::Fin(offset) => {
                            let end = complete(offset, self.receive.contiguous());
                            if end >= self.receive.highest() {
                                self.end.get_or_insert(end);
                            }
                            at_once = true;
                        }
                        Frame::Abort(code) => {
                            self.aborted.get_or_insert(code);
                            at_once = true;
                        }
                        Frame::Stop(code) => {
                            if self.send_state() != SendState::Finished {
                                self.stopped.get_or_insert(code);
                                self.send.clear();
                            }
                            at_once = true;
                        }
                        Frame::Blocked(_) => (self.credit_due, at_once) = (true, true),
                        Frame::Ping => at_once = true,
                        Frame::Close { code, reason } => {
                            self.closed
                                .get_or_insert_with(|| CloseReason { code, reason: reason.into() });
                            at_once = true;
                        }
                    }
                }
            }
        }
        // What was dropped counts as lost.
        if taken {
            let (rtt, _) = self.recovery.round_trip();
            let soon = (rtt / 4).max(Duration::from_micros(250));
            // Where an answer follows each packet it takes the acknowledgement along.
            let delay = match self.acks.rode_along() {
                true => self.config.max_ack_delay,
                false => self.config.max_ack_delay.min(soon),
            };
            at_once |= self.receive.has_gaps();
            self.acks.insert(now, number, (eliciting, at_once, marked), delay);
        }
        Ok(())
    }

    /// Ends both directions if a number was acknowledged that was left out. There is no data
    /// any more then, and acknowledgements are taken again, for those of the end.
    fn check_ack(&mut self, ack: &Ack<'_>) -> Result<(), Malformed> {
        let highest = self.recovery.highest().ok_or(Malformed)?;
        if !self.deceived && self.skipped.is_among(ack.ranges(highest)?) {
            self.deceived = true;
            self.stop(MADE_UP);
            self.abort(MADE_UP);
            return Err(Malformed);
        }
        Ok(())
    }

    fn take_data(&mut self, offset: u32, bytes: &[u8]) -> bool {
        let offset = complete(offset, self.receive.contiguous());
        let end = offset.saturating_add(bytes.len() as u64);
        if self.end.is_some_and(|known| end > known) {
            return false;
        }
        if self.receive.held() >= self.memory_limit
            && !self.receive.is_next(offset, end, MIN_MEMORY)
        {
            self.dropped = true;
            return false;
        }
        let taken = self.receive.insert(offset, bytes, self.granted);
        if self.stop != Notice::Unused {
            self.discard();
        }
        taken
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        for payload in outcome.acked {
            self.send.on_acked(payload.data);
            payload.ack.inspect(|largest| self.acks.on_heard(*largest));
            payload.fin.then(|| self.fin.acked());
            payload.abort.then(|| self.abort.acked());
            payload.stop.then(|| self.stop.acked());
            payload.last.then(|| self.last.acked());
            payload.close.then(|| self.closing.acked());
        }
        for payload in outcome.lost {
            self.lost(payload);
        }
    }

    pub(super) fn lost(&mut self, payload: Payload) {
        if self.abort == Notice::Unused && self.stopped.is_none() {
            self.send.on_lost(payload.data);
        }
        payload.fin.then(|| self.fin.lost());
        payload.abort.then(|| self.abort.lost());
        payload.stop.then(|| self.stop.lost());
        payload.last.then(|| self.last.lost());
        payload.close.then(|| self.closing.lost());
    }
}
