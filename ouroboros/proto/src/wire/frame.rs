//! The frames of the reliable profile (PROTOCOL.md, "Reliable flows"): bytes
//! to typed values and back. Numbers and offsets are their low 32 bits here.
//!
//! Not here: what a frame does (`proto::reliable`, which drives this).

use std::ops::RangeInclusive;

use super::management::Malformed;

const ACK: u8 = 1;
const CREDIT: u8 = 2;
const DATA: u8 = 3;
const FIN: u8 = 4;
const ABORT: u8 = 5;
const STOP: u8 = 6;
const BLOCKED: u8 = 7;
const PING: u8 = 8;
const CLOSE: u8 = 9;

/// Largest number of ranges in an acknowledgement behind the first.
pub const MAX_ACK_RANGES: usize = 63;
/// Longest reason of a close, in bytes.
pub const MAX_REASON: usize = 128;
/// Unit of an acknowledgement's delay, in microseconds.
pub const DELAY_UNIT: u64 = 8;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Packets that were received.
    Ack(Ack<'a>),
    /// Bytes up to this offset will be taken.
    Credit(u32),
    /// Bytes of the stream from an offset on; at least one.
    Data {
        /// Offset of the first byte.
        offset: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The stream ends at this offset.
    Fin(u32),
    /// The sender of this frame sends nothing more: an application's code.
    Abort(u32),
    /// The sender of this frame reads nothing more: an application's code.
    Stop(u32),
    /// There is data to send, and credit up to this offset only.
    Blocked(u32),
    /// Asks for an acknowledgement and nothing else.
    Ping,
    /// The sender of this frame closes the flow when all that it sent has arrived:
    /// an application's code, and why.
    Close {
        /// The code.
        code: u32,
        /// Why; at most [`MAX_REASON`] bytes.
        reason: &'a [u8],
    },
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The highest packet number received.
    pub largest: u32,
    /// For how long its acknowledgement was delayed, in [`DELAY_UNIT`]s.
    pub delay: u16,
    /// How many packets came marked with congestion experienced.
    pub ce: u32,
    /// Packets below the highest that were received without a gap.
    pub first: u16,
    /// Pairs of gap and length, 4 bytes each.
    ranges: &'a [u8],
}

impl<'a> Ack<'a> {
    /// An acknowledgement with `ranges` as [`encode_ranges`] makes them.
    #[must_use]
    pub fn new(largest: u32, delay: u16, ce: u32, first: u16, ranges: &'a [u8]) -> Self {
        let whole = (ranges.len() / 4).min(MAX_ACK_RANGES) * 4;
        Self { largest, delay, ce, first, ranges: &ranges[..whole] }
    }

    /// The largest number, completed to the one nearest to `reference`.
    #[must_use]
    pub fn largest_from(&self, reference: u64) -> u64 {
        complete(self.largest, reference)
    }

    /// The ranges of packet numbers, the highest first, with the largest
    /// completed to the number nearest to `reference`.
    ///
    /// # Errors
    ///
    /// A range would begin below 0.
    pub fn ranges(
        &self,
        reference: u64,
    ) -> Result<impl Iterator<Item = RangeInclusive<u64>> + use<'a>, Malformed> {
        let largest = self.largest_from(reference);
        let first = largest.checked_sub(self.first.into()).ok_or(Malformed)?;
        let pairs = self.ranges.chunks_exact(4).map(|pair| {
            let of = |at: usize| u64::from(u16::from_be_bytes([pair[at], pair[at + 1]]));
            (of(0), of(2))
        });
        let mut lowest = first;
        for (gap, length) in pairs.clone() {
            lowest = lowest.checked_sub(gap + 2 + length).ok_or(Malformed)?;
        }
        let mut lowest = first;
        let rest = pairs.map(move |(gap, length)| {
            let end = lowest - gap - 2;
            lowest = end - length;
            lowest..=end
        });
        Ok(std::iter::once(first..=largest).chain(rest))
    }
}

/// Adds `ranges` (the highest first, not touching) to `bytes` as they follow
/// one that begins at `lowest`, as far as they can be written.
pub fn encode_ranges(
    mut lowest: u64,
    ranges: impl Iterator<Item = RangeInclusive<u64>>,
    bytes: &mut Vec<u8>,
) {
    for range in ranges.take(MAX_ACK_RANGES) {
        let gap = lowest.checked_sub(*range.end() + 2).and_then(|gap| u16::try_from(gap).ok());
        let Some(gap) = gap else { return };
        let length = u16::try_from(range.end() - range.start()).unwrap_or(u16::MAX);
        lowest = range.end() - u64::from(length);
        bytes.extend_from_slice(&gap.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        if lowest > *range.start() {
            return;
        }
    }
}

/// The number with the low bits `low` that is nearest to `reference`.
#[must_use]
pub fn complete(low: u32, reference: u64) -> u64 {
    let distance = low.wrapping_sub(reference as u32) as i32;
    // Below 0 is none: the next with these bits.
    reference.checked_add_signed(distance.into()).unwrap_or(low.into())
}

impl<'a> Frame<'a> {
    /// Bytes in front of a data frame's own.
    pub const DATA_HEAD: usize = 7;
    /// Bytes of a close frame in front of its reason.
    pub const CLOSE_HEAD: usize = 7;

    /// Returns `true` if a packet with this frame is to be acknowledged.
    #[must_use]
    pub fn is_ack_eliciting(&self) -> bool {
        !matches!(self, Self::Ack(_) | Self::Credit(_))
    }

    /// The frame at the front of `bytes`, and what is behind it.
    ///
    /// # Errors
    ///
    /// Unknown types, lengths beyond the bytes, data without bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (&kind, fields) = bytes.split_first().ok_or(Malformed)?;
        if kind == PING {
            return Ok((Self::Ping, fields));
        }
        let (number, rest) = fields.split_first_chunk::<4>().ok_or(Malformed)?;
        let number = u32::from_be_bytes(*number);
        Ok(match kind {
            ACK => {
                let (head, rest) = rest.split_first_chunk::<9>().ok_or(Malformed)?;
                let count = usize::from(head[6]);
                if count > MAX_ACK_RANGES {
                    return Err(Malformed);
                }
                let (ranges, rest) = rest.split_at_checked(4 * count).ok_or(Malformed)?;
                let ack = Ack {
                    largest: number,
                    delay: u16::from_be_bytes([head[0], head[1]]),
                    ce: u32::from_be_bytes([head[2], head[3], head[4], head[5]]),
                    first: u16::from_be_bytes([head[7], head[8]]),
                    ranges,
                };
                (Self::Ack(ack), rest)
            }
            DATA => {
                let (size, rest) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
                let size = usize::from(u16::from_be_bytes(*size));
                let (bytes, rest) = rest.split_at_checked(size).ok_or(Malformed)?;
                if bytes.is_empty() {
                    return Err(Malformed);
                }
                (Self::Data { offset: number, bytes }, rest)
            }
            CLOSE => {
                let (size, rest) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
                let size = usize::from(u16::from_be_bytes(*size));
                if size > MAX_REASON {
                    return Err(Malformed);
                }
                let (reason, rest) = rest.split_at_checked(size).ok_or(Malformed)?;
                (Self::Close { code: number, reason }, rest)
            }
            CREDIT => (Self::Credit(number), rest),
            FIN => (Self::Fin(number), rest),
            ABORT => (Self::Abort(number), rest),
            STOP => (Self::Stop(number), rest),
            BLOCKED => (Self::Blocked(number), rest),
            _ => return Err(Malformed),
        })
    }

    /// The frames in `bytes`, the body of a packet.
    ///
    /// # Errors
    ///
    /// There is none, or one is malformed; then none counts.
    pub fn parse_all(
        bytes: &'a [u8],
    ) -> Result<impl Iterator<Item = Self> + Clone + use<'a>, Malformed> {
        let (_, mut rest) = Self::parse(bytes)?;
        while !rest.is_empty() {
            (_, rest) = Self::parse(rest)?;
        }
        let mut rest = bytes;
        Ok(std::iter::from_fn(move || {
            let (frame, behind) = Self::parse(rest).ok()?;
            rest = behind;
            Some(frame)
        }))
    }

    /// Adds the frame to `bytes`. Data is cut to 65,535 bytes, a reason to
    /// [`MAX_REASON`].
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let mut head = |kind: u8, number: u32| {
            bytes.push(kind);
            bytes.extend_from_slice(&number.to_be_bytes());
        };
        match *self {
            Self::Ack(ack) => {
                head(ACK, ack.largest);
                bytes.extend_from_slice(&ack.delay.to_be_bytes());
                bytes.extend_from_slice(&ack.ce.to_be_bytes());
                bytes.push((ack.ranges.len() / 4) as u8);
                bytes.extend_from_slice(&ack.first.to_be_bytes());
                bytes.extend_from_slice(ack.ranges);
            }
            Self::Data { offset, bytes: data } => {
                let size = u16::try_from(data.len()).unwrap_or(u16::MAX);
                Self::encode_data_head(offset, size, bytes);
                bytes.extend_from_slice(&data[..size.into()]);
            }
            Self::Credit(offset) => head(CREDIT, offset),
            Self::Fin(offset) => head(FIN, offset),
            Self::Abort(code) => head(ABORT, code),
            Self::Stop(code) => head(STOP, code),
            Self::Blocked(offset) => head(BLOCKED, offset),
            Self::Ping => bytes.push(PING),
            Self::Close { code, reason } => {
                let reason = &reason[..reason.len().min(MAX_REASON)];
                head(CLOSE, code);
                bytes.extend_from_slice(&(reason.len() as u16).to_be_bytes());
                bytes.extend_from_slice(reason);
            }
        }
    }

    /// Adds to `bytes` what is in front of `size` bytes of data.
    pub fn encode_data_head(offset: u32, size: u16, bytes: &mut Vec<u8>) {
        bytes.push(DATA);
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&size.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_shorter() {
        let ranges = [0, 1, 0, 2, 0, 0, 0, 9];
        let frames = [
            Frame::Ack(Ack::new(100, 7, 3, 2, &ranges)),
            Frame::Ack(Ack::new(0, 0, 0, 0, &[])),
            Frame::Credit(1 << 30),
            Frame::Data { offset: 9, bytes: b"data" },
            Frame::Fin(13),
            Frame::Abort(1),
            Frame::Stop(2),
            Frame::Blocked(3),
            Frame::Ping,
            Frame::Close { code: 4, reason: b"" },
            Frame::Close { code: 4, reason: &[b'w'; MAX_REASON] },
        ];
        let mut all = Vec::new();
        for frame in &frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(Frame::parse(&bytes), Ok((*frame, &[][..])));
            for end in 0..bytes.len() {
                assert_eq!(Frame::parse(&bytes[..end]), Err(Malformed), "{frame:?} {end}");
            }
            all.extend_from_slice(&bytes);
        }
        assert_eq!(Frame::parse_all(&all).expect("well-formed").collect::<Vec<_>>(), frames);
        all.push(0);
        assert!(Frame::parse_all(&all).is_err(), "an unknown frame spoils the packet");
        assert!(Frame::parse_all(&[]).is_err());
        assert!(Frame::parse(&[DATA, 0, 0, 0, 0, 0, 0]).is_err(), "data without bytes");
        let mut long = vec![CLOSE, 0, 0, 0, 0, 0, MAX_REASON as u8 + 1];
        long.extend_from_slice(&[b'w'; MAX_REASON + 1]);
        assert!(Frame::parse(&long).is_err(), "a reason that is too long");
    }

    #[test]
    fn ranges_are_those_that_were_written() {
        let mut bytes = Vec::new();
        encode_ranges(90, [80..=85, 70..=78, 3..=3].into_iter(), &mut bytes);
        let ack = Ack::new(100, 0, 0, 10, &bytes);
        let ranges: Vec<_> = ack.ranges(101).expect("valid").collect();
        assert_eq!(ranges, [90..=100, 80..=85, 70..=78, 3..=3]);
        assert!(Ack::new(5, 0, 0, 6, &[]).ranges(5).is_err());
        assert!(Ack::new(5, 0, 0, 3, &[0, 0, 0, 1]).ranges(5).is_err());
        let mut bytes = Vec::new();
        encode_ranges(200_000, [3..=3, 1..=1].into_iter(), &mut bytes);
        assert!(bytes.is_empty(), "a gap that is too wide to write ends the list");
    }

    #[test]
    fn numbers_are_completed_to_the_nearest() {
        assert_eq!(complete(5, 0), 5);
        assert_eq!(complete(u32::MAX, 1), u64::from(u32::MAX));
        assert_eq!(complete(1, u32::MAX.into()), (1 << 32) + 1);
        assert_eq!(complete(u32::MAX, (1 << 32) + 1), u64::from(u32::MAX));
    }
}
