//! Super-packets to packets that fit a datagram, and back. `main` drives it.
//!
//! A packet travels as two bytes and itself. The two bytes say where its
//! transport checksum begins and, from there, where it is kept, if the checksum
//! is *partial* (only the pseudo-header is summed so far); they are zero if it
//! is complete. Nothing here sums a payload.

use crate::device::HEADER;

/// Bytes in front of a packet on the way.
pub(crate) const PREFIX: usize = 2;

/// Largest IP packet.
const LARGEST: usize = 65_535;
/// Datagrams that the kernel would join at most, and so any socket's buffer can
/// take at once.
const DATAGRAMS: usize = 64;

// linux/virtio_net.h
const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP_SEGMENTS: u8 = 5;
const ECN: u8 = 0x80;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where a checksum is kept in its header, which tells TCP from UDP.
const IN_TCP: u8 = 16;
const IN_UDP: u8 = 6;

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn sequence(tcp: &[u8]) -> u32 {
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(word(pair, 0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Length of the headers, if these are IP and TCP or UDP and whole.
fn headers(packet: &[u8], [start, offset]: [u8; 2]) -> Option<usize> {
    let begin = usize::from(start);
    let least = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    let length = match offset {
        IN_TCP => begin + usize::from(packet.get(begin + 12)? >> 4) * 4,
        IN_UDP => begin + 8,
        _ => return None,
    };
    let minimum = begin + if offset == IN_TCP { 20 } else { 8 };
    (begin >= least && length >= minimum && length <= packet.len()).then_some(length)
}

/// Makes lengths, the IPv4 checksum and the partial transport checksum those
/// of a packet of `length` bytes that begins with these headers.
fn finish(headers: &mut [u8], [start, offset]: [u8; 2], length: usize) {
    let begin = usize::from(start);
    let transport = length - begin;
    let addresses = if headers[0] >> 4 == 4 {
        put(headers, 2, length as u16);
        put(headers, 10, 0);
        let checksum = !fold(sum(&headers[..begin]));
        put(headers, 10, checksum);
        sum(&headers[12..20])
    } else {
        put(headers, 4, (length - 40) as u16);
        sum(&headers[8..40])
    };
    let protocol = if offset == IN_TCP { 6 } else { 17 };
    if offset == IN_UDP {
        put(headers, begin + 4, transport as u16);
    }
    put(headers, begin + usize::from(offset), fold(addresses + protocol + transport as u32));
}

/// Gives `each` the packets of what was read from the device, each as its
/// prefix, its headers and its payload (all in the headers if it is whole).
pub(crate) fn cut(read: &mut [u8], mut each: impl FnMut([u8; 2], &[u8], &[u8])) {
    let Some((description, packet)) = read.split_at_mut_checked(HEADER) else { return };
    let native = |at| u16::from_ne_bytes([description[at], description[at + 1]]);
    let prefix = match description[0] & NEEDS_CHECKSUM {
        0 => [0, 0],
        _ => [native(6) as u8, native(8) as u8],
    };
    let size = usize::from(native(4));
    let length = match (description[1] & !ECN, headers(packet, prefix)) {
        (TCP4 | TCP6 | UDP_SEGMENTS, Some(length)) if size > 0 && length < packet.len() => length,
        _ => return each(prefix, packet, &[]),
    };
    let (headers, payload) = packet.split_at_mut(length);
    let tcp = usize::from(prefix[0]);
    let is_tcp = prefix[1] == IN_TCP;
    let flags = if is_tcp { headers[tcp + 13] } else { 0 };
    let pieces = payload.len().div_ceil(size);
    for (i, piece) in payload.chunks(size).enumerate() {
        if is_tcp {
            // The first alone says that the window was reduced, the last that
            // the data is to be pushed, or is all.
            let first = if i > 0 { CWR } else { 0 };
            let last = if i + 1 < pieces { PSH | FIN } else { 0 };
            headers[tcp + 13] = flags & !first & !last;
        }
        finish(headers, prefix, length + piece.len());
        each(prefix, headers, piece);
        if is_tcp {
            let next = sequence(&headers[tcp..]).wrapping_add(piece.len() as u32);
            headers[tcp + 4..tcp + 8].copy_from_slice(&next.to_be_bytes());
        }
        if headers[0] >> 4 == 4 {
            let next = word(headers, 4).wrapping_add(1);
            put(headers, 4, next);
        }
    }
}

/// Puts packets together again as they come, and gives the device what can
/// grow no more.
pub(crate) struct Join {
    /// The device's header, then the packet.
    bytes: Vec<u8>,
    prefix: [u8; 2],
    headers: usize,
    /// Payload of the first packet, and of all but the last.
    size: usize,
    pieces: usize,
    open: bool,
    /// Whether the kernel takes UDP super-packets.
    udp: bool,
}

impl Join {
    pub(crate) fn new(udp: bool) -> Self {
        let bytes = Vec::with_capacity(HEADER + LARGEST);
        Self { bytes, prefix: [0; 2], headers: 0, size: 0, pieces: 0, open: false, udp }
    }

    /// Takes a packet with its prefix.
    pub(crate) fn push(&mut self, received: &[u8], mut write: impl FnMut(&[u8])) {
        let Some((&prefix, packet)) = received.split_first_chunk::<PREFIX>() else { return };
        let length = headers(packet, prefix);
        if let Some(length) = length
            && self.continues(prefix, packet, length)
        {
            let payload = &packet[length..];
            self.bytes.extend_from_slice(payload);
            self.pieces += 1;
            let tcp = HEADER + usize::from(prefix[0]) + 13;
            let mut last = false;
            if prefix[1] == IN_TCP {
                let flags = packet[usize::from(prefix[0]) + 13] & (PSH | FIN);
                self.bytes[tcp] |= flags;
                last = flags != 0;
            }
            self.open = !last && payload.len() == self.size;
            return;
        }
        self.flush(&mut write);
        self.bytes.resize(HEADER, 0);
        self.bytes.extend_from_slice(packet);
        (self.prefix, self.pieces, self.open) = (prefix, 1, false);
        if let Some(length) = length {
            let is_tcp = prefix[1] == IN_TCP;
            let ends = is_tcp && packet[usize::from(prefix[0]) + 13] & (PSH | FIN) != 0;
            self.headers = length;
            self.size = packet.len() - length;
            self.open = self.size > 0 && !ends && (is_tcp || self.udp);
        }
    }

    /// Whether the packet is the next of the same stream, or flow.
    fn continues(&self, prefix: [u8; 2], packet: &[u8], length: usize) -> bool {
        if !self.open || prefix != self.prefix || length != self.headers {
            return false;
        }
        let payload = packet.len() - length;
        let before = &self.bytes[HEADER..];
        let begin = usize::from(prefix[0]);
        if payload == 0 || payload > self.size || before.len() + payload > LARGEST {
            return false;
        }
        let same = |from: usize, to: usize| before[from..to] == packet[from..to];
        let ip = match packet[0] >> 4 {
            4 => same(0, 2) && same(6, 10) && same(12, begin),
            _ => same(0, 4) && same(6, begin),
        };
        let transport = if prefix[1] == IN_TCP {
            let next = sequence(&before[begin..]).wrapping_add((before.len() - length) as u32);
            sequence(&packet[begin..]) == next
                && same(begin, begin + 4)
                && same(begin + 8, begin + 13)
                && before[begin + 13] & !CWR == packet[begin + 13] & !(PSH | FIN)
                && same(begin + 14, begin + 16)
                && same(begin + 18, length)
        } else {
            self.pieces < DATAGRAMS && same(begin, begin + 4)
        };
        ip && transport
    }

    /// Gives the device what there is.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[u8])) {
        if self.bytes.len() > HEADER {
            let (description, packet) = self.bytes.split_at_mut(HEADER);
            let mut put = |at: usize, value: u16| {
                description[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            };
            if self.prefix != [0; 2] {
                put(6, self.prefix[0].into());
                put(8, self.prefix[1].into());
            }
            if self.pieces > 1 {
                put(2, self.headers as u16);
                put(4, self.size as u16);
                let length = packet.len();
                finish(&mut packet[..self.headers], self.prefix, length);
                description[1] = match (self.prefix[1], packet[0] >> 4) {
                    (IN_UDP, _) => UDP_SEGMENTS,
                    (_, 4) => TCP4,
                    _ => TCP6,
                };
                if self.prefix[1] == IN_TCP && packet[usize::from(self.prefix[0]) + 13] & CWR != 0 {
                    description[1] |= ECN;
                }
            }
            description[0] = if self.prefix == [0; 2] { 0 } else { NEEDS_CHECKSUM };
            write(&self.bytes);
        }
        self.bytes.clear();
        self.open = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device gives: a super-packet of `payload` bytes for pieces of 1000.
    fn read(version: u8, transport: u8, payload: usize) -> Vec<u8> {
        let begin = if version == 4 { 20 } else { 40 };
        let prefix = [begin as u8, transport];
        let kind = match (transport, version) {
            (IN_UDP, _) => UDP_SEGMENTS,
            (_, 4) => TCP4,
            _ => TCP6,
        };
        let length = begin + if transport == IN_TCP { 32 } else { 8 };
        let mut packet: Vec<u8> = (0..length + payload).map(|i| (i % 251) as u8).collect();
        packet[0] = version << 4 | 5;
        if transport == IN_TCP {
            packet[begin + 12] = 8 << 4;
            packet[begin + 13] = 0x10 | PSH;
        }
        finish(&mut packet[..length], prefix, length + payload);
        let mut bytes = vec![NEEDS_CHECKSUM, kind];
        for value in [length as u16, 1000, begin as u16, transport.into()] {
            bytes.extend_from_slice(&value.to_ne_bytes());
        }
        bytes.extend_from_slice(&packet);
        bytes
    }

    fn pieces(mut read: Vec<u8>) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        cut(&mut read, |prefix, headers, payload| {
            pieces.push([&prefix, headers, payload].concat())
        });
        pieces
    }

    fn joined(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        let mut join = Join::new(true);
        for piece in pieces {
            join.push(piece, |bytes| written.push(bytes.to_vec()));
        }
        join.flush(|bytes| written.push(bytes.to_vec()));
        written
    }

    #[test]
    fn what_is_cut_is_joined_to_the_same_bytes() {
        for (version, transport) in [(4, IN_TCP), (6, IN_TCP), (4, IN_UDP), (6, IN_UDP)] {
            let whole = read(version, transport, 5500);
            let pieces = pieces(whole.clone());
            assert_eq!(pieces.len(), 6);
            assert_eq!(joined(&pieces), [whole]);
        }
    }

    #[test]
    fn a_lost_piece_of_a_stream_leaves_two_runs() {
        let mut pieces = pieces(read(4, IN_TCP, 6000));
        pieces.remove(3);
        assert_eq!(joined(&pieces).len(), 2);
    }

    #[test]
    fn other_bytes_pass_unchanged() {
        let mut ping = vec![0; HEADER];
        ping.extend_from_slice(&[0x45; 84]);
        let pieces = pieces(ping.clone());
        assert_eq!(pieces.len(), 1);
        assert_eq!(joined(&pieces), [ping]);
    }

    #[test]
    fn no_bytes_break_it() {
        for length in 0..64 {
            for byte in 0..=255 {
                let bytes = vec![byte; length];
                joined(&[bytes.clone(), bytes.clone()]);
                pieces(bytes);
            }
        }
    }
}
