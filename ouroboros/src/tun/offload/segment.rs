//! From what one read of a TUN device gives to packets that can be sent.
//!
//! Nothing is copied: [`Segments::plan`] says where each packet's payload is,
//! and [`Segments::write`] completes a packet whose payload is already behind
//! the room for its headers.

use std::ops::Range;

use super::{
    ChecksumPlace, Gso, GsoKind, Layout, Sum, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, Version,
    VnetHeader, flag, set_word, word,
};

/// The treatment of transport checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// They are complete: any host takes the packets.
    Full,
    /// They are left to the receiving host where it can tell how to complete
    /// them: the field holds the sum of the pseudo-header, not complemented.
    Partial,
}

/// The read data cannot be cut into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Environment: an offload that was not asked for, such as fragmentation
    /// of UDP.
    #[error("the kernel left work of a kind that was not offered")]
    Unsupported,
    /// Environment: the virtio-net header and the packet's own do not agree.
    #[error("the headers of a packet from the kernel do not agree")]
    Inconsistent,
    /// A packet is larger than the path takes, and may not be cut smaller. The
    /// answer is [`packet_too_big`](super::packet_too_big).
    #[error("a packet of {0} bytes does not fit the path")]
    TooLarge(usize),
}

/// How one read becomes packets. A packet that stands for itself is the case
/// of one packet without headers to write.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    /// Headers that each packet gets; empty for a packet that stands for
    /// itself.
    headers: &'a [u8],
    total: usize,
    /// Payload of each packet but the last.
    size: usize,
    count: usize,
    /// Whether checksums stay partial.
    partial: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A packet, with the checksum to complete if there is one.
    Single(Option<ChecksumPlace>),
    /// Several of a transport protocol.
    Several(Template),
}

/// The part that the packets of one read have in common.
#[derive(Clone, Debug)]
struct Template {
    version: Version,
    udp: bool,
    /// Where the transport header begins.
    transport: usize,
    /// Sum of the IPv4 header without what varies: length and id.
    ip: Sum,
    /// Sum of the pseudo-header without the length.
    pseudo: Sum,
    /// The same and the transport header without what varies: TCP's sequence
    /// number and flags, UDP's length.
    fixed: Sum,
    id: u16,
    sequence: u32,
    /// Data offset and flags of TCP.
    flags: u16,
}

impl<'a> Segments<'a> {
    /// Plans the cutting of a packet of `total` bytes, whose headers at least
    /// are in `headers`, into packets of at most `largest` bytes.
    ///
    /// TCP is cut smaller than the kernel asked for if that is what fits; UDP
    /// datagrams keep their sizes.
    ///
    /// # Errors
    ///
    /// As [`SegmentError`] says. The packet cannot be sent.
    pub fn plan(
        vnet: &VnetHeader,
        headers: &'a [u8],
        total: usize,
        largest: usize,
        checksums: Checksums,
    ) -> Result<Self, SegmentError> {
        let headers = &headers[..headers.len().min(total)];
        match vnet.gso {
            None => Self::single(vnet.checksum, headers, total, largest, checksums),
            Some(gso) => Self::several(gso, vnet.checksum, headers, total, largest, checksums),
        }
    }

    fn single(
        checksum: Option<ChecksumPlace>,
        headers: &'a [u8],
        total: usize,
        largest: usize,
        checksums: Checksums,
    ) -> Result<Self, SegmentError> {
        if total > largest {
            return Err(SegmentError::TooLarge(total));
        }
        let mut partial = false;
        if let Some(place) = checksum {
            check(place, total)?;
            partial = checksums == Checksums::Partial && is_derivable(place, headers, total);
        }
        let what = What::Single(checksum.filter(|_| !partial));
        Ok(Self { headers: &[], total, size: total, count: 1, partial, what })
    }

    fn several(
        gso: Gso,
        checksum: Option<ChecksumPlace>,
        headers: &'a [u8],
        total: usize,
        largest: usize,
        checksums: Checksums,
    ) -> Result<Self, SegmentError> {
        use SegmentError::{Inconsistent, TooLarge, Unsupported};
        let layout = Layout::of(headers).ok_or(Inconsistent)?;
        let udp = match (gso.kind, layout.version) {
            (GsoKind::UdpFragments, _) => return Err(Unsupported),
            (GsoKind::Udp, _) => true,
            (GsoKind::Tcp4, Version::V4) | (GsoKind::Tcp6, Version::V6) => false,
            (GsoKind::Tcp4 | GsoKind::Tcp6, _) => return Err(Inconsistent),
        };
        let (protocol, field) = if udp { (UDP, UDP_CHECKSUM) } else { (TCP, TCP_CHECKSUM) };
        let at = layout.transport;
        let length = transport_length(&headers[at..], udp).ok_or(Inconsistent)?;
        if !layout.is_whole(total, protocol) {
            return Err(Inconsistent);
        }
        let (headers, payload) = (&headers[..at + length], total - at - length);
        let mut size = usize::from(gso.size).min(payload.max(1));
        let room = largest.saturating_sub(headers.len());
        if room == 0 || udp && room < size {
            return Err(TooLarge(headers.len() + size));
        }
        size = size.min(room);
        let pseudo = match checksum {
            // The kernel's own sum: with a routing header it has another
            // destination than the IP header.
            Some(ChecksumPlace { start, offset })
                if usize::from(start) == at && usize::from(offset) == field =>
            {
                let length = u16::try_from(total - at).map_err(|_| Inconsistent)?;
                Sum::default().word(word(headers, at + field)).without(length)
            }
            Some(_) => return Err(Inconsistent),
            None => Sum::pseudo_header(layout.version.addresses(headers), protocol, 0),
        };
        Ok(Self {
            headers,
            total,
            size,
            count: payload.div_ceil(size).max(1),
            partial: checksums == Checksums::Partial,
            what: What::Several(Template::new(layout.version, udp, headers, at, pseudo)),
        })
    }

    /// Returns how many packets there are; at least one.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length of the headers that [`write`](Self::write) puts before each
    /// payload, in bytes; 0 for a packet that stands for itself, which is all
    /// payload.
    pub const fn header_length(&self) -> usize {
        self.headers.len()
    }

    /// Returns `true` if the packets' checksums stay partial.
    pub const fn is_partial(&self) -> bool {
        self.partial
    }

    /// Returns where in what was read the payload of packet `index` is.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let start = self.total.min(self.headers.len() + index * self.size);
        start..self.total.min(start + self.size)
    }

    /// Length of packet `index` in bytes.
    pub fn size(&self, index: usize) -> usize {
        self.headers.len() + self.payload(index).len()
    }

    /// Makes `slot` packet `index`. Its payload is already there, behind the
    /// room for the headers.
    ///
    /// # Panics
    ///
    /// There is no such packet, or the slot has not its size.
    pub fn write(&self, index: usize, slot: &mut [u8]) {
        assert!(index < self.count && slot.len() == self.size(index), "a slot of another packet");
        match &self.what {
            What::Single(Some(place)) => complete(*place, slot),
            What::Single(None) => {}
            What::Several(template) => {
                slot[..self.headers.len()].copy_from_slice(self.headers);
                template.apply(self, index, slot);
            }
        }
    }

    /// As [`write`](Self::write), with the payload copied from `packet`, which
    /// is all that was read.
    ///
    /// # Panics
    ///
    /// There is no such packet, or the slot has not its size, or `packet` is
    /// shorter than was planned for.
    pub fn copy(&self, index: usize, packet: &[u8], slot: &mut [u8]) {
        slot[self.headers.len()..].copy_from_slice(&packet[self.payload(index)]);
        self.write(index, slot);
    }
}

impl Template {
    /// `at` is where in the headers the transport header begins.
    fn new(version: Version, udp: bool, headers: &[u8], at: usize, pseudo: Sum) -> Self {
        let (ip, transport) = headers.split_at(at);
        let mut template = Self {
            version,
            udp,
            transport: at,
            ip: Sum::default(),
            pseudo,
            fixed: pseudo.bytes(&transport[..4]),
            id: 0,
            sequence: 0,
            flags: 0,
        };
        if version == Version::V4 {
            template.id = word(ip, 4);
            template.ip = Sum::default().bytes(&ip[..2]).bytes(&ip[6..10]).bytes(&ip[12..]);
        }
        if !udp {
            template.sequence = u32::from(word(transport, 4)) << 16 | u32::from(word(transport, 6));
            template.flags = word(transport, 12);
            let fixed = template.fixed.bytes(&transport[8..12]).bytes(&transport[14..16]);
            template.fixed = fixed.bytes(&transport[18..]);
        }
        template
    }

    /// Makes the headers in `slot`, which are those of all, the ones of packet
    /// `index`.
    #[inline]
    fn apply(&self, segments: &Segments<'_>, index: usize, slot: &mut [u8]) {
        let total = slot.len();
        // What was read had a length of 16 bits, and a part is no longer.
        let length = (total - self.transport) as u16;
        match self.version {
            Version::V4 => {
                let id = self.id.wrapping_add(index as u16);
                set_word(slot, 2, total as u16);
                set_word(slot, 4, id);
                set_word(slot, 10, self.ip.word(total as u16).word(id).checksum());
            }
            Version::V6 => set_word(slot, 4, (total - 40) as u16),
        }
        let (headers, payload) = slot.split_at_mut(segments.headers.len());
        let transport = &mut headers[self.transport..];
        let mut sum = self.fixed.word(length);
        if self.udp {
            set_word(transport, 4, length);
            sum = sum.word(length);
        } else {
            let sequence = self.sequence.wrapping_add((index * segments.size) as u32);
            let mut flags = self.flags;
            if index > 0 {
                flags &= !u16::from(flag::CWR);
            }
            if index + 1 < segments.count {
                flags &= !u16::from(flag::FIN | flag::PSH);
            }
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            set_word(transport, 12, flags);
            sum = sum.long(sequence).word(flags);
        }
        let field = if self.udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        let checksum = match (segments.partial, self.udp) {
            (true, _) => self.pseudo.word(length).fold(),
            (false, true) => sum.bytes(payload).udp_checksum(),
            (false, false) => sum.bytes(payload).checksum(),
        };
        set_word(transport, field, checksum);
    }
}

/// Completes the checksum of a packet that stands for itself, if the kernel
/// left it partial. With [`Checksums::Partial`] it stays so if the receiver can
/// derive its place from the packet: a TCP or UDP packet that is no fragment.
/// Says whether it is partial now.
///
/// # Errors
///
/// [`SegmentError::Inconsistent`] if the place is not in the packet,
/// [`SegmentError::Unsupported`] if the packet stands for several.
pub fn complete_checksum(
    packet: &mut [u8],
    vnet: &VnetHeader,
    checksums: Checksums,
) -> Result<bool, SegmentError> {
    if vnet.gso.is_some() {
        return Err(SegmentError::Unsupported);
    }
    let Some(place) = vnet.checksum else { return Ok(false) };
    check(place, packet.len())?;
    if checksums == Checksums::Partial && is_derivable(place, packet, packet.len()) {
        return Ok(true);
    }
    complete(place, packet);
    Ok(false)
}

/// Length of a transport header, if all of it is there.
fn transport_length(transport: &[u8], udp: bool) -> Option<usize> {
    let length = if udp { 8 } else { usize::from(*transport.get(12)? >> 4) * 4 };
    let least = if udp { 8 } else { 20 };
    (least..=transport.len()).contains(&length).then_some(length)
}

/// Returns an error unless the field is in a packet of `total` bytes.
fn check(place: ChecksumPlace, total: usize) -> Result<(), SegmentError> {
    let end = usize::from(place.start) + usize::from(place.offset) + 2;
    if end <= total { Ok(()) } else { Err(SegmentError::Inconsistent) }
}

fn is_derivable(place: ChecksumPlace, headers: &[u8], total: usize) -> bool {
    let layout = Layout::of(headers);
    layout.and_then(|layout| layout.checksum_place(total)) == Some(place)
}

fn complete(place: ChecksumPlace, packet: &mut [u8]) {
    let covered = &mut packet[usize::from(place.start)..];
    let sum = Sum::default().bytes(covered);
    let field = usize::from(place.offset);
    let checksum = if field == UDP_CHECKSUM { sum.udp_checksum() } else { sum.checksum() };
    set_word(covered, field, checksum);
}
