//! Keys of the native profile (PROTOCOL.md, "Keys"): from what was agreed and
//! the whole of both allocation headers, and from epoch to epoch.

use zeroize::Zeroizing;

use super::Capabilities;
use crate::crypto::{Aead, AeadBackend, Cipher, FlowKey, KeptX25519, NONCE, Secret, Suite};

const CLIENT_KEY: &[u8] = b"o7s native client key";
const CLIENT_IV: &[u8] = b"o7s native client iv";
const SERVER_KEY: &[u8] = b"o7s native server key";
const SERVER_IV: &[u8] = b"o7s native server iv";
const NEXT: &[u8] = b"o7s native next epoch";

/// Which end of the flow this is: the client sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The requester.
    Client,
    /// The responder.
    Server,
}

/// The keys that a native flow begins with: the agreed key, and what it is bound to. Not to be
/// copied: two channels of one flow would use the same packet numbers.
pub struct NativeKeys {
    pub(super) suite: Suite,
    role: Role,
    capabilities: Capabilities,
    agreed: FlowKey,
    transcript: [u8; 32],
    /// Packet numbers below this one are used up.
    pub(super) first: u8,
    /// The agreement of the headers, for the exchange that comes before data.
    kept: Option<Box<KeptX25519>>,
}

impl NativeKeys {
    /// The keys of `role`'s end, whose exchanges are that of `suite`. `agreed` comes from the key exchange,
    /// `transcript` is the hash of both allocation headers.
    pub fn new(
        suite: Suite,
        role: Role,
        capabilities: Capabilities,
        agreed: FlowKey,
        transcript: [u8; 32],
    ) -> Self {
        Self { suite, role, capabilities, agreed, transcript, first: 0, kept: None }
    }

    /// The same keys with the agreement of the headers, for the exchange that comes before
    /// data, if one does.
    pub(in crate::proto) fn keeping(mut self, kept: Option<KeptX25519>) -> Self {
        let exchanges_first = self.capabilities.contains(Capabilities::HYBRID_FIRST);
        self.kept = kept.filter(|_| exchanges_first).map(Box::new);
        self
    }

    pub(super) fn take_kept(&mut self) -> Option<Box<KeptX25519>> {
        self.kept.take()
    }

    /// The agreed algorithms. The key exchange is that of what data is sealed
    /// with: the hybrid, if it comes before data.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whose keys these are.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the capabilities of both ends.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The same keys again, to try a frame on. Nothing may be sealed with them.
    pub(in crate::proto) fn to_try(&self) -> Self {
        let Self { suite, role, capabilities, ref agreed, transcript, first, .. } = *self;
        let (agreed, kept) = (agreed.clone(), None);
        Self { suite, role, capabilities, agreed, transcript, first, kept }
    }

    /// Returns `true` if `other` belongs to the other end of the same flow.
    pub fn is_counterpart(&self, other: &Self) -> bool {
        self.role != other.role
            && self.suite == other.suite
            && self.capabilities == other.capabilities
            && self.agreed == other.agreed
            && self.transcript == other.transcript
    }

    const SIZE: usize = 2 + 32 + 32 + 1;

    /// Role, capabilities, agreed key, transcript, first number: all but the suite, and what was
    /// kept of the agreement.
    pub(crate) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::SIZE));
        bytes.push(u8::from(self.role == Role::Server));
        bytes.push(self.capabilities.bits());
        bytes.extend_from_slice(self.agreed.as_bytes());
        bytes.extend_from_slice(&self.transcript);
        bytes.push(self.first);
        bytes
    }

    pub(crate) fn from_bytes(suite: Suite, bytes: &[u8]) -> Option<Self> {
        let (&[role, flags], rest) = bytes.split_first_chunk()?;
        let (agreed, rest) = rest.split_first_chunk::<32>()?;
        let (transcript, rest) = rest.split_first_chunk::<32>()?;
        let &[first @ (0 | 1)] = rest else { return None };
        let role = match role {
            0 => Role::Client,
            1 => Role::Server,
            _ => return None,
        };
        let capabilities = Capabilities::from_bits(flags);
        let (agreed, transcript) = (FlowKey::new(*agreed), *transcript);
        Some(Self { suite, role, capabilities, agreed, transcript, first, kept: None })
    }
}

impl std::fmt::Debug for NativeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeKeys")
            .field("suite", &self.suite)
            .field("role", &self.role)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// One direction's key in one epoch.
struct Direction {
    epoch: u64,
    key: Zeroizing<[u8; 32]>,
    iv: Zeroizing<[u8; NONCE]>,
    with: (Cipher, AeadBackend),
}

impl Direction {
    fn new(secret: &Secret, epoch: u64, labels: [&[u8]; 2], with: (Cipher, AeadBackend)) -> Self {
        Self { epoch, key: secret.expand(labels[0]), iv: secret.expand(labels[1]), with }
    }
}

/// The cipher of a direction in one epoch, which takes ten times its key's memory.
pub(super) struct DirectionCipher {
    epoch: u64,
    aead: Box<dyn Aead>,
    iv: Zeroizing<[u8; NONCE]>,
}

impl DirectionCipher {
    fn new(key: &Direction) -> Self {
        let (cipher, backend) = key.with;
        let aead = backend.with_key(cipher, &key.key);
        Self { epoch: key.epoch, aead, iv: key.iv.clone() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn aead(&self) -> &dyn Aead {
        &*self.aead
    }

    pub(super) fn iv(&self) -> &[u8; NONCE] {
        &self.iv
    }
}

macro_rules! direction {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub(super) struct $name(Box<Direction>);

        impl $name {
            /// Its cipher: made for the first packet, and again after a rest.
            pub(super) fn cipher(&self) -> DirectionCipher {
                DirectionCipher::new(&self.0)
            }
        }
    };
}

direction!(
    /// The key that this end seals with in one epoch.
    SendKey
);
direction!(
    /// The key that this end opens with in one epoch.
    ReceiveKey
);

impl ReceiveKey {
    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch
    }
}

/// An epoch, as far as the next one needs it.
pub(super) struct Epoch {
    pub(super) number: u64,
    next: Zeroizing<[u8; 32]>,
}

impl Epoch {
    /// Epoch 0.
    pub(super) fn first(keys: &NativeKeys, backend: AeadBackend) -> (Self, SendKey, ReceiveKey) {
        let secret = Secret::extract(keys.suite.kdf, &keys.transcript, keys.agreed.as_bytes());
        Self::of(&secret, 0, keys, backend)
    }

    /// The epoch after this one, from a freshly agreed key and the hash of the
    /// messages that agreed it.
    pub(super) fn next(
        &self,
        keys: &NativeKeys,
        fresh: &FlowKey,
        messages: &[u8; 32],
        backend: AeadBackend,
    ) -> (Self, SendKey, ReceiveKey) {
        let mut input = Zeroizing::new([0; 64]);
        input[..32].copy_from_slice(fresh.as_bytes());
        input[32..].copy_from_slice(messages);
        let secret = Secret::extract(keys.suite.kdf, self.next.as_ref(), input.as_ref());
        Self::of(&secret, self.number + 1, keys, backend)
    }

    fn of(
        secret: &Secret,
        number: u64,
        keys: &NativeKeys,
        backend: AeadBackend,
    ) -> (Self, SendKey, ReceiveKey) {
        let with = (keys.suite.cipher, backend);
        let client = Box::new(Direction::new(secret, number, [CLIENT_KEY, CLIENT_IV], with));
        let server = Box::new(Direction::new(secret, number, [SERVER_KEY, SERVER_IV], with));
        let epoch = Self { number, next: secret.expand(NEXT) };
        match keys.role {
            Role::Client => (epoch, SendKey(client), ReceiveKey(server)),
            Role::Server => (epoch, SendKey(server), ReceiveKey(client)),
        }
    }
}
