//! Key exchanges: an ephemeral secret, its public key as the wire carries it
//! (X.509 SubjectPublicKeyInfo DER), and agreement with a peer's.

use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use zeroize::Zeroizing;

use super::{Entropy, FlowKey, Hash, KeyExchange, schedule};

/// DER of an X25519 SubjectPublicKeyInfo up to its 32 key bytes (WIRE.md,
/// "Allocation header", key schedule).
const X25519_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];
/// DER of a P-256 SubjectPublicKeyInfo up to its 65-byte uncompressed point
/// (RFC 5480, section 2).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The peer's public key cannot be agreed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyExchangeError {
    /// It is no key of the exchange that is under way.
    #[error("the peer's public key is malformed, or of another key exchange")]
    Malformed,
    /// It makes the shared secret the same for everyone (RFC 7748, section 6.1).
    #[error("the peer's public key is degenerate")]
    Degenerate,
}

impl KeyExchange {
    /// Which exchange a public key is for, by its shape alone.
    pub fn of_public_key(spki: &[u8]) -> Option<Self> {
        if spki.len() == X25519_PREFIX.len() + 32 && spki.starts_with(&X25519_PREFIX) {
            Some(Self::X25519)
        } else if spki.len() == P256_PREFIX.len() + 65 && spki.starts_with(&P256_PREFIX) {
            Some(Self::P256)
        } else {
            None
        }
    }
}

enum Secret {
    P256(p256::SecretKey),
    X25519(x25519_dalek::StaticSecret),
}

/// One side's secret for one flow. Used once, zeroized when dropped.
pub struct EphemeralSecret {
    secret: Secret,
    public_key: Vec<u8>,
}

impl EphemeralSecret {
    /// A fresh secret.
    pub fn generate(kex: KeyExchange, entropy: &mut dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        loop {
            entropy.fill(bytes.as_mut());
            // One in 2^32 strings is no P-256 scalar.
            if let Some(secret) = Self::from_bytes(kex, &bytes) {
                return secret;
            }
        }
    }

    /// A secret from its 32 bytes, for test vectors; `None` if they are no
    /// scalar of the curve.
    pub fn from_bytes(kex: KeyExchange, bytes: &[u8; 32]) -> Option<Self> {
        match kex {
            KeyExchange::X25519 => {
                let secret = x25519_dalek::StaticSecret::from(*bytes);
                let mut public_key = X25519_PREFIX.to_vec();
                public_key.extend_from_slice(x25519_dalek::PublicKey::from(&secret).as_bytes());
                Some(Self { secret: Secret::X25519(secret), public_key })
            }
            KeyExchange::P256 => {
                let secret = p256::SecretKey::from_slice(bytes).ok()?;
                let public_key = secret.public_key().to_public_key_der().ok()?.into_vec();
                Some(Self { secret: Secret::P256(secret), public_key })
            }
        }
    }

    /// The public key to send, as SubjectPublicKeyInfo DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The epoch-0 key agreed with the owner of `peer`, a
    /// SubjectPublicKeyInfo DER.
    ///
    /// # Errors
    ///
    /// The peer's key is malformed, of another exchange, or degenerate.
    pub fn agree(&self, peer: &[u8], kdf: Hash) -> Result<FlowKey, KeyExchangeError> {
        let kex = KeyExchange::of_public_key(peer).ok_or(KeyExchangeError::Malformed)?;
        match (&self.secret, kex) {
            (Secret::X25519(secret), KeyExchange::X25519) => {
                let key: [u8; 32] = peer[X25519_PREFIX.len()..]
                    .try_into()
                    .map_err(|_| KeyExchangeError::Malformed)?;
                let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(key));
                if !shared.was_contributory() {
                    return Err(KeyExchangeError::Degenerate);
                }
                Ok(schedule::agreed_key(kdf, shared.as_bytes(), &self.public_key, peer))
            }
            (Secret::P256(secret), KeyExchange::P256) => {
                let key = p256::PublicKey::from_public_key_der(peer)
                    .map_err(|_| KeyExchangeError::Malformed)?;
                let shared =
                    p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), key.as_affine());
                let shared = shared.raw_secret_bytes();
                Ok(schedule::agreed_key(kdf, shared, &self.public_key, peer))
            }
            _ => Err(KeyExchangeError::Malformed),
        }
    }
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralSecret")
    }
}
