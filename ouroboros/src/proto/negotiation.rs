//! What two sides agree on in allocation headers (WIRE.md, "Allocation
//! header", negotiation). Pure functions over headers; when they are sent is
//! `endpoint`'s.

use sha2::{Digest, Sha256};

pub use super::protection::Profile;
use crate::{
    crypto::{self, Cipher, Entropy, EphemeralSecret, Hash, KeyExchange, KeyExchangeError, Suite},
    proto::{
        native::{Capabilities, NativeKeys, Role},
        protection::FlowKeys,
    },
    wire::{
        NameHash, QosSpec,
        extension::{Extensions, Lane},
        oap::Allocation,
    },
};

/// Whether an encrypted flow is to have the native profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// What a client asks of an encrypted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSecurity {
    /// The key exchange, and the least cipher and hash.
    pub suite: Suite,
    /// Whether it is to have the native profile.
    pub profile: ProfilePolicy,
    /// What this side can do in a native flow.
    pub capabilities: Capabilities,
    /// The flow's place in a tunnel of several.
    pub lane: Option<Lane>,
}

impl From<Suite> for ClientSecurity {
    fn from(suite: Suite) -> Self {
        let profile = ProfilePolicy::default();
        Self { suite, profile, capabilities: Capabilities::NONE, lane: None }
    }
}

/// What a server asks of flows to a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerSecurity {
    /// The least key exchange, cipher and hash; `None`: the client's choice.
    pub suite: Option<Suite>,
    /// Plain requests are refused.
    pub require_encryption: bool,
    /// Whether encrypted flows are to have the native profile.
    pub profile: ProfilePolicy,
    /// What this side can do in a native flow.
    pub capabilities: Capabilities,
}

/// An allocation header does not lead to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The header is malformed, or its extensions are.
    #[error("malformed allocation header")]
    Malformed,
    /// An algorithm is unknown, unauthenticated or not built.
    #[error("an algorithm that is not supported")]
    Unsupported,
    /// An algorithm is weaker than this side asks for.
    #[error("an algorithm weaker than asked for")]
    TooWeak,
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
}

/// What was agreed for an encrypted flow.
#[derive(Debug)]
pub struct Agreed {
    /// The algorithms.
    pub suite: Suite,
    /// The keys, which tell the profile.
    pub keys: FlowKeys,
    /// The flow's place in a tunnel, as the client says; native flows only.
    pub lane: Option<Lane>,
}

/// What was agreed: `None` for a plain flow.
pub type Agreement = Option<Agreed>;

/// What the messages around the headers say of the flow. Native keys are bound
/// to it, so that both sides mean the same flow or have none.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whom the request is for.
    pub name: NameHash,
    /// The quality of service asked for.
    pub qos: QosSpec,
}

/// A request that is under way.
pub struct Offer {
    /// The header as sent.
    pub header: Vec<u8>,
    id: [u8; 16],
    terms: Terms,
    exchange: Option<(EphemeralSecret, ClientSecurity)>,
}

impl Offer {
    /// A request at UTC time `timestamp` (nanoseconds), encrypted if `security`
    /// says how.
    pub fn new(
        timestamp: u64,
        terms: Terms,
        security: Option<ClientSecurity>,
        entropy: &mut dyn Entropy,
    ) -> Self {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let exchange = security
            .map(|security| (EphemeralSecret::generate(security.suite.kex, entropy), security));
        let mut header = Allocation::plain(id, timestamp);
        let data;
        if let Some((secret, security)) = &exchange {
            header.cipher = security.suite.cipher.id();
            header.kdf = security.suite.kdf.id();
            header.md = Hash::Sha256.id();
            header.raw_key = security.suite.kex.is_raw();
            header.key = secret.public_key();
            if security.profile != ProfilePolicy::Wire023 {
                // As long as the reply, which has the request's hash: who sends
                // requests in another's name gets no more out than in. The
                // hybrid's key is longer than its answer as it is.
                let padding = (Hash::Sha256.size() - Extensions::OVERHEAD) as u16;
                let extensions = Extensions {
                    profile: Some(security.capabilities.bits()),
                    padding: (!security.suite.kex.is_raw()).then_some(padding),
                    cookie: None,
                    lane: security.lane,
                };
                data = extensions.encode();
                header.data = &data;
            }
        }
        let header = header.encode().expect("a public key is shorter than its length field");
        Self { header, id, terms, exchange }
    }

    fn digest(&self) -> Hash {
        if self.exchange.is_some() { Hash::Sha256 } else { Hash::Sha384 }
    }

    /// Checks the header of a reply and derives the flow's keys.
    ///
    /// # Errors
    ///
    /// The reply is malformed, answers another request, or is weaker than the
    /// offer.
    pub fn check(&self, bytes: &[u8]) -> Result<Agreement, NegotiationError> {
        let digest = self.digest();
        let reply =
            Allocation::parse(bytes, digest.size()).map_err(|_| NegotiationError::Malformed)?;
        if reply.id != self.id || reply.request_hash != digest.digest(&self.header) {
            return Err(NegotiationError::Mismatch);
        }
        let Some((secret, asked)) = &self.exchange else {
            let plain = reply.cipher == 0 && reply.key.is_empty();
            return if plain { Ok(None) } else { Err(NegotiationError::Mismatch) };
        };
        let (kdf, cipher) = algorithms(&reply)?.ok_or(NegotiationError::TooWeak)?;
        let least = asked.suite;
        let suite = Suite { kex: least.kex, kdf, cipher };
        if suite.cipher < least.cipher || suite.kdf < least.kdf {
            return Err(NegotiationError::TooWeak);
        }
        let accepted = match asked.profile {
            ProfilePolicy::Wire023 => None,
            _ => extensions(&reply)?.profile,
        };
        if accepted.is_none() && asked.profile == ProfilePolicy::RequireNative {
            return Err(NegotiationError::NotNative);
        }
        // More than was offered is no answer to the offer.
        if accepted.is_some_and(|flags| flags & !asked.capabilities.bits() != 0) {
            return Err(NegotiationError::Mismatch);
        }
        // Whether a 0.23 server marks its ciphertext as raw was not seen: its
        // length says what it is.
        let agreed = secret.agree(reply.key, suite.kdf)?;
        let lane = accepted.and(asked.lane);
        let keys = match accepted.map(Capabilities::from_bits) {
            None => FlowKeys::Wire023 { cipher: suite.cipher, key: agreed },
            Some(capabilities) => {
                let transcript = transcript(&self.terms, &self.header, bytes);
                let role = Role::Client;
                let keys = NativeKeys::new(suite, role, capabilities, agreed, transcript);
                FlowKeys::Native(keys)
            }
        };
        Ok(Some(Agreed { suite, keys, lane }))
    }
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

fn extensions<'a>(header: &Allocation<'a>) -> Result<Extensions<'a>, NegotiationError> {
    Extensions::parse(header.data).map_err(|_| NegotiationError::Malformed)
}

/// The algorithms that a header names beside its key exchange; `None` if it is
/// plain.
fn algorithms(header: &Allocation<'_>) -> Result<Option<(Hash, Cipher)>, NegotiationError> {
    if header.cipher == 0 && header.kdf == 0 && header.key.is_empty() {
        return Ok(None);
    }
    let known = Hash::from_id(header.kdf).zip(Cipher::from_id(header.cipher));
    known.filter(|_| !header.kem_role).map(Some).ok_or(NegotiationError::Unsupported)
}

/// The suite of a request; `None` if it is plain.
fn suite(request: &Allocation<'_>) -> Result<Option<Suite>, NegotiationError> {
    let Some((kdf, cipher)) = algorithms(request)? else { return Ok(None) };
    let kex = KeyExchange::of_public_key(request.key, request.raw_key)
        .ok_or(NegotiationError::Unsupported)?;
    Ok(Some(Suite { kex, kdf, cipher }))
}

/// Whether a request could be answered at all: the cheap checks, before any
/// public key operation. Says whether it asks for encryption.
///
/// # Errors
///
/// As [`NegotiationError`] says.
pub fn screen(request: &Allocation<'_>) -> Result<bool, NegotiationError> {
    if request.md != 0 && Hash::from_id(request.md).is_none() {
        return Err(NegotiationError::Unsupported);
    }
    extensions(request)?;
    Ok(suite(request)?.is_some())
}

/// A server's reply header to the request with the bytes `request`, at UTC time
/// `timestamp` (nanoseconds), and what is agreed with it.
///
/// # Errors
///
/// The request is malformed, or less than `security` asks for.
pub fn answer(
    request: &[u8],
    timestamp: u64,
    terms: &Terms,
    security: &ServerSecurity,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Agreement), NegotiationError> {
    let header = Allocation::parse(request, 0).map_err(|_| NegotiationError::Malformed)?;
    let digest = match header.md {
        0 => Hash::Sha384,
        id => Hash::from_id(id).ok_or(NegotiationError::Unsupported)?,
    };
    let offered = extensions(&header)?;
    let request_hash = digest.digest(request);
    let mut reply = Allocation::plain(header.id, timestamp);
    reply.md = header.md;
    reply.request_hash = &request_hash;
    let Some(asked) = suite(&header)? else {
        if security.require_encryption || security.profile == ProfilePolicy::RequireNative {
            return Err(NegotiationError::TooWeak);
        }
        return Ok((encode(&reply), None));
    };
    let own = security.suite.unwrap_or(asked);
    if asked.kex < own.kex {
        return Err(NegotiationError::TooWeak);
    }
    let native = match security.profile {
        ProfilePolicy::Wire023 => None,
        _ => offered.profile,
    };
    if native.is_none() && security.profile == ProfilePolicy::RequireNative {
        return Err(NegotiationError::NotNative);
    }
    let suite =
        Suite { kex: asked.kex, kdf: asked.kdf.max(own.kdf), cipher: asked.cipher.max(own.cipher) };
    let (key, agreed) = crypto::answer(suite.kex, header.key, suite.kdf, entropy)?;
    reply.cipher = suite.cipher.id();
    reply.kdf = suite.kdf.id();
    reply.raw_key = suite.kex.is_raw();
    reply.key = &key;
    let Some(flags) = native else {
        let keys = FlowKeys::Wire023 { cipher: suite.cipher, key: agreed };
        return Ok((encode(&reply), Some(Agreed { suite, keys, lane: None })));
    };
    let capabilities = Capabilities::from_bits(flags).shared_with(security.capabilities);
    let extensions = Extensions { profile: Some(capabilities.bits()), ..Extensions::default() };
    let data = extensions.encode();
    reply.data = &data;
    let reply = encode(&reply);
    let transcript = transcript(terms, request, &reply);
    let keys = NativeKeys::new(suite, Role::Server, capabilities, agreed, transcript);
    let keys = FlowKeys::Native(keys);
    Ok((reply, Some(Agreed { suite, keys, lane: offered.lane })))
}

fn encode(reply: &Allocation<'_>) -> Vec<u8> {
    reply.encode().expect("keys and hashes are shorter than their length fields")
}
