//! Authorities that vouch for certificates.

use std::time::Duration;

use der::Decode;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use serde::{Deserialize, Serialize};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::{Certificate, Version, ext::pkix::BasicConstraints};

use super::{CertificateError, PeerCertificate, certificate::Period};
use crate::{text::Hexadecimal, wire::Name};

/// Certificates that are trusted: an authority's for what it has signed, and
/// each for itself.
///
/// The allocation header carries one certificate, so the store has to hold the
/// authority that signed it: an intermediate one as well as a root. Revocation
/// lists are not read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Hexadecimal<Vec<u8>>>", into = "Vec<Hexadecimal<Vec<u8>>>")]
pub struct CaStore {
    trusted: Vec<Trusted>,
}

#[derive(Clone, Debug)]
struct Trusted {
    der: Vec<u8>,
    validity: Period,
    /// `None` if it is no authority.
    anchor: Option<TrustAnchor<'static>>,
}

impl PartialEq for CaStore {
    fn eq(&self, other: &Self) -> bool {
        self.certificates().eq(other.certificates())
    }
}

impl Eq for CaStore {}

impl From<CaStore> for Vec<Hexadecimal<Vec<u8>>> {
    fn from(store: CaStore) -> Self {
        store.certificates().map(|der| Hexadecimal(der.to_vec())).collect()
    }
}

impl TryFrom<Vec<Hexadecimal<Vec<u8>>>> for CaStore {
    type Error = CertificateError;

    fn try_from(certificates: Vec<Hexadecimal<Vec<u8>>>) -> Result<Self, CertificateError> {
        let mut store = Self::new();
        for Hexadecimal(der) in certificates {
            store.add(&der)?;
        }
        Ok(store)
    }
}

impl CaStore {
    /// An empty store, which trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what a file holds: one certificate in DER, or any number in PEM,
    /// other things between them ignored. Returns how many there were.
    ///
    /// # Errors
    ///
    /// One of them is malformed, or there is none; then none is added.
    pub fn add(&mut self, file: &[u8]) -> Result<usize, CertificateError> {
        let found = if Certificate::from_der(file).is_ok() {
            vec![CertificateDer::from(file)]
        } else {
            CertificateDer::pem_slice_iter(file)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| CertificateError::Malformed)?
        };
        let found: Vec<_> = found.iter().map(Trusted::new).collect::<Result<_, _>>()?;
        if found.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let count = found.len();
        self.trusted.extend(found);
        Ok(count)
    }

    /// The certificates, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.trusted.iter().map(|trusted| &*trusted.der)
    }

    /// Returns how many certificates it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trusted.len()
    }

    /// Returns `true` if it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trusted.is_empty()
    }

    /// Checks at UTC time `utc` (nanoseconds since 1970) that a trusted
    /// authority vouches for `certificate` as the server of `name`: chain,
    /// validity, extended key usage if it has one, and that its common name is
    /// `name`, byte for byte.
    ///
    /// # Errors
    ///
    /// As [`CertificateError`] says.
    pub fn verify_server(
        &self,
        certificate: &PeerCertificate,
        name: &Name,
        utc: u64,
    ) -> Result<(), CertificateError> {
        if certificate.common_name() != name.as_str() {
            return Err(CertificateError::WrongName(certificate.common_name().to_owned()));
        }
        self.verify(certificate, KeyUsage::server_auth(), utc)
    }

    /// The same for a client, whose common name is for the caller to judge.
    ///
    /// # Errors
    ///
    /// As [`CertificateError`] says.
    pub fn verify_client(
        &self,
        certificate: &PeerCertificate,
        utc: u64,
    ) -> Result<(), CertificateError> {
        self.verify(certificate, KeyUsage::client_auth(), utc)
    }

    fn verify(
        &self,
        certificate: &PeerCertificate,
        usage: KeyUsage,
        utc: u64,
    ) -> Result<(), CertificateError> {
        let time = Duration::from_nanos(utc);
        certificate.validity.check(time.as_secs())?;
        if self.trusted.iter().any(|trusted| trusted.der == certificate.der()) {
            return Ok(());
        }
        // webpki does not look at the validity of trust anchors.
        let anchors: Vec<_> = self
            .trusted
            .iter()
            .filter(|trusted| trusted.validity.check(time.as_secs()).is_ok())
            .filter_map(|trusted| trusted.anchor.clone())
            .collect();
        let der = CertificateDer::from(certificate.der());
        EndEntityCert::try_from(&der)
            .and_then(|end| {
                let time = UnixTime::since_unix_epoch(time);
                end.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None)
                    .map(|_| ())
            })
            .map_err(|error| match error {
                webpki::Error::UnsupportedCertVersion => CertificateError::OldVersion,
                webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
                webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
                other => CertificateError::Unacceptable(other.to_string()),
            })
    }
}

impl Trusted {
    fn new(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed = Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        let anchor = if is_authority(&parsed)? {
            let anchor = anchor_from_trusted_cert(der).map_err(|_| CertificateError::Malformed)?;
            Some(anchor.to_owned())
        } else {
            None
        };
        Ok(Self { der: der.to_vec(), validity: Period::of(&parsed)?, anchor })
    }
}

/// RFC 5280, section 4.2.1.9.
pub(super) fn is_authority(certificate: &Certificate) -> Result<bool, CertificateError> {
    let claims = certificate.tbs_certificate();
    let constraints =
        claims.get_extension::<BasicConstraints>().map_err(|_| CertificateError::Malformed)?;
    Ok(claims.version() == Version::V3 && constraints.is_some_and(|(_, basic)| basic.ca))
}
