//! Packets in fragments (PROTOCOL.md, "Fragments"): for paths that carry less than
//! what every IPv6 link has to. A sender [cuts](fragments) a packet into packets of
//! content [`Fragment`](super::Content::Fragment); the receiver's [`Reassembly`] makes
//! one of them again. Fragments are authentic, but their sender need not be well:
//! everything is bounded. No I/O, no clock; a flow drives it.

use std::{collections::VecDeque, ops::Range, time::Duration};

use super::Content;
use crate::packet::Ecn;

/// Largest packet that travels in fragments, in bytes: the least MTU of IPv6 (RFC
/// 8200, section 5).
pub const LARGEST_FRAGMENTED: usize = 1280;
/// Bytes in front of a fragment's own in the body of a packet.
pub const FRAGMENT_HEAD: usize = 9;

/// Fragments of one packet, at most.
const MOST_FRAGMENTS: usize = 16;
/// Packets of which some fragments are there, at most; the oldest goes first.
const MOST_PACKETS: usize = 64;
/// How long after its first fragment a packet is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A fragment is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// It is cut short, or not inside its packet.
    #[error("malformed fragment")]
    Malformed,
    /// It contradicts or overlaps what is there of its packet, or is one too many. The
    /// packet is dropped.
    #[error("fragments of one packet contradict each other")]
    Contradiction,
}

/// A part of a packet, as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Tells the fragments of one packet from those of the others on their way.
    pub id: u32,
    /// Length of the whole packet in bytes.
    pub size: u16,
    /// Where in it the bytes begin.
    pub offset: u16,
    /// The content of the whole packet: [`Content::Packet`] or [`Content::PartialChecksum`].
    pub content: Content,
    /// At least one, and not all of the packet.
    pub bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The fragment in the body of a packet.
    ///
    /// # Errors
    ///
    /// It is malformed.
    pub fn parse(body: &'a [u8]) -> Result<Self, FragmentError> {
        let (head, bytes) =
            body.split_first_chunk::<FRAGMENT_HEAD>().ok_or(FragmentError::Malformed)?;
        let [i0, i1, i2, i3, s0, s1, o0, o1, content] = *head;
        let size = u16::from_be_bytes([s0, s1]);
        let offset = u16::from_be_bytes([o0, o1]);
        let content = Content::from_id(content)
            .filter(|content| matches!(content, Content::Packet | Content::PartialChecksum))
            .ok_or(FragmentError::Malformed)?;
        let whole = usize::from(size);
        let fits = usize::from(offset) + bytes.len() <= whole && whole <= LARGEST_FRAGMENTED;
        if bytes.is_empty() || bytes.len() >= whole || !fits {
            return Err(FragmentError::Malformed);
        }
        Ok(Self { id: u32::from_be_bytes([i0, i1, i2, i3]), size, offset, content, bytes })
    }

    /// Writes it into the body of a packet, which has [`FRAGMENT_HEAD`] bytes more than
    /// the fragment.
    ///
    /// # Panics
    ///
    /// If `body` has another length.
    pub fn write(&self, body: &mut [u8]) {
        let (head, bytes) =
            body.split_first_chunk_mut::<FRAGMENT_HEAD>().expect("room for the head");
        head[..4].copy_from_slice(&self.id.to_be_bytes());
        head[4..6].copy_from_slice(&self.size.to_be_bytes());
        head[6..8].copy_from_slice(&self.offset.to_be_bytes());
        head[8] = self.content.id();
        bytes.copy_from_slice(self.bytes);
    }

    fn range(&self) -> Range<usize> {
        let start = usize::from(self.offset);
        start..start + self.bytes.len()
    }
}

/// Cuts `packet` into fragments whose bodies have at most `room` bytes. `None`: it is
/// not to be cut: too large, or so small or the room so little that it makes no sense.
pub fn fragments(
    id: u32,
    content: Content,
    packet: &[u8],
    room: usize,
) -> Option<impl Iterator<Item = Fragment<'_>>> {
    let size = u16::try_from(packet.len()).ok().filter(|_| packet.len() <= LARGEST_FRAGMENTED)?;
    let most = room.checked_sub(FRAGMENT_HEAD).filter(|most| *most > 0)?;
    let count = packet.len().div_ceil(most).max(2);
    if packet.len() < 2 || count > MOST_FRAGMENTS {
        return None;
    }
    // All of about the same size.
    let each = packet.len().div_ceil(count);
    let fragment = move |(bytes, index): (_, usize)| {
        // Less than `size`.
        let offset = (index * each) as u16;
        Fragment { id, size, offset, content, bytes }
    };
    Some(packet.chunks(each).zip(0..).map(fragment))
}

/// A packet that is whole again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassembled {
    /// The kind of content.
    pub content: Content,
    /// Of all its fragments: congestion that one has met, the packet has.
    pub ecn: Ecn,
    /// The packet.
    pub bytes: Box<[u8]>,
}

/// A packet of which some fragments are there.
struct Partial {
    id: u32,
    until: Duration,
    packet: Reassembled,
    /// Where the fragments are that have come, the first `count`.
    ranges: [Range<u16>; MOST_FRAGMENTS],
    count: usize,
    missing: usize,
}

impl Partial {
    fn new(now: Duration, ecn: Ecn, fragment: &Fragment<'_>) -> Self {
        let bytes = vec![0; fragment.size.into()].into_boxed_slice();
        Self {
            id: fragment.id,
            until: now + PATIENCE,
            missing: bytes.len(),
            packet: Reassembled { content: fragment.content, ecn, bytes },
            ranges: [const { 0..0 }; MOST_FRAGMENTS],
            count: 0,
        }
    }

    fn add(&mut self, ecn: Ecn, fragment: &Fragment<'_>) -> Result<(), FragmentError> {
        let range = fragment.range();
        let overlaps = |known: &Range<u16>| {
            usize::from(known.start) < range.end && range.start < usize::from(known.end)
        };
        let agrees = usize::from(fragment.size) == self.packet.bytes.len()
            && fragment.content == self.packet.content;
        if !agrees || self.count == MOST_FRAGMENTS || self.ranges[..self.count].iter().any(overlaps)
        {
            return Err(FragmentError::Contradiction);
        }
        self.packet.bytes[range.clone()].copy_from_slice(fragment.bytes);
        self.ranges[self.count] = range.start as u16..range.end as u16;
        self.count += 1;
        self.missing -= fragment.bytes.len();
        if ecn == Ecn::Ce {
            self.packet.ecn = Ecn::Ce;
        }
        Ok(())
    }
}

/// Makes packets of fragments.
#[derive(Default)]
pub struct Reassembly {
    /// Oldest first.
    partial: VecDeque<Partial>,
}

impl Reassembly {
    /// Bytes of packets that are kept at most.
    pub const LARGEST: usize = MOST_PACKETS * LARGEST_FRAGMENTED;

    /// Nothing has come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the body of a packet of content [`Content::Fragment`], and what its outer
    /// IP header said of congestion; the packet, once it is whole.
    ///
    /// # Errors
    ///
    /// The fragment is dropped, and maybe its packet.
    pub fn handle(
        &mut self,
        now: Duration,
        ecn: Ecn,
        body: &[u8],
    ) -> Result<Option<Reassembled>, FragmentError> {
        self.handle_timeout(now);
        let fragment = Fragment::parse(body)?;
        let known = self.partial.iter().position(|partial| partial.id == fragment.id);
        let at = known.unwrap_or_else(|| {
            if self.partial.len() == MOST_PACKETS {
                self.partial.pop_front();
            }
            self.partial.push_back(Partial::new(now, ecn, &fragment));
            self.partial.len() - 1
        });
        let partial = &mut self.partial[at];
        let added = partial.add(ecn, &fragment);
        if added.is_ok() && partial.missing > 0 {
            return Ok(None);
        }
        let partial = self.partial.remove(at);
        added?;
        Ok(partial.map(|partial| partial.packet))
    }

    /// When `handle_timeout` is due, in monotonic time; `None`: nothing is there.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.partial.front().map(|partial| partial.until)
    }

    /// Drops packets that have been waited for for too long.
    pub fn handle_timeout(&mut self, now: Duration) {
        while self.partial.front().is_some_and(|partial| partial.until <= now) {
            self.partial.pop_front();
        }
        if self.partial.is_empty() && self.partial.capacity() > 0 {
            self.partial = VecDeque::new();
        }
    }

    /// Bytes that are kept for packets.
    pub fn size(&self) -> usize {
        self.partial.iter().map(|partial| partial.packet.bytes.len()).sum()
    }
}

impl std::fmt::Debug for Reassembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reassembly").field("packets", &self.partial.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1);

    fn packet(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 7 % 251) as u8).collect()
    }

    fn bodies(id: u32, packet: &[u8], room: usize) -> Vec<Vec<u8>> {
        let cut = fragments(id, Content::Packet, packet, room).expect("it can be cut");
        cut.map(|fragment| {
            let mut body = vec![0; FRAGMENT_HEAD + fragment.bytes.len()];
            fragment.write(&mut body);
            assert!(body.len() <= room);
            assert_eq!(Fragment::parse(&body), Ok(fragment));
            body
        })
        .collect()
    }

    fn handle(
        reassembly: &mut Reassembly,
        body: &[u8],
    ) -> Result<Option<Reassembled>, FragmentError> {
        reassembly.handle(START, Ecn::NotEct, body)
    }

    #[test]
    fn a_packet_of_any_size_is_whole_again_whatever_the_order_and_the_room() {
        for size in [2, 3, 100, 576, 1279, 1280] {
            for room in [90, 100, 500, 523, 946, 1206, 1271, 1280, 1289, 65_535] {
                let packet = packet(size);
                let mut bodies = bodies(7, &packet, room);
                assert!((2..=MOST_FRAGMENTS).contains(&bodies.len()));
                for turn in 0..bodies.len() {
                    bodies.rotate_left(turn);
                    let mut reassembly = Reassembly::new();
                    let (last, first) = bodies.split_last().expect("some");
                    for body in first {
                        assert_eq!(handle(&mut reassembly, body), Ok(None));
                    }
                    let whole = handle(&mut reassembly, last).expect("right").expect("whole");
                    assert_eq!((&*whole.bytes, whole.content), (&*packet, Content::Packet));
                    assert_eq!((reassembly.size(), reassembly.poll_timeout()), (0, None));
                }
            }
        }
    }

    #[test]
    fn what_is_not_to_be_cut_is_not() {
        let cut = |size, room| fragments(0, Content::Packet, &packet(size), room).is_some();
        assert!(cut(1280, 89) && !cut(1280, 88));
        assert!(!cut(1281, 1000) && !cut(1, 1000) && !cut(0, 1000));
        assert!(!cut(100, 9) && !cut(100, 0));
    }

    #[test]
    fn a_fragment_is_as_given_to_the_byte() {
        let mut body = [0; 11];
        let bytes = &[0xaa, 0xbb];
        let content = Content::PartialChecksum;
        Fragment { id: 0x0102_0304, size: 0x0405, offset: 0x0203, content, bytes }.write(&mut body);
        assert_eq!(body, [1, 2, 3, 4, 4, 5, 2, 3, 2, 0xaa, 0xbb]);
    }

    #[test]
    fn malformed_fragments_are_refused_and_change_nothing() {
        let body = |size: u16, offset: u16, content: u8, count: usize| {
            let head = [&[0, 0, 0, 1][..], &size.to_be_bytes(), &offset.to_be_bytes(), &[content]];
            [head.concat(), vec![5; count]].concat()
        };
        let mut reassembly = Reassembly::new();
        assert_eq!(handle(&mut reassembly, &body(10, 0, 1, 5)), Ok(None));
        for malformed in [
            body(10, 5, 1, 0),
            body(10, 6, 1, 5),
            body(10, u16::MAX, 1, 5),
            body(10, 0, 1, 10),
            body(1281, 0, 1, 5),
            body(0, 0, 1, 1),
            body(1, 0, 1, 1),
            // Control, a fragment, frames of a stream, and what nobody knows.
            body(10, 5, 0, 5),
            body(10, 5, 6, 5),
            body(10, 5, 4, 5),
            body(10, 5, 99, 5),
            body(10, 0, 1, 5)[..FRAGMENT_HEAD].to_vec(),
            vec![0; 3],
            Vec::new(),
        ] {
            assert_eq!(handle(&mut reassembly, &malformed), Err(FragmentError::Malformed));
        }
        assert!(handle(&mut reassembly, &body(10, 5, 1, 5)).is_ok_and(|whole| whole.is_some()));
    }

    #[test]
    fn contradictions_cost_their_packet_and_no_other() {
        let fragment = |id: u32, size: u16, offset: u16, content, count: usize| {
            let mut body = vec![0; FRAGMENT_HEAD + count];
            Fragment { id, size, offset, content, bytes: &vec![1; count] }.write(&mut body);
            body
        };
        use Content::{Packet, PartialChecksum};
        for wrong in [
            // The same again, overlaps, another size, another content.
            fragment(1, 10, 2, Packet, 3),
            fragment(1, 10, 0, Packet, 3),
            fragment(1, 10, 4, Packet, 3),
            fragment(1, 10, 1, Packet, 9),
            fragment(1, 11, 5, Packet, 3),
            fragment(1, 10, 5, PartialChecksum, 3),
        ] {
            let mut reassembly = Reassembly::new();
            assert_eq!(handle(&mut reassembly, &fragment(2, 10, 0, Packet, 5)), Ok(None));
            assert_eq!(handle(&mut reassembly, &fragment(1, 10, 2, Packet, 3)), Ok(None));
            assert_eq!(handle(&mut reassembly, &wrong), Err(FragmentError::Contradiction));
            assert_eq!(reassembly.size(), 10);
            let whole = handle(&mut reassembly, &fragment(2, 10, 5, Packet, 5));
            assert!(whole.is_ok_and(|whole| whole.is_some()));
        }
        // One more than there may be.
        let mut reassembly = Reassembly::new();
        for offset in 0..MOST_FRAGMENTS as u16 {
            assert_eq!(handle(&mut reassembly, &fragment(1, 99, offset, Packet, 1)), Ok(None));
        }
        let one_more = fragment(1, 99, MOST_FRAGMENTS as u16, Packet, 1);
        assert_eq!(handle(&mut reassembly, &one_more), Err(FragmentError::Contradiction));
        assert_eq!(reassembly.size(), 0);
    }

    #[test]
    fn what_is_never_whole_is_bounded_and_forgotten() {
        let packet = packet(1280);
        let mut reassembly = Reassembly::new();
        for id in 0..1000 {
            assert_eq!(handle(&mut reassembly, &bodies(id, &packet, 946)[0]), Ok(None));
            assert!(reassembly.size() <= Reassembly::LARGEST);
        }
        assert_eq!(reassembly.size(), Reassembly::LARGEST);
        // The newest are there still, the oldest are not.
        assert!(handle(&mut reassembly, &bodies(999, &packet, 946)[1]).is_ok_and(|w| w.is_some()));
        assert_eq!(handle(&mut reassembly, &bodies(0, &packet, 946)[1]), Ok(None));
        let due = reassembly.poll_timeout().expect("something is there");
        assert_eq!(due, START + PATIENCE);
        reassembly.handle_timeout(due);
        assert_eq!((reassembly.size(), reassembly.poll_timeout()), (0, None));
    }

    #[test]
    fn congestion_of_one_fragment_is_the_packet_s() {
        let bodies = bodies(1, &packet(1000), 523);
        for (marks, whole) in [
            ([Ecn::Ect0, Ecn::Ect0], Ecn::Ect0),
            ([Ecn::Ect0, Ecn::Ce], Ecn::Ce),
            ([Ecn::Ce, Ecn::Ect0], Ecn::Ce),
        ] {
            let mut reassembly = Reassembly::new();
            assert_eq!(reassembly.handle(START, marks[0], &bodies[0]), Ok(None));
            let made = reassembly.handle(START, marks[1], &bodies[1]).expect("right");
            assert_eq!(made.expect("whole").ecn, whole);
        }
    }
}
