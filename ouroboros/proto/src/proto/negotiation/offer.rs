//! The client's side: a request, and what its reply comes to.

use super::{
    Agreed, Agreement, ClientSecurity, NegotiationError, ProfilePolicy, ReliableTerms, Terms,
    Trust, algorithms, delivery, extensions,
    invitation::prove,
    request_digest, strength, transcript,
    trust::{Identity, Signer, USUAL_SIGNATURE, identify},
};
use crate::{
    crypto::{Entropy, EphemeralSecret, Hash, KeyExchange, Suite},
    proto::{
        native::{Capabilities, NativeKeys, Role},
        protection::FlowKeys,
    },
    wire::{
        Name,
        extension::{Delivery, Extensions},
        oap::Allocation,
    },
};

/// The form of a request, besides the security asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Bytes that the header has at least, if the native profile is offered.
    pub least: usize,
    /// Bytes that it has at most, if that can be.
    pub largest: usize,
    /// The server's cookie to echo.
    pub cookie: Option<&'a [u8]>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self { least: 0, largest: usize::MAX, cookie: None }
    }
}

/// The reason of a refusal, and whether another request can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// No more is said.
    Plainly,
    /// Another request was refused.
    Another,
    /// The request may be made again with this cookie.
    ForCookie(&'a [u8]),
}

/// A request that is under way.
pub struct Offer {
    /// The header as sent.
    pub header: Vec<u8>,
    id: [u8; 16],
    terms: Terms,
    digest: Hash,
    exchange: Option<Exchange>,
}

struct Exchange {
    secret: EphemeralSecret,
    /// The key exchange in the header.
    kex: KeyExchange,
    asked: ClientSecurity,
}

impl Offer {
    /// A request at UTC time `timestamp` (nanoseconds), encrypted if `security`
    /// says how.
    pub fn new(
        timestamp: u64,
        terms: Terms,
        security: Option<ClientSecurity>,
        shape: Shape<'_>,
        entropy: &mut dyn Entropy,
    ) -> Self {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let plain = Allocation::plain(id, timestamp);
        let offer = |kex, asked: ClientSecurity, entropy: &mut dyn Entropy| {
            let secret = EphemeralSecret::generate(kex, entropy);
            let (header, digest) = encrypted(plain, &secret, kex, &asked, (shape, &terms));
            Self { header, id, terms, digest, exchange: Some(Exchange { secret, kex, asked }) }
        };
        let Some(asked) = security else {
            let header = plain.encode().expect("a header without parts");
            return Self { header, id, terms, digest: Hash::Sha384, exchange: None };
        };
        let (kex, native) = (asked.suite.kex, asked.offers_native());
        let whole = offer(kex, asked.clone(), entropy);
        let hybrid = kex == KeyExchange::X25519MlKem768;
        // With a certificate in the reply the hybrid has no room beside it. Who
        // insists on the native profile need not know whether there is one.
        let alone = !asked.trust.demands_identity()
            && asked.profile != ProfilePolicy::RequireNative
            && whole.header.len() <= shape.largest;
        if alone || !hybrid || !native {
            return whole;
        }
        let capabilities = asked.capabilities.union(Capabilities::HYBRID_FIRST);
        offer(KeyExchange::X25519, ClientSecurity { capabilities, ..asked }, entropy)
    }

    /// Returns the meaning of the header that came with a refusal of this request.
    #[must_use]
    pub fn read_refusal<'a>(&self, header: &'a [u8]) -> Refused<'a> {
        let Ok(refusal) = Allocation::parse(header, 0) else { return Refused::Plainly };
        if refusal.id != self.id {
            return Refused::Another;
        }
        let native = self.exchange.as_ref().is_some_and(|exchange| exchange.asked.offers_native());
        let extensions = extensions(&refusal).ok().filter(|_| native);
        extensions.and_then(|e| e.cookie).map_or(Refused::Plainly, Refused::ForCookie)
    }

    /// Checks the header of a reply from the server of `name`, at UTC time
    /// `utc` (nanoseconds), and derives the flow's keys. Nothing in it is
    /// believed before its signature, if it has to have one.
    ///
    /// # Errors
    ///
    /// [`Malformed`](NegotiationError::Malformed) and
    /// [`Mismatch`](NegotiationError::Mismatch) if it is no answer to this
    /// request. Otherwise whoever sent it has seen the request, and the answer
    /// is weaker than the offer, or not from whom is trusted.
    pub fn check(
        &self,
        bytes: &[u8],
        name: &Name,
        utc: u64,
    ) -> Result<Agreement, NegotiationError> {
        let reply = Allocation::parse(bytes, self.digest.size())
            .map_err(|_| NegotiationError::Malformed)?;
        if reply.id != self.id || reply.request_hash != self.digest.digest(&self.header) {
            return Err(NegotiationError::Mismatch);
        }
        let signer = Signer::Server(name);
        let Some(Exchange { secret, kex, asked }) = &self.exchange else {
            identify(&reply, bytes, &Trust::Anyone, signer, utc)?;
            let plain = reply.cipher == 0 && reply.key.is_empty();
            return if plain { Ok(None) } else { Err(NegotiationError::Mismatch) };
        };
        let identity = identify(&reply, bytes, &asked.trust, signer, utc)?;
        let (kdf, cipher) = algorithms(&reply)?.ok_or(NegotiationError::NotEncrypted)?;
        let answered = match asked.profile {
            ProfilePolicy::Wire023 => Extensions::default(),
            _ => extensions(&reply)?,
        };
        let accepted = answered.profile;
        if accepted.is_none() && asked.profile == ProfilePolicy::RequireNative {
            return Err(NegotiationError::NotNative);
        }
        // More than was offered is no answer to the offer.
        if accepted.is_some_and(|flags| flags & !asked.capabilities.bits() != 0) {
            return Err(NegotiationError::Mismatch);
        }
        let accepted = accepted.map(Capabilities::from_bits);
        let offered = delivery(&self.terms.qos, asked.reliable, asked.ordered);
        let (reliable, ordered) = match (accepted.and(answered.delivery), offered) {
            (None, _) => (None, false),
            (Some(Delivery::Reliable(remote)), Some(Delivery::Reliable(local))) => {
                (Some(ReliableTerms { local, remote }), false)
            }
            (Some(Delivery::Ordered), Some(Delivery::Ordered)) => (None, true),
            (Some(_), _) => return Err(NegotiationError::Mismatch),
        };
        let suite = Suite { kex: strength(*kex, accepted), kdf, cipher };
        let least = asked.suite;
        if suite.cipher < least.cipher || suite.kdf < least.kdf || suite.kex < least.kex {
            return Err(NegotiationError::TooWeak { offered: suite, least });
        }
        // Whether a 0.23 server marks its ciphertext as raw was not seen: its
        // length says what it is.
        let (agreed, kept) = secret.agree_and_keep(reply.key, suite.kdf)?;
        let lane = accepted.and(asked.lane);
        let keys = match accepted {
            None => FlowKeys::Wire023 { cipher: suite.cipher, key: agreed },
            Some(capabilities) => {
                let transcript = transcript(&self.terms, &self.header, bytes);
                let role = Role::Client;
                let keys = NativeKeys::new(suite, role, capabilities, agreed, transcript);
                FlowKeys::Native(keys.keeping(kept))
            }
        };
        Ok(Some(Agreed { suite, keys, lane, reliable, ordered, identity }))
    }
}

/// The header of a request whose key exchange is `kex`, and the digest that its
/// reply has of it.
fn encrypted(
    plain: Allocation<'_>,
    secret: &EphemeralSecret,
    kex: KeyExchange,
    security: &ClientSecurity,
    (shape, terms): (Shape<'_>, &Terms),
) -> (Vec<u8>, Hash) {
    let identity = security.identity.as_ref();
    let mut header = Allocation {
        cipher: security.suite.cipher.id(),
        kdf: security.suite.kdf.id(),
        md: identity.map_or(security.digest.id(), Identity::md),
        raw_key: kex.is_raw(),
        certificate: identity.map_or(&[], Identity::certificate),
        key: secret.public_key(),
        ..plain
    };
    let digest = request_digest(header.md).expect("a digest of ours");
    let data;
    if security.offers_native() {
        data = offered(&header, digest, security, (shape, terms)).encode();
        header.data = &data;
    }
    let header = match identity {
        Some(identity) => identity.sign(&header),
        None => header.encode(),
    };
    (header.expect("keys and certificates are shorter than their lengths can say"), digest)
}

/// Returns the extensions of the request `header`, which has everything else.
fn offered<'a>(
    header: &Allocation<'_>,
    digest: Hash,
    security: &ClientSecurity,
    (shape, terms): (Shape<'a>, &Terms),
) -> Extensions<'a> {
    let mut extensions = Extensions {
        profile: Some(security.capabilities.bits()),
        padding: None,
        cookie: shape.cookie,
        lane: security.lane,
        delivery: delivery(&terms.qos, security.reliable, security.ordered),
        invitation: security.invitation.as_ref().map(|secret| prove(secret, header, terms)),
    };
    // As long as the reply, which has the request's hash: who sends requests in
    // another's name gets no more out than in. The hybrid's key is longer than
    // its answer as it is.
    let hash = if header.raw_key { 0 } else { digest.size() };
    let signature = if header.certificate.is_empty() { 0 } else { USUAL_SIGNATURE };
    let size = Allocation { data: &extensions.encode(), ..*header }.encode().map_or(0, |b| b.len());
    let room = hash.max(shape.least.saturating_sub(size + signature));
    if room > 0 {
        extensions.padding = Some(room.saturating_sub(Extensions::OVERHEAD) as u16);
    }
    extensions
}
