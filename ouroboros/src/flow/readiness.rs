//! Waits for a path in the reactor of the calling task, so that no other thread
//! stands between the socket and the caller: Tokio's inside of a Tokio runtime
//! (feature `tokio`), async-io's elsewhere. A path is registered where it is
//! first waited for. Not here: the background thread's own poller (`driver`).

#[cfg(feature = "tokio")]
use std::os::fd::OwnedFd;
use std::{
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_io::Async;

use crate::{sync::lock, transport::Path};

/// A path as something that a reactor can watch.
enum Source {
    Path(Arc<dyn Path>),
    /// Another descriptor of the same socket.
    #[cfg(feature = "tokio")]
    Duplicate(OwnedFd),
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Path(path) => path.readiness(),
            #[cfg(feature = "tokio")]
            Self::Duplicate(descriptor) => descriptor.as_fd(),
        }
    }
}

#[cfg(feature = "tokio")]
impl std::os::fd::AsRawFd for Source {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.as_fd())
    }
}

/// The kind of readiness to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
}

/// Ready when the path may be.
pub(crate) type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Readiness of one path, to be waited for after the path has said
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(crate) struct Readiness {
    path: Arc<dyn Path>,
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    async_io: Option<Arc<Async<Source>>>,
    /// To be read: with the runtime that it is registered at.
    #[cfg(feature = "tokio")]
    readable: Option<AtTokio>,
    /// To be written, by a descriptor of its own and only where that was waited for: a
    /// reader would be woken for each packet that has left.
    #[cfg(feature = "tokio")]
    writable: Option<AtTokio>,
}

#[cfg(feature = "tokio")]
type AtTokio = (tokio::runtime::Id, Arc<tokio::io::unix::AsyncFd<Source>>);

enum Reactor {
    AsyncIo(Arc<Async<Source>>),
    #[cfg(feature = "tokio")]
    Tokio(Arc<tokio::io::unix::AsyncFd<Source>>),
}

impl Reactor {
    async fn wait(self, interest: Interest) -> io::Result<()> {
        match (self, interest) {
            (Self::AsyncIo(source), Interest::Readable) => source.readable().await,
            (Self::AsyncIo(source), Interest::Writable) => source.writable().await,
            // What is cleared is what was known before the path is tried again.
            #[cfg(feature = "tokio")]
            (Self::Tokio(source), Interest::Readable) => {
                source.readable().await?.clear_ready();
                Ok(())
            }
            #[cfg(feature = "tokio")]
            (Self::Tokio(source), Interest::Writable) => {
                source.writable().await?.clear_ready();
                Ok(())
            }
        }
    }
}

impl Readiness {
    pub(crate) fn new(path: Arc<dyn Path>) -> Self {
        Self { path, registered: Mutex::default() }
    }

    /// Waits until the path may be ready. Cancel safe.
    ///
    /// # Errors
    ///
    /// The path cannot be watched, or the runtime is shutting down.
    pub(crate) async fn wait(&self, interest: Interest) -> io::Result<()> {
        self.reactor(interest)?.wait(interest).await
    }

    /// Like [`wait`](Self::wait), as a future to be kept: for a task that waits beside the
    /// one that [polls](Self::poll).
    ///
    /// # Errors
    ///
    /// The path cannot be watched.
    pub(crate) fn wait_beside(&self, interest: Interest) -> io::Result<Wait> {
        Ok(Box::pin(self.reactor(interest)?.wait(interest)))
    }

    /// Like [`wait`](Self::wait), for one task at a time: the waker of an
    /// earlier call is replaced.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        match (self.reactor(interest)?, interest) {
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

    /// Like [`poll`](Self::poll), before the path is tried, where the reactor remembers what
    /// it has told (Tokio's): what it knows already is of a packet that was received. Where
    /// it does not, `Ready` says nothing.
    pub(crate) fn poll_before(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        #[cfg(feature = "tokio")]
        if tokio::runtime::Handle::try_current().is_ok() {
            return self.poll(context, interest);
        }
        let _ = (context, interest);
        Poll::Ready(Ok(()))
    }

    fn reactor(&self, interest: Interest) -> io::Result<Reactor> {
        let mut registered = lock(&self.registered);
        #[cfg(feature = "tokio")]
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let id = runtime.id();
            let place = match interest {
                Interest::Readable => &mut registered.readable,
                Interest::Writable => &mut registered.writable,
            };
            if let Some((_, source)) = place.as_ref().filter(|(at, _)| *at == id) {
                return Ok(Reactor::Tokio(source.clone()));
            }
            let source = Arc::new(register(&self.path, interest)?);
            *place = Some((id, source.clone()));
            return Ok(Reactor::Tokio(source));
        }
        #[cfg(not(feature = "tokio"))]
        let _ = interest;
        if let Some(source) = &registered.async_io {
            return Ok(Reactor::AsyncIo(source.clone()));
        }
        let source = Arc::new(Async::new_nonblocking(Source::Path(self.path.clone()))?);
        registered.async_io = Some(source.clone());
        Ok(Reactor::AsyncIo(source))
    }
}

#[cfg(feature = "tokio")]
fn register(
    path: &Arc<dyn Path>,
    interest: Interest,
) -> io::Result<tokio::io::unix::AsyncFd<Source>> {
    use tokio::io::Interest as Wanted;
    let (source, wanted) = match interest {
        Interest::Readable => (Source::Path(path.clone()), Wanted::READABLE),
        Interest::Writable => {
            (Source::Duplicate(path.readiness().try_clone_to_owned()?), Wanted::WRITABLE)
        }
    };
    crate::sys::reactor::register(source, wanted)
}
