//! The ends of what a reliable flow carries: finished, given up, refused. Not here: what
//! a stream makes of them (`stream`).

use std::task::{Context, Poll};

use futures_lite::future;

use super::{Flow, shared::CLOSED};
use crate::error::FlowError;

impl Flow {
    /// Writes as much of `data` as there is room for, as packets of any size. What makes
    /// room is read by the background thread, or who reads.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, FlowError>> {
        let mut listens = false;
        loop {
            if self.is_ready()? {
                match self.shared.write_stream(data)? {
                    0 => {}
                    count => return Poll::Ready(Ok(count)),
                }
            }
            if listens {
                return Poll::Pending;
            }
            listens = !self.poll_changes(&self.pollers.send, context);
        }
    }

    /// Says that nothing more is written; ready when the peer has all that was.
    pub(super) fn poll_finish(&self, context: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let mut listens = false;
        loop {
            if self.shared.finish_order()? {
                return Poll::Ready(Ok(()));
            }
            self.shared.check()?;
            if listens {
                return Poll::Pending;
            }
            listens = !self.poll_changes(&self.pollers.finish, context);
        }
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
