//! Packets that were received, one behind the other in one buffer.

use std::{collections::VecDeque, ops::Index};

use crate::{proto::protection::Content, tun::offload::Ecn};

/// Packets that were received and not looked at yet: see
/// [`Flow::recv_many`](crate::Flow::recv_many).
///
/// One value can be used again and again, and keeps its memory.
#[derive(Clone, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    packets: VecDeque<Packet>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    start: usize,
    end: usize,
    pub(super) content: Content,
    pub(super) ecn: Ecn,
}

impl Packets {
    /// No packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns `true` if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packets, in the order in which they were received.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|packet| &self.bytes[packet.start..packet.end])
    }

    /// Removes all packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }

    /// Bytes that are held for packets.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    pub(super) fn push(&mut self, bytes: &[u8], content: Content, ecn: Ecn) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.packets.push_back(Packet { start, end: self.bytes.len(), content, ecn });
    }

    /// Adds a packet of `size` bytes, to be filled.
    pub(super) fn push_empty(&mut self, size: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.resize(start + size, 0);
        let (content, ecn) = (Content::Packet, Ecn::NotEct);
        self.packets.push_back(Packet { start, end: start + size, content, ecn });
        &mut self.bytes[start..]
    }

    /// Copies as much as there is and `out` takes, whatever packets it is of; how many
    /// bytes.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(packet) = self.packets.front_mut() {
            let count = (packet.end - packet.start).min(out.len() - done);
            out[done..done + count].copy_from_slice(&self.bytes[packet.start..][..count]);
            (packet.start, done) = (packet.start + count, done + count);
            if packet.start < packet.end {
                break;
            }
            self.remove_first();
        }
        done
    }

    pub(super) fn first(&self) -> Option<(&[u8], Packet)> {
        let packet = *self.packets.front()?;
        Some((&self.bytes[packet.start..packet.end], packet))
    }

    pub(super) fn remove_first(&mut self) {
        let Some(gone) = self.packets.pop_front() else { return };
        if self.packets.is_empty() {
            self.bytes.clear();
        } else if gone.end * 2 > self.bytes.capacity() {
            // Never emptied by who takes as much as comes.
            self.bytes.drain(..gone.end);
            for packet in &mut self.packets {
                (packet.start, packet.end) = (packet.start - gone.end, packet.end - gone.end);
            }
        }
    }

    /// Gives memory back that no packet needs.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

impl Index<usize> for Packets {
    type Output = [u8];

    /// Packet `index`, from 0.
    ///
    /// # Panics
    ///
    /// If there is no such packet.
    fn index(&self, index: usize) -> &[u8] {
        let packet = self.packets[index];
        &self.bytes[packet.start..packet.end]
    }
}

impl std::fmt::Debug for Packets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packets").field("len", &self.len()).finish_non_exhaustive()
    }
}
