//! The answer to a packet that does not fit the path: ICMP "fragmentation
//! needed" (RFC 792, RFC 1191) and ICMPv6 "packet too big" (RFC 4443).

use super::{Fragment, Layout, Sum, Version, set_word};

/// Most bytes of the answer over IPv4 (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Most bytes of the answer over IPv6 (RFC 4443 section 3.2).
const LONGEST_V6: usize = 1280;
/// ICMP's protocol number in IPv4.
const ICMP: u8 = 1;
/// ICMP's protocol number in IPv6.
const ICMP_V6: u8 = 58;
/// Hops that the answer may take.
const HOPS: u8 = 64;

/// Writes into `answer` what tells the sender of `packet` that packets may have
/// at most `mtu` bytes, and returns its length, at most 1280. The packet may be
/// cut off behind its first 1280 bytes.
///
/// The answer comes in the name of the packet's destination: a host takes no
/// packet from its tunnel that has one of its own addresses as the source.
///
/// `None` if there is to be no answer: the packet is no IP packet, or an IPv4
/// one that may be fragmented; it is an ICMP error or a fragment but the first;
/// its source or destination is not a single host (RFC 1122 section 3.2.2, RFC
/// 4443 section 2.4).
///
/// # Panics
///
/// `answer` has less room than it takes; 1280 bytes are enough.
pub fn packet_too_big(packet: &[u8], mtu: usize, answer: &mut [u8]) -> Option<usize> {
    let layout = Layout::of(packet)?;
    let quoted = &packet[..packet.len().min(layout.total)];
    if layout.fragment == Fragment::Later || is_icmp_error(&layout, packet) {
        return None;
    }
    match layout.version {
        Version::V4 => fragmentation_needed(quoted, mtu, answer),
        Version::V6 => too_big_v6(quoted, mtu, answer),
    }
}

fn is_icmp_error(layout: &Layout, packet: &[u8]) -> bool {
    let kind = packet.get(layout.transport).copied();
    match layout.protocol {
        // Destination unreachable, source quench, redirect, time exceeded,
        // parameter problem. Without a type it may be any.
        ICMP if layout.version == Version::V4 => {
            kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
        }
        // Errors, and redirect.
        ICMP_V6 if layout.version == Version::V6 => {
            kind.is_none_or(|kind| kind < 128 || kind == 137)
        }
        _ => false,
    }
}

fn fragmentation_needed(packet: &[u8], mtu: usize, answer: &mut [u8]) -> Option<usize> {
    const HEADERS: usize = 28;
    let may_be_fragmented = packet[6] & 0x40 == 0;
    let (source, destination) = (packet[12..].first_chunk()?, packet[16..].first_chunk()?);
    if may_be_fragmented || !is_host_v4(*source) || !is_host_v4(*destination) {
        return None;
    }
    let quoted = &packet[..packet.len().min(LONGEST_V4 - HEADERS)];
    let length = HEADERS + quoted.len();
    let answer = &mut answer[..length];
    answer[HEADERS..].copy_from_slice(quoted);
    answer[..HEADERS].fill(0);
    answer[0] = 0x45;
    set_word(answer, 2, length as u16);
    (answer[8], answer[9]) = (HOPS, ICMP);
    answer[12..16].copy_from_slice(destination);
    answer[16..20].copy_from_slice(source);
    let checksum = Sum::default().bytes(&answer[..20]).checksum();
    set_word(answer, 10, checksum);
    (answer[20], answer[21]) = (3, 4);
    set_word(answer, 26, u16::try_from(mtu).unwrap_or(u16::MAX));
    let checksum = Sum::default().bytes(&answer[20..]).checksum();
    set_word(answer, 22, checksum);
    Some(length)
}

fn too_big_v6(packet: &[u8], mtu: usize, answer: &mut [u8]) -> Option<usize> {
    const HEADERS: usize = 48;
    let (source, destination) = (packet[8..].first_chunk()?, packet[24..].first_chunk()?);
    if !is_host_v6(source) || !is_host_v6(destination) {
        return None;
    }
    let quoted = &packet[..packet.len().min(LONGEST_V6 - HEADERS)];
    let length = HEADERS + quoted.len();
    let answer = &mut answer[..length];
    answer[HEADERS..].copy_from_slice(quoted);
    answer[..HEADERS].fill(0);
    answer[0] = 0x60;
    set_word(answer, 4, (length - 40) as u16);
    (answer[6], answer[7]) = (ICMP_V6, HOPS);
    answer[8..24].copy_from_slice(destination);
    answer[24..40].copy_from_slice(source);
    answer[40] = 2;
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    answer[44..48].copy_from_slice(&mtu.to_be_bytes());
    let sum = Sum::pseudo_header(&answer[8..40], ICMP_V6, length - 40).bytes(&answer[40..]);
    set_word(answer, 42, sum.checksum());
    Some(length)
}

/// Neither unspecified, nor loopback, nor a group's.
const fn is_host_v4(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

fn is_host_v6(address: &[u8; 16]) -> bool {
    address[0] != 0xff && *address != [0; 16]
}
