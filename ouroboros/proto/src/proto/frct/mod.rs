//! FRCT towards a 0.23 peer: packets of one flow that keep their order, and of a
//! reliable one also arrive, whatever the network does.
//!
//! The peer's machine has faults that no later peer can mend, and some of what is
//! done here only steps around them; each place says which, and FRCT.md all of it.
//! What holds throughout:
//! numbers go on for the life of the flow, a packet that may begin a run says so
//! whenever nothing is in flight, and nothing is said of the peer's packets before
//! one of them has begun a run.
//!
//! The flow that owns a [`Frct`] drives it: packets that came go in by
//! [`handle`](Frct::handle) and out by [`read`](Frct::read), those to be sent in by
//! [`write`](Frct::write) and out by [`poll_transmit`](Frct::poll_transmit). Not
//! here: encryption and CRC (both are outside of FRCT's packets), keepalives for the
//! flow's timeout, the native profile.

mod receive;
mod round_trip;
mod send;

use std::{collections::VecDeque, time::Duration};

use receive::Receiver;
use send::{Next, Sender};

use crate::{
    crypto::Entropy,
    wire::{
        QosSpec,
        frct::{Flags, HEADER, Header},
    },
};

/// A peer acknowledges within this time, by its own rules (delta-t's A).
const ACKNOWLEDGEMENT_LIMIT: Duration = Duration::from_secs(10);
/// A peer repeats a packet for this time, and so do we at least (delta-t's R).
pub const RETRANSMISSION_LIMIT: Duration = Duration::from_secs(120);
/// After the last data of a burst, when an empty frame follows: a packet may lie at
/// a 0.23 peer until another frame comes.
const NUDGES: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(8), Duration::from_millis(32)];

/// For how long a peer remembers a flow that has ended, and its packets may still
/// arrive (FRCT's sender inactivity).
pub const fn inactivity(packet_lifetime: Duration) -> Duration {
    let lifetimes = packet_lifetime.saturating_mul(3);
    let seconds = Duration::from_secs(1);
    lifetimes
        .saturating_add(ACKNOWLEDGEMENT_LIMIT)
        .saturating_add(RETRANSMISSION_LIMIT)
        .saturating_add(seconds)
}

/// The service of FRCT for a flow. Both sides take it from the flow request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Packets keep their order; what is lost stays lost.
    Ordered,
    /// Packets keep their order and are repeated until they are acknowledged.
    Reliable,
}

impl Service {
    /// Returns the service of a flow with this quality of service; `None`: packets as they are,
    /// without FRCT.
    pub const fn of(qos: &QosSpec) -> Option<Self> {
        match (qos.in_order, qos.loss) {
            (false, _) => None,
            (true, 0) => Some(Self::Reliable),
            (true, _) => Some(Self::Ordered),
        }
    }
}

/// Configuration of a machine: the facts of its flow.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The service for the flow's packets.
    pub service: Service,
    /// Longest life of a packet in the layer (delta-t's MPL): 5 s over UDP, 100 ms
    /// over Ethernet.
    pub packet_lifetime: Duration,
}

/// Why a flow cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A packet was repeated for 120 s, and the peer showed no life in that time.
    #[error("the peer has acknowledged nothing for {} s", RETRANSMISSION_LIMIT.as_secs())]
    Unacknowledged,
    /// A packet was lost, and what came instead of its repetition cannot be opened.
    #[error(
        "a packet was lost and cannot be had again: a 0.23 peer garbles what it repeats on an \
         encrypted flow"
    )]
    Irrecoverable,
}

/// No more packets can be written now: wait for [`Event::Writable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many packets wait to be sent")]
pub struct Full;

/// An event of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There are packets to read.
    Readable,
    /// There is room for packets again.
    Writable,
    /// The flow has been closed, all that was written is out of our hands (acknowledged
    /// or, of an ordered flow, sent), and the peer repeats nothing.
    Drained,
    /// The flow cannot go on.
    Failed(Failure),
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit<'a> {
    /// A packet, to be sealed.
    Packet {
        /// Its header.
        header: Header,
        /// The application's packet, empty unless the header says data.
        payload: &'a [u8],
    },
    /// An empty frame, below the encryption.
    Keepalive,
}

impl Transmit<'_> {
    /// Length of the packet in bytes, with its header.
    pub fn size(&self) -> usize {
        match self {
            Self::Packet { payload, .. } => HEADER + payload.len(),
            Self::Keepalive => 0,
        }
    }

    /// Writes the packet into `slot`, which has its [`size`](Self::size).
    ///
    /// # Panics
    ///
    /// If it has another.
    pub fn write(&self, slot: &mut [u8]) {
        if let Self::Packet { header, payload } = self {
            let (head, body) = slot.split_at_mut(HEADER);
            head.copy_from_slice(&header.encode());
            body.copy_from_slice(payload);
        }
    }
}

/// Statistics of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Packets sent again.
    pub retransmitted: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets of an ordered flow dropped because too many were unread.
    pub unread: u64,
    /// Packets outside of the window, or before any run.
    pub misplaced: u64,
    /// Frames that could not be opened: forged, corrupted, or a 0.23 peer's
    /// repetitions on an encrypted flow.
    pub garbled: u64,
    /// The smoothed round trip; zero before the first measurement.
    pub round_trip: Duration,
}

/// One end of a flow in order.
#[derive(Debug)]
pub struct Frct {
    sender: Sender,
    receiver: Receiver,
    /// When the next empty frame is due, and which of [`NUDGES`] it is.
    nudge: Option<(Duration, usize)>,
    last_data: Duration,
    closing: bool,
    drained: bool,
    failed: bool,
    events: VecDeque<Event>,
    statistics: Statistics,
}

impl Frct {
    /// A new end, at the beginning of the flow. The first sequence number comes
    /// from `entropy`; it is the only one that is chosen.
    pub fn new(now: Duration, entropy: &mut dyn Entropy, config: Config) -> Self {
        let mut first = [0; 4];
        entropy.fill(&mut first);
        let reliable = config.service == Service::Reliable;
        // Shorter than the peer's by its rounding: a run that the peer begins anew
        // must not be taken for the old one.
        let inactivity = 2 * config.packet_lifetime + ACKNOWLEDGEMENT_LIMIT + RETRANSMISSION_LIMIT;
        Self {
            sender: Sender::new(u32::from_be_bytes(first), reliable, now),
            receiver: Receiver::new(reliable, inactivity),
            nudge: None,
            last_data: now,
            closing: false,
            drained: false,
            failed: false,
            events: VecDeque::new(),
            statistics: Statistics::default(),
        }
    }

    /// Takes a packet of the peer's, header and all. What is malformed is dropped.
    pub fn handle(&mut self, now: Duration, packet: &[u8]) {
        let Ok((header, payload)) = Header::parse(packet) else { return };
        if self.failed {
            return;
        }
        let flags = header.flags;
        let (unread, delivered) = (self.receiver.has_packets(), self.is_delivered());
        if self.closing {
            self.receiver.handle_closing(now, header);
        } else {
            self.receiver.handle(now, header, payload, &mut self.statistics);
        }
        if self.receiver.is_irrecoverable(now) {
            return self.fail(Failure::Irrecoverable);
        }
        if !unread && self.receiver.has_packets() {
            self.events.push_back(Event::Readable);
        }
        // A peer that has only heard bare packets fills both with zeros; the sender
        // believes nothing that is not near to what it has sent.
        let acknowledgement = flags.contains(Flags::ACK).then_some(header.acknowledgement);
        self.sender.heard(now, acknowledgement);
        if let Some(number) = acknowledgement {
            self.sender.acknowledge(now, number);
        }
        if flags.contains(Flags::FC) {
            self.sender.take_window(&header);
        }
        if self.sender.is_idle() {
            self.nudge = None;
        }
        if self.is_delivered() && !delivered {
            self.events.push_back(Event::Writable);
        }
        self.after_sender(now);
    }

    /// A frame came that cannot be opened. On an encrypted flow it may be what a
    /// 0.23 peer makes of a repetition.
    pub fn handle_garbled(&mut self, now: Duration) {
        self.statistics.garbled += 1;
        self.receiver.note_garbled(now);
        if !self.failed && self.receiver.is_irrecoverable(now) {
            self.fail(Failure::Irrecoverable);
        }
    }

    /// The next packet for the application; the window opens as they are read.
    pub fn read(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.receiver.read(now)
    }

    /// Returns `true` if there is a packet to read.
    pub fn is_readable(&self) -> bool {
        self.receiver.has_packets()
    }

    /// Takes a packet of the application to be sent. It has to fit, with its
    /// header, into what the flow's path carries: nothing is fragmented.
    ///
    /// # Errors
    ///
    /// Too many wait already; the packet was not taken.
    pub fn write(&mut self, now: Duration, packet: &[u8]) -> Result<(), Full> {
        self.sender.write(now, packet)
    }

    /// Returns `true` if [`write`](Self::write) has room for a packet.
    pub fn is_writable(&self) -> bool {
        self.sender.has_room()
    }

    /// Closes the flow: nothing more is read or written here, and what was written
    /// goes on until [`Event::Drained`]. Nothing on the wire tells the peer, which may
    /// repeat what it has sent: that is acknowledged for a while.
    pub fn close(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.closing, true) {
            self.receiver.close();
            self.after_sender(now);
        }
    }

    /// Returns `true` once a closed flow has nothing left to send, or cannot.
    pub fn is_drained(&self) -> bool {
        self.failed || self.drained
    }

    /// Returns `true` if nothing waits to be sent or to be acknowledged.
    pub fn is_delivered(&self) -> bool {
        self.sender.is_idle() && self.sender.is_empty()
    }

    /// Returns the statistics.
    pub fn statistics(&self) -> Statistics {
        Statistics { round_trip: self.sender.round_trip(), ..self.statistics }
    }

    /// The next thing to tell the flow.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next frame to send, now.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Transmit<'_>> {
        if self.failed {
            return None;
        }
        if self.receiver.take_rendezvous() {
            return Some(self.bare(now, Flags::FC));
        }
        let next = self.sender.next(now);
        if next.is_some() {
            self.last_data = now;
            self.nudge = Some((now + NUDGES[0], 0));
            let (flags, window, acknowledgement) = self.receiver.announce(now);
            let (sequence, drf) = match next {
                Some(Next::Again { sequence, drf }) => {
                    self.statistics.retransmitted += 1;
                    (sequence, drf)
                }
                Some(Next::First { sequence, drf }) => (sequence, drf),
                None => unreachable!("looked at above"),
            };
            let drf = if drf { Flags::DRF } else { Flags::NONE };
            let flags = Flags::DATA | drf | flags;
            let header = Header { flags, window, sequence, acknowledgement };
            self.after_sender(now);
            return Some(Transmit::Packet { header, payload: self.sender.payload() });
        }
        if self.receiver.acknowledgement_due(now) {
            let flags = if self.closing { Flags::ACK } else { self.receiver.bare_flags() };
            return Some(self.bare(now, flags));
        }
        if self.sender.rendezvous_due(now) {
            let header = Header { flags: Flags::RDVS, ..Header::default() };
            return Some(Transmit::Packet { header, payload: &[] });
        }
        if let Some((due, index)) = self.nudge
            && due <= now
        {
            self.nudge = NUDGES.get(index + 1).map(|after| (self.last_data + *after, index + 1));
            return Some(Transmit::Keepalive);
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due, or something to
    /// transmit will be.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.failed {
            return None;
        }
        let nudge = self.nudge.map(|(due, _)| due);
        let quiet = self.receiver.listens_until().filter(|_| self.closing && !self.drained);
        let quiet = quiet.filter(|_| self.is_delivered());
        [self.sender.timeout(), self.receiver.timeout(), nudge, quiet].into_iter().flatten().min()
    }

    /// Does what is due at `now`. [`poll_transmit`](Self::poll_transmit) follows.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.failed {
            return;
        }
        if self.sender.handle_timeout(now).is_err() {
            self.fail(Failure::Unacknowledged);
        } else {
            self.after_sender(now);
        }
    }

    /// A packet without data. While it may, it carries a number of ours and begins a
    /// run: without that a bare packet before our first data would have a 0.23 peer
    /// drop all that follows.
    fn bare(&mut self, now: Duration, wanted: Flags) -> Transmit<'_> {
        let (_, window, acknowledgement) = self.receiver.announce(now);
        let begins = self.sender.begins_at();
        let (drf, sequence) = begins.map_or((Flags::NONE, 0), |number| (Flags::DRF, number));
        let header = Header {
            flags: wanted | drf,
            window: if wanted.contains(Flags::FC) { window } else { 0 },
            sequence,
            acknowledgement: if wanted.contains(Flags::ACK) { acknowledgement } else { 0 },
        };
        Transmit::Packet { header, payload: &[] }
    }

    fn after_sender(&mut self, now: Duration) {
        if self.sender.take_room() {
            self.events.push_back(Event::Writable);
        }
        let quiet = self.receiver.listens_until().is_none_or(|until| until <= now);
        if self.closing && !self.drained && quiet && self.is_delivered() {
            self.drained = true;
            self.events.push_back(Event::Drained);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failed = true;
        self.events.push_back(Event::Failed(failure));
    }
}
