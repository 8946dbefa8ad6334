//! Control messages between the two ends of a native flow (PROTOCOL.md, "Control"): bytes to
//! typed values and back, and long messages in parts.

/// Longest message in bytes when its parts are put together.
const LARGEST: usize = 4096;

const PING: u8 = 1;
const PONG: u8 = 2;
const CLOSE: u8 = 3;
const CHALLENGE: u8 = 4;
const RESPONSE: u8 = 5;
const OFFER: u8 = 6;
const ANSWER: u8 = 7;
const CONFIRM: u8 = 8;
const CONFIRMED: u8 = 9;
const ANNOUNCE: u8 = 10;
const ANNOUNCED: u8 = 11;
const PROBE: u8 = 12;
const PROBED: u8 = 13;
const COUNT: u8 = 14;
const COUNTED: u8 = 15;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Are you there?
    Ping(u64),
    /// Yes, and this was asked.
    Pong(u64),
    /// The flow has ended.
    Close,
    /// Do you get what is sent here?
    Challenge([u8; 16]),
    /// Yes, and this was there.
    Response([u8; 16]),
    /// A part of the initiator's public key.
    Offer(Part<'a>),
    /// A part of the responder's answer.
    Answer(Part<'a>),
    /// This epoch is in use: the initiator's.
    Confirm(u32),
    /// The same from the responder, who repeats no more than it is asked.
    Confirmed(u32),
    /// The capabilities of the program at this end.
    Announce(u8),
    /// Acknowledges an announcement.
    Announced(u8),
    /// Does a packet of this size arrive? Zeros make it so: as many bytes as
    /// the body has in all.
    Probe(u16),
    /// One has.
    Probed(u16),
    /// How many packets have arrived?
    Count,
    /// So many of those with numbers up to the newest.
    Counted { newest: u64, packets: u64 },
}

/// A part of a message about the epoch `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The low half of the epoch that is to come.
    pub(super) epoch: u32,
    /// Which part this is, from 0.
    pub(super) index: u8,
    /// How many there are.
    pub(super) count: u8,
    pub(super) bytes: &'a [u8],
}

impl Part<'_> {
    /// Bytes in front of a part's own in the body of a packet.
    pub(super) const OVERHEAD: usize = 7;
}

impl<'a> Message<'a> {
    /// The message in `body`; `None` if it is unknown or malformed.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (&kind, fields) = body.split_first()?;
        Some(match kind {
            PING => Self::Ping(u64::from_be_bytes(fields.try_into().ok()?)),
            PONG => Self::Pong(u64::from_be_bytes(fields.try_into().ok()?)),
            CLOSE if fields.is_empty() => Self::Close,
            CHALLENGE => Self::Challenge(fields.try_into().ok()?),
            RESPONSE => Self::Response(fields.try_into().ok()?),
            OFFER => Self::Offer(part(fields)?),
            ANSWER => Self::Answer(part(fields)?),
            CONFIRM => Self::Confirm(u32::from_be_bytes(fields.try_into().ok()?)),
            CONFIRMED => Self::Confirmed(u32::from_be_bytes(fields.try_into().ok()?)),
            ANNOUNCE => Self::Announce(u8::from_be_bytes(fields.try_into().ok()?)),
            ANNOUNCED => Self::Announced(u8::from_be_bytes(fields.try_into().ok()?)),
            PROBE => Self::Probe(u16::try_from(body.len()).ok()?),
            PROBED => Self::Probed(u16::from_be_bytes(fields.try_into().ok()?)),
            COUNT if fields.is_empty() => Self::Count,
            COUNTED => {
                let (newest, packets) = fields.split_first_chunk()?;
                Self::Counted {
                    newest: u64::from_be_bytes(*newest),
                    packets: u64::from_be_bytes(packets.try_into().ok()?),
                }
            }
            _ => return None,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping(token) => [&[PING][..], &token.to_be_bytes()].concat(),
            Self::Pong(token) => [&[PONG][..], &token.to_be_bytes()].concat(),
            Self::Close => vec![CLOSE],
            Self::Challenge(token) => [&[CHALLENGE][..], token].concat(),
            Self::Response(token) => [&[RESPONSE][..], token].concat(),
            Self::Offer(part) => part.encode(OFFER),
            Self::Answer(part) => part.encode(ANSWER),
            Self::Confirm(epoch) => [&[CONFIRM][..], &epoch.to_be_bytes()].concat(),
            Self::Confirmed(epoch) => [&[CONFIRMED][..], &epoch.to_be_bytes()].concat(),
            Self::Announce(flags) => vec![ANNOUNCE, *flags],
            Self::Announced(flags) => vec![ANNOUNCED, *flags],
            Self::Probe(size) => {
                let mut body = vec![0; usize::from(*size).max(1)];
                body[0] = PROBE;
                body
            }
            Self::Probed(size) => [&[PROBED][..], &size.to_be_bytes()].concat(),
            Self::Count => vec![COUNT],
            Self::Counted { newest, packets } => {
                [&[COUNTED][..], &newest.to_be_bytes(), &packets.to_be_bytes()].concat()
            }
        }
    }
}

fn part(fields: &[u8]) -> Option<Part<'_>> {
    let (epoch, fields) = fields.split_first_chunk::<4>()?;
    let (&[index, count], bytes) = fields.split_first_chunk()?;
    let part = Part { epoch: u32::from_be_bytes(*epoch), index, count, bytes };
    (index < count && !bytes.is_empty()).then_some(part)
}

impl Part<'_> {
    fn encode(&self, kind: u8) -> Vec<u8> {
        let head = [&[kind][..], &self.epoch.to_be_bytes(), &[self.index, self.count]].concat();
        [&head, self.bytes].concat()
    }
}

/// `message` in parts of at most `size` bytes.
pub(super) fn parts(epoch: u64, message: &[u8], size: usize) -> impl Iterator<Item = Part<'_>> {
    // No fewer bytes than the count of parts can say.
    let size = size.max(LARGEST.div_ceil(u8::MAX.into()));
    let count = message.len().div_ceil(size) as u8;
    message.chunks(size).zip(0..).map(move |(bytes, index)| Part {
        epoch: epoch as u32,
        index,
        count,
        bytes,
    })
}

/// A message of which parts are there. Bounded: see [`LARGEST`].
#[derive(Default)]
pub(super) struct Assembly {
    epoch: u32,
    parts: Vec<Option<Vec<u8>>>,
    size: usize,
}

impl Assembly {
    /// Adds a part; the message, once it is whole.
    pub(super) fn add(&mut self, part: Part<'_>) -> Option<Vec<u8>> {
        if self.epoch != part.epoch || self.parts.len() != usize::from(part.count) {
            self.clear();
            self.epoch = part.epoch;
            self.parts.resize(part.count.into(), None);
        }
        let slot = self.parts.get_mut(usize::from(part.index))?;
        if slot.is_none() {
            self.size += part.bytes.len();
            if self.size > LARGEST {
                self.clear();
                return None;
            }
            *slot = Some(part.bytes.to_vec());
        }
        let whole: Option<Vec<&[u8]>> = self.parts.iter().map(|part| part.as_deref()).collect();
        let message = whole?.concat();
        self.clear();
        Some(message)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let part = Part { epoch: 7, index: 1, count: 2, bytes: b"part" };
        for message in [
            Message::Ping(1),
            Message::Pong(2),
            Message::Count,
            Message::Counted { newest: 3, packets: 2 },
            Message::Close,
            Message::Challenge([3; 16]),
            Message::Response([4; 16]),
            Message::Offer(part),
            Message::Answer(part),
            Message::Confirm(5),
            Message::Confirmed(6),
            Message::Announce(7),
            Message::Announced(8),
            Message::Probe(900),
            Message::Probed(900),
        ] {
            let body = message.encode();
            assert_eq!(Message::parse(&body), Some(message));
            assert_eq!(Message::parse(&body[..body.len() - 1]).filter(|m| *m == message), None);
            if !matches!(message, Message::Offer(_) | Message::Answer(_) | Message::Probe(_)) {
                assert_eq!(Message::parse(&[&body[..], &[0]].concat()), None);
            }
        }
        for body in [&[][..], &[0], &[99, 1], &[OFFER, 0, 0, 0, 1, 2, 2, 9], &[OFFER, 0, 0, 0, 1]] {
            assert_eq!(Message::parse(body), None, "{body:?}");
        }
    }

    #[test]
    fn parts_make_the_message_in_any_order_and_whatever_else_comes() {
        let message: Vec<u8> = (0..1216).map(|byte| byte as u8).collect();
        let mut assembly = Assembly::default();
        let mut parts: Vec<_> = parts(3, &message, 500).collect();
        assert_eq!(parts.iter().map(|part| part.bytes.len()).collect::<Vec<_>>(), [500, 500, 216]);
        parts.reverse();
        // Of another message first; one twice.
        assert_eq!(assembly.add(Part { epoch: 2, ..parts[0] }), None);
        assert_eq!(assembly.add(parts[0]), None);
        assert_eq!(assembly.add(parts[0]), None);
        assert_eq!(assembly.add(parts[1]), None);
        assert_eq!(assembly.add(parts[2]), Some(message));
    }

    #[test]
    fn no_message_grows_beyond_the_largest() {
        let mut assembly = Assembly::default();
        for index in 0..=254 {
            let bytes = &[0; 1400];
            assert_eq!(assembly.add(Part { epoch: 1, index, count: 255, bytes }), None);
            assert!(assembly.size <= LARGEST);
        }
    }
}
