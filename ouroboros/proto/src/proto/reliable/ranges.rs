//! Sets of numbers kept as ranges.

use std::{collections::BTreeMap, ops::Range};

/// A set of numbers, as ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// The highest range, which grows with what comes in order; empty if the set is. Mostly
    /// there is no other, and no memory for any.
    start: u64,
    end: u64,
    /// All others: ends by starts.
    below: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds `range`; how many of its numbers are new.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        let size = range.end.saturating_sub(range.start);
        if size == 0 {
            return 0;
        }
        if range.start == self.end && !self.is_empty() {
            self.end = range.end;
            return size;
        }
        if range.start > self.end || self.is_empty() {
            if !self.is_empty() {
                self.below.insert(self.start, self.end);
            }
            (self.start, self.end) = (range.start, range.end);
            return size;
        }
        if range.end < self.start {
            return size - insert(&mut self.below, range);
        }
        self.with_all(|all| size - insert(all, range))
    }

    /// Takes `range` out.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() || self.is_empty() {
            return;
        }
        if range.end <= self.start {
            remove(&mut self.below, range);
        } else if range.start < self.end {
            self.with_all(|all| remove(all, range));
        }
    }

    /// Changes all ranges, the highest one too.
    fn with_all<T>(&mut self, change: impl FnOnce(&mut BTreeMap<u64, u64>) -> T) -> T {
        self.below.insert(self.start, self.end);
        let changed = change(&mut self.below);
        (self.start, self.end) = self.below.pop_last().unwrap_or_default();
        if self.below.is_empty() {
            self.below = BTreeMap::new();
        }
        changed
    }

    /// The parts of `range` that are not in the set.
    pub(super) fn missing_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = RangeSet::default();
        missing.insert(range.clone());
        let before = self.below.range(..range.start).next_back();
        for (&from, &to) in before.into_iter().chain(self.below.range(range)) {
            missing.remove(from..to);
        }
        missing.remove(self.start..self.end);
        let mut missing: Vec<_> = missing.descending().collect();
        missing.reverse();
        missing
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        if number >= self.start {
            return number < self.end;
        }
        self.below.range(..=number).next_back().is_some_and(|(_, &to)| number < to)
    }

    pub(super) fn first(&self) -> Option<Range<u64>> {
        let below = self.below.first_key_value().map(|(&from, &to)| from..to);
        below.or_else(|| self.highest())
    }

    pub(super) fn pop_first(&mut self) -> Option<Range<u64>> {
        if let Some((from, to)) = self.below.pop_first() {
            if self.below.is_empty() {
                self.below = BTreeMap::new();
            }
            return Some(from..to);
        }
        let highest = self.highest();
        (self.start, self.end) = (0, 0);
        highest
    }

    fn highest(&self) -> Option<Range<u64>> {
        (!self.is_empty()).then_some(self.start..self.end)
    }

    /// The ranges, the highest first.
    pub(super) fn descending(&self) -> impl Iterator<Item = Range<u64>> {
        let below = self.below.iter().rev().map(|(&from, &to)| from..to);
        self.highest().into_iter().chain(below)
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.below.len() + usize::from(!self.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Adds `range` to ranges; how many of its numbers were there.
fn insert(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) -> u64 {
    let (mut start, mut end, mut known) = (range.start, range.end, 0);
    while let Some((&from, &to)) = ranges.range(..=end).next_back() {
        if to < start {
            break;
        }
        ranges.remove(&from);
        known += to.min(range.end).saturating_sub(from.max(range.start));
        (start, end) = (start.min(from), end.max(to));
    }
    ranges.insert(start, end);
    known
}

/// Takes `range` out of ranges.
fn remove(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) {
    while let Some((&from, &to)) = ranges.range(..range.end).next_back() {
        if to <= range.start {
            break;
        }
        ranges.remove(&from);
        if to > range.end {
            ranges.insert(range.end, to);
        }
        if from < range.start {
            ranges.insert(from, range.start);
            break;
        }
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
