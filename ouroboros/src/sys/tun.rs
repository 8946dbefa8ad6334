//! What the `tun` crate leaves out: IPv6 addresses, and a descriptor of the
//! device that safe code can poll and read. `tun::device` drives it.

use std::{
    io,
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// A descriptor of `device`, valid on its own.
pub(crate) fn descriptor(device: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the device owns the descriptor, is open, and is borrowed for as
    // long as this borrow lasts.
    let borrowed = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

/// Adds an IPv6 address with its prefix length to interface `index`; `socket`
/// is any IPv6 socket.
pub(crate) fn add_ipv6(
    socket: impl AsFd,
    index: u32,
    address: Ipv6Addr,
    prefix: u8,
) -> io::Result<()> {
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
        ifr6_prefixlen: prefix.into(),
        ifr6_ifindex: index.cast_signed(),
    };
    // SAFETY: SIOCSIFADDR on an IPv6 socket reads one in6_ifreq, which lives on
    // for the call; the descriptor is open as long as it is borrowed.
    let result =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFADDR as _, &request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
