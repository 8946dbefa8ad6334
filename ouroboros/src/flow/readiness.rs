//! Waits for a path in the reactor of the calling task, so that no other thread
//! stands between the socket and the caller: Tokio's inside of a Tokio runtime
//! (feature `tokio`), async-io's elsewhere. A path is registered where it is
//! first waited for. Not here: the background thread's own poller (`driver`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_io::Async;

use crate::{sync::lock, transport::Path};

/// A path as something that a reactor can watch.
#[derive(Clone)]
struct Source(Arc<dyn Path>);

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.readiness()
    }
}

#[cfg(feature = "tokio")]
impl std::os::fd::AsRawFd for Source {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.as_fd())
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
}

/// Readiness of one path, to be waited for after the path has said
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(crate) struct Readiness {
    source: Source,
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    async_io: Option<Arc<Async<Source>>>,
    /// With the runtime that it is registered at.
    #[cfg(feature = "tokio")]
    tokio: Option<(tokio::runtime::Id, Arc<tokio::io::unix::AsyncFd<Source>>)>,
}

enum Reactor {
    AsyncIo(Arc<Async<Source>>),
    #[cfg(feature = "tokio")]
    Tokio(Arc<tokio::io::unix::AsyncFd<Source>>),
}

impl Readiness {
    pub(crate) fn new(path: Arc<dyn Path>) -> Self {
        Self { source: Source(path), registered: Mutex::default() }
    }

    /// Waits until the path may be ready. Cancel safe.
    ///
    /// # Errors
    ///
    /// The path cannot be watched, or the runtime is shutting down.
    pub(crate) async fn wait(&self, interest: Interest) -> io::Result<()> {
        match (self.reactor()?, interest) {
            (Reactor::AsyncIo(source), Interest::Readable) => source.readable().await,
            (Reactor::AsyncIo(source), Interest::Writable) => source.writable().await,
            // What is cleared is what was known before the path is tried again.
            #[cfg(feature = "tokio")]
            (Reactor::Tokio(source), Interest::Readable) => {
                source.readable().await?.clear_ready();
                Ok(())
            }
            #[cfg(feature = "tokio")]
            (Reactor::Tokio(source), Interest::Writable) => {
                source.writable().await?.clear_ready();
                Ok(())
            }
        }
    }

    /// Like [`wait`](Self::wait), for one task at a time: the waker of an
    /// earlier call is replaced.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        match (self.reactor()?, interest) {
            (Reactor::AsyncIo(source), Interest::Readable) => source.poll_readable(context),
            (Reactor::AsyncIo(source), Interest::Writable) => source.poll_writable(context),
            #[cfg(feature = "tokio")]
            (Reactor::Tokio(source), Interest::Readable) => {
                std::task::ready!(source.poll_read_ready(context))?.clear_ready();
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "tokio")]
            (Reactor::Tokio(source), Interest::Writable) => {
                std::task::ready!(source.poll_write_ready(context))?.clear_ready();
                Poll::Ready(Ok(()))
            }
        }
    }

    fn reactor(&self) -> io::Result<Reactor> {
        let mut registered = lock(&self.registered);
        #[cfg(feature = "tokio")]
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let id = runtime.id();
            if let Some((_, source)) = registered.tokio.as_ref().filter(|(at, _)| *at == id) {
                return Ok(Reactor::Tokio(source.clone()));
            }
            let source = Arc::new(crate::sys::reactor::register(self.source.clone())?);
            registered.tokio = Some((id, source.clone()));
            return Ok(Reactor::Tokio(source));
        }
        if let Some(source) = &registered.async_io {
            return Ok(Reactor::AsyncIo(source.clone()));
        }
        let source = Arc::new(Async::new_nonblocking(self.source.clone())?);
        registered.async_io = Some(source.clone());
        Ok(Reactor::AsyncIo(source))
    }
}
