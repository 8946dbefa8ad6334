//! Log lines about requests that were refused: a line for each reason, with the peer and the
//! name, and one in a while. Time is an argument.

use std::{
    mem::{Discriminant, discriminant},
    time::Duration,
};

use crate::{
    log::Limited,
    proto::{allocation::RefusalReason, negotiation::NegotiationError},
};

type Kind = (Discriminant<RefusalReason>, Option<Discriminant<NegotiationError>>);

/// The reasons that had a line of late. There are no more than kinds of reasons.
#[derive(Default)]
pub(super) struct Refusals(Vec<(Kind, Limited)>);

impl Refusals {
    /// Counts a refusal. Returns `None` if there is to be no line, otherwise how
    /// many refusals for this reason had none since the last.
    pub(super) fn admit(&mut self, now: Duration, reason: &RefusalReason) -> Option<u64> {
        let negotiation = match reason {
            RefusalReason::Negotiation(error) => Some(discriminant(error)),
            _ => None,
        };
        let kind = (discriminant(reason), negotiation);
        let known = self.0.iter().position(|(known, _)| *known == kind);
        let at = known.unwrap_or_else(|| {
            self.0.push((kind, Limited::new()));
            self.0.len() - 1
        });
        self.0[at].1.report_at(now).map(|times| times - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::allocation::ClockDifference;

    const INTERVAL: Duration = Duration::from_secs(10);

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
