//! Packet protection as a peer sees it, against ourselves and against a model
//! of what a 0.23 peer was seen to do.

use super::{
    super::rotation::{KeyChain, PHASE},
    *,
};
use crate::crypto::Aead;

struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

fn first() -> FlowKey {
    FlowKey::new([7; 32])
}

fn end(seed: u64, period: u64) -> (Sealer, Opener) {
    let keys = (Cipher::Aes256Gcm, first());
    let rotating = rotating(keys, AeadBackend::Ring, &mut Seeded(seed), period);
    let Protection { sealer, opener, .. } = wire_023(Some(rotating), false);
    (sealer, opener)
}

/// The packet in `frame`.
fn open<'a>(opener: &mut Opener, frame: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
    opener.open(frame).map(|opened| &frame[opened.body])
}

fn sealed(sealer: &mut Sealer, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; sealer.headroom() + packet.len() + sealer.tailroom()];
    let at = sealer.headroom();
    frame[at..at + packet.len()].copy_from_slice(packet);
    sealer.seal(&mut frame, Content::Packet).expect("0.23 always seals");
    frame
}

#[test]
fn one_way_traffic_rotates_once_and_then_waits_for_a_sign_of_life() {
    let (mut a, mut a_open) = end(1, 64);
    let (_, mut b) = end(2, 64);
    let mut flips = Vec::new();
    for number in 0..400u32 {
        if number == 300 {
            a_open.heard_keepalive();
        }
        let mut frame = sealed(&mut a, &number.to_be_bytes());
        flips.push(frame[0] & PHASE);
        assert!(b.open(&mut frame).is_ok(), "packet {number}");
    }
    assert_eq!(flips.iter().position(|phase| *phase != 0), Some(64));
    assert_eq!(flips[64..].iter().position(|phase| *phase == 0), Some(300 - 64));
}

#[test]
fn a_blackout_of_many_periods_does_not_part_the_two() {
    let (mut a, mut a_open) = end(1, 64);
    let (mut b, mut b_open) = end(2, 64);
    for _ in 0..1000 {
        sealed(&mut a, b"lost");
    }
    assert!(b_open.open(&mut sealed(&mut a, b"found")).is_ok());
    assert!(a_open.open(&mut sealed(&mut b, b"found")).is_ok());
    for _ in 0..1000 {
        sealed(&mut b, b"lost");
        assert!(b_open.open(&mut sealed(&mut a, b"found")).is_ok());
    }
    assert!(a_open.open(&mut sealed(&mut b, b"found")).is_ok());
}

#[test]
fn stragglers_of_the_old_key_are_still_opened() {
    let (mut a, mut a_open) = end(1, 64);
    let (mut b, mut b_open) = end(2, 64);
    let mut late: Vec<Vec<u8>> = Vec::new();
    for number in 0..600u32 {
        late.push(sealed(&mut a, &number.to_be_bytes()));
        if late.len() == 20 {
            // Newest first: as far out of order as it gets.
            for mut frame in late.drain(..).rev() {
                assert!(b_open.open(&mut frame).is_ok(), "around packet {number}");
            }
        }
        assert!(a_open.open(&mut sealed(&mut b, b"x")).is_ok());
    }
}

#[test]
fn what_is_forged_changes_nothing() {
    let (mut a, _) = end(1, PERIOD);
    let (_, mut b) = end(2, PERIOD);
    let frame = sealed(&mut a, b"genuine");
    for bit in 0..frame.len() * 8 {
        let mut corrupted = frame.clone();
        corrupted[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.open(&mut corrupted).unwrap_err(), OpenError::NotAuthentic);
    }
    assert_eq!(open(&mut b, &mut frame.clone()).expect("untouched"), b"genuine");
}

#[test]
fn a_crc_guards_a_plain_packet() {
    let Protection { mut sealer, mut opener, .. } = wire_023(None, true);
    let frame = sealed(&mut sealer, b"123456789");
    assert_eq!(frame[9..], 0xcbf4_3926u32.to_be_bytes(), "CRC-32 of the check string");
    assert_eq!(open(&mut opener, &mut frame.clone()).expect("intact"), b"123456789");
    let mut corrupted = frame;
    corrupted[2] ^= 1;
    assert_eq!(open(&mut opener, &mut corrupted), Err(OpenError::Checksum));
    assert_eq!(open(&mut opener, &mut [1, 2, 3]), Err(OpenError::TooShort));
}

/// A 0.23 peer as WIRE.md says it was seen: its key follows the phase bit of what it receives,
/// its own phase bit follows its own count.
struct OldPeer {
    chain: KeyChain,
    aead: Box<dyn Aead>,
    heard_phase: u8,
    count: u64,
    period: u64,
    random: Seeded,
}

impl OldPeer {
    fn new(period: u64) -> Self {
        let chain = KeyChain {
            cipher: Cipher::Aes256Gcm,
            backend: AeadBackend::RustCrypto,
            first: first(),
            latest: first(),
        };
        let aead = chain.aead();
        Self { chain, aead, heard_phase: 0, count: 0, period, random: Seeded(9) }
    }

    fn open(&mut self, frame: &mut [u8]) -> bool {
        if frame[0] & PHASE != self.heard_phase {
            self.heard_phase ^= PHASE;
            self.aead = self.chain.advance();
        }
        self.count += 1;
        let (iv, rest) = frame.split_first_chunk_mut::<NONCE>().expect("long enough");
        let (packet, tag) = rest.split_last_chunk_mut::<TAG>().expect("long enough");
        self.aead.open_in_place(iv, &[], packet, tag).is_ok()
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        self.random.fill(&mut nonce);
        nonce[0] &= !PHASE;
        if (self.count / self.period) % 2 == 1 {
            nonce[0] |= PHASE;
        }
        self.count += 1;
        let mut data = packet.to_vec();
        let tag = self.aead.seal_in_place(&nonce, &[], &mut data);
        [&nonce[..], &data, &tag].concat()
    }
}

#[test]
fn a_flow_with_an_old_peer_passes_its_rotations_in_any_pattern_of_traffic() {
    for (ours, theirs) in [(1, 1), (5, 1), (1, 5), (7, 3), (1, 40)] {
        let (mut seal, mut open) = end(1, 64);
        let mut peer = OldPeer::new(64);
        // The old peer's count runs ahead by what we never see.
        peer.count = 10;
        for round in 0..500 {
            for _ in 0..ours {
                assert!(peer.open(&mut sealed(&mut seal, b"to old")), "{ours}:{theirs} {round}");
            }
            for _ in 0..theirs {
                let mut frame = peer.seal(b"from old");
                assert!(open.open(&mut frame).is_ok(), "{ours}:{theirs} {round}");
            }
        }
        assert!(matches!(seal.kind, SealerKind::Wire023(sealing) if sealing.epoch > 2));
    }
}
