//! The reliable profile: a stream of bytes in each direction of a flow, none
//! lost, in order, with an end.
//!
//! A [`Stream`] is driven by who seals and sends its packets: it says what to
//! send ([`poll_transmit`](Stream::poll_transmit)), is told the packet number
//! that was used ([`on_packet_sent`](Stream::on_packet_sent)), and is given what
//! was opened ([`handle`](Stream::handle)). Not here: packet numbers, keys and
//! the replay window (`proto::native`), sockets, clocks.

mod acks;
pub mod congestion;
mod incoming;
mod interface;
mod messages;
mod notice;
mod outgoing;
mod ranges;
mod receive;
mod recovery;
mod send;
mod skipped;

use std::{collections::VecDeque, time::Duration};

use acks::Acks;
use bytes::Bytes;
use congestion::{CongestionControl, Controller};
pub use interface::{Body, CloseReason, Config, Packet, Read, SendState, Statistics, Transmit};
pub use messages::{Front, Messages, TooLarge};
use notice::Notice;
use receive::ReceiveBuffer;
use recovery::{Payload, Recovery};
use send::SendBuffer;
use skipped::Skipped;

use crate::wire::{extension, frame::MAX_REASON};

/// Bytes of a data packet's body in front of the data: the offset.
const OFFSET: usize = 4;
/// Farthest that credit may be ahead of what was read, in bytes.
const MAX_WINDOW: u64 = extension::MAX_WINDOW as u64;
/// Memory is kept to be used again only where so many bytes of it may be held.
const PLENTY: u64 = 8 << 20;
/// After so long without a packet no memory is kept for those to come.
const IDLE: Duration = Duration::from_millis(100);
/// Longest wait before a blocked sender says so again.
const MAX_BLOCKED_WAIT: Duration = Duration::from_secs(1);
/// Least that credit is ahead of what was read, in bytes, once the first was used.
const MIN_WINDOW: u64 = 4096;
/// The code of STOP and ABORT to a peer that acknowledges what was never sent.
const MADE_UP: u32 = 2;
/// Bytes that may be held in each direction whatever the [limit](Stream::set_memory_limit):
/// with less nothing would move.
const MIN_MEMORY: u64 = 32 * 1024;

/// Both directions of a reliable flow.
#[derive(Debug)]
pub struct Stream {
    config: Config,
    /// Which congestion control it has, if that is known.
    control: Option<CongestionControl>,
    recovery: Recovery,
    acks: Acks,
    send: SendBuffer,
    fin: Notice,
    abort: Notice,
    stop: Notice,
    /// The last packet of a stream that is closed: with it the peer has heard all
    /// that was acknowledged to it.
    last: Notice,
    /// Why this end closes the flow: told behind all data.
    closing: Notice,
    reason: Vec<u8>,
    /// The peer takes bytes up to this offset.
    credit: u64,
    /// When to say again that more would be sent.
    blocked: Option<(Duration, Duration)>,
    blocked_due: bool,
    receive: ReceiveBuffer,
    /// When the last packet came.
    heard: Duration,
    window: u64,
    /// The credit that was sent last, and when it was.
    granted: u64,
    granted_at: Duration,
    credit_due: bool,
    end: Option<u64>,
    aborted: Option<u32>,
    stopped: Option<u32>,
    closed: Option<CloseReason>,
    /// Packets that were handed out and have no number yet.
    unnumbered: VecDeque<Option<(u64, Payload)>>,
    skipped: Skipped,
    /// The peer has acknowledged what was never sent.
    deceived: bool,
    scratch: Vec<u8>,
    /// Bytes that may be held in each direction.
    memory_limit: u64,
    /// Bytes that may be written and not sent.
    unsent_limit: u64,
    /// Something was dropped for it, and is to be told when there is room again.
    dropped: bool,
    paced: Option<Duration>,
    /// Packets that have left one behind the other; none once they are a whole batch.
    burst: u64,
    malformed: u64,
}

impl Stream {
    /// Gives back memory that an idle stream has no use for.
    pub fn shrink(&mut self) {
        self.recovery.shrink();
        self.send.shrink();
        self.unnumbered.shrink_to_fit();
        self.scratch = Vec::new();
    }

    /// A stream whose first packet is sent at `now` or later, with the default
    /// congestion control.
    pub fn new(now: Duration, config: Config) -> Self {
        let segment = config.largest_body as u64;
        let window = congestion::initial_window(segment);
        let control = CongestionControl::default().controller(window, segment);
        let stream = Self::with_controller(now, config, control);
        Self { control: Some(CongestionControl::default()), ..stream }
    }

    /// Like [`new`](Self::new), with another congestion control.
    pub fn with_controller(now: Duration, config: Config, control: Box<dyn Controller>) -> Self {
        let Config { largest_body, initial_rtt, max_ack_delay, .. } = config;
        let recovery = Recovery::new(control, largest_body as u64, initial_rtt, max_ack_delay);
        let granted = config.window.min(MAX_WINDOW);
        Self {
            config,
            control: None,
            recovery,
            acks: Acks::default(),
            send: SendBuffer::default(),
            fin: Notice::Unused,
            abort: Notice::Unused,
            stop: Notice::Unused,
            last: Notice::Unused,
            closing: Notice::Unused,
            reason: Vec::new(),
            credit: config.peer_window,
            blocked: None,
            blocked_due: false,
            receive: ReceiveBuffer::default(),
            heard: now,
            window: granted.max(MIN_WINDOW),
            granted,
            granted_at: now,
            credit_due: false,
            end: None,
            aborted: None,
            stopped: None,
            closed: None,
            unnumbered: VecDeque::new(),
            skipped: Skipped::default(),
            deceived: false,
            scratch: Vec::new(),
            memory_limit: u64::MAX,
            unsent_limit: u64::MAX,
            dropped: false,
            paced: None,
            burst: 0,
            malformed: 0,
        }
    }

    /// Has another congestion control from now on, which begins anew; the same goes on.
    pub fn set_congestion_control(&mut self, control: CongestionControl) {
        if self.control.replace(control) == Some(control) {
            return;
        }
        let (window, segment) = (self.recovery.window(), self.config.largest_body as u64);
        self.recovery.set_controller(control.controller(window, segment));
    }

    /// Bytes that can be written before the writer has to wait.
    pub fn writable(&self) -> u64 {
        if self.send_state() != SendState::Open {
            return 0;
        }
        self.room().min(self.unsent_room())
    }

    /// Returns `true` if a writer that waits for room is to go on: a quarter of all is free,
    /// and half of what may be unsent, so that it is not woken for each acknowledgement.
    pub fn has_room(&self) -> bool {
        self.send_state() == SendState::Open
            && 4 * self.room() >= self.send_limit()
            && 2 * self.unsent_room() >= self.most_unsent()
    }

    fn room(&self) -> u64 {
        self.send_limit().saturating_sub(self.send.unacknowledged())
    }

    fn unsent_room(&self) -> u64 {
        self.most_unsent().saturating_sub(self.unsent())
    }

    /// Bytes that were written and not sent for the first time.
    pub fn unsent(&self) -> u64 {
        self.send.end() - self.send.sent()
    }

    /// Bytes that may be written and not acknowledged: four windows, for until a loss is
    /// found and made good nothing behind it can be let go of, and two round trips' data
    /// leave, which the queue that caused it makes longer.
    fn send_limit(&self) -> u64 {
        self.config.send_buffer.max(4 * self.recovery.window()).min(self.memory_limit)
    }

    /// Bytes that may be written and not sent: a window, to be sent in the next round trip.
    fn most_unsent(&self) -> u64 {
        self.config.send_buffer.max(self.recovery.window()).min(self.unsent_limit)
    }

    /// Sets how many bytes may be held in each direction from now on: credit that is not
    /// given yet and room to write follow it, and what comes beyond it is dropped, as if
    /// lost, even where credit was given. 32 KiB are always had.
    pub fn set_memory_limit(&mut self, limit: u64) {
        self.memory_limit = limit.max(MIN_MEMORY);
        let keeps = limit >= PLENTY;
        self.send.keep_spare(keeps);
        self.receive.keep_spare(keeps);
    }

    /// Sets how many bytes may be written and wait to be sent for the first time; at least 1.
    pub fn set_unsent_limit(&mut self, limit: u64) {
        self.unsent_limit = limit.max(1);
    }

    /// Bytes of memory that hold data, in both directions.
    pub fn memory(&self) -> u64 {
        self.send.held() + self.receive.memory()
    }

    /// Takes as much of `data` as may be written; how many bytes.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(usize::try_from(self.writable()).unwrap_or(usize::MAX));
        self.send.write(&data[..count]);
        count
    }

    /// Takes all of `data` if anything may be written, so that it is sent
    /// whole or not at all; returns `true` if it was taken.
    pub fn write_whole(&mut self, data: &[&[u8]]) -> bool {
        let takes = self.writable() > 0;
        if takes {
            data.iter().for_each(|part| self.send.write(part));
        }
        takes
    }

    /// As [`write_whole`](Self::write_whole), of `head` and `data` behind it, which is not
    /// copied.
    pub fn write_owned(&mut self, head: &[u8], data: Bytes) -> bool {
        let takes = self.writable() > 0;
        if takes {
            self.send.write_owned(head, data);
        }
        takes
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) {
        if self.abort == Notice::Unused {
            self.fin.raise(0);
        }
    }

    /// Finishes, and tells the peer why the flow will be closed: `code`, and the
    /// first [`MAX_REASON`] bytes of `reason`. The first reason counts.
    pub fn finish_with(&mut self, code: u32, reason: &[u8]) {
        self.finish();
        if self.closing == Notice::Unused {
            self.reason = reason[..reason.len().min(MAX_REASON)].to_vec();
            self.closing.raise(code);
        }
    }

    /// Why the peer closes the flow, if it has said so.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// Finishes, and sees to it that the peer knows what has come of its own: before
    /// the flow below is closed.
    pub fn close(&mut self) {
        self.finish();
        if self.end.is_some() {
            self.last.raise(0);
        }
    }

    /// Ends this direction at once: what was not sent is not.
    pub fn abort(&mut self, code: u32) {
        if self.send_state() != SendState::Finished {
            self.abort.raise(code);
            self.send.clear();
        }
    }

    /// Says that nothing more will be read.
    pub fn stop(&mut self, code: u32) {
        if self.end != Some(self.receive.contiguous()) && self.aborted.is_none() {
            self.stop.raise(code);
        }
        self.discard();
    }

    fn discard(&mut self) {
        self.receive.consume(usize::MAX);
        self.grant();
    }

    /// Returns how far this end's direction is.
    pub fn send_state(&self) -> SendState {
        if let Some(code) = self.abort.code() {
            return SendState::Aborted(code);
        }
        match (self.stopped, self.fin) {
            (Some(code), _) => SendState::Stopped(code),
            (None, Notice::Acked(_))
                if self.send.unacknowledged() == 0
                    && matches!(self.closing, Notice::Unused | Notice::Acked(_)) =>
            {
                SendState::Finished
            }
            (None, Notice::Unused) => SendState::Open,
            _ => SendState::Finishing,
        }
    }

    /// Takes packets of another size from now on: the path carries bodies of so many
    /// bytes; at least 512.
    pub fn set_largest_body(&mut self, size: usize) {
        let size = size.clamp(512, u16::MAX.into());
        if size != self.config.largest_body {
            self.config.largest_body = size;
            self.recovery.set_segment(size as u64);
        }
    }

    /// Has a packet number left out after some packets, as `random` says: a peer that
    /// acknowledges it acknowledges what it has not received, and the flow ends for that.
    pub fn skip_later(&mut self, random: u64) {
        self.skipped.arm(random);
    }

    /// Returns `true` if the next packet number is to be left out, and
    /// [`on_number_skipped`](Self::on_number_skipped) to be told.
    pub fn skips(&self) -> bool {
        self.skipped.is_due()
    }

    /// No packet has `number`, nor will one have it: it is higher than those before.
    pub fn on_number_skipped(&mut self, number: u64) {
        self.skipped.insert(number);
    }

    /// Returns `true` if the peer has acknowledged a number that was left out: neither
    /// direction goes on.
    pub fn is_deceived(&self) -> bool {
        self.deceived
    }

    /// Returns `true` if the peer has finished, and all that it wrote is here.
    pub fn is_complete(&self) -> bool {
        self.end == Some(self.receive.contiguous())
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> u64 {
        self.receive.available()
    }

    /// Copies what can be read to `out`, and leaves it to be read.
    pub fn peek(&self, out: &mut [u8]) -> Read {
        match self.receive.peek(out) {
            0 if out.is_empty() && self.readable() > 0 => Read::Data(0),
            0 => match (self.aborted, self.end) {
                (Some(code), _) => Read::Aborted(code),
                (None, Some(end)) if end == self.receive.read_offset() => Read::End,
                _ => Read::Blocked,
            },
            count => Read::Data(count),
        }
    }

    /// Reads into `out`.
    pub fn read(&mut self, out: &mut [u8]) -> Read {
        let read = self.peek(out);
        if let Read::Data(count) = read {
            self.consume(count);
        }
        read
    }

    /// Lets go of `count` bytes that were peeked at.
    pub fn consume(&mut self, count: usize) {
        self.receive.consume(count);
        self.grant();
    }

    /// Gives more credit when a quarter of the window was read.
    fn grant(&mut self) {
        if self.end.is_none()
            && self.receive.read_offset() + self.window >= self.granted + self.window / 4
        {
            self.credit_due = true;
        }
        let room = self.receive.held() < self.memory_limit || self.readable() < MIN_MEMORY;
        if self.dropped && room {
            // The sender is to try again, and not to wait for its timer.
            (self.dropped, self.credit_due) = (false, true);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let blocked = self.blocked.filter(|_| self.send.wants()).map(|(at, _)| at);
        let idle = self.receive.has_spare().then_some(self.heard + IDLE);
        let due = [self.acks.due(), self.recovery.poll_timeout(), blocked, self.paced, idle];
        due.into_iter().flatten().min()
    }

    /// Does what is due. [`poll_transmit`](Self::poll_transmit) follows.
    pub fn handle_timeout(&mut self, now: Duration) {
        let outcome = self.recovery.handle_timeout(now);
        self.settle(outcome);
        if self.heard + IDLE <= now {
            self.receive.release_spare();
        }
        if let Some((at, wait)) = self.blocked
            && at <= now
        {
            let wait = (2 * wait).min(MAX_BLOCKED_WAIT);
            (self.blocked, self.blocked_due) = (Some((now + wait, wait)), true);
        }
        if self.paced.is_some_and(|paced| paced <= now) {
            self.paced = None;
        }
    }

    /// Returns `true` once there is nothing left to tell the peer.
    pub fn is_drained(&self) -> bool {
        let done = match self.send_state() {
            SendState::Finished | SendState::Stopped(_) => true,
            SendState::Aborted(_) => matches!(self.abort, Notice::Acked(_)),
            SendState::Open | SendState::Finishing => false,
        };
        let last = matches!(self.last, Notice::Unused | Notice::Acked(_));
        done && last && !self.acks.is_waiting()
    }

    /// Returns how many packets were taken for lost.
    pub fn lost_packets(&self) -> u64 {
        self.recovery.lost_packets
    }

    /// Figures of now.
    pub fn statistics(&self) -> Statistics {
        let (rtt, min_rtt) = self.recovery.round_trip();
        Statistics {
            rtt,
            min_rtt,
            congestion_window: self.recovery.window(),
            rate: self.recovery.rate() as u64,
            in_flight: self.recovery.in_flight(),
            lost: self.recovery.lost_packets,
            spurious: self.recovery.spurious,
            congestion_events: self.recovery.congestion_events,
            marked: self.recovery.marked().into(),
            mtu: self.config.largest_body,
            credit: self.credit.saturating_sub(self.send.sent()),
            unacknowledged: self.send.unacknowledged(),
            held: self.receive.held(),
        }
    }

    /// Packets that account is kept of: for tests of bounds.
    pub fn packets_held(&self) -> usize {
        self.recovery.held()
    }
}

#[cfg(test)]
mod tests;
