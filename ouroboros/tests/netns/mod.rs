//! A network namespace for a test: its own `lo`, its own ports, nobody else's
//! frames. For tests of sockets; needs root (or a user namespace around the
//! test) and `ip`.

use std::{process::Command, thread};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` on a thread in a fresh network namespace whose `lo` is up.
///
/// # Panics
///
/// If `test` does, and, saying so, where this process may not make namespaces.
#[allow(unsafe_code)]
pub(crate) fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: a network namespace of its own changes nothing that this
        // thread shares with others; file descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect(
            "this test makes a network namespace: run it as root, or within `unshare --user \
             --map-root-user`",
        );
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("this test needs the `ip` command").success(), "lo does not come up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
