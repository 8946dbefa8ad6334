//! The ends of what a reliable flow carries: finished, given up, refused. Not here: what
//! a stream makes of them (`stream`).

use std::{
    io,
    sync::{Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use event_listener::EventListener;
use futures_lite::future;

use super::{
    Flow, LOOKS, Pollers,
    readiness::{Interest, Wait},
    shared::{CLOSED, Shared},
};
use crate::{error::FlowError, sync::lock};

impl Flow {
    /// Writes as much of `data` as there is room for, as packets of any size.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, FlowError>> {
        self.poll_written(context, |shared| shared.write_stream(data))
    }

    /// As [`poll_write`](Self::poll_write), without copying `data`.
    pub(super) fn poll_write_owned(
        &self,
        context: &mut Context<'_>,
        data: &Bytes,
    ) -> Poll<Result<usize, FlowError>> {
        self.poll_written(context, |shared| shared.write_stream_owned(data))
    }

    /// Ready when `write` has written something.
    fn poll_written(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&Shared) -> Result<usize, FlowError>,
    ) -> Poll<Result<usize, FlowError>> {
        let Pollers { send, acknowledged: [acknowledged, _], writing, .. } = &self.pollers;
        ready!(writing.poll(context));
        let written = self.poll_acknowledged(context, (send, acknowledged), || {
            let count = if self.is_ready()? { write(&self.shared)? } else { 0 };
            Ok(Some(count).filter(|count| *count > 0))
        });
        writing.count_polled(&written);
        written
    }

    /// Says that nothing more is written; ready when the peer has all that was.
    pub(super) fn poll_finish(&self, context: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let Pollers { finish, acknowledged: [_, acknowledged], .. } = &self.pollers;
        self.poll_acknowledged(context, (finish, acknowledged), || {
            let finished = self.shared.finish_order()?;
            if !finished {
                self.shared.check()?;
            }
            Ok(finished.then_some(()))
        })
    }

    /// Ready when `attempt` has succeeded, which waits for what the peer acknowledges: that
    /// is read here, so that no other thread stands between the socket and who writes.
    fn poll_acknowledged<T>(
        &self,
        context: &mut Context<'_>,
        (changes, acknowledged): (&Mutex<Option<EventListener>>, &Mutex<Option<Wait>>),
        mut attempt: impl FnMut() -> Result<Option<T>, FlowError>,
    ) -> Poll<Result<T, FlowError>> {
        let mut attempt = || {
            let done = attempt()?;
            if done.is_some() {
                // What comes next is not this task's to hear of.
                lock(acknowledged).take();
            }
            Ok::<_, FlowError>(done)
        };
        for _ in 0..LOOKS {
            if let Some(done) = attempt()? {
                return Poll::Ready(Ok(done));
            }
            // What comes after this is told.
            let waits = self.poll_readable_beside(context, acknowledged)?.is_pending();
            // Of what is read here this task needs no word.
            lock(changes).take();
            self.shared.reads.fetch_add(1, Relaxed);
            if !waits || !self.shared.is_drained() {
                self.shared.read_unread();
            }
            let changed = self.poll_changes(changes, context);
            if let Some(done) = attempt()? {
                return Poll::Ready(Ok(done));
            }
            if waits && !changed {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready once there may be something to read, whoever else waits for that.
    fn poll_readable_beside(
        &self,
        context: &mut Context<'_>,
        kept: &Mutex<Option<Wait>>,
    ) -> Poll<io::Result<()>> {
        let mut kept = lock(kept);
        // One that fails may be of a runtime that has ended: there may be another.
        let earlier = match kept.as_mut().map(|wait| wait.as_mut().poll(context)) {
            Some(Poll::Ready(Err(_))) | None => None,
            polled => polled,
        };
        let polled = earlier.unwrap_or_else(|| {
            let wait = kept.insert(self.readiness.wait_beside(Interest::Readable)?);
            wait.as_mut().poll(context)
        });
        if polled.is_ready() {
            *kept = None;
            self.shared.note_told_readable();
        }
        polled
    }

    /// Says that nothing more will be sent, and waits until the peer's end of the flow
    /// has everything; its program need not have received it yet. Receiving goes on, and
    /// the peer that has received everything gets [`FlowError::EndOfStream`]. Towards a
    /// 0.23 peer, whose protocol cannot say that, this only waits.
    ///
    /// For one task at a time. Cancel safe: what was said stays said.
    ///
    /// # Errors
    ///
    /// The flow has ended before the peer had everything, or the peer wants no more.
    pub async fn finish(&self) -> Result<(), FlowError> {
        future::poll_fn(|context| self.poll_finish(context)).await
    }

    /// Ends the flow at once: what the peer has not received is dropped, and it is told
    /// `code` ([`FlowError::Aborted`]), if the flow is reliable and in the native
    /// profile.
    pub fn abort(&self, code: u32) {
        self.shared.abort_order(code);
        self.shared.end(CLOSED);
    }

    /// Says that nothing more will be sent, waits until the peer's end of the flow has
    /// everything, and closes the flow. The peer receives everything, and then
    /// [`FlowError::ClosedWith`] `code` and `reason` (of which the first 128 bytes are
    /// sent). A 0.23 peer, and that of a plain flow, gets neither code nor reason.
    ///
    /// Cancel safe: what was said stays said, and the flow is open still.
    ///
    /// ```
    /// # use ouroboros::{FlowError, FlowSpec, Irm, transport::memory::Network};
    /// # futures_lite::future::block_on(async {
    /// # let network = Network::new();
    /// # let (server, client) = (Irm::new(), Irm::new());
    /// # server.bootstrap("l", network.station()).await?.register("echo").await?;
    /// # client.bootstrap("l", network.station()).await?;
    /// # let spec = FlowSpec::reliable().encrypted();
    /// # let both = futures_lite::future::zip(server.accept("echo"), client.allocate("echo", spec));
    /// # let (accepted, flow) = both.await;
    /// # let (accepted, flow) = (accepted?, flow?);
    /// flow.send(b"the last message").await?;
    /// flow.close_with(7, "done").await?;
    /// assert_eq!(accepted.recv_vec().await?, b"the last message");
    /// let Err(FlowError::ClosedWith(why)) = accepted.recv_vec().await else { panic!() };
    /// assert_eq!((why.code, &why.reason[..]), (7, &b"done"[..]));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish): the peer may not have all that was sent. The flow is
    /// closed all the same.
    pub async fn close_with(&self, code: u32, reason: impl AsRef<[u8]>) -> Result<(), FlowError> {
        let finished = match self.shared.finish_order_with(code, reason.as_ref()) {
            Ok(_) => self.finish().await,
            Err(error) => Err(error),
        };
        self.close();
        finished
    }

    /// Says that nothing more will be received, for the reason `code`: what has not been
    /// received is dropped, and sending fails at the peer with [`FlowError::Stopped`].
    /// Of no effect on a flow that is not in the reliable profile.
    pub fn stop(&self, code: u32) {
        self.shared.stop_order(code);
    }
}
