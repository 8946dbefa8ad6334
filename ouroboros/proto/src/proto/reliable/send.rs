//! The sending side of a stream: what was written and is not acknowledged yet,
//! by offset. What is lost is sent again as data, never as a packet.

use std::{collections::VecDeque, ops::Range};

use super::ranges::RangeSet;

/// Smallest and largest piece that is allocated for what is written.
const CHUNK: (usize, usize) = (1024, 64 * 1024);

#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    /// What is kept, in pieces with the offsets of their first bytes.
    chunks: VecDeque<(u64, Vec<u8>)>,
    /// Bytes that were allocated for them.
    held: u64,
    /// All below is acknowledged.
    acknowledged: u64,
    /// All from here on has never been sent.
    next: u64,
    /// Offset behind what was written.
    end: u64,
    /// What is acknowledged above `acknowledged`.
    islands: RangeSet,
    lost: RangeSet,
}

impl SendBuffer {
    pub(super) fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let spare = self.chunks.back().map_or(0, |(_, chunk)| chunk.capacity() - chunk.len());
            if spare == 0 {
                let size = data.len().max(self.unacknowledged() as usize).clamp(CHUNK.0, CHUNK.1);
                let chunk = Vec::with_capacity(size);
                self.held += chunk.capacity() as u64;
                self.chunks.push_back((self.end, chunk));
                continue;
            }
            let (now, later) = data.split_at(spare.min(data.len()));
            if let Some((_, chunk)) = self.chunks.back_mut() {
                chunk.extend_from_slice(now);
            }
            self.end += now.len() as u64;
            data = later;
        }
    }

    /// Offset behind what was written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Offset behind what was sent.
    pub(super) fn sent(&self) -> u64 {
        self.next
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        self.end - self.acknowledged
    }

    /// Returns `true` if something could be sent if credit went on.
    pub(super) fn wants(&self) -> bool {
        self.next < self.end || !self.lost.is_empty()
    }

    /// Returns `true` if something can be sent with credit up to `credit`.
    pub(super) fn can_send(&self, credit: u64) -> bool {
        !self.lost.is_empty() || self.next < self.end.min(credit)
    }

    /// Takes what is to be sent next, at most `size` bytes.
    pub(super) fn take(&mut self, size: u64, credit: u64) -> Option<Range<u64>> {
        if let Some(lost) = self.lost.pop_first() {
            let end = lost.end.min(lost.start + size);
            self.lost.insert(end..lost.end);
            return (end > lost.start).then_some(lost.start..end);
        }
        let end = self.end.min(credit).min(self.next + size);
        let range = self.next..end;
        (!range.is_empty()).then(|| {
            self.next = end;
            range
        })
    }

    /// Copies the bytes of `range` to `out`, which is as long.
    pub(super) fn copy(&self, range: Range<u64>, out: &mut [u8]) {
        if range.is_empty() {
            return;
        }
        let first = self.chunks.partition_point(|(start, _)| *start <= range.start);
        let (mut at, mut done) = (range.start, 0);
        for (start, chunk) in self.chunks.range(first.saturating_sub(1)..) {
            let from = (at - start) as usize;
            let count = chunk.len().saturating_sub(from).min(out.len() - done);
            out[done..done + count].copy_from_slice(&chunk[from..from + count]);
            (at, done) = (at + count as u64, done + count);
            if done == out.len() {
                return;
            }
        }
    }

    pub(super) fn on_acked(&mut self, range: Range<u64>) {
        self.lost.remove(range.clone());
        if range.start <= self.acknowledged {
            self.acknowledged = self.acknowledged.max(range.end);
        } else {
            self.islands.insert(range);
        }
        while let Some(island) = self.islands.first()
            && island.start <= self.acknowledged
        {
            self.acknowledged = self.acknowledged.max(island.end);
            self.islands.pop_first();
        }
        while let Some((start, chunk)) = self.chunks.front()
            && start + chunk.len() as u64 <= self.acknowledged
            && !chunk.is_empty()
        {
            self.held -= chunk.capacity() as u64;
            self.chunks.pop_front();
        }
    }

    /// Bytes of memory that hold what was written.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    pub(super) fn on_lost(&mut self, range: Range<u64>) {
        let range = range.start.max(self.acknowledged)..range.end;
        if !range.is_empty() {
            for missing in self.islands.missing_in(range) {
                self.lost.insert(missing);
            }
        }
    }

    /// Forgets everything that was not acknowledged.
    pub(super) fn clear(&mut self) {
        let end = self.end;
        *self = Self { acknowledged: end, next: end, end, ..Self::default() };
    }
}
