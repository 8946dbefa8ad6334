//! Extensions in the `data` of an allocation header (PROTOCOL.md, "The
//! extensions"): a magic, then type, length, value. A 0.23 peer ignores them.
//! Shapes only: what is offered and what is answered is `proto::negotiation`'s.

use serde::{Deserialize, Serialize};

use super::management::Malformed;

const MAGIC: [u8; 4] = *b"o7s\x01";
const PROFILE: u16 = 1;
const PADDING: u16 = 2;
const COOKIE: u16 = 3;
const LANE: u16 = 4;
const DELIVERY: u16 = 5;
const INVITATION: u16 = 6;
/// The one version of the native profile.
const VERSION: u8 = 1;
/// The one version of what keeps an order, and its modes.
const RELIABLE_MESSAGES: [u8; 2] = [1, 1];
const ORDERED_PACKETS: [u8; 2] = [1, 2];

/// Farthest that credit may be ahead of what was read, in bytes.
pub const MAX_WINDOW: u32 = 1 << 30;

/// Longest cookie in bytes.
pub const LARGEST_COOKIE: usize = 255;

/// The flows of one tunnel: which of them this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The tunnel's random id.
    pub group: [u8; 16],
    /// Which lane this is, from 0.
    pub index: u8,
    /// How many there are; more than `index`.
    pub lanes: u8,
}

/// The protocol that keeps the order of a native flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The reliable profile (PROTOCOL.md, "Reliable flows"), with what its sender takes.
    Reliable(ReliableParameters),
    /// Packets keep their order by their numbers (PROTOCOL.md, "Ordered flows").
    Ordered,
}

impl Delivery {
    fn parse(value: &[u8]) -> Result<Option<Self>, Malformed> {
        if value.is_empty() {
            return Err(Malformed);
        }
        if let Some(fields) = value.strip_prefix(&RELIABLE_MESSAGES) {
            return ReliableParameters::parse(fields).map(|it| Some(Self::Reliable(it)));
        }
        match value.strip_prefix(&ORDERED_PACKETS) {
            Some([]) => Ok(Some(Self::Ordered)),
            Some(_) => Err(Malformed),
            // Another version or mode: as if it were not there.
            None => Ok(None),
        }
    }
}

/// The limits of one end of a reliable flow (PROTOCOL.md, "Reliable flows").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReliableParameters {
    /// For how long this end delays an acknowledgement at most, in milliseconds.
    pub max_ack_delay: u8,
    /// The credit that the other end has at first, in bytes; at most [`MAX_WINDOW`].
    pub window: u32,
    /// Largest message that this end takes, in bytes; at least 1.
    pub message_limit: u32,
}

impl ReliableParameters {
    fn parse(fields: &[u8]) -> Result<Self, Malformed> {
        let fields: &[u8; 9] = fields.try_into().map_err(|_| Malformed)?;
        let [max_ack_delay, w0, w1, w2, w3, m0, m1, m2, m3] = *fields;
        let window = u32::from_be_bytes([w0, w1, w2, w3]);
        let message_limit = u32::from_be_bytes([m0, m1, m2, m3]);
        if window > MAX_WINDOW || message_limit == 0 {
            return Err(Malformed);
        }
        Ok(Self { max_ack_delay, window, message_limit })
    }

    fn encode(&self) -> [u8; 9] {
        let mut fields = [self.max_ack_delay; 9];
        fields[1..5].copy_from_slice(&self.window.min(MAX_WINDOW).to_be_bytes());
        fields[5..].copy_from_slice(&self.message_limit.max(1).to_be_bytes());
        fields
    }
}

impl Default for ReliableParameters {
    /// Acknowledgements within 2 ms, credit of 256 KiB at first, messages of 1 MiB.
    fn default() -> Self {
        Self { max_ack_delay: 2, window: 256 * 1024, message_limit: 1024 * 1024 }
    }
}

/// Proof that a request's sender is invited (PROTOCOL.md, "Invitations").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvitationProof {
    /// The invitation's Ed25519 key.
    pub key: [u8; 32],
    /// Its signature.
    pub signature: [u8; 64],
}

impl InvitationProof {
    /// `None`: another version.
    fn parse(value: &[u8]) -> Result<Option<Self>, Malformed> {
        let (&version, fields) = value.split_first().ok_or(Malformed)?;
        if version != VERSION {
            return Ok(None);
        }
        let (key, signature) = fields.split_first_chunk().ok_or(Malformed)?;
        let signature = signature.try_into().map_err(|_| Malformed)?;
        Ok(Some(Self { key: *key, signature }))
    }
}

/// The extensions in `data`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The native profile with these flags: offered in a request, accepted in
    /// a reply.
    pub profile: Option<u8>,
    /// Bytes of padding; `None`: no such extension.
    pub padding: Option<u16>,
    /// A server's cookie for the client to echo: 1 to [`LARGEST_COOKIE`] bytes, opaque to it.
    pub cookie: Option<&'a [u8]>,
    /// The place of the flow in a tunnel of several.
    pub lane: Option<Lane>,
    /// The protocol that keeps the packets' order: offered in a request, accepted in a reply.
    pub delivery: Option<Delivery>,
    /// The proof that the sender of a request is invited.
    pub invitation: Option<InvitationProof>,
}

impl<'a> Extensions<'a> {
    /// The extensions in `data`; none if it does not begin with the magic.
    /// Types that are unknown are passed over.
    ///
    /// # Errors
    ///
    /// Lengths beyond the bytes, types out of ascending order (so none comes
    /// twice), values of the wrong shape.
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut extensions = Self::default();
        let Some(mut rest) = data.strip_prefix(&MAGIC) else { return Ok(extensions) };
        let mut last = 0;
        while !rest.is_empty() {
            let (head, tail) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let size = u16::from_be_bytes([head[2], head[3]]);
            if kind <= last {
                return Err(Malformed);
            }
            last = kind;
            let (value, tail) = tail.split_at_checked(size.into()).ok_or(Malformed)?;
            rest = tail;
            match kind {
                PROFILE => {
                    extensions.profile = match value {
                        [] => return Err(Malformed),
                        [VERSION, flags] => Some(*flags),
                        [VERSION, ..] => return Err(Malformed),
                        _ => None,
                    };
                }
                PADDING => extensions.padding = Some(size),
                COOKIE if (1..=LARGEST_COOKIE).contains(&value.len()) => {
                    extensions.cookie = Some(value);
                }
                COOKIE => return Err(Malformed),
                LANE => match value.split_first_chunk::<16>() {
                    Some((group, &[index, lanes])) if index < lanes => {
                        extensions.lane = Some(Lane { group: *group, index, lanes });
                    }
                    _ => return Err(Malformed),
                },
                DELIVERY => extensions.delivery = Delivery::parse(value)?,
                INVITATION => extensions.invitation = InvitationProof::parse(value)?,
                _ => {}
            }
        }
        Ok(extensions)
    }

    /// The bytes; none if there are no extensions. A cookie is cut to
    /// [`LARGEST_COOKIE`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        let mut push = |kind: u16, parts: [&[u8]; 2]| {
            if data.is_empty() {
                data.extend_from_slice(&MAGIC);
            }
            let size = (parts[0].len() + parts[1].len()) as u16;
            data.extend_from_slice(&kind.to_be_bytes());
            data.extend_from_slice(&size.to_be_bytes());
            data.extend_from_slice(parts[0]);
            data.extend_from_slice(parts[1]);
        };
        if let Some(flags) = self.profile {
            push(PROFILE, [&[VERSION, flags], &[]]);
        }
        if let Some(size) = self.padding {
            push(PADDING, [&vec![0; size.into()], &[]]);
        }
        if let Some(cookie) = self.cookie {
            push(COOKIE, [&cookie[..cookie.len().min(LARGEST_COOKIE)], &[]]);
        }
        if let Some(lane) = &self.lane {
            push(LANE, [&lane.group, &[lane.index, lane.lanes]]);
        }
        match &self.delivery {
            Some(Delivery::Reliable(fields)) => {
                push(DELIVERY, [&RELIABLE_MESSAGES, &fields.encode()]);
            }
            Some(Delivery::Ordered) => push(DELIVERY, [&ORDERED_PACKETS, &[]]),
            None => {}
        }
        if let Some(InvitationProof { key, signature }) = &self.invitation {
            push(INVITATION, [&[&[VERSION], &key[..]].concat(), signature]);
        }
        data
    }

    /// Bytes that an extension takes besides its value.
    pub const OVERHEAD: usize = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let lane = Lane { group: [7; 16], index: 1, lanes: 2 };
        for extensions in [
            Extensions::default(),
            Extensions { profile: Some(3), ..Extensions::default() },
            Extensions { padding: Some(0), ..Extensions::default() },
            Extensions { delivery: Some(Delivery::Ordered), ..Extensions::default() },
            Extensions {
                profile: Some(0),
                padding: Some(20),
                cookie: Some(b"cookie"),
                lane: Some(lane),
                delivery: Some(Delivery::Reliable(ReliableParameters::default())),
                invitation: Some(InvitationProof { key: [8; 32], signature: [9; 64] }),
            },
        ] {
            assert_eq!(Extensions::parse(&extensions.encode()), Ok(extensions));
        }
        assert_eq!(
            Extensions { profile: Some(3), ..Extensions::default() }.encode(),
            [0x6f, 0x37, 0x73, 0x01, 0, 1, 0, 2, 1, 3]
        );
        assert!(Extensions::default().encode().is_empty());
    }

    #[test]
    fn what_is_not_ours_says_nothing_and_what_is_malformed_is_refused() {
        let none = Ok(Extensions::default());
        let ours = |tail: &[u8]| [&MAGIC[..], tail].concat();
        let parsed = |tail: &[u8]| Extensions::parse(&ours(tail)).map(|e| e.profile);
        assert_eq!(Extensions::parse(b""), none);
        assert_eq!(Extensions::parse(b"o7s\x02\0\x01\0\x02\x01\x03"), none);
        assert_eq!(Extensions::parse(&ours(b"")), none);
        // An unknown type, another version of the profile, both passed over.
        assert_eq!(parsed(&[0, 1, 0, 2, 1, 5, 0x7f, 0, 0, 1, 9]), Ok(Some(5)));
        assert_eq!(parsed(&[0, 1, 0, 3, 2, 5, 5]), Ok(None));
        for malformed in [
            &[0, 1, 0][..],
            &[0, 1, 0, 3, 1, 5],
            &[0, 0, 0, 0],
            // Twice, known and unknown, and out of order.
            &[0, 1, 0, 2, 1, 5, 0, 1, 0, 2, 1, 5],
            &[0x7f, 0, 0, 0, 0x7f, 0, 0, 0],
            &[0, 2, 0, 0, 0, 1, 0, 2, 1, 5],
            // Values of the wrong shape.
            &[0, 1, 0, 0],
            &[0, 1, 0, 1, 1],
            &[0, 1, 0, 3, 1, 5, 5],
            &[0, 3, 0, 0],
            &[0, 4, 0, 2, 0, 1],
            &[0, 6, 0, 0],
            &[0, 6, 0, 2, 1, 1],
        ] {
            assert_eq!(parsed(malformed), Err(Malformed), "{malformed:?}");
        }
        let mut lane = vec![0, 4, 0, 18];
        lane.extend_from_slice(&[7; 16]);
        assert!(parsed(&[&lane[..], &[1, 2]].concat()).is_ok());
        assert_eq!(parsed(&[&lane[..], &[2, 2]].concat()), Err(Malformed));
    }

    #[test]
    fn what_keeps_an_order_is_as_given_to_the_byte() {
        let reliable = ReliableParameters { max_ack_delay: 2, window: 1 << 30, message_limit: 9 };
        let reliable = Some(Delivery::Reliable(reliable));
        let data = Extensions { delivery: reliable, ..Extensions::default() }.encode();
        let head = [0x6f, 0x37, 0x73, 0x01, 0, 5, 0, 11];
        assert_eq!(data, [&head[..], &[1, 1, 2, 0x40, 0, 0, 0, 0, 0, 0, 9]].concat());
        let parsed = |value: &[u8]| {
            let data = [&head[..7], &[value.len() as u8], value].concat();
            Extensions::parse(&data).map(|extensions| extensions.delivery)
        };
        assert_eq!(parsed(&data[8..]), Ok(reliable));
        assert_eq!(parsed(&[1, 2]), Ok(Some(Delivery::Ordered)));
        // Another version, another mode, whatever their length: passed over.
        assert_eq!(parsed(&[2, 1, 2, 0x40, 0, 0, 0, 0, 0, 0, 9]), Ok(None));
        assert_eq!(parsed(&[1, 0]), Ok(None));
        assert_eq!(parsed(&[2, 2]), Ok(None));
        for malformed in [
            &[][..],
            &[1, 2, 0],
            &[1, 1, 2, 0x40, 0, 0, 0, 0, 0, 0],
            &[1, 1, 2, 0x40, 0, 0, 0, 0, 0, 0, 9, 0],
            // More credit than there may be, and no message at all.
            &[1, 1, 2, 0x40, 0, 0, 1, 0, 0, 0, 9],
            &[1, 1, 2, 0x40, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(parsed(malformed), Err(Malformed), "{malformed:?}");
        }
    }
}
