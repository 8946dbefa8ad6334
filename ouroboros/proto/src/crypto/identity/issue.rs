//! A small authority: its own certificate, and those that it makes for others
//! (RFC 5280). Not here: files, and who may have a certificate.

use std::time::Duration;

use der::{
    Decode, Encode,
    asn1::{GeneralizedTime, ObjectIdentifier, OctetString, UtcTime},
    flagset::FlagSet,
};
use x509_cert::{
    Certificate, SubjectPublicKeyInfo, Version,
    ext::{
        Extension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier,
        },
    },
    name::RdnSequence,
    serial_number::SerialNumber,
    time::{Time, Validity},
};

use super::{
    CertificateError, IdentityKey, PeerCertificate, PublicKey,
    certificate::{Claims, common_name},
};
use crate::{crypto::Entropy, wire::Name};

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const SUBJECT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const AUTHORITY_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// From here on a time is a GeneralizedTime (RFC 5280, section 4.1.2.5): 2050.
const YEAR_2050: Duration = Duration::from_secs(2_524_608_000);
/// Bytes of a serial number, at most 20 (RFC 5280, section 4.1.2.2).
const SERIAL: usize = 16;

/// An authority that signs certificates: a key and a certificate that permits it.
#[derive(Debug)]
pub struct Authority<'k> {
    key: &'k IdentityKey,
    certificate: Vec<u8>,
    subject: RdnSequence,
    /// The key identifier in its certificate.
    key_id: Vec<u8>,
}

impl<'k> Authority<'k> {
    /// A new authority `name`, whose certificate is signed by itself and valid
    /// for `period` from `utc` on (nanoseconds since 1970).
    ///
    /// ```
    /// use std::time::Duration;
    /// use ouroboros::crypto::{SystemEntropy, identity::{Authority, CaStore, IdentityKey}};
    ///
    /// let (utc, year) = (1_800_000_000_000_000_000, Duration::from_secs(365 * 86_400));
    /// let key = IdentityKey::generate(&mut SystemEntropy);
    /// let authority = Authority::new(&key, &"home".parse()?, utc, year, &mut SystemEntropy)?;
    /// let server = IdentityKey::generate(&mut SystemEntropy);
    /// let name = "my_vpn".parse()?;
    /// let certificate =
    ///     authority.certify(server.public_key(), &name, utc, year, &mut SystemEntropy)?;
    /// let mut store = CaStore::new();
    /// store.add(authority.certificate())?;
    /// # let certificate = ouroboros::crypto::identity::PeerCertificate::parse(&certificate)?;
    /// assert!(store.verify_server(&certificate, &name, utc).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The period ends after the year 9999.
    pub fn new(
        key: &'k IdentityKey,
        name: &Name,
        utc: u64,
        period: Duration,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, CertificateError> {
        let constraints = BasicConstraints { ca: true, path_len_constraint: Some(0) };
        let usage = KeyUsages::KeyCertSign | KeyUsages::CRLSign;
        let key_id = key_id(key.public_key());
        let mut issue = || {
            let subject = common_name(name)?;
            let claims = Claims {
                version: Version::V3,
                serial_number: serial(entropy)?,
                algorithm: key.signature_algorithm(),
                issuer: subject.clone(),
                validity: validity(utc, period)?,
                subject: subject.clone(),
                public_key: SubjectPublicKeyInfo::from_der(key.public_key().spki())?,
                extensions: Some(extensions(&constraints, usage, key.public_key(), &key_id)?),
            };
            Ok((key.sign_claims(claims)?, subject))
        };
        let (certificate, subject) = issue()
            .map_err(|error: der::Error| CertificateError::Unacceptable(error.to_string()))?;
        Ok(Self { key, certificate, subject, key_id })
    }

    /// The authority that `key` is by its certificate, in DER.
    ///
    /// # Errors
    ///
    /// The certificate is malformed, of another key, or not an authority's.
    pub fn from_certificate(
        key: &'k IdentityKey,
        certificate: &[u8],
    ) -> Result<Self, CertificateError> {
        let parsed = PeerCertificate::parse(certificate)?;
        let whole = Certificate::from_der(certificate).map_err(|_| CertificateError::Malformed)?;
        if parsed.public_key() != key.public_key() {
            let reason = "it is for another key than the authority's";
            return Err(CertificateError::Unacceptable(reason.to_owned()));
        }
        if !super::authority::is_authority(&whole)? {
            let reason = "it is not the certificate of an authority (basicConstraints=CA:TRUE)";
            return Err(CertificateError::Unacceptable(reason.to_owned()));
        }
        let subject = whole.tbs_certificate().subject().clone().into();
        let identifier = whole
            .tbs_certificate()
            .get_extension::<SubjectKeyIdentifier>()
            .map_err(|_| CertificateError::Malformed)?;
        let key_id = identifier.map_or_else(
            || key_id(key.public_key()),
            |(_, SubjectKeyIdentifier(id))| id.as_bytes().to_vec(),
        );
        Ok(Self { key, certificate: certificate.to_vec(), subject, key_id })
    }

    /// The authority's own certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A certificate in DER for the owner of `key`, of X.509 version 3, with the
    /// common name `name`, valid for `period` from `utc` on. Whether they are who
    /// they say is the caller's to know.
    ///
    /// # Errors
    ///
    /// The period ends after the year 9999.
    pub fn certify(
        &self,
        key: &PublicKey,
        name: &Name,
        utc: u64,
        period: Duration,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<u8>, CertificateError> {
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let usage = KeyUsages::DigitalSignature.into();
        let mut issue = || {
            self.key.sign_claims(Claims {
                version: Version::V3,
                serial_number: serial(entropy)?,
                algorithm: self.key.signature_algorithm(),
                issuer: self.subject.clone(),
                validity: validity(utc, period)?,
                subject: common_name(name)?,
                public_key: SubjectPublicKeyInfo::from_der(key.spki())?,
                extensions: Some(extensions(&constraints, usage, key, &self.key_id)?),
            })
        };
        issue().map_err(|error: der::Error| CertificateError::Unacceptable(error.to_string()))
    }
}

fn serial(entropy: &mut dyn Entropy) -> der::Result<SerialNumber> {
    let mut bytes = [0; SERIAL];
    entropy.fill(&mut bytes);
    // Positive, and not zero.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::new(&bytes)
}

fn validity(utc: u64, period: Duration) -> der::Result<Validity> {
    let begin = Duration::from_secs(utc / 1_000_000_000);
    let time = |at: Duration| {
        if at < YEAR_2050 {
            UtcTime::from_unix_duration(at).map(Time::UtcTime)
        } else {
            GeneralizedTime::from_unix_duration(at).map(Time::GeneralTime)
        }
    };
    let end = begin.saturating_add(Duration::from_secs(period.as_secs()));
    Ok(Validity::new(time(begin)?, time(end)?))
}

/// Returns how a key is called in certificates (RFC 7093, section 2, method 4).
fn key_id(key: &PublicKey) -> Vec<u8> {
    key.fingerprint().as_bytes().to_vec()
}

fn extensions(
    constraints: &BasicConstraints,
    usage: FlagSet<KeyUsages>,
    key: &PublicKey,
    authority_key_id: &[u8],
) -> der::Result<Vec<Extension>> {
    let extension = |extn_id, critical, value: Vec<u8>| -> der::Result<Extension> {
        Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
    };
    let subject_key = SubjectKeyIdentifier(OctetString::new(key_id(key))?);
    let key_identifier = Some(OctetString::new(authority_key_id)?);
    let authority_key = AuthorityKeyIdentifier { key_identifier, ..Default::default() };
    Ok(vec![
        extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?,
        extension(KEY_USAGE, true, KeyUsage(usage).to_der()?)?,
        extension(SUBJECT_KEY, false, subject_key.to_der()?)?,
        extension(AUTHORITY_KEY, false, authority_key.to_der()?)?,
    ])
}
