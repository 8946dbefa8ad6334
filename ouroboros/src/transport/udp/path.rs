//! The data path of a UDP flow with a connected socket of its own.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::io::Errno;
use socket2::{SockAddr, Socket};

use super::{Connected, EID, LARGEST_DATAGRAM, canonical, lock, udp_address, with_eid};
use crate::{
    sys::{namespace::NetworkNamespace, option, socket},
    transport::errno::is_transient,
    transport::{HandOver, Handed, Mobility, Path, PathOffload, ReceiveBatch, SendBatch, Stray},
    tun::offload::Ecn,
    wire::{Eid, PeerAddress},
};

/// Largest UDP payload, in bytes: that of one segmented send, and of what one
/// receive coalesces.
const LARGEST_RUN: usize = 65507;
/// More than the largest by what keeps pieces from meeting in the same lines of
/// a cache.
const RECEIVED_RUN: usize = (1 << 16) + 192;
const SEGMENTS: usize = 64;
/// Pieces of a batch's buffer that one call fills.
const PIECES: usize = 32;
/// What the kernel says is the MTU of a way that is gone.
const NO_WAY: usize = 68;
/// Tries before an error of the network (not of the frame) costs a frame.
const TRIES: usize = 3;

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Sets the socket's options, and finds out what the kernel does there.
fn offloads(socket: &Socket, v6: bool) -> io::Result<UdpSocketState> {
    let offload = UdpSocketState::new(socket.into())?;
    // quinn's choice ignores the path MTU that routers tell.
    socket::forbid_fragments(socket, v6)?;
    socket::spare_stamps(socket);
    Ok(offload)
}

/// Errors of a host without a way to anywhere: its network is gone, or (which
/// of the two depends on the kernel) the socket's own address.
fn is_cut_off(error: &io::Error) -> bool {
    [Errno::NETUNREACH, Errno::NETDOWN, Errno::INVAL].iter().any(|&errno| is(error, errno))
}

/// Whether the address of `socket` is none of its network namespace's any more.
/// From an IPv6 address the kernel sends on then, and says nothing. Where the
/// namespace is neither this thread's nor `namespace` it is not known to be lost.
fn address_is_lost(socket: &Socket, namespace: Option<&NetworkNamespace>) -> bool {
    let lost = || {
        let mut address = super::local_address(socket)?;
        address.set_port(0);
        let any = super::bind(super::anywhere(address.is_ipv6()), false, 0)?;
        if option::network_namespace(&any) != option::network_namespace(socket) {
            return Ok(false);
        }
        match super::bind(address, false, 0) {
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

/// How many equal frames from `batch.sent()` on, the last possibly shorter,
/// can leave as one segmented send, and how many bytes they are. One send has
/// one traffic class.
fn run(batch: &SendBatch, segments: usize, largest: usize) -> (usize, usize) {
    let first = batch.range(batch.sent()).len();
    let ecn = batch.ecn(batch.sent());
    let (mut count, mut bytes) = (1, first);
    if first > largest {
        return (count, bytes);
    }
    for i in batch.sent() + 1..batch.len() {
        let length = batch.range(i).len();
        if count == segments || length > first || bytes + length > LARGEST_RUN {
            break;
        }
        if batch.ecn(i) != ecn {
            break;
        }
        count += 1;
        bytes += length;
        if length < first {
            break;
        }
    }
    (count, bytes)
}

/// A flow with a socket of its own, connected to its peer.
///
/// Where this end asked for the flow the socket's address may be the kernel's
/// choice, and then there is another when that one has gone: the same socket
/// leaves it, and the peer finds the frames coming from elsewhere.
pub(super) struct ConnectedPath {
    socket: Socket,
    /// That of the socket, where it is known.
    namespace: Option<Arc<NetworkNamespace>>,
    /// Another one after the socket has left its address: by the errors from
    /// there it has taken the kernel to be without segmentation.
    offload: RwLock<UdpSocketState>,
    /// It has left its address, and there is no way to the peer yet.
    detached: AtomicBool,
    /// It could not leave its address, and has to be given up.
    stays: AtomicBool,
    /// What was sent last could not leave, for want of a network.
    cut_off: AtomicBool,
    /// A route has refused frames with the errors that say as well that the kernel
    /// cannot cut them: `offload` may be wrong.
    doubtful: AtomicBool,
    segments: AtomicBool,
    coalesces: AtomicBool,
    local: Eid,
    remote: OnceLock<Eid>,
    peer: Mutex<SocketAddr>,
    /// Largest frame with its EID as last heard from the kernel.
    largest: AtomicUsize,
    /// Set if the path holds the place of its peer among the responders.
    responder_of: Option<Arc<Connected>>,
}

impl ConnectedPath {
    pub(super) fn requester(socket: Socket, local: Eid, peer: SocketAddr) -> io::Result<Self> {
        // Before any datagram can arrive.
        let offload = offloads(&socket, peer.is_ipv6())?;
        socket.connect(&SockAddr::from(peer))?;
        let largest = AtomicUsize::new(0);
        let remote = OnceLock::new();
        let path = Self {
            socket,
            namespace: None,
            segments: AtomicBool::new(offload.max_gso_segments() > 1),
            coalesces: AtomicBool::new(offload.gro_segments() > 1),
            offload: RwLock::new(offload),
            detached: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            local,
            remote,
            peer: Mutex::new(peer),
            largest,
            responder_of: None,
        };
        path.largest_frame();
        Ok(path)
    }

    pub(super) fn responder(
        connected: &Arc<Connected>,
        socket: Socket,
        local: Eid,
        remote: Eid,
        peer: SocketAddr,
    ) -> io::Result<Self> {
        let mut path = Self::requester(socket, local, peer)?;
        path.remote = remote.into();
        path.responder_of = Some(Arc::clone(connected));
        Ok(path)
    }

    /// A socket that was opened in `namespace`.
    pub(super) fn inside(mut self, namespace: &Arc<NetworkNamespace>) -> Self {
        self.namespace = Some(Arc::clone(namespace));
        self
    }

    /// Has the kernel find the way to the peer again.
    fn reconnect(&self) {
        // Fails where there is none, as sending does.
        let _ = self.socket.connect(&SockAddr::from(self.peer()));
    }

    /// Whether the socket's address has been lost, and the socket has left it.
    fn try_reconnect(&self) -> bool {
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
        let address = super::local_address(&self.socket);
        let left = address.is_ok_and(|address| address.ip().is_unspecified());
        self.stays.store(!left, Ordering::Relaxed);
        self.detached.store(true, Ordering::Relaxed);
        self.rebind();
        left
    }

    /// Connects a socket that is detached, if there is a way.
    fn rebind(&self) {
        let peer = lock(&self.peer);
        let connected = self.socket.connect(&SockAddr::from(*peer));
        if connected.is_err() || !self.detached.swap(false, Ordering::Relaxed) {
            return;
        }
        self.renew_offload(peer.is_ipv6());
        let address = super::local_address(&self.socket).ok();
        tracing::info!(?address, "a flow goes on from another address");
    }

    /// Finds out again what the kernel does at the socket.
    fn renew_offload(&self, v6: bool) {
        if let Ok(offload) = offloads(&self.socket, v6) {
            *self.offload.write().unwrap_or_else(PoisonError::into_inner) = offload;
        }
        if !self.coalesces.load(Ordering::Relaxed) {
            socket::split_received(&self.socket);
        }
    }

    fn kernel(&self) -> RwLockReadGuard<'_, UdpSocketState> {
        self.offload.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn transmit(&self, contents: &[u8], segment_size: Option<usize>, ecn: Ecn) -> io::Result<()> {
        self.transmit_to(self.peer(), contents, segment_size, ecn)
    }

    fn peer(&self) -> SocketAddr {
        *lock(&self.peer)
    }

    fn transmit_to(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
        ecn: Ecn,
    ) -> io::Result<()> {
        let ecn = EcnCodepoint::from_bits(ecn.bits());
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
        let sent = self.kernel().try_send((&self.socket).into(), &transmit);
        self.cut_off.store(sent.as_ref().is_err_and(is_cut_off), Ordering::Relaxed);
        sent
    }

    /// Sends one frame; `Ok` if it is gone, be it lost.
    fn send_single(&self, batch: &mut SendBatch) -> io::Result<()> {
        let range = batch.range(batch.sent());
        if range.len() > LARGEST_DATAGRAM {
            batch.skip_oversize();
            return Ok(());
        }
        let (mut tries, ecn) = (1, batch.ecn(batch.sent()));
        loop {
            batch.count_call();
            let error = match self.transmit(&batch.bytes()[range.clone()], None, ecn) {
                Ok(()) => {
                    if self.doubtful.swap(false, Ordering::Relaxed) {
                        self.renew_offload(self.peer().is_ipv6());
                    }
                    break;
                }
                Err(error) => error,
            };
            if is(&error, Errno::INVAL) || is(&error, Errno::IO) {
                self.doubtful.store(true, Ordering::Relaxed);
            }
            // A connected socket reports what ICMP said about earlier frames in
            // place of sending this one, so the first error may not be its own.
            if is(&error, Errno::MSGSIZE) {
                if tries == TRIES {
                    // There is another way to the peer than the socket knows.
                    self.reconnect();
                }
                if tries == TRIES || range.len() > EID + self.largest_frame() {
                    batch.skip_oversize();
                    return Ok(());
                }
            } else if is_cut_off(&error) && self.try_reconnect() {
                // Once more, from another address.
            } else if !is_transient(&error) {
                return Err(error);
            } else if tries == TRIES {
                break;
            }
            tries += 1;
        }
        batch.advance(1);
        Ok(())
    }
}

impl Drop for ConnectedPath {
    fn drop(&mut self) {
        if let Some(connected) = &self.responder_of {
            lock(connected).remove(&self.peer());
        }
    }
}

pub(super) fn write_eids(batch: &mut SendBatch, remote: Eid) {
    for i in batch.sent()..batch.len() {
        let start = batch.range(i).start;
        batch.bytes_mut()[start..start + EID].copy_from_slice(&remote.0.to_be_bytes());
    }
}

impl Path for ConnectedPath {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        if udp_address(peer)? != self.peer() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "another peer than asked"));
        }
        self.remote.set(remote).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let &remote = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        write_eids(batch, remote);
        if self.detached.load(Ordering::Relaxed) {
            self.rebind();
        }
        while batch.sent() < batch.len() {
            let segments = if self.offload().segments { SEGMENTS } else { 1 };
            let largest = self.largest.load(Ordering::Relaxed);
            let (count, bytes) = run(batch, segments, largest);
            if count > 1 {
                let first = batch.range(batch.sent());
                batch.count_call();
                let contents = &batch.bytes()[first.start..first.start + bytes];
                match self.transmit(contents, Some(first.len()), batch.ecn(batch.sent())) {
                    Ok(()) => {
                        batch.advance(count);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                    // No segmentation here (EIO, EINVAL), a smaller MTU, or
                    // news by ICMP: each frame of the run on its own.
                    Err(_) => {}
                }
            }
            for _ in 0..count {
                self.send_single(batch)?;
            }
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); PIECES];
        let room = batch.buffer_mut().len();
        let piece = room.clamp(1, RECEIVED_RUN);
        let mut tries = 1;
        let count = loop {
            batch.count_call();
            let mut chunks = batch.buffer_mut().chunks_exact_mut(piece);
            let mut pieces: [IoSliceMut<'_>; PIECES] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let pieces = &mut pieces[..(room / piece).min(PIECES)];
            match self.kernel().recv((&self.socket).into(), pieces, &mut metas) {
                Ok(count) => break count,
                Err(error)
                    if tries < TRIES && (is_transient(&error) || is(&error, Errno::MSGSIZE)) =>
                {
                    tries += 1;
                }
                // An ICMP storm must not end the flow: poll again.
                Err(error) if is_transient(&error) || is(&error, Errno::MSGSIZE) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        };
        let (local, peer) = (self.local.0.to_be_bytes(), self.peer());
        let mut strays = false;
        for (i, meta) in metas.iter().enumerate().take(count) {
            let from = canonical(meta.addr);
            let (start, length) = (i * piece, meta.len.min(piece));
            let ecn = Ecn::from_bits(meta.ecn.map_or(0, |ecn| ecn as u8));
            for offset in (0..length).step_by(meta.stride.max(1)) {
                let end = start + length.min(offset + meta.stride);
                let frame = start + offset..end;
                let bytes = &batch.buffer_mut()[frame.clone()];
                if bytes.starts_with(&local) && from == peer {
                    batch.push_marked(frame.start + EID..frame.end, ecn);
                } else if bytes.len() >= EID {
                    let stray = Stray { from: PeerAddress::Udp(from), frame: bytes.to_vec() };
                    batch.push_stray(stray);
                    strays = true;
                }
            }
        }
        if batch.is_empty() && !strays { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn send_management(&self, message: &[u8]) -> Option<io::Result<()>> {
        if self.responder_of.is_some() {
            return None;
        }
        if self.detached.load(Ordering::Relaxed) {
            self.rebind();
        }
        let frame = with_eid(Eid::MANAGEMENT, message);
        let mut result = Ok(());
        for _ in 0..TRIES {
            result = self.transmit(&frame, None, Ecn::NotEct);
            match &result {
                // Somebody says that nobody listens; a repetition may tell.
                Err(error) if is(error, Errno::CONNREFUSED) => result = Ok(()),
                Err(error) if is_cut_off(error) && self.try_reconnect() => {}
                // Certificates may be larger than the path; data is not cut by routers.
                Err(error) if is(error, Errno::MSGSIZE) => {
                    let v6 = self.peer().is_ipv6();
                    result = socket::with_fragments(&self.socket, v6, || {
                        self.transmit(&frame, None, Ecn::NotEct)
                    });
                    break;
                }
                _ => break,
            }
        }
        Some(result)
    }

    fn mobility(&self) -> Option<&dyn Mobility> {
        Some(self)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn headroom(&self) -> usize {
        EID
    }

    fn largest_frame(&self) -> usize {
        let v6 = self.peer().is_ipv6();
        let headers = if v6 { 48 } else { 28 };
        let datagram = |mtu: usize| mtu.saturating_sub(headers).min(LARGEST_DATAGRAM);
        // The kernel forgets the way, and with it the MTU, when routes change.
        let mtu = socket::path_mtu(&self.socket, v6).or_else(|_| {
            self.reconnect();
            socket::path_mtu(&self.socket, v6)
        });
        let datagram = match (mtu, self.largest.load(Ordering::Relaxed)) {
            (Ok(mtu), _) if mtu > NO_WAY => datagram(mtu),
            (_, 0) => datagram(1280),
            (_, known) => known,
        };
        self.largest.store(datagram, Ordering::Relaxed);
        datagram.saturating_sub(EID)
    }

    fn buffers(&self) -> (usize, usize) {
        socket::buffers(&self.socket).unwrap_or_default()
    }

    fn dropped(&self) -> u64 {
        option::drops(&self.socket).unwrap_or_default().into()
    }

    fn waited(&self) -> Option<Duration> {
        socket::waited(&self.socket)
    }

    fn is_routed(&self) -> bool {
        true
    }

    fn limit_offload(&self, offload: PathOffload) {
        if !offload.segments {
            self.segments.store(false, Ordering::Relaxed);
        }
        if !offload.coalesces && self.coalesces.swap(false, Ordering::Relaxed) {
            socket::split_received(&self.socket);
        }
    }

    fn offload(&self) -> PathOffload {
        PathOffload {
            segments: self.segments.load(Ordering::Relaxed) && self.kernel().max_gso_segments() > 1,
            coalesces: self.coalesces.load(Ordering::Relaxed),
        }
    }

    fn description(&self) -> String {
        format!("udp {}", self.peer())
    }

    fn hand_over(&self) -> Option<io::Result<HandOver>> {
        self.remote.get()?;
        let socket = self.socket.as_fd().try_clone_to_owned();
        Some(socket.map(|socket| HandOver { socket, kind: Handed::Udp }))
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
        self.cut_off.load(Ordering::Relaxed) && !self.stays.load(Ordering::Relaxed)
    }
}
