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
use rustix::{io::Errno, net::SendFlags};
use socket2::{SockAddr, Socket};

use super::{
    Connected, EID, LARGEST_DATAGRAM, canonical, lock, mark::Mark, mobility::is_cut_off,
    udp_address, with_eid,
};
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
/// Pieces of a batch's buffer that one call fills: as many as one has.
const PIECES: usize = 8;
/// The MTU that the kernel reports for a route that is gone.
const NO_WAY: usize = 68;
/// Tries before an error of the network (not of the frame) costs a frame.
const TRIES: usize = 3;

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// What quinn-udp knows of the kernel, for all sockets until a send shows that it is not so: to
/// find it out takes a dozen system calls at a socket, and has the kernel stamp all packets of
/// the machine while that is open.
static KERNEL: Mutex<Option<Arc<UdpSocketState>>> = Mutex::new(None);

/// Returns what is known of the kernel, for a new socket.
fn kernel(socket: &Socket, v6: bool) -> io::Result<Arc<UdpSocketState>> {
    let mut kernel = lock(&KERNEL);
    match kernel.as_ref().filter(|kernel| kernel.max_gso_segments() > 1) {
        Some(kernel) => Ok(kernel.clone()),
        None => Ok(kernel.insert(Arc::new(offloads(socket, v6)?)).clone()),
    }
}

/// Sets the socket's options, and finds out what the kernel does there.
fn offloads(socket: &Socket, v6: bool) -> io::Result<UdpSocketState> {
    let offload = UdpSocketState::new(socket.into())?;
    // quinn's choice ignores the path MTU that routers tell.
    socket::forbid_fragments(socket, v6)?;
    socket::spare_stamps(socket);
    Ok(offload)
}

/// Returns how many equal frames from `batch.sent()` on, the last possibly shorter, can leave
/// as one segmented send, and how many bytes they are. One send has one traffic class.
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
    pub(super) socket: Socket,
    /// The network namespace of the socket, where it is known.
    pub(super) namespace: Option<Arc<NetworkNamespace>>,
    /// Another one after the socket has left its address: by the errors from there the kernel
    /// was taken to be without segmentation.
    kernel: RwLock<Arc<UdpSocketState>>,
    /// Those errors were this socket's, not another one's that has the same `kernel`.
    refused: AtomicBool,
    /// It has left its address, and there is no way to the peer yet.
    pub(super) detached: AtomicBool,
    /// It could not leave its address, and has to be given up.
    pub(super) address_pinned: AtomicBool,
    /// The last frames could not leave, for want of a network.
    pub(super) cut_off: AtomicBool,
    /// A route has refused frames with the errors that say as well that the kernel
    /// cannot cut them: `offload` may be wrong.
    doubtful: AtomicBool,
    segments: AtomicBool,
    coalesces: AtomicBool,
    pub(super) mark: Mark,
    local: Eid,
    pub(super) remote: OnceLock<Eid>,
    pub(super) peer: Mutex<SocketAddr>,
    /// Largest frame with its EID as last heard from the kernel.
    largest: AtomicUsize,
    /// Set if the path holds the place of its peer among the responders.
    pub(super) responder_of: Option<Arc<Connected>>,
}

impl ConnectedPath {
    /// The path over a socket that is connected to `peer`.
    pub(super) fn requester(socket: Socket, local: Eid, peer: SocketAddr) -> io::Result<Self> {
        let v6 = peer.is_ipv6();
        let kernel = kernel(&socket, v6)?;
        socket::tell_ecn(&socket, v6);
        let coalesces = socket::coalesce_received(&socket);
        let largest = AtomicUsize::new(0);
        let remote = OnceLock::new();
        let path = Self {
            socket,
            namespace: None,
            segments: AtomicBool::new(kernel.max_gso_segments() > 1),
            coalesces: AtomicBool::new(coalesces),
            kernel: RwLock::new(kernel),
            refused: AtomicBool::new(false),
            mark: Mark::default(),
            detached: AtomicBool::new(false),
            address_pinned: AtomicBool::new(false),
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
        socket.connect(&SockAddr::from(peer))?;
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

    /// Takes the kernel to do at the socket what it does at new ones.
    pub(super) fn renew_offload(&self, v6: bool) {
        if let Ok(kernel) = kernel(&self.socket, v6) {
            *self.kernel.write().unwrap_or_else(PoisonError::into_inner) = kernel;
            self.refused.store(false, Ordering::Relaxed);
        }
        if !self.coalesces.load(Ordering::Relaxed) {
            socket::split_received(&self.socket);
        }
    }

    fn kernel(&self) -> RwLockReadGuard<'_, Arc<UdpSocketState>> {
        self.kernel.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if equal frames leave as one segmented send.
    fn has_segments(&self) -> bool {
        if !self.segments.load(Ordering::Relaxed) {
            return false;
        }
        let has_segments = self.kernel().max_gso_segments() > 1;
        if has_segments || self.refused.load(Ordering::Relaxed) {
            return has_segments;
        }
        // Errors of another flow's way.
        self.renew_offload(self.peer().is_ipv6());
        self.kernel().max_gso_segments() > 1
    }

    fn transmit(&self, contents: &[u8], segment_size: Option<usize>, ecn: Ecn) -> io::Result<()> {
        let peer = self.peer();
        if segment_size.is_some() || !self.mark.is(ecn, &self.socket, peer.is_ipv6()) {
            return self.transmit_to(peer, contents, segment_size, ecn);
        }
        // The kernel looks up the way of what comes with an address or with options.
        match rustix::net::send(&self.socket, contents, SendFlags::DONTWAIT) {
            // It is connected to nobody for now.
            Err(Errno::DESTADDRREQ) => self.transmit_to(peer, contents, None, ecn),
            sent => self.note_cut_off(sent.map(|_| ()).map_err(io::Error::from)),
        }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        *lock(&self.peer)
    }

    pub(super) fn transmit_to(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
        ecn: Ecn,
    ) -> io::Result<()> {
        let ecn = EcnCodepoint::from_bits(ecn.bits());
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
        let sent = self.kernel().try_send((&self.socket).into(), &transmit);
        if sent.as_ref().is_err_and(|error| is(error, Errno::INVAL) || is(error, Errno::IO)) {
            self.refused.store(true, Ordering::Relaxed);
        }
        self.note_cut_off(sent)
    }

    fn note_cut_off(&self, sent: io::Result<()>) -> io::Result<()> {
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
            let segments = if self.has_segments() { SEGMENTS } else { 1 };
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
        if count < (room / piece).min(PIECES) {
            batch.set_drained();
        }
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
            segments: self.has_segments(),
            coalesces: self.coalesces.load(Ordering::Relaxed),
        }
    }

    fn description(&self) -> String {
        format!("udp {}", self.peer())
    }

    fn hand_over(&self) -> Option<io::Result<HandOver>> {
        self.remote.get()?;
        self.mark.reset(&self.socket, self.peer().is_ipv6());
        let socket = self.socket.as_fd().try_clone_to_owned();
        Some(socket.map(|socket| HandOver { socket, kind: Handed::Udp }))
    }
}
