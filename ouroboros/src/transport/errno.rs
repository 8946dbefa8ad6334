//! The meaning of errors of a flow's socket: the network's state costs a frame, a mistake of
//! this program ends the flow. No I/O; the data paths ask it.

use std::io;

use rustix::io::Errno;

/// The errors that sendmsg(2) and recvmsg(2) report of the network on UDP and packet sockets,
/// each with what makes the kernel say so. `EAGAIN`, `EINTR` and `EMSGSIZE` are handled where
/// they arise. Everything else (`EBADF`, `EFAULT`, `ENOTSOCK`, `EDESTADDRREQ`, `EISCONN`,
/// `EOPNOTSUPP`, `EPIPE`, ...) is a mistake of this program's and ends the flow.
const OF_THE_NETWORK: [(Errno, &str); 18] = [
    (Errno::ACCESS, "a route of type prohibit, or ICMP: administratively prohibited"),
    (Errno::ADDRNOTAVAIL, "this end's address is lost, or no source address fits"),
    (Errno::AFNOSUPPORT, "IPv6 was switched off after the socket was opened"),
    (Errno::CONNABORTED, "a firewall destroyed the socket's connection (SOCK_DESTROY)"),
    (Errno::CONNREFUSED, "ICMP: port unreachable"),
    (Errno::CONNRESET, "a firewall rejects with a reset"),
    (Errno::HOSTDOWN, "ICMP: destination host unknown"),
    (Errno::HOSTUNREACH, "no neighbour answers, ICMP says so, or a route of type unreachable"),
    (Errno::INVAL, "a route of type blackhole, or this end's address is lost (IPv4)"),
    (Errno::IO, "the device's driver could not take the frame"),
    (Errno::NETDOWN, "the interface is down"),
    (Errno::NETUNREACH, "there is no route, or a route of type throw"),
    (Errno::NOBUFS, "the device's queue is full"),
    (Errno::NODEV, "the interface is gone"),
    (Errno::NOPROTOOPT, "ICMP: protocol unreachable"),
    (Errno::NXIO, "the interface is gone"),
    (Errno::PERM, "a firewall dropped the frame"),
    (Errno::PROTO, "ICMPv6: a parameter problem"),
];

/// The same of the machine: short of memory for a moment, or slow.
const OF_THE_MACHINE: [Errno; 3] = [Errno::NOMEM, Errno::TIME, Errno::TIMEDOUT];

/// Returns `true` if `error` says that frames are not carried now, or that
/// somebody claims so by ICMP: a frame is lost, and the flow goes on.
pub(super) fn is_transient(error: &io::Error) -> bool {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else { return false };
    OF_THE_NETWORK.iter().any(|(known, _)| *known == errno) || OF_THE_MACHINE.contains(&errno)
}

/// Returns `true` if `error` says that a packet socket's interface is not the
/// one that it was bound to, or is down.
pub(super) fn is_of_the_interface(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NXIO | Errno::NODEV | Errno::NETDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_costs_a_frame_and_a_mistake_ends_the_flow() {
        let says = |errno: Errno| is_transient(&io::Error::from(errno));
        for errno in [Errno::INVAL, Errno::ACCESS, Errno::NETUNREACH, Errno::NXIO, Errno::NOMEM] {
            assert!(says(errno), "{errno}");
        }
        for errno in [Errno::BADF, Errno::FAULT, Errno::NOTSOCK, Errno::DESTADDRREQ, Errno::PIPE] {
            assert!(!says(errno), "{errno}");
        }
        assert!(!is_transient(&io::ErrorKind::NotConnected.into()));
    }
}
