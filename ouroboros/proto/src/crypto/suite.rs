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
    /// X25519 with ML-KEM-768, against an eavesdropper with a quantum computer
    /// in the future (draft-ietf-tls-ecdhe-mlkem).
    X25519MlKem768,
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

/// The text names no algorithm that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: not an algorithm this library has")]
pub struct UnknownAlgorithm(String);

impl Cipher {
    /// The wire id.
    pub const fn id(self) -> u16 {
        match self {
            Self::Aes128Gcm => 895,
            Self::Aes256Gcm => 901,
            Self::ChaCha20Poly1305 => 1018,
        }
    }

    /// The cipher with this wire id; `None` for others, unauthenticated ones
    /// included.
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            895 => Some(Self::Aes128Gcm),
            901 => Some(Self::Aes256Gcm),
            1018 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Bytes of key that the cipher takes, from the front of a [`FlowKey`](super::FlowKey).
    pub const fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

impl Hash {
    /// The wire id.
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha256 => 672,
            Self::Sha384 => 673,
            Self::Sha512 => 674,
        }
    }

    /// The hash with this wire id.
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            672 => Some(Self::Sha256),
            673 => Some(Self::Sha384),
            674 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Length of a digest in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        match self {
            Self::Sha256 => sha2::Sha256::digest(data).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(data).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(data).to_vec(),
        }
    }
}

/// Names to print, and to accept in any case; the first is the one printed.
trait Named: Copy + 'static {
    const NAMES: &'static [(Self, &'static [&'static str])];
}

impl Named for Cipher {
    const NAMES: &'static [(Self, &'static [&'static str])] = &[
        (Self::Aes128Gcm, &["aes-128-gcm"]),
        (Self::Aes256Gcm, &["aes-256-gcm"]),
        (Self::ChaCha20Poly1305, &["chacha20-poly1305"]),
    ];
}

impl Named for Hash {
    const NAMES: &'static [(Self, &'static [&'static str])] =
        &[(Self::Sha256, &["sha256"]), (Self::Sha384, &["sha384"]), (Self::Sha512, &["sha512"])];
}

impl Named for KeyExchange {
    const NAMES: &'static [(Self, &'static [&'static str])] = &[
        (Self::P256, &["prime256v1", "p256"]),
        (Self::X25519, &["X25519"]),
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

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {}, {}", self.kex, self.kdf, self.cipher)
    }
}
