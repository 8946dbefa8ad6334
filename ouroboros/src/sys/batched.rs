//! Many datagrams in one system call, on connected or bound sockets. The
//! transports drive it.

use std::{
    io, mem,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

/// Frames in one call, at most.
pub(crate) const FRAMES: usize = 64;

fn headers() -> ([libc::iovec; FRAMES], [libc::mmsghdr; FRAMES]) {
    // SAFETY: both are plain integers and pointers; zero (null) is valid.
    unsafe { (mem::zeroed(), mem::zeroed()) }
}

fn call(what: impl Fn() -> libc::c_int) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(what()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends the frames that `frame(0)`, `frame(1)`, … cut out of `bytes`, at most
/// `count` and 64 of them; says how many left. An error is the first frame's.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    count: usize,
    frame: impl Fn(usize) -> Range<usize>,
) -> io::Result<usize> {
    let (mut vectors, mut messages) = headers();
    let count = count.min(FRAMES);
    for i in 0..count {
        let frame = &bytes[frame(i)];
        vectors[i] =
            libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        messages[i].msg_hdr.msg_iov = &raw mut vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    let (fd, messages) = (socket.as_fd(), messages.as_mut_ptr());
    // SAFETY: the first `count` headers point to vectors and these into
    // `bytes`, all alive for the call; sending doesn't write to them.
    call(|| unsafe { libc::sendmmsg(fd.as_raw_fd(), messages, count as _, libc::MSG_DONTWAIT) })
}

/// Receives up to 64 datagrams into pieces of `piece` bytes of `buffer` and
/// calls `each` with where every one is. A datagram larger than its piece is
/// dropped.
pub(crate) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    piece: usize,
    mut each: impl FnMut(&mut [u8], Range<usize>),
) -> io::Result<()> {
    let (mut vectors, mut messages) = headers();
    let piece = piece.clamp(1, buffer.len().max(1));
    let mut count = 0;
    for (i, part) in buffer.chunks_exact_mut(piece).take(FRAMES).enumerate() {
        vectors[i] = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
        messages[i].msg_hdr.msg_iov = &raw mut vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let (fd, pointer) = (socket.as_fd(), messages.as_mut_ptr());
    // SAFETY: the first `count` headers point to vectors and these to separate
    // pieces of `buffer`, all alive and exclusively borrowed for the call.
    let received = call(|| unsafe {
        libc::recvmmsg(fd.as_raw_fd(), pointer, count as _, libc::MSG_DONTWAIT, ptr::null_mut())
    })?;
    for (i, message) in messages.iter().enumerate().take(received) {
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 {
            let start = i * piece;
            each(buffer, start..start + (message.msg_len as usize).min(piece));
        }
    }
    Ok(())
}
