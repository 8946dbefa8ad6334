//! Messages to a peer that was given up: that the flow has ended, again and again, since the
//! peer may be alive and out of reach.

use std::time::Duration;

use crate::proto::native::Transmit;

const INTERVAL: Duration = Duration::from_millis(500);
/// It is not said for longer, whatever the flow's timeout.
const LONGEST: Duration = Duration::from_secs(120);

/// A sealed message that ends the flow, and when it is sent.
#[derive(Debug)]
pub(super) struct Farewell {
    frame: Vec<u8>,
    next: Duration,
    until: Duration,
    pending: bool,
}

impl Farewell {
    /// `frame` is sent at once, and then until the peer has given the flow up by
    /// its own `timeout`.
    pub(super) fn new(now: Duration, frame: Vec<u8>, timeout: Duration) -> Self {
        let until = now + timeout.min(LONGEST);
        Self { frame, next: now + INTERVAL, until, pending: true }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        let frame = std::mem::take(&mut self.pending).then(|| self.frame.clone())?;
        Some(Transmit { to: None, frame })
    }

    pub(super) fn poll_timeout(&self) -> Duration {
        self.next.min(self.until)
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }

    /// Returns `true` if the message is to leave now.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> bool {
        let due = now >= self.next && !self.is_over(now);
        if due {
            self.next = now + INTERVAL;
            self.pending = true;
        }
        due
    }
}
