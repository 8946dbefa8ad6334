//! Network namespaces: a socket belongs to that of the thread which opens it. The
//! background thread opens sockets for IPCPs that were bootstrapped by threads in
//! others; `ipcp` asks. No `unsafe` is needed here.

use std::{fs::File, os::fd::AsFd, thread};

use rustix::{
    fs::fstat,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::log::Limited;

static NOT_ENTERED: Limited = Limited::new();

const OWN: &str = "/proc/thread-self/ns/net";

/// The network namespace of a thread.
#[derive(Debug)]
pub(crate) struct NetworkNamespace(Option<File>);

impl NetworkNamespace {
    /// That of the calling thread.
    pub(crate) fn current() -> Self {
        // Where /proc is hidden there is nothing to compare, and nothing to enter.
        Self(File::open(OWN).ok())
    }

    /// Does `work` in the namespace: in this thread if it is in it, else in a thread
    /// of its own, which leaves this one where it is.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(namespace) = self.0.as_ref().filter(|namespace| !is_current(namespace)) else {
            return work();
        };
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                if let Err(error) =
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    && let Some(times) = NOT_ENTERED.report()
                {
                    tracing::warn!(%error, times, "an IPCP's network namespace cannot be entered");
                }
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn is_current(namespace: &File) -> bool {
    let identity = |file: &File| fstat(file).ok().map(|status| (status.st_dev, status.st_ino));
    File::open(OWN).is_ok_and(|own| identity(&own) == identity(namespace))
}
