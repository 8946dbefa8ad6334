//! The receiving side of a stream: reassembly by offset, bounded by credit in
//! bytes and, for the account of gaps, by their number: what does not fit is
//! dropped, as if lost. No flow ends for it.

use std::collections::VecDeque;

use super::ranges::RangeSet;

const PAGE: u64 = 4096;
/// Pages that are kept to be filled again, until the flow [idles](ReceiveBuffer::release_spare).
const SPARE: usize = 32;
/// Gaps that are kept account of whatever the window, and bytes of it for each
/// further one.
const GAPS: (usize, u64) = (1024, 1024);

#[derive(Debug, Default)]
pub(super) struct ReceiveBuffer {
    /// Page `first_page + n` of the stream, if any of it is there.
    pages: VecDeque<Option<Box<[u8]>>>,
    first_page: u64,
    /// Pages that are there.
    held: u64,
    /// Pages to be filled again; what is in them means nothing.
    spare: Vec<Box<[u8]>>,
    keeps_spare: bool,
    /// All below was read.
    read: u64,
    /// All below is there.
    contiguous: u64,
    islands: RangeSet,
    /// Offset behind all that came.
    highest: u64,
}

impl ReceiveBuffer {
    /// Takes the bytes from `offset` on; returns `true` unless they are beyond
    /// `credit` or there are too many gaps.
    pub(super) fn insert(&mut self, offset: u64, bytes: &[u8], credit: u64) -> bool {
        let end = offset + bytes.len() as u64;
        let gaps = GAPS.0 + ((credit - self.read) / GAPS.1) as usize;
        if end > credit || (offset > self.contiguous && self.islands.len() >= gaps) {
            return false;
        }
        self.highest = self.highest.max(end);
        let start = offset.max(self.contiguous);
        if start >= end {
            return true;
        }
        self.store(start, &bytes[(start - offset) as usize..]);
        if start == self.contiguous {
            self.contiguous = end;
            while let Some(island) = self.islands.first()
                && island.start <= self.contiguous
            {
                self.contiguous = self.contiguous.max(island.end);
                self.islands.pop_first();
            }
        } else {
            self.islands.insert(start..end);
        }
        true
    }

    fn store(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (page, from) = ((at / PAGE - self.first_page) as usize, (at % PAGE) as usize);
            let (now, later) = bytes.split_at(bytes.len().min(PAGE as usize - from));
            while self.pages.len() <= page {
                self.pages.push_back(None);
            }
            let page = self.pages[page].get_or_insert_with(|| {
                self.held += 1;
                self.spare.pop().unwrap_or_else(|| vec![0; PAGE as usize].into())
            });
            page[from..from + now.len()].copy_from_slice(now);
            (at, bytes) = (at + now.len() as u64, later);
        }
    }

    /// Bytes that can be read now.
    pub(super) fn available(&self) -> u64 {
        self.contiguous - self.read
    }

    pub(super) fn read_offset(&self) -> u64 {
        self.read
    }

    pub(super) fn contiguous(&self) -> u64 {
        self.contiguous
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Returns `true` if something is missing below what came.
    pub(super) fn has_gaps(&self) -> bool {
        !self.islands.is_empty()
    }

    /// Copies what can be read to `out`, and leaves it there; how much it was.
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let count = (self.available() as usize).min(out.len());
        let mut done = 0;
        while done < count {
            let at = self.read + done as u64;
            let (page, from) = ((at / PAGE - self.first_page) as usize, (at % PAGE) as usize);
            let now = (count - done).min(PAGE as usize - from);
            if let Some(page) = self.pages.get(page).and_then(Option::as_ref) {
                out[done..done + now].copy_from_slice(&page[from..from + now]);
            }
            done += now;
        }
        count
    }

    /// Lets go of the next `count` bytes, no more than can be read.
    pub(super) fn consume(&mut self, count: usize) {
        self.read += (count as u64).min(self.available());
        while self.first_page < self.read / PAGE {
            let page = self.pages.pop_front().flatten();
            self.let_go(page);
            self.first_page += 1;
        }
        if self.read == self.highest {
            while let Some(page) = self.pages.pop_front() {
                self.let_go(page);
            }
        }
    }

    fn let_go(&mut self, page: Option<Box<[u8]>>) {
        let Some(page) = page else { return };
        self.held -= 1;
        if self.keeps_spare && self.spare.len() < SPARE {
            self.spare.push(page);
        }
    }

    /// Sets whether memory is kept for what will come.
    pub(super) fn keep_spare(&mut self, keeps: bool) {
        self.keeps_spare = keeps;
        if !keeps && self.has_spare() {
            self.release_spare();
        }
    }

    /// Returns `true` if memory is kept for what will come.
    pub(super) fn has_spare(&self) -> bool {
        !self.spare.is_empty()
    }

    /// Lets go of memory that is kept for what will come: an idle flow holds nothing.
    pub(super) fn release_spare(&mut self) {
        self.spare = Vec::new();
        self.pages.shrink_to_fit();
    }

    /// Returns `true` if bytes from `offset` to `end` were had before and take no memory, or
    /// can be read at once, and less than `enough` is there to be read: were they taken for
    /// lost, nothing would move.
    pub(super) fn is_next(&self, offset: u64, end: u64, enough: u64) -> bool {
        end <= self.contiguous || (offset <= self.contiguous && self.available() < enough)
    }

    /// Bytes of memory that hold what was received.
    pub(super) fn held(&self) -> u64 {
        self.held * PAGE
    }

    /// The same, and what is kept for what will come.
    pub(super) fn memory(&self) -> u64 {
        self.held() + self.spare.len() as u64 * PAGE
    }
}
