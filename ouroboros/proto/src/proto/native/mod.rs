//! The native profile (PROTOCOL.md): what two of ours speak inside an encrypted
//! flow. A key for each direction, a number for each packet, a replay window,
//! fresh keys while the flow runs.
//!
//! A [`Channel`] gives sealers and openers, any number for as many threads, and
//! then becomes the flow's [`Session`], which changes their keys. Not here:
//! sockets, clocks, how the first secret was agreed (`negotiation`).

mod control;
mod mtu;
mod open;
mod path;
mod rekey;
mod schedule;
mod seal;
mod session;
mod window;

use std::sync::Arc;

pub use open::{Opened, Opener};
pub use schedule::{NativeKeys, Role};
pub use seal::{Reserved, SealError, Sealer};
pub use session::{Event, Session, SessionConfig, Transmit};

use self::{open::Receiving, schedule::Epoch, seal::Sending};
use crate::{
    crypto::{AeadBackend, NONCE, TAG},
    wire::Eid,
};

/// Bytes in front of a packet's body: the header, and the content type, which
/// is sealed with the body.
pub const HEAD: usize = HEADER + 1;
/// Bytes behind a packet's body.
pub const TAIL: usize = TAG;

/// Kind and epoch, and the low half of the packet number.
const HEADER: usize = 5;
/// The upper half of a packet's first byte.
const KIND: u8 = 0x40;
/// The lower half of a packet's first byte: the low bits of the epoch.
const EPOCHS: u8 = 0x0f;

/// What is inside a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// The profile's own: see PROTOCOL.md, "Control".
    Control,
    /// One packet of the application.
    Packet,
    /// One IP packet whose transport checksum covers its pseudo-header only.
    PartialChecksum,
}

impl Content {
    const fn id(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Packet => 1,
            Self::PartialChecksum => 2,
        }
    }

    const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Control),
            1 => Some(Self::Packet),
            2 => Some(Self::PartialChecksum),
            _ => None,
        }
    }
}

/// What an end of a flow can do beyond the least: offered in a request; what
/// both can, in the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Nothing beyond the least.
    pub const NONE: Self = Self(0);
    /// Takes packets with partial checksums ([`Content::PartialChecksum`]).
    pub const PARTIAL_CHECKSUMS: Self = Self(0x01);
    /// Agrees a hybrid key inside the flow before data.
    pub const HYBRID_FIRST: Self = Self(0x04);
    const ALL: u8 = Self::PARTIAL_CHECKSUMS.0 | Self::HYBRID_FIRST.0;

    /// The flags on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What is known of these flags; the others are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn shared_with(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in this.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
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

/// What the two directions of a flow hold in common with its session.
pub struct Channel {
    keys: NativeKeys,
    backend: AeadBackend,
    sending: Arc<Sending>,
    receiving: Arc<Receiving>,
    epoch: Epoch,
}

impl Channel {
    /// The channel of the flow between the endpoints `local` and `remote`.
    pub fn new(
        keys: NativeKeys,
        (local, remote): (Eid, Eid),
        backend: AeadBackend,
        limits: KeyLimits,
    ) -> Self {
        let (epoch, send, receive) = Epoch::first(&keys, backend);
        // Nothing but the exchange before the exchange that was promised.
        let data = !keys.capabilities().has(Capabilities::HYBRID_FIRST);
        let sending = Arc::new(Sending::new(remote, send, data, limits));
        let receiving = Arc::new(Receiving::new(local, receive, data, limits));
        Self { keys, backend, sending, receiving, epoch }
    }

    /// What both ends do.
    pub fn capabilities(&self) -> Capabilities {
        self.keys.capabilities()
    }

    /// A sealer, for one thread.
    pub fn sealer(&self) -> Sealer {
        Sealer::new(self.sending.clone())
    }

    /// An opener, for one thread.
    pub fn opener(&self) -> Opener {
        Opener::new(self.receiving.clone())
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The nonce of packet `number`: never twice under one key, as numbers are not.
fn nonce(iv: &[u8; NONCE], number: u64) -> [u8; NONCE] {
    let mut nonce = *iv;
    for (byte, bits) in nonce[NONCE - 8..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= bits;
    }
    nonce
}

/// What is authenticated with a packet: for which endpoint it is, and its
/// header.
fn associated(receiver: Eid, header: &[u8; HEADER]) -> [u8; 4 + HEADER] {
    let mut associated = [0; 4 + HEADER];
    associated[..4].copy_from_slice(&receiver.0.to_be_bytes());
    associated[4..].copy_from_slice(header);
    associated
}

#[cfg(test)]
mod tests;
