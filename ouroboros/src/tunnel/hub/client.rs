//! A client of a hub: the flows to it, and what is known and counted of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{ClientId, ClientStatistics};
use crate::{
    driver,
    error::FlowError,
    flow::{FlowCloser, FlowInfo, FlowSender, FlowState, FlowWatcher},
    proto::{
        hub::{Configuration, ConfigurationServer, IpNet},
        protection::Content,
    },
    sync::lock,
    tun::offload::Ecn,
    tunnel::clamp,
};

/// How often a path is asked for its MTU, in milliseconds.
const INTERVAL: u64 = 1000;

/// Counted by several threads, read by anyone.
#[derive(Debug, Default)]
pub(super) struct ClientCounters {
    pub(super) sent_packets: AtomicU64,
    pub(super) received_packets: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) forwarded_packets: AtomicU64,
    pub(super) foreign_source: AtomicU64,
}

/// Shared by all threads of the hub. What is looked at for each packet comes first, since
/// the packets of many clients in turn find none of it in a cache.
#[repr(C)]
pub(super) struct Client {
    /// A sender for each of its flows.
    senders: Box<[Mutex<FlowSender>]>,
    pub(super) id: ClientId,
    /// When the path is asked for its MTU next, in milliseconds.
    ask_at: AtomicU64,
    /// Largest packet in bytes.
    mtu: AtomicU16,
    pub(super) counters: ClientCounters,
    pub(super) info: FlowInfo,
    closers: Vec<FlowCloser>,
    watchers: Vec<FlowWatcher>,
    pub(super) prefixes: Mutex<Vec<IpNet>>,
    exchange: Mutex<ConfigurationServer>,
    /// It is among those whose configurations are repeated.
    pub(super) unacknowledged: AtomicBool,
    pub(super) left: AtomicBool,
}

impl Client {
    pub(super) fn new(
        id: ClientId,
        senders: Vec<FlowSender>,
        watchers: Vec<FlowWatcher>,
        mtu: u16,
    ) -> Self {
        let info = senders[0].info().clone();
        let closers = senders.iter().map(FlowSender::closer).collect();
        Self {
            senders: senders.into_iter().map(Mutex::new).collect(),
            id,
            ask_at: AtomicU64::new(0),
            mtu: AtomicU16::new(mtu),
            counters: ClientCounters::default(),
            info,
            closers,
            watchers,
            prefixes: Mutex::default(),
            exchange: Mutex::new(ConfigurationServer::new()),
            unacknowledged: AtomicBool::new(false),
            left: AtomicBool::new(false),
        }
    }

    /// The sender for what comes from queue `lane`: one connection stays on one
    /// flow.
    pub(super) fn sender(&self, lane: usize) -> MutexGuard<'_, FlowSender> {
        let count = self.senders.len();
        lock(&self.senders[(lane + count - self.id.0 as usize % count) % count])
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Asks the path for its MTU if it is time; the new one if it has changed.
    pub(super) fn follow(&self, sender: &mut FlowSender) -> Option<u16> {
        let now = driver::monotonic().as_millis() as u64;
        if !sender.take_oversize() && now < self.ask_at.load(Relaxed) {
            return None;
        }
        self.ask_at.store(now + INTERVAL, Relaxed);
        let mtu = clamp(sender.largest_packet());
        (self.mtu.swap(mtu, Relaxed) != mtu).then_some(mtu)
    }

    /// Ends its flows if the client does not say within `patience` that it is there.
    pub(super) fn probe(&self, patience: Duration) {
        self.watchers.iter().for_each(|watcher| watcher.probe(patience));
    }

    pub(super) fn measure_round_trips(&self) {
        self.watchers.iter().for_each(FlowWatcher::measure_round_trip);
    }

    /// Its flows that are there, as they are now.
    pub(super) fn flows(&self) -> Vec<FlowState> {
        self.watchers.iter().filter_map(FlowWatcher::state).collect()
    }

    /// Ends its flows; the hub then lets it go.
    pub(super) fn close(&self) {
        self.closers.iter().for_each(FlowCloser::close);
    }

    /// Takes a packet of the exchange; returns the addresses that the client would like,
    /// if it asks for the first time.
    pub(super) fn handle_exchange(&self, packet: &[u8]) -> Option<Vec<IpNet>> {
        let mut exchange = lock(&self.exchange);
        exchange.handle(driver::monotonic(), packet);
        let wanted = exchange.poll();
        self.transmit(&mut exchange);
        wanted
    }

    /// Sends the client its configuration; returns `false` if it is too long.
    pub(super) fn configure(&self, configuration: &Configuration) -> bool {
        let mut exchange = lock(&self.exchange);
        let fits = exchange.configure(driver::monotonic(), configuration);
        self.transmit(&mut exchange);
        fits
    }

    /// Repeats what the client has not acknowledged; returns when to call again.
    pub(super) fn handle_timeout(&self) -> Option<Duration> {
        let mut exchange = lock(&self.exchange);
        exchange.handle_timeout(driver::monotonic());
        self.transmit(&mut exchange);
        exchange.poll_timeout()
    }

    fn transmit(&self, exchange: &mut ConfigurationServer) {
        while let Some(packet) = exchange.poll_transmit() {
            let mut sender = self.sender(0);
            // Lost like any other: it is repeated.
            if push(&mut sender, &packet, self.mtu()).is_err() {
                sender.discard();
            }
            let _ = sender.try_flush();
        }
    }

    pub(super) fn statistics(&self) -> ClientStatistics {
        let counters = &self.counters;
        let flows = self.watchers.iter().map(FlowWatcher::statistics).sum();
        ClientStatistics {
            flows,
            sent_packets: counters.sent_packets.load(Relaxed),
            received_packets: counters.received_packets.load(Relaxed),
            received_bytes: counters.received_bytes.load(Relaxed),
            forwarded_packets: counters.forwarded_packets.load(Relaxed),
            foreign_source: counters.foreign_source.load(Relaxed),
        }
    }
}

/// Puts a packet into the batch, after what is there has left if it must; in fragments
/// if it is larger than `mtu` and that is possible.
pub(super) fn push(sender: &mut FlowSender, packet: &[u8], mtu: u16) -> Result<(), FlowError> {
    if packet.len() > mtu.into()
        && sender.push_fragments(packet, Content::Packet, Ecn::NotEct, mtu.into())?
    {
        return Ok(());
    }
    if !sender.fits(packet.len()) {
        sender.flush()?;
    }
    if let Some(room) = sender.push(packet.len()) {
        room.copy_from_slice(packet);
    }
    Ok(())
}

/// A client is itself, whatever it has.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.id).finish()
    }
}

/// A client as the routing table refers to it.
pub(super) type Shared = Arc<Client>;
