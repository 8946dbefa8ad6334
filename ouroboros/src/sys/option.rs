//! Socket options that the safe crates have no name for. The rest of `sys` and
//! the transports drive it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
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

/// Which network namespace the socket is in, as a number that no other one has.
/// `None`: a kernel before 5.14, which does not tell.
pub(crate) fn network_namespace(socket: impl AsFd) -> Option<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, those of the number, which
    // lives on for the call; the descriptor is open as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    (result == 0).then_some(cookie)
}

/// Returns how many packets the socket has dropped since it was made because its buffer for
/// receiving was full, as a number that begins anew at 2^32. `None`: the kernel does not tell.
pub(crate) fn drops(socket: impl AsFd) -> Option<u32> {
    /// `SK_MEMINFO_DROPS`, the last of the values.
    const DROPS: usize = 8;
    let mut values = [0_u32; DROPS + 1];
    let mut size = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, those of the array, which lives on
    // for the call; the descriptor is open as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut values).cast(),
            &raw mut size,
        )
    };
    (result == 0 && size as usize == size_of_val(&values)).then_some(values[DROPS])
}

/// When the packet received last had arrived, since 1970. `None` if none has
/// since the first call, which has the kernel keep these times.
pub(crate) fn last_arrival(socket: impl AsFd) -> Option<Duration> {
    /// `SIOCGSTAMPNS` with a timespec as this machine has it.
    const ARRIVAL: libc::c_ulong = 0x8907;
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the code writes one timespec, which lives on for the call; the
    // descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), ARRIVAL as _, &raw mut at) };
    let (seconds, rest) = (u64::try_from(at.tv_sec).ok()?, u32::try_from(at.tv_nsec).ok()?);
    (result == 0 && seconds > 0).then(|| Duration::new(seconds, rest))
}
