//! Registration at Tokio's reactor. `flow::readiness` drives it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers `source` at the reactor of the present Tokio runtime, for `interest` alone. The source has
/// to give the same descriptor, and keep it open, for as long as it lives.
///
/// # Errors
///
/// Those of epoll_ctl(2).
///
/// # Panics
///
/// Outside of a runtime, or in one without `enable_io`.
pub(crate) fn register<T: AsFd + AsRawFd>(source: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor is open and the source's own until the source is
    // dropped, which the `AsyncFd` holds and drops after it has deregistered it.
    unsafe { AsyncFd::register_with_interest(source, interest) }.map_err(io::Error::from)
}
