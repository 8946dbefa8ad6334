//! A client whose address changed (PROTOCOL.md, "Movement"): an authentic packet
//! from elsewhere makes a candidate, the answer to a challenge sent there makes
//! it the client's address. Until then no more than three times the bytes that
//! came from there go there.

use std::time::Duration;

use crate::{crypto::Entropy, wire::PeerAddress};

/// Bytes that may go to an address that is not proved, for each that came.
const AMPLIFICATION: usize = 3;
/// A candidate that has not answered by then is forgotten.
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(250);

struct Candidate {
    address: PeerAddress,
    token: [u8; 16],
    received: usize,
    sent: usize,
    next: Duration,
    interval: Duration,
    until: Duration,
}

/// At most one candidate at a time.
#[derive(Default)]
pub(super) struct Paths {
    candidate: Option<Candidate>,
}

impl Paths {
    /// An authentic packet in a frame of `size` bytes, the newest so far, came
    /// from `address`, which is not the peer's.
    pub(super) fn heard_from(
        &mut self,
        now: Duration,
        entropy: &mut dyn Entropy,
        address: PeerAddress,
        size: usize,
    ) {
        match &mut self.candidate {
            Some(candidate) if candidate.address == address => candidate.received += size,
            _ => {
                let mut token = [0; 16];
                entropy.fill(&mut token);
                self.candidate = Some(Candidate {
                    address,
                    token,
                    received: size,
                    sent: 0,
                    next: now,
                    interval: INTERVAL,
                    until: now + VALIDATION_TIMEOUT,
                });
            }
        }
    }

    /// The newest packet came from the peer's own address.
    pub(super) fn heard_on_path(&mut self) {
        self.candidate = None;
    }

    /// A response came; the address, if that proves it.
    pub(super) fn answered(&mut self, token: [u8; 16]) -> Option<PeerAddress> {
        self.candidate.take_if(|candidate| candidate.token == token).map(|proved| proved.address)
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.candidate.as_ref().map(|candidate| candidate.next.min(candidate.until))
    }

    /// The challenge that is due, of which a frame takes `size` bytes.
    pub(super) fn handle_timeout(
        &mut self,
        now: Duration,
        size: usize,
    ) -> Option<(PeerAddress, [u8; 16])> {
        self.candidate.take_if(|candidate| candidate.until <= now);
        let candidate = self.candidate.as_mut().filter(|candidate| candidate.next <= now)?;
        candidate.next = now + candidate.interval;
        candidate.interval *= 2;
        if candidate.sent + size > candidate.received.saturating_mul(AMPLIFICATION) {
            return None;
        }
        candidate.sent += size;
        Some((candidate.address, candidate.token))
    }
}
