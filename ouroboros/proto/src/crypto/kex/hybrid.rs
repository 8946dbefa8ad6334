//! X25519MLKEM768: ML-KEM-768 (FIPS 203) beside X25519, as TLS and OpenSSL 3.5
//! have it (draft-ietf-tls-ecdhe-mlkem, section 4). In public keys, ciphertexts
//! and secrets the ML-KEM part comes first.

use ml_kem::{
    DecapsulationKey768, EncapsulationKey768,
    kem::{Decapsulate, KeyExport},
};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use super::{Entropy, KeyExchangeError, x25519};

const ML_KEM_PUBLIC_KEY: usize = 1184;
const ML_KEM_CIPHERTEXT: usize = 1088;
const ML_KEM_SEED: usize = 64;
const X25519: usize = 32;

/// Length of a public key (encapsulation key) in bytes.
pub(super) const PUBLIC_KEY: usize = ML_KEM_PUBLIC_KEY + X25519;
/// Length of a ciphertext (the answer to a public key) in bytes.
pub(super) const CIPHERTEXT: usize = ML_KEM_CIPHERTEXT + X25519;
/// Length of a secret in bytes: ML-KEM's seed (d, z) and an X25519 scalar.
pub(super) const SECRET: usize = ML_KEM_SEED + X25519;

pub(super) type SharedSecret = Zeroizing<[u8; 64]>;

pub(super) struct Secret {
    ml_kem: DecapsulationKey768,
    x25519: StaticSecret,
}

impl Secret {
    pub(super) fn from_bytes(bytes: &[u8; SECRET]) -> Self {
        let mut seed = ml_kem::Seed::default();
        let mut scalar = Zeroizing::new([0; X25519]);
        seed.copy_from_slice(&bytes[..ML_KEM_SEED]);
        scalar.copy_from_slice(&bytes[ML_KEM_SEED..]);
        let secret =
            Self { ml_kem: DecapsulationKey768::from_seed(seed), x25519: (*scalar).into() };
        seed.as_mut_slice().zeroize();
        secret
    }

    pub(super) fn public_key(&self) -> Vec<u8> {
        let ml_kem = self.ml_kem.encapsulation_key().to_bytes();
        let x25519 = x25519_dalek::PublicKey::from(&self.x25519);
        [ml_kem.as_slice(), x25519.as_bytes()].concat()
    }

    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
        let (ml_kem, key) = split::<ML_KEM_CIPHERTEXT>(ciphertext)?;
        let x25519 = x25519(&self.x25519, key)?;
        let ml_kem = self.ml_kem.decapsulate(&(*ml_kem).into());
        Ok(join(ml_kem, &x25519))
    }
}

/// The ciphertext for the owner of `public_key`, and the secret in it.
pub(super) fn encapsulate(
    public_key: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, SharedSecret), KeyExchangeError> {
    let (ml_kem, key) = split::<ML_KEM_PUBLIC_KEY>(public_key)?;
    let ml_kem =
        EncapsulationKey768::new(&(*ml_kem).into()).map_err(|_| KeyExchangeError::Malformed)?;
    let mut message = ml_kem::B32::default();
    let mut scalar = Zeroizing::new([0; X25519]);
    entropy.fill(message.as_mut_slice());
    entropy.fill(scalar.as_mut_slice());
    let secret = StaticSecret::from(*scalar);
    let x25519 = x25519(&secret, key)?;
    let (ciphertext, ml_kem) = ml_kem.encapsulate_deterministic(&message);
    message.as_mut_slice().zeroize();
    let own = x25519_dalek::PublicKey::from(&secret);
    Ok(([ciphertext.as_slice(), own.as_bytes()].concat(), join(ml_kem, &x25519)))
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

fn join(mut ml_kem: ml_kem::SharedKey, x25519: &x25519_dalek::SharedSecret) -> SharedSecret {
    let mut shared = Zeroizing::new([0; 64]);
    shared[..32].copy_from_slice(&ml_kem);
    shared[32..].copy_from_slice(x25519.as_bytes());
    ml_kem.as_mut_slice().zeroize();
    shared
}
