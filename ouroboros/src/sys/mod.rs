//! The only `unsafe`: sockets, ioctls and batched system calls. Safe functions
//! outward; the transports and `tun` drive it.

pub(crate) mod batched;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod option;
#[cfg(feature = "tokio")]
pub(crate) mod reactor;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod tun;
