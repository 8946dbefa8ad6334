//! The data paths of UDP flows: a connected socket each, or, for a peer that
//! sends several flows from one port, the listening socket and a queue.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::{io::Errno, net::SendFlags};
use socket2::{SockAddr, Socket};

use super::{
    Connected, EID, LARGEST_DATAGRAM, Route, Shared, lock, same_peer, udp_address, with_eid,
};
use crate::{
    sys::socket,
    transport::{HandOver, Handed, Path, PathOffload, ReceiveBatch, SendBatch, Stray},
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
/// Tries before an error of the network (not of the frame) costs a frame.
const TRIES: usize = 3;
/// Frames that wait in a queue, at most.
const QUEUED: usize = 512;
/// Frames of one batch out of a queue, at most.
const FRAMES: usize = 256;

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Errors that say that the network does not carry frames now, or that
/// somebody claims so by ICMP. They cost a frame, not the flow.
fn is_of_the_network(error: &io::Error) -> bool {
    [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::HOSTDOWN,
        Errno::NOPROTOOPT,
        Errno::PROTO,
        Errno::NOBUFS,
        Errno::PERM,
    ]
    .iter()
    .any(|&errno| is(error, errno))
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
pub(super) struct ConnectedPath {
    socket: Socket,
    offload: UdpSocketState,
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
        // Sets the socket's options, so before any datagram can arrive.
        let offload = UdpSocketState::new((&socket).into())?;
        // quinn's choice ignores the path MTU that routers tell.
        socket::forbid_fragments(&socket, peer.is_ipv6())?;
        socket.connect(&SockAddr::from(peer))?;
        let largest = AtomicUsize::new(0);
        let remote = OnceLock::new();
        socket::spare_stamps(&socket);
        let path = Self {
            socket,
            segments: AtomicBool::new(offload.max_gso_segments() > 1),
            coalesces: AtomicBool::new(offload.gro_segments() > 1),
            offload,
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

    /// Has the kernel find the way to the peer again.
    fn look_for_the_way(&self) {
        // Fails where there is none, as sending does.
        let _ = self.socket.connect(&SockAddr::from(self.peer()));
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
        self.offload.try_send((&self.socket).into(), &transmit)
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
                Ok(()) => break,
                Err(error) => error,
            };
            // A connected socket reports what ICMP said about earlier frames in
            // place of sending this one, so the first error may not be its own.
            if is(&error, Errno::MSGSIZE) {
                if tries == TRIES {
                    // There is another way to the peer than the socket knows.
                    self.look_for_the_way();
                }
                if tries == TRIES || range.len() > EID + self.largest_frame() {
                    batch.skip_oversize();
                    return Ok(());
                }
            } else if !is_of_the_network(&error) {
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
            let peer = self.peer();
            lock(connected).remove(&(peer.ip(), peer.port()));
        }
    }
}

fn write_eids(batch: &mut SendBatch, remote: Eid) {
    for i in batch.sent()..batch.len() {
        let start = batch.range(i).start;
        batch.bytes_mut()[start..start + EID].copy_from_slice(&remote.0.to_be_bytes());
    }
}

impl Path for ConnectedPath {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        if !same_peer(udp_address(peer)?, self.peer()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "another peer than asked"));
        }
        self.remote.set(remote).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let &remote = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        write_eids(batch, remote);
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
            match self.offload.recv((&self.socket).into(), pieces, &mut metas) {
                Ok(count) => break count,
                Err(error)
                    if tries < TRIES
                        && (is_of_the_network(&error) || is(&error, Errno::MSGSIZE)) =>
                {
                    tries += 1;
                }
                // An ICMP storm must not end the flow: poll again.
                Err(error) if is_of_the_network(&error) || is(&error, Errno::MSGSIZE) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        };
        let (local, peer) = (self.local.0.to_be_bytes(), self.peer());
        let mut strays = false;
        for (i, meta) in metas.iter().enumerate().take(count) {
            let (start, length) = (i * piece, meta.len.min(piece));
            let ecn = Ecn::from_bits(meta.ecn.map_or(0, |ecn| ecn as u8));
            for offset in (0..length).step_by(meta.stride.max(1)) {
                let end = start + length.min(offset + meta.stride);
                let frame = start + offset..end;
                let bytes = &batch.buffer_mut()[frame.clone()];
                if bytes.starts_with(&local) && same_peer(meta.addr, peer) {
                    batch.push_marked(frame.start + EID..frame.end, ecn);
                } else if bytes.len() >= EID {
                    let stray = Stray { from: PeerAddress::Udp(meta.addr), frame: bytes.to_vec() };
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
        let frame = with_eid(Eid::MANAGEMENT, message);
        let mut result = Ok(());
        for _ in 0..TRIES {
            result = self.transmit(&frame, None, Ecn::NotEct);
            match &result {
                // Somebody says that nobody listens; a repetition may tell.
                Err(error) if is(error, Errno::CONNREFUSED) => result = Ok(()),
                _ => break,
            }
        }
        Some(result)
    }

    fn send_elsewhere(&self, to: PeerAddress, frame: &[u8]) -> io::Result<()> {
        let &remote = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        self.transmit_to(udp_address(to)?, &with_eid(remote, frame), None, Ecn::NotEct)
    }

    fn follow(&self, peer: PeerAddress) -> io::Result<()> {
        let to = udp_address(peer)?;
        self.socket.connect(&SockAddr::from(to))?;
        let from = std::mem::replace(&mut *lock(&self.peer), to);
        if let Some(connected) = &self.responder_of {
            let mut connected = lock(connected);
            connected.remove(&(from.ip(), from.port()));
            connected.insert((to.ip(), to.port()));
        }
        self.largest_frame();
        Ok(())
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
            self.look_for_the_way();
            socket::path_mtu(&self.socket, v6)
        });
        let datagram = match (mtu, self.largest.load(Ordering::Relaxed)) {
            (Ok(mtu), _) => datagram(mtu),
            (Err(_), 0) => datagram(1280),
            (Err(_), known) => known,
        };
        self.largest.store(datagram, Ordering::Relaxed);
        datagram.saturating_sub(EID)
    }

    fn buffers(&self) -> (usize, usize) {
        socket::buffers(&self.socket).unwrap_or_default()
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
            segments: self.segments.load(Ordering::Relaxed) && self.offload.max_gso_segments() > 1,
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

/// A further flow with a peer that has a connected socket already (a 0.23
/// client sends all its flows from one port): it sends through the listening
/// socket, and receives what [`dispatch`](crate::transport::Transport::dispatch)
/// and the listening socket find for it.
pub(super) struct SharedPath {
    shared: Arc<Shared>,
    listener: Arc<Socket>,
    queue: Arc<Route>,
    local: Eid,
    remote: Eid,
    peer: SocketAddr,
    largest: usize,
}

impl SharedPath {
    pub(super) fn new(
        shared: &Arc<Shared>,
        listener: Arc<Socket>,
        local: Eid,
        remote: Eid,
        peer: SocketAddr,
    ) -> io::Result<Self> {
        // A socket for the moment: only a connected one knows its path's MTU.
        let probe = super::bind(SocketAddr::new(shared.own.ip(), 0), false)?;
        let largest = ConnectedPath::requester(probe, local, peer)?.largest_frame();
        let queue = Arc::new(Route::new(QUEUED)?);
        let key = (local, peer.ip(), peer.port());
        lock(&shared.routes).insert(key, Arc::downgrade(&queue));
        Ok(Self { shared: Arc::clone(shared), listener, queue, local, remote, peer, largest })
    }
}

impl Drop for SharedPath {
    fn drop(&mut self) {
        lock(&self.shared.routes).remove(&(self.local, self.peer.ip(), self.peer.port()));
    }
}

impl Path for SharedPath {
    fn connect(&self, _remote: Eid, _peer: PeerAddress) -> io::Result<()> {
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        write_eids(batch, self.remote);
        while batch.sent() < batch.len() {
            let frame = &batch.bytes()[batch.range(batch.sent())];
            if frame.len() > LARGEST_DATAGRAM {
                batch.skip_oversize();
                continue;
            }
            match rustix::net::sendto(&*self.listener, frame, SendFlags::DONTWAIT, &self.peer) {
                Err(Errno::MSGSIZE) => batch.skip_oversize(),
                // A full socket loses the frame: the queue's readiness says
                // nothing about it, so that there is nothing to wait for.
                Ok(_) | Err(Errno::AGAIN) => batch.advance(1),
                Err(error) if is_of_the_network(&error.into()) => batch.advance(1),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let room = batch.buffer_mut().len();
        let mut at = 0;
        while batch.len() < FRAMES {
            let fits = |frame: &Vec<u8>| at == 0 || frame.len() <= room - at;
            let Some(frame) = self.queue.pop_if(fits) else { break };
            if frame.len() > room - at {
                continue;
            }
            batch.buffer_mut()[at..at + frame.len()].copy_from_slice(&frame);
            batch.push(at..at + frame.len());
            at += frame.len();
        }
        if batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn send_management(&self, _message: &[u8]) -> Option<io::Result<()>> {
        None
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.queue.readiness()
    }

    fn headroom(&self) -> usize {
        EID
    }

    fn largest_frame(&self) -> usize {
        self.largest
    }

    fn description(&self) -> String {
        format!("udp {}, shared", self.peer)
    }
}
