//! A line of the log that is written no more than once in a while.

use std::time::{Duration, Instant};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts what happens between two lines.
#[derive(Debug, Default)]
pub(super) struct Limited {
    reported: Option<Instant>,
    times: u64,
}

impl Limited {
    /// It has happened: how often since the last line, if another is due.
    pub(super) fn report(&mut self) -> Option<u64> {
        self.times += 1;
        if self.reported.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        self.reported = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}
