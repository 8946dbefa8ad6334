//! A flow's frames through the daemon: a Unix seqpacket socket whose datagrams
//! are batches, each frame behind its length in two bytes. Ciphertext only: the
//! daemon relays what it cannot be asked to understand.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send,
        shutdown, socketpair, sockopt,
    },
};

use super::grant::{DataPath, FlowGrant};
use crate::{
    flow::RawFlow,
    sys::socket,
    transport::{Path, ReceiveBatch, SendBatch},
    wire::{Eid, PeerAddress},
};

const LENGTH: usize = 2;
/// Largest datagram on the relay's socket, in bytes.
const DATAGRAM: usize = 64 * 1024;
const BUFFER: usize = 1 << 20;

/// One end of the relay.
#[derive(Debug)]
pub(super) struct RelayPath {
    socket: OwnedFd,
    largest_frame: usize,
}

impl RelayPath {
    pub(super) fn new(socket: OwnedFd, largest_frame: usize) -> Self {
        Self { socket, largest_frame: largest_frame.min(DATAGRAM / 2) }
    }
}

impl Path for RelayPath {
    fn connect(&self, _remote: Eid, _peer: PeerAddress) -> io::Result<()> {
        Ok(())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        while batch.sent() < batch.len() {
            let first = batch.sent();
            let start = batch.range(first).start;
            let (mut end, mut count) = (start, 0);
            while first + count < batch.len() {
                let range = batch.range(first + count);
                if range.end - start > DATAGRAM {
                    break;
                }
                let length = u16::try_from(range.len() - LENGTH).unwrap_or(u16::MAX);
                batch.bytes_mut()[range.start..range.start + LENGTH]
                    .copy_from_slice(&length.to_be_bytes());
                end = range.end;
                count += 1;
            }
            if count == 0 {
                batch.skip_oversize();
                continue;
            }
            send(&self.socket, &batch.bytes()[start..end], SendFlags::NOSIGNAL)?;
            batch.advance(count);
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let size = match recv(&self.socket, batch.buffer_mut(), RecvFlags::empty()) {
            Ok((size, _)) => size,
            // Of a daemon that was killed with something unread.
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        if size == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the flow's relay is gone"));
        }
        let mut at = 0;
        while let Some(length) = batch.buffer_mut()[at..size].first_chunk::<LENGTH>() {
            let start = at + LENGTH;
            at = start + usize::from(u16::from_be_bytes(*length));
            if at > size {
                break;
            }
            batch.push(start..at);
        }
        Ok(())
    }

    fn send_management(&self, _message: &[u8]) -> Option<io::Result<()>> {
        None
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn headroom(&self) -> usize {
        LENGTH
    }

    fn largest_frame(&self) -> usize {
        self.largest_frame
    }

    fn description(&self) -> String {
        "relayed by irmd".to_owned()
    }
}

/// Relays a flow's frames between its path and an application, on two threads,
/// until either side ends. Returns what the application needs: the grant and
/// its end of the relay; and what ends the relay.
///
/// # Errors
///
/// No sockets or threads can be had.
pub fn relay(mut flow: RawFlow) -> io::Result<(FlowGrant, OwnedFd, RelayCloser)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&own, &theirs] {
        // Less is slower, no more.
        let _ = sockopt::set_socket_send_buffer_size(end, BUFFER);
    }
    let grant = FlowGrant::new(&mut flow, DataPath::Relay);
    let relay = Arc::new(RelayPath::new(own, grant.largest_frame));
    let flow = Arc::new(flow);
    let closer = RelayCloser(Arc::downgrade(&relay));
    let (outward, outward_relay) = (flow.clone(), relay.clone());
    thread::Builder::new().name("relay-out".to_owned()).spawn(move || {
        let ended = pump(&*outward_relay, &*outward.path, &outward_relay.socket, &outward);
        tracing::debug!(name = %outward.info.name, ?ended, "flow relayed no longer");
        let _ = shutdown(&outward_relay.socket, Shutdown::Both);
    })?;
    thread::Builder::new().name("relay-in".to_owned()).spawn(move || {
        let _ = early(&flow, &relay);
        let _ = pump(&*flow.path, &*relay, &relay.socket, &flow);
        let _ = shutdown(&relay.socket, Shutdown::Both);
    })?;
    Ok((grant, theirs, closer))
}

/// Ends a relay from elsewhere.
#[derive(Clone, Debug)]
pub struct RelayCloser(Weak<RelayPath>);

impl RelayCloser {
    /// Ends the relay, if it is still there.
    pub fn close(&self) {
        if let Some(relay) = self.0.upgrade() {
            let _ = shutdown(&relay.socket, Shutdown::Both);
        }
    }
}

/// Frames that came before there was a relay.
fn early(flow: &RawFlow, relay: &RelayPath) -> io::Result<()> {
    let mut batch = SendBatch::new(relay.headroom(), DATAGRAM);
    for frame in &flow.early {
        if let Some(room) = batch.push(frame.len()) {
            room.copy_from_slice(frame);
        }
    }
    relay.send(&mut batch)
}

/// Moves frames from one path to the other until one fails or the
/// application's end, `relay`, hangs up.
fn pump(from: &dyn Path, to: &dyn Path, relay: &OwnedFd, flow: &RawFlow) -> io::Result<()> {
    let mut received = ReceiveBatch::new(4 * DATAGRAM);
    let mut batch = SendBatch::new(to.headroom(), DATAGRAM);
    loop {
        let wanted = PollFlags::IN;
        let mut fds = [
            PollFd::from_borrowed_fd(from.readiness(), wanted),
            PollFd::new(relay, PollFlags::empty()),
        ];
        socket::wait(&mut fds, None)?;
        if fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        received.clear();
        match from.receive(&mut received) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(take) = &flow.strays {
            received.strays().for_each(take);
        }
        for index in 0..received.len() {
            let frame = received.frame(index);
            if !batch.fits(frame.len()) {
                forward(to, &mut batch, relay)?;
            }
            if let Some(room) = batch.push(frame.len()) {
                room.copy_from_slice(frame);
            }
        }
        forward(to, &mut batch, relay)?;
    }
}

/// Sends a batch, waiting while the receiver is busy: backpressure reaches the
/// sender instead of a drop in the middle.
fn forward(to: &dyn Path, batch: &mut SendBatch, relay: &OwnedFd) -> io::Result<()> {
    while let Err(error) = to.send(batch) {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
        let mut fds = [
            PollFd::from_borrowed_fd(to.readiness(), PollFlags::OUT),
            PollFd::new(relay, PollFlags::empty()),
        ];
        socket::wait(&mut fds, None)?;
        if fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    batch.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (RelayPath, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
        (RelayPath::new(own, 1468), theirs)
    }

    #[test]
    fn a_batch_larger_than_a_datagram_arrives_whole_and_in_order() {
        let (near, far) = pair();
        let far = RelayPath::new(far, 1468);
        let sizes: Vec<usize> = (0..100).map(|i| [0, 1, 1468, 700][i % 4]).collect();
        let mut batch = SendBatch::new(near.headroom(), 160 * 1024);
        for (i, &size) in sizes.iter().enumerate() {
            batch.push(size).expect("room").fill(i as u8);
        }
        near.send(&mut batch).expect("sent");
        let (mut received, mut arrived) = (ReceiveBatch::new(DATAGRAM), Vec::new());
        while arrived.len() < sizes.len() {
            received.clear();
            far.receive(&mut received).expect("more frames");
            arrived.extend((0..received.len()).map(|i| received.frame(i).to_vec()));
        }
        let expected: Vec<_> = sizes.iter().enumerate().map(|(i, &s)| vec![i as u8; s]).collect();
        assert_eq!(arrived, expected);
    }

    #[test]
    fn lengths_beyond_the_datagram_are_dropped() {
        let (path, far) = pair();
        let mut batch = ReceiveBatch::new(DATAGRAM);
        for (datagram, frames) in [
            (&[0, 1, 9, 0xff, 0xff, 1, 2][..], 1),
            (&[0][..], 0),
            (&[0, 2, 1][..], 0),
            (&[0, 0, 0, 0][..], 2),
        ] {
            send(&far, datagram, SendFlags::NOSIGNAL).expect("sent");
            batch.clear();
            path.receive(&mut batch).expect("a datagram");
            assert_eq!(batch.len(), frames, "{datagram:?}");
        }
    }

    #[test]
    fn the_end_of_the_other_side_is_an_error_and_no_empty_batch() {
        let (path, far) = pair();
        let mut batch = SendBatch::new(path.headroom(), DATAGRAM);
        batch.push(10).expect("room").fill(7);
        path.send(&mut batch).expect("sent, and never read");
        drop(far);
        let error = path.receive(&mut ReceiveBatch::new(DATAGRAM)).expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

        let (path, far) = pair();
        let mut batch = ReceiveBatch::new(DATAGRAM);
        let error = path.receive(&mut batch).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(far);
        let error = path.receive(&mut batch).expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
