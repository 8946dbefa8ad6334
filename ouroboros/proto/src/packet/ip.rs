//! The part of an IP header that every layer has to know: the version, the addresses, and
//! congestion (ECN). Not here: what follows the header (`ouroboros::tun::offload`).

use super::checksum::replace;

/// Version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// The version that a packet says it is of; nothing else is checked.
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Length of a header without options or extensions, in bytes.
    pub const fn header_length(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// Source and destination address of a packet that is as long as its
    /// [header](Self::header_length).
    pub fn addresses(self, packet: &[u8]) -> &[u8] {
        match self {
            Self::V4 => &packet[12..20],
            Self::V6 => &packet[8..40],
        }
    }
}

/// The field of explicit congestion notification (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// The transport does not take part.
    NotEct,
    /// It does, with code point 1.
    Ect1,
    /// It does, with code point 0.
    Ect0,
    /// Congestion was experienced.
    Ce,
}

impl Ecn {
    /// From the low two bits.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }

    /// The field of a packet, unless it is too short to be one.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let bits = match Version::of(packet)? {
            Version::V4 => *packet.get(1)?,
            Version::V6 => packet.get(1)? >> 4,
        };
        Some(Self::from_bits(bits))
    }

    /// Writes the field of a packet and keeps an IPv4 header checksum right.
    /// What is no packet stays as it is.
    pub fn write(self, packet: &mut [u8]) {
        match Version::of(packet) {
            Some(Version::V4) if packet.len() >= 20 => {
                let old = word(packet, 0);
                packet[1] = packet[1] & !3 | self.bits();
                let new = word(packet, 0);
                if new != old {
                    let checksum = replace(word(packet, 10), old, new);
                    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                }
            }
            Some(Version::V6) if packet.len() >= 40 => {
                packet[1] = packet[1] & !0x30 | self.bits() << 4;
            }
            _ => {}
        }
    }

    /// Returns the field of an inner packet when the outer packet that carried it arrives with
    /// `outer` (RFC 6040, figure 4); `None` if the packet is to be dropped.
    pub const fn decapsulated(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect1, _) | (_, Self::Ect1) => Some(Self::Ect1),
            (Self::Ect0, _) => Some(Self::Ect0),
        }
    }
}

/// The big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
