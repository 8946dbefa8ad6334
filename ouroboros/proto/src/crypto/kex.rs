//! Key exchanges: the client's ephemeral secret and public key, the server's
//! answer, and the key that both derive (WIRE.md, "Allocation header", key
//! schedule).
//!
//! Diffie-Hellman public keys travel as X.509 SubjectPublicKeyInfo DER, those
//! of the hybrid raw. Not here: which exchange is strong enough
//! (`proto::negotiation`).

mod hybrid;
mod kept;

use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

pub use self::kept::KeptX25519;
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
/// The same of P-384, whose points take 97 bytes.
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// The same of P-521, whose points take 133 bytes.
const P521_PREFIX: [u8; 25] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05,
    0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];
const X25519_SIZE: usize = X25519_PREFIX.len() + 32;
const P256_SIZE: usize = P256_PREFIX.len() + 65;
const P384_SIZE: usize = P384_PREFIX.len() + 97;
const P521_SIZE: usize = P521_PREFIX.len() + 133;

/// The peer's key exchange data cannot be agreed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyExchangeError {
    /// It is nothing of the exchange that is under way.
    #[error("the peer's public key is malformed, or of another key exchange")]
    Malformed,
    /// It makes the shared secret the same for everyone (RFC 7748, section 6.1).
    #[error("the peer's public key is degenerate")]
    Degenerate,
}

impl KeyExchange {
    /// Which exchange a client's public key is for, by its shape alone; `raw`
    /// says whether it is marked as a raw key.
    #[must_use]
    pub fn of_public_key(key: &[u8], raw: bool) -> Option<Self> {
        match (raw, key.len()) {
            (false, X25519_SIZE) if key.starts_with(&X25519_PREFIX) => Some(Self::X25519),
            (false, P256_SIZE) if key.starts_with(&P256_PREFIX) => Some(Self::P256),
            (false, P384_SIZE) if key.starts_with(&P384_PREFIX) => Some(Self::P384),
            (false, P521_SIZE) if key.starts_with(&P521_PREFIX) => Some(Self::P521),
            (true, hybrid::PUBLIC_KEY) => Some(Self::X25519MlKem768),
            _ => None,
        }
    }

    /// Returns `true` if its public keys travel raw, not as SubjectPublicKeyInfo.
    #[must_use]
    pub const fn is_raw(self) -> bool {
        matches!(self, Self::X25519MlKem768)
    }

    /// Returns `true` if an answer takes milliseconds, tens of times as long as
    /// that of the others.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::P384 | Self::P521)
    }

    /// Bytes of the server's answer.
    #[must_use]
    pub const fn answer_size(self) -> usize {
        match self {
            Self::P256 => P256_SIZE,
            Self::X25519 => X25519_SIZE,
            Self::P384 => P384_SIZE,
            Self::P521 => P521_SIZE,
            Self::X25519MlKem768 => hybrid::CIPHERTEXT,
        }
    }

    /// Bytes of randomness that a secret is made of.
    const fn secret_size(self) -> usize {
        match self {
            Self::P256 | Self::X25519 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
            Self::X25519MlKem768 => hybrid::SECRET,
        }
    }
}

enum Secret {
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
    X25519(StaticSecret),
    X25519MlKem768(Box<hybrid::Secret>),
}

/// The client's secret for one flow. Zeroized when dropped.
pub struct EphemeralSecret {
    secret: Secret,
    public_key: Vec<u8>,
}

impl EphemeralSecret {
    /// A fresh secret.
    pub fn generate(kex: KeyExchange, entropy: &mut dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new(vec![0; kex.secret_size()]);
        loop {
            entropy.fill(&mut bytes);
            if kex == KeyExchange::P521 {
                // A scalar has 521 bits.
                bytes[0] &= 1;
            }
            // One in 2^32 strings is no P-256 scalar.
            if let Some(secret) = Self::from_bytes(kex, &bytes) {
                return secret;
            }
        }
    }

    /// A fresh secret of the hybrid, whose X25519 half is the one that was kept: of the same
    /// flow, and towards the same peer.
    #[must_use]
    pub fn generate_beside(kept: KeptX25519, entropy: &mut dyn Entropy) -> Self {
        let (secret, public_key) = hybrid::Secret::generate_beside(kept, entropy);
        Self { secret: Secret::X25519MlKem768(Box::new(secret)), public_key }
    }

    /// A secret from its bytes, for test vectors: 32 bytes of scalar; for the
    /// hybrid 64 of ML-KEM seed (FIPS 203: d, z) and 32 of X25519 scalar.
    /// `None` if their number is another, or they are no scalar of the curve.
    #[must_use]
    pub fn from_bytes(kex: KeyExchange, bytes: &[u8]) -> Option<Self> {
        let (secret, public_key) = match kex {
            KeyExchange::X25519 => {
                let secret = StaticSecret::from(<[u8; 32]>::try_from(bytes).ok()?);
                let public_key = x25519_dalek::PublicKey::from(&secret);
                (Secret::X25519(secret), [&X25519_PREFIX[..], public_key.as_bytes()].concat())
            }
            KeyExchange::P256 => {
                let secret = p256::SecretKey::from_slice(bytes).ok()?;
                let public_key = secret.public_key().to_public_key_der().ok()?.into_vec();
                (Secret::P256(secret), public_key)
            }
            KeyExchange::P384 => {
                let secret = p384::SecretKey::from_slice(bytes).ok()?;
                let public_key = secret.public_key().to_public_key_der().ok()?.into_vec();
                (Secret::P384(secret), public_key)
            }
            KeyExchange::P521 => {
                let secret = p521::SecretKey::from_slice(bytes).ok()?;
                let public_key = secret.public_key().to_public_key_der().ok()?.into_vec();
                (Secret::P521(secret), public_key)
            }
            KeyExchange::X25519MlKem768 => {
                let (secret, public_key) = hybrid::Secret::from_bytes(bytes.try_into().ok()?);
                (Secret::X25519MlKem768(Box::new(secret)), public_key)
            }
        };
        Some(Self { secret, public_key })
    }

    /// The public key to send.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The epoch-0 key agreed with the server whose answer is `answer`.
    ///
    /// # Errors
    ///
    /// The answer is malformed, of another exchange, or degenerate. An answer
    /// to another key than this one is no error where the exchange cannot tell
    /// (FIPS 203, implicit rejection): the keys then differ.
    pub fn agree(&self, answer: &[u8], kdf: Hash) -> Result<FlowKey, KeyExchangeError> {
        macro_rules! agree_on_curve {
            ($curve:ident, $secret:ident, $prefix:ident, $size:ident) => {{
                if answer.len() != $size || !answer.starts_with(&$prefix) {
                    return Err(KeyExchangeError::Malformed);
                }
                let key = $curve::PublicKey::from_public_key_der(answer)
                    .map_err(|_| KeyExchangeError::Malformed)?;
                let shared =
                    $curve::ecdh::diffie_hellman($secret.to_nonzero_scalar(), key.as_affine());
                Ok(schedule::agreed_key(kdf, shared.raw_secret_bytes(), &self.public_key, answer))
            }};
        }
        match &self.secret {
            Secret::P256(secret) => agree_on_curve!(p256, secret, P256_PREFIX, P256_SIZE),
            Secret::P384(secret) => agree_on_curve!(p384, secret, P384_PREFIX, P384_SIZE),
            Secret::P521(secret) => agree_on_curve!(p521, secret, P521_PREFIX, P521_SIZE),
            Secret::X25519(secret) => {
                let kept = KeptX25519::agree(secret, &self.public_key, answer)?;
                Ok(schedule::agreed_key(kdf, kept.shared(), &self.public_key, answer))
            }
            Secret::X25519MlKem768(secret) => {
                let shared = secret.decapsulate(answer)?;
                Ok(schedule::encapsulated_key(kdf, shared.as_slice(), &self.public_key))
            }
        }
    }

    /// Like [`agree`](Self::agree), and keeps the agreement, if it is one of X25519.
    ///
    /// # Errors
    ///
    /// As [`agree`](Self::agree).
    pub fn agree_and_keep(
        &self,
        answer: &[u8],
        kdf: Hash,
    ) -> Result<(FlowKey, Option<KeptX25519>), KeyExchangeError> {
        let Secret::X25519(secret) = &self.secret else {
            return Ok((self.agree(answer, kdf)?, None));
        };
        let kept = KeptX25519::agree(secret, &self.public_key, answer)?;
        let key = schedule::agreed_key(kdf, kept.shared(), &self.public_key, answer);
        Ok((key, Some(kept)))
    }
}

/// The server's answer to a client's public key `key` of the exchange `kex`:
/// the key exchange data to send, and the epoch-0 key.
///
/// # Errors
///
/// The client's key is malformed, of another exchange, or degenerate.
pub fn answer(
    kex: KeyExchange,
    key: &[u8],
    kdf: Hash,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, FlowKey), KeyExchangeError> {
    if kex == KeyExchange::X25519MlKem768 {
        return answer_hybrid(None, key, kdf, entropy);
    }
    let secret = EphemeralSecret::generate(kex, entropy);
    let agreed = secret.agree(key, kdf)?;
    Ok((secret.public_key, agreed))
}

/// Like [`answer`], and keeps the agreement, if it is one of X25519.
///
/// # Errors
///
/// As [`answer`].
pub fn answer_and_keep(
    kex: KeyExchange,
    key: &[u8],
    kdf: Hash,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, FlowKey, Option<KeptX25519>), KeyExchangeError> {
    if kex != KeyExchange::X25519 {
        let (answer, agreed) = answer(kex, key, kdf, entropy)?;
        return Ok((answer, agreed, None));
    }
    let secret = EphemeralSecret::generate(kex, entropy);
    let (agreed, kept) = secret.agree_and_keep(key, kdf)?;
    Ok((secret.public_key, agreed, kept))
}

/// Like [`answer`] for the hybrid, with the X25519 agreement that was `kept` where the peer's
/// key has the same X25519 half as then.
///
/// # Errors
///
/// As [`answer`].
pub fn answer_hybrid(
    kept: Option<&KeptX25519>,
    key: &[u8],
    kdf: Hash,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, FlowKey), KeyExchangeError> {
    let (ciphertext, shared) = hybrid::encapsulate(key, kept, entropy)?;
    Ok((ciphertext, schedule::encapsulated_key(kdf, shared.as_slice(), key)))
}

/// The shared secret of X25519, unless it is all zeros: the same for everyone.
fn x25519(
    secret: &StaticSecret,
    peer: [u8; 32],
) -> Result<x25519_dalek::SharedSecret, KeyExchangeError> {
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(peer));
    if shared.was_contributory() { Ok(shared) } else { Err(KeyExchangeError::Degenerate) }
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralSecret")
    }
}

#[cfg(test)]
#[path = "kex_tests.rs"]
mod tests;
