//! The 0.23 key schedule (WIRE.md, "Allocation header" and "Packets of a
//! flow").

use hkdf::Hkdf;
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Hash;

const AGREEMENT: &[u8] = b"o7s-ossl-dhe";
const ROTATION: &[u8] = b"o7s-key-rotation";

/// The key of one epoch of a flow: 32 bytes, zeroized when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct FlowKey([u8; 32]);

impl FlowKey {
    /// A key from its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of the epoch after this one's, in a flow that began with
    /// `epoch_zero`.
    pub fn next(&self, epoch_zero: &Self) -> Self {
        Self(expand(Hash::Sha256, &self.0, &Sha256::digest(epoch_zero.0), ROTATION))
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowKey")
    }
}

/// The epoch-0 key from a Diffie-Hellman secret and both public keys.
pub(super) fn agreed_key(kdf: Hash, secret: &[u8], one: &[u8], other: &[u8]) -> FlowKey {
    let (smaller, larger) = if one <= other { (one, other) } else { (other, one) };
    let salt = Sha256::new().chain_update(smaller).chain_update(larger).finalize();
    FlowKey(expand(kdf, secret, &salt, AGREEMENT))
}

fn expand(kdf: Hash, secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    match kdf {
        Hash::Sha256 => Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key),
        Hash::Sha384 => Hkdf::<Sha384>::new(Some(salt), secret).expand(info, &mut key),
        Hash::Sha512 => Hkdf::<Sha512>::new(Some(salt), secret).expand(info, &mut key),
    }
    .expect("32 bytes are within what HKDF expands to");
    key
}
