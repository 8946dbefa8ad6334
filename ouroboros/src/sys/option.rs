//! Socket options that the safe crates have no name for. The rest of `sys` and
//! the transports drive it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Sets an option that is one integer.
pub(crate) fn set(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is one int that lives on for the call, and its size is
    // given; the descriptor is open as long as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as _,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
