//! Key pairs that sign, and the public keys that check signatures: Ed25519, and
//! ECDSA on P-256 and P-384 for keys that an authority has certified.

use der::{SecretDocument, pem::LineEnding};
use ed25519_dalek::ed25519::pkcs8::KeypairBytes;
use p256::{
    ecdsa::signature::{Signer, hazmat::PrehashVerifier},
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey},
};
use zeroize::Zeroizing;

use super::Fingerprint;
use crate::crypto::{Entropy, Hash};

/// The key is none that can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519, P-256 or P-384 key (private keys as unencrypted PKCS#8 PEM)")]
pub struct UnusableKey;

/// The signature is not of this message by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad signature")]
pub struct BadSignature;

enum SigningKey {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

/// A key pair that proves who one is. Zeroized when dropped.
pub struct IdentityKey {
    signing: SigningKey,
    public: PublicKey,
}

impl IdentityKey {
    /// A fresh Ed25519 key pair.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(seed.as_mut());
        Self::new(SigningKey::Ed25519(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The Ed25519 key pair of a seed (RFC 8032, section 5.1.5: the private key).
    #[must_use]
    pub fn from_ed25519_seed(seed: &[u8; 32]) -> Self {
        Self::new(SigningKey::Ed25519(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    /// A key pair from a PKCS#8 `PRIVATE KEY` in PEM form.
    ///
    /// # Errors
    ///
    /// The text is another thing, encrypted, or of an algorithm that is not
    /// used here.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, UnusableKey> {
        let (label, document) = SecretDocument::from_pem(text).map_err(|_| UnusableKey)?;
        if label != "PRIVATE KEY" {
            return Err(UnusableKey);
        }
        let der = document.as_bytes();
        let ed25519 = ed25519_dalek::SigningKey::from_pkcs8_der(der).map(SigningKey::Ed25519);
        let signing = ed25519
            .or_else(|_| p256::ecdsa::SigningKey::from_pkcs8_der(der).map(SigningKey::P256))
            .or_else(|_| p384::ecdsa::SigningKey::from_pkcs8_der(der).map(SigningKey::P384))
            .map_err(|_| UnusableKey)?;
        Ok(Self::new(signing))
    }

    fn new(signing: SigningKey) -> Self {
        let verifying = match &signing {
            SigningKey::Ed25519(key) => VerifyingKey::Ed25519(key.verifying_key()),
            SigningKey::P256(key) => VerifyingKey::P256(*key.verifying_key()),
            SigningKey::P384(key) => VerifyingKey::P384(*key.verifying_key()),
        };
        Self { signing, public: PublicKey::new(verifying) }
    }

    /// The key pair as a PKCS#8 `PRIVATE KEY` in PEM form, as OpenSSL reads it.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        match &self.signing {
            // With the public key in it, older OpenSSL refuses the file.
            SigningKey::Ed25519(key) => {
                KeypairBytes { secret_key: key.to_bytes(), public_key: None }
                    .to_pkcs8_pem(LineEnding::LF)
            }
            SigningKey::P256(key) => key.to_pkcs8_pem(LineEnding::LF),
            SigningKey::P384(key) => key.to_pkcs8_pem(LineEnding::LF),
        }
        .expect("a key is short enough to encode")
    }

    /// The public half.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The digest of [`sign`](Self::sign)'s signatures, which a header names
    /// as its `md`; `None` for Ed25519, which has its own.
    #[must_use]
    pub const fn digest(&self) -> Option<Hash> {
        match &self.signing {
            SigningKey::Ed25519(_) => None,
            SigningKey::P256(_) => Some(Hash::Sha256),
            SigningKey::P384(_) => Some(Hash::Sha384),
        }
    }

    /// The signature of `message`, always the same for the same message
    /// (RFC 8032; RFC 6979): 64 bytes for Ed25519, DER for ECDSA.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.signing {
            SigningKey::Ed25519(key) => key.sign(message).to_vec(),
            SigningKey::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            SigningKey::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
        }
    }
}

/// Only the public half.
impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IdentityKey").field(&self.public).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum VerifyingKey {
    Ed25519(ed25519_dalek::VerifyingKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

/// A public key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    verifying: VerifyingKey,
    spki: Vec<u8>,
}

impl PublicKey {
    /// A key from its SubjectPublicKeyInfo DER.
    ///
    /// # Errors
    ///
    /// The bytes are no such key, or of an algorithm that is not used here.
    pub fn from_spki(der: &[u8]) -> Result<Self, UnusableKey> {
        ed25519_dalek::VerifyingKey::from_public_key_der(der)
            .map(VerifyingKey::Ed25519)
            .or_else(|_| {
                p256::ecdsa::VerifyingKey::from_public_key_der(der).map(VerifyingKey::P256)
            })
            .or_else(|_| {
                p384::ecdsa::VerifyingKey::from_public_key_der(der).map(VerifyingKey::P384)
            })
            .map(Self::new)
            .map_err(|_| UnusableKey)
    }

    /// An Ed25519 key from its 32 bytes (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    ///
    /// The bytes are no point of the curve.
    pub fn from_ed25519(bytes: &[u8; 32]) -> Result<Self, UnusableKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| UnusableKey)?;
        Ok(Self::new(VerifyingKey::Ed25519(key)))
    }

    fn new(verifying: VerifyingKey) -> Self {
        let spki = match &verifying {
            VerifyingKey::Ed25519(key) => key.to_public_key_der(),
            VerifyingKey::P256(key) => key.to_public_key_der(),
            VerifyingKey::P384(key) => key.to_public_key_der(),
        };
        let spki = spki.expect("a key is short enough to encode").into_vec();
        Self { verifying, spki }
    }

    /// Its SubjectPublicKeyInfo DER; points of a curve are uncompressed.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Returns the key's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.spki)
    }

    /// Checks the signature of `message` under the digest that the header's
    /// `md` names. `None` is an `md` of 0, which every key reads in its own
    /// way: Ed25519 has no digest besides its own, ECDSA on any curve takes
    /// SHA-256 (WIRE.md, "Allocation header", certificates).
    ///
    /// # Errors
    ///
    /// The signature is another's, of another message, or malformed; or a
    /// digest is named for an Ed25519 key.
    pub fn verify(
        &self,
        digest: Option<Hash>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let prehash = || digest.unwrap_or(Hash::Sha256).digest(message);
        match &self.verifying {
            VerifyingKey::Ed25519(_) if digest.is_some() => return Err(BadSignature),
            VerifyingKey::Ed25519(key) => {
                let signature = ed25519_dalek::Signature::from_slice(signature);
                signature.and_then(|signature| key.verify_strict(message, &signature))
            }
            VerifyingKey::P256(key) => {
                let signature = p256::ecdsa::DerSignature::try_from(signature);
                signature.and_then(|signature| key.verify_prehash(&prehash(), &signature))
            }
            VerifyingKey::P384(key) => {
                let signature = p384::ecdsa::DerSignature::try_from(signature);
                signature.and_then(|signature| key.verify_prehash(&prehash(), &signature))
            }
        }
        .map_err(|_| BadSignature)
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}
