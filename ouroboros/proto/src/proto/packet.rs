//! Packets of a flow, whichever format they have: what is inside, what comes of
//! opening one, how much a key may do. Values; the formats are `rotation` and
//! `native`, and `protection` chooses between them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Which format the packets of an encrypted flow have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The format of 0.23: one key for both directions, no protection from replay.
    Wire023,
    /// The native profile (PROTOCOL.md).
    Native,
}

/// The content of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// The profile's own: see PROTOCOL.md, "Control".
    Control,
    /// One packet of the application.
    Packet,
    /// One IP packet whose transport checksum covers its pseudo-header only.
    PartialChecksum,
    /// A piece of a reliable flow: see PROTOCOL.md, "Reliable flows".
    Data,
    /// Frames of a reliable flow.
    Frames,
    /// A part of a packet: see PROTOCOL.md, "Fragments".
    Fragment,
}

impl Content {
    pub(super) const fn id(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Packet => 1,
            Self::PartialChecksum => 2,
            Self::Data => 4,
            Self::Frames => 5,
            Self::Fragment => 6,
        }
    }

    pub(super) const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Control),
            1 => Some(Self::Packet),
            2 => Some(Self::PartialChecksum),
            4 => Some(Self::Data),
            5 => Some(Self::Frames),
            6 => Some(Self::Fragment),
            _ => None,
        }
    }
}

/// A packet that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which frame of a batch it is; 0 outside of batches.
    pub index: usize,
    /// The kind of body.
    pub content: Content,
    /// Where the body is in the frame.
    pub body: Range<usize>,
    /// The key epoch it was sealed in; 0 in other formats.
    pub epoch: u64,
    /// Whether none with a higher number was opened before; never in other
    /// formats.
    pub leads: bool,
    /// The packet number; 0 in other formats.
    pub number: u64,
}

impl Opened {
    /// A packet of a format without numbers.
    pub(super) fn packet(index: usize, body: Range<usize>) -> Self {
        Self::unnumbered(index, Content::Packet, body)
    }

    /// A packet of which no more than its content is known any more.
    pub fn unnumbered(index: usize, content: Content, body: Range<usize>) -> Self {
        Self { index, content, body, epoch: 0, leads: false, number: 0 }
    }
}

/// A frame is dropped: it is not a packet of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Too short to be sealed.
    #[error("frame too short")]
    TooShort,
    /// The CRC does not fit.
    #[error("checksum mismatch")]
    Checksum,
    /// It authenticates under no key of the flow.
    #[error("frame not authentic")]
    NotAuthentic,
    /// It was opened before, or is too old to tell.
    #[error("packet replayed")]
    Replayed,
    /// It is authentic, and of a kind that is unknown or not awaited.
    #[error("content not understood")]
    UnknownContent,
}

/// How much one key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Packets sealed after which the next key is due.
    pub due: u64,
    /// Packets sealed after which no more data is.
    pub data: u64,
    /// Packets sealed after which nothing more is: what is between is for the
    /// exchange of the next key.
    pub all: u64,
    /// Frames that did not open after which none is tried any more.
    pub failures: u64,
}

impl Default for KeyLimits {
    /// RFC 9001, section 6.6: 2^23 packets under a key of AES-GCM, 2^36 forgeries
    /// (of ChaCha20-Poly1305, the lesser of the two).
    fn default() -> Self {
        Self { due: 1 << 22, data: (1 << 23) - (1 << 16), all: 1 << 23, failures: 1 << 36 }
    }
}
