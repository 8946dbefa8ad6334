//! A bad network around any transport, for tests: loses, doubles, reorders and
//! corrupts what is sent, under a seed. Received frames pass unchanged, so wrap
//! both ends for faults both ways.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use super::{
    Destination, IntoTransport, Management, Mobility, OffPathHandler, OpenError, Path,
    ReceiveBatch, SendBatch, ServerHost, Stray, Transport,
};
use crate::sync::lock;
use crate::wire::{Dialect, DirectoryHash, Eid, Name, PeerAddress};

/// How often each fault happens, in frames out of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Frames that vanish.
    pub lost: u16,
    /// Frames that come twice.
    pub duplicated: u16,
    /// Frames that change places with the next one. The last of them waits
    /// until something else is sent.
    pub reordered: u16,
    /// Frames with one bit flipped.
    pub corrupted: u16,
}

/// A transport with faults, to be opened.
#[derive(Clone, Debug)]
pub struct Faulty<T> {
    inner: T,
    faults: Faults,
    seed: u64,
}

impl<T> Faulty<T> {
    /// `inner` with `faults`; the same seed and frames give the same faults.
    #[must_use]
    pub fn new(inner: T, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, seed }
    }
}

impl<T: IntoTransport> IntoTransport for Faulty<T> {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let inner = self.inner.open()?;
        let seeds = Mutex::new(Random(self.seed));
        Ok(Arc::new(FaultyTransport { inner, faults: self.faults, seeds }))
    }
}

/// SplitMix64: enough for dice.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self, of_a_thousand: u16) -> bool {
        self.next() % 1000 < u64::from(of_a_thousand)
    }
}

/// The faults of one sender.
struct Dice<T> {
    faults: Faults,
    random: Random,
    held: Option<(T, Vec<u8>)>,
}

impl<T: Copy> Dice<T> {
    fn new(faults: Faults, seed: u64) -> Mutex<Self> {
        Mutex::new(Self { faults, random: Random(seed), held: None })
    }

    /// Calls `leaves` with what leaves in place of `frame`.
    fn roll(&mut self, to: T, mut frame: Vec<u8>, mut leaves: impl FnMut(T, Vec<u8>)) {
        let held = self.held.take();
        if !self.random.happens(self.faults.lost) {
            if self.random.happens(self.faults.corrupted) && !frame.is_empty() {
                let bit = self.random.next() as usize % (frame.len() * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            if self.random.happens(self.faults.duplicated) {
                leaves(to, frame.clone());
            }
            if self.random.happens(self.faults.reordered) {
                self.held = Some((to, frame));
            } else {
                leaves(to, frame);
            }
        }
        if let Some((to, frame)) = held {
            leaves(to, frame);
        }
    }
}

struct FaultyTransport {
    inner: Arc<dyn Transport>,
    faults: Faults,
    seeds: Mutex<Random>,
}

impl FaultyTransport {
    fn path(&self, inner: Arc<dyn Path>, requester: bool) -> Arc<dyn Path> {
        let seed = lock(&self.seeds).next();
        Arc::new(FaultyPath {
            inner,
            sends_management: requester && self.inner.dialect() == Dialect::Udp,
            dice: Dice::new(self.faults, seed),
            messages: Dice::new(self.faults, !seed),
        })
    }
}

impl Transport for FaultyTransport {
    fn dialect(&self) -> Dialect {
        self.inner.dialect()
    }

    fn directory_hash(&self) -> DirectoryHash {
        self.inner.directory_hash()
    }

    fn description(&self) -> String {
        format!("{}, with faults", self.inner.description())
    }

    fn management(&self) -> Option<Arc<dyn Management>> {
        let inner = self.inner.management()?;
        let dice = Dice::new(self.faults, lock(&self.seeds).next());
        Some(Arc::new(FaultyManagement { inner, dice }))
    }

    fn resolve(&self, name: &Name) -> Option<io::Result<Vec<PeerAddress>>> {
        self.inner.resolve(name)
    }

    fn resolves_at_once(&self) -> bool {
        self.inner.resolves_at_once()
    }

    fn resolve_server(&self, server: &ServerHost) -> Option<io::Result<Vec<PeerAddress>>> {
        self.inner.resolve_server(server)
    }

    fn open_requester(&self, local: Eid, peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>> {
        self.inner.open_requester(local, peer).map(|path| self.path(path, true))
    }

    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>> {
        self.inner.open_responder(local, remote, peer).map(|path| self.path(path, false))
    }

    fn oversized(&self) -> u64 {
        self.inner.oversized()
    }

    fn watch_off_path(&self, local: Eid, take: &OffPathHandler) {
        self.inner.watch_off_path(local, take);
    }

    fn dispatch(&self, stray: Stray) -> Option<(PeerAddress, Vec<u8>)> {
        self.inner.dispatch(stray)
    }
}

struct FaultyManagement {
    inner: Arc<dyn Management>,
    dice: Mutex<Dice<Destination>>,
}

impl Management for FaultyManagement {
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()> {
        let mut result = Ok(());
        lock(&self.dice).roll(to, message.to_vec(), |to, message| {
            if let Err(error) = self.inner.send(to, &message) {
                result = Err(error);
            }
        });
        result
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        self.inner.receive(buffer)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.inner.readiness()
    }
}

struct FaultyPath {
    inner: Arc<dyn Path>,
    dice: Mutex<Dice<()>>,
    messages: Mutex<Dice<()>>,
    /// Whether `send_management` is the path's, not the IPCP's.
    sends_management: bool,
}

impl Path for FaultyPath {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        self.inner.connect(remote, peer)
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let headroom = self.inner.headroom();
        let mut frames = Vec::new();
        let mut dice = lock(&self.dice);
        while batch.sent() < batch.len() {
            let range = batch.range(batch.sent());
            if range.len() - headroom > self.inner.largest_frame() {
                batch.skip_oversize();
                continue;
            }
            let frame = batch.bytes()[range.start + headroom..range.end].to_vec();
            dice.roll((), frame, |(), frame| frames.push(frame));
            batch.advance(1);
        }
        let capacity = frames.iter().map(|frame| frame.len() + headroom).sum();
        let mut changed = SendBatch::new(headroom, capacity);
        for frame in &frames {
            if let Some(slot) = changed.push(frame.len()) {
                slot.copy_from_slice(frame);
            }
        }
        match self.inner.send(&mut changed) {
            // What a full socket doesn't take is one more loss.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        self.inner.receive(batch)
    }

    fn send_management(&self, message: &[u8]) -> Option<io::Result<()>> {
        if !self.sends_management {
            return None;
        }
        // A lost message counts as sent.
        let mut result = Some(Ok(()));
        lock(&self.messages).roll((), message.to_vec(), |(), message| {
            result = self.inner.send_management(&message);
        });
        result
    }

    fn mobility(&self) -> Option<&dyn Mobility> {
        self.inner.mobility()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.inner.readiness()
    }

    fn headroom(&self) -> usize {
        self.inner.headroom()
    }

    fn largest_frame(&self) -> usize {
        self.inner.largest_frame()
    }

    fn description(&self) -> String {
        format!("{}, with faults", self.inner.description())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory::Network;

    /// Returns those of frames 0 to 199 that arrive, of 9 bytes, each filled with its number.
    fn arriving(faults: Faults, seed: u64) -> Vec<Vec<u8>> {
        let network = Network::new();
        let receiver = network.station().open().unwrap();
        let sender = Faulty::new(network.station(), faults, seed).open().unwrap();
        let hears = receiver.open_responder(Eid(1), Eid(2), PeerAddress::Memory(1)).unwrap();
        let sends = sender.open_responder(Eid(2), Eid(1), PeerAddress::Memory(0)).unwrap();
        let mut batch = SendBatch::new(sends.headroom(), 1 << 16);
        for number in 0..200 {
            batch.push(9).unwrap().fill(number);
        }
        sends.send(&mut batch).unwrap();
        assert_eq!(batch.sent(), 200);
        let mut received = ReceiveBatch::new(1 << 16);
        hears.receive(&mut received).unwrap();
        (0..received.len()).map(|i| received.frame_mut(i).to_vec()).collect()
    }

    #[test]
    fn each_fault_does_what_it_says_and_the_same_for_the_same_seed() {
        let sent: Vec<_> = (0..200).map(|number| vec![number; 9]).collect();
        let none = Faults::default();
        assert_eq!(arriving(none, 1), sent);
        let lost = arriving(Faults { lost: 200, ..none }, 1);
        assert!(lost.len() < 200 && lost.is_sorted());
        let doubled = arriving(Faults { duplicated: 200, ..none }, 1);
        assert!(doubled.len() > 200 && doubled.is_sorted());
        let reordered = arriving(Faults { reordered: 200, ..none }, 1);
        assert!(!reordered.is_sorted());
        let corrupted = arriving(Faults { corrupted: 200, ..none }, 1);
        assert!(corrupted.len() == 200 && corrupted != sent);
        assert_eq!(corrupted, arriving(Faults { corrupted: 200, ..none }, 1));
        assert_ne!(corrupted, arriving(Faults { corrupted: 200, ..none }, 2));
    }
}
