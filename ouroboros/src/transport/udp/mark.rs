//! The ECN mark of what a socket sends without options, which follows what is sent: for a
//! datagram with options the kernel looks up the way anew. `path` drives it.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use socket2::Socket;

use crate::{sys::socket, tun::offload::Ecn};

/// After so many datagrams in a row with another mark the socket has that mark.
const ALIKE: u8 = 8;

/// The mark of one socket, none at first.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// The two bits.
    bits: AtomicU8,
    /// Datagrams with another mark since the last one with this.
    others: AtomicU8,
}

impl Mark {
    /// Returns `true` if a datagram that is to have `ecn` may be sent without options; it
    /// is counted.
    pub(super) fn is(&self, ecn: Ecn, socket: &Socket, v6: bool) -> bool {
        if self.bits.load(Relaxed) == ecn.bits() {
            if self.others.load(Relaxed) > 0 {
                self.others.store(0, Relaxed);
            }
            return true;
        }
        self.others.fetch_add(1, Relaxed) + 1 >= ALIKE && self.set(ecn, socket, v6)
    }

    /// Has no mark again, for who gets the socket.
    pub(super) fn reset(&self, socket: &Socket, v6: bool) {
        if self.bits.load(Relaxed) != Ecn::NotEct.bits() {
            self.set(Ecn::NotEct, socket, v6);
        }
    }

    fn set(&self, ecn: Ecn, socket: &Socket, v6: bool) -> bool {
        self.others.store(0, Relaxed);
        let set = socket::set_traffic_class(socket, v6, ecn.bits()).is_ok();
        if set {
            self.bits.store(ecn.bits(), Relaxed);
        }
        set
    }

    #[cfg(test)]
    fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.bits.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::Ipv4Addr};

    use rustix::event::{PollFd, PollFlags};

    use super::*;
    use crate::{
        transport::{
            Path, ReceiveBatch, SendBatch,
            udp::{
                EID,
                path::ConnectedPath,
                socket::{bind, local_address},
            },
        },
        wire::{Eid, PeerAddress},
    };

    /// Two paths to one another, over loopback.
    fn pair() -> [ConnectedPath; 2] {
        let ends = [Eid(300), Eid(70_000)];
        let sockets =
            [(); 2].map(|()| bind((Ipv4Addr::LOCALHOST, 0).into(), false, 0).expect("a socket"));
        let [one, other] = sockets.each_ref().map(|it| local_address(it).expect("an address"));
        let [first, second] = sockets;
        let paths = [
            ConnectedPath::requester(first, ends[0], other).expect("a path"),
            ConnectedPath::requester(second, ends[1], one).expect("a path"),
        ];
        paths[0].connect(ends[1], PeerAddress::Udp(other)).expect("connected");
        paths[1].connect(ends[0], PeerAddress::Udp(one)).expect("connected");
        paths
    }

    #[test]
    fn each_datagram_has_its_own_mark_whatever_the_socket_has() {
        let [from, to] = pair();
        let (mut sent, mut received) = (SendBatch::new(EID, 2000), ReceiveBatch::new(70_000));
        let runs = [(Ecn::Ect0, 20), (Ecn::NotEct, 1), (Ecn::Ect0, 3), (Ecn::NotEct, 20)];
        for (index, (ecn, count)) in runs.into_iter().enumerate() {
            for number in 0..count {
                sent.clear();
                sent.push(1).expect("room")[0] = number;
                sent.mark(ecn);
                from.send(&mut sent).expect("sent");
                received.clear();
                while let Err(error) = to.receive(&mut received) {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    let mut fds = [PollFd::from_borrowed_fd(to.readiness(), PollFlags::IN)];
                    socket::wait(&mut fds, None).expect("it comes");
                }
                assert_eq!(received.frame(0), [number]);
                assert_eq!(received.ecn(0), ecn, "{number} of run {index}");
            }
            if index == 0 {
                assert_eq!(from.mark.ecn(), ecn, "it was the last's");
            }
        }
        assert_eq!(from.mark.ecn(), Ecn::NotEct);
    }
}
