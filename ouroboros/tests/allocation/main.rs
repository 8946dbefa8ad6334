//! The rules of the allocation core, one by one.

mod arbitrary;
mod clocks;
mod half_open;
mod harness;
mod invitations;
mod load;
mod requester;
mod responder;
mod silence;
mod strangers;
mod trust;
