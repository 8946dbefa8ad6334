//! The security asked of flows in detail, and the agreed one. Trust, identities and policies
//! are at the crate's root; algorithms are in [`crypto`](crate::crypto), files of keys in
//! [`trust`](crate::trust).

#[doc(inline)]
pub use crate::proto::{
    allocation::{Refusal, RefusalReason},
    native::{Capabilities, KeyLimits},
    negotiation::{
        ClientSecurity, DEFAULT_CAPABILITIES, InvitationSecret, Invited, Joining, NegotiationError,
        Profile, ProfilePolicy, ReliableTerms, UnsupportedAlgorithm,
    },
};
