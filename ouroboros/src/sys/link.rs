//! Packet sockets (`AF_PACKET`) and what the kernel says about an interface.
//! `transport::eth_dix` drives it.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink};
use socket2::{Domain, Socket, Type};

use super::option;

/// A network interface as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: i32,
    pub(crate) mtu: usize,
    pub(crate) mac: [u8; 6],
    pub(crate) loopback: bool,
    /// Whether its frames have Ethernet headers (the loopback's do).
    pub(crate) ethernet: bool,
}

pub(super) fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: ifreq is plain integers and arrays; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

pub(super) fn ioctl(
    socket: impl AsFd,
    code: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: the codes used here read and write one ifreq, which lives on for
    // the call; the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), code as _, request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Link {
    /// Asks for interface `name` through any socket; `ENODEV` if there is none.
    pub(crate) fn of(socket: impl AsFd, name: &str) -> io::Result<Self> {
        let socket = socket.as_fd();
        let mut it = request(name)?;
        ioctl(socket, libc::SIOCGIFINDEX as _, &mut it)?;
        // SAFETY: SIOCGIFINDEX has filled in this member of the union.
        let index = unsafe { it.ifr_ifru.ifru_ifindex };
        let mtu = mtu(socket, name)?;
        let mut it = request(name)?;
        ioctl(socket, libc::SIOCGIFHWADDR as _, &mut it)?;
        // SAFETY: SIOCGIFHWADDR has filled in this member of the union.
        let hardware = unsafe { it.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
            *to = from as u8;
        }
        let loopback = hardware.sa_family == libc::ARPHRD_LOOPBACK;
        let ethernet = loopback || hardware.sa_family == libc::ARPHRD_ETHER;
        Ok(Self { index, mtu, mac, loopback, ethernet })
    }
}

/// The index of the interface that the zone of an address means: its name, or the
/// index itself.
pub(crate) fn zone_index(zone: &str) -> io::Result<u32> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match (rustix::net::netdevice::name_to_index(&socket, zone), zone.parse()) {
        (Ok(index), _) => Ok(index),
        (Err(_), Ok(index)) if index > 0 => Ok(index),
        (Err(error), _) => Err(error.into()),
    }
}

/// The interface's MTU now, in bytes.
pub(crate) fn mtu(socket: impl AsFd, name: &str) -> io::Result<usize> {
    let mut it = request(name)?;
    ioctl(socket, libc::SIOCGIFMTU as _, &mut it)?;
    // SAFETY: SIOCGIFMTU has filled in this member of the union.
    Ok(usize::try_from(unsafe { it.ifr_ifru.ifru_mtu }).unwrap_or(0))
}

/// Locks the socket's filter: nobody can replace or remove it any more.
pub(crate) fn lock_filter(socket: impl AsFd) -> io::Result<()> {
    option::set(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

/// Binds a packet socket to an ethertype on an interface.
pub(crate) fn bind_packet(socket: impl AsFd, ethertype: u16, index: i32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain integers and arrays; zero is valid for each.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index;
    // SAFETY: the address is a whole sockaddr_ll that lives on for the call,
    // and its size is given.
    let result = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as _,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks a packet socket not to deliver what this machine sends, so that a
/// frame on `lo` comes once (as received) and elsewhere never.
pub(crate) fn ignore_outgoing(socket: impl AsFd) -> io::Result<()> {
    option::set(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Sets how many segments a super-packet from interface `index` has at most:
/// `IFLA_GSO_MAX_SEGS` of rtnetlink(7).
pub(crate) fn set_largest_run(index: i32, segments: u32) -> io::Result<()> {
    const MAX_SEGMENTS: u16 = 40;
    const SET_LINK: u16 = 16;
    const REQUEST: u16 = 1;
    let pair = |low: u16, high: u16| {
        let ([a, b], [c, d]) = (low.to_ne_bytes(), high.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    };
    // Header: length, type and flags, sequence number, port.
    let header = [40, pair(SET_LINK, REQUEST), 1, 0];
    // Family and type, index, flags, and which of them change.
    let link = [0, index.cast_unsigned(), 0, 0];
    let attribute = [pair(8, MAX_SEGMENTS), segments];
    let message = [&header[..], &link, &attribute].concat();
    let message: Vec<u8> = message.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let netlink = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None)?;
    netlink.send(&message)?;
    Ok(())
}

/// A change of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkChange {
    /// It is up, whatever else has changed.
    Up,
    /// It is down.
    Down,
    /// It was deleted, or is in another network namespace.
    Gone,
}

/// A socket that tells what becomes of the interfaces of this thread's network
/// namespace: `RTMGRP_LINK` of rtnetlink(7).
pub(crate) fn changes() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // The protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let group = libc::RTMGRP_LINK.cast_unsigned();
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, group))?;
    Ok(socket)
}

/// Calls `handle` with what a read from [`changes`] tells, of each interface by its
/// index.
///
/// # Errors
///
/// Those of recv(2): `WouldBlock` if there is nothing, `ENOBUFS` if something was
/// lost.
pub(crate) fn read_changes(
    socket: &OwnedFd,
    mut handle: impl FnMut(i32, LinkChange),
) -> io::Result<()> {
    const HEADER: usize = 16;
    let mut buffer = [0; 16 * 1024];
    let (size, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    let mut rest = &buffer[..size];
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
        };
        let length = word(header, 0).and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| (HEADER..=rest.len()).contains(length)) else {
            break;
        };
        let (message, kind) = (&rest[..length], u16::from_ne_bytes([header[4], header[5]]));
        // `struct ifinfomsg`: family and type, index, flags.
        let fields = (word(message, HEADER + 4), word(message, HEADER + 8));
        if let (Some(index), Some(flags)) = fields {
            let change = match kind {
                libc::RTM_NEWLINK if flags & libc::IFF_UP.cast_unsigned() != 0 => LinkChange::Up,
                libc::RTM_NEWLINK => LinkChange::Down,
                libc::RTM_DELLINK => LinkChange::Gone,
                _ => break,
            };
            handle(index.cast_signed(), change);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}
