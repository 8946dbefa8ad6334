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
mod messages;
mod ranges;
mod receive;
mod recovery;
mod send;

use std::{collections::VecDeque, time::Duration};

use acks::Acks;
use congestion::{CongestionControl, Controller};
pub use messages::{Front, Messages, TooLarge};
use receive::ReceiveBuffer;
use recovery::{Outcome, Payload, Recovery};
use send::SendBuffer;

use crate::wire::{
    extension,
    frame::{Frame, MAX_REASON, complete},
    management::Malformed,
};

/// Bytes of a data packet's body in front of the data: the offset.
const OFFSET: usize = 4;
/// Farthest that credit may be ahead of what was read, in bytes.
const MAX_WINDOW: u64 = extension::MAX_WINDOW as u64;
/// Longest wait before a blocked sender says so again.
const MAX_BLOCKED_WAIT: Duration = Duration::from_secs(1);
/// Least that credit is ahead of what was read, in bytes, once the first was used.
const MIN_WINDOW: u64 = 4096;
/// Bytes that may be held in each direction whatever the [limit](Stream::set_memory_limit):
/// with less nothing would move.
const MIN_MEMORY: u64 = 32 * 1024;

/// How an end of a stream is to be.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Largest body of a packet, in bytes; at least 512.
    pub largest_body: usize,
    /// The round trip as it is known before the first packet.
    pub initial_rtt: Duration,
    /// For how long an acknowledgement waits at most, at both ends.
    pub max_ack_delay: Duration,
    /// The credit that the peer has at first, in bytes.
    pub window: u64,
    /// How far that may grow.
    pub max_window: u64,
    /// The credit that the peer gives at first, in bytes.
    pub peer_window: u64,
    /// Bytes that may be written and not acknowledged, whatever the path.
    pub send_buffer: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            largest_body: 1200,
            initial_rtt: Duration::from_millis(100),
            max_ack_delay: Duration::from_millis(2),
            window: 256 * 1024,
            max_window: 64 * 1024 * 1024,
            peer_window: 256 * 1024,
            send_buffer: 64 * 1024,
        }
    }
}

/// What the body of a packet is (PROTOCOL.md, "Packets").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// An offset and bytes of the stream.
    Data,
    /// Frames.
    Frames,
}

/// A packet that came.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its number. The caller drops packets whose numbers were there before.
    pub number: u64,
    /// Marked with congestion experienced.
    pub marked: bool,
    /// What `bytes` is.
    pub body: Body,
    /// Its body.
    pub bytes: &'a [u8],
}

/// A packet to send: [`Stream::write_body`] writes its body.
#[derive(Debug)]
pub struct Transmit {
    /// What the body is.
    pub body: Body,
    /// Its size in bytes.
    pub size: usize,
    /// It is to leave as ECN-capable, ECT(0).
    pub ect: bool,
    data: std::ops::Range<u64>,
}

/// What reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// None now.
    Blocked,
    /// None will come: the peer has finished, and all that it wrote was read.
    End,
    /// None will come: the peer has aborted with this code.
    Aborted(u32),
}

/// How far this end's direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// More can be written.
    Open,
    /// It was finished, and the peer does not have all of it yet.
    Finishing,
    /// The peer has all of it.
    Finished,
    /// It was aborted with this code.
    Aborted(u32),
    /// The peer reads no more, for this code.
    Stopped(u32),
}

/// Why the peer has closed the flow, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The code of its application.
    pub code: u32,
    /// The reason that it gave: mostly text, maybe none.
    pub reason: Vec<u8>,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {}", self.code)?;
        if self.reason.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", String::from_utf8_lossy(&self.reason).escape_debug())
    }
}

/// Figures of a reliable flow now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Least round trip.
    pub min_rtt: Duration,
    /// Congestion window in bytes.
    pub congestion_window: u64,
    /// The pace at which packets leave, in bytes per second.
    pub rate: u64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Packets that were taken for lost.
    pub lost: u64,
    /// Of those, packets that had only been late.
    pub spurious: u64,
    /// How often the congestion window was reduced.
    pub congestion_events: u64,
    /// Packets that arrived at the peer marked with congestion experienced.
    pub marked: u64,
    /// Largest body of a packet in bytes.
    pub mtu: usize,
    /// Bytes that the peer would take now beyond what was sent.
    pub credit: u64,
    /// Bytes that were written and are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes of memory that hold what was received and not read.
    pub held: u64,
}

/// A notice that is sent until the peer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Unused,
    Due(u32),
    InFlight(u32),
    Acked(u32),
}

impl Notice {
    fn is_due(self) -> bool {
        matches!(self, Self::Due(_))
    }

    fn code(self) -> Option<u32> {
        match self {
            Self::Unused => None,
            Self::Due(code) | Self::InFlight(code) | Self::Acked(code) => Some(code),
        }
    }

    fn raise(&mut self, code: u32) {
        if *self == Self::Unused {
            *self = Self::Due(code);
        }
    }

    fn sent(&mut self) {
        if let Self::Due(code) = *self {
            *self = Self::InFlight(code);
        }
    }

    fn acked(&mut self) {
        if let Some(code) = self.code() {
            *self = Self::Acked(code);
        }
    }

    fn lost(&mut self) {
        if let Self::InFlight(code) = *self {
            *self = Self::Due(code);
        }
    }
}

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
    scratch: Vec<u8>,
    /// Bytes that may be held in each direction.
    memory_limit: u64,
    /// Something was dropped for it, and is to be told when there is room again.
    dropped: bool,
    paced: Option<Duration>,
    malformed: u64,
}

impl Stream {
    /// A stream whose first packet is sent at `now` or later, with CUBIC.
    pub fn new(now: Duration, config: Config) -> Self {
        let segment = config.largest_body as u64;
        let packets = if config.initial_rtt < Duration::from_millis(5) { 32 } else { 10 };
        let control = CongestionControl::default().controller(packets * segment, segment);
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
            window: granted.max(MIN_WINDOW),
            granted,
            granted_at: now,
            credit_due: false,
            end: None,
            aborted: None,
            stopped: None,
            closed: None,
            unnumbered: VecDeque::new(),
            scratch: Vec::new(),
            memory_limit: u64::MAX,
            dropped: false,
            paced: None,
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
        let limit = self.config.send_buffer.max(2 * self.recovery.window());
        let limit = limit.min(self.memory_limit);
        limit.saturating_sub(self.send.unacknowledged())
    }

    /// Sets how many bytes may be held in each direction from now on: credit that is not
    /// given yet and room to write follow it, and what comes beyond it is dropped, as if
    /// lost, even where credit was given. 32 KiB are always had.
    pub fn set_memory_limit(&mut self, limit: u64) {
        self.memory_limit = limit.max(MIN_MEMORY);
    }

    /// Bytes of memory that hold data, in both directions.
    pub fn memory(&self) -> u64 {
        self.send.held() + self.receive.held()
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

    /// How far this end's direction is.
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
            let delay = self.config.max_ack_delay.min((rtt / 4).max(Duration::from_micros(250)));
            at_once |= self.receive.has_gaps();
            self.acks.insert(now, number, (eliciting, at_once, marked), delay);
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

    fn settle(&mut self, outcome: Outcome) {
        for payload in outcome.acked {
            self.send.on_acked(payload.data);
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

    fn lost(&mut self, payload: Payload) {
        if self.abort == Notice::Unused && self.stopped.is_none() {
            self.send.on_lost(payload.data);
        }
        payload.fin.then(|| self.fin.lost());
        payload.abort.then(|| self.abort.lost());
        payload.stop.then(|| self.stop.lost());
        payload.last.then(|| self.last.lost());
        payload.close.then(|| self.closing.lost());
    }

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
        if work && let Err(paced) = self.recovery.may_send(now, largest as u64) {
            self.paced = paced;
            work = false;
        }
        let ack = self.acks.due().is_some_and(|due| due <= now)
            || (work && (self.acks.is_waiting() || self.fin_due() || self.last.is_due()));
        if ack {
            self.acks.write(now, &mut self.scratch);
        }
        if self.credit_due {
            self.extend(now);
        }
        let mut payload = Payload::default();
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
        Some(Transmit { body, size, ect: self.recovery.ect(), data })
    }

    /// Gives the peer new credit, and more of it if it has used half of the
    /// last within two round trips.
    fn extend(&mut self, now: Duration) {
        self.credit_due = false;
        let (rtt, _) = self.recovery.round_trip();
        let read = self.receive.read_offset();
        self.window = self.window.min(self.memory_limit);
        if read + self.window > self.granted {
            if now.saturating_sub(self.granted_at) < 2 * rtt {
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

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let blocked = self.blocked.filter(|_| self.send.wants()).map(|(at, _)| at);
        let due = [self.acks.due(), self.recovery.poll_timeout(), blocked, self.paced];
        due.into_iter().flatten().min()
    }

    /// Does what is due. [`poll_transmit`](Self::poll_transmit) follows.
    pub fn handle_timeout(&mut self, now: Duration) {
        let outcome = self.recovery.handle_timeout(now);
        self.settle(outcome);
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
