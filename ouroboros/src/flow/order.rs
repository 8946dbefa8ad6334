//! A flow whose packets keep their order by FRCT: towards 0.23 peers, and all
//! others that know of nothing better. Its machine is driven by who is in a call,
//! and by the background thread otherwise: acknowledging and repeating never wait
//! for the application. Not here: what the machine decides (`proto::frct`).

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    info::FlowInfo,
    packets::Packets,
    pool::{self, Pooled},
    shared::{CLOSED, IRRECOVERABLE, Shared, UNACKNOWLEDGED},
};
use crate::{
    crypto::SystemEntropy,
    driver,
    proto::{
        frct::{Config, Event, Failure, Frct, RETRANSMISSION_LIMIT, Service, Transmit, inactivity},
        protection::{Content, Sealer},
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
/// A flow that was closed goes on for so long at most.
const LINGER: Duration = RETRANSMISSION_LIMIT;

fn packet_lifetime(peer: &PeerAddress) -> Duration {
    if let PeerAddress::Udp(_) = peer { UDP_LIFETIME } else { ETHERNET_LIFETIME }
}

/// For how long after a flow's end its endpoint is nobody else's.
pub(crate) fn reserved_after(info: &FlowInfo) -> Duration {
    Service::of(&info.qos).map_or(Duration::ZERO, |_| inactivity(packet_lifetime(&info.peer)))
}

/// The order of one flow's packets.
pub(super) struct Order {
    frct: Frct,
    sealer: Sealer,
    /// Frames that the transport has not taken yet.
    unsent: Option<Pooled<SendBatch>>,
    /// The format has empty frames.
    nudges: bool,
    closed: Option<Duration>,
}

impl Order {
    /// `None`: the flow's packets have none.
    pub(super) fn of(info: &FlowInfo) -> Option<Frct> {
        let service = Service::of(&info.qos)?;
        let config = Config { service, packet_lifetime: packet_lifetime(&info.peer) };
        Some(Frct::new(driver::monotonic(), &mut SystemEntropy, config))
    }

    pub(super) fn new(frct: Frct, sealer: Sealer, native: bool) -> Self {
        Self { frct, sealer, unsent: None, nudges: !native, closed: None }
    }

    /// Bytes around a packet in its frame.
    pub(super) fn overhead(&self) -> usize {
        self.sealer.headroom() + HEADER + self.sealer.tailroom()
    }

    /// Takes a packet to be sent; `false`: there is no room now.
    pub(super) fn write(&mut self, now: Duration, packet: &[u8]) -> bool {
        self.frct.write(now, packet).is_ok()
    }

    /// Moves packets to where the application finds them.
    fn hand_over(&mut self, now: Duration, packets: &mut Packets) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        while packets.len() < HANDED_OVER
            && let Some(packet) = self.frct.read(now)
        {
            packets.push(&packet, Content::Packet, Ecn::NotEct);
            count += 1;
            bytes += packet.len() as u64;
        }
        (count, bytes)
    }

    fn due(&self, now: Duration) -> Option<Duration> {
        let unsent = self.unsent.as_ref().map(|_| now + FULL);
        [self.frct.poll_timeout(), unsent].into_iter().flatten().min()
    }

    /// Sends what is to be sent; returns `true` if anything left.
    fn transmit(&mut self, now: Duration, path: &dyn Path) -> bool {
        let (head, tail) = (self.sealer.headroom(), self.sealer.tailroom());
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
                    if self.sealer.seal(frame, Content::Packet).is_err() {
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
        let (done, events, due) = {
            let mut order = lock(order);
            let now = driver::monotonic();
            let done = work(&mut order, now);
            if order.transmit(now, &*self.path) {
                self.note_sent();
            }
            let frct = order.frct.statistics();
            self.counters.retransmitted.store(frct.retransmitted, Relaxed);
            self.counters.dropped_unread.store(frct.unread, Relaxed);
            let events: Vec<_> = std::iter::from_fn(|| order.frct.poll()).collect();
            (done, events, order.due(now))
        };
        for event in events {
            match event {
                Event::Readable | Event::Writable => self.signal(),
                Event::Drained => self.call_driver(),
                Event::Failed(Failure::Irrecoverable) => self.end(IRRECOVERABLE),
                Event::Failed(_) => self.end(UNACKNOWLEDGED),
            }
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
        self.with_order(|order, now| {
            for packet in opened.drain(..) {
                let body = &batch.frame(packet.index)[packet.body];
                order.frct.handle(now, body);
            }
            for _ in 0..garbled {
                order.frct.handle_garbled(now);
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
        self.order.as_ref().is_some_and(|order| lock(order).frct.is_readable())
    }

    /// Returns `true` if a packet can be written in order now.
    pub(super) fn is_writable_in_order(&self) -> bool {
        self.order.as_ref().is_none_or(|order| lock(order).frct.is_writable())
    }

    /// Nothing more is read or written; what was written goes on.
    pub(super) fn close_order(&self) {
        self.with_order(|order, now| {
            order.closed.get_or_insert(now);
            order.frct.close();
        });
    }

    /// Returns `true` while a flow that was closed has packets that the peer has not
    /// acknowledged.
    pub(super) fn lingers(&self) -> bool {
        let Some(order) = self.order.as_ref().filter(|_| self.is_closed()) else { return false };
        let order = lock(order);
        let late = |closed| driver::monotonic() >= closed + LINGER;
        !order.frct.is_drained() && !order.closed.is_some_and(late)
    }

    /// Does what is due by the order's clock; when that is next.
    pub(super) fn keep_order_s_time(&self) -> Option<Duration> {
        self.with_order(|order, now| order.frct.handle_timeout(now))?;
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
