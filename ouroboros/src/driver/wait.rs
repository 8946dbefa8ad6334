//! Futures of the background thread's timers and poller: for its own tasks, and
//! for others where a hand-over between threads does not matter.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    monotonic,
    registry::{Attended, Cause, Registration},
};
use crate::sync::lock;

#[derive(Default)]
struct Wakeup {
    called: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Attended for Wakeup {
    fn attend(self: Arc<Self>, _cause: Cause) {
        self.called.store(true, SeqCst);
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }
}

impl Wakeup {
    fn registered(self: &Arc<Self>) -> Registration {
        let wakeup = Arc::downgrade(self);
        Registration::new(wakeup)
    }

    /// Returns `true` if it was called since it was asked last; wakes `context` when it is.
    fn poll(&self, context: &Context<'_>) -> bool {
        // The waker first: a call in between is seen below.
        *lock(&self.waker) = Some(context.waker().clone());
        self.called.swap(false, SeqCst)
    }
}

/// Waits until monotonic time says `due`; for ever if nothing is due.
/// Cancel safe.
pub(crate) fn sleep_until(due: Option<Duration>) -> impl Future<Output = ()> + Send + Sync {
    let mut registered: Option<(Arc<Wakeup>, Registration)> = None;
    poll_fn(move |context| {
        let Some(due) = due else { return Poll::Pending };
        if monotonic() >= due {
            return Poll::Ready(());
        }
        let (wakeup, registration) = registered.get_or_insert_with(|| {
            let wakeup = Arc::<Wakeup>::default();
            let registration = wakeup.registered();
            (wakeup, registration)
        });
        wakeup.poll(context);
        registration.schedule(Some(due));
        if monotonic() >= due { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// A source that the background thread watches.
pub(crate) struct Watch<T: AsFd> {
    source: T,
    wakeup: Arc<Wakeup>,
    registration: Registration,
    armed: AtomicBool,
}

impl<T: AsFd> Watch<T> {
    pub(crate) fn new(source: T) -> Self {
        let wakeup = Arc::<Wakeup>::default();
        let registration = wakeup.registered();
        Self { source, wakeup, registration, armed: AtomicBool::new(false) }
    }

    pub(crate) fn source(&self) -> &T {
        &self.source
    }

    /// Waits until there may be something to read; for one task at a time.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The source cannot be watched.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            if self.wakeup.poll(context) {
                self.armed.store(false, SeqCst);
                return Poll::Ready(Ok(()));
            }
            if !self.armed.swap(true, SeqCst)
                && let Err(error) = self.registration.arm(self.source.as_fd())
            {
                self.armed.store(false, SeqCst);
                return Poll::Ready(Err(error));
            }
            Poll::Pending
        })
        .await
    }
}

impl<T: AsFd> Drop for Watch<T> {
    fn drop(&mut self) {
        self.registration.disarm(self.source.as_fd());
    }
}
