//! Ethernet with DIX framing (WIRE.md, "eth-dix") on packet sockets: one for
//! management and one per flow, each with a filter in the kernel for its
//! endpoint, so that processes share an interface undisturbed.
//!
//! Not here: name queries (those are management messages), and anybody's
//! authentication. The IPCP drives it.

pub(super) mod frame;
mod path;
mod station;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use rustix::{io::Errno, net::RecvFlags};
use socket2::Socket;

pub(super) use self::station::find;
use self::{
    frame::{HEADER, LARGEST, check_eid, header, mac, parse},
    path::EthPath,
    station::{Station, UNBOUND},
};
use super::{
    Destination, IntoTransport, Management, OpenError, Path, Transport, errno::is_of_the_interface,
    handed::HandedInterface, oversized::Oversized,
};
use crate::{
    driver,
    sync::lock,
    sys::{link::Link, namespace::NetworkNamespace},
    wire::{Dialect, DirectoryHash, Eid, MacAddress, Name, PeerAddress},
};

/// Frames that one call of `receive` looks at, at most.
const LOOKED_AT: usize = 64;
/// How often the interface is looked up by its name.
const LOOK_UP: Duration = Duration::from_secs(1);

/// An Ethernet attachment to be opened (WIRE.md, "eth-dix").
#[derive(Clone, Debug)]
pub struct EthDix {
    interface: String,
    ethertype: u16,
    hash: DirectoryHash,
}

impl EthDix {
    /// The ethertype of a 0.23 peer unless configured otherwise.
    pub const ETHERTYPE: u16 = 0xa000;

    /// On the network interface of that name, with ethertype 0xA000 and a
    /// SHA3-256 directory.
    #[must_use]
    pub fn on(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            ethertype: Self::ETHERTYPE,
            hash: DirectoryHash::Sha3_256,
        }
    }

    /// Uses another ethertype. All stations of a layer have the same.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = ethertype;
        self
    }

    /// Uses another directory hash. All stations of a layer have the same.
    #[must_use]
    pub fn directory_hash(mut self, hash: DirectoryHash) -> Self {
        self.hash = hash;
        self
    }
}

impl IntoTransport for EthDix {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let link = find(&self.interface)?;
        let station = Arc::new(Station::new(self.interface, self.ethertype, link));
        let socket = station.open(Eid::MANAGEMENT, None).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => OpenError::NotPermitted(station.interface.clone()),
            _ => OpenError::Io(error),
        })?;
        let management = Arc::new(EthManagement {
            station: Arc::clone(&station),
            socket,
            bound: AtomicI32::new(link.index),
            buffer: Mutex::new(vec![0; HEADER + LARGEST]),
            oversized: Oversized::default(),
        });
        driver::spawn(watch(Arc::downgrade(&management))).detach();
        let namespace = NetworkNamespace::current();
        Ok(Arc::new(Attachment { station, namespace, hash: self.hash, management }))
    }
}

/// The path over a socket from another process; see [`Path::hand_over`].
pub(super) fn from_handed(
    socket: Socket,
    interface: &HandedInterface,
    local: Eid,
    remote: Eid,
    peer: PeerAddress,
) -> io::Result<Arc<dyn Path>> {
    check_eid(local)?;
    check_eid(remote)?;
    let HandedInterface { name, index, mac: MacAddress(own), mtu, loopback, ethertype } = interface;
    let link = Link { index: *index, mtu: *mtu, mac: *own, loopback: *loopback, ethernet: true };
    let station = Station::new(name.clone(), *ethertype, link);
    let remote = (remote, mac(peer)?).into();
    Ok(Arc::new(EthPath::new(&Arc::new(station), socket, local, remote)))
}

/// Keeps the management socket at the interface of that name, whatever becomes of
/// it: who only listens meets no error that would say so.
async fn watch(management: Weak<EthManagement>) {
    loop {
        driver::sleep_until(Some(driver::monotonic() + LOOK_UP)).await;
        let Some(management) = management.upgrade() else { return };
        // Gone: it may come back.
        let _ = management.station.look_up(&management.socket, &management.bound);
    }
}

struct Attachment {
    station: Arc<Station>,
    /// Where the interface is.
    namespace: NetworkNamespace,
    hash: DirectoryHash,
    management: Arc<EthManagement>,
}

impl Transport for Attachment {
    fn dialect(&self) -> Dialect {
        Dialect::EthDix
    }

    fn directory_hash(&self) -> DirectoryHash {
        self.hash
    }

    fn description(&self) -> String {
        format!("eth-dix on {}", self.station.interface)
    }

    fn management(&self) -> Option<Arc<dyn Management>> {
        Some(Arc::clone(&self.management) as Arc<dyn Management>)
    }

    fn resolve(&self, _name: &Name) -> Option<io::Result<Vec<PeerAddress>>> {
        None
    }

    fn resolves_at_once(&self) -> bool {
        true
    }

    fn oversized(&self) -> u64 {
        self.management.oversized.count()
    }

    fn open_requester(&self, local: Eid, _peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>> {
        // Whoever the request goes to, only `connect` says who answered.
        let socket = self.namespace.run(|| self.station.open(local, None))?;
        Ok(Arc::new(EthPath::new(&self.station, socket, local, OnceLock::new())))
    }

    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>> {
        check_eid(remote)?;
        let peer = mac(peer)?;
        let socket = self.namespace.run(|| self.station.open(local, Some(peer)))?;
        Ok(Arc::new(EthPath::new(&self.station, socket, local, (remote, peer).into())))
    }
}

struct EthManagement {
    station: Arc<Station>,
    socket: Socket,
    /// Index of the interface that the socket is bound to.
    bound: AtomicI32,
    buffer: Mutex<Vec<u8>>,
    oversized: Oversized,
}

impl Management for EthManagement {
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()> {
        let to = match to {
            Destination::Broadcast => MacAddress::BROADCAST,
            Destination::Peer(peer) => mac(peer)?,
        };
        let too_large = || io::Error::from(Errno::MSGSIZE);
        let length = u16::try_from(message.len()).map_err(|_| too_large())?;
        let (from, ethertype) = (self.station.mac(), self.station.ethertype);
        let header = header(to, from, ethertype, Eid::MANAGEMENT, length);
        let frame = [&header, message].concat();
        match self.socket.send(&frame) {
            Err(error) if is_of_the_interface(&error) => {
                self.station.look_up(&self.socket, &self.bound)?;
                self.socket.send(&frame)?;
            }
            sent => {
                sent?;
            }
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        let mut frame = lock(&self.buffer);
        for _ in 0..LOOKED_AT {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let (_, length) = match rustix::net::recv(&self.socket, frame.as_mut_slice(), flags) {
                Ok(received) => received,
                // The interface went down or away: told once, and it may come back.
                Err(Errno::NETDOWN) => {
                    self.bound.store(UNBOUND, Ordering::Relaxed);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(frame) = frame.get(..length) else {
                self.oversized.add();
                continue;
            };
            let Some((from, _, message)) = parse(frame) else { continue };
            if let Some(size) = self.oversized.take(message, buffer) {
                return Ok((size, PeerAddress::Mac(from)));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
