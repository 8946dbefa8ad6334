//! The data path of a further flow with a peer that sends several from one port:
//! the listening socket and a queue.

use std::{io, net::SocketAddr, os::fd::BorrowedFd, sync::Arc};

use rustix::{io::Errno, net::SendFlags};
use socket2::Socket;

use super::{
    EID, LARGEST_DATAGRAM, Route, Shared, lock,
    path::{ConnectedPath, write_eids},
    socket::{beside, bind, connected},
};
use crate::{
    transport::errno::is_transient,
    transport::{Path, ReceiveBatch, SendBatch},
    wire::{Eid, PeerAddress},
};

/// Frames that wait in a queue, at most.
const QUEUED: usize = 512;
/// Frames of one batch out of a queue, at most.
const FRAMES: usize = 256;

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
        let mut own = beside(shared.own, peer);
        own.set_port(0);
        let probe = connected(bind(own, false, shared.mark)?, peer)?;
        let largest = ConnectedPath::requester(probe, local, peer)?.largest_frame();
        let queue = Arc::new(Route::new(QUEUED)?);
        lock(&shared.routes).insert((local, peer), Arc::downgrade(&queue));
        Ok(Self { shared: Arc::clone(shared), listener, queue, local, remote, peer, largest })
    }
}

impl Drop for SharedPath {
    fn drop(&mut self) {
        lock(&self.shared.routes).remove(&(self.local, self.peer));
    }
}

impl Path for SharedPath {
    fn connect(&self, _remote: Eid, _peer: PeerAddress) -> io::Result<()> {
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        write_eids(batch, self.remote);
        let to = self.shared.at_listener(self.peer);
        while batch.sent() < batch.len() {
            let frame = &batch.bytes()[batch.range(batch.sent())];
            if frame.len() > LARGEST_DATAGRAM {
                batch.skip_oversize();
                continue;
            }
            match rustix::net::sendto(&*self.listener, frame, SendFlags::DONTWAIT, &to) {
                Err(Errno::MSGSIZE) => batch.skip_oversize(),
                // A full socket loses the frame: the queue's readiness says
                // nothing about it, so that there is nothing to wait for.
                Ok(_) | Err(Errno::AGAIN) => batch.advance(1),
                Err(error) if is_transient(&error.into()) => batch.advance(1),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        self.queue.receive(batch, FRAMES, |frame| frame, |_| true)
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
