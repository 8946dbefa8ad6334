//! The sending side of a stream: what was written and is not acknowledged yet,
//! by offset. What is lost is sent again as data, never as a packet.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use super::ranges::RangeSet;

/// Smallest and largest piece that is allocated for what is written.
const CHUNK: (usize, usize) = (1024, 64 * 1024);
/// Largest pieces that are kept to be filled again while something is under way.
const SPARE: usize = 4;
/// Owned bytes that are fewer are copied: to keep account of them would cost as much.
const OWNED: usize = 1024;

/// A piece of what was written.
#[derive(Debug)]
enum Chunk {
    /// Copied, with room for more behind.
    Copied(Vec<u8>),
    /// As it was given.
    Owned(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Bytes of memory that it takes.
    fn held(&self) -> u64 {
        match self {
            Self::Copied(bytes) => bytes.capacity() as u64,
            Self::Owned(bytes) => bytes.len() as u64,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    /// The data that is kept, in pieces with the offsets of their first bytes.
    chunks: VecDeque<(u64, Chunk)>,
    /// Bytes of memory that they take.
    held: u64,
    /// Empty pieces of the largest size, to be filled again.
    spare: Vec<Vec<u8>>,
    keeps_spare: bool,
    /// All below is acknowledged.
    acknowledged: u64,
    /// All from here on has never been sent.
    next: u64,
    /// Offset behind what was written.
    end: u64,
    /// The ranges that are acknowledged above `acknowledged`.
    islands: RangeSet,
    lost: RangeSet,
}

impl SendBuffer {
    /// Gives back memory that no data is in.
    pub(super) fn shrink(&mut self) {
        self.chunks.shrink_to_fit();
    }

    pub(super) fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let spare = match self.chunks.back_mut() {
                Some((_, Chunk::Copied(chunk))) if chunk.len() < chunk.capacity() => chunk,
                _ => {
                    let unacknowledged = self.unacknowledged() as usize;
                    let size = data.len().max(unacknowledged).clamp(CHUNK.0, CHUNK.1);
                    let spare = if size == CHUNK.1 { self.spare.pop() } else { None };
                    let chunk = spare.unwrap_or_else(|| Vec::with_capacity(size));
                    self.push(Chunk::Copied(chunk));
                    continue;
                }
            };
            let (now, later) = data.split_at(data.len().min(spare.capacity() - spare.len()));
            spare.extend_from_slice(now);
            self.end += now.len() as u64;
            data = later;
        }
    }

    /// Takes `data` without copying it, with `head` in front.
    pub(super) fn write_owned(&mut self, head: &[u8], data: Bytes) {
        if data.len() < OWNED {
            self.write(head);
            return self.write(&data);
        }
        match self.chunks.back_mut() {
            Some((_, Chunk::Copied(chunk))) if chunk.capacity() - chunk.len() >= head.len() => {
                chunk.extend_from_slice(head);
            }
            _ if head.is_empty() => {}
            // Nothing more will be copied behind it.
            _ => self.push(Chunk::Copied(head.to_vec())),
        }
        self.end += head.len() as u64;
        let size = data.len() as u64;
        self.push(Chunk::Owned(data));
        self.end += size;
    }

    fn push(&mut self, chunk: Chunk) {
        self.held += chunk.held();
        self.chunks.push_back((self.end, chunk));
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

    /// Bytes that can be sent for the first time with credit up to `credit`; `None`: what
    /// was lost comes before them.
    pub(super) fn unsent(&self, credit: u64) -> Option<u64> {
        self.lost.is_empty().then(|| self.end.min(credit).saturating_sub(self.next))
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
            let (from, chunk) = ((at - start) as usize, chunk.bytes());
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
            && start + chunk.bytes().len() as u64 <= self.acknowledged
            && !chunk.bytes().is_empty()
        {
            self.held -= chunk.held();
            if let Some((_, Chunk::Copied(mut chunk))) = self.chunks.pop_front()
                && chunk.capacity() == CHUNK.1
                && self.keeps_spare
                && self.spare.len() < SPARE
            {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
        if self.unacknowledged() == 0 {
            self.spare = Vec::new();
        }
    }

    /// Sets whether memory is kept for what will be written while something is under way.
    pub(super) fn keep_spare(&mut self, keeps: bool) {
        self.keeps_spare = keeps;
        if !keeps {
            self.spare = Vec::new();
        }
    }

    /// Bytes of memory that hold what was written, or will.
    pub(super) fn held(&self) -> u64 {
        self.held + (self.spare.len() * CHUNK.1) as u64
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
        let keeps_spare = self.keeps_spare;
        *self = Self { acknowledged: end, next: end, end, keeps_spare, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_bytes_are_not_copied_and_go_between_what_is() {
        let mut buffer = SendBuffer::default();
        let owned = Bytes::from(vec![7; 5_000]);
        buffer.write(&[1; 10]);
        buffer.write_owned(&[2, 3], owned.clone());
        buffer.write_owned(&[4], Bytes::from_static(&[5; 3]));
        buffer.write_owned(&[], owned.slice(..2_000));
        buffer.write_owned(&[6, 6], owned.slice(2_000..));
        let whole = [
            &[1; 10][..],
            &[2, 3],
            &owned,
            &[4],
            &[5; 3],
            &owned[..2_000],
            &[6, 6],
            &owned[2_000..],
        ]
        .concat();
        assert_eq!(buffer.end(), whole.len() as u64);
        let mut out = vec![0; whole.len()];
        buffer.copy(0..buffer.end(), &mut out);
        assert!(out == whole);
        // The two ends of it lie where they were given.
        let lies_in =
            |chunk: &&(u64, Chunk)| owned.as_ptr_range().contains(&chunk.1.bytes().as_ptr());
        assert_eq!(buffer.chunks.iter().filter(lies_in).count(), 3);
        for end in 0..=whole.len() as u64 {
            buffer.on_acked(0..end);
            let held: u64 = buffer.chunks.iter().map(|(_, chunk)| chunk.held()).sum();
            assert_eq!(buffer.held(), held);
            if let Some(&byte) = whole.get(end as usize) {
                buffer.copy(end..end + 1, &mut out[..1]);
                assert_eq!(out[0], byte, "at {end}");
            }
        }
        assert_eq!(buffer.held(), 0, "what was acknowledged is let go of");
        assert!(owned.is_unique(), "as it was given");
    }
}
