//! Packet numbers that are left out now and then, so that a peer which acknowledges what it
//! has not received is found out (RFC 9000, section 21.4). Not here: whose numbers they are
//! (`proto::native`), and what becomes of the flow (`incoming`).

use std::{collections::VecDeque, ops::RangeInclusive};

/// Packets that ask for an acknowledgement between two numbers that are left out, at most.
const INTERVAL: u64 = 4096;
/// Numbers that are remembered, the newest: who acknowledges what it has not received does so
/// of what was sent last.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// In ascending order.
    numbers: VecDeque<u64>,
    /// Packets that leave before the next; `None`: no number is left out.
    left: Option<u64>,
}

impl Skipped {
    /// Has a number left out after some packets, how many `random` says.
    pub(super) fn arm(&mut self, random: u64) {
        self.left = Some(random % INTERVAL);
    }

    pub(super) fn is_due(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn on_sent(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    pub(super) fn insert(&mut self, number: u64) {
        if self.numbers.len() == REMEMBERED {
            self.numbers.pop_front();
        }
        self.numbers.push_back(number);
        self.left = None;
    }

    /// Returns `true` if a number in one of `ranges` was never used.
    pub(super) fn is_among(&self, mut ranges: impl Iterator<Item = RangeInclusive<u64>>) -> bool {
        !self.numbers.is_empty()
            && ranges.any(|range| {
                let first = self.numbers.partition_point(|number| number < range.start());
                self.numbers.get(first).is_some_and(|number| number <= range.end())
            })
    }
}
