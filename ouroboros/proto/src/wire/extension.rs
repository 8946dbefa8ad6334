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
/// The one version of the native profile.
const VERSION: u8 = 1;

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

/// What `data` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The native profile with these flags: offered in a request, accepted in
    /// a reply.
    pub profile: Option<u8>,
    /// Bytes of padding; `None`: no such extension.
    pub padding: Option<u16>,
    /// What a server gave for the client to echo: 1 to [`LARGEST_COOKIE`]
    /// bytes, opaque to it.
    pub cookie: Option<&'a [u8]>,
    /// The place of the flow in a tunnel of several.
    pub lane: Option<Lane>,
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
            Extensions {
                profile: Some(0),
                padding: Some(20),
                cookie: Some(b"cookie"),
                lane: Some(lane),
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
        ] {
            assert_eq!(parsed(malformed), Err(Malformed), "{malformed:?}");
        }
        let mut lane = vec![0, 4, 0, 18];
        lane.extend_from_slice(&[7; 16]);
        assert!(parsed(&[&lane[..], &[1, 2]].concat()).is_ok());
        assert_eq!(parsed(&[&lane[..], &[2, 2]].concat()), Err(Malformed));
    }
}
