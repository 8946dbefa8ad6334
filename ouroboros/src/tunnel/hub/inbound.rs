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
        hub::{ConfigurationServer, Router},
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
/// Clients that packets wait to be forwarded to, after which they are: each has a batch.
const FORWARDED: usize = 32;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The mailbox among the descriptors.
const MAILBOX: u64 = u64::MAX;

/// Wakes a worker.
pub(super) struct Waker {
    /// Flows that it should look at though their sockets do not say so.
    woken: Mutex<Vec<u64>>,
    signal: OwnedFd,
}

impl Waker {
    /// Has the worker look around.
    pub(super) fn wake(&self) {
        // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }

    /// Has the worker look at a flow, if it has it.
    pub(super) fn wake_for(&self, token: u64) {
        lock(&self.woken).push(token);
        self.wake();
    }
}

/// Flows on their way to a worker.
pub(super) struct Mailbox {
    arrived: Mutex<Vec<(u64, Shared, FlowReceiver)>>,
    pub(super) waker: Arc<Waker>,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let signal = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let waker = Arc::new(Waker { woken: Mutex::default(), signal });
        Ok(Self { arrived: Mutex::default(), waker })
    }

    /// Hands a flow over, to be known as `token`.
    pub(super) fn put(&self, token: u64, client: Shared, receiver: FlowReceiver) {
        lock(&self.arrived).push((token, client, receiver));
        self.waker.wake();
    }
}

/// One flow of a client.
struct Arriving {
    client: Shared,
    receiver: FlowReceiver,
    delay: Delay,
    /// How often the peer had moved when it was looked at last.
    moves: u64,
}

pub(super) struct Inbound {
    core: Arc<Core>,
    queue: usize,
    epoll: OwnedFd,
    flows: HashMap<u64, Arriving>,
    joiner: Joiner,
    /// The only flow, whose path epoll does not watch.
    alone: Option<u64>,
    /// Descriptors that something has come on.
    ready: Vec<u64>,
    /// Clients whose batches hold forwarded packets of this turn.
    touched: Vec<Shared>,
}

impl Inbound {
    pub(super) fn new(core: Arc<Core>, queue: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let signal = &core.mailboxes[queue].waker.signal;
        epoll::add(&epoll, signal, epoll::EventData::new_u64(MAILBOX), epoll::EventFlags::IN)?;
        Ok(Self {
            core,
            queue,
            epoll,
            flows: HashMap::new(),
            joiner: Joiner::new(),
            alone: None,
            ready: Vec::with_capacity(EVENTS),
            touched: Vec::new(),
        })
    }

    /// Returns the descriptors to poll for reading before [`turn`](Self::turn). The second is
    /// the only flow's, while there is one only.
    pub(super) fn readiness(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        match self.alone.and_then(|token| self.path(token)) {
            // Nothing else is in the set then, and to ask that costs more.
            Some(path) => (self.core.mailboxes[self.queue].waker.signal.as_fd(), Some(path)),
            None => (self.epoll.as_fd(), None),
        }
    }

    fn path(&self, token: u64) -> Option<BorrowedFd<'_>> {
        self.flows.get(&token).map(|flow| flow.receiver.readiness())
    }

    /// Moves what is there, at most a batch of each flow, when one of the descriptors of
    /// [`readiness`](Self::readiness) is readable; `first` says whether the first is. How many
    /// packets that was.
    pub(super) fn turn(&mut self, first: bool) -> Result<usize, TunnelError> {
        let Some(token) = self.alone else { return Ok(self.turn_of_many(&NOW)?.0) };
        let mut packets = self.serve(token);
        if first {
            packets += self.collect();
        }
        self.flush_forwarded();
        Ok(packets)
    }

    /// Waits for packets, and moves them as [`turn`](Self::turn) does; `false`: nothing came.
    pub(super) fn wait(&mut self, timeout: &Timespec) -> Result<bool, TunnelError> {
        let (first, Some(path)) = self.readiness() else {
            return Ok(self.turn_of_many(timeout)?.1);
        };
        let mut ready =
            [first, path].map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
        if socket::wait(&mut ready, Some(timeout))? == 0 {
            return Ok(false);
        }
        let first = !ready[0].revents().is_empty();
        self.turn(first)?;
        Ok(true)
    }

    /// Moves a batch of each flow that epoll tells of.
    fn turn_of_many(&mut self, wait: &Timespec) -> Result<(usize, bool), TunnelError> {
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
                packets += self.collect();
            } else {
                packets += self.serve(token);
            }
            if self.touched.len() >= FORWARDED {
                self.flush_forwarded();
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

    /// Takes flows up, and looks at those that were woken; how many packets they had.
    fn collect(&mut self) -> usize {
        let core = self.core.clone();
        let mailbox = &core.mailboxes[self.queue];
        let _ = rustix::io::read(&mailbox.waker.signal, &mut [0u8; 8]);
        let arrived = std::mem::take(&mut *lock(&mailbox.arrived));
        let mut packets = 0;
        for (token, client, receiver) in arrived {
            let (delay, moves) = (Delay::default(), receiver.moves());
            self.flows.insert(token, Arriving { client, receiver, delay, moves });
            let watched = self
                .count()
                .and_then(|()| if self.alone.is_none() { self.watch(token) } else { Ok(()) });
            if let Err(error) = watched {
                self.finish(token, &FlowError::Transport(error.into()));
            } else {
                // What came before it was watched.
                packets += self.serve(token);
            }
        }
        let woken = std::mem::take(&mut *lock(&mailbox.waker.woken));
        packets + woken.into_iter().map(|token| self.serve(token)).sum::<usize>()
    }

    /// Moves a batch of one flow; how many packets it was.
    fn serve(&mut self, token: u64) -> usize {
        let Self { core, queue, flows, joiner, touched, .. } = self;
        let Some(Arriving { client, receiver, delay, moves }) = flows.get_mut(&token) else {
            return 0;
        };
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
        drop(router);
        match result {
            Ok(count) => {
                client.counters.received_packets.fetch_add(count as u64, Relaxed);
                client.counters.received_bytes.fetch_add(bytes, Relaxed);
                let before = std::mem::replace(moves, receiver.moves());
                if *moves != before {
                    core.emit(ClientEvent::Moved { client: client.id, peer: receiver.peer() });
                }
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
        drop(receiver);
        client.close();
        self.core.left(&client, error);
    }
}

/// The rules for the packets of one client: which of them may go where.
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
            if ConfigurationServer::is_for(packet) {
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
        self.core.note_unacknowledged(self.client);
        if let Some(wanted) = wanted {
            self.core.emit(ClientEvent::Requested { client: self.client.id, wanted });
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
