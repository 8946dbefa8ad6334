//! To which inner flow a packet belongs, and whether it may be part of a run.

use super::{
    ChecksumPlace, Fragment, Layout, Sum, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, Version, flag, word,
};

/// Source and destination address; those of IPv4 are followed by zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses(Version, [u8; 32]);

impl Addresses {
    /// Those of a packet that is at least as long as its header.
    #[inline]
    fn of(packet: &[u8], version: Version) -> Self {
        let mut bytes = [0; 32];
        match version {
            Version::V4 => bytes[..8].copy_from_slice(&packet[12..20]),
            Version::V6 => bytes.copy_from_slice(&packet[8..40]),
        }
        Self(version, bytes)
    }
}

/// The key of a flow of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    pub(super) addresses: Addresses,
    pub(super) udp: bool,
    ports: [u8; 4],
}

/// The kind of a packet, for the coalescer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// It may be part of a run.
    Joinable(FlowKey, Shape),
    /// It passes alone, in order with its flow.
    Alone(FlowKey),
    /// It passes alone, in order with all between the same addresses: a
    /// fragment, a packet with IP options or extensions, ICMP, ….
    Between(Addresses),
    /// It is no IP packet.
    Foreign,
}

/// Sizes of a packet that may be part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) version: Version,
    pub(super) udp: bool,
    /// Length of all headers in bytes.
    pub(super) headers: usize,
}

impl Shape {
    /// Returns where the transport header begins.
    pub(super) const fn transport(self) -> usize {
        self.version.header_length()
    }

    /// Returns where the transport checksum is, from the start of its header.
    pub(super) const fn field(self) -> usize {
        if self.udp { UDP_CHECKSUM } else { TCP_CHECKSUM }
    }

    /// Returns where the transport checksum is.
    pub(super) const fn checksum_place(self) -> ChecksumPlace {
        ChecksumPlace { start: self.transport() as u16, offset: self.field() as u16 }
    }

    /// The flags of a packet after which none follows in its run.
    pub(super) fn ends(self, packet: &[u8]) -> u8 {
        if self.udp { 0 } else { packet[self.transport() + 13] & (flag::PSH | flag::FIN) }
    }

    /// Sum of the pseudo-header of a packet or run of `total` bytes.
    pub(super) fn pseudo_header(self, packet: &[u8], total: usize) -> Sum {
        let protocol = if self.udp { UDP } else { TCP };
        let addresses = self.version.addresses(packet);
        Sum::pseudo_header(addresses, protocol, total - self.transport())
    }
}

/// Looks at a packet; `partial` says that its checksum covers the pseudo-header
/// only, `udp` and `tcp` which runs there are at all.
pub(super) fn classify(packet: &[u8], partial: bool, tcp: bool, udp: bool) -> Kind {
    let Some(version) = Version::of(packet) else { return Kind::Foreign };
    let transport = version.header_length();
    if packet.len() < transport {
        return Kind::Foreign;
    }
    let addresses = Addresses::of(packet, version);
    let (Some(layout), Some(ports)) = (Layout::of(packet), packet.get(transport..transport + 4))
    else {
        return Kind::Between(addresses);
    };
    let is_udp = match layout.protocol {
        TCP => false,
        UDP => true,
        _ => return Kind::Between(addresses),
    };
    if layout.transport != transport || layout.fragment != Fragment::Whole {
        return Kind::Between(addresses);
    }
    let key = FlowKey { addresses, udp: is_udp, ports: [ports[0], ports[1], ports[2], ports[3]] };
    let joined = if is_udp { udp } else { tcp };
    let headers =
        if is_udp { udp_headers(packet, transport) } else { tcp_headers(packet, transport) };
    let (true, true, Some(headers)) = (joined, layout.total == packet.len(), headers) else {
        return Kind::Alone(key);
    };
    let shape = Shape { version, udp: is_udp, headers };
    if is_intact(packet, shape, partial) { Kind::Joinable(key, shape) } else { Kind::Alone(key) }
}

/// Length of all headers of a TCP packet that may be part of a run.
fn tcp_headers(packet: &[u8], transport: usize) -> Option<usize> {
    let header = packet[transport..].first_chunk::<20>()?;
    let length = usize::from(header[12] >> 4) * 4;
    let flags = header[13];
    let plain = flags & !(flag::PSH | flag::FIN | flag::ECE) == flag::ACK;
    let headers = transport + length;
    (plain && length >= 20 && headers < packet.len()).then_some(headers)
}

/// Length of all headers of a UDP packet that may be part of a run.
fn udp_headers(packet: &[u8], transport: usize) -> Option<usize> {
    let header = packet[transport..].first_chunk::<8>()?;
    let length = usize::from(word(header, 4));
    let summed = word(header, UDP_CHECKSUM) != 0;
    (summed && length == packet.len() - transport && length > 8).then_some(transport + 8)
}

/// Returns `true` if the checksums are right, of what they cover.
fn is_intact(packet: &[u8], shape: Shape, partial: bool) -> bool {
    let transport = shape.transport();
    if shape.version == Version::V4 {
        // The reserved flag has no meaning that a run could keep.
        let reserved = packet[6] & 0x80 != 0;
        if reserved || !Sum::default().bytes(&packet[..transport]).is_intact() {
            return false;
        }
    }
    let pseudo = shape.pseudo_header(packet, packet.len());
    if partial {
        pseudo.without(word(packet, transport + shape.field())).is_intact()
    } else {
        pseudo.bytes(&packet[transport..]).is_intact()
    }
}
