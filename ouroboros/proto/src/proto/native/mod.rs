//! The native profile (PROTOCOL.md): what two of ours speak inside an encrypted
//! flow. A key for each direction, a number for each packet, a replay window,
//! fresh keys while the flow runs.
//!
//! A [`Channel`] gives sealers and openers, any number for as many threads, and
//! then becomes the flow's [`Session`], which changes their keys. Not here:
//! sockets, clocks, how the first secret was agreed (`negotiation`).

mod control;
mod fragment;
mod mtu;
mod open;
mod order;
mod path;
mod rekey;
mod schedule;
mod seal;
mod session;
mod window;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::packet::{Content, KeyLimits, Opened};
pub use fragment::{
    FRAGMENT_HEAD, Fragment, FragmentError, LARGEST_FRAGMENTED, Reassembled, Reassembly, fragments,
};
pub use open::Opener;
pub use order::PacketOrder;
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

/// The capabilities of an end of a flow: offered in a request; those of both, in the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub struct Capabilities(u8);

impl From<u8> for Capabilities {
    fn from(bits: u8) -> Self {
        Self::from_bits(bits)
    }
}

impl From<Capabilities> for u8 {
    fn from(capabilities: Capabilities) -> Self {
        capabilities.bits()
    }
}

impl Capabilities {
    /// Nothing beyond the least.
    pub const NONE: Self = Self(0);
    /// Takes packets with partial checksums ([`Content::PartialChecksum`]).
    pub const PARTIAL_CHECKSUMS: Self = Self(0x01);
    /// Agrees a hybrid key inside the flow before data.
    pub const HYBRID_FIRST: Self = Self(0x04);
    /// Takes packets in fragments ([`Content::Fragment`]).
    pub const FRAGMENTS: Self = Self(0x08);
    const ALL: u8 = Self::PARTIAL_CHECKSUMS.0 | Self::HYBRID_FIRST.0 | Self::FRAGMENTS.0;

    /// The flags on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the known ones of these flags; the others are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL)
    }

    /// The capabilities that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The capabilities that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns `true` if all of `other` are in this.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The state that the two directions of a flow share with its session.
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
        let data = !keys.capabilities().contains(Capabilities::HYBRID_FIRST);
        let sending = Arc::new(Sending::new(remote, send, data, limits, keys.first.into()));
        let receiving = Arc::new(Receiving::new(local, receive, data, limits));
        Self { keys, backend, sending, receiving, epoch }
    }

    /// Returns the capabilities of both ends.
    pub fn capabilities(&self) -> Capabilities {
        self.keys.capabilities()
    }

    /// Lets go of the ciphers: they are made again of their keys for the next packet.
    fn rest(&self) {
        self.sending.rest();
        self.receiving.rest();
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

/// The client's first packet, before the flow has a session: a ping, by which the
/// server sees that its reply has come. It is the same each time, so that it can be
/// repeated, and what is sealed with `keys` later begins behind it.
pub(in crate::proto) fn greeting(keys: &mut NativeKeys, ends: (Eid, Eid)) -> Option<Vec<u8>> {
    let body = control::Message::Ping(0).encode();
    let mut frame = vec![0; HEAD + body.len() + TAIL];
    frame[HEAD..HEAD + body.len()].copy_from_slice(&body);
    let limits = KeyLimits::default();
    let channel = Channel::new(keys.to_try(), ends, AeadBackend::default(), limits);
    channel.sealer().reserve(1, false).ok()?.seal(&mut frame, Content::Control);
    keys.first = 1;
    Some(frame)
}

/// The nonce of packet `number`: never twice under one key, as numbers are not.
fn nonce(iv: &[u8; NONCE], number: u64) -> [u8; NONCE] {
    let mut nonce = *iv;
    for (byte, bits) in nonce[NONCE - 8..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= bits;
    }
    nonce
}

/// Returns the associated data of a packet: the receiving endpoint, and the packet's header.
fn associated(receiver: Eid, header: &[u8; HEADER]) -> [u8; 4 + HEADER] {
    let mut associated = [0; 4 + HEADER];
    associated[..4].copy_from_slice(&receiver.0.to_be_bytes());
    associated[4..].copy_from_slice(header);
    associated
}

#[cfg(all(test, loom))]
mod model;
#[cfg(test)]
mod tests;
