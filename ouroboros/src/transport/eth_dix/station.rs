//! The interface that the sockets of an attachment are at, whatever becomes of
//! it: looked up by its name. Not here: frames (`frame`).

use std::{
    io,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::{
    OpenError,
    frame::{check_eid, filter},
};
use crate::{
    sys::{
        link::{self, Link},
        socket,
    },
    wire::{Eid, MacAddress},
};

/// The index of a socket that has lost its interface: none has it.
pub(super) const UNBOUND: i32 = 0;

/// Returns the interface as the kernel describes it; it has to be an Ethernet one.
pub(in crate::transport) fn find(interface: &str) -> Result<Link, OpenError> {
    let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let link = Link::of(&any, interface).map_err(|error| {
        if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) {
            return OpenError::NoSuchInterface(interface.to_owned());
        }
        OpenError::Io(error)
    })?;
    if !link.ethernet {
        return Err(OpenError::NotEthernet(interface.to_owned()));
    }
    Ok(link)
}

pub(super) struct Station {
    pub(super) interface: String,
    pub(super) ethertype: u16,
    /// As last looked up: an adapter can come back with another index and address.
    link: RwLock<Link>,
}

impl Station {
    pub(super) fn new(interface: String, ethertype: u16, link: Link) -> Self {
        Self { interface, ethertype, link: RwLock::new(link) }
    }

    pub(super) fn link(&self) -> Link {
        *self.link.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks the interface up by its name, in the network namespace of `socket`,
    /// and binds the socket to it anew if that is another one than `bound`.
    pub(super) fn look_up(&self, socket: &Socket, bound: &AtomicI32) -> io::Result<Link> {
        let link = match Link::of(socket, &self.interface) {
            Ok(link) if link.ethernet => link,
            Ok(_) => return Err(Errno::NODEV.into()),
            Err(error) => {
                bound.store(UNBOUND, Ordering::Relaxed);
                return Err(error);
            }
        };
        let known = self.link();
        if known != link {
            *self.link.write().unwrap_or_else(PoisonError::into_inner) = link;
        }
        if (known.index, known.mac) != (link.index, link.mac) {
            let (interface, address) = (&self.interface, MacAddress(link.mac));
            tracing::info!(interface, index = link.index, %address, "the interface has changed");
        }
        if bound.load(Ordering::Relaxed) != link.index {
            link::bind_packet(socket, self.ethertype, link.index)?;
            bound.store(link.index, Ordering::Relaxed);
        }
        Ok(link)
    }

    /// A socket that takes frames for `eid`. It hears nothing before its
    /// filter is in place.
    pub(super) fn open(&self, eid: Eid, from: Option<MacAddress>) -> io::Result<Socket> {
        check_eid(eid)?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(eid, from))?;
        link::ignore_outgoing(&socket)?;
        socket::enlarge_buffers(&socket);
        link::bind_packet(&socket, self.ethertype, self.link().index)?;
        Ok(socket)
    }

    pub(super) fn mac(&self) -> MacAddress {
        MacAddress(self.link().mac)
    }
}
