//! What is asked of flows in detail, and what was agreed. Trust, identities and policies
//! are at the crate's root; algorithms are in [`crypto`](crate::crypto), files of keys in
//! [`trust`](crate::trust).

#[doc(inline)]
pub use crate::proto::{
    endpoint::{Refusal, RefusalReason},
    native::{Capabilities, KeyLimits},
    negotiation::{
        ClientSecurity, DEFAULT_CAPABILITIES, InvitationSecret, Invited, Joining, NegotiationError,
        Profile, ProfilePolicy, ReliableTerms, UnsupportedAlgorithm,
    },
};
