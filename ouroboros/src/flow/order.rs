//! A flow whose packets keep their order: by FRCT towards 0.23 peers, and all
//! others that know of nothing better; by the reliable profile between two that have
//! agreed on it. The machine is driven by who is in a call, and by the background
//! thread otherwise: acknowledging and repeating never wait for the application. Not
//! here: what the machine decides (`proto::frct`, `proto::reliable`).

mod calls;
mod frct;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use frct::FrctOrder;

use super::{
    inbox::Reader,
    info::FlowInfo,
    packets::Packets,
    reliable::Reliable,
    shared::{CLOSED, Shared},
};
use crate::{
    crypto::SystemEntropy,
    driver,
    error::FlowError,
    proto::{
        frct::{Config, Event, Failure, Frct, RETRANSMISSION_LIMIT, Service, inactivity},
        protection::{Content, Sealer},
        reliable::{Front, SendState},
    },
    sync::lock,
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
/// A flow that was closed goes on for so long at most, unless it is told otherwise.
const LINGER: Duration = Duration::from_secs(30);
const FRCT_LINGER: Duration = RETRANSMISSION_LIMIT;

fn packet_lifetime(peer: &PeerAddress) -> Duration {
    if let PeerAddress::Udp(_) = peer { UDP_LIFETIME } else { ETHERNET_LIFETIME }
}

/// For how long after a flow's end its endpoint is nobody else's: for as long as a peer
/// with FRCT goes on sending.
pub(crate) fn reserved_after(info: &FlowInfo) -> Duration {
    if Service::of(&info.qos).is_none() || info.ordered || info.reliable.is_some() {
        return Duration::ZERO;
    }
    inactivity(packet_lifetime(&info.peer))
}

/// The order of one flow's packets.
pub(super) struct Order {
    protocol: Protocol,
    sealer: Sealer,
    closed: Option<Duration>,
    /// For how long it goes on at most once it is closed.
    linger: Duration,
}

/// The protocol that keeps the order.
enum Protocol {
    Frct(Box<FrctOrder>),
    /// The library's own, between two ends that have it.
    Reliable(Box<Reliable>),
}

/// The events to report after a step of the machine.
#[derive(Default)]
struct News {
    /// Tasks that wait for something else than packets to read are to look again.
    signal: bool,
    /// There are packets to read.
    readable: bool,
    /// A flow that was closed has nothing left to send.
    drained: bool,
    failure: Option<Failure>,
}

impl Order {
    /// `Err`: the flow's packets have none or keep it by their numbers, and are `sealer`'s.
    pub(super) fn new(info: &FlowInfo, sealer: Sealer, native: bool) -> Result<Self, Sealer> {
        let now = driver::monotonic();
        let protocol = match (Service::of(&info.qos), &info.reliable) {
            (None, _) => return Err(sealer),
            (Some(_), _) if native && info.ordered => return Err(sealer),
            (Some(_), Some(terms)) if native => {
                Protocol::Reliable(Box::new(Reliable::new(now, terms, info.allocation_rtt)))
            }
            (Some(service), _) => {
                let config = Config { service, packet_lifetime: packet_lifetime(&info.peer) };
                let frct = Frct::new(now, &mut SystemEntropy, config);
                Protocol::Frct(Box::new(FrctOrder { frct, unsent: None, nudges: !native }))
            }
        };
        let linger = match protocol {
            Protocol::Frct(_) => FRCT_LINGER,
            Protocol::Reliable(_) => LINGER,
        };
        Ok(Self { protocol, sealer, closed: None, linger })
    }

    /// Gives back memory that an idle flow has no use for.
    pub(super) fn shrink(&mut self) {
        self.sealer.rest();
        if let Protocol::Reliable(reliable) = &mut self.protocol {
            reliable.shrink();
        }
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
            Protocol::Reliable(reliable) => {
                reliable.check_writing()?;
                Ok(reliable.write(packet)?)
            }
        }
    }

    /// As [`write`](Self::write), without a copy where the protocol can do without.
    fn write_owned(&mut self, now: Duration, packet: Bytes) -> Result<bool, FlowError> {
        match &mut self.protocol {
            Protocol::Frct(_) => self.write(now, &packet),
            Protocol::Reliable(reliable) => {
                reliable.check_writing()?;
                Ok(reliable.write_owned(packet)?)
            }
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

    /// Returns how the peer's direction has ended, once all that came is read.
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

    /// Returns how far this end's direction is: `Ok(true)` if the peer has all of it.
    fn is_finished(&self) -> Result<bool, FlowError> {
        match &self.protocol {
            Protocol::Frct(order) => Ok(order.frct.is_delivered()),
            Protocol::Reliable(reliable) => match reliable.stream().send_state() {
                _ if reliable.stream().is_deceived() => Err(FlowError::Malformed),
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
            Protocol::Frct(order) => order.frct.close(now),
            Protocol::Reliable(reliable) => reliable.stream_mut().close(),
        }
    }

    /// A flow that was closed goes on until then at most.
    fn lingers_until(&self) -> Option<Duration> {
        self.closed.map(|closed| closed + self.linger)
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

    /// Does `work` for `reader` and sends what follows from it, unless `reader` is about to
    /// take what can be read.
    fn with<T>(
        &mut self,
        now: Duration,
        shared: &Shared,
        reader: Reader,
        work: impl FnOnce(&mut Self) -> T,
    ) -> (T, News) {
        let done = work(self);
        let taken = reader == Reader::Taker && self.is_readable();
        if !taken && self.transmit(now, shared) {
            shared.note_sent();
        }
        let counters = &shared.counters;
        let mut news = News::default();
        match &mut self.protocol {
            Protocol::Frct(order) => {
                let frct = order.frct.statistics();
                counters.retransmitted.store(frct.retransmitted, Relaxed);
                counters.dropped_unread.store(frct.unread, Relaxed);
                while let Some(event) = order.frct.poll() {
                    match event {
                        Event::Readable => news.readable = true,
                        Event::Writable => news.signal = true,
                        Event::Drained => news.drained = true,
                        Event::Failed(failure) => news.failure = Some(failure),
                    }
                }
            }
            Protocol::Reliable(reliable) => {
                counters.retransmitted.store(reliable.stream().lost_packets(), Relaxed);
                // Before it is looked at what can be written.
                reliable.account();
                let (before, after) = reliable.update_state();
                news.signal = after.is_news_after(before);
                news.readable = after.readable && !before.readable;
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
