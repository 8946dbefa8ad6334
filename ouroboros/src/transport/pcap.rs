//! eth-dix (WIRE.md, "eth-dix") on libpcap, for systems without packet sockets:
//! a capture handle with a filter for management and one for each flow. One
//! frame per call, so slower than [`EthDix`].

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use pcap::{Active, Capture, Direction, Error};

use super::{
    Destination, EthDix, IntoTransport, Management, OpenError, Path, ReceiveBatch, SendBatch,
    Transport,
    eth_dix::{
        find,
        frame::{HEADER, check_eid, header, largest_payload, mac, parse},
    },
    oversized::Oversized,
};
use crate::{
    sync::lock,
    sys::{link::Link, namespace::NetworkNamespace},
    wire::{Dialect, DirectoryHash, Eid, MacAddress, Name, PeerAddress},
};

/// Frames that one call of `receive` looks at, at most.
const LOOKED_AT: usize = 64;

/// Bytes that the kernel keeps for a handle that is not read.
const RING: i32 = 8 << 20;

/// An Ethernet attachment through libpcap, to be opened.
#[derive(Clone, Debug)]
pub struct PcapDix {
    interface: String,
    ethertype: u16,
    hash: DirectoryHash,
}

impl PcapDix {
    /// On the network interface of that name, with ethertype 0xA000 and a
    /// SHA3-256 directory.
    #[must_use]
    pub fn on(interface: &str) -> Self {
        let interface = interface.to_owned();
        Self { interface, ethertype: EthDix::ETHERTYPE, hash: DirectoryHash::Sha3_256 }
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

impl IntoTransport for PcapDix {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let link = find(&self.interface)?;
        let namespace = NetworkNamespace::current();
        let station = Arc::new(Station { settings: self, link, namespace });
        let port = station.open(Eid::MANAGEMENT, OnceLock::new()).map_err(|error| {
            // libpcap tells a missing privilege in words only.
            if error.to_string().to_lowercase().contains("permi") {
                return OpenError::NotPermitted(station.settings.interface.clone());
            }
            OpenError::Io(error)
        })?;
        Ok(Arc::new(Attachment { station, management: Arc::new(port) }))
    }
}

fn other(error: Error) -> io::Error {
    match error {
        Error::TimeoutExpired | Error::NoMorePackets => io::ErrorKind::WouldBlock.into(),
        error => io::Error::other(error),
    }
}

struct Station {
    settings: PcapDix,
    link: Link,
    /// Where the interface is.
    namespace: NetworkNamespace,
}

impl Station {
    fn open(self: &Arc<Self>, local: Eid, remote: OnceLock<(Eid, MacAddress)>) -> io::Result<Port> {
        check_eid(local)?;
        // libpcap cuts its ring into slots of the snapshot's size: one as large
        // as a frame, or the ring holds a few dozen frames only.
        let snapshot = (HEADER + self.largest()) as i32;
        let open = || {
            Capture::from_device(self.settings.interface.as_str())
                .map(|capture| capture.immediate_mode(true).snaplen(snapshot).buffer_size(RING))
                .and_then(Capture::open)
                .and_then(Capture::setnonblock)
        };
        let mut capture = self.namespace.run(open).map_err(other)?;
        // Loopback frames come once already, and their direction is no help.
        if !self.link.loopback {
            capture.direction(Direction::In).map_err(other)?;
        }
        let program =
            format!("ether proto {:#x} and ether[14:2] == {}", self.settings.ethertype, local.0);
        capture.filter(&program, true).map_err(other)?;
        let ready = capture.as_fd().try_clone_to_owned()?;
        let capture = Mutex::new(capture);
        let (station, oversized) = (Arc::clone(self), Oversized::default());
        Ok(Port { station, capture, ready, local, remote, oversized })
    }

    fn largest(&self) -> usize {
        largest_payload(&self.link, self.link.mtu)
    }
}

struct Attachment {
    station: Arc<Station>,
    management: Arc<Port>,
}

impl Transport for Attachment {
    fn dialect(&self) -> Dialect {
        Dialect::EthDix
    }

    fn directory_hash(&self) -> DirectoryHash {
        self.station.settings.hash
    }

    fn description(&self) -> String {
        format!("eth-dix on {} by libpcap", self.station.settings.interface)
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
        Ok(Arc::new(self.station.open(local, OnceLock::new())?))
    }

    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>> {
        check_eid(remote)?;
        Ok(Arc::new(self.station.open(local, (remote, mac(peer)?).into())?))
    }
}

/// One capture handle: management, or a flow's path.
struct Port {
    station: Arc<Station>,
    capture: Mutex<Capture<Active>>,
    ready: OwnedFd,
    local: Eid,
    remote: OnceLock<(Eid, MacAddress)>,
    oversized: Oversized,
}

impl Port {
    fn capture(&self) -> MutexGuard<'_, Capture<Active>> {
        lock(&self.capture)
    }

    fn send_frame(&self, to: MacAddress, eid: Eid, payload: &[u8]) -> io::Result<()> {
        let from = MacAddress(self.station.link.mac);
        let ethertype = self.station.settings.ethertype;
        let length = u16::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let header = header(to, from, ethertype, eid, length);
        self.capture().sendpacket([&header, payload].concat()).map_err(other)
    }
}

impl Management for Port {
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()> {
        let to = match to {
            Destination::Broadcast => MacAddress::BROADCAST,
            Destination::Peer(peer) => mac(peer)?,
        };
        self.send_frame(to, Eid::MANAGEMENT, message)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        let mut capture = self.capture();
        for _ in 0..LOOKED_AT {
            let packet = capture.next_packet().map_err(other)?;
            let Some((from, _, message)) = parse(packet.data) else { continue };
            if let Some(size) = self.oversized.take(message, buffer) {
                return Ok((size, PeerAddress::Mac(from)));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Path for Port {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        check_eid(remote)?;
        self.remote.set((remote, mac(peer)?)).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let &(remote, peer) = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        while batch.sent() < batch.len() {
            let range = batch.range(batch.sent());
            let payload = &batch.bytes()[range.start + HEADER..range.end];
            if payload.len() > self.station.largest() {
                batch.skip_oversize();
                continue;
            }
            // libpcap has no word for a full queue: the frame is lost.
            let _ = self.send_frame(peer, remote, payload);
            batch.advance(1);
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let peer = self.remote.get().map(|&(_, peer)| peer);
        let mut capture = self.capture();
        let (mut at, most) = (0, HEADER + self.station.largest());
        for _ in 0..LOOKED_AT {
            // Whatever comes next must fit: a packet can't be put back.
            if at > 0 && at + most > batch.buffer_mut().len() {
                break;
            }
            let Ok(packet) = capture.next_packet() else { break };
            let Some((from, eid, payload)) = parse(packet.data) else { continue };
            let end = at + payload.len();
            if eid != self.local || peer.is_some_and(|peer| peer != from) {
                continue;
            }
            let Some(slot) = batch.buffer_mut().get_mut(at..end) else { continue };
            slot.copy_from_slice(payload);
            batch.push(at..end);
            at = end;
        }
        if batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn send_management(&self, _message: &[u8]) -> Option<io::Result<()>> {
        None
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn headroom(&self) -> usize {
        HEADER
    }

    fn largest_frame(&self) -> usize {
        self.station.largest()
    }

    fn description(&self) -> String {
        format!("eth-dix on {} by libpcap", self.station.settings.interface)
    }
}
