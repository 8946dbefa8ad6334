//! Proof that the sender of a request is invited: that it knows the secret of an invitation, of
//! which the server keeps the public key only. Not here: where invitations are kept, and who
//! takes a client up (the caller of [`Allocator`](crate::proto::allocation::Allocator)).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{NegotiationError, Terms};
use crate::{
    crypto::{
        Entropy, Hash, Secret,
        identity::{Fingerprint, IdentityKey, PublicKey},
    },
    text::{Hexadecimal, parsed},
    wire::{extension::InvitationProof, oap::Allocation},
};

/// The first bytes under the signature, so that it is valid for nothing else.
const CONTEXT: &[u8] = b"o7s invitation 1";
const KEY_LABEL: &[u8] = b"o7s invitation key";

/// The secret of an invitation. Zeroized when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct InvitationSecret([u8; Self::SIZE]);

impl InvitationSecret {
    /// Its bytes.
    pub const SIZE: usize = 16;

    /// A fresh one.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; Self::SIZE];
        entropy.fill(&mut bytes);
        let secret = Self(bytes);
        bytes.zeroize();
        secret
    }

    /// The one with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::SIZE] {
        &self.0
    }

    /// The key pair that proves that the secret is known (PROTOCOL.md, "Invitations").
    #[must_use]
    pub fn key(&self) -> IdentityKey {
        let secret = Secret::extract(Hash::Sha256, CONTEXT, &self.0);
        IdentityKey::from_ed25519_seed(&secret.expand(KEY_LABEL))
    }
}

/// In hexadecimal digits, for who hands a request on to another process.
impl Serialize for InvitationSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Hexadecimal(&self.0))
    }
}

impl<'de> Deserialize<'de> for InvitationSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Hexadecimal(mut bytes) = parsed(deserializer)?;
        let secret = Self(bytes);
        bytes.zeroize();
        Ok(secret)
    }
}

/// Not the bytes.
impl fmt::Debug for InvitationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationSecret(..)")
    }
}

/// An invitation that a server has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invited {
    /// The fingerprint of the key that proves it.
    pub key: Fingerprint,
    /// Until when, in seconds since 1970.
    pub until: u64,
}

impl Invited {
    /// Returns `true` at UTC time `utc` (nanoseconds) if it is not over.
    #[must_use]
    pub const fn is_open(&self, utc: u64) -> bool {
        utc / 1_000_000_000 < self.until
    }
}

/// A client that is to be one, by an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The key of the invitation.
    pub invitation: Fingerprint,
    /// The key of the client, which has signed the request.
    pub client: Fingerprint,
}

/// Returns the invitation extension of the request `header`, which has everything but its
/// extensions and its signature.
pub(super) fn prove(
    secret: &InvitationSecret,
    header: &Allocation<'_>,
    terms: &Terms,
) -> InvitationProof {
    let key = secret.key();
    let signature = key.sign(&signed(header, terms));
    let mut proof = InvitationProof { key: [0; 32], signature: [0; 64] };
    // Both are Ed25519's: the key is the end of its SubjectPublicKeyInfo (RFC 8410).
    let spki = key.public_key().spki();
    proof.key.copy_from_slice(&spki[spki.len() - 32..]);
    proof.signature.copy_from_slice(&signature);
    proof
}

/// The invitation by which the request `header`, signed by `client`, may have a flow at
/// UTC time `utc` (nanoseconds).
///
/// # Errors
///
/// [`NotAuthorized`](NegotiationError::NotAuthorized): by none. A key that is none of
/// `invited` costs no signature.
pub(super) fn check(
    proof: &InvitationProof,
    header: &Allocation<'_>,
    terms: &Terms,
    client: Fingerprint,
    (invited, utc): (&[Invited], u64),
) -> Result<Joining, NegotiationError> {
    let refused = || NegotiationError::NotAuthorized(client);
    let key = PublicKey::from_ed25519(&proof.key).map_err(|_| refused())?;
    let invitation = key.fingerprint();
    let open = |known: &&Invited| known.key == invitation && known.is_open(utc);
    invited.iter().find(open).ok_or_else(refused)?;
    key.verify(None, &signed(header, terms), &proof.signature).map_err(|_| refused())?;
    Ok(Joining { invitation, client })
}

/// Returns the message that an invitation's key signs: that the holder of the certificate wants
/// this flow.
fn signed(header: &Allocation<'_>, terms: &Terms) -> Vec<u8> {
    let mut message = [CONTEXT, &header.id, &header.timestamp.to_be_bytes()].concat();
    for part in [header.certificate, header.key, terms.name.as_bytes()] {
        // No part of a header is longer than its length field can say.
        message.extend_from_slice(&(part.len() as u16).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}
