//! Packets in the 0.23 format (WIRE.md, "Packets of a flow"): sealing, opening,
//! and the rotation of keys. `protection` drives it.
//!
//! The phase bit of a packet says when to look for another key, not which: the
//! opener tries the few keys around the current one and believes only what
//! authenticates. So an unauthenticated packet changes nothing.

#[cfg(all(test, loom))]
mod model;

use std::sync::Arc;

use super::packet::OpenError;
use crate::{
    crypto::{Aead, AeadBackend, Cipher, Entropy, FlowKey, NONCE, TAG},
    sync::shared::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Packets, sent and received, after which the key rotates.
pub(super) const PERIOD: u64 = 1 << 20;
/// Packets opened with care for stragglers of the old key after a rotation.
const SETTLING: u32 = 1024;
pub(super) const PHASE: u8 = 0x80;

/// Both directions of a flow that begins with `first`; the key rotates after
/// `period` packets.
pub(super) fn rotating(
    (cipher, first): (Cipher, FlowKey),
    backend: AeadBackend,
    entropy: &mut dyn Entropy,
    period: u64,
) -> (Sealing, Opening) {
    let rotation = Arc::new(Rotation { period, ..Rotation::default() });
    let mut counter = [0; 16];
    entropy.fill(&mut counter[4..]);
    let chain = KeyChain { cipher, latest: first.clone(), first, backend };
    let sealing = Sealing {
        aead: chain.aead(),
        chain: chain.clone(),
        rotation: rotation.clone(),
        epoch: 0,
        counter: u128::from_be_bytes(counter),
    };
    (sealing, Opening::new(chain, rotation))
}

/// The state of the rotation that both directions share: the 0.23 format counts packets of
/// both, and one key serves both. The directions may be two threads': what the opener has found
/// out of an epoch is there for a sealer that sees it heard, and the opener sees an epoch after
/// what the sealer forgot for it.
#[derive(Default)]
struct Rotation {
    period: u64,
    /// Packets sent and authenticated.
    count: AtomicU64,
    /// The epoch packets are sealed in.
    send_epoch: AtomicU64,
    /// The newest epoch the peer has been authenticated under.
    peer_epoch: AtomicU64,
    /// `send_epoch` when the peer was last heard.
    heard_epoch: AtomicU64,
    /// The peer has used an older key since `send_epoch` began.
    peer_lags: AtomicBool,
}

impl Rotation {
    /// Returns `true` if the sealer may go one epoch on: not before the peer has had a chance to
    /// follow, or a blackout would part the two for good.
    fn may_advance(&self, epoch: u64) -> bool {
        self.heard_epoch.load(Acquire) >= epoch
            && (self.peer_epoch.load(Relaxed) >= epoch || !self.peer_lags.load(Relaxed))
    }
}

#[derive(Clone)]
pub(super) struct KeyChain {
    pub(super) cipher: Cipher,
    pub(super) backend: AeadBackend,
    pub(super) first: FlowKey,
    pub(super) latest: FlowKey,
}

impl KeyChain {
    pub(super) fn aead(&self) -> Box<dyn Aead> {
        self.backend.with_key(self.cipher, self.latest.as_bytes())
    }

    pub(super) fn advance(&mut self) -> Box<dyn Aead> {
        self.latest = self.latest.next(&self.first);
        self.aead()
    }
}

/// The sealing end.
pub(super) struct Sealing {
    chain: KeyChain,
    aead: Box<dyn Aead>,
    rotation: Arc<Rotation>,
    pub(super) epoch: u64,
    /// The low 95 bits are the next IV. One key serves both directions, so
    /// uniqueness against the peer rests on the random start: two runs of 2^20
    /// out of 2^95 meet with a probability below 2^-73.
    counter: u128,
}

impl Sealing {
    pub(super) fn seal(&mut self, frame: &mut [u8]) {
        let rotation = &self.rotation;
        let count = rotation.count.fetch_add(1, Relaxed);
        let behind = self.epoch < rotation.peer_epoch.load(Relaxed);
        let due = count / rotation.period > self.epoch && rotation.may_advance(self.epoch);
        if behind || due {
            self.aead = self.chain.advance();
            self.epoch += 1;
            rotation.peer_lags.store(false, Relaxed);
            rotation.send_epoch.store(self.epoch, Release);
        }
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&self.counter.to_be_bytes()[4..]);
        nonce[0] &= !PHASE;
        if self.epoch % 2 == 1 {
            nonce[0] |= PHASE;
        }
        self.counter = self.counter.wrapping_add(1);
        let (iv, rest) = frame.split_at_mut(NONCE);
        let (packet, tag) = rest.split_at_mut(rest.len() - TAG);
        iv.copy_from_slice(&nonce);
        tag.copy_from_slice(&self.aead.seal_in_place(&nonce, &[], packet));
    }
}

/// The opening end.
pub(super) struct Opening {
    chain: KeyChain,
    rotation: Arc<Rotation>,
    /// Keys that may be in use, oldest first, the last one a step ahead of
    /// both sides: at most four.
    keys: Vec<(u64, Box<dyn Aead>)>,
    /// Epoch of the newest authentic packet; its key is among `keys`.
    epoch: u64,
    /// Phase bit of the last authentic packet.
    phase: u8,
    settling: u32,
    /// A copy of the ciphertext while more than one key may fit: a failed
    /// attempt leaves nothing to try the next key on.
    copy: Vec<u8>,
}

impl Opening {
    fn new(chain: KeyChain, rotation: Arc<Rotation>) -> Self {
        let keys = vec![(0, chain.aead())];
        let mut opening =
            Self { chain, rotation, keys, epoch: 0, phase: 0, settling: 0, copy: Vec::new() };
        opening.follow(0);
        opening
    }

    /// Keeps the keys around `epoch`, the newest that either side has used.
    fn follow(&mut self, epoch: u64) {
        while self.keys.last().is_some_and(|(newest, _)| *newest <= epoch) {
            let newest = self.keys[self.keys.len() - 1].0;
            let aead = self.chain.advance();
            self.keys.push((newest + 1, aead));
        }
        let heard = self.epoch;
        self.keys.retain(|(known, _)| *known + 1 >= epoch || *known == heard);
    }

    pub(super) fn open(&mut self, frame: &mut [u8]) -> Result<(), OpenError> {
        let (iv, rest) = frame.split_first_chunk_mut::<NONCE>().ok_or(OpenError::TooShort)?;
        let (packet, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(OpenError::TooShort)?;
        let phase = iv[0] & PHASE;
        let sending = self.rotation.send_epoch.load(Acquire);
        let alone = phase == self.phase && self.settling == 0 && sending <= self.epoch;
        let used = if alone {
            let key = self.keys.iter().find(|(epoch, _)| *epoch == self.epoch);
            key.filter(|(_, key)| key.open_in_place(iv, &[], packet, tag).is_ok())
                .map(|(epoch, _)| *epoch)
        } else {
            self.follow(sending.max(self.epoch));
            self.try_keys(iv, packet, tag)
        };
        let epoch = used.ok_or(OpenError::NotAuthentic)?;
        self.phase = phase;
        self.settling = self.settling.saturating_sub(1);
        if epoch > self.epoch {
            self.epoch = epoch;
            self.follow(sending.max(epoch));
            self.settling = SETTLING;
            self.rotation.peer_epoch.store(epoch, Relaxed);
        }
        if epoch < sending {
            self.rotation.peer_lags.store(true, Relaxed);
        }
        self.rotation.count.fetch_add(1, Relaxed);
        // Not in an epoch that has begun since: nothing says whether the peer lags there.
        self.rotation.heard_epoch.store(sending, Release);
        Ok(())
    }

    /// The epoch of the key that opens the packet: the last one heard is tried
    /// first, then the others from the newest.
    fn try_keys(&mut self, iv: &[u8; NONCE], packet: &mut [u8], tag: &[u8; TAG]) -> Option<u64> {
        self.copy.clear();
        self.copy.extend_from_slice(packet);
        let heard = self.keys.iter().filter(|(epoch, _)| *epoch == self.epoch);
        let others = self.keys.iter().rev().filter(|(epoch, _)| *epoch != self.epoch);
        for (epoch, key) in heard.chain(others) {
            packet.copy_from_slice(&self.copy);
            if key.open_in_place(iv, &[], packet, tag).is_ok() {
                return Some(*epoch);
            }
        }
        None
    }

    pub(super) fn heard(&self) {
        self.rotation.heard_epoch.store(self.rotation.send_epoch.load(Acquire), Release);
    }
}
