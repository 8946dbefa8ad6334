//! An Ethernet-like network in memory, for tests and benchmarks: name queries
//! and broadcast as on eth-dix, no system call in the data path except for
//! readiness. Not a fault injector (that is [`fault`](super::fault)).

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use super::{
    Destination, IntoTransport, Management, OpenError, Path, ReceiveBatch, SendBatch, Transport,
    oversized::Oversized, queue::Queue,
};
use crate::sync::lock;
use crate::wire::{Dialect, DirectoryHash, Eid, Name, PeerAddress};

/// Frames that wait in one path, and messages in one station, at most; more
/// are lost as in a full socket buffer.
const QUEUED: usize = 4096;

/// Largest frame, in bytes: that of an Ethernet interface with MTU 1500.
const LARGEST: usize = 1496;

/// Frames of one batch, at most.
const FRAMES: usize = 1024;

type Stations = Mutex<Vec<Weak<Station>>>;

/// A segment that stations are attached to.
#[derive(Clone, Debug, Default)]
pub struct Network {
    stations: Arc<Stations>,
}

impl Network {
    /// A segment without stations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parts all stations that are there from each other, for good: what they send is
    /// lost.
    pub fn cut(&self) {
        lock(&self.stations).fill(Weak::new());
    }

    /// A station to be opened on this segment.
    #[must_use]
    pub fn station(&self) -> Memory {
        Memory {
            stations: Arc::clone(&self.stations),
            dialect: Dialect::EthDix,
            hash: DirectoryHash::Sha3_256,
            largest: LARGEST,
        }
    }
}

/// One station of a [`Network`], to be opened.
#[derive(Clone, Debug)]
pub struct Memory {
    stations: Arc<Stations>,
    dialect: Dialect,
    hash: DirectoryHash,
    largest: usize,
}

impl Memory {
    /// Speaks another management layout than eth-dix's. With
    /// [`Dialect::Udp`] there are no name queries, and nothing resolves names.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Uses another directory hash than SHA3-256.
    #[must_use]
    pub fn directory_hash(mut self, hash: DirectoryHash) -> Self {
        self.hash = hash;
        self
    }

    /// Carries frames of at most `bytes` instead of 1496.
    #[must_use]
    pub fn largest_frame(mut self, bytes: usize) -> Self {
        self.largest = bytes;
        self
    }
}

impl IntoTransport for Memory {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let mut stations = lock(&self.stations);
        let station = Arc::new(Station {
            number: stations.len() as u32,
            stations: Arc::clone(&self.stations),
            dialect: self.dialect,
            hash: self.hash,
            largest: self.largest,
            messages: Queue::new(QUEUED)?,
            oversized: Oversized::default(),
            paths: Mutex::default(),
        });
        stations.push(Arc::downgrade(&station));
        drop(stations);
        Ok(Arc::new(Attachment(station)))
    }
}

type Frame = (u32, Vec<u8>);

#[derive(Debug)]
struct Station {
    number: u32,
    stations: Arc<Stations>,
    dialect: Dialect,
    hash: DirectoryHash,
    largest: usize,
    messages: Queue<Frame>,
    oversized: Oversized,
    paths: Mutex<HashMap<Eid, Weak<Queue<Frame>>>>,
}

impl Station {
    fn of(&self, number: u32) -> Option<Arc<Self>> {
        lock(&self.stations).get(number as usize)?.upgrade()
    }
}

struct Attachment(Arc<Station>);

impl Attachment {
    fn path(&self, local: Eid, remote: Option<(Eid, PeerAddress)>) -> io::Result<Arc<dyn Path>> {
        let queue = Arc::new(Queue::new(QUEUED)?);
        match lock(&self.0.paths).entry(local) {
            Entry::Occupied(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Entry::Vacant(entry) => entry.insert(Arc::downgrade(&queue)),
        };
        let path = MemoryPath {
            station: Arc::clone(&self.0),
            local,
            remote: OnceLock::new(),
            queue: Arc::clone(&queue),
        };
        if let Some((remote, peer)) = remote {
            path.connect(remote, peer)?;
        }
        Ok(Arc::new(path))
    }
}

impl Transport for Attachment {
    fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    fn directory_hash(&self) -> DirectoryHash {
        self.0.hash
    }

    fn description(&self) -> String {
        format!("memory, station {}", self.0.number)
    }

    fn management(&self) -> Option<Arc<dyn Management>> {
        Some(Arc::new(MemoryManagement(Arc::clone(&self.0))))
    }

    fn oversized(&self) -> u64 {
        self.0.oversized.count()
    }

    fn resolve(&self, _name: &Name) -> Option<io::Result<Vec<PeerAddress>>> {
        match self.0.dialect {
            Dialect::EthDix => None,
            Dialect::Udp => Some(Ok(Vec::new())),
        }
    }

    fn resolves_at_once(&self) -> bool {
        true
    }

    fn open_requester(&self, local: Eid, _peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>> {
        self.path(local, None)
    }

    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>> {
        self.path(local, Some((remote, peer)))
    }
}

struct MemoryManagement(Arc<Station>);

impl Management for MemoryManagement {
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()> {
        let frame = || (self.0.number, message.to_vec());
        match to {
            Destination::Peer(PeerAddress::Memory(number)) => {
                if let Some(station) = self.0.of(number) {
                    station.messages.push(frame());
                }
            }
            Destination::Peer(_) => return Err(io::ErrorKind::InvalidInput.into()),
            Destination::Broadcast => {
                let stations: Vec<_> =
                    lock(&self.0.stations).iter().filter_map(Weak::upgrade).collect();
                for station in stations.iter().filter(|s| s.number != self.0.number) {
                    station.messages.push(frame());
                }
            }
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        while let Some((from, message)) = self.0.messages.pop() {
            if let Some(size) = self.0.oversized.take(&message, buffer) {
                return Ok((size, PeerAddress::Memory(from)));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.0.messages.readiness()
    }
}

struct MemoryPath {
    station: Arc<Station>,
    local: Eid,
    remote: OnceLock<(Eid, u32)>,
    queue: Arc<Queue<Frame>>,
}

impl Drop for MemoryPath {
    fn drop(&mut self) {
        lock(&self.station.paths).remove(&self.local);
    }
}

impl Path for MemoryPath {
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()> {
        let PeerAddress::Memory(number) = peer else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.remote.set((remote, number)).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    fn send(&self, batch: &mut SendBatch) -> io::Result<()> {
        let &(remote, number) = self.remote.get().ok_or(io::ErrorKind::NotConnected)?;
        let peer = self.station.of(number);
        let queue = peer.and_then(|peer| lock(&peer.paths).get(&remote).and_then(Weak::upgrade));
        while batch.sent() < batch.len() {
            let range = batch.range(batch.sent());
            if range.len() > self.station.largest {
                batch.skip_oversize();
                continue;
            }
            if let Some(queue) = &queue {
                queue.push((self.station.number, batch.bytes()[range].to_vec()));
            }
            batch.advance(1);
        }
        Ok(())
    }

    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let peer = self.remote.get().map(|&(_, peer)| peer);
        let wanted = |(from, _): &Frame| peer.is_none_or(|peer| peer == *from);
        self.queue.receive(batch, FRAMES, |(_, frame)| frame, wanted)
    }

    fn send_management(&self, _message: &[u8]) -> Option<io::Result<()>> {
        None
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.queue.readiness()
    }

    fn headroom(&self) -> usize {
        0
    }

    fn largest_frame(&self) -> usize {
        self.station.largest
    }

    fn description(&self) -> String {
        match self.remote.get() {
            Some((_, number)) => format!("memory {number}"),
            None => "memory".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_too_large_are_dropped_and_counted() {
        let network = Network::new();
        let [a, b] = [(); 2].map(|()| network.station().open().unwrap());
        let [says, hears] = [&a, &b].map(|station| station.management().unwrap());
        for message in [&[0; 2049][..], &[0; 101], b"next"] {
            says.send(Destination::Broadcast, message).unwrap();
        }
        let mut buffer = [0; 100];
        assert_eq!(hears.receive(&mut buffer).unwrap().0, 4);
        assert_eq!((a.oversized(), b.oversized()), (0, 2));
    }

    #[test]
    fn frames_and_messages_reach_the_stations_they_are_for() {
        let network = Network::new();
        let [a, b, c] = [(); 3].map(|()| network.station().open().unwrap());
        let [a_hears, b_hears, c_hears] = [&a, &b, &c].map(|s| s.management().unwrap());
        let mut buffer = [0; 100];
        a_hears.send(Destination::Broadcast, b"query").unwrap();
        let (length, from) = b_hears.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"query");
        assert!(c_hears.receive(&mut buffer).is_ok());
        assert!(a_hears.receive(&mut buffer).is_err());

        let asks = a.open_requester(Eid(5), None).unwrap();
        assert!(a.open_requester(Eid(5), None).is_err());
        let answers = b.open_responder(Eid(6), Eid(5), from).unwrap();
        let mut batch = SendBatch::new(answers.headroom(), 4000);
        for size in [3, 1497, 0] {
            batch.push(size).unwrap().fill(7);
        }
        answers.send(&mut batch).unwrap();
        assert_eq!((batch.sent(), batch.oversize()), (3, 1));
        let mut received = ReceiveBatch::new(2000);
        asks.receive(&mut received).unwrap();
        assert_eq!(received.len(), 2);
        assert_eq!(received.frame_mut(0), [7; 3]);
        drop(asks);
        assert!(a.open_requester(Eid(5), None).is_ok());
    }
}
