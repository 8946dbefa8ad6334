//! X.509 certificates: one's own, self-signed and as small as they can be, and
//! what a peer's says.

use der::{
    Any, Decode, Encode, Header, Reader, Sequence, SliceReader, Tag, Tagged,
    asn1::{BitString, ObjectIdentifier, SetOfVec, UtcTime},
};
use x509_cert::{
    AlgorithmIdentifier, Certificate, SubjectPublicKeyInfo, Version,
    attr::AttributeTypeAndValue,
    ext::Extension,
    name::{RdnSequence, RelativeDistinguishedName},
    serial_number::SerialNumber,
    time::{Time, Validity},
};

use super::{BadSignature, IdentityKey, PublicKey};
use crate::{crypto::Hash, wire::Name};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");

/// A certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CertificateError {
    /// It is no X.509 certificate in DER (or, where that is read, PEM).
    #[error("malformed certificate")]
    Malformed,
    /// Its key is of an algorithm that is not used here.
    #[error("the certificate's key is not Ed25519, P-256 or P-384")]
    UnusableKey,
    /// Its subject has no common name, or more than one.
    #[error("the certificate does not have exactly one common name")]
    NoCommonName,
    /// It is for another name.
    #[error("the certificate is for {0:?}")]
    WrongName(String),
    /// It is not valid yet.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// It is not valid any more.
    #[error("the certificate has expired")]
    Expired,
    /// No authority in the store has signed it.
    #[error("the certificate is not signed by an authority in the CA store")]
    UnknownIssuer,
    /// Its signature is wrong.
    #[error("the certificate's signature is wrong")]
    BadSignature,
    /// It is of X.509 version 1 or 2, which an authority cannot vouch for here.
    #[error(
        "the certificate is of X.509 version 1 or 2: make one of version 3, which has \
         extensions, for example with openssl x509 -req -extfile FILE, where FILE has \
         basicConstraints=CA:FALSE"
    )]
    OldVersion,
    /// It breaks another rule of RFC 5280.
    #[error("the certificate is not acceptable: {0}")]
    Unacceptable(String),
}

impl From<BadSignature> for CertificateError {
    fn from(_: BadSignature) -> Self {
        Self::BadSignature
    }
}

/// RFC 5280, section 4.1, without the unique identifiers.
#[derive(Sequence)]
pub(super) struct Claims {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    pub(super) version: Version,
    pub(super) serial_number: SerialNumber,
    pub(super) algorithm: AlgorithmIdentifier,
    pub(super) issuer: RdnSequence,
    pub(super) validity: Validity,
    pub(super) subject: RdnSequence,
    pub(super) public_key: SubjectPublicKeyInfo,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    pub(super) extensions: Option<Vec<Extension>>,
}

#[derive(Sequence)]
struct Signed {
    claims: Claims,
    algorithm: AlgorithmIdentifier,
    signature: BitString,
}

impl IdentityKey {
    /// A certificate for this key, signed by itself, in DER: X.509 v3 without
    /// extensions, with the common name `name`, valid from 1970 and without end
    /// (RFC 5280, section 4.1.2.5). Always the same for the same name: for an
    /// Ed25519 key, 199 bytes and twice a short name's.
    ///
    /// It says who the issuer is, although that costs the name's length once
    /// more: so a 0.23 peer can have it in its CA store.
    #[must_use]
    pub fn certificate(&self, name: &Name) -> Vec<u8> {
        self.try_certificate(name).expect("a name and a key are short enough to encode")
    }

    fn try_certificate(&self, name: &Name) -> der::Result<Vec<u8>> {
        let names = common_name(name)?;
        self.sign_claims(Claims {
            version: Version::V3,
            serial_number: SerialNumber::from(1u8),
            algorithm: self.signature_algorithm(),
            issuer: names.clone(),
            validity: Validity::new(
                Time::UtcTime(UtcTime::from_unix_duration(std::time::Duration::ZERO)?),
                Time::INFINITY,
            ),
            subject: names,
            public_key: SubjectPublicKeyInfo::from_der(self.public_key().spki())?,
            extensions: None,
        })
    }

    pub(super) fn signature_algorithm(&self) -> AlgorithmIdentifier {
        let oid = match self.digest() {
            None => ED25519,
            Some(Hash::Sha384) => ECDSA_SHA384,
            // That of every other key here.
            Some(_) => ECDSA_SHA256,
        };
        AlgorithmIdentifier { oid, parameters: None }
    }

    pub(super) fn sign_claims(&self, claims: Claims) -> der::Result<Vec<u8>> {
        let algorithm = claims.algorithm.clone();
        let signature = BitString::from_bytes(&self.sign(&claims.to_der()?))?;
        Signed { claims, algorithm, signature }.to_der()
    }
}

/// A subject or issuer that has this common name and nothing else.
pub(super) fn common_name(name: &Name) -> der::Result<RdnSequence> {
    let value = Any::new(Tag::Utf8String, name.as_str().as_bytes())?;
    let common_name = AttributeTypeAndValue { oid: COMMON_NAME, value };
    let mut names = RdnSequence::default();
    names.push(RelativeDistinguishedName::from(SetOfVec::try_from([common_name])?));
    Ok(names)
}

/// A peer's certificate, as it says of itself: nothing in it is true before a
/// [`CaStore`](super::CaStore) or the owner of a known key has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    der: Vec<u8>,
    public_key: PublicKey,
    common_name: String,
    pub(super) validity: Period,
}

impl PeerCertificate {
    /// A certificate from its DER.
    ///
    /// # Errors
    ///
    /// The bytes are no certificate or more than one, its key cannot be used
    /// here, or it has not exactly one common name.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let parsed = Certificate::from_der(bytes).map_err(|_| CertificateError::Malformed)?;
        let claims = parsed.tbs_certificate();
        let spki = claims.subject_public_key_info().to_der();
        let public_key = spki
            .ok()
            .and_then(|spki| PublicKey::from_spki(&spki).ok())
            .ok_or(CertificateError::UnusableKey)?;
        let mut names = claims.subject().iter().filter(|name| name.oid == COMMON_NAME);
        let common_name = match (names.next(), names.next()) {
            (Some(name), None) => text(&name.value).ok_or(CertificateError::NoCommonName)?,
            _ => return Err(CertificateError::NoCommonName),
        };
        let validity = Period::of(&parsed)?;
        Ok(Self { der: bytes.to_vec(), public_key, common_name, validity })
    }

    /// The certificate's DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key it claims.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The name it claims.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Until when it is valid, in seconds since 1970, that second included.
    #[must_use]
    pub const fn valid_until(&self) -> u64 {
        self.validity.end()
    }

    /// Checks that the owner of the key has signed this certificate. It says
    /// nothing about the key, which the caller has to know, and its time is of
    /// no account: a key is known until it is forgotten.
    ///
    /// # Errors
    ///
    /// [`BadSignature`](CertificateError::BadSignature).
    pub fn verify_self_signed(&self) -> Result<(), CertificateError> {
        let parsed = Certificate::from_der(&self.der).map_err(|_| CertificateError::Malformed)?;
        let digest = match parsed.signature_algorithm().oid {
            ED25519 => None,
            ECDSA_SHA256 => Some(Hash::Sha256),
            ECDSA_SHA384 => Some(Hash::Sha384),
            ECDSA_SHA512 => Some(Hash::Sha512),
            _ => return Err(CertificateError::BadSignature),
        };
        if parsed.signature_algorithm() != parsed.tbs_certificate().signature() {
            return Err(CertificateError::BadSignature);
        }
        let signed = signed_part(&self.der).map_err(|_| CertificateError::Malformed)?;
        let signature = parsed.signature().as_bytes().ok_or(CertificateError::BadSignature)?;
        Ok(self.public_key.verify(digest, signed, signature)?)
    }
}

/// The bytes that a certificate's signature is over.
fn signed_part(certificate: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(certificate)?;
    Header::decode(&mut reader)?;
    reader.tlv_bytes()
}

fn text(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            String::from_utf8(value.value().to_vec()).ok()
        }
        _ => None,
    }
}

/// When a certificate is valid, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    not_before: u64,
    not_after: u64,
}

impl Period {
    pub(super) fn of(certificate: &Certificate) -> Result<Self, CertificateError> {
        let validity = certificate.tbs_certificate().validity();
        let seconds = |time: Time| time.to_unix_duration().as_secs();
        let period = Self {
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        };
        if period.not_before <= period.not_after {
            Ok(period)
        } else {
            Err(CertificateError::Malformed)
        }
    }

    pub(super) const fn end(self) -> u64 {
        self.not_after
    }

    pub(super) const fn check(self, seconds: u64) -> Result<(), CertificateError> {
        if seconds < self.not_before {
            Err(CertificateError::NotYetValid)
        } else if seconds > self.not_after {
            Err(CertificateError::Expired)
        } else {
            Ok(())
        }
    }
}
