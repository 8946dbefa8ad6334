//! Sets of numbers kept as ranges.

use std::{collections::BTreeMap, ops::Range};

/// A set of numbers, as ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds `range`; how many of its numbers are new.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        // What comes in order is behind all that is there.
        if let Some(mut last) = self.0.last_entry()
            && *last.get() == range.start
        {
            last.insert(range.end);
            return range.end - range.start;
        }
        let (mut start, mut end, mut known) = (range.start, range.end, 0);
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.0.remove(&from);
            known += to.min(range.end).saturating_sub(from.max(range.start));
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
        range.end - range.start - known
    }

    /// Takes `range` out.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..range.end).next_back() {
            if to <= range.start {
                break;
            }
            self.0.remove(&from);
            if to > range.end {
                self.0.insert(range.end, to);
            }
            if from < range.start {
                self.0.insert(from, range.start);
                break;
            }
        }
    }

    /// The parts of `range` that are not in the set.
    pub(super) fn missing_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = RangeSet::default();
        missing.insert(range.clone());
        let before = self.0.range(..range.start).next_back();
        for (&from, &to) in before.into_iter().chain(self.0.range(range)) {
            missing.remove(from..to);
        }
        missing.0.into_iter().map(|(from, to)| from..to).collect()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, &to)| number < to)
    }

    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.0.first_key_value().map(|(&from, &to)| from..to)
    }

    pub(super) fn pop_first(&mut self) -> Option<Range<u64>> {
        self.0.pop_first().map(|(from, to)| from..to)
    }

    /// The ranges, the highest first.
    pub(super) fn descending(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().rev().map(|(&from, &to)| from..to)
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set(steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..12u64), 1..40)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, from, size) in steps {
                let range = from..from + size;
                if insert {
                    let new = range.clone().filter(|number| model.insert(*number)).count();
                    prop_assert_eq!(set.insert(range.clone()), new as u64);
                } else {
                    set.remove(range.clone());
                    range.clone().for_each(|number| { model.remove(&number); });
                }
                for number in 0..60 {
                    prop_assert_eq!(set.contains(number), model.contains(&number));
                }
                let missing: Vec<u64> = set.missing_in(5..30).into_iter().flatten().collect();
                let expected: Vec<u64> = (5..30).filter(|number| !model.contains(number)).collect();
                prop_assert_eq!(missing, expected);
                let ranges: Vec<_> = set.descending().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[1].end < pair[0].start));
            }
        }
    }
}
