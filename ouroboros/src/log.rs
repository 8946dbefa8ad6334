//! Lines of the log that a peer, or a resource that is used up, could repeat for ever:
//! each is written once in a while, with how often it happened. Not here: what is
//! written (`tracing`).

use std::{sync::Mutex, time::Duration};

use crate::{driver, sync::lock};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts what happens between two lines: at most one is due in 10 s.
///
/// ```
/// use ouroboros::log::Limited;
///
/// static REFUSED: Limited = Limited::new();
/// let lines = (0..1_000).filter_map(|_| REFUSED.report()).collect::<Vec<_>>();
/// assert_eq!(lines, [1]);
/// ```
#[derive(Debug, Default)]
pub struct Limited(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    reported: Option<Duration>,
    times: u64,
}

impl Limited {
    /// Nothing has happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Counted { reported: None, times: 0 }))
    }

    /// Counts that it has happened. Returns how often it has since the last line if
    /// another is due.
    pub fn report(&self) -> Option<u64> {
        self.report_at(driver::monotonic())
    }

    /// The same at the monotonic time `now`.
    pub(crate) fn report_at(&self, now: Duration) -> Option<u64> {
        let mut counted = lock(&self.0);
        counted.times += 1;
        if counted.reported.is_some_and(|at| now.saturating_sub(at) < INTERVAL) {
            return None;
        }
        counted.reported = Some(now);
        Some(std::mem::take(&mut counted.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_a_while_and_says_how_often() {
        let limited = Limited::new();
        let lines: Vec<_> = (0..3_000u32)
            .filter_map(|tick| limited.report_at(tick * Duration::from_millis(10)))
            .collect();
        assert_eq!(lines, [1, 1000, 1000]);
    }
}
