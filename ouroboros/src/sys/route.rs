//! Routes through an interface, as route(8) makes them.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

/// Makes the route, or takes it away again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// `struct in6_rtmsg` of linux/ipv6_route.h.
#[derive(Default)]
#[repr(C)]
struct Ipv6Route {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    interface: libc::c_int,
}

/// A route to the network `address`/`prefix` through the interface `name`, which
/// has the index `index`. One that is there already, or is gone, is no error.
pub(crate) fn change(
    change: Change,
    (name, index): (&str, i32),
    (address, prefix): (IpAddr, u8),
) -> io::Result<()> {
    let result = match address {
        IpAddr::V4(v4) => change_v4(change, name, v4, prefix),
        IpAddr::V6(v6) => {
            let route = Ipv6Route {
                destination: v6.octets(),
                destination_length: prefix.into(),
                metric: 1024,
                flags: libc::RTF_UP.into(),
                interface: index,
                ..Ipv6Route::default()
            };
            let socket = UdpSocket::bind("[::]:0")?;
            // SAFETY: SIOCADDRT and SIOCDELRT on an IPv6 socket read one
            // in6_rtmsg, which lives on for the call and has that layout.
            let result =
                unsafe { libc::ioctl(socket.as_raw_fd(), request(change) as _, &raw const route) };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    };
    match (change, result) {
        (Change::Add, Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        (Change::Remove, Err(error)) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        (_, result) => result,
    }
}

fn change_v4(change: Change, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let host = 32_u32.saturating_sub(prefix.into());
    let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(host).unwrap_or(0));
    let device = CString::new(name)?;
    // SAFETY: rtentry is plain data, for which zeros are valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(address);
    route.rt_genmask = socket_address(mask);
    route.rt_flags = libc::RTF_UP;
    // The kernel only reads it.
    route.rt_dev = device.as_ptr().cast_mut();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: SIOCADDRT and SIOCDELRT on an IPv4 socket read one rtentry and the
    // name it points to, which both live on for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request(change) as _, &raw const route) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const fn request(change: Change) -> libc::c_ulong {
    match change {
        Change::Add => libc::SIOCADDRT as libc::c_ulong,
        Change::Remove => libc::SIOCDELRT as libc::c_ulong,
    }
}

/// As the kernel has it in an rtentry.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (at, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *at = byte.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
