//! Names and their directory hashes (WIRE.md, "Names").

use std::{fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};
use sha3::Digest;

use crate::text::serialize_as_text;

/// A name that programs register in a layer and allocate flows to.
///
/// 1 to 255 bytes of UTF-8 without control characters.
///
/// ```
/// use ouroboros::wire::Name;
/// let name: Name = "my_vpn".parse()?;
/// assert_eq!(name.as_str(), "my_vpn");
/// assert!("".parse::<Name>().is_err());
/// # Ok::<(), ouroboros::wire::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// The text is no name: it is empty, longer than 255 bytes, or has control
/// characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("a name has 1 to 255 bytes and no control characters")]
pub struct InvalidName;

impl Name {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a text is asked for, such as `irm.accept(&name)`.
impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
            return Err(InvalidName);
        }
        Ok(Self(text.to_owned()))
    }
}

serialize_as_text!(Name);

impl TryFrom<&str> for Name {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a directory finds names: the hash of the name's UTF-8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectoryHash {
    /// 16 bytes: the only one on UDP, where its hex is also the host name.
    Md5,
    /// 28 bytes.
    Sha3_224,
    /// 32 bytes: the default on eth-dix.
    Sha3_256,
    /// 48 bytes.
    Sha3_384,
    /// 64 bytes.
    Sha3_512,
}

impl DirectoryHash {
    /// Length of a hash in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha3_224 => 28,
            Self::Sha3_256 => 32,
            Self::Sha3_384 => 48,
            Self::Sha3_512 => 64,
        }
    }

    /// The hash under which a directory knows `name`.
    #[must_use]
    pub fn of(self, name: &Name) -> NameHash {
        let text = name.as_str().as_bytes();
        match self {
            Self::Md5 => NameHash::new(&md5::compute(text).0),
            Self::Sha3_224 => NameHash::new(&sha3::Sha3_224::digest(text)),
            Self::Sha3_256 => NameHash::new(&sha3::Sha3_256::digest(text)),
            Self::Sha3_384 => NameHash::new(&sha3::Sha3_384::digest(text)),
            Self::Sha3_512 => NameHash::new(&sha3::Sha3_512::digest(text)),
        }
        .expect("every directory hash has 1 to 64 bytes")
    }
}

/// A name as the wire carries it: 1 to 64 bytes of hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NameHash {
    bytes: [u8; 64],
    length: u8,
}

impl NameHash {
    /// A hash from its bytes; `None` unless there are 1 to 64 of them.
    #[must_use]
    pub fn new(hash: &[u8]) -> Option<Self> {
        let mut bytes = [0; 64];
        bytes.get_mut(..hash.len()).filter(|b| !b.is_empty())?.copy_from_slice(hash);
        Some(Self { bytes, length: hash.len() as u8 })
    }

    /// The hash's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Lower-case hexadecimal: on UDP this is the name to look up in the hosts
/// file or DNS.
impl fmt::Display for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameHash({self})")
    }
}
