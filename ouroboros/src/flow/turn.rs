//! How much a task reads or writes of a flow before others of its thread have their turn:
//! a bulk transfer that never waits would keep a small flow's task from its packet. Not
//! here: what may be written at all (`proto::reliable`).

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use futures_lite::future;

/// Bytes of a turn: one segmented send, some tens of microseconds' work.
const TURN: usize = 64 * 1024;

/// Bytes that were moved since the task waited last.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicUsize);

impl Turn {
    /// Counts `bytes` that were read or written.
    pub(super) fn count(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }

    /// Counts the bytes that a poll has read or written, or notes that it waits.
    pub(super) fn count_polled<E>(&self, polled: &Poll<Result<usize, E>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => self.count(*bytes),
            Poll::Ready(Err(_)) | Poll::Pending => self.end(),
        }
    }

    /// The task waits for the network: the next turn begins.
    pub(super) fn end(&self) {
        self.0.store(0, Relaxed);
    }

    /// `Pending` once at the end of a turn; the task is woken when others have had theirs.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.load(Relaxed) < TURN {
            return Poll::Ready(());
        }
        self.end();
        yield_to_others(context);
        Poll::Pending
    }

    /// At the end of a turn, waits until others have had theirs.
    pub(super) async fn wait(&self) {
        future::poll_fn(|context| self.poll(context)).await;
    }
}

/// Has the task polled again behind the others, and behind what the reactor has to tell.
fn yield_to_others(context: &mut Context<'_>) {
    #[cfg(feature = "tokio")]
    {
        use std::{future::Future, pin::pin};
        // Tokio looks at its reactor before it comes back, which a wake does not ask for.
        let _ = pin!(tokio::task::yield_now()).poll(context);
    }
    #[cfg(not(feature = "tokio"))]
    context.waker().wake_by_ref();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_never_waits_lets_others_run_after_a_turn() {
        let turn = Turn::default();
        let ready = |turn: &Turn| {
            future::block_on(future::poll_once(future::poll_fn(|context| turn.poll(context))))
        };
        turn.count(TURN - 1);
        assert_eq!(ready(&turn), Some(()));
        turn.end();
        turn.count(TURN - 1);
        assert_eq!(ready(&turn), Some(()), "it has waited meanwhile");
        turn.count(1);
        assert_eq!(ready(&turn), None);
        assert_eq!(ready(&turn), Some(()), "others have had their turn");
        turn.count(TURN);
        // It is woken: this ends.
        future::block_on(future::poll_fn(|context| turn.poll(context)));
    }
}
