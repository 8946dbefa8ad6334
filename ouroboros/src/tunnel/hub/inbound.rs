//! From the clients into the device, or to other clients: what a client sends
//! from an address that is not its own goes nowhere. Driven by a hub's worker.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd};

use super::{
    ClientEvent, Core,
    client::{Shared, push},
    destination,
    outbound::failed,
    source,
};
use crate::{
    error::FlowError,
    flow::{FlowReceiver, Received},
    proto::{
        hub::{Router, Telling},
        native::LARGEST_FRAGMENTED,
        protection::Content,
    },
    sync::lock,
    sys::socket,
    tun::{
        DeviceOffload,
        offload::{Checksums, Ecn, packet_too_big},
    },
    tunnel::{
        TunnelError,
        delay::Delay,
        inbound::{Joiner, complete_for},
        lane::Sink,
    },
};

/// Descriptors that are served in one turn, at most.
const EVENTS: usize = 64;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Turns after which all descriptors are looked at, though one flow alone keeps a
/// worker busy.
const LOOK: u32 = 16;
/// The mailbox among the descriptors.
const MAILBOX: u64 = u64::MAX;

/// Flows on their way to a worker.
pub(super) struct Mailbox {
    arrived: Mutex<Vec<(Shared, FlowReceiver)>>,
    signal: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let signal = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { arrived: Mutex::default(), signal })
    }

    pub(super) fn put(&self, client: Shared, receiver: FlowReceiver) {
        lock(&self.arrived).push((client, receiver));
        self.wake();
    }

    /// Has the worker look around.
    pub(super) fn wake(&self) {
        // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }
}

/// One flow of a client.
struct Arriving {
    client: Shared,
    receiver: FlowReceiver,
    delay: Delay,
}

pub(super) struct Inbound {
    core: Arc<Core>,
    queue: usize,
    epoll: OwnedFd,
    flows: HashMap<u64, Arriving>,
    next: u64,
    joiner: Joiner,
    /// The only flow, whose path epoll does not watch, and in how many turns nothing
    /// else was looked at.
    alone: Option<u64>,
    turns: u32,
    /// Descriptors that something has come on.
    ready: Vec<u64>,
    /// Clients whose batches hold forwarded packets of this turn.
    touched: Vec<Shared>,
}

impl Inbound {
    pub(super) fn new(core: Arc<Core>, queue: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let signal = &core.mailboxes[queue].signal;
        epoll::add(&epoll, signal, epoll::EventData::new_u64(MAILBOX), epoll::EventFlags::IN)?;
        Ok(Self {
            core,
            queue,
            epoll,
            flows: HashMap::new(),
            next: 0,
            joiner: Joiner::new(),
            alone: None,
            turns: 0,
            ready: Vec::with_capacity(EVENTS),
            touched: Vec::new(),
        })
    }

    /// What to poll for reading: when one of the two is readable, there is something
    /// for [`turn`](Self::turn). The second is there while there is one flow only.
    pub(super) fn readiness(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.epoll.as_fd(), self.alone.and_then(|token| self.path(token)))
    }

    fn path(&self, token: u64) -> Option<BorrowedFd<'_>> {
        self.flows.get(&token).map(|flow| flow.receiver.readiness())
    }

    /// Moves what is there, at most a batch of each flow, after having waited for it if
    /// `wait` says so; how many packets that was, and whether there was anything.
    pub(super) fn turn(&mut self, wait: Option<&Timespec>) -> Result<(usize, bool), TunnelError> {
        let Some(token) = self.alone else { return self.turn_of_many(wait.unwrap_or(&NOW)) };
        let looks = match (wait, self.readiness()) {
            (Some(wait), (others, Some(path))) => {
                let mut ready = [others, path]
                    .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
                if socket::wait(&mut ready, Some(wait))? == 0 {
                    return Ok((0, false));
                }
                !ready[0].revents().is_empty()
            }
            _ => self.turns >= LOOK,
        };
        // Most likely there is something of this flow.
        let packets = self.serve(token);
        self.turns += 1;
        if looks || packets == 0 {
            let (more, any) = self.turn_of_many(&NOW)?;
            return Ok((packets + more, packets > 0 || any || wait.is_some()));
        }
        self.flush_forwarded();
        Ok((packets, true))
    }

    /// Moves a batch of each flow that epoll tells of.
    fn turn_of_many(&mut self, wait: &Timespec) -> Result<(usize, bool), TunnelError> {
        self.turns = 0;
        self.ready.clear();
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        match epoll::wait(&self.epoll, &mut events, Some(wait)) {
            Ok((events, _)) => self.ready.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => return Ok((0, true)),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut packets = 0;
        for index in 0..self.ready.len() {
            let token = self.ready[index];
            if token == MAILBOX {
                self.collect();
            } else {
                packets += self.serve(token);
            }
        }
        self.flush_forwarded();
        Ok((packets, !self.ready.is_empty()))
    }

    fn flush_forwarded(&mut self) {
        while let Some(client) = self.touched.pop() {
            let mut sender = client.sender(self.queue);
            match sender.try_flush() {
                Ok(true) => {}
                // Another client's transport must not hold this one up.
                Ok(false) => sender.discard(),
                Err(error) => {
                    drop(sender);
                    failed(&client, &error);
                }
            }
        }
    }

    /// Finds out whether there is one flow only. Its path is polled by itself: one that
    /// epoll watches has its lock taken for each packet that arrives, though nobody
    /// waits.
    fn count(&mut self) -> rustix::io::Result<()> {
        let alone = self.flows.keys().next().copied().filter(|_| self.flows.len() == 1);
        let before = std::mem::replace(&mut self.alone, alone);
        if before == alone {
            return Ok(());
        }
        if let Some(path) = alone.and_then(|token| self.path(token)) {
            // A new one is not watched yet.
            let _ = epoll::delete(&self.epoll, path);
        }
        before.map_or(Ok(()), |token| self.watch(token))
    }

    /// Has epoll tell of a flow's path.
    fn watch(&self, token: u64) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        self.path(token)
            .map_or(Ok(()), |path| epoll::add(&self.epoll, path, data, epoll::EventFlags::IN))
    }

    /// Takes flows up.
    fn collect(&mut self) {
        let core = self.core.clone();
        let mailbox = &core.mailboxes[self.queue];
        let _ = rustix::io::read(&mailbox.signal, &mut [0u8; 8]);
        let arrived = std::mem::take(&mut *lock(&mailbox.arrived));
        for (client, receiver) in arrived {
            let token = self.next;
            self.next += 1;
            let end = epoll::EventData::new_u64(token);
            let watched = epoll::add(&self.epoll, receiver.end(), end, epoll::EventFlags::IN);
            self.flows.insert(token, Arriving { client, receiver, delay: Delay::default() });
            let watched = watched
                .and(self.count())
                .and_then(|()| if self.alone.is_none() { self.watch(token) } else { Ok(()) });
            if let Err(error) = watched {
                self.finish(token, &FlowError::Transport(error.into()));
            } else {
                // What came before it was watched.
                self.serve(token);
            }
        }
    }

    /// Moves a batch of one flow; how many packets it was.
    fn serve(&mut self, token: u64) -> usize {
        let Self { core, queue, flows, joiner, touched, .. } = self;
        let Some(Arriving { client, receiver, delay }) = flows.get_mut(&token) else { return 0 };
        let router = core.router();
        let device = &core.device.queues()[*queue];
        let sink = Sink { queue: device, counters: &core.counters, mtu: client.mtu().into() };
        let mut bytes = 0;
        let mut admission =
            Admission { core, router: &router, client, queue: *queue, touched, own: None };
        let result = joiner.transfer(receiver, delay, sink, |packet, received| {
            bytes += packet.len() as u64;
            admission.admit(packet, received)
        });
        match result {
            Ok(count) => {
                client.counters.received_packets.fetch_add(count as u64, Relaxed);
                client.counters.received_bytes.fetch_add(bytes, Relaxed);
                let alone = flows.len() == 1;
                if let Some(flow) = flows.get_mut(&token).filter(|_| count == 0 || !alone) {
                    flow.receiver.release();
                }
                count
            }
            Err(error) => {
                self.finish(token, &error);
                0
            }
        }
    }

    /// Lets go of a flow that has ended, and of its client.
    fn finish(&mut self, token: u64, error: &FlowError) {
        let Some(Arriving { client, receiver, .. }) = self.flows.remove(&token) else { return };
        // The one that is left was watched, and is not to be.
        let _ = self.count();
        // Sender and path may outlive the receiver.
        let _ = epoll::delete(&self.epoll, receiver.readiness());
        let _ = epoll::delete(&self.epoll, receiver.end());
        drop(receiver);
        client.close();
        self.core.left(&client, error);
    }
}

/// What may go where, for packets of one client.
struct Admission<'a> {
    core: &'a Core,
    router: &'a Router<Shared>,
    client: &'a Shared,
    queue: usize,
    touched: &'a mut Vec<Shared>,
    /// An address that was found to be the client's: packets come in runs.
    own: Option<IpAddr>,
}

impl Admission<'_> {
    /// Returns `true` if the packet goes to the device.
    fn admit(&mut self, packet: &mut [u8], received: &Received) -> bool {
        let Some(from) = source(packet) else {
            if Telling::is_for(packet) {
                self.exchange(packet);
                return false;
            }
            // Counted where packets that are none are.
            return !matches!(packet.first().map(|byte| byte >> 4), Some(4 | 6));
        };
        if self.own != Some(from) {
            if self.router.client(from).is_none_or(|owner| owner != self.client) {
                // What a kernel says to its link when a device comes up is no sign of
                // anything.
                if !is_of_link(from) {
                    self.client.counters.foreign_source.fetch_add(1, Relaxed);
                }
                return false;
            }
            self.own = Some(from);
        }
        if !self.core.forward {
            return true;
        }
        let to = destination(packet).and_then(|to| self.router.client(to));
        match to {
            Some(to) if to != self.client => {
                self.forward(to, packet, received);
                false
            }
            _ => true,
        }
    }

    fn exchange(&self, packet: &[u8]) {
        let wanted = self.client.handle_exchange(packet);
        self.core.note_untold(self.client);
        if let Some(wanted) = wanted {
            self.core.tell_of(ClientEvent::Requested { client: self.client.id, wanted });
        }
    }

    fn forward(&mut self, to: &Shared, packet: &mut [u8], received: &Received) {
        let mtu = usize::from(to.mtu());
        let mut sender = to.sender(self.queue);
        let in_fragments = packet.len() > mtu && sender.takes_fragments();
        let largest = if in_fragments { mtu.max(LARGEST_FRAGMENTED) } else { mtu };
        if packet.len() > largest {
            drop(sender);
            let mut answer = [0; 1280];
            if let Some(size) = packet_too_big(packet, largest, &mut answer) {
                let mut sender = self.client.sender(self.queue);
                let _ = push(&mut sender, &answer[..size], self.client.mtu());
                let _ = sender.try_flush();
            }
            return;
        }
        let mut content = received.content;
        if content == Content::PartialChecksum && sender.checksums() == Checksums::Full {
            complete_for(packet, DeviceOffload::NONE);
            content = Content::Packet;
        }
        // With as much again for what fragments take around them.
        if !sender.fits(2 * packet.len()) && !matches!(sender.try_flush(), Ok(true)) {
            sender.discard();
        }
        let ecn = Ecn::of(packet).unwrap_or(Ecn::NotEct);
        let pushed = if in_fragments {
            matches!(sender.push_fragments(packet, content, ecn, mtu), Ok(true))
        } else {
            let room = sender.push_content(packet.len(), content, ecn);
            room.map(|room| room.copy_from_slice(packet)).is_some()
        };
        if pushed {
            drop(sender);
            self.client.counters.forwarded_packets.fetch_add(1, Relaxed);
            if !self.touched.iter().rev().any(|known| known == to) {
                self.touched.push(to.clone());
            }
        }
    }
}

/// An address that no router passes on: fe80::/10 or ::.
fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unspecified())
}
