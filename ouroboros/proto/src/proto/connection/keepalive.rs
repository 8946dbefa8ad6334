//! Liveness of a flow whose format has no control messages: an empty frame after
//! a quarter of the timeout without traffic, and the flow's end after a whole
//! one of silence (WIRE.md, "Packets of a flow").

use std::time::Duration;

use crate::proto::native::Transmit;

#[derive(Debug)]
pub(super) struct Keepalive {
    /// Zero: none is sent, and silence means nothing.
    timeout: Duration,
    sent: Duration,
    heard: Duration,
    pending: bool,
}

impl Keepalive {
    pub(super) fn new(now: Duration, timeout: Duration) -> Self {
        Self { timeout, sent: now, heard: now, pending: false }
    }

    pub(super) fn traffic(&mut self, sent: Duration, heard: Duration) {
        self.sent = self.sent.max(sent);
        self.heard = self.heard.max(heard);
    }

    fn interval(&self) -> Duration {
        (self.timeout / 4).max(Duration::from_millis(1))
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let due = (self.sent + self.interval()).min(self.heard + self.timeout);
        (!self.timeout.is_zero()).then_some(due)
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        std::mem::take(&mut self.pending).then_some(Transmit { to: None, frame: Vec::new() })
    }

    /// Returns `true` if the peer has been silent for too long.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> bool {
        if self.timeout.is_zero() {
            return false;
        }
        if now >= self.heard + self.timeout {
            return true;
        }
        if now >= self.sent + self.interval() {
            self.sent = now;
            self.pending = true;
        }
        false
    }
}
