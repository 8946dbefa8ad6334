//! Authenticated encryption behind one trait, so that backends can be chosen
//! and held against each other. One call a packet: no key schedule, no nonce
//! policy here (`proto::protection`).

use aes_gcm::{
    Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12, inout::InOutBuf},
    aes::Aes192,
};
use chacha20poly1305::ChaCha20Poly1305;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey,
};

use super::Cipher;
use crate::sys::Erased;

/// Length of a nonce (the wire's IV) in bytes.
pub const NONCE: usize = 12;
/// Length of a tag in bytes.
pub const TAG: usize = 16;

/// The packet was not sealed under this key and nonce, or was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not authentic")]
pub struct NotAuthentic;

/// A cipher with a key.
pub trait Aead: Send + Sync {
    /// Encrypts `data` in place and returns the tag.
    fn seal_in_place(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG];

    /// Checks `tag` and decrypts `data` in place. On error, what `data` holds
    /// is undefined.
    ///
    /// # Errors
    ///
    /// The tag does not fit.
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic>;
}

/// Whose implementation seals and opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AeadBackend {
    /// The `ring` crate: the fastest measured. It has no AES-192-GCM, which is
    /// the other's then.
    #[default]
    Ring,
    /// The `aes-gcm` and `chacha20poly1305` crates: pure Rust.
    RustCrypto,
}

impl AeadBackend {
    /// `cipher` under `key`, of which it takes as many bytes as it needs. Its
    /// memory is erased when it is dropped.
    #[must_use]
    pub fn with_key(self, cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead> {
        let key = &key[..cipher.key_size()];
        match (self, cipher) {
            (_, Cipher::Aes192Gcm) => {
                Erased::boxed(|| RustCrypto(Aes192Gcm::new_from_slice(key).expect("24 bytes")))
            }
            (Self::Ring, Cipher::Aes128Gcm) => Erased::boxed(|| ring_key(&AES_128_GCM, key)),
            (Self::Ring, Cipher::Aes256Gcm) => Erased::boxed(|| ring_key(&AES_256_GCM, key)),
            (Self::Ring, Cipher::ChaCha20Poly1305) => {
                Erased::boxed(|| ring_key(&CHACHA20_POLY1305, key))
            }
            (Self::RustCrypto, Cipher::Aes128Gcm) => {
                Erased::boxed(|| RustCrypto(Aes128Gcm::new_from_slice(key).expect("16 bytes")))
            }
            (Self::RustCrypto, Cipher::Aes256Gcm) => {
                Erased::boxed(|| RustCrypto(Aes256Gcm::new_from_slice(key).expect("32 bytes")))
            }
            (Self::RustCrypto, Cipher::ChaCha20Poly1305) => Erased::boxed(|| {
                RustCrypto(ChaCha20Poly1305::new_from_slice(key).expect("32 bytes"))
            }),
        }
    }
}

type Aes192Gcm = AesGcm<Aes192, U12>;

fn ring_key(algorithm: &'static ring::aead::Algorithm, key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the key has the cipher's size"))
}

impl<T: Aead> Aead for Erased<T> {
    fn seal_in_place(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        (**self).seal_in_place(nonce, aad, data)
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic> {
        (**self).open_in_place(nonce, aad, data, tag)
    }
}

impl Aead for LessSafeKey {
    fn seal_in_place(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self
            .seal_in_place_separate_tag(nonce, Aad::from(aad), data)
            .expect("a packet is shorter than the cipher's limit");
        let mut bytes = [0; TAG];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), data, 0..)
            .map(|_| ())
            .map_err(|_| NotAuthentic)
    }
}

struct RustCrypto<C>(C);

impl<C> Aead for RustCrypto<C>
where
    C: AeadInOut<NonceSize = U12, TagSize = aes_gcm::aead::consts::U16> + Send + Sync,
{
    fn seal_in_place(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        self.0
            .encrypt_inout_detached(&(*nonce).into(), aad, InOutBuf::from(data))
            .expect("a packet is shorter than the cipher's limit")
            .into()
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic> {
        self.0
            .decrypt_inout_detached(&(*nonce).into(), aad, InOutBuf::from(data), &(*tag).into())
            .map_err(|_| NotAuthentic)
    }
}
