//! The header that a TUN device puts before each packet when it is opened with
//! `IFF_VNET_HDR`: `struct virtio_net_hdr` of linux/virtio_net.h, 10 bytes,
//! little-endian (the device is set so by `TUNSETVNETLE`).

const NEEDS_CHECKSUM: u8 = 0x01;
const DATA_VALID: u8 = 0x02;
const ECN: u8 = 0x80;

/// The header of a packet at a device: what the packet needs before it is one that could have
/// been received, or what it was joined from.
///
/// ```
/// use ouroboros::tun::offload::VnetHeader;
/// let plain = VnetHeader::default();
/// assert_eq!(plain.encode(), [0; 10]);
/// assert_eq!(VnetHeader::parse(&[0; 10]), Ok(plain));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Where a partial checksum is and what it has to cover (`NEEDS_CSUM`).
    pub checksum: Option<ChecksumPlace>,
    /// Whether the checksum was verified (`DATA_VALID`). The kernel says so of
    /// packets that came from a network card.
    pub data_valid: bool,
    /// Set if the packet stands for several.
    pub gso: Option<Gso>,
    /// Length of all headers in bytes. A hint only: it may be too large.
    pub header_length: u16,
}

/// Where a partial checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumPlace {
    /// Where the bytes that it covers begin, from the packet's start: at the
    /// transport header.
    pub start: u16,
    /// Where the field is, from `start`.
    pub offset: u16,
}

/// How a packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Of which protocols it is.
    pub kind: GsoKind,
    /// Whether the first packet has TCP's CWR flag.
    pub ecn: bool,
    /// Payload of each packet but the last in bytes; not 0.
    pub size: u16,
}

/// Protocols of a packet that stands for several (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// One UDP datagram to be fragmented: what Linux took until 4.14.
    UdpFragments,
    /// TCP over IPv6.
    Tcp6,
    /// Several UDP datagrams, over either IP (Linux 6.2).
    Udp,
}

impl GsoKind {
    const fn code(self) -> u8 {
        match self {
            Self::Tcp4 => 1,
            Self::UdpFragments => 3,
            Self::Tcp6 => 4,
            Self::Udp => 5,
        }
    }
}

/// Environment: the kernel speaks of an offload that is not known here, or of
/// packets without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtio-net header with GSO type {kind:#x} and size {size}")]
pub struct InvalidVnetHeader {
    kind: u8,
    size: u16,
}

impl VnetHeader {
    /// Length in bytes.
    pub const LENGTH: usize = 10;

    /// Reads a header. Flags that are not known do not matter.
    ///
    /// # Errors
    ///
    /// The GSO type is unknown, or is one and has no size.
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Result<Self, InvalidVnetHeader> {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (flags, kind, size) = (bytes[0], bytes[1], word(4));
        let protocols = match kind & !ECN {
            0 => None,
            1 => Some(GsoKind::Tcp4),
            3 => Some(GsoKind::UdpFragments),
            4 => Some(GsoKind::Tcp6),
            5 => Some(GsoKind::Udp),
            _ => return Err(InvalidVnetHeader { kind, size }),
        };
        if protocols.is_some() && size == 0 {
            return Err(InvalidVnetHeader { kind, size });
        }
        let needs_checksum = flags & NEEDS_CHECKSUM != 0;
        Ok(Self {
            checksum: needs_checksum.then(|| ChecksumPlace { start: word(6), offset: word(8) }),
            data_valid: flags & DATA_VALID != 0,
            gso: protocols.map(|protocols| Gso { kind: protocols, ecn: kind & ECN != 0, size }),
            header_length: word(2),
        })
    }

    /// The header's bytes.
    pub const fn encode(&self) -> [u8; Self::LENGTH] {
        let mut flags = if self.data_valid { DATA_VALID } else { 0 };
        let (mut start, mut offset) = (0, 0);
        if let Some(place) = self.checksum {
            flags |= NEEDS_CHECKSUM;
            (start, offset) = (place.start, place.offset);
        }
        let (mut kind, mut size) = (0, 0);
        if let Some(gso) = self.gso {
            kind = gso.kind.code() | if gso.ecn { ECN } else { 0 };
            size = gso.size;
        }
        let [header, size] = [self.header_length.to_le_bytes(), size.to_le_bytes()];
        let [start, offset] = [start.to_le_bytes(), offset.to_le_bytes()];
        [
            flags, kind, header[0], header[1], size[0], size[1], start[0], start[1], offset[0],
            offset[1],
        ]
    }
}
