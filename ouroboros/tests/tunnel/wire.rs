//! A cable whose every frame a test holds in its hands: it may change, lose,
//! count or add some. The kernel does no work for it that a test would see.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ouroboros_testing::Namespace;
use tun::{Configuration, Device, Layer};

use crate::capture::{checksum, word};

/// An end of a wire: that at the first host, or at the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    One,
    Two,
}

/// What becomes of a frame: calls its last argument with what leaves and where.
pub(crate) type Rule = dyn FnMut(Side, Vec<u8>, &mut dyn FnMut(Side, &[u8])) + Send;

/// A wire between `eth0` of two hosts.
pub(crate) struct Wire {
    rule: Arc<Mutex<Box<Rule>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Lays a wire that does nothing but carry frames.
    pub(crate) fn between(one: &Namespace, two: &Namespace) -> Self {
        let taps = [one, two].map(|host| Arc::new(host.inside(tap)));
        let carry: Box<Rule> = Box::new(|from, frame, leave| leave(from.other(), &frame));
        let (rule, ended) = (Arc::new(Mutex::new(carry)), Arc::new(AtomicBool::new(false)));
        let threads = [Side::One, Side::Two].map(|side| {
            let (taps, rule, ended) = (taps.clone(), rule.clone(), ended.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !ended.load(Relaxed) {
                    // It only ends by that it is told to.
                    let patience = Duration::from_millis(50);
                    let from = &taps[side as usize];
                    let Ok(size) = from.recv_timeout(&mut buffer, patience) else { continue };
                    let frame = buffer[..size].to_vec();
                    let mut leave = |to: Side, frame: &[u8]| {
                        // A host that is gone takes none.
                        let _ = taps[to as usize].send(frame);
                    };
                    (rule.lock().expect("no panic"))(side, frame, &mut leave);
                }
            })
        });
        Self { rule, ended, threads: threads.into() }
    }

    /// Has every frame from now on go through `rule`.
    pub(crate) fn rule(
        &self,
        rule: impl FnMut(Side, Vec<u8>, &mut dyn FnMut(Side, &[u8])) + Send + 'static,
    ) {
        *self.rule.lock().expect("no panic") = Box::new(rule);
    }
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a rule panicked");
        }
    }
}

fn tap() -> Device {
    let mut configuration = Configuration::default();
    configuration.tun_name("eth0").layer(Layer::L2);
    tun::create(&configuration).expect("/dev/net/tun")
}

/// UDP over IPv4 in an Ethernet frame.
pub(crate) struct Datagram<'a>(&'a mut Vec<u8>);

impl<'a> Datagram<'a> {
    pub(crate) fn of(frame: &'a mut Vec<u8>) -> Option<Self> {
        let is = frame.len() > 42 && frame[12..15] == [8, 0, 0x45] && frame[23] == 17;
        is.then_some(Self(frame))
    }

    pub(crate) fn source(&self) -> u16 {
        word(self.0, 34)
    }

    pub(crate) fn destination(&self) -> u16 {
        word(self.0, 36)
    }

    pub(crate) fn payload(&mut self) -> &mut [u8] {
        // No checksum: none is looked at then.
        self.0[40..42].fill(0);
        &mut self.0[42..]
    }

    pub(crate) fn set_source(&mut self, port: u16) {
        self.payload();
        self.0[34..36].copy_from_slice(&port.to_be_bytes());
    }

    pub(crate) fn set_destination(&mut self, port: u16) {
        self.payload();
        self.0[36..38].copy_from_slice(&port.to_be_bytes());
    }

    /// What the header says of congestion.
    pub(crate) fn ecn(&self) -> u8 {
        self.0[15] & 3
    }

    pub(crate) fn mark_congestion(&mut self) {
        self.0[15] |= 3;
        self.0[24..26].fill(0);
        let sum = checksum(&[&self.0[14..34]]);
        self.0[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}
