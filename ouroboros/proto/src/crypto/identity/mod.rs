//! Identities of peers: keys that sign, their certificates, and authorities that vouch for them
//! (WIRE.md, "Allocation header", certificates).
//!
//! An [`IdentityKey`] signs allocation headers and its own certificate. A
//! [`PeerCertificate`] claims a [`PublicKey`] for a name; a [`CaStore`] says
//! whether the claim holds, or the caller knows the key by its [`Fingerprint`].
//! Not here: files, and the decision whom to believe.

mod authority;
mod certificate;
mod fingerprint;
mod issue;
mod key;

pub use authority::CaStore;
pub use certificate::{CertificateError, PeerCertificate};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use issue::Authority;
pub use key::{BadSignature, IdentityKey, PublicKey, UnusableKey};
