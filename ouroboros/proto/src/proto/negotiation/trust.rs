//! The own identity, the trusted ones, and the one that the peer has proved. Files of keys and
//! authorities are the caller's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{NegotiationError, UnsupportedAlgorithm};
use crate::{
    crypto::{
        Hash,
        identity::{CaStore, CertificateError, Fingerprint, IdentityKey, PeerCertificate},
    },
    wire::{Name, oap::Allocation},
};

/// An identity: a key pair and a certificate for its public half. Clones share the key.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<IdentityKey>,
    certificate: Arc<[u8]>,
}

/// The same key and certificate.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.key.public_key() == other.key.public_key()
    }
}

impl Eq for Identity {}

/// The certificate is none for the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It is for another key.
    #[error("the certificate is for the key {0}, which is not this one")]
    OtherKey(Fingerprint),
}

impl Identity {
    /// A key that vouches for itself. Whom it is to be for: a server's
    /// certificate has to have the name of its flows.
    ///
    /// ```
    /// use ouroboros::{Identity, crypto::{SystemEntropy, identity::IdentityKey}};
    /// let key = IdentityKey::generate(&mut SystemEntropy);
    /// let fingerprint = key.public_key().fingerprint();
    /// let identity = Identity::self_signed(key, &"my_vpn".parse()?);
    /// assert_eq!(identity.fingerprint(), fingerprint);
    /// # Ok::<(), ouroboros::wire::InvalidName>(())
    /// ```
    #[must_use]
    pub fn self_signed(key: impl Into<Arc<IdentityKey>>, name: &Name) -> Self {
        let key = key.into();
        let certificate = key.certificate(name).into();
        Self { key, certificate }
    }

    /// A key that an authority has certified, in DER.
    ///
    /// # Errors
    ///
    /// The certificate is malformed or for another key.
    pub fn certified(
        key: impl Into<Arc<IdentityKey>>,
        certificate: &[u8],
    ) -> Result<Self, IdentityError> {
        let key = key.into();
        let parsed = PeerCertificate::parse(certificate)?;
        if parsed.public_key() != key.public_key() {
            return Err(IdentityError::OtherKey(parsed.public_key().fingerprint()));
        }
        Ok(Self { key, certificate: certificate.into() })
    }

    /// Returns the key's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.public_key().fingerprint()
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Returns the `md` of a header that it signs.
    pub(super) fn md(&self) -> u16 {
        self.key.digest().map_or(0, Hash::id)
    }

    /// Writes `header` with certificate and signature.
    pub(super) fn sign(&self, header: &Allocation<'_>) -> Option<Vec<u8>> {
        let header = Allocation { certificate: &self.certificate, signature: &[], ..*header };
        let mut bytes = header.encode()?;
        let signature = self.key.sign(&bytes);
        bytes.extend_from_slice(&signature);
        Some(bytes)
    }
}

/// Longest signature in bytes: ECDSA on P-384, in DER.
pub(super) const LARGEST_SIGNATURE: usize = 104;
/// Shortest, but for one in 2^32 or so.
pub(super) const USUAL_SIGNATURE: usize = 64;

/// Whom one believes to be the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Anyone. A signature is checked all the same where there is one, and the
    /// peer's identity told.
    #[default]
    Anyone,
    /// Anyone who has a key, whichever. The caller remembers it
    /// ([`PeerIdentity::fingerprint`]), and from then on trusts that one.
    FirstUse,
    /// The holders of one of these keys, whatever a certificate says of time and issuer.
    Keys(Vec<Fingerprint>),
    /// Whom one of these authorities vouches for.
    Authorities(CaStore),
}

impl Trust {
    /// Returns `true` if the peer has to prove who it is.
    #[must_use]
    pub const fn demands_identity(&self) -> bool {
        !matches!(self, Self::Anyone)
    }
}

/// The peer's identity: it has signed what it sent with this key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// Its key.
    pub fingerprint: Fingerprint,
    /// The common name of its certificate. A server's is the flow's name; a
    /// client's is what it says, unless an authority vouches for it.
    pub common_name: String,
    /// Until when a trusted authority vouches for it, in seconds since 1970; `None`:
    /// none does.
    pub certified_until: Option<u64>,
}

impl PeerIdentity {
    /// Returns `true` if a trusted authority vouched for it when the flow was agreed.
    #[must_use]
    pub const fn is_certified(&self) -> bool {
        self.certified_until.is_some()
    }
}

/// Whose header it is.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    /// The server of this name.
    Server(&'a Name),
    Client,
}

/// Checks who has signed the header with the bytes `bytes`, at UTC time `utc`.
/// `None` if nobody has to have, and nobody that can be known has.
pub(super) fn identify(
    header: &Allocation<'_>,
    bytes: &[u8],
    trust: &Trust,
    signer: Signer<'_>,
    utc: u64,
) -> Result<Option<PeerIdentity>, NegotiationError> {
    let demanded = trust.demands_identity();
    if header.certificate.is_empty() {
        return if demanded { Err(NegotiationError::NotAuthenticated) } else { Ok(None) };
    }
    let certificate = match PeerCertificate::parse(header.certificate) {
        Ok(certificate) => certificate,
        // An algorithm of somebody else's: nobody has to be known here.
        Err(_) if !demanded => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let fingerprint = certificate.public_key().fingerprint();
    let known = match trust {
        Trust::Keys(keys) => keys.contains(&fingerprint),
        _ => true,
    };
    match signer {
        Signer::Server(name) if certificate.common_name() != name.as_str() => {
            let found = certificate.common_name().to_owned();
            return Err(CertificateError::WrongName(found).into());
        }
        // Strangers cost no signature.
        Signer::Client if !known => return Err(NegotiationError::NotAuthorized(fingerprint)),
        _ => {}
    }
    let digest = match header.md {
        0 => None,
        id => Some(Hash::from_id(id).ok_or(UnsupportedAlgorithm::Digest(id))?),
    };
    let signed = &bytes[..bytes.len() - header.signature.len()];
    certificate
        .public_key()
        .verify(digest, signed, header.signature)
        .map_err(|_| NegotiationError::BadSignature)?;
    // Only now is the key the peer's, and not what somebody claims.
    match (trust, signer) {
        (Trust::Keys(expected), _) if !known => {
            return Err(NegotiationError::WrongKey {
                expected: expected.clone(),
                found: fingerprint,
            });
        }
        (Trust::Authorities(store), Signer::Server(name)) => {
            store.verify_server(&certificate, name, utc)?;
        }
        (Trust::Authorities(store), Signer::Client) => store.verify_client(&certificate, utc)?,
        _ => {}
    }
    let common_name = certificate.common_name().to_owned();
    let certified = matches!(trust, Trust::Authorities(_));
    let certified_until = certified.then(|| certificate.valid_until());
    Ok(Some(PeerIdentity { fingerprint, common_name, certified_until }))
}
