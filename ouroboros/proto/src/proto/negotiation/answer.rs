//! The server's side: what a request asks, and the reply to it.

use super::{
    Agreed, Agreement, Joining, NegotiationError, PeerIdentity, ProfilePolicy, ReliableTerms,
    ServerSecurity, Terms, Trust, delivery, extensions,
    invitation::check,
    request_digest, strength, suite, transcript,
    trust::{LARGEST_SIGNATURE, Signer, identify},
};
use crate::{
    crypto::{self, Entropy, Hash, KeyExchange, Suite},
    proto::{
        native::{Capabilities, NativeKeys, Role},
        protection::FlowKeys,
    },
    wire::{
        extension::{Delivery, Extensions},
        oap::Allocation,
    },
};

/// A summary of a request, from what can be read without any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSummary<'a> {
    /// Whether it asks for encryption.
    pub encrypted: bool,
    /// Whether it offers the native profile.
    pub native: bool,
    /// Whether the answer to its key exchange takes milliseconds.
    pub slow: bool,
    /// The cookie that it echoes.
    pub cookie: Option<&'a [u8]>,
}

/// Returns whether a request could be answered at all: the cheap checks, before any public key
/// operation. Says what it asks.
///
/// # Errors
///
/// As [`NegotiationError`] says.
pub fn screen<'a>(request: &Allocation<'a>) -> Result<RequestSummary<'a>, NegotiationError> {
    request_digest(request.md)?;
    let Extensions { profile, cookie, .. } = extensions(request)?;
    let suite = suite(request)?;
    let (encrypted, slow) = (suite.is_some(), suite.is_some_and(|suite| suite.kex.is_slow()));
    Ok(RequestSummary { encrypted, native: encrypted && profile.is_some(), slow, cookie })
}

/// Bytes that the header of a reply to `request` has at most, if it is signed
/// under a certificate of `certificate` bytes (0: it is not).
#[must_use]
pub fn largest_answer(request: &Allocation<'_>, certificate: usize) -> usize {
    let offered = extensions(request).ok().and_then(|offered| offered.delivery);
    let answered = Extensions { profile: Some(0), delivery: offered, ..Extensions::default() };
    let extensions = answered.encode();
    let hash = request_digest(request.md).map_or(0, Hash::size);
    let signature = if certificate == 0 { 0 } else { LARGEST_SIGNATURE };
    let empty = Allocation::plain([0; 16], 0).encode().map_or(0, |header| header.len());
    let kex = KeyExchange::of_public_key(request.key, request.raw_key);
    let key = kex.map_or(0, KeyExchange::answer_size);
    empty + certificate + key + extensions.len() + hash + signature
}

/// The client that sent a request, as far as it is known.
#[derive(Debug)]
pub enum Client {
    /// Nothing yet: whether they may have a flow is looked at with the request.
    Unchecked,
    /// They may have one, and are whom this says.
    Checked(Option<PeerIdentity>),
}

/// Returns who has signed the request with the bytes `request`, if `security` lets them have a
/// flow.
///
/// # Errors
///
/// They get none.
pub(in crate::proto) fn identify_client(
    request: &[u8],
    utc: u64,
    terms: &Terms,
    security: &ServerSecurity,
) -> Result<Standing, NegotiationError> {
    let header = Allocation::parse(request, 0).map_err(|_| NegotiationError::Malformed)?;
    let identified = identify(&header, request, &security.clients, Signer::Client, utc);
    let Err(NegotiationError::NotAuthorized(client)) = identified else {
        return identified.map(Standing::Client);
    };
    let refused = NegotiationError::NotAuthorized(client);
    let proof = extensions(&header)?.invitation.ok_or(refused)?;
    let joining = check(&proof, &header, terms, client, (&security.invited, utc))?;
    // That it is the client's own request is checked last: both are to be right.
    identify(&header, request, &Trust::Keys(vec![client]), Signer::Client, utc)?;
    Ok(Standing::Invited(joining))
}

/// The rights of a client that has proved its identity.
#[derive(Debug)]
pub(in crate::proto) enum Standing {
    /// Have a flow.
    Client(Option<PeerIdentity>),
    /// Become a client, and nothing else.
    Invited(Joining),
}

/// A server's reply header to `client`'s request with the bytes `request`, at UTC time
/// `timestamp` (nanoseconds), and what is agreed with it.
///
/// # Errors
///
/// The request is malformed, less than `security` asks for, or from somebody
/// else.
pub fn answer(
    client: Client,
    request: &[u8],
    timestamp: u64,
    terms: &Terms,
    security: &ServerSecurity,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Agreement), NegotiationError> {
    let header = Allocation::parse(request, 0).map_err(|_| NegotiationError::Malformed)?;
    let digest = request_digest(header.md)?;
    let offered = extensions(&header)?;
    let request_hash = digest.digest(request);
    let mut reply = Allocation::plain(header.id, timestamp);
    reply.md = header.md;
    reply.request_hash = &request_hash;
    let Some(asked) = suite(&header)? else {
        let encrypted = security.require_encryption
            || security.profile == ProfilePolicy::RequireNative
            || security.clients.demands_identity();
        if encrypted {
            return Err(NegotiationError::NotEncrypted);
        }
        return Ok((encode(&reply), None));
    };
    let native = match security.profile {
        ProfilePolicy::Wire023 => None,
        _ => offered.profile.map(Capabilities::from_bits),
    };
    if native.is_none() && security.profile == ProfilePolicy::RequireNative {
        return Err(NegotiationError::NotNative);
    }
    let own = security.suite.unwrap_or(asked);
    let kex = strength(asked.kex, native);
    if kex < own.kex {
        return Err(NegotiationError::TooWeak { offered: Suite { kex, ..asked }, least: own });
    }
    let identity = match client {
        Client::Checked(identity) => identity,
        Client::Unchecked => match identify_client(request, timestamp, terms, security)? {
            Standing::Client(identity) => identity,
            // Nobody has taken it up.
            Standing::Invited(Joining { client, .. }) => {
                return Err(NegotiationError::NotAuthorized(client));
            }
        },
    };
    let (kdf, cipher) = (asked.kdf.max(own.kdf), asked.cipher.max(own.cipher));
    let suite = Suite { kex, kdf, cipher };
    let (key, agreed, kept) = crypto::answer_and_keep(asked.kex, header.key, suite.kdf, entropy)?;
    reply.cipher = suite.cipher.id();
    reply.kdf = suite.kdf.id();
    reply.raw_key = asked.kex.is_raw();
    reply.key = &key;
    let able = security.capabilities.union(Capabilities::HYBRID_FIRST);
    let capabilities = native.map(|offered| offered.intersection(able));
    let profile = capabilities.map(Capabilities::bits);
    let own = native.and(delivery(&terms.qos, security.reliable, security.ordered));
    let (own, reliable) = match (offered.delivery, own) {
        (Some(Delivery::Reliable(remote)), Some(Delivery::Reliable(local))) => {
            (own, Some(ReliableTerms { local, remote }))
        }
        (Some(Delivery::Ordered), Some(Delivery::Ordered)) => (own, None),
        _ => (None, None),
    };
    let ordered = own == Some(Delivery::Ordered);
    let data = Extensions { profile, delivery: own, ..Extensions::default() }.encode();
    reply.data = &data;
    // There is no room for a certificate beside the hybrid's answer, and who
    // wants one asks for the hybrid inside the flow.
    let room = asked.kex != KeyExchange::X25519MlKem768;
    let shown = (native.is_some() && room) || security.identify_to_old;
    let reply = match security.identity.as_ref().filter(|_| shown) {
        Some(identity) => {
            reply.md = identity.md();
            identity.sign(&reply).expect("certificates are shorter than their length field")
        }
        None => encode(&reply),
    };
    let Some(capabilities) = capabilities else {
        let keys = FlowKeys::Wire023 { cipher: suite.cipher, key: agreed };
        let agreed = Agreed { suite, keys, lane: None, reliable: None, ordered, identity };
        return Ok((reply, Some(agreed)));
    };
    let transcript = transcript(terms, request, &reply);
    let keys = NativeKeys::new(suite, Role::Server, capabilities, agreed, transcript).keeping(kept);
    let keys = FlowKeys::Native(keys);
    Ok((reply, Some(Agreed { suite, keys, lane: offered.lane, reliable, ordered, identity })))
}

fn encode(reply: &Allocation<'_>) -> Vec<u8> {
    reply.encode().expect("keys and hashes are shorter than their length fields")
}
