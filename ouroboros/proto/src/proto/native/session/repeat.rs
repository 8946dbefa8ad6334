//! When something is said again.

use std::time::Duration;

/// The first wait, unless something speaks for another.
pub(super) const RETRY: Duration = Duration::from_millis(250);
const SLOWEST_RETRY: Duration = Duration::from_secs(4);

/// Repetition with a wait that is twice as long each time, up to a limit.
pub(super) struct Repeat {
    next: Duration,
    wait: Duration,
}

impl Repeat {
    /// Said at `now`, to be said again after `wait`.
    pub(super) fn new(now: Duration, wait: Duration) -> Self {
        Self { next: now + wait, wait }
    }

    /// When it is due.
    pub(super) fn next(&self) -> Duration {
        self.next
    }

    /// Returns `true` if it is due, and if so, is said.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        let due = self.next <= now;
        if due {
            *self = Self::new(now, (self.wait * 2).min(SLOWEST_RETRY));
        }
        due
    }
}
