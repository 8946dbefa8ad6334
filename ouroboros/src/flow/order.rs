//! A flow whose packets keep their order: by FRCT towards 0.23 peers, and all
//! others that know of nothing better; by the reliable profile between two that have
//! agreed on it. The machine is driven by who is in a call, and by the background
//! thread otherwise: acknowledging and repeating never wait for the application. Not
//! here: what the machine decides (`proto::frct`, `proto::reliable`).

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    info::FlowInfo,
    packets::Packets,
    pool::{self, Pooled},
    reliable::Reliable,
    shared::{CLOSED, IRRECOVERABLE, Shared, UNACKNOWLEDGED},
};
use crate::{
    crypto::SystemEntropy,
    driver,
    error::FlowError,
    proto::{
        frct::{Config, Event, Failure, Frct, RETRANSMISSION_LIMIT, Service, Transmit, inactivity},
        protection::{Content, Sealer},
        reliable::{Front, SendState, Statistics, congestion::CongestionControl},
    },
    sync::lock,
    transport::{Path, ReceiveBatch, SendBatch},
    tun::offload::Ecn,
    wire::{PeerAddress, frct::HEADER},
};

/// Longest lives of a packet that 0.23 takes for granted.
const UDP_LIFETIME: Duration = Duration::from_secs(5);
const ETHERNET_LIFETIME: Duration = Duration::from_millis(100);
/// A transport that was full is tried again after this time.
const FULL: Duration = Duration::from_millis(1);
/// Packets handed over at once; only then the peer's window opens.
const HANDED_OVER: usize = 32;
/// Bytes of them.
const HANDED_OVER_BYTES: usize = 64 * 1024;
/// A stream is written in packets of at most so many bytes, and so many of them at once.
const CHUNK: usize = 16_383;
const CHUNKS: usize = 4;
/// A flow that was closed goes on for so long at most.
const LINGER: Duration = Duration::from_secs(30);
const FRCT_LINGER: Duration = RETRANSMISSION_LIMIT;

fn packet_lifetime(peer: &PeerAddress) -> Duration {
    if let PeerAddress::Udp(_) = peer { UDP_LIFETIME } else { ETHERNET_LIFETIME }
}

/// For how long after a flow's end its endpoint is nobody else's.
pub(crate) fn reserved_after(info: &FlowInfo) -> Duration {
    Service::of(&info.qos).map_or(Duration::ZERO, |_| inactivity(packet_lifetime(&info.peer)))
}

/// The order of one flow's packets.
pub(super) struct Order {
    protocol: Protocol,
    sealer: Sealer,
    closed: Option<Duration>,
}

/// What keeps it.
enum Protocol {
    Frct(Box<FrctOrder>),
    /// The library's own, between two ends that have it.
    Reliable(Box<Reliable>),
}

/// FRCT, and what of it has not left.
struct FrctOrder {
    frct: Frct,
    /// Frames that the transport has not taken yet.
    unsent: Option<Pooled<SendBatch>>,
    /// The format has empty frames.
    nudges: bool,
}

/// What is to be told after something was done.
#[derive(Default)]
struct News {
    /// Who waits is to look again.
    signal: bool,
    /// A flow that was closed has nothing left to send.
    drained: bool,
    failure: Option<Failure>,
}

impl Order {
    /// `Err`: the flow's packets have none, and are `sealer`'s.
    pub(super) fn new(info: &FlowInfo, sealer: Sealer, native: bool) -> Result<Self, Sealer> {
        let now = driver::monotonic();
        let protocol = match (Service::of(&info.qos), &info.reliable) {
            (None, _) => return Err(sealer),
            (Some(_), Some(terms)) if native => {
                Protocol::Reliable(Box::new(Reliable::new(now, terms, info.allocation_rtt)))
            }
            (Some(service), _) => {
                let config = Config { service, packet_lifetime: packet_lifetime(&info.peer) };
                let frct = Frct::new(now, &mut SystemEntropy, config);
                Protocol::Frct(Box::new(FrctOrder { frct, unsent: None, nudges: !native }))
            }
        };
        Ok(Self { protocol, sealer, closed: None })
    }

    /// Bytes around a packet in its frame.
    pub(super) fn overhead(&self) -> usize {
        self.sealer.headroom() + HEADER + self.sealer.tailroom()
    }

    /// Largest message in bytes, if that is not the path's to say.
    pub(super) fn message_limit(&self) -> Option<usize> {
        match &self.protocol {
            Protocol::Frct(_) => None,
            Protocol::Reliable(reliable) => Some(reliable.largest()),
        }
    }

    /// Takes a packet to be sent; `false`: there is no room now.
    pub(super) fn write(&mut self, now: Duration, packet: &[u8]) -> Result<bool, FlowError> {
        match &mut self.protocol {
            Protocol::Frct(order) => Ok(order.frct.write(now, packet).is_ok()),
            Protocol::Reliable(reliable) => match reliable.stream().send_state() {
                SendState::Open => match reliable.stream().close_reason() {
                    // The peer receives no more.
                    Some(reason) => Err(FlowError::ClosedWith(reason.clone())),
                    None => Ok(reliable.write(packet)?),
                },
                SendState::Stopped(code) => Err(FlowError::Stopped(code)),
                SendState::Finishing | SendState::Finished | SendState::Aborted(_) => {
                    Err(FlowError::Finished)
                }
            },
        }
    }

    /// Moves packets to where the application finds them.
    fn hand_over(&mut self, now: Duration, packets: &mut Packets) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        while packets.len() < HANDED_OVER && packets.size() < HANDED_OVER_BYTES {
            let size = match &mut self.protocol {
                Protocol::Frct(order) => {
                    let Some(packet) = order.frct.read(now) else { break };
                    packets.push(&packet, Content::Packet, Ecn::NotEct);
                    packet.len()
                }
                Protocol::Reliable(reliable) => {
                    let Front::Message(size) = reliable.front() else { break };
                    reliable.read(packets.push_empty(size));
                    size
                }
            };
            count += 1;
            bytes += size as u64;
        }
        (count, bytes)
    }

    fn is_readable(&mut self) -> bool {
        match &mut self.protocol {
            Protocol::Frct(order) => order.frct.is_readable(),
            Protocol::Reliable(reliable) => reliable.front() != Front::Blocked,
        }
    }

    fn is_writable(&self) -> bool {
        match &self.protocol {
            Protocol::Frct(order) => order.frct.is_writable(),
            // Also to find that nothing is to be written any more.
            Protocol::Reliable(reliable) => {
                let stream = reliable.stream();
                stream.writable() > 0
                    || stream.send_state() != SendState::Open
                    || stream.close_reason().is_some()
            }
        }
    }

    /// How the peer's direction has ended, once all that came is read.
    fn end_of_reading(&mut self) -> Option<FlowError> {
        let Protocol::Reliable(reliable) = &mut self.protocol else { return None };
        match reliable.front() {
            Front::Message(_) | Front::Blocked => None,
            Front::End => Some(match reliable.stream().close_reason() {
                Some(reason) => FlowError::ClosedWith(reason.clone()),
                None => FlowError::EndOfStream,
            }),
            Front::Aborted(code) => Some(FlowError::Aborted(code)),
            Front::Malformed => Some(FlowError::Malformed),
        }
    }

    /// How far this end's direction is: `Ok(true)` if the peer has all of it.
    fn is_finished(&self) -> Result<bool, FlowError> {
        match &self.protocol {
            Protocol::Frct(order) => Ok(order.frct.is_delivered()),
            Protocol::Reliable(reliable) => match reliable.stream().send_state() {
                SendState::Finished => Ok(true),
                SendState::Open | SendState::Finishing => Ok(false),
                SendState::Aborted(_) => Err(FlowError::Finished),
                SendState::Stopped(code) => Err(FlowError::Stopped(code)),
            },
        }
    }

    fn is_drained(&self) -> bool {
        match &self.protocol {
            Protocol::Frct(order) => order.frct.is_drained(),
            Protocol::Reliable(reliable) => reliable.stream().is_drained(),
        }
    }

    fn finish(&mut self) {
        if let Protocol::Reliable(reliable) = &mut self.protocol {
            reliable.stream_mut().finish();
        }
    }

    fn close(&mut self, now: Duration) {
        self.closed.get_or_insert(now);
        match &mut self.protocol {
            Protocol::Frct(order) => order.frct.close(),
            Protocol::Reliable(reliable) => reliable.stream_mut().close(),
        }
    }

    /// A flow that was closed goes on until then at most.
    fn lingers_until(&self) -> Option<Duration> {
        let linger = match self.protocol {
            Protocol::Frct(_) => FRCT_LINGER,
            Protocol::Reliable(_) => LINGER,
        };
        self.closed.map(|closed| closed + linger)
    }

    fn handle_timeout(&mut self, now: Duration) {
        match &mut self.protocol {
            Protocol::Frct(order) => order.frct.handle_timeout(now),
            Protocol::Reliable(reliable) => reliable.handle_timeout(now),
        }
    }

    fn due(&self, now: Duration) -> Option<Duration> {
        match &self.protocol {
            Protocol::Frct(order) => {
                let unsent = order.unsent.as_ref().map(|_| now + FULL);
                [order.frct.poll_timeout(), unsent].into_iter().flatten().min()
            }
            Protocol::Reliable(reliable) => match self.lingers_until() {
                None => reliable.due(),
                Some(until) if until <= now || reliable.stream().is_drained() => None,
                Some(until) => Some(reliable.due().map_or(until, |due| due.min(until))),
            },
        }
    }

    /// Does `work` and sends what follows from it.
    fn with<T>(
        &mut self,
        now: Duration,
        shared: &Shared,
        work: impl FnOnce(&mut Self) -> T,
    ) -> (T, News) {
        let before = match &mut self.protocol {
            Protocol::Frct(_) => None,
            Protocol::Reliable(reliable) => Some(reliable.state()),
        };
        let done = work(self);
        if self.transmit(now, shared) {
            shared.note_sent();
        }
        let counters = &shared.counters;
        let mut news = News::default();
        match (&mut self.protocol, before) {
            (Protocol::Frct(order), _) => {
                let frct = order.frct.statistics();
                counters.retransmitted.store(frct.retransmitted, Relaxed);
                counters.dropped_unread.store(frct.unread, Relaxed);
                while let Some(event) = order.frct.poll() {
                    match event {
                        Event::Readable | Event::Writable => news.signal = true,
                        Event::Drained => news.drained = true,
                        Event::Failed(failure) => news.failure = Some(failure),
                    }
                }
            }
            (Protocol::Reliable(reliable), before) => {
                counters.retransmitted.store(reliable.stream().statistics().lost, Relaxed);
                // Before it is looked at what can be written.
                reliable.account();
                let after = reliable.state();
                news.signal = before.is_some_and(|before| after.is_news_after(before));
                news.drained = news.signal && after.drained;
                if let Some(reason) = reliable.stream().close_reason() {
                    let _ = shared.close_reason.set(reason.clone());
                }
                reliable.trace(now, &shared.info);
            }
        }
        (done, news)
    }

    /// Sends what is to be sent; returns `true` if anything left.
    fn transmit(&mut self, now: Duration, shared: &Shared) -> bool {
        let Self { protocol, sealer, .. } = self;
        match protocol {
            Protocol::Frct(order) => order.transmit(now, sealer, &*shared.path),
            Protocol::Reliable(reliable) => {
                let largest = shared.largest.load(Relaxed);
                let sent = reliable.transmit(now, &*shared.path, sealer, largest);
                if sealer.wants_attention() {
                    shared.call_driver();
                }
                sent
            }
        }
    }
}

impl FrctOrder {
    /// Sends what is to be sent; returns `true` if anything left.
    fn transmit(&mut self, now: Duration, sealer: &mut Sealer, path: &dyn Path) -> bool {
        let (head, tail) = (sealer.headroom(), sealer.tailroom());
        let mut sent = false;
        loop {
            let batch = self.unsent.get_or_insert_with(|| pool::send_batch(path.headroom()));
            if batch.is_empty() {
                let room = path.largest_frame();
                while batch.fits(room) {
                    let Some(transmit) = self.frct.poll_transmit(now) else { break };
                    let packet = match transmit {
                        Transmit::Keepalive if !self.nudges => continue,
                        Transmit::Keepalive => {
                            batch.push(0);
                            continue;
                        }
                        packet @ Transmit::Packet { .. } => packet,
                    };
                    let size = packet.size();
                    // Where the path has come to carry less, the packet is lost.
                    let Some(frame) = batch.push(head + size + tail) else { continue };
                    packet.write(&mut frame[head..head + size]);
                    if sealer.seal(frame, Content::Packet).is_err() {
                        batch.pop();
                    }
                }
            }
            if batch.is_empty() {
                self.unsent = None;
                return sent;
            }
            match path.send(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                // Lost like any other.
                Ok(()) | Err(_) => {
                    batch.clear();
                    sent = true;
                }
            }
        }
    }
}

impl Shared {
    /// Does something with the order of the flow's packets, then what follows from
    /// it; `None`: they have none.
    pub(super) fn with_order<T>(&self, work: impl FnOnce(&mut Order, Duration) -> T) -> Option<T> {
        let order = self.order.as_ref()?;
        let (done, news, due) = {
            let mut order = lock(order);
            let now = driver::monotonic();
            let (done, news) = order.with(now, self, |order| work(order, now));
            (done, news, order.due(now))
        };
        if news.signal {
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
    pub(super) fn take_in_order(
        &self,
        batch: &ReceiveBatch,
        opened: &mut Vec<crate::proto::protection::Opened>,
        garbled: usize,
    ) {
        if self.order.is_none() || (opened.is_empty() && garbled == 0) {
            return;
        }
        self.with_order(|order, now| match &mut order.protocol {
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
    pub(super) fn hand_over_in_order(&self, packets: &mut Packets) {
        if self.order.is_some() && packets.is_empty() && self.is_readable_in_order() {
            let moved = self.with_order(|order, now| order.hand_over(now, packets));
            let (count, bytes) = moved.unwrap_or_default();
            self.counters.received_packets.fetch_add(count, Relaxed);
            self.counters.received_bytes.fetch_add(bytes, Relaxed);
        }
    }

    pub(super) fn is_readable_in_order(&self) -> bool {
        self.order.as_ref().is_some_and(|order| lock(order).is_readable())
    }

    /// Returns `true` if a packet can be written in order now, or never any more.
    pub(super) fn is_writable_in_order(&self) -> bool {
        self.order.as_ref().is_none_or(|order| lock(order).is_writable())
    }

    /// Writes what there is room for of `data` as packets of any size; how many bytes.
    pub(super) fn write_stream(&self, data: &[u8]) -> Result<usize, FlowError> {
        self.check()?;
        let path = self.largest_frame();
        let written = self.with_order(|order, now| {
            let limit = order.message_limit().unwrap_or(path.saturating_sub(order.overhead()));
            let (mut count, mut packets) = (0, 0);
            for chunk in data.chunks(limit.clamp(1, CHUNK)).take(CHUNKS) {
                match order.write(now, chunk) {
                    Ok(true) => (count, packets) = (count + chunk.len(), packets + 1),
                    Ok(false) => break,
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok((count, packets))
        });
        let (count, packets) = written.unwrap_or(Ok((0, 0)))?;
        self.counters.sent_packets.fetch_add(packets, Relaxed);
        self.counters.sent_bytes.fetch_add(count as u64, Relaxed);
        Ok(count)
    }

    /// Writes a packet in order; `false`: there is no room now.
    pub(super) fn write_in_order(&self, packet: &[u8]) -> Result<bool, FlowError> {
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
    pub(super) fn check_end_of_reading(&self) -> Result<(), FlowError> {
        let end = self.order.as_ref().and_then(|order| lock(order).end_of_reading());
        end.map_or(Ok(()), Err)
    }

    /// Why the peer has closed the flow, if it said so and all that it sent is here.
    pub(super) fn closed_with(&self) -> Option<FlowError> {
        let Protocol::Reliable(reliable) = &lock(self.order.as_ref()?).protocol else {
            return None;
        };
        let reason = reliable.stream().close_reason().filter(|_| reliable.stream().is_complete());
        reason.cloned().map(FlowError::ClosedWith)
    }

    /// Says that nothing more is written, and whether the peer has all that was.
    pub(super) fn finish_order(&self) -> Result<bool, FlowError> {
        self.with_order(|order, _| {
            order.finish();
            order.is_finished()
        })
        .unwrap_or(Ok(true))
    }

    /// Finishes, and tells the peer why; whether the peer has all of it.
    pub(super) fn finish_order_with(&self, code: u32, reason: &[u8]) -> Result<bool, FlowError> {
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
    pub(super) fn stop_order(&self, code: u32) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().stop(code);
            }
        });
    }

    /// Has another congestion control from now on.
    pub(super) fn set_congestion_control(&self, control: CongestionControl) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().set_congestion_control(control);
            }
        });
    }

    /// Figures of the reliable profile, if the flow has it.
    pub(super) fn order_statistics(&self) -> Option<Statistics> {
        match &lock(self.order.as_ref()?).protocol {
            Protocol::Reliable(reliable) => Some(reliable.stream().statistics()),
            Protocol::Frct(_) => None,
        }
    }

    /// Ends the direction of this end at once, with an application's code.
    pub(super) fn abort_order(&self, code: u32) {
        self.with_order(|order, _| {
            if let Protocol::Reliable(reliable) = &mut order.protocol {
                reliable.stream_mut().abort(code);
            }
        });
    }

    /// Nothing more is read or written; what was written goes on.
    pub(super) fn close_order(&self) {
        self.with_order(|order, now| order.close(now));
    }

    /// Returns `true` while a flow that was closed has packets that the peer has not
    /// acknowledged.
    pub(super) fn lingers(&self) -> bool {
        let Some(order) = self.order.as_ref().filter(|_| self.is_closed()) else { return false };
        let order = lock(order);
        let late = |until| driver::monotonic() >= until;
        !order.is_drained() && !order.lingers_until().is_some_and(late)
    }

    /// Does what is due by the order's clock; when that is next.
    pub(super) fn keep_order_s_time(&self) -> Option<Duration> {
        self.with_order(|order, now| order.handle_timeout(now))?;
        let order = lock(self.order.as_ref()?);
        order.due(driver::monotonic())
    }
}

/// Those who use a flow in order. When the last is gone, the flow is closed, and
/// lingers.
pub(super) struct Owner(pub(super) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end(CLOSED);
        if self.0.lingers() {
            // Until the background thread finds that it does no longer.
            lock(&self.0.farewell).get_or_insert_with(|| self.0.clone());
            self.0.call_driver();
        }
    }
}
