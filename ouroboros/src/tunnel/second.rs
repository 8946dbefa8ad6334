//! A second thread that takes one direction over, by value, while both are
//! busy, and gives it back when it is idle. Driven by a worker.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};

use super::TunnelError;

/// The thread that takes over the inbound direction.
pub(super) struct Second<W> {
    work: SyncSender<W>,
    back: Receiver<Result<W, TunnelError>>,
    gave_back: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl<W: Send + 'static> Second<W> {
    /// `until_idle` does the work until there is none for a while.
    pub(super) fn start(
        mut until_idle: impl FnMut(&mut W) -> Result<(), TunnelError> + Send + 'static,
    ) -> io::Result<Self> {
        let (work, to_do) = sync_channel::<W>(1);
        let (done, back) = sync_channel(1);
        let gave_back = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let signal = gave_back.clone();
        let builder = thread::Builder::new().name("tunnel-in".to_owned());
        let thread = builder.spawn(move || {
            for mut work in to_do {
                let result = until_idle(&mut work).map(|()| work);
                if done.send(result).is_err() {
                    return;
                }
                // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
                let _ = rustix::io::write(&signal, &1u64.to_ne_bytes());
            }
        })?;
        Ok(Self { work, back, gave_back, thread })
    }

    /// Waits for the thread's end. The flow has ended, so that it does not hold
    /// on to work.
    pub(super) fn end(self) {
        drop((self.work, self.back));
        let _ = self.thread.join();
    }

    pub(super) fn give(&self, work: W) -> io::Result<()> {
        self.work.send(work).map_err(|_| gone())
    }

    /// Readable when the work has come back.
    pub(super) fn gave_back(&self) -> BorrowedFd<'_> {
        self.gave_back.as_fd()
    }

    pub(super) fn take(&self) -> Result<W, TunnelError> {
        let _ = rustix::io::read(&*self.gave_back, &mut [0u8; 8]);
        self.back.recv().map_err(|_| TunnelError::from(gone()))?
    }
}

fn gone() -> io::Error {
    io::Error::other("a packet thread ended unexpectedly")
}
