//! Socket options and addresses that are the same for all transports. No
//! `unsafe`; `transport` drives it.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
    net::sockopt,
};

use super::option;

/// Bytes of each socket buffer: some milliseconds of a fast link.
const SOCKET_BUFFER: usize = 4 << 20;

/// Enlarges the socket's buffers as far as this process may.
pub(crate) fn enlarge_buffers(socket: impl AsFd) {
    let fd = socket.as_fd();
    // The forced options need CAP_NET_ADMIN; the others stop at the system's
    // limit. A small buffer is slow, not wrong: `buffers` tells.
    if sockopt::set_socket_recv_buffer_size_force(fd, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(fd, SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(fd, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(fd, SOCKET_BUFFER);
    }
}

/// Waits until one of `fds` is ready or `timeout` is over; how many are ready. A
/// signal looks like readiness, and nothing is ready then.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<usize> {
    match poll(fds, timeout) {
        Err(Errno::INTR) => Ok(1),
        result => Ok(result?),
    }
}

/// Returns how large the socket's buffers are, in bytes as the kernel counts them: with its own
/// overhead, twice what was asked for.
pub(crate) fn buffers(socket: impl AsFd) -> io::Result<(usize, usize)> {
    let fd = socket.as_fd();
    Ok((sockopt::socket_send_buffer_size(fd)?, sockopt::socket_recv_buffer_size(fd)?))
}

/// Asks for no receive times and no local addresses, which quinn does ask for:
/// each costs every packet of the machine a little.
pub(crate) fn spare_stamps(socket: impl AsFd) {
    let fd = socket.as_fd();
    for (level, name) in [
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    ] {
        // The option of the other family cannot be set: it is not there.
        let _ = option::set(fd, level, name, 0);
    }
}

/// Returns how long the packet received last had waited in the socket.
pub(crate) fn waited(socket: impl AsFd) -> Option<Duration> {
    let arrival = option::last_arrival(socket)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.checked_sub(arrival)
}

/// Has received packets tell their mark of congestion.
pub(crate) fn tell_ecn(socket: impl AsFd, v6: bool) {
    let (level, name) = match v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        false => (libc::IPPROTO_IP, libc::IP_RECVTOS),
    };
    // Without it none is marked.
    let _ = option::set(socket, level, name, 1);
}

/// Has equal datagrams delivered as one (UDP GRO); returns `true` if the kernel does that.
pub(crate) fn coalesce_received(socket: impl AsFd) -> bool {
    option::set(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
}

/// Has datagrams delivered one by one (no UDP GRO).
pub(crate) fn split_received(socket: impl AsFd) {
    // A kernel that has no such option does nothing else.
    let _ = option::set(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
}

/// Forbids fragments, so that packets that are too large are told (`EMSGSIZE`).
pub(crate) fn forbid_fragments(socket: impl AsFd, v6: bool) -> io::Result<()> {
    use sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    if v6 {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
    }
    Ok(())
}

/// Sets the traffic class of what is sent without one of its own.
pub(crate) fn set_traffic_class(socket: impl AsFd, v6: bool, class: u8) -> io::Result<()> {
    if v6 {
        option::set(socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class.into())
    } else {
        option::set(socket, libc::IPPROTO_IP, libc::IP_TOS, class.into())
    }
}

/// Does `work` while the kernel may cut what is too large in fragments.
pub(crate) fn with_fragments<T>(socket: impl AsFd, v6: bool, work: impl FnOnce() -> T) -> T {
    use sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    let socket = socket.as_fd();
    let _ = if v6 {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)
    } else {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)
    };
    let done = work();
    let _ = forbid_fragments(socket, v6);
    done
}

/// MTU of the way to the peer of a connected socket, in bytes with IP header.
pub(crate) fn path_mtu(socket: impl AsFd, v6: bool) -> io::Result<usize> {
    let mtu = if v6 { sockopt::ipv6_mtu(socket) } else { sockopt::ip_mtu(socket) };
    Ok(mtu? as usize)
}

/// The addresses at which UDP sockets listen on `port`: those without a peer. `None`
/// if the system does not tell.
pub(crate) fn udp_listeners(port: u16) -> Option<Vec<IpAddr>> {
    let mut listeners = listeners_in(&fs::read_to_string("/proc/thread-self/net/udp").ok()?, port);
    // Without IPv6 there is no such table.
    let table = fs::read_to_string("/proc/thread-self/net/udp6").unwrap_or_default();
    listeners.append(&mut listeners_in(&table, port));
    Some(listeners)
}

fn listeners_in(table: &str, port: u16) -> Vec<IpAddr> {
    let listener = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (ip, local_port) = fields.next().and_then(parse)?;
        let (_, remote_port) = fields.next().and_then(parse)?;
        (local_port == port && remote_port == 0).then_some(ip)
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// Returns `true` if a listener there may take what is sent to `address`: one at `::`
/// may be there for IPv4, too.
pub(crate) fn is_in_the_way(listener: IpAddr, address: IpAddr) -> bool {
    match (listener, address) {
        (IpAddr::V6(v6), IpAddr::V4(_)) => v6.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
        _ => listener == address || listener.is_unspecified() || address.is_unspecified(),
    }
}

/// `0100007F:0D6B`: the address as 32-bit words in the machine's order.
fn parse(field: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let words = address.len() / 8;
    if !address.is_ascii() || words > 4 {
        return None;
    }
    for word in 0..words {
        let value = u32::from_str_radix(&address[word * 8..word * 8 + 8], 16).ok()?;
        bytes[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    match words {
        1 => Some(([bytes[0], bytes[1], bytes[2], bytes[3]].into(), port)),
        4 => Some((bytes.into(), port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn only_sockets_without_a_peer_listen() {
        let table = "  sl  local_address rem_address   st\n\
             1: 0100007F:0D6B 0200007F:1234 01 x\n\
             2: 0500007F:0D6B 00000000:0000 07 x\n\
             garbage\n";
        let is = |ip: &str, port| {
            let address = ip.parse().unwrap();
            listeners_in(table, port).into_iter().any(|listener| is_in_the_way(listener, address))
        };
        assert!(!is("127.0.0.1", 3435));
        assert!(is("127.0.0.5", 3435));
        assert!(is("0.0.0.0", 3435));
        assert!(!is("127.0.0.5", 3436));
        assert!(!is("::", 3435));
        let any: IpAddr = "::".parse().unwrap();
        assert!(is_in_the_way(any, "127.0.0.5".parse().unwrap()));
        assert!(!is_in_the_way("::1".parse().unwrap(), "0.0.0.0".parse().unwrap()));
    }
}
