//! Algorithm identifiers and their order of strength (WIRE.md, "Allocation
//! header", negotiation). Declared weakest first: `Ord` is the order.

use serde::{Deserialize, Serialize};

use crate::text::serialize_as_text;

/// An authenticated cipher for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-128-GCM, id 895.
    Aes128Gcm,
    /// AES-192-GCM, id 898.
    Aes192Gcm,
    /// AES-256-GCM, id 901.
    Aes256Gcm,
    /// ChaCha20-Poly1305, id 1018.
    ChaCha20Poly1305,
}

/// A hash for HKDF, signatures and request hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hash {
    /// BLAKE2s-256, id 1057.
    Blake2s256,
    /// SHA-256, id 672.
    Sha256,
    /// SHA3-256, id 1096.
    Sha3_256,
    /// SHA-384, id 673.
    Sha384,
    /// SHA3-384, id 1097.
    Sha3_384,
    /// BLAKE2b-512, id 1056.
    Blake2b512,
    /// SHA-512, id 674.
    Sha512,
    /// SHA3-512, id 1098.
    Sha3_512,
}

/// A key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeyExchange {
    /// ECDH on NIST P-256.
    P256,
    /// X25519 (RFC 7748).
    X25519,
    /// ECDH on NIST P-384.
    P384,
    /// ECDH on NIST P-521.
    P521,
    /// X25519 with ML-KEM-768, against an eavesdropper with a quantum computer
    /// in the future (draft-ietf-tls-ecdhe-mlkem).
    X25519MlKem768,
}

/// The algorithms that one side asks of, or offers to, an encrypted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// The algorithms that a configuration names. What it does not name is no
/// demand, and the best is still preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Algorithms {
    /// How the secret is agreed.
    pub kex: Option<KeyExchange>,
    /// How the key is derived.
    pub kdf: Option<Hash>,
    /// How packets are sealed.
    pub cipher: Option<Cipher>,
    /// The digest that a request names that is not signed.
    pub digest: Option<Hash>,
}

impl Algorithms {
    /// The least that a server takes, and the least that it answers with. An
    /// exchange is the client's to choose: if none is named, the default of
    /// release 0.23 is enough (WIRE.md, "Allocation header", negotiation). A
    /// cipher or hash below this is no reason to refuse: the server answers with
    /// this one.
    #[must_use]
    pub fn least(self) -> Suite {
        let Suite { kdf, cipher, .. } = Suite::default();
        Suite {
            kex: self.kex.unwrap_or(KeyExchange::P256),
            kdf: self.kdf.unwrap_or(kdf),
            cipher: self.cipher.unwrap_or(cipher),
        }
    }
}

impl From<Suite> for Algorithms {
    fn from(Suite { kex, kdf, cipher }: Suite) -> Self {
        Self { kex: Some(kex), kdf: Some(kdf), cipher: Some(cipher), digest: None }
    }
}

/// The text names no algorithm that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: not an algorithm this library has")]
pub struct UnknownAlgorithm(String);

impl Cipher {
    /// The wire id.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Aes128Gcm => 895,
            Self::Aes192Gcm => 898,
            Self::Aes256Gcm => 901,
            Self::ChaCha20Poly1305 => 1018,
        }
    }

    /// The cipher with this wire id; `None` for others, unauthenticated ones
    /// included.
    #[must_use]
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            895 => Some(Self::Aes128Gcm),
            898 => Some(Self::Aes192Gcm),
            901 => Some(Self::Aes256Gcm),
            1018 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Bytes of key that the cipher takes, from the front of a [`FlowKey`](super::FlowKey).
    #[must_use]
    pub const fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes192Gcm => 24,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// Expands `$body` with the type `$digest` that implements `$hash`.
macro_rules! with_digest {
    ($hash:expr, $digest:ident => $body:expr) => {{
        use crate::crypto::Hash;
        macro_rules! with {
            ($implementation:ty) => {{
                type $digest = $implementation;
                $body
            }};
        }
        match $hash {
            Hash::Blake2s256 => with!(blake2::Blake2s256),
            Hash::Sha256 => with!(sha2::Sha256),
            Hash::Sha3_256 => with!(sha3::Sha3_256),
            Hash::Sha384 => with!(sha2::Sha384),
            Hash::Sha3_384 => with!(sha3::Sha3_384),
            Hash::Blake2b512 => with!(blake2::Blake2b512),
            Hash::Sha512 => with!(sha2::Sha512),
            Hash::Sha3_512 => with!(sha3::Sha3_512),
        }
    }};
}
pub(super) use with_digest;

impl Hash {
    /// All of them, weakest first.
    pub const ALL: [Self; 8] = [
        Self::Blake2s256,
        Self::Sha256,
        Self::Sha3_256,
        Self::Sha384,
        Self::Sha3_384,
        Self::Blake2b512,
        Self::Sha512,
        Self::Sha3_512,
    ];

    /// The wire id.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Blake2s256 => 1057,
            Self::Sha256 => 672,
            Self::Sha3_256 => 1096,
            Self::Sha384 => 673,
            Self::Sha3_384 => 1097,
            Self::Blake2b512 => 1056,
            Self::Sha512 => 674,
            Self::Sha3_512 => 1098,
        }
    }

    /// The hash with this wire id.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }

    /// Length of a digest in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Blake2s256 | Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Blake2b512 | Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// The digest of `data`.
    #[must_use]
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        with_digest!(self, D => D::digest(data).to_vec())
    }
}

/// Names to print, and to accept in any case; the first is the one printed.
trait Named: Copy + 'static {
    const NAMES: &'static [(Self, &'static [&'static str])];
}

impl Named for Cipher {
    const NAMES: &'static [(Self, &'static [&'static str])] = &[
        (Self::Aes128Gcm, &["aes-128-gcm"]),
        (Self::Aes192Gcm, &["aes-192-gcm"]),
        (Self::Aes256Gcm, &["aes-256-gcm"]),
        (Self::ChaCha20Poly1305, &["chacha20-poly1305"]),
    ];
}

impl Named for Hash {
    const NAMES: &'static [(Self, &'static [&'static str])] = &[
        (Self::Blake2s256, &["blake2s256"]),
        (Self::Sha256, &["sha256"]),
        (Self::Sha3_256, &["sha3-256"]),
        (Self::Sha384, &["sha384"]),
        (Self::Sha3_384, &["sha3-384"]),
        (Self::Blake2b512, &["blake2b512"]),
        (Self::Sha512, &["sha512"]),
        (Self::Sha3_512, &["sha3-512"]),
    ];
}

impl Named for KeyExchange {
    const NAMES: &'static [(Self, &'static [&'static str])] = &[
        (Self::P256, &["prime256v1", "p256"]),
        (Self::X25519, &["X25519"]),
        (Self::P384, &["secp384r1", "p384"]),
        (Self::P521, &["secp521r1", "p521"]),
        (Self::X25519MlKem768, &["X25519MLKEM768"]),
    ];
}

fn parse<T: Named>(text: &str) -> Result<T, UnknownAlgorithm> {
    let known = T::NAMES.iter();
    known
        .clone()
        .find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(text)))
        .map(|(algorithm, _)| *algorithm)
        .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
}

macro_rules! by_name {
    ($($algorithm:ty),*) => {$(
        impl std::str::FromStr for $algorithm {
            type Err = UnknownAlgorithm;

            fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
                parse(text)
            }
        }

        impl std::fmt::Display for $algorithm {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let known = Self::NAMES.iter().find(|(algorithm, _)| algorithm == self);
                f.write_str(known.map_or("unknown", |(_, names)| names[0]))
            }
        }
    )*};
}

by_name!(Cipher, Hash, KeyExchange);
serialize_as_text!(Cipher, Hash, KeyExchange);

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {}, {}", self.kex, self.kdf, self.cipher)
    }
}

impl std::fmt::Display for Algorithms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suite = [
            self.kex.map(|kex| kex.to_string()),
            self.kdf.map(|kdf| kdf.to_string()),
            self.cipher.map(|cipher| cipher.to_string()),
        ];
        let named: Vec<_> = suite.into_iter().flatten().collect();
        if named.is_empty() {
            return f.write_str("encrypted");
        }
        f.write_str(&named.join(", "))
    }
}
