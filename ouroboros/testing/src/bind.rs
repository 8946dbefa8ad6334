//! Binding to addresses that the same test has had before.

use std::{
    io,
    thread::sleep,
    time::{Duration, Instant},
};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Binds a socket, and waits while its address is in use: a child that another thread of this
/// process has forked holds all of the process's sockets until it executes its program.
///
/// # Errors
///
/// Those of `bind`; the address stays in use.
pub fn bind_when_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE =>
            {
                sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}
