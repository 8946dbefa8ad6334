//! X25519MLKEM768: ML-KEM-768 (FIPS 203) beside X25519, as TLS and OpenSSL 3.5
//! have it (draft-ietf-tls-ecdhe-mlkem, section 4). In public keys, ciphertexts
//! and secrets the ML-KEM part comes first.

use libcrux_ml_kem::mlkem768::{self, MlKem768Ciphertext, MlKem768PrivateKey, MlKem768PublicKey};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use super::{Entropy, KeptX25519, KeyExchangeError, x25519};

const ML_KEM_PUBLIC_KEY: usize = 1184;
const ML_KEM_CIPHERTEXT: usize = 1088;
const ML_KEM_SEED: usize = 64;
/// Random bytes of an encapsulation.
const ML_KEM_MESSAGE: usize = 32;
const X25519: usize = 32;

/// Length of a public key (encapsulation key) in bytes.
pub(super) const PUBLIC_KEY: usize = ML_KEM_PUBLIC_KEY + X25519;
/// Length of a ciphertext (the answer to a public key) in bytes.
pub(super) const CIPHERTEXT: usize = ML_KEM_CIPHERTEXT + X25519;
/// Length of a secret in bytes: ML-KEM's seed (d, z) and an X25519 scalar.
pub(super) const SECRET: usize = ML_KEM_SEED + X25519;

pub(super) type SharedSecret = Zeroizing<[u8; 64]>;

pub(super) struct Secret {
    ml_kem: DecapsulationKey,
    x25519: Share,
}

/// The X25519 half of a secret.
enum Share {
    Fresh(StaticSecret),
    /// That of another exchange of the same flow.
    Kept(KeptX25519),
}

/// Erased when dropped, as its crate does not.
struct DecapsulationKey(MlKem768PrivateKey);

impl Drop for DecapsulationKey {
    fn drop(&mut self) {
        (0..MlKem768PrivateKey::len()).for_each(|index| self.0[index].zeroize());
    }
}

impl Secret {
    /// The secret, and its public key.
    pub(super) fn from_bytes(bytes: &[u8; SECRET]) -> (Self, Vec<u8>) {
        let mut seed = Zeroizing::new([0; ML_KEM_SEED]);
        let mut scalar = Zeroizing::new([0; X25519]);
        seed.copy_from_slice(&bytes[..ML_KEM_SEED]);
        scalar.copy_from_slice(&bytes[ML_KEM_SEED..]);
        let x25519 = StaticSecret::from(*scalar);
        let own = x25519_dalek::PublicKey::from(&x25519);
        Self::beside(Share::Fresh(x25519), own.as_bytes(), seed)
    }

    /// A fresh secret of ML-KEM beside the X25519 secret that was kept, and the public key of
    /// both.
    pub(super) fn generate_beside(kept: KeptX25519, entropy: &mut dyn Entropy) -> (Self, Vec<u8>) {
        let mut seed = Zeroizing::new([0; ML_KEM_SEED]);
        entropy.fill(seed.as_mut_slice());
        let own = kept.public_key;
        Self::beside(Share::Kept(kept), &own, seed)
    }

    fn beside(
        x25519: Share,
        own: &[u8; X25519],
        seed: Zeroizing<[u8; ML_KEM_SEED]>,
    ) -> (Self, Vec<u8>) {
        let (ml_kem, public_key) = mlkem768::generate_key_pair(*seed).into_parts();
        let public_key = [public_key.as_slice().as_slice(), own].concat();
        (Self { ml_kem: DecapsulationKey(ml_kem), x25519 }, public_key)
    }

    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
        let (ml_kem, key) = split::<ML_KEM_CIPHERTEXT>(ciphertext)?;
        let ml_kem = MlKem768Ciphertext::from(ml_kem);
        let decapsulated = || mlkem768::decapsulate(&self.ml_kem.0, &ml_kem);
        let secret = match &self.x25519 {
            Share::Fresh(secret) => secret,
            Share::Kept(kept) => match kept.shared_with(&key) {
                Some(shared) => return Ok(join(decapsulated(), shared)),
                None => &kept.secret,
            },
        };
        let shared = x25519(secret, key)?;
        Ok(join(decapsulated(), shared.as_bytes()))
    }
}

/// The ciphertext for the owner of `public_key`, and the secret in it. Where the X25519 half of
/// the key is the one that was agreed with before, that agreement is `kept`.
pub(super) fn encapsulate(
    public_key: &[u8],
    kept: Option<&KeptX25519>,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, SharedSecret), KeyExchangeError> {
    let (ml_kem, key) = split::<ML_KEM_PUBLIC_KEY>(public_key)?;
    let ml_kem = MlKem768PublicKey::from(ml_kem);
    // FIPS 203, section 7.2: the modulus check.
    if !mlkem768::validate_public_key(&ml_kem) {
        return Err(KeyExchangeError::Malformed);
    }
    let mut message = Zeroizing::new([0; ML_KEM_MESSAGE]);
    entropy.fill(message.as_mut_slice());
    let encapsulated = |own: &[u8; X25519], shared| {
        let (ciphertext, ml_kem) = mlkem768::encapsulate(&ml_kem, *message);
        ([ciphertext.as_slice().as_slice(), own].concat(), join(ml_kem, shared))
    };
    if let Some(kept) = kept
        && let Some(shared) = kept.shared_with(&key)
    {
        return Ok(encapsulated(&kept.public_key, shared));
    }
    let mut scalar = Zeroizing::new([0; X25519]);
    entropy.fill(scalar.as_mut_slice());
    let secret = StaticSecret::from(*scalar);
    let shared = x25519(&secret, key)?;
    let own = x25519_dalek::PublicKey::from(&secret);
    Ok(encapsulated(own.as_bytes(), shared.as_bytes()))
}

/// The two parts of a public key or ciphertext.
fn split<const ML_KEM: usize>(
    bytes: &[u8],
) -> Result<(&[u8; ML_KEM], [u8; X25519]), KeyExchangeError> {
    bytes
        .split_first_chunk()
        .and_then(|(ml_kem, x25519)| Some((ml_kem, x25519.try_into().ok()?)))
        .ok_or(KeyExchangeError::Malformed)
}

fn join(mut ml_kem: [u8; 32], x25519: &[u8; X25519]) -> SharedSecret {
    let mut shared = Zeroizing::new([0; 64]);
    shared[..32].copy_from_slice(&ml_kem);
    shared[32..].copy_from_slice(x25519);
    ml_kem.zeroize();
    shared
}
