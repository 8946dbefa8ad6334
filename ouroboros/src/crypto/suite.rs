//! Algorithm identifiers and their order of strength (WIRE.md, "Allocation
//! header", negotiation). Declared weakest first: `Ord` is the order.

/// An authenticated cipher for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-128-GCM, id 895.
    Aes128Gcm,
    /// AES-256-GCM, id 901.
    Aes256Gcm,
    /// ChaCha20-Poly1305, id 1018.
    ChaCha20Poly1305,
}

/// A hash for HKDF, signatures and request hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hash {
    /// SHA-256, id 672.
    Sha256,
    /// SHA-384, id 673.
    Sha384,
    /// SHA-512, id 674.
    Sha512,
}

/// A key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeyExchange {
    /// ECDH on NIST P-256.
    P256,
    /// X25519 (RFC 7748).
    X25519,
}

/// What one side asks of, or offers to, an encrypted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// How the secret is agreed.
    pub kex: KeyExchange,
    /// How the key is derived.
    pub kdf: Hash,
    /// How packets are sealed.
    pub cipher: Cipher,
}

impl Default for Suite {
    /// X25519, HKDF-SHA256, AES-256-GCM.
    fn default() -> Self {
        Self { kex: KeyExchange::X25519, kdf: Hash::Sha256, cipher: Cipher::Aes256Gcm }
    }
}
