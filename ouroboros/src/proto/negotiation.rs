//! What two sides agree on in allocation headers (WIRE.md, "Allocation
//! header", negotiation). Pure functions over headers; when they are sent is
//! `endpoint`'s.

use crate::{
    crypto::{self, Cipher, Entropy, EphemeralSecret, Hash, KeyExchange, KeyExchangeError, Suite},
    proto::protection::FlowKeys,
    wire::oap::Allocation,
};

/// What a server asks of flows to a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerSecurity {
    /// The least key exchange, cipher and hash; `None`: the client's choice.
    pub suite: Option<Suite>,
    /// Plain requests are refused.
    pub require_encryption: bool,
}

/// An allocation header does not lead to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// An algorithm is unknown, unauthenticated or not built.
    #[error("an algorithm that is not supported")]
    Unsupported,
    /// An algorithm is weaker than this side asks for.
    #[error("an algorithm weaker than asked for")]
    TooWeak,
    /// The reply is not to our request, or the request was altered.
    #[error("the reply does not answer the request")]
    Mismatch,
    /// The key exchange failed.
    #[error(transparent)]
    KeyExchange(#[from] KeyExchangeError),
}

/// What was agreed: `None` for a plain flow.
pub type Agreement = Option<(FlowKeys, Suite)>;

/// A request that is under way.
pub struct Offer {
    /// The header as sent.
    pub header: Vec<u8>,
    id: [u8; 16],
    exchange: Option<(EphemeralSecret, Suite)>,
}

impl Offer {
    /// A request at UTC time `timestamp` (nanoseconds), encrypted if `security`
    /// says how.
    pub fn new(timestamp: u64, security: Option<Suite>, entropy: &mut dyn Entropy) -> Self {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let exchange = security.map(|suite| (EphemeralSecret::generate(suite.kex, entropy), suite));
        let mut header = Allocation::plain(id, timestamp);
        if let Some((secret, suite)) = &exchange {
            header.cipher = suite.cipher.id();
            header.kdf = suite.kdf.id();
            header.md = Hash::Sha256.id();
            header.raw_key = suite.kex.is_raw();
            header.key = secret.public_key();
        }
        let header = header.encode().expect("a public key is shorter than its length field");
        Self { header, id, exchange }
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
    pub fn check(&self, reply: &[u8]) -> Result<Agreement, NegotiationError> {
        let digest = self.digest();
        let reply =
            Allocation::parse(reply, digest.size()).map_err(|_| NegotiationError::Mismatch)?;
        if reply.id != self.id || reply.request_hash != digest.digest(&self.header) {
            return Err(NegotiationError::Mismatch);
        }
        let Some((secret, asked)) = &self.exchange else {
            let plain = reply.cipher == 0 && reply.key.is_empty();
            return if plain { Ok(None) } else { Err(NegotiationError::Mismatch) };
        };
        let (kdf, cipher) = algorithms(&reply)?.ok_or(NegotiationError::TooWeak)?;
        let suite = Suite { kex: asked.kex, kdf, cipher };
        if suite.cipher < asked.cipher || suite.kdf < asked.kdf {
            return Err(NegotiationError::TooWeak);
        }
        // Whether a 0.23 server marks its ciphertext as raw was not seen: its
        // length says what it is.
        let key = secret.agree(reply.key, suite.kdf)?;
        Ok(Some((FlowKeys { cipher: suite.cipher, key }, suite)))
    }
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
    security: &ServerSecurity,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Agreement), NegotiationError> {
    let header = Allocation::parse(request, 0).map_err(|_| NegotiationError::Mismatch)?;
    let digest = match header.md {
        0 => Hash::Sha384,
        id => Hash::from_id(id).ok_or(NegotiationError::Unsupported)?,
    };
    let request_hash = digest.digest(request);
    let mut reply = Allocation::plain(header.id, timestamp);
    reply.md = header.md;
    reply.request_hash = &request_hash;
    let Some(asked) = suite(&header)? else {
        if security.require_encryption {
            return Err(NegotiationError::TooWeak);
        }
        return Ok((encode(&reply), None));
    };
    let own = security.suite.unwrap_or(asked);
    if asked.kex < own.kex {
        return Err(NegotiationError::TooWeak);
    }
    let suite =
        Suite { kex: asked.kex, kdf: asked.kdf.max(own.kdf), cipher: asked.cipher.max(own.cipher) };
    let (key, agreed) = crypto::answer(suite.kex, header.key, suite.kdf, entropy)?;
    reply.cipher = suite.cipher.id();
    reply.kdf = suite.kdf.id();
    reply.raw_key = suite.kex.is_raw();
    reply.key = &key;
    Ok((encode(&reply), Some((FlowKeys { cipher: suite.cipher, key: agreed }, suite))))
}

fn encode(reply: &Allocation<'_>) -> Vec<u8> {
    reply.encode().expect("keys and hashes are shorter than their length fields")
}
