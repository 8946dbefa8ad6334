//! Attempts at something that may work later: the waits between them, and one line for
//! each reason. Not here: how long the waits are (`backoff`).

use std::time::Instant;

use async_std::task;
use ouroboros::crypto::SystemEntropy;

use super::{backoff::Backoff, subject::Subject};
use crate::service;

/// Different reasons that are remembered; one of more is said again.
const MOST_REASONS: usize = 8;

/// A series of attempts.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    subject: Subject,
    backoff: Backoff,
    last: Option<Instant>,
    said: Vec<String>,
}

impl Attempts {
    /// Attempts at what `subject` says.
    pub(super) fn at(subject: Subject) -> Self {
        Self { subject, ..Self::default() }
    }

    /// Waits until the next attempt is due. Waits are counted from the attempt before, so
    /// that one that takes long is followed by another at once.
    pub(super) async fn pause(&mut self) {
        let wait = self.backoff.next(&mut SystemEntropy);
        let elapsed = self.last.map(|last| last.elapsed()).unwrap_or_default();
        task::sleep(wait.saturating_sub(elapsed)).await;
        self.last = Some(Instant::now());
    }

    /// Prints why an attempt has failed, unless that was printed before.
    pub(super) fn say(&mut self, line: &str) {
        if self.is_new(line) {
            self.subject.print(line);
            service::status(line);
        }
    }

    /// Has every reason count as new again.
    pub(super) fn begin(&mut self) {
        (self.last, self.said) = (None, Vec::new());
    }

    fn is_new(&mut self, line: &str) -> bool {
        if self.said.iter().any(|said| said == line) {
            return false;
        }
        if self.said.len() == MOST_REASONS {
            self.said.remove(0);
        }
        self.said.push(line.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_even_where_two_take_turns() {
        let mut attempts = Attempts::default();
        let mut told = |line| attempts.is_new(line);
        assert_eq!(
            ["a", "a", "b", "a", "b", "c"].map(&mut told),
            [true, false, true, false, false, true]
        );
        attempts.begin();
        assert!(attempts.is_new("a"), "of the next series");
    }
}
