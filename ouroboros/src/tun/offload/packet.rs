//! Reading and changing a single IP packet: its layout, the maximum segment size of TCP.

use super::{
    ChecksumPlace, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, Version, flag, replace_at, set_word, word,
};

/// IPv6 extension headers that are followed; more are no packet that anyone
/// means.
const MOST_EXTENSIONS: usize = 16;

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// Another fragment: what stands behind the IP header is no transport
    /// header.
    Later,
}

/// Where things are in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The version.
    pub version: Version,
    /// Protocol number of what follows the IP header and the extension headers
    /// that can be followed: hop-by-hop, routing, destination, fragment.
    pub protocol: u8,
    /// Where that begins, in bytes.
    pub transport: usize,
    /// Length of the packet in bytes, by its header.
    pub total: usize,
    /// Which part of a packet it is.
    pub fragment: Fragment,
}

impl Layout {
    /// Reads the headers of a packet, of which no more need be there. `None` if
    /// they are not IP's or end early, or if the length is less than theirs.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let layout = match Version::of(packet)? {
            Version::V4 => Self::of_v4(packet)?,
            Version::V6 => Self::of_v6(packet)?,
        };
        (layout.transport <= layout.total && layout.transport <= packet.len()).then_some(layout)
    }

    fn of_v4(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let transport = usize::from(header[0] & 0x0f) * 4;
        let fragment = match word(header, 6) & 0x3fff {
            0 => Fragment::Whole,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        };
        let total = word(header, 2).into();
        let protocol = header[9];
        (transport >= 20).then_some(Self {
            version: Version::V4,
            protocol,
            transport,
            total,
            fragment,
        })
    }

    fn of_v6(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<40>()?;
        let mut layout = Self {
            version: Version::V6,
            protocol: header[6],
            transport: 40,
            total: 40 + usize::from(word(header, 4)),
            fragment: Fragment::Whole,
        };
        for _ in 0..MOST_EXTENSIONS {
            if layout.fragment == Fragment::Later || !matches!(layout.protocol, 0 | 43 | 44 | 60) {
                return Some(layout);
            }
            let extension = packet.get(layout.transport..)?.first_chunk::<8>()?;
            if layout.protocol == 44 {
                layout.fragment = match word(extension, 2) & 0xfff9 {
                    0 => layout.fragment,
                    1 => Fragment::First,
                    _ => Fragment::Later,
                };
                layout.transport += 8;
            } else {
                layout.transport += (usize::from(extension[1]) + 1) * 8;
            }
            layout.protocol = extension[0];
        }
        None
    }

    /// Returns `true` if this is all of a packet that has `length` bytes and `protocol` in it.
    pub(super) fn is_whole(&self, length: usize, protocol: u8) -> bool {
        self.fragment == Fragment::Whole && self.total == length && self.protocol == protocol
    }

    /// Returns where the checksum of a TCP or UDP packet of `length` bytes is, if this is all
    /// of one and it has room for it.
    pub fn checksum_place(&self, length: usize) -> Option<ChecksumPlace> {
        let offset = match self.protocol {
            TCP => TCP_CHECKSUM,
            UDP => UDP_CHECKSUM,
            _ => return None,
        };
        let start = u16::try_from(self.transport).ok()?;
        let room = self.transport + offset + 2 <= length;
        (room && self.is_whole(length, self.protocol))
            .then_some(ChecksumPlace { start, offset: offset as u16 })
    }
}

/// Lowers the maximum segment size that a TCP SYN offers to what fits packets
/// of `largest` bytes without options (RFC 9293 section 3.7.1), and says
/// whether it did. `partial` says that the checksum covers the pseudo-header
/// only, which does not change.
pub fn clamp_mss(packet: &mut [u8], largest: usize, partial: bool) -> bool {
    let Some((place, transport, most)) = mss_above(packet, largest) else { return false };
    let old = word(packet, place);
    set_word(packet, place, most);
    if !partial {
        let field = transport + TCP_CHECKSUM;
        let checksum = replace_at(word(packet, field), place - transport, old, most);
        set_word(packet, field, checksum);
    }
    true
}

/// Returns where a SYN says a larger segment size than fits, where its TCP header is, and what
/// fits.
fn mss_above(packet: &[u8], largest: usize) -> Option<(usize, usize, u16)> {
    let layout = Layout::of(packet)?;
    if !layout.is_whole(packet.len(), TCP) {
        return None;
    }
    let tcp = &packet[layout.transport..];
    let header = tcp.first_chunk::<20>()?;
    let end = usize::from(header[12] >> 4) * 4;
    if header[13] & flag::SYN == 0 || end > tcp.len() {
        return None;
    }
    let headers = layout.version.header_length() + 20;
    let most = u16::try_from(largest.saturating_sub(headers).max(1)).unwrap_or(u16::MAX);
    let mut place = 20;
    while place < end {
        match tcp[place..end] {
            [1, ..] => place += 1,
            [2, 4, high, low, ..] => {
                let larger = u16::from_be_bytes([high, low]) > most;
                return larger.then_some((layout.transport + place + 2, layout.transport, most));
            }
            [0, ..] | [_] | [_, 0 | 1, ..] | [] => return None,
            [_, length, ..] => place += usize::from(length),
        }
    }
    None
}
