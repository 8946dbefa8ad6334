//! Ethernet with DIX framing (WIRE.md, "eth-dix") on packet sockets: one for
//! management and one per flow, each with a filter in the kernel for its
//! endpoint, so that processes share an interface undisturbed.
//!
//! Not here: name queries (those are management messages), and anybody's
//! authentication. The IPCP drives it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::{io::Errno, net::RecvFlags};
use socket2::{Domain, SockFilter, Socket, Type};

use super::{
    Destination, HandOver, Handed, IntoTransport, Management, OpenError, Path, ReceiveBatch,
    SendBatch, Transport,
    errno::{is_of_the_interface, is_transient},
    handed::HandedInterface,
    oversized::Oversized,
};
use crate::{
    driver,
    sys::{
        batched,
        link::{self, Link},
        socket,
    },
    wire::{Dialect, DirectoryHash, Eid, MacAddress, Name, PeerAddress},
};

/// dst MAC, src MAC, ethertype, eid, length.
pub(super) const HEADER: usize = 18;
/// eid and length, which the MTU has to hold too.
const SHIM: usize = 4;
/// The MTU that a 0.23 peer takes a loopback device to have.
const LOOPBACK_MTU: usize = 9000;
/// Frames that one call of `receive` looks at, at most.
const LOOKED_AT: usize = 64;
/// Largest frame of any Ethernet; `length` could say more.
const LARGEST: usize = 65535;

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
        Ok(Arc::new(Attachment { station, hash: self.hash, management }))
    }
}

/// What the kernel knows about the interface, which has to be an Ethernet one.
pub(super) fn find(interface: &str) -> Result<Link, OpenError> {
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

/// Largest payload of a frame on `link` when its MTU is `mtu`.
pub(super) fn largest_payload(link: &Link, mtu: usize) -> usize {
    let mtu = if link.loopback { LOOPBACK_MTU } else { mtu };
    mtu.min(LARGEST).saturating_sub(SHIM)
}

/// The header of a frame with `length` bytes of payload.
pub(super) fn header(
    to: MacAddress,
    from: MacAddress,
    ethertype: u16,
    eid: Eid,
    length: u16,
) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..14].copy_from_slice(&ethertype.to_be_bytes());
    header[14..16].copy_from_slice(&(eid.0 as u16).to_be_bytes());
    header[16..].copy_from_slice(&length.to_be_bytes());
    header
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

/// A received frame: who sent it, the endpoint it is for, and its payload
/// without padding. `None` unless all of that is there.
pub(super) fn parse(frame: &[u8]) -> Option<(MacAddress, Eid, &[u8])> {
    let (header, rest) = frame.split_first_chunk::<HEADER>()?;
    let [_, _, _, _, _, _, a, b, c, d, e, f, _, _, eid @ .., l, m] = *header;
    let payload = rest.get(..usize::from(u16::from_be_bytes([l, m])))?;
    Some((MacAddress([a, b, c, d, e, f]), Eid(u16::from_be_bytes(eid).into()), payload))
}

pub(super) fn mac(peer: PeerAddress) -> io::Result<MacAddress> {
    match peer {
        PeerAddress::Mac(mac) => Ok(mac),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an Ethernet address")),
    }
}

/// Whether `eid` can be on the wire, where it has 16 bits.
pub(super) fn check_eid(eid: Eid) -> io::Result<()> {
    if eid.0 > u32::from(u16::MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an EID has 16 bits here"));
    }
    Ok(())
}

/// A classic BPF program that takes frames for `eid`, from `from` if that is
/// known, and none that are for another station (a capture on the interface
/// makes the kernel show those).
fn filter(eid: Eid, from: Option<MacAddress>) -> Vec<SockFilter> {
    const LOAD_32: u16 = 0x20;
    const LOAD_16: u16 = 0x28;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Ancillary data: how the kernel classed the frame, and "for others".
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const OTHER_HOST: u32 = 3;
    let mut checks = vec![(LOAD_32, PACKET_TYPE, OTHER_HOST, false), (LOAD_16, 14, eid.0, true)];
    if let Some(MacAddress([a, b, c, d, e, f])) = from {
        checks.push((LOAD_32, 6, u32::from_be_bytes([a, b, c, d]), true));
        checks.push((LOAD_16, 10, u16::from_be_bytes([e, f]).into(), true));
    }
    let instructions = checks.len() * 2;
    let mut program = Vec::with_capacity(instructions + 2);
    for (load, offset, value, wanted) in checks {
        program.push(SockFilter::new(load, 0, 0, offset));
        // To the last instruction, over the one that takes the frame.
        let away = (instructions - program.len()) as u8;
        let (equal, other) = if wanted { (0, away) } else { (away, 0) };
        program.push(SockFilter::new(EQUAL, equal, other, value));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// How often the interface is looked up by its name.
const LOOK_UP: Duration = Duration::from_secs(1);
/// The index of a socket that has lost its interface: none has it.
const UNBOUND: i32 = 0;

struct Station {
    interface: String,
    ethertype: u16,
    /// As last looked up: an adapter can come back with another index and address.
    link: RwLock<Link>,
}

impl Station {
    fn new(interface: String, ethertype: u16, link: Link) -> Self {
        Self { interface, ethertype, link: RwLock::new(link) }
    }

    fn link(&self) -> Link {
        *self.link.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks the interface up by its name, in the network namespace of `socket`,
    /// and binds the socket to it anew if that is another one than `bound`.
    fn look_up(&self, socket: &Socket, bound: &AtomicI32) -> io::Result<Link> {
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
    fn open(&self, eid: Eid, from: Option<MacAddress>) -> io::Result<Socket> {
        check_eid(eid)?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(eid, from))?;
        link::ignore_outgoing(&socket)?;
        socket::enlarge_buffers(&socket);
        link::bind_packet(&socket, self.ethertype, self.link().index)?;
        Ok(socket)
    }

    fn mac(&self) -> MacAddress {
        MacAddress(self.link().mac)
    }
}

/// Keeps the management socket at the interface of that name, whatever becomes of
/// it: who only listens meets no error that would say so.
async fn watch(management: Weak<EthManagement>) {
    loop {
        driver::reaches(Some(driver::monotonic() + LOOK_UP)).await;
        let Some(management) = management.upgrade() else { return };
        // Gone: it may come back.
        let _ = management.station.look_up(&management.socket, &management.bound);
    }
}

struct Attachment {
    station: Arc<Station>,
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

    fn oversized(&self) -> u64 {
        self.management.oversized.count()
    }

    fn open_requester(&self, local: Eid, _peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>> {
        // Whoever the request goes to, only `connect` says who answered.
        let socket = self.station.open(local, None)?;
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
        let socket = self.station.open(local, Some(peer))?;
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
        let mut frame = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
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

struct EthPath {
    station: Arc<Station>,
    socket: Socket,
    /// Index of the interface that the socket is bound to.
    bound: AtomicI32,
    local: Eid,
    remote: OnceLock<(Eid, MacAddress)>,
    /// Largest payload by the MTU as last asked for.
    largest: AtomicUsize,
}

impl EthPath {
    fn new(
        station: &Arc<Station>,
        socket: Socket,
        local: Eid,
        remote: OnceLock<(Eid, MacAddress)>,
    ) -> Self {
        let link = station.link();
        let largest = AtomicUsize::new(largest_payload(&link, link.mtu));
        let bound = AtomicI32::new(link.index);
        let path = Self { station: Arc::clone(station), socket, bound, local, remote, largest };
        path.largest_frame();
        path
    }
}

impl Path for EthPath {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        check_eid(remote)?;
        let peer = mac(peer)?;
        self.remote.set((remote, peer)).map_err(|_| io::ErrorKind::AlreadyExists)?;
        self.socket.attach_filter(&filter(self.local, Some(peer)))
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let &(remote, peer) = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        let largest = self.largest.load(Ordering::Relaxed);
        let (from, ethertype) = (self.station.mac(), self.station.ethertype);
        let too_large = |range: &std::ops::Range<usize>| range.len() - HEADER > largest;
        while batch.sent() < batch.len() {
            let first = batch.sent();
            let mut count = 0;
            while count < batched::FRAMES && first + count < batch.len() {
                let range = batch.range(first + count);
                if too_large(&range) {
                    break;
                }
                let length = (range.len() - HEADER) as u16;
                batch.bytes_mut()[range.start..range.start + HEADER]
                    .copy_from_slice(&header(peer, from, ethertype, remote, length));
                count += 1;
            }
            if count == 0 {
                batch.skip_oversize();
                continue;
            }
            batch.count_call();
            let sent =
                batched::send(&self.socket, batch.bytes(), count, |i| batch.range(first + i));
            let error = match sent {
                Ok(sent) => {
                    batch.advance(sent);
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MSGSIZE) => {
                    batch.skip_oversize();
                    self.largest_frame();
                }
                _ if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The frame is lost as on any network, the flow goes on; the next
                // one leaves by the interface that has this name by then.
                _ if is_transient(&error) => {
                    if is_of_the_interface(&error) {
                        let _ = self.station.look_up(&self.socket, &self.bound);
                    }
                    batch.advance(1);
                }
                _ => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let largest = self.largest.load(Ordering::Relaxed);
        let peer = self.remote.get().map(|&(_, peer)| peer);
        let mut taken = [(0, 0); batched::FRAMES];
        let mut count = 0;
        batch.count_call();
        let received =
            batched::receive(&self.socket, batch.buffer_mut(), HEADER + largest, |b, r| {
                let Some((from, eid, payload)) = parse(&b[r.clone()]) else { return };
                // Frames that came before `connect` narrowed the filter.
                if eid == self.local && peer.is_none_or(|peer| peer == from) {
                    let start = r.start + HEADER;
                    taken[count] = (start, start + payload.len());
                    count += 1;
                }
            });
        match received {
            Err(error) if is_of_the_interface(&error) => {
                self.bound.store(UNBOUND, Ordering::Relaxed);
            }
            Err(error) if is_transient(&error) => {}
            other => other?,
        }
        for &(start, end) in &taken[..count] {
            batch.push(start..end);
        }
        if batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn send_management(&self, _message: &[u8]) -> Option<io::Result<()>> {
        None
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn buffers(&self) -> (usize, usize) {
        socket::buffers(&self.socket).unwrap_or_default()
    }

    fn waited(&self) -> Option<Duration> {
        socket::waited(&self.socket)
    }

    fn headroom(&self) -> usize {
        HEADER
    }

    fn largest_frame(&self) -> usize {
        let found = self.station.look_up(&self.socket, &self.bound);
        let link = found.unwrap_or_else(|_| self.station.link());
        let largest = largest_payload(&link, link.mtu);
        self.largest.store(largest, Ordering::Relaxed);
        largest
    }

    fn description(&self) -> String {
        match self.remote.get() {
            Some((_, peer)) => format!("eth-dix {peer} on {}", self.station.interface),
            None => format!("eth-dix on {}", self.station.interface),
        }
    }

    fn hand_over(&self) -> Option<io::Result<HandOver>> {
        self.remote.get()?;
        let Station { interface, ethertype, .. } = &*self.station;
        let link = self.station.link();
        let interface = HandedInterface {
            name: interface.clone(),
            index: link.index,
            mac: MacAddress(link.mac),
            mtu: link.mtu,
            loopback: link.loopback,
            ethertype: *ethertype,
        };
        let locked = link::lock_filter(&self.socket);
        let socket = locked.and_then(|()| self.socket.as_fd().try_clone_to_owned());
        Some(socket.map(|socket| HandOver { socket, kind: Handed::EthDix(interface) }))
    }
}
