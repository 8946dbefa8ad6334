//! TUN devices as far as the `tun` crate leaves them out: a device with a vnet header, several
//! queues and offloads, its present name and namespace, IPv6 addresses, the length of its
//! queue. `tun::device` drives it.

use std::{
    io,
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

use super::link;

/// `TUN_F_CSUM`: packets may be handed over with partial checksums.
pub(crate) const CHECKSUM: u32 = 0x01;
/// `TUN_F_TSO4`: and as super-packets of TCP over IPv4.
pub(crate) const TSO4: u32 = 0x02;
/// `TUN_F_TSO6`: over IPv6.
pub(crate) const TSO6: u32 = 0x04;
/// `TUN_F_TSO_ECN`: with CWR set in them.
pub(crate) const TSO_ECN: u32 = 0x08;
/// `TUN_F_USO4 | TUN_F_USO6`: runs of UDP datagrams, from Linux 6.2 on.
pub(crate) const USO: u32 = 0x20 | 0x40;

const fn write_code(number: libc::c_ulong, size: usize) -> libc::c_ulong {
    1 << 30 | (size as libc::c_ulong) << 16 | (b'T' as libc::c_ulong) << 8 | number
}

const fn read_code(number: libc::c_ulong, size: usize) -> libc::c_ulong {
    2 << 30 | (size as libc::c_ulong) << 16 | (b'T' as libc::c_ulong) << 8 | number
}

const TUNGETIFF: libc::c_ulong = read_code(210, size_of::<libc::c_uint>());
/// Without an argument.
const TUNGETDEVNETNS: libc::c_ulong = (b'T' as libc::c_ulong) << 8 | 227;
const TUNSETIFF: libc::c_ulong = write_code(202, size_of::<libc::c_int>());
const TUNSETOFFLOAD: libc::c_ulong = write_code(208, size_of::<libc::c_uint>());
const TUNSETVNETLE: libc::c_ulong = write_code(220, size_of::<libc::c_int>());

/// How packets come from and go to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Each behind a vnet header of 10 bytes.
    pub(crate) vnet: bool,
    /// One queue of several.
    pub(crate) several: bool,
}

/// Opens a queue of the TUN device called `name` (which may have a `%d`),
/// makes the device if there is none, and says what it is called.
pub(crate) fn open(name: &str, shape: Shape) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let queue = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = link::request(name)?;
    let mut kind = libc::IFF_TUN | libc::IFF_NO_PI;
    if shape.vnet {
        kind |= libc::IFF_VNET_HDR;
    }
    if shape.several {
        kind |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives on for the
    // call; the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if shape.vnet {
        let on: libc::c_int = 1;
        // SAFETY: TUNSETVNETLE reads one int, which lives on for the call.
        let result = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETVNETLE as _, &raw const on) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((queue, name_in(&request)))
}

fn name_in(request: &libc::ifreq) -> String {
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    name.map(|byte| char::from(byte.cast_unsigned())).collect()
}

/// Returns the present name of a queue's device; `EBADFD` if it was deleted.
pub(crate) fn name(queue: impl AsFd) -> io::Result<String> {
    // SAFETY: ifreq is plain integers and arrays; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which lives on for the call; the
    // descriptor is open as long as it is borrowed.
    let result =
        unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), TUNGETIFF as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(name_in(&request)) }
}

/// The network namespace that the device of a queue is in now. Kernels before 4.20
/// do not tell.
pub(crate) fn namespace(queue: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument; the descriptor is open as long as it
    // is borrowed.
    let result = unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), TUNGETDEVNETNS as _) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Says what super-packets and partial checksums the device may hand over.
pub(crate) fn set_offload(queue: impl AsFd, offload: u32) -> io::Result<()> {
    let value = libc::c_ulong::from(offload);
    // SAFETY: TUNSETOFFLOAD takes its value in place of a pointer and reads no
    // memory; the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), TUNSETOFFLOAD as _, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets how many packets wait in the device before it drops them; `socket` is
/// any socket.
pub(crate) fn set_queue_length(socket: impl AsFd, name: &str, packets: i32) -> io::Result<()> {
    let mut request = link::request(name)?;
    request.ifr_ifru.ifru_metric = packets;
    link::ioctl(socket, libc::SIOCSIFTXQLEN as _, &mut request)
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
