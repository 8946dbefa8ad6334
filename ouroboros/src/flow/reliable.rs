//! A reliable flow between two ends of this library: how its messages are sealed
//! and leave in batches. Not here: what is sent when (`proto::reliable`), who calls
//! (`order`).

use std::{io, time::Duration};

use bytes::Bytes;

use super::{
    info::FlowInfo,
    memory::Account,
    pool::{self, Pooled},
};
use crate::{
    crypto::{Entropy, SystemEntropy},
    error::FlowError,
    proto::{
        negotiation::ReliableTerms,
        protection::{Content, Opened, Sealer},
        reliable::{Body, Config, Front, Messages, Packet, SendState, Stream, TooLarge},
    },
    transport::{Path, ReceiveBatch, SendBatch},
    tun::offload::Ecn,
};

/// Packets that are sealed and sent at once, at most: one segmented send.
const BATCH: usize = 44;
/// Delay before another try to send what could not be sealed, or was not taken by the
/// transport.
const AGAIN: Duration = Duration::from_millis(1);
/// Timers are due at multiples of this: the background thread is told of one once, not
/// with each packet.
const TICK: Duration = Duration::from_millis(1);
/// How often the figures of a flow are told, at most.
const TRACED: Duration = Duration::from_secs(1);
/// For how long the path's largest frame is believed.
const BELIEVED: Duration = Duration::from_millis(200);
/// Longest round trip that is believed before one was measured (RFC 9002, section 6.2.2).
const MAX_INITIAL_RTT: Duration = Duration::from_millis(333);
/// How far the credit of a direction grows, in bytes.
const MAX_WINDOW: u64 = 64 << 20;

/// The messages of one flow, and the packets that have not left yet.
pub(super) struct Reliable {
    messages: Messages,
    contents: Vec<Content>,
    /// Sealed frames that the transport has not taken.
    unsent: Option<Pooled<SendBatch>>,
    /// The transport was full, or the keys could do no more, before this time.
    paused: Option<Duration>,
    /// Bytes that were written since packets left last.
    written: usize,
    /// More may leave, with the next step, or at this time if there is none.
    rest: Option<Duration>,
    /// Largest frame that the path carries, in bytes, and until when that is believed:
    /// to ask it is a system call.
    largest: (usize, Duration),
    account: Account,
    /// The state that was seen last.
    state: State,
    /// When the figures are told next.
    traced: Duration,
}

/// What of the state others may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) send: SendState,
    pub(super) drained: bool,
    /// The peer closes the flow, and has sent everything.
    pub(super) closed: bool,
}

impl State {
    /// Returns `true` if somebody who waits since `before`, for something else than messages
    /// to read, is to look again.
    pub(super) fn is_news_after(&self, before: Self) -> bool {
        (self.writable && !before.writable)
            || (self.drained && !before.drained)
            || (self.closed && !before.closed)
            || self.send != before.send
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

impl Reliable {
    /// `rtt`: the round trip of the allocation, if it is known.
    pub(super) fn new(now: Duration, terms: &ReliableTerms, rtt: Option<Duration>) -> Self {
        let ReliableTerms { local, remote } = terms;
        let max_ack_delay =
            Duration::from_millis(local.max_ack_delay.max(remote.max_ack_delay).into());
        let default = Config::default();
        // Somebody may have taken a while to accept it.
        let initial_rtt = rtt.map_or(default.initial_rtt, |rtt| rtt.min(MAX_INITIAL_RTT));
        let config = Config {
            initial_rtt,
            max_ack_delay,
            window: local.window.into(),
            max_window: MAX_WINDOW.max(local.window.into()),
            peer_window: remote.window.into(),
            ..default
        };
        let (readable, writable, drained, closed) = (false, true, false, false);
        let state = State { readable, writable, send: SendState::Open, drained, closed };
        let limits = (remote.message_limit as usize, local.message_limit as usize);
        let mut reliable = Self {
            messages: Messages::new(now, config, limits),
            contents: Vec::new(),
            unsent: None,
            paused: None,
            written: 0,
            rest: None,
            largest: (0, Duration::ZERO),
            account: Account::default(),
            state,
            traced: now + TRACED,
        };
        reliable.stream_mut().skip_later(random());
        // The first flight meets a limit, too.
        reliable.account();
        reliable.update_state();
        reliable
    }

    pub(super) fn stream(&self) -> &Stream {
        self.messages.stream()
    }

    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        self.messages.stream_mut()
    }

    pub(super) fn largest(&self) -> usize {
        self.messages.largest()
    }

    pub(super) fn write(&mut self, message: &[u8]) -> Result<bool, TooLarge> {
        self.account();
        let (size, taken) = (message.len(), self.messages.write(message)?);
        self.written += if taken { size } else { 0 };
        Ok(taken)
    }

    pub(super) fn write_owned(&mut self, message: Bytes) -> Result<bool, TooLarge> {
        self.account();
        let (size, taken) = (message.len(), self.messages.write_owned(message)?);
        self.written += if taken { size } else { 0 };
        Ok(taken)
    }

    /// Fails if nothing is to be written any more.
    pub(super) fn check_writing(&self) -> Result<(), FlowError> {
        if self.stream().is_deceived() {
            return Err(FlowError::Malformed);
        }
        match self.stream().send_state() {
            SendState::Open => match self.stream().close_reason() {
                // The peer receives no more.
                Some(reason) => Err(FlowError::ClosedWith(reason.clone())),
                None => Ok(()),
            },
            SendState::Stopped(code) => Err(FlowError::Stopped(code)),
            SendState::Finishing | SendState::Finished | SendState::Aborted(_) => {
                Err(FlowError::Finished)
            }
        }
    }

    pub(super) fn front(&mut self) -> Front {
        self.messages.front()
    }

    pub(super) fn read(&mut self, out: &mut [u8]) {
        self.messages.read(out);
    }

    /// Reads from the messages at the front whatever their sizes; how many were read to
    /// their ends, and how many bytes.
    pub(super) fn read_bytes(&mut self, out: &mut [u8]) -> (u64, usize) {
        self.messages.read_bytes(out)
    }

    /// Returns the state as it was seen last, and as it is.
    pub(super) fn update_state(&mut self) -> (State, State) {
        let state = State {
            readable: self.messages.front() != Front::Blocked,
            writable: self.stream().has_room(),
            send: self.messages.send_state(),
            drained: self.stream().is_drained(),
            closed: self.stream().close_reason().is_some() && self.stream().is_complete(),
        };
        (std::mem::replace(&mut self.state, state), state)
    }

    /// Takes what was opened of `batch`.
    pub(super) fn handle(&mut self, now: Duration, batch: &ReceiveBatch, opened: &Opened) {
        let body = match opened.content {
            Content::Data => Body::Data,
            Content::Frames => Body::Frames,
            _ => return,
        };
        let marked = batch.ecn(opened.index) == Ecn::Ce;
        let bytes = &batch.frame(opened.index)[opened.body.clone()];
        // Other flows may have taken room since.
        self.account();
        // What is malformed is dropped: the peer's fault, and nobody else's.
        let _ = self.messages.handle(now, Packet { number: opened.number, marked, body, bytes });
    }

    /// Gives back memory that an idle flow has no use for.
    pub(super) fn shrink(&mut self) {
        self.contents = Vec::new();
        self.stream_mut().shrink();
    }

    /// Counts what the flow holds, and learns how much it may.
    pub(super) fn account(&mut self) {
        let limit = self.account.update(self.messages.memory());
        self.stream_mut().set_memory_limit(limit);
    }

    /// Tells the figures of the flow now and then, to who traces.
    pub(super) fn trace(&mut self, now: Duration, info: &FlowInfo) {
        if !tracing::enabled!(tracing::Level::TRACE) || now < self.traced {
            return;
        }
        self.traced = now + TRACED;
        let figures = self.stream().statistics();
        tracing::trace!(
            name = %info.name,
            local = info.local.0,
            rtt = ?figures.rtt,
            min_rtt = ?figures.min_rtt,
            congestion_window = figures.congestion_window,
            rate = figures.rate,
            in_flight = figures.in_flight,
            lost = figures.lost,
            spurious = figures.spurious,
            credit = figures.credit,
            mtu = figures.mtu,
            "reliable flow"
        );
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        self.paused = self.paused.filter(|until| *until > now);
        self.stream_mut().handle_timeout(now);
    }

    pub(super) fn due(&self) -> Option<Duration> {
        let stream = self.stream().poll_timeout().into_iter().chain(self.rest).min();
        // While nothing can leave, nothing is due before that is tried again.
        let due = self.paused.map_or(stream, |until| Some(stream.map_or(until, |d| d.max(until))));
        due.map(|due| {
            let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
            Duration::from_nanos(u64::try_from(ticks * TICK.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    /// Sends what is to be sent in frames of at most `largest` bytes; returns `true` if anything
    /// left. As much leaves as was written since the last time, one batch at least, and the next
    /// one if that is the last: others who wait have their turn before the rest.
    pub(super) fn transmit(
        &mut self,
        now: Duration,
        path: &dyn Path,
        sealer: &mut Sealer,
        largest: usize,
    ) -> bool {
        if self.paused.is_some_and(|until| until > now) {
            return false;
        }
        (self.paused, self.rest) = (None, None);
        if self.largest.1 <= now {
            self.largest = (path.largest_frame(), now + BELIEVED);
        }
        let largest = largest.min(self.largest.0);
        let (head, tail) = (sealer.headroom(), sealer.tailroom());
        self.stream_mut().set_largest_body(largest.saturating_sub(head + tail));
        let batch_size = BATCH * largest.max(1);
        let mut batches = (std::mem::take(&mut self.written) / batch_size).max(1);
        let (mut sent, mut more) = (false, true);
        loop {
            if self.unsent.is_none() {
                if !more {
                    return sent;
                }
                if batches == 0 && self.stream().unsent() > batch_size as u64 {
                    self.rest = Some(now + AGAIN);
                    return sent;
                }
                more = self.fill(now, path, sealer, largest);
            }
            let Some(batch) = &mut self.unsent else { return sent };
            match path.send(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.paused = Some(now + AGAIN);
                    return sent;
                }
                // Lost like any other.
                Ok(()) | Err(_) => {
                    if batch.oversize() > 0 {
                        self.largest.1 = Duration::ZERO;
                    }
                    self.unsent = None;
                    sent = true;
                    batches = batches.saturating_sub(1);
                }
            }
        }
    }

    /// Seals the next packets into a batch, if there are any now; `true`: there may be more.
    fn fill(
        &mut self,
        now: Duration,
        path: &dyn Path,
        sealer: &mut Sealer,
        largest: usize,
    ) -> bool {
        let (head, tail) = (sealer.headroom(), sealer.tailroom());
        let Self { messages, contents, .. } = self;
        let stream = messages.stream_mut();
        let mut batch: Option<Pooled<SendBatch>> = None;
        contents.clear();
        let mut more = true;
        while contents.len() < BATCH && batch.as_ref().is_none_or(|batch| batch.fits(largest)) {
            let Some(transmit) = stream.poll_transmit(now) else {
                more = false;
                break;
            };
            let batch = batch.get_or_insert_with(|| pool::send_batch(path.headroom()));
            let size = transmit.size;
            let Some(frame) = batch.push(head + size + tail) else { break };
            stream.write_body(&transmit, &mut frame[head..head + size]);
            if transmit.ect {
                batch.mark(Ecn::Ect0);
            }
            contents.push(match transmit.body {
                Body::Data => Content::Data,
                Body::Frames => Content::Frames,
            });
        }
        let Some(mut batch) = batch else { return false };
        if stream.skips()
            && let Ok(Some(number)) = sealer.skip_number()
        {
            stream.on_number_skipped(number);
            stream.skip_later(random());
        }
        match sealer.seal_batch(&mut batch, 0, |index| contents[index]) {
            Ok(first) => {
                (first..)
                    .take(contents.len())
                    .for_each(|number| stream.on_packet_sent(now, number));
                self.unsent = Some(batch);
                more
            }
            Err(_) => {
                // Until the next key is agreed.
                stream.on_packets_unsent();
                self.paused = Some(now + AGAIN);
                false
            }
        }
    }
}
