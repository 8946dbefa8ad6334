//! The data path of an eth-dix flow: a packet socket of its own.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use socket2::Socket;

use super::{
    frame::{HEADER, check_eid, filter, header, largest_payload, mac, parse},
    station::{Station, UNBOUND},
};
use crate::{
    sys::{batched, link, option, socket},
    transport::{
        HandOver, Handed, Path, ReceiveBatch, SendBatch,
        errno::{is_of_the_interface, is_transient},
        handed::HandedInterface,
    },
    wire::{Eid, MacAddress, PeerAddress},
};

pub(super) struct EthPath {
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
    pub(super) fn new(
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

impl Drop for EthPath {
    /// The kernel lets nobody go on who closes a packet socket before all processors have
    /// left it (`synchronize_net`): some 10 ms, which the background thread has not.
    fn drop(&mut self) {
        if let Ok(socket) = self.socket.try_clone() {
            blocking::unblock(move || drop(socket)).detach();
        }
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

    fn dropped(&self) -> u64 {
        option::drops(&self.socket).unwrap_or_default().into()
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
