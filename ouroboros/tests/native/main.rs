//! The native profile between two full ends: an attacker between them, offers
//! altered on their way, what an eavesdropper sees, and PROTOCOL.md's vectors.

mod attacker;
mod downgrade;
mod eavesdropper;
mod erasure;
mod fragments;
mod harness;
mod ordered;
mod reliable;
mod session;
mod vectors;
