//! What the log says about requests that were refused: a line for each reason,
//! with the peer and the name, and one in a while. Time is an argument.

use std::{
    mem::{Discriminant, discriminant},
    time::Duration,
};

use crate::proto::{endpoint::RefusalReason, negotiation::NegotiationError};

/// Least time between two lines for one reason.
const INTERVAL: Duration = Duration::from_secs(10);

type Kind = (Discriminant<RefusalReason>, Option<Discriminant<NegotiationError>>);

/// The reasons that had a line of late. There are no more than kinds of reasons.
#[derive(Default)]
pub(super) struct Refusals(Vec<(Kind, Last)>);

struct Last {
    line: Duration,
    /// Refusals without a line since then.
    silent: u64,
}

impl Refusals {
    /// Counts a refusal. Returns `None` if there is to be no line, otherwise how
    /// many refusals for this reason had none since the last.
    pub(super) fn admit(&mut self, now: Duration, reason: &RefusalReason) -> Option<u64> {
        let negotiation = match reason {
            RefusalReason::Negotiation(error) => Some(discriminant(error)),
            _ => None,
        };
        let kind = (discriminant(reason), negotiation);
        let Some((_, last)) = self.0.iter_mut().find(|(known, _)| *known == kind) else {
            self.0.push((kind, Last { line: now, silent: 0 }));
            return Some(0);
        };
        if now.saturating_sub(last.line) < INTERVAL {
            last.silent += 1;
            return None;
        }
        last.line = now;
        Some(std::mem::take(&mut last.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::endpoint::ClockDifference;

    #[test]
    fn each_reason_has_a_line_in_a_while_and_what_had_none_is_counted() {
        let mut refusals = Refusals::default();
        let clock = ClockDifference::Behind(Duration::from_secs(30)).into();
        let plain = NegotiationError::NotEncrypted.into();
        let native = NegotiationError::NotNative.into();
        for reason in [&clock, &plain, &native] {
            assert_eq!(refusals.admit(Duration::ZERO, reason), Some(0));
        }
        for seconds in 1..10 {
            assert_eq!(refusals.admit(Duration::from_secs(seconds), &clock), None);
        }
        let other = ClockDifference::Behind(Duration::from_secs(40)).into();
        assert_eq!(refusals.admit(INTERVAL, &other), Some(9));
        assert_eq!(refusals.admit(INTERVAL, &plain), Some(0));
    }
}
