//! The X25519 agreement of a flow's headers, kept for the hybrid exchange that comes before
//! data (PROTOCOL.md, "Rekeying"): what would be agreed there again is had already. Not here:
//! when an exchange may do that (`proto::native`).

use x25519_dalek::{SharedSecret, StaticSecret};

use super::{KeyExchangeError, X25519_PREFIX, x25519};

/// The length of an X25519 public key in bytes.
const X25519: usize = 32;

/// An X25519 agreement that was made, of one flow. Zeroized when dropped.
pub struct KeptX25519 {
    pub(super) secret: StaticSecret,
    pub(super) public_key: [u8; X25519],
    peer: [u8; X25519],
    shared: SharedSecret,
}

impl KeptX25519 {
    /// Agrees, with public keys as SubjectPublicKeyInfo.
    pub(super) fn agree(
        secret: &StaticSecret,
        own: &[u8],
        peer: &[u8],
    ) -> Result<Self, KeyExchangeError> {
        let raw = |key: &[u8]| key.strip_prefix(&X25519_PREFIX)?.try_into().ok();
        let (public_key, peer) = raw(own).zip(raw(peer)).ok_or(KeyExchangeError::Malformed)?;
        let shared = x25519(secret, peer)?;
        Ok(Self { secret: secret.clone(), public_key, peer, shared })
    }

    /// Returns the secret that is shared.
    pub(super) fn shared(&self) -> &[u8; X25519] {
        self.shared.as_bytes()
    }

    /// Returns the secret that is shared with the owner of `key`, if it was agreed.
    pub(super) fn shared_with(&self, key: &[u8; X25519]) -> Option<&[u8; X25519]> {
        (self.peer == *key).then(|| self.shared())
    }
}

impl std::fmt::Debug for KeptX25519 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeptX25519")
    }
}
