//! From the packets of one batch to runs, each of which goes to the TUN device
//! in one write.
//!
//! # What is joined
//!
//! Joins what Linux's own receive offload (GRO) joins, and nothing else. Packets of one run
//! have the same addresses and ports, the same IP header but for length, id and checksum, no IP
//! options or extension headers, and are no fragments. Their checksums are right, or partial
//! and right as such. All have the same payload length, not 0, but for a last one that may be
//! shorter.
//!
//! - IPv4 ids count up by one or, if fragmentation is forbidden, all are the
//!   same; the second packet decides which. That is the kernel's rule, too
//!   (`inet_gro_flush`); when it cuts such a run again, ids count up, which RFC
//!   6864 allows where fragmentation is forbidden.
//! - TCP: sequence numbers follow each other; acknowledgement, window, urgent
//!   pointer, options (so timestamps) and flags are the same. Only ACK, which
//!   has to be set, and ECE, PSH and FIN may be; PSH or FIN ends a run, whose
//!   header gets it.
//! - UDP: the checksum is there.
//!
//! # In which order
//!
//! Runs are in the order of their first packets, so that packets of one flow
//! (addresses, protocol, ports) keep their order: one that cannot join the open
//! run of its flow closes it. So does any packet without ports, such as a
//! fragment or ICMP, for all open runs of the same addresses. Other packets may
//! be overtaken by those of another flow that join an earlier run.

use std::ops::Range;

use super::{
    Layout, Version, flag,
    flow::{FlowKey, Kind, Shape, classify},
    run::{END, Packet, Run, State},
    word,
};

/// Most packets of a run.
pub const LONGEST_RUN: usize = 64;
/// Most bytes of a run, its headers included.
pub const LARGEST_RUN: usize = 65535;
/// Flows whose packets are joined at a time. For one more, the run that was
/// added to least recently is closed.
const OPEN: usize = 8;

/// Joins the packets of a batch into runs. Its memory is used again for the
/// next batch.
///
/// ```
/// use ouroboros::tun::offload::Coalescer;
/// # let (mut buffer, packets): (Vec<u8>, Vec<std::ops::Range<usize>>) = (vec![], vec![]);
/// let mut coalescer = Coalescer::new(true, true);
/// for packet in packets {
///     coalescer.add(&buffer, packet, false);
/// }
/// coalescer.finish(&mut buffer);
/// for run in coalescer.runs() {
///     let header = run.header();
///     let parts: Vec<&[u8]> = run.parts().map(|part| &buffer[part]).collect();
///     // One write of the header and the parts.
/// }
/// coalescer.clear();
/// ```
#[derive(Debug)]
pub struct Coalescer {
    tcp: bool,
    udp: bool,
    packets: Vec<Packet>,
    runs: Vec<State>,
    open: Vec<Open>,
    not_completable: usize,
}

/// A run that may become longer.
#[derive(Debug)]
struct Open {
    key: FlowKey,
    run: usize,
    next_sequence: u32,
    last_id: u16,
    /// From one IPv4 id to the next, once that is known.
    id_step: Option<u16>,
}

impl Coalescer {
    /// One that joins packets of TCP, of UDP, of both or of neither. A device
    /// without USO takes no runs of UDP.
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self {
            tcp,
            udp,
            packets: Vec::new(),
            runs: Vec::new(),
            open: Vec::with_capacity(OPEN),
            not_completable: 0,
        }
    }

    /// Changes what is joined from the next packet on.
    pub fn set_joined(&mut self, tcp: bool, udp: bool) {
        (self.tcp, self.udp) = (tcp, udp);
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.runs.clear();
        self.open.clear();
        self.not_completable = 0;
    }

    /// Adds the packet that is at `range` of the batch's `buffer`. `partial`
    /// says that its transport checksum covers the pseudo-header only.
    ///
    /// # Panics
    ///
    /// The range is not in the buffer.
    pub fn add(&mut self, buffer: &[u8], range: Range<usize>, partial: bool) {
        let packet = &buffer[range.clone()];
        let position = self.packets.len() as u32;
        self.packets.push(Packet { range, partial, next: END });
        match classify(packet, partial, self.tcp, self.udp) {
            Kind::Joinable(key, shape) => {
                let open = self.open.iter().position(|open| open.key == key);
                match open {
                    Some(open) if self.joins(open, buffer, packet, shape) => {
                        self.join(open, packet, shape, position);
                    }
                    Some(open) => {
                        self.open.swap_remove(open);
                        self.start(key, packet, shape, position);
                    }
                    None => self.start(key, packet, shape, position),
                }
            }
            Kind::Alone(key) => {
                self.open.retain(|open| open.key != key);
                self.pass(packet, position, partial);
            }
            Kind::Between(addresses) => {
                self.open.retain(|open| open.key.addresses != addresses);
                self.pass(packet, position, partial);
            }
            Kind::Foreign => self.pass(packet, position, partial),
        }
    }

    /// Makes the headers of each run's first packet, in `buffer`, those of the
    /// run. To be called after the last packet of the batch, of which none may
    /// have changed since it was added.
    ///
    /// # Panics
    ///
    /// The buffer is shorter than it was.
    pub fn finish(&mut self, buffer: &mut [u8]) {
        self.open.clear();
        for run in &mut self.runs {
            run.widen(&self.packets, buffer);
        }
    }

    /// The runs, in order. A packet that was not joined is a run of one.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run<'_>> {
        self.runs.iter().map(|state| Run { packets: &self.packets, state })
    }

    /// Returns how many packets of this batch were said to have a partial checksum and have
    /// none that could be completed. They are there as they came.
    pub const fn not_completable(&self) -> usize {
        self.not_completable
    }

    /// Returns `true` if `packet` may follow the last of an open run.
    fn joins(&self, open: usize, buffer: &[u8], packet: &[u8], shape: Shape) -> bool {
        let open = &self.open[open];
        let run = &self.runs[open.run];
        let first = &buffer[self.packets[run.first as usize].range.clone()];
        let payload = packet.len() - shape.headers;
        run.shape == Some(shape)
            && payload <= run.size
            && run.count < LONGEST_RUN
            && run.bytes + payload <= LARGEST_RUN
            && (shape.version == Version::V6 || open.takes_id(packet))
            && (shape.udp || open.next_sequence == sequence(packet, shape))
            && same_headers(first, packet, shape)
    }

    fn join(&mut self, index: usize, packet: &[u8], shape: Shape, position: u32) {
        let open = &mut self.open[index];
        let run = &mut self.runs[open.run];
        self.packets[run.last as usize].next = position;
        let payload = packet.len() - shape.headers;
        run.last = position;
        run.count += 1;
        run.bytes += payload;
        run.flags = shape.ends(packet);
        if payload < run.size || run.flags != 0 {
            self.open.swap_remove(index);
            return;
        }
        let id = word(packet, 4);
        open.id_step = Some(id.wrapping_sub(open.last_id));
        open.last_id = id;
        open.next_sequence = open.next_sequence.wrapping_add(payload as u32);
    }

    /// Begins a run that may have followers.
    fn start(&mut self, key: FlowKey, packet: &[u8], shape: Shape, position: u32) {
        let run = self.runs.len();
        let payload = packet.len() - shape.headers;
        self.runs.push(State {
            size: payload,
            shape: Some(shape),
            place: Some(shape.checksum_place()),
            ..State::alone(position, packet.len())
        });
        if shape.ends(packet) != 0 {
            return;
        }
        if self.open.len() == OPEN {
            let last = |open: &Open| self.runs[open.run].last;
            let oldest = (0..OPEN).min_by_key(|&index| last(&self.open[index])).unwrap_or(0);
            self.open.swap_remove(oldest);
        }
        self.open.push(Open {
            key,
            run,
            next_sequence: sequence(packet, shape).wrapping_add(payload as u32),
            last_id: word(packet, 4),
            id_step: None,
        });
    }

    /// Lets a packet pass alone.
    fn pass(&mut self, packet: &[u8], position: u32, partial: bool) {
        let mut state = State::alone(position, packet.len());
        if partial {
            state.place = Layout::of(packet).and_then(|layout| layout.checksum_place(packet.len()));
            self.not_completable += usize::from(state.place.is_none());
        }
        self.runs.push(state);
    }
}

impl Open {
    fn takes_id(&self, packet: &[u8]) -> bool {
        let step = word(packet, 4).wrapping_sub(self.last_id);
        let may_not_be_fragmented = packet[6] & 0x40 != 0;
        match self.id_step {
            Some(first) => step == first,
            None => step == 1 || step == 0 && may_not_be_fragmented,
        }
    }
}

/// Returns `true` if what may not differ within a run does not.
fn same_headers(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    let same = |range: Range<usize>| first[range.clone()] == packet[range];
    let at = shape.transport();
    // Class and flags, hop limit; addresses and ports are the flow's.
    let ip = match shape.version {
        Version::V4 => same(0..2) && same(6..9),
        Version::V6 => same(0..4) && same(7..8),
    };
    // Acknowledgement, data offset and reserved bits, flags, window, urgent
    // pointer and options.
    let tcp = || {
        let flags = |packet: &[u8]| packet[at + 13] & !(flag::PSH | flag::FIN);
        same(at + 8..at + 13)
            && flags(first) == flags(packet)
            && same(at + 14..at + 16)
            && same(at + 18..shape.headers)
    };
    ip && (shape.udp || tcp())
}

fn sequence(packet: &[u8], shape: Shape) -> u32 {
    let at = shape.transport() + 4;
    u32::from(word(packet, at)) << 16 | u32::from(word(packet, at + 2))
}
