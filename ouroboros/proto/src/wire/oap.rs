//! The allocation header inside flow requests and replies (WIRE.md,
//! "Allocation header"). Shapes only: what the ids mean and whether the header
//! can be trusted is `proto::negotiation`'s.

use super::management::Malformed;

const FIXED: usize = 36;
const RAW_KEY: u16 = 1 << 15;
const KEM_ROLE: u16 = 1 << 14;

/// An allocation header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation<'a> {
    /// Chosen by the client, repeated by the server.
    pub id: [u8; 16],
    /// UTC, nanoseconds since 1970.
    pub timestamp: u64,
    /// Cipher id, 0 = none.
    pub cipher: u16,
    /// Key derivation hash id, 0 = none.
    pub kdf: u16,
    /// Digest id, 0 = none.
    pub md: u16,
    /// The key exchange data is a raw key, not a SubjectPublicKeyInfo.
    pub raw_key: bool,
    /// The KEM role bit.
    pub kem_role: bool,
    /// Certificate, DER; empty if there is none.
    pub certificate: &'a [u8],
    /// Key exchange data; empty for a plain flow.
    pub key: &'a [u8],
    /// Extensions: a 0.23 peer ignores them.
    pub data: &'a [u8],
    /// In replies: the hash of the request's header.
    pub request_hash: &'a [u8],
    /// Over all before it; present exactly when a certificate is.
    pub signature: &'a [u8],
}

impl<'a> Allocation<'a> {
    /// A header without anything optional: that of a plain request.
    #[must_use]
    pub const fn plain(id: [u8; 16], timestamp: u64) -> Self {
        Self {
            id,
            timestamp,
            cipher: 0,
            kdf: 0,
            md: 0,
            raw_key: false,
            kem_role: false,
            certificate: &[],
            key: &[],
            data: &[],
            request_hash: &[],
            signature: &[],
        }
    }

    /// A header from its bytes, of which `request_hash` (0 in requests) are the
    /// request hash.
    ///
    /// # Errors
    ///
    /// Lengths beyond the bytes, bytes beyond the lengths.
    pub fn parse(bytes: &'a [u8], request_hash: usize) -> Result<Self, Malformed> {
        let (fixed, tail) = bytes.split_first_chunk::<FIXED>().ok_or(Malformed)?;
        let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let key_length = short(32);
        let split = |tail: &'a [u8], size: usize| tail.split_at_checked(size).ok_or(Malformed);
        let (certificate, tail) = split(tail, usize::from(short(30)))?;
        let (key, tail) = split(tail, usize::from(key_length & !(RAW_KEY | KEM_ROLE)))?;
        let (data, tail) = split(tail, usize::from(short(34)))?;
        let (request_hash, signature) = split(tail, request_hash)?;
        if certificate.is_empty() != signature.is_empty() {
            return Err(Malformed);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&fixed[..16]);
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&fixed[16..24]);
        Ok(Self {
            id,
            timestamp: u64::from_be_bytes(timestamp),
            cipher: short(24),
            kdf: short(26),
            md: short(28),
            raw_key: key_length & RAW_KEY != 0,
            kem_role: key_length & KEM_ROLE != 0,
            certificate,
            key,
            data,
            request_hash,
            signature,
        })
    }

    /// The header's bytes; `None` if a part is longer than its length field
    /// can say.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = |part: &[u8]| u16::try_from(part.len()).ok();
        let key = length(self.key).filter(|length| *length < KEM_ROLE)?
            | if self.raw_key { RAW_KEY } else { 0 }
            | if self.kem_role { KEM_ROLE } else { 0 };
        let mut bytes = Vec::with_capacity(FIXED + self.key.len() + self.request_hash.len());
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.timestamp.to_be_bytes());
        for field in [self.cipher, self.kdf, self.md, length(self.certificate)?, key] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.extend_from_slice(&length(self.data)?.to_be_bytes());
        for part in [self.certificate, self.key, self.data, self.request_hash, self.signature] {
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }
}
