//! Fingerprints: what people compare, and what files of known and authorized
//! keys hold.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::text::serialize_as_text;

const SIZE: usize = 20;
const PREFIX: &str = "o7s:";
/// RFC 4648, section 6, in lower case: without the digits 0, 1, 8 and 9, which
/// look like letters.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Base32 characters of a fingerprint, and how many stand together.
const CHARACTERS: usize = SIZE * 8 / 5;
const GROUP: usize = 4;

/// The fingerprint of a public key: the first 160 bits of the SHA-256 of its
/// SubjectPublicKeyInfo DER. To find another key with the same one takes about
/// 2^160 attempts.
///
/// Its text is `o7s:` and 32 characters of base32 in groups of four; it is read
/// in any case, with and without the dashes. Comparison takes the same time
/// whatever is compared.
///
/// ```
/// use ouroboros::crypto::{SystemEntropy, identity::{Fingerprint, IdentityKey}};
/// let fingerprint = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
/// let text = fingerprint.to_string();
/// assert_eq!(text.len(), 43);
/// assert_eq!(text.parse::<Fingerprint>()?, fingerprint);
/// # Ok::<(), ouroboros::crypto::identity::InvalidFingerprint>(())
/// ```
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; SIZE]);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is o7s: and 32 letters and digits, in groups of four")]
pub struct InvalidFingerprint;

impl Fingerprint {
    pub(super) fn of_spki(spki: &[u8]) -> Self {
        let mut bytes = [0; SIZE];
        bytes.copy_from_slice(&Sha256::digest(spki)[..SIZE]);
        Self(bytes)
    }

    /// The fingerprint with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SIZE]) -> Self {
        Self(bytes)
    }

    /// The fingerprint's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIZE] {
        &self.0
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from(PREFIX);
        for at in 0..CHARACTERS {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            // Eight characters are five bytes.
            let mut word = [0; 8];
            word[3..].copy_from_slice(&self.0[at / 8 * 5..][..5]);
            let bits = u64::from_be_bytes(word) >> (35 - at % 8 * 5);
            text.push(char::from(ALPHABET[(bits % 32) as usize]));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

serialize_as_text!(Fingerprint);

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let text = text.to_ascii_lowercase();
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidFingerprint)?;
        let digits: Vec<u8> = digits
            .bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| ALPHABET.iter().position(|known| *known == byte).map(|at| at as u8))
            .collect::<Option<_>>()
            .ok_or(InvalidFingerprint)?;
        if digits.len() != CHARACTERS {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; SIZE];
        for (five, eight) in bytes.chunks_mut(5).zip(digits.chunks(8)) {
            let word = eight.iter().fold(0, |word: u64, digit| word << 5 | u64::from(*digit));
            five.copy_from_slice(&word.to_be_bytes()[3..]);
        }
        Ok(Self(bytes))
    }
}
