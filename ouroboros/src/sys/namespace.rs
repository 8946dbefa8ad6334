//! Network namespaces: a socket belongs to that of the thread which opens it. The
//! background thread opens sockets for IPCPs that were bootstrapped by threads in
//! others; a TUN device may be moved to another. Transports and `tun` ask. No `unsafe`
//! is needed here.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use rustix::{
    fs::{Stat, fstat, stat},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::log::Limited;

static NOT_ENTERED: Limited = Limited::new();

const OWN: &str = "/proc/thread-self/ns/net";

/// The network namespace of a thread.
#[derive(Debug)]
pub(crate) struct NetworkNamespace(Option<File>);

impl NetworkNamespace {
    /// Returns the network namespace of the calling thread.
    pub(crate) fn current() -> Self {
        // Where /proc is hidden there is nothing to compare, and nothing to enter.
        Self(File::open(OWN).ok())
    }

    /// Returns the network namespace that the descriptor refers to.
    pub(crate) fn of(namespace: OwnedFd) -> Self {
        Self(Some(File::from(namespace)))
    }

    /// Does `work` in the namespace: in this thread if it is in it, else in a thread
    /// of its own, which leaves this one where it is. Where the namespace cannot be
    /// entered, in this one's.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.enter(|entered| {
            if let Err(error) = entered
                && let Some(times) = NOT_ENTERED.report()
            {
                tracing::warn!(%error, times, "an IPCP's network namespace cannot be entered");
            }
            work()
        })
    }

    /// The same, but nothing is done elsewhere.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub(crate) fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.enter(|entered| entered.map(|()| work()))
    }

    fn enter<T: Send>(&self, work: impl FnOnce(io::Result<()>) -> T + Send) -> T {
        let Some(namespace) = self.0.as_ref().filter(|namespace| !is_current(namespace)) else {
            return work(Ok(()));
        };
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                work(move_into_link_name_space(namespace.as_fd(), kind).map_err(io::Error::from))
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn is_current(namespace: &File) -> bool {
    let identity = |status: Stat| (status.st_dev, status.st_ino);
    // Where /proc is hidden there is nothing to compare.
    stat(OWN).map_or(true, |own| fstat(namespace).is_ok_and(|it| identity(it) == identity(own)))
}
