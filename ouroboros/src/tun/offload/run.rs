//! A run of joined packets: what is written to the device, and the way back to
//! its packets.

use std::ops::Range;

use super::{
    ChecksumPlace, Gso, GsoKind, Sum, Version, VnetHeader, flag, flow::Shape, set_word, word,
};

/// No packet.
pub(super) const END: u32 = u32::MAX;

/// A packet of the batch.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) range: Range<usize>,
    pub(super) partial: bool,
    /// The next packet of its run, or [`END`].
    pub(super) next: u32,
}

/// The state of a run in the coalescer.
#[derive(Debug)]
pub(super) struct State {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) count: usize,
    /// Length in bytes, all headers once.
    pub(super) bytes: usize,
    /// Payload of its first packet in bytes.
    pub(super) size: usize,
    /// Set for what may have followers.
    pub(super) shape: Option<Shape>,
    /// Where the checksum of its packets is, where one may be partial.
    pub(super) place: Option<ChecksumPlace>,
    /// PSH and FIN of its last packet.
    pub(super) flags: u8,
    /// The first packet's IP and transport checksums, once its headers are the
    /// run's.
    pub(super) original: Option<(u16, u16)>,
}

impl State {
    /// A run of the packet at this position of the batch.
    pub(super) const fn alone(position: u32, bytes: usize) -> Self {
        Self {
            first: position,
            last: position,
            count: 1,
            bytes,
            size: 0,
            shape: None,
            place: None,
            flags: 0,
            original: None,
        }
    }

    /// Makes the first packet's headers the run's.
    pub(super) fn widen(&mut self, packets: &[Packet], buffer: &mut [u8]) {
        let (Some(shape), 2.., None) = (self.shape, self.count, self.original) else { return };
        let start = packets[self.first as usize].range.start;
        let headers = &mut buffer[start..start + shape.headers];
        let field = shape.transport() + shape.field();
        self.original = Some((word(headers, 10), word(headers, field)));
        set_lengths(headers, shape, self.bytes);
        if shape.version == Version::V4 {
            set_word(headers, 10, 0);
            let checksum = Sum::default().bytes(&headers[..shape.transport()]).checksum();
            set_word(headers, 10, checksum);
        }
        if !shape.udp {
            headers[shape.transport() + 13] |= self.flags;
        }
        let pseudo = shape.pseudo_header(headers, self.bytes);
        set_word(headers, field, pseudo.fold());
    }

    /// Gives the first packet its headers back.
    fn narrow(&self, packets: &[Packet], buffer: &mut [u8]) {
        let (Some(shape), Some((ip, transport))) = (self.shape, self.original) else { return };
        let range = packets[self.first as usize].range.clone();
        let headers = &mut buffer[range.start..range.start + shape.headers];
        set_lengths(headers, shape, range.len());
        if shape.version == Version::V4 {
            set_word(headers, 10, ip);
        }
        if !shape.udp {
            // One that has either has no follower.
            headers[shape.transport() + 13] &= !(flag::PSH | flag::FIN);
        }
        set_word(headers, shape.transport() + shape.field(), transport);
    }

    /// Returns the header before a packet of the run that is written alone.
    fn header_alone(&self, packet: &Packet) -> VnetHeader {
        VnetHeader { checksum: self.place.filter(|_| packet.partial), ..VnetHeader::default() }
    }
}

/// Writes the lengths in the headers of a packet or run of `total` bytes, which
/// are at most 65535.
fn set_lengths(headers: &mut [u8], shape: Shape, total: usize) {
    match shape.version {
        Version::V4 => set_word(headers, 2, total as u16),
        Version::V6 => set_word(headers, 4, (total - shape.transport()) as u16),
    }
    if shape.udp {
        set_word(headers, shape.transport() + 4, (total - shape.transport()) as u16);
    }
}

/// Packets that were joined, or one that was not.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub(super) packets: &'a [Packet],
    pub(super) state: &'a State,
}

impl<'a> Run<'a> {
    /// Returns the header to write before the parts.
    pub fn header(&self) -> [u8; VnetHeader::LENGTH] {
        let first = &self.packets[self.state.first as usize];
        let (Some(shape), Some(_)) = (self.state.shape, self.state.original) else {
            return self.state.header_alone(first).encode();
        };
        let kind = match (shape.udp, shape.version) {
            (true, _) => GsoKind::Udp,
            (false, Version::V4) => GsoKind::Tcp4,
            (false, Version::V6) => GsoKind::Tcp6,
        };
        VnetHeader {
            checksum: self.state.place,
            data_valid: false,
            gso: Some(Gso { kind, ecn: false, size: self.state.size as u16 }),
            header_length: shape.headers as u16,
        }
        .encode()
    }

    /// Returns the parts to write, as ranges of the batch's buffer: the first packet, then the
    /// payload of each that follows. There are as many as [`packets`](Self::packets).
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let headers = self.state.shape.map_or(0, |shape| shape.headers);
        let mut skipped = 0;
        self.of_run().map(move |packet| {
            let start = packet.range.start + skipped;
            skipped = headers;
            start..packet.range.end
        })
    }

    /// Returns how many packets were joined; at most [`LONGEST_RUN`](super::LONGEST_RUN).
    pub const fn packets(&self) -> usize {
        self.state.count
    }

    /// Length of all parts in bytes; at most
    /// [`LARGEST_RUN`](super::LARGEST_RUN) if several packets were joined.
    pub const fn bytes(&self) -> usize {
        self.state.bytes
    }

    /// The way back, for a device that does not take the run: gives its first
    /// packet, in `buffer`, the headers that it had, and goes through the
    /// packets, each with what is written before it.
    ///
    /// # Panics
    ///
    /// The buffer is shorter than it was.
    pub fn take_apart(&self, buffer: &mut [u8]) -> Singles<'a> {
        self.state.narrow(self.packets, buffer);
        Singles { run: *self, next: self.state.first }
    }

    fn of_run(&self) -> impl Iterator<Item = &'a Packet> + use<'a> {
        let packets = self.packets;
        let follow = move |packet: &&'a Packet| packets.get(packet.next as usize);
        std::iter::successors(packets.get(self.state.first as usize), follow)
    }
}

/// The packets of a run, each with its virtio-net header and its place in the
/// batch's buffer. See [`Run::take_apart`].
#[derive(Clone, Debug)]
pub struct Singles<'a> {
    run: Run<'a>,
    next: u32,
}

impl Iterator for Singles<'_> {
    type Item = ([u8; VnetHeader::LENGTH], Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let packet = self.run.packets.get(self.next as usize)?;
        self.next = packet.next;
        Some((self.run.state.header_alone(packet).encode(), packet.range.clone()))
    }
}
