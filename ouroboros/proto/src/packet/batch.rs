//! Batches of frames in one buffer each. No I/O: paths fill and drain them,
//! flows seal and open in place.

use std::ops::Range;

use super::Ecn;
use crate::wire::PeerAddress;

/// Frames on their way out, one behind the other in one buffer, each preceded
/// by the transport's headroom, without gaps: equal frames can leave with one
/// segmented send.
#[derive(Debug)]
pub struct SendBatch {
    /// Written over and over, cleared never: that would cost as much as a copy.
    buffer: Box<[u8]>,
    /// Ends of the frames in `buffer`; a frame starts where the last ended.
    ends: Vec<usize>,
    /// The ECN field that each frame's outer IP header is to have.
    ecn: Vec<Ecn>,
    headroom: usize,
    sent: usize,
    oversize: usize,
    calls: u64,
}

impl SendBatch {
    /// An empty batch for a path with `headroom` bytes of header, of at most
    /// `capacity` bytes with headers.
    pub fn new(headroom: usize, capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity].into_boxed_slice(),
            ends: Vec::with_capacity(64),
            ecn: Vec::with_capacity(64),
            headroom,
            sent: 0,
            oversize: 0,
            calls: 0,
        }
    }

    /// Empties the batch, for a path with `headroom` bytes of header.
    pub fn reset(&mut self, headroom: usize) {
        self.clear();
        self.headroom = headroom;
    }

    /// Returns `true` if a frame of `size` bytes still fits.
    pub fn fits(&self, size: usize) -> bool {
        self.used() + self.headroom + size <= self.buffer.len()
    }

    /// Bytes of the buffer that frames take.
    fn used(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Adds a frame of `size` bytes for the caller to fill, or `None` if the
    /// batch is full. The frame holds whatever was there before.
    pub fn push(&mut self, size: usize) -> Option<&mut [u8]> {
        if !self.fits(size) {
            return None;
        }
        let start = self.used() + self.headroom;
        self.ends.push(start + size);
        self.ecn.push(Ecn::NotEct);
        Some(&mut self.buffer[start..start + size])
    }

    /// Says what the outer IP header of the frame pushed last should say of
    /// congestion, where there is one.
    pub fn mark(&mut self, ecn: Ecn) {
        if let Some(last) = self.ecn.last_mut() {
            *last = ecn;
        }
    }

    /// Returns the ECN field asked for frame `index`. For paths.
    pub fn ecn(&self, index: usize) -> Ecn {
        self.ecn[index]
    }

    /// Counts a system call. For paths.
    pub fn count_call(&mut self) {
        self.calls += 1;
    }

    /// System calls that the batch has taken so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Takes back the frame that was pushed last.
    pub fn pop(&mut self) {
        if self.ends.pop().is_some() {
            self.ecn.pop();
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.ecn.clear();
        self.sent = 0;
        self.oversize = 0;
        self.calls = 0;
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns `true` if there are no frames.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns how many frames have left.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Marks `count` more frames as gone. For paths.
    pub fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.ends.len());
    }

    /// Marks the next frame as gone because it is too large for the path.
    pub fn skip_oversize(&mut self) {
        self.oversize += 1;
        self.advance(1);
    }

    /// Returns how many frames were too large for the path.
    pub fn oversize(&self) -> usize {
        self.oversize
    }

    /// Returns where frame `index` is in [`bytes_mut`](Self::bytes_mut), with its headroom.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    /// Frame `index` without its headroom.
    pub fn frame_mut(&mut self, index: usize) -> &mut [u8] {
        let range = self.range(index);
        &mut self.buffer[range.start + self.headroom..range.end]
    }

    /// All frames with their headrooms. For paths.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// All frames with their headrooms. For paths.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }
}

/// A frame that reached a flow's socket and is not the flow's: a management
/// message, or a frame for another endpoint of the same peer. For the IPCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The sender's address.
    pub from: PeerAddress,
    /// The frame with the endpoint id in front, as UDP carries it.
    pub frame: Vec<u8>,
}

/// Frames that came in, in one buffer that is reused.
#[derive(Debug)]
pub struct ReceiveBatch {
    /// Of `capacity` bytes for paths to fill, and what was joined behind them.
    buffer: Vec<u8>,
    capacity: usize,
    frames: Vec<(Range<usize>, Ecn)>,
    strays: Vec<Stray>,
    calls: u64,
    drained: bool,
}

impl ReceiveBatch {
    /// At most this many strays are kept of one batch; more are dropped.
    pub const STRAYS: usize = 16;

    /// An empty batch over `capacity` bytes of buffer.
    pub fn new(capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity],
            capacity,
            frames: Vec::with_capacity(64),
            strays: Vec::new(),
            calls: 0,
            drained: false,
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.buffer.truncate(self.capacity);
        self.frames.clear();
        self.strays.clear();
        self.calls = 0;
        self.drained = false;
    }

    /// Says that the path had no more than this when it was read. For paths.
    pub fn set_drained(&mut self) {
        self.drained = true;
    }

    /// Returns `true` if the path had no more when it was read, as far as it can tell.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns `true` if there are no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frame `index`, to be opened in place.
    pub fn frame_mut(&mut self, index: usize) -> &mut [u8] {
        let range = self.frames[index].0.clone();
        &mut self.buffer[range]
    }

    /// Frame `index`.
    pub fn frame(&self, index: usize) -> &[u8] {
        &self.buffer[self.frames[index].0.clone()]
    }

    /// Returns where frame `index` is in [`buffer_mut`](Self::buffer_mut).
    pub fn range(&self, index: usize) -> Range<usize> {
        self.frames[index].0.clone()
    }

    /// Returns the ECN field that the outer IP header of frame `index` had.
    pub fn ecn(&self, index: usize) -> Ecn {
        self.frames[index].1
    }

    /// Counts a system call. For paths.
    pub fn count_call(&mut self) {
        self.calls += 1;
    }

    /// System calls that the batch has taken.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Frames that are not the flow's own.
    pub fn strays(&mut self) -> std::vec::Drain<'_, Stray> {
        self.strays.drain(..)
    }

    /// The buffer, frames and all.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The buffer for the kernel to fill, as long as the batch is empty; frames and all
    /// after that. For paths.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Marks a part of the buffer as a frame. For paths.
    pub fn push(&mut self, range: Range<usize>) {
        self.push_marked(range, Ecn::NotEct);
    }

    /// Like [`push`](Self::push), with what its outer IP header said of
    /// congestion.
    pub fn push_marked(&mut self, range: Range<usize>, ecn: Ecn) {
        debug_assert!(range.end <= self.buffer.len());
        self.frames.push((range, ecn));
    }

    /// Adds a frame whose bytes were elsewhere, such as a packet that was made of
    /// fragments, with what its outer IP header said of congestion; its index. `None`: the
    /// batch holds as much again as it has room for, and no more.
    pub fn push_joined(&mut self, bytes: &[u8], ecn: Ecn) -> Option<usize> {
        let range = self.buffer.len()..self.buffer.len() + bytes.len();
        if range.end > 2 * self.capacity {
            return None;
        }
        self.buffer.extend_from_slice(bytes);
        self.push_marked(range, ecn);
        Some(self.frames.len() - 1)
    }

    /// Keeps a stray, or drops it if there are too many. For paths.
    pub fn push_stray(&mut self, stray: Stray) {
        if self.strays.len() < Self::STRAYS {
            self.strays.push(stray);
        }
    }
}
