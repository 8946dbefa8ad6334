//! The rules of the allocation core, one by one.

mod arbitrary;
mod harness;
mod requester;
mod responder;
