//! A small authority in a folder: its key, its certificate, and those that it signs for
//! others. Not here: who is to have one, and what certificates are
//! ([`ouroboros::crypto::identity::Authority`]).

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use der::pem::{self, LineEnding};
use ouroboros::{
    crypto::{
        SystemEntropy,
        identity::{Authority, CertificateError, IdentityKey, PeerCertificate, PublicKey},
    },
    trust::{self, KeyFile, TrustError},
    wire::Name,
};

/// Days that an authority is valid for, unless others are asked for.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Days that a certificate is valid for, unless others are asked for.
pub const CERTIFICATE_DAYS: u32 = 365;

/// The clocks of those who check a certificate may be behind by that much.
const EARLIER: Duration = Duration::from_secs(3600);
const DAY: u64 = 86_400;
const CERTIFICATE: &str = "CERTIFICATE";
const PUBLIC_KEY: &str = "PUBLIC KEY";

/// An authority cannot be made, or cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A file of keys or certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Environment: a file cannot be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Misuse: there is no authority in the folder.
    #[error("{0}: there is no authority: make one with `irm cert authority NAME`")]
    NoAuthority(PathBuf),
    /// Misuse: the file has neither a public key nor a certificate.
    #[error("{0}: no public key in PEM, as `irm key export` prints it, and no certificate")]
    NoKey(PathBuf),
    /// The certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Makes the authority `name` in `folder`, and returns the path of its certificate, which
/// those who are to believe it need.
///
/// # Errors
///
/// There is one already, or it cannot be written.
pub fn create(folder: &Path, name: &Name, days: u32) -> Result<PathBuf, AuthorityError> {
    let key = key_in(folder).generate(&mut SystemEntropy)?;
    let (utc, period) = validity(days);
    let authority = Authority::new(&key, name, utc, period, &mut SystemEntropy)?;
    let path = folder.join("authority.pem");
    let failed = |error| AuthorityError::Io(path.clone(), error);
    let mut file = OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o644).open(&path).map_err(failed)?;
    file.write_all(encoded(CERTIFICATE, authority.certificate()).as_bytes()).map_err(failed)?;
    Ok(path)
}

/// A certificate in PEM by the authority in `folder`, for the owner of `key` as `name`.
///
/// # Errors
///
/// There is no authority, or it cannot sign.
pub fn sign(
    folder: &Path,
    key: &PublicKey,
    name: &Name,
    days: u32,
) -> Result<String, AuthorityError> {
    let own = key_in(folder).load()?;
    let own = own.ok_or_else(|| AuthorityError::NoAuthority(folder.to_owned()))?;
    let certificate = trust::certificate(&folder.join("authority.pem"))?;
    let authority = Authority::from_certificate(&own, &certificate)?;
    let (utc, period) = validity(days);
    let signed = authority.certify(key, name, utc, period, &mut SystemEntropy)?;
    Ok(encoded(CERTIFICATE, &signed))
}

/// The public key in the file at `path`: one in PEM, or a certificate's.
///
/// # Errors
///
/// The file cannot be read, or has none.
pub fn public_key(path: &Path) -> Result<PublicKey, AuthorityError> {
    let text = fs::read(path).map_err(|error| AuthorityError::Io(path.to_owned(), error))?;
    let found = pem::decode_vec(&text).ok().and_then(|(label, der)| match label {
        PUBLIC_KEY => PublicKey::from_spki(&der).ok(),
        CERTIFICATE => {
            PeerCertificate::parse(&der).ok().map(|certificate| certificate.public_key().clone())
        }
        _ => None,
    });
    found.ok_or_else(|| AuthorityError::NoKey(path.to_owned()))
}

/// The public key of `key` in PEM, for an authority to sign.
#[must_use]
pub fn exported(key: &IdentityKey) -> String {
    encoded(PUBLIC_KEY, key.public_key().spki())
}

fn key_in(folder: &Path) -> KeyFile {
    // Not `.pem`: a folder of authorities has certificates by that ending.
    KeyFile::at(folder.join("authority.key"))
}

/// From when on (nanoseconds since 1970), and for how long.
fn validity(days: u32) -> (u64, Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = now.saturating_sub(EARLIER);
    let period = Duration::from_secs(u64::from(days) * DAY) + (now - begin);
    (u64::try_from(begin.as_nanos()).unwrap_or(u64::MAX), period)
}

fn encoded(label: &str, der: &[u8]) -> String {
    pem::encode_string(label, LineEnding::LF, der).expect("a label that PEM allows")
}
