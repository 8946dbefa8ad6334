//! The orders in which a thread that seals and one that opens can meet while a key of the
//! 0.23 format rotates, by loom's model of the memory. Built with `cfg(loom)` only; how to
//! run it is in CONTRIBUTING.md. Not here: what a single thread sees
//! (`protection_tests`).

use loom::thread;

use super::*;
use crate::crypto::Suite;

/// Switches of threads, where they need not be, that are tried in one run.
const PREEMPTIONS: usize = 3;

/// A fixed start of the packets' numbers.
struct Numbers(u8);

impl Entropy for Numbers {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

/// An end whose key rotates as soon as a packet has gone either way.
fn end(numbers: u8) -> (Sealing, Opening) {
    let key = (Suite::default().cipher, FlowKey::new([7; 32]));
    rotating(key, AeadBackend::Ring, &mut Numbers(numbers), 1)
}

fn sealed(sealing: &mut Sealing) -> Vec<u8> {
    let mut frame = vec![0; NONCE + 1 + TAG];
    sealing.seal(&mut frame);
    frame
}

#[test]
fn a_sealer_whose_peer_lags_goes_no_farther_than_the_peer_can_follow() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(|| {
        let (mut sealing, mut opening) = end(1);
        let (mut peer_sealing, mut peer_opening) = end(2);
        let mut old = sealed(&mut peer_sealing);
        let other = thread::spawn(move || opening.open(&mut old));
        let mut frames = [(); 3].map(|()| sealed(&mut sealing));
        assert_eq!(other.join().expect("opened"), Ok(()));
        // All before it may be lost.
        let last = frames.last_mut().expect("three");
        assert_eq!(peer_opening.open(last), Ok(()));
    });
}
