//! Frames of eth-dix as bytes: the header, and the kernel's filter for them. Not
//! here: sockets.

use std::io;

use socket2::SockFilter;

use crate::{
    sys::link::Link,
    wire::{Eid, MacAddress, PeerAddress},
};

/// dst MAC, src MAC, ethertype, eid, length.
pub(in crate::transport) const HEADER: usize = 18;
/// eid and length, which the MTU has to hold too.
const SHIM: usize = 4;
/// The MTU that a 0.23 peer takes a loopback device to have.
const LOOPBACK_MTU: usize = 9000;
/// Largest frame of any Ethernet; `length` could say more.
pub(super) const LARGEST: usize = 65535;

/// Largest payload of a frame on `link` when its MTU is `mtu`.
pub(in crate::transport) fn largest_payload(link: &Link, mtu: usize) -> usize {
    let mtu = if link.loopback { LOOPBACK_MTU } else { mtu };
    mtu.min(LARGEST).saturating_sub(SHIM)
}

/// The header of a frame with `length` bytes of payload.
pub(in crate::transport) fn header(
    to: MacAddress,
    from: MacAddress,
    ethertype: u16,
    eid: Eid,
    length: u16,
) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..14].copy_from_slice(&ethertype.to_be_bytes());
    header[14..16].copy_from_slice(&(eid.0 as u16).to_be_bytes());
    header[16..].copy_from_slice(&length.to_be_bytes());
    header
}

/// A received frame: who sent it, the endpoint it is for, and its payload
/// without padding. `None` unless all of that is there.
pub(in crate::transport) fn parse(frame: &[u8]) -> Option<(MacAddress, Eid, &[u8])> {
    let (header, rest) = frame.split_first_chunk::<HEADER>()?;
    let [_, _, _, _, _, _, a, b, c, d, e, f, _, _, eid @ .., l, m] = *header;
    let payload = rest.get(..usize::from(u16::from_be_bytes([l, m])))?;
    Some((MacAddress([a, b, c, d, e, f]), Eid(u16::from_be_bytes(eid).into()), payload))
}

pub(in crate::transport) fn mac(peer: PeerAddress) -> io::Result<MacAddress> {
    match peer {
        PeerAddress::Mac(mac) => Ok(mac),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an Ethernet address")),
    }
}

/// Returns whether `eid` can be on the wire, where it has 16 bits.
pub(in crate::transport) fn check_eid(eid: Eid) -> io::Result<()> {
    if eid.0 > u32::from(u16::MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an EID has 16 bits here"));
    }
    Ok(())
}

/// A classic BPF program that takes frames for `eid`, from `from` if that is
/// known, and none that are for another station (a capture on the interface
/// makes the kernel show those).
pub(super) fn filter(eid: Eid, from: Option<MacAddress>) -> Vec<SockFilter> {
    const LOAD_32: u16 = 0x20;
    const LOAD_16: u16 = 0x28;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Ancillary data: how the kernel classed the frame, and "for others".
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const OTHER_HOST: u32 = 3;
    let mut checks = vec![(LOAD_32, PACKET_TYPE, OTHER_HOST, false), (LOAD_16, 14, eid.0, true)];
    if let Some(MacAddress([a, b, c, d, e, f])) = from {
        checks.push((LOAD_32, 6, u32::from_be_bytes([a, b, c, d]), true));
        checks.push((LOAD_16, 10, u16::from_be_bytes([e, f]).into(), true));
    }
    let instructions = checks.len() * 2;
    let mut program = Vec::with_capacity(instructions + 2);
    for (load, offset, value, wanted) in checks {
        program.push(SockFilter::new(load, 0, 0, offset));
        // To the last instruction, over the one that takes the frame.
        let away = (instructions - program.len()) as u8;
        let (equal, other) = if wanted { (0, away) } else { (away, 0) };
        program.push(SockFilter::new(EQUAL, equal, other, value));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
