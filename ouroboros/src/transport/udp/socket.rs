//! How the sockets of a UDP attachment are opened: for which families, at which address and
//! port, and what it means that they cannot be. Not here: what goes through them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::OpenError;
use crate::{
    sys::socket,
    transport::scoped::{scope, with_scope},
};

pub(super) fn unusable(error: io::Error, address: SocketAddr) -> OpenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => OpenError::AddressInUse(address),
        io::ErrorKind::AddrNotAvailable => OpenError::AddressNotAvailable(address.ip()),
        _ if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
            OpenError::NoSuchInterface(scope(address).to_string())
        }
        _ => OpenError::Io(error),
    }
}

pub(super) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Which addresses a socket sends to and hears from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    /// Those of its own address's family.
    One,
    /// Of an IPv6 socket: IPv4 as well.
    Both,
}

/// A socket at `address`, for one family; mark 0 is none.
pub(super) fn bind(address: SocketAddr, reuse: bool, mark: u32) -> io::Result<Socket> {
    bind_for(Families::One, address, reuse, mark)
}

fn bind_for(families: Families, address: SocketAddr, reuse: bool, mark: u32) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(families == Families::One)?;
    }
    if reuse {
        socket.set_reuse_port(true)?;
    }
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    socket::forbid_fragments(&socket, address.is_ipv6())?;
    if families == Families::Both {
        socket::forbid_fragments(&socket, false)?;
    }
    socket::enlarge_buffers(&socket);
    // Last: beside a listener it takes what is for that until it is connected.
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// The listening socket, at `::` for both families if nobody listens there for IPv4.
/// Responder paths join its port later; a second listener must not, so it is bound
/// alone where that is possible.
pub(super) fn listen(address: SocketAddr, mark: u32) -> Result<Socket, OpenError> {
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let listeners = socket::udp_listeners(address.port());
    let families = match address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        true if listeners.iter().flatten().any(IpAddr::is_ipv4) => {
            tracing::warn!(
                "{address} serves IPv6 only: another layer or program has this port for IPv4"
            );
            Families::One
        }
        true => Families::Both,
        false => Families::One,
    };
    let bound = bind_for(families, address, false, mark).or_else(|error| {
        // Flows outlive the daemon that opened them, and hold the port with
        // sockets that are connected to their peers.
        let is_listening = |listener: &IpAddr| socket::is_in_the_way(*listener, address.ip());
        if in_use(&error) && listeners.is_some_and(|all| !all.iter().any(is_listening)) {
            return bind_for(families, address, true, mark);
        }
        Err(error)
    });
    let listener = bound.map_err(|error| unusable(error, address))?;
    listener.set_reuse_port(true)?;
    Ok(listener)
}

/// Returns `true` if the socket takes and sends IPv4 under IPv6 addresses.
pub(super) fn is_of_both_families(socket: &Socket, own: SocketAddr) -> bool {
    own.is_ipv6() && socket.only_v6().is_ok_and(|only| !only)
}

/// Any address and any port.
pub(super) fn anywhere(v6: bool) -> SocketAddr {
    let address =
        if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, 0)
}

/// A socket to ask `peer` for a flow from, connected to it: at `own`, as long as that is an
/// address of this machine. It is bound there only if the kernel would choose
/// another one, so that it can leave an address that is lost.
pub(super) fn requesting(own: SocketAddr, peer: SocketAddr, mark: u32) -> io::Result<Socket> {
    let chosen = bind(anywhere(peer.is_ipv6()), false, mark)?;
    let way = chosen.connect(&SockAddr::from(peer));
    if own.ip().is_unspecified() || (way.is_ok() && local_address(&chosen)?.ip() == own.ip()) {
        return way.map(|()| chosen);
    }
    // A rule of routing may know a way from there only.
    match bind(with_scope(own.ip(), 0, scope(own)), false, mark) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            way.map(|()| chosen).map_err(|error| no_way(own, peer, &error))
        }
        bound => connected(bound?, peer),
    }
}

/// The socket, connected to `peer`.
pub(super) fn connected(socket: Socket, peer: SocketAddr) -> io::Result<Socket> {
    socket.connect(&SockAddr::from(peer))?;
    Ok(socket)
}

/// Why `peer` cannot be asked: the layer's address is gone, and no other leads there.
fn no_way(own: SocketAddr, peer: SocketAddr, error: &io::Error) -> io::Error {
    let (own, peer) = (own.ip(), peer.ip());
    let text =
        format!("{own} is no address of this machine any more, and none leads to {peer}: {error}");
    io::Error::new(error.kind(), text)
}

/// Returns where a socket for one `peer` of a layer at `own` is bound: for the peer's family,
/// where the layer serves both.
pub(super) fn beside(own: SocketAddr, peer: SocketAddr) -> SocketAddr {
    match own.is_ipv6() == peer.is_ipv6() {
        true => own,
        false => SocketAddr::new(anywhere(peer.is_ipv6()).ip(), own.port()),
    }
}
