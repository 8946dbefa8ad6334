//! A connected UDP path whose ends move: its own socket leaves an address that is lost, and
//! follows the peer to another. Not here: when the peer is to be followed
//! (`proto::connection`).

use std::{io, sync::atomic::Ordering};

use rustix::io::Errno;
use socket2::{SockAddr, Socket};

use super::{
    lock,
    path::{ConnectedPath, is},
    socket::{anywhere, bind, local_address},
    udp_address, with_eid,
};
use crate::{
    sys::{namespace::NetworkNamespace, option},
    transport::{Mobility, Path},
    tun::offload::Ecn,
    wire::PeerAddress,
};

/// Errors of a host without a way to anywhere: its network is gone, or (which
/// of the two depends on the kernel) the socket's own address.
pub(super) fn is_cut_off(error: &io::Error) -> bool {
    [Errno::NETUNREACH, Errno::NETDOWN, Errno::INVAL].iter().any(|&errno| is(error, errno))
}

/// Returns `true` if the address of `socket` is none of its network namespace's any more. From an
/// IPv6 address the kernel sends on then, and says nothing. Where the namespace is neither this
/// thread's nor `namespace` it is not known to be lost.
fn address_is_lost(socket: &Socket, namespace: Option<&NetworkNamespace>) -> bool {
    let lost = || {
        let mut address = local_address(socket)?;
        address.set_port(0);
        let any = bind(anywhere(address.is_ipv6()), false, 0)?;
        if option::network_namespace(&any) != option::network_namespace(socket) {
            return Ok(false);
        }
        match bind(address, false, 0) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(true),
            bound => bound.map(|_| false),
        }
    };
    let lost: io::Result<bool> = match namespace {
        Some(namespace) => namespace.run(lost),
        None => lost(),
    };
    lost.unwrap_or(false)
}

impl ConnectedPath {
    /// Has the kernel find the way to the peer again.
    pub(super) fn reconnect(&self) {
        // Fails where there is none, as sending does.
        let _ = self.socket.connect(&SockAddr::from(self.peer()));
    }

    /// Returns `true` if the socket's address has been lost, and the socket has left it.
    pub(super) fn try_reconnect(&self) -> bool {
        // A listener's port is not to be left: what is connected there takes
        // one peer's datagrams, what is not takes anybody's.
        if self.detached.load(Ordering::Relaxed)
            || self.socket.reuse_port().unwrap_or(true)
            || !address_is_lost(&self.socket, self.namespace.as_deref())
            || rustix::net::connect_unspec(&self.socket).is_err()
        {
            return false;
        }
        // One that was bound there on purpose stays.
        let address = local_address(&self.socket);
        let left = address.is_ok_and(|address| address.ip().is_unspecified());
        self.address_pinned.store(!left, Ordering::Relaxed);
        self.detached.store(true, Ordering::Relaxed);
        self.rebind();
        left
    }

    /// Connects a socket that is detached, if there is a way.
    pub(super) fn rebind(&self) {
        let peer = lock(&self.peer);
        let connected = self.socket.connect(&SockAddr::from(*peer));
        if connected.is_err() || !self.detached.swap(false, Ordering::Relaxed) {
            return;
        }
        self.renew_offload(peer.is_ipv6());
        let address = local_address(&self.socket).ok();
        tracing::info!(?address, "a flow goes on from another address");
    }
}

impl Mobility for ConnectedPath {
    fn send_off_path(&self, to: PeerAddress, frame: &[u8]) -> io::Result<()> {
        let &remote = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        self.transmit_to(udp_address(to)?, &with_eid(remote, frame), None, Ecn::NotEct)
    }

    fn follow(&self, peer: PeerAddress) -> io::Result<()> {
        let to = udp_address(peer)?;
        self.socket.connect(&SockAddr::from(to))?;
        let from = std::mem::replace(&mut *lock(&self.peer), to);
        if let Some(connected) = &self.responder_of {
            let mut connected = lock(connected);
            connected.remove(&from);
            connected.insert(to);
        }
        self.largest_frame();
        Ok(())
    }

    fn revalidate_local_address(&self) {
        self.try_reconnect();
    }

    fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed) && !self.address_pinned.load(Ordering::Relaxed)
    }
}
