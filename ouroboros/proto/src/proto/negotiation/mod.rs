//! Negotiation in allocation headers (WIRE.md, "Allocation header", negotiation): algorithms,
//! profile, keys, and the peer's identity. Pure functions over headers; when they are sent is
//! `allocation`'s.

mod answer;
mod invitation;
mod offer;
mod trust;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use self::answer::{Standing, identify_client};
pub use self::{
    answer::{Client, RequestSummary, answer, largest_answer, screen},
    invitation::{InvitationSecret, Invited, Joining},
    offer::{Offer, Refused, Shape},
    trust::{Identity, IdentityError, PeerIdentity, Trust},
};
pub use super::packet::Profile;
use crate::{
    crypto::{
        Algorithms, Cipher, Hash, KeyExchange, KeyExchangeError, Suite,
        identity::{CertificateError, Fingerprint},
    },
    proto::{native::Capabilities, protection::FlowKeys},
    wire::{
        NameHash, QosSpec,
        extension::{Delivery, Extensions, Lane, ReliableParameters},
        oap::Allocation,
    },
};

/// The capabilities of this library in native flows, by default.
pub const DEFAULT_CAPABILITIES: Capabilities =
    Capabilities::HYBRID_FIRST.union(Capabilities::FRAGMENTS);

/// Whether an encrypted flow is to have the native profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfilePolicy {
    /// The format of 0.23, as if there were no other.
    Wire023,
    /// The native profile if the peer has it. Who can alter the allocation
    /// messages of a flow without certificates can take it away.
    #[default]
    PreferNative,
    /// The native profile or no flow: no plain one either.
    RequireNative,
}

/// The security that a client asks of an encrypted flow. Serialized without an identity, whose
/// key stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSecurity {
    /// The key exchange, and the least cipher and hash. A hybrid exchange that
    /// does not fit the request is done inside the flow, before data.
    pub suite: Suite,
    /// The digest that a request without an identity names: that of the hash of
    /// it in the reply.
    pub digest: Hash,
    /// Whether it is to have the native profile.
    pub profile: ProfilePolicy,
    /// The capabilities of this side in a native flow.
    pub capabilities: Capabilities,
    /// The flow's place in a tunnel of several.
    pub lane: Option<Lane>,
    /// The limits of this side for a reliable flow in the native profile; `None`: such flows
    /// have FRCT, as with a 0.23 peer.
    pub reliable: Option<ReliableParameters>,
    /// Packets of an ordered flow in the native profile keep their order by their
    /// numbers; `false`: such flows have FRCT, as with a 0.23 peer.
    #[serde(default)]
    pub ordered: bool,
    /// The client's identity; `None`: a stranger.
    #[serde(skip)]
    pub identity: Option<Identity>,
    /// The secret that proves to the server that this side is invited, if its identity is no
    /// client of the server's yet. In native requests with an identity only.
    pub invitation: Option<InvitationSecret>,
    /// Whom to believe to be the server.
    pub trust: Trust,
}

impl Default for ClientSecurity {
    /// The default suite and [`DEFAULT_CAPABILITIES`], nobody's identity, and
    /// trust in anyone.
    fn default() -> Self {
        Self {
            suite: Suite::default(),
            digest: Hash::Sha256,
            profile: ProfilePolicy::default(),
            capabilities: DEFAULT_CAPABILITIES,
            lane: None,
            reliable: Some(ReliableParameters::default()),
            ordered: true,
            identity: None,
            invitation: None,
            trust: Trust::Anyone,
        }
    }
}

impl From<Suite> for ClientSecurity {
    /// Taken literally: the key exchange is that of `suite` and no other.
    fn from(suite: Suite) -> Self {
        let bits = DEFAULT_CAPABILITIES.bits() & !Capabilities::HYBRID_FIRST.bits();
        let capabilities = Capabilities::from_bits(bits);
        Self { suite, capabilities, ..Self::default() }
    }
}

impl From<Algorithms> for ClientSecurity {
    /// The key exchange that is named and no other, or else the default; of the
    /// cipher and the hash at least those that are named.
    fn from(named: Algorithms) -> Self {
        let Suite { kex, kdf, cipher } = Suite::default();
        let suite = Suite {
            kex: named.kex.unwrap_or(kex),
            kdf: named.kdf.unwrap_or(kdf),
            cipher: named.cipher.unwrap_or(cipher),
        };
        let security = match named.kex {
            Some(_) => Self::from(suite),
            None => Self { suite, ..Self::default() },
        };
        Self { digest: named.digest.unwrap_or(security.digest), ..security }
    }
}

impl ClientSecurity {
    /// Returns `true` if a request offers the native profile.
    #[must_use]
    pub fn offers_native(&self) -> bool {
        self.profile != ProfilePolicy::Wire023
    }
}

/// The security that a server asks of flows to a name. By default it takes what the client
/// asks, plain flows too.
///
/// ```
/// use ouroboros::{Identity, ServerSecurity, Trust, crypto::{SystemEntropy, identity::IdentityKey}};
///
/// let name = "my_vpn".parse()?;
/// let identity = Identity::self_signed(IdentityKey::generate(&mut SystemEntropy), &name);
/// let friend = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
/// let none = ServerSecurity::default();
/// let encrypted = ServerSecurity::encrypted();
/// let authenticated = ServerSecurity::encrypted().identity(identity);
/// let both = authenticated.clone().clients(Trust::Keys(vec![friend]));
/// let native_only = both.clone().require_native();
/// # Ok::<(), ouroboros::wire::InvalidName>(())
/// ```
///
/// Serialized without an identity, whose key stays where it is, and invitations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSecurity {
    /// The least key exchange, cipher and hash; `None`: the client's choice.
    pub suite: Option<Suite>,
    /// Plain requests are refused.
    pub require_encryption: bool,
    /// Whether encrypted flows are to have the native profile.
    pub profile: ProfilePolicy,
    /// The capabilities of this side in a native flow; an exchange before data is always among
    /// them.
    pub capabilities: Capabilities,
    /// The limits of this side for a reliable flow in the native profile; `None`: such flows
    /// have FRCT, as with a 0.23 peer.
    pub reliable: Option<ReliableParameters>,
    /// Packets of an ordered flow in the native profile keep their order by their
    /// numbers; `false`: such flows have FRCT, as with a 0.23 peer.
    #[serde(default)]
    pub ordered: bool,
    /// The identity that replies to encrypted requests are signed with; its certificate has to
    /// be for the name.
    #[serde(skip)]
    pub identity: Option<Identity>,
    /// Whether 0.23 clients are shown the identity, too. They know a server by
    /// an authority only, and refuse one that vouches for itself.
    pub identify_to_old: bool,
    /// The clients that get a flow. If not anyone: encrypted flows only, and others hear
    /// nothing.
    pub clients: Trust,
    /// The open invitations. The first client that proves one can become one of
    /// [`Trust::Keys`]: its request is reported as [`Joining`], and gets a flow if the client's
    /// key is in [`clients`](Self::clients) when it is accepted.
    #[serde(skip)]
    pub invited: Vec<Invited>,
}

impl Default for ServerSecurity {
    fn default() -> Self {
        Self {
            suite: None,
            require_encryption: false,
            profile: ProfilePolicy::default(),
            capabilities: DEFAULT_CAPABILITIES,
            reliable: Some(ReliableParameters::default()),
            ordered: true,
            identity: None,
            identify_to_old: true,
            clients: Trust::Anyone,
            invited: Vec::new(),
        }
    }
}

impl ServerSecurity {
    /// Encrypted flows only.
    #[must_use]
    pub fn encrypted() -> Self {
        Self { require_encryption: true, ..Self::default() }
    }

    /// With this identity, for clients that want to know whose flow it is.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// With this identity, shown to clients with the native profile only.
    #[must_use]
    pub fn native_identity(self, identity: Identity) -> Self {
        Self { identify_to_old: false, ..self.identity(identity) }
    }

    /// For these clients only. All others hear nothing, not even that the name
    /// is served.
    #[must_use]
    pub fn clients(mut self, clients: Trust) -> Self {
        self.clients = clients;
        self
    }

    /// Native flows only.
    #[must_use]
    pub fn require_native(mut self) -> Self {
        self.profile = ProfilePolicy::RequireNative;
        self
    }
}

/// An allocation header does not lead to a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NegotiationError {
    /// The header is malformed, or its extensions are.
    #[error("malformed allocation header")]
    Malformed,
    /// An algorithm is unknown, unauthenticated or not built.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedAlgorithm),
    /// The peer offers or answers less than this side asks for.
    #[error("the peer has {offered}, which is weaker than {least}")]
    TooWeak {
        /// The peer's.
        offered: Suite,
        /// This side's.
        least: Suite,
    },
    /// The peer wants a plain flow, and this side an encrypted one.
    #[error("the peer wants a plain flow, and encryption is required")]
    NotEncrypted,
    /// The peer does not offer or accept the native profile, and this side
    /// requires it.
    #[error("the native profile is required, and the peer does not have it")]
    NotNative,
    /// The reply is not to our request, or the request was altered.
    #[error("the reply does not answer the request")]
    Mismatch,
    /// The key exchange failed.
    #[error(transparent)]
    KeyExchange(#[from] KeyExchangeError),
    /// The peer has to prove who it is, and did not try to.
    #[error("the peer did not authenticate")]
    NotAuthenticated,
    /// The header is not signed with the key of its certificate.
    #[error("the peer's signature is wrong")]
    BadSignature,
    /// The peer's certificate is not accepted.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The server has another key than those that are known for it.
    #[error("the server's key is {found}, which is not the one known for it")]
    WrongKey {
        /// Those that are known.
        expected: Vec<Fingerprint>,
        /// The fingerprint of the server's key.
        found: Fingerprint,
    },
    /// The client's key is not one of those that get a flow.
    #[error("the client's key, {0}, is not authorized")]
    NotAuthorized(Fingerprint),
}

/// An algorithm in a header that is not supported here, by its number (WIRE.md, "Allocation
/// header").
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnsupportedAlgorithm {
    /// A cipher: an unauthenticated one (904 to 906), or an unknown one.
    #[error("the cipher with the number {0} is not supported")]
    Cipher(u16),
    /// A hash for key derivation.
    #[error("key derivation with the hash with the number {0} is not supported")]
    Kdf(u16),
    /// A digest.
    #[error("the digest with the number {0} is not supported")]
    Digest(u16),
    /// A key exchange other than those of [`KeyExchange`].
    #[error("the key exchange of a key of {size} bytes ({form}) is not supported", form = if *raw { "raw" } else { "DER" })]
    KeyExchange {
        /// Length of the key.
        size: usize,
        /// Whether it is raw, not a SubjectPublicKeyInfo.
        raw: bool,
    },
    /// A KEM whose client encapsulates (`kem_mode=client`).
    #[error("encapsulation by the client (kem_mode=client) is not supported")]
    ClientEncapsulates,
}

/// The agreed terms of a reliable flow in the native profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReliableTerms {
    /// The limits of this end.
    pub local: ReliableParameters,
    /// The limits of the peer.
    pub remote: ReliableParameters,
}

/// The agreed terms of an encrypted flow.
#[derive(Debug)]
pub struct Agreed {
    /// The algorithms.
    pub suite: Suite,
    /// The keys, which tell the profile.
    pub keys: FlowKeys,
    /// The flow's place in a tunnel, as the client says; native flows only.
    pub lane: Option<Lane>,
    /// The reliable profile, if both have it and the flow is to be reliable.
    pub reliable: Option<ReliableTerms>,
    /// Packets keep their order by their numbers: both ends have that, and the flow is to
    /// be ordered.
    pub ordered: bool,
    /// The peer's identity; `None`: it has shown none.
    pub identity: Option<PeerIdentity>,
}

/// Returns the delivery to agree on for a flow with this quality of service at an end with
/// these limits; `None`: none, or FRCT.
fn delivery(
    qos: &QosSpec,
    reliable: Option<ReliableParameters>,
    ordered: bool,
) -> Option<Delivery> {
    if qos.is_reliable() {
        return reliable.map(Delivery::Reliable);
    }
    (qos.in_order && ordered).then_some(Delivery::Ordered)
}

/// The agreed terms: `None` for a plain flow.
pub type Agreement = Option<Agreed>;

/// The facts of the flow in the messages around the headers. Native keys are bound to them, so
/// that both sides mean the same flow or have none.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whom the request is for.
    pub name: NameHash,
    /// The quality of service asked for.
    pub qos: QosSpec,
}

/// The hash that binds a native flow's keys to all that was said before them
/// (PROTOCOL.md, "Keys").
fn transcript(terms: &Terms, request: &[u8], reply: &[u8]) -> [u8; 32] {
    let QosSpec { delay, bandwidth, availability, loss, .. } = terms.qos;
    let QosSpec { bit_error_rate, in_order, max_gap, timeout, .. } = terms.qos;
    let mut hash = Sha256::new();
    for part in [request, reply, terms.name.as_bytes()] {
        // No message is longer than a length can say: see `LARGEST_MESSAGE`.
        hash.update((part.len() as u16).to_be_bytes());
        hash.update(part);
    }
    hash.update(delay.to_be_bytes());
    hash.update(bandwidth.to_be_bytes());
    hash.update([availability]);
    for field in [loss, bit_error_rate] {
        hash.update(field.to_be_bytes());
    }
    hash.update([u8::from(in_order)]);
    for field in [max_gap, timeout] {
        hash.update(field.to_be_bytes());
    }
    hash.finalize().into()
}

/// The hash that a reply has of a request with this `md` (WIRE.md, "Allocation
/// header", request hash).
fn request_digest(md: u16) -> Result<Hash, NegotiationError> {
    match md {
        0 => Ok(Hash::Sha384),
        id => Ok(Hash::from_id(id).ok_or(UnsupportedAlgorithm::Digest(id))?),
    }
}

fn extensions<'a>(header: &Allocation<'a>) -> Result<Extensions<'a>, NegotiationError> {
    Extensions::parse(header.data).map_err(|_| NegotiationError::Malformed)
}

/// The key exchange of what data will be sealed with, if that of the headers is
/// `kex`.
fn strength(kex: KeyExchange, native: Option<Capabilities>) -> KeyExchange {
    match native {
        Some(flags) if flags.contains(Capabilities::HYBRID_FIRST) => KeyExchange::X25519MlKem768,
        _ => kex,
    }
}

/// The algorithms that a header names beside its key exchange; `None` if it is
/// plain.
fn algorithms(header: &Allocation<'_>) -> Result<Option<(Hash, Cipher)>, NegotiationError> {
    if header.cipher == 0 && header.kdf == 0 && header.key.is_empty() {
        return Ok(None);
    }
    if header.kem_role {
        return Err(UnsupportedAlgorithm::ClientEncapsulates.into());
    }
    let kdf = Hash::from_id(header.kdf).ok_or(UnsupportedAlgorithm::Kdf(header.kdf))?;
    let cipher =
        Cipher::from_id(header.cipher).ok_or(UnsupportedAlgorithm::Cipher(header.cipher))?;
    Ok(Some((kdf, cipher)))
}

/// The suite of a request; `None` if it is plain.
fn suite(request: &Allocation<'_>) -> Result<Option<Suite>, NegotiationError> {
    let Some((kdf, cipher)) = algorithms(request)? else { return Ok(None) };
    let kex = KeyExchange::of_public_key(request.key, request.raw_key).ok_or(
        UnsupportedAlgorithm::KeyExchange { size: request.key.len(), raw: request.raw_key },
    )?;
    Ok(Some(Suite { kex, kdf, cipher }))
}
