//! Keys from secrets: HKDF (RFC 5869), and the 0.23 key schedule on top of it
//! (WIRE.md, "Allocation header" and "Packets of a flow").

use hkdf::SimpleHkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Hash, suite::with_digest};

const AGREEMENT: &[u8] = b"o7s-ossl-dhe";
const ENCAPSULATION: &[u8] = b"o7s-ossl-encap";
const ROTATION: &[u8] = b"o7s-key-rotation";

/// The key of one epoch of a flow: 32 bytes, zeroized when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct FlowKey([u8; 32]);

impl FlowKey {
    /// A key from its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of the epoch after this one's, in a flow that began with
    /// `epoch_zero`.
    #[must_use]
    pub fn next(&self, epoch_zero: &Self) -> Self {
        flow_key(Hash::Sha256, &self.0, &Sha256::digest(epoch_zero.0), ROTATION)
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowKey")
    }
}

/// A secret that keys are expanded from: HKDF's pseudorandom key (RFC 5869),
/// as long as a digest of its hash. Zeroized when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    #[zeroize(skip)]
    hash: Hash,
    bytes: [u8; LARGEST_DIGEST],
}

const LARGEST_DIGEST: usize = 64;
/// HKDF expands to no more than this many digests (RFC 5869, section 2.3).
const LARGEST_EXPANSION: usize = 255;

impl Secret {
    /// HKDF-Extract: what is uncertain in `input`, concentrated under `salt`.
    /// Both may have any length.
    #[must_use]
    pub fn extract(hash: Hash, salt: &[u8], input: &[u8]) -> Self {
        let mut bytes = [0; LARGEST_DIGEST];
        let secret = &mut bytes[..hash.size()];
        with_digest!(hash, D => {
            let (mut extracted, _) = SimpleHkdf::<D>::extract(Some(salt), input);
            secret.copy_from_slice(&extracted);
            extracted.as_mut_slice().zeroize();
        });
        let secret = Self { hash, bytes };
        bytes.zeroize();
        secret
    }

    /// HKDF-Expand: `N` bytes for the use that `label` names (HKDF's `info`).
    /// Different labels give independent bytes. More than 255 of the smallest
    /// digest does not compile.
    #[must_use]
    pub fn expand<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= LARGEST_EXPANSION * Hash::Sha256.size()) };
        let mut output = Zeroizing::new([0; N]);
        let secret = &self.bytes[..self.hash.size()];
        with_digest!(self.hash, D => {
            SimpleHkdf::<D>::from_prk(secret)
                .expect("a secret is as long as a digest")
                .expand(label, &mut *output)
                .expect("asserted above");
        });
        output
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The epoch-0 key from a Diffie-Hellman secret and both public keys.
pub(super) fn agreed_key(kdf: Hash, secret: &[u8], one: &[u8], other: &[u8]) -> FlowKey {
    let (smaller, larger) = if one <= other { (one, other) } else { (other, one) };
    let salt = Sha256::new().chain_update(smaller).chain_update(larger).finalize();
    flow_key(kdf, secret, &salt, AGREEMENT)
}

/// The epoch-0 key from a secret encapsulated to `public_key`.
pub(super) fn encapsulated_key(kdf: Hash, secret: &[u8], public_key: &[u8]) -> FlowKey {
    flow_key(kdf, secret, &Sha256::digest(public_key), ENCAPSULATION)
}

fn flow_key(kdf: Hash, secret: &[u8], salt: &[u8], label: &[u8]) -> FlowKey {
    FlowKey(*Secret::extract(kdf, salt, secret).expand(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, appendix A.1.
    #[test]
    fn sha256_secrets_are_those_of_rfc_5869() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let label: Vec<u8> = (0xf0..=0xf9).collect();
        let secret = Secret::extract(Hash::Sha256, &salt, &[0x0b; 22]);
        assert_eq!(secret.bytes[..4], [0x07, 0x77, 0x09, 0x36]);
        assert_eq!(secret.bytes[32..], [0; 32]);
        let expanded = secret.expand::<42>(&label);
        assert_eq!(expanded[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        assert_eq!(expanded[34..], [0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65]);
    }

    #[test]
    fn hashes_salts_and_labels_part_the_keys() {
        let mut keys: Vec<[u8; 32]> = Vec::new();
        for hash in Hash::ALL {
            for salt in [b"one", b"two"] {
                for label in [b"key", b"iv "] {
                    keys.push(*Secret::extract(hash, salt, b"input").expand(label));
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 4 * Hash::ALL.len());
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::extract(Hash::Sha256, b"", b"input");
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
