//! Invitations as a line of text: all that a machine needs to become a client of a server
//! (PROTOCOL.md, "Invitations"). Not here: what proves to the server that one has it
//! (`proto::negotiation`), and where the server keeps whom it has invited (`clients`).

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use crate::{
    crypto::{Hash, identity::Fingerprint},
    proto::negotiation::InvitationSecret,
    transport::ServerHost,
    wire::Name,
};

/// The text's first characters.
const PREFIX: &str = "o7s-invite:";
/// RFC 4648, section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The version that is written and read.
const VERSION: u8 = 1;
/// A layer over UDP: the one kind that is known.
const UDP: u8 = 1;
/// Longest host or name in bytes.
const LONGEST_TEXT: usize = 255;
const CHECKSUM: usize = 4;
/// Longest text in bytes: more than any that is written has.
const LONGEST: usize = 8192;

/// An invitation: where a server is, by which key it is known, and the secret by which the
/// first who uses it becomes its client, until it is over. The layer is one over UDP.
///
/// Its text is one word without anything that a shell or a mail changes. **It has the
/// secret in it**: who reads it first can use it. A text that was mistyped is told from
/// others by a checksum.
///
/// ```
/// use ouroboros::{
///     crypto::{SystemEntropy, identity::IdentityKey},
///     proto::negotiation::InvitationSecret,
///     trust::Invitation,
/// };
///
/// let server_key = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
/// let secret = InvitationSecret::generate(&mut SystemEntropy);
/// let servers = vec!["vpn.example.org:4000".parse()?];
/// let invitation =
///     Invitation::new("office".parse()?, servers, server_key, secret, 1_900_000_000)?;
/// assert_eq!(invitation.to_string().parse::<Invitation>()?, invitation);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    name: Name,
    servers: Vec<ServerHost>,
    server_key: Fingerprint,
    secret: InvitationSecret,
    until: u64,
}

/// A text is no invitation, or its parts make none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInvitation {
    /// It does not begin as one.
    #[error("not an invitation: one begins with {PREFIX}")]
    Prefix,
    /// A character is wrong, or some are missing.
    #[error("the invitation is mistyped or not whole: copy all of it")]
    Mistyped,
    /// It is of a version that is not known.
    #[error("the invitation is of version {0}, which this program is too old for")]
    Version(u8),
    /// Its server is in a layer of a kind that is not known.
    #[error("the invitation is to a layer of a kind that this program does not know ({0})")]
    LayerKind(u8),
    /// A part of it makes no sense, or there are too many.
    #[error(
        "the invitation makes no sense: 1 to {} addresses of at most {LONGEST_TEXT} bytes, and a name",
        Invitation::MAX_SERVERS
    )]
    Malformed,
}

impl Invitation {
    /// Addresses of the server, at most.
    pub const MAX_SERVERS: usize = 8;

    /// An invitation to be a client of `name` at one of `servers`, whose key is
    /// `server_key`, until `until` (seconds since 1970).
    ///
    /// # Errors
    ///
    /// [`Malformed`](InvalidInvitation::Malformed): there is no server or more than
    /// [`MAX_SERVERS`](Self::MAX_SERVERS), or one whose text is longer than 255 bytes.
    pub fn new(
        name: Name,
        servers: Vec<ServerHost>,
        server_key: Fingerprint,
        secret: InvitationSecret,
        until: u64,
    ) -> Result<Self, InvalidInvitation> {
        let fits = |host: &ServerHost| host.to_string().len() <= LONGEST_TEXT;
        if !(1..=Self::MAX_SERVERS).contains(&servers.len())
            || !servers.iter().all(fits)
            || name.as_str().len() > LONGEST_TEXT
        {
            return Err(InvalidInvitation::Malformed);
        }
        Ok(Self { name, servers, server_key, secret, until })
    }

    /// The name to allocate flows to.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Returns where the server is: one address at least, the first to be tried first.
    #[must_use]
    pub fn servers(&self) -> &[ServerHost] {
        &self.servers
    }

    /// The key that the server is known by.
    #[must_use]
    pub const fn server_key(&self) -> Fingerprint {
        self.server_key
    }

    /// Returns the secret that proves to the server that its holder is invited.
    #[must_use]
    pub const fn secret(&self) -> &InvitationSecret {
        &self.secret
    }

    /// Until when it is open, in seconds since 1970.
    #[must_use]
    pub const fn until(&self) -> u64 {
        self.until
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let texts: usize = servers.iter().map(|text| text.len() + 1).sum();
        // With room from the start: a buffer that grows leaves its contents behind.
        let room = 48 + texts + self.name.as_str().len() + CHECKSUM;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        bytes.extend_from_slice(&[VERSION, UDP]);
        bytes.extend_from_slice(&self.until.to_be_bytes());
        bytes.extend_from_slice(self.server_key.as_bytes());
        bytes.extend_from_slice(self.secret.as_bytes());
        bytes.push(servers.len() as u8);
        for text in servers.iter().map(String::as_str).chain([self.name.as_str()]) {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, InvalidInvitation> {
        let at = bytes.len().checked_sub(CHECKSUM).ok_or(InvalidInvitation::Mistyped)?;
        let (bytes, sum) = bytes.split_at(at);
        if checksum(bytes) != sum {
            return Err(InvalidInvitation::Mistyped);
        }
        let (&version, bytes) = bytes.split_first().ok_or(InvalidInvitation::Malformed)?;
        if version != VERSION {
            return Err(InvalidInvitation::Version(version));
        }
        let (&kind, bytes) = bytes.split_first().ok_or(InvalidInvitation::Malformed)?;
        if kind != UDP {
            return Err(InvalidInvitation::LayerKind(kind));
        }
        Self::parse_fields(bytes).ok_or(InvalidInvitation::Malformed)
    }

    fn parse_fields(bytes: &[u8]) -> Option<Self> {
        let (until, bytes) = bytes.split_first_chunk()?;
        let (key, bytes) = bytes.split_first_chunk()?;
        let (secret, bytes) = bytes.split_first_chunk()?;
        let (&count, mut bytes) = bytes.split_first()?;
        let mut text = || {
            let (&length, rest) = bytes.split_first()?;
            let (text, rest) = rest.split_at_checked(length.into())?;
            bytes = rest;
            str::from_utf8(text).ok()
        };
        let mut servers = Vec::new();
        for _ in 0..usize::from(count).min(Invitation::MAX_SERVERS + 1) {
            let text = text()?;
            let server: ServerHost = text.parse().ok()?;
            // There is one text of each invitation.
            servers.push(Some(server).filter(|server| server.to_string() == text)?);
        }
        let name = text()?.parse().ok()?;
        if !bytes.is_empty() {
            return None;
        }
        let (secret, until) = (InvitationSecret::new(*secret), u64::from_be_bytes(*until));
        Self::new(name, servers, Fingerprint::from_bytes(*key), secret, until).ok()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&Hash::Sha256.digest(bytes)[..CHECKSUM]);
    sum
}

/// The text, with the secret.
impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_str(PREFIX)?;
        let bytes = self.encode();
        let bit = |at: usize| {
            let byte = bytes.get(at / 8).copied().unwrap_or(0);
            usize::from(byte >> (7 - at % 8) & 1)
        };
        for at in (0..bytes.len() * 8).step_by(5) {
            let digit = (at..at + 5).fold(0, |digit, at| digit << 1 | bit(at));
            f.write_char(char::from(ALPHABET[digit]))?;
        }
        Ok(())
    }
}

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidInvitation::Prefix)?;
        if digits.len() > LONGEST {
            return Err(InvalidInvitation::Mistyped);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() * 5 / 8 + 1));
        let (mut word, mut bits) = (0u16, 0);
        for digit in digits.bytes() {
            let value = ALPHABET.iter().position(|known| *known == digit);
            word = word << 5 | value.ok_or(InvalidInvitation::Mistyped)? as u16;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((word >> bits) as u8);
                word &= (1 << bits) - 1;
            }
        }
        // What is left are zeros that make the last digit whole.
        if bits >= 5 || word != 0 {
            return Err(InvalidInvitation::Mistyped);
        }
        Self::parse(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::{SystemEntropy, identity::IdentityKey};

    fn invitation(servers: &[&str]) -> Invitation {
        let servers = servers.iter().map(|text| text.parse().expect("a host")).collect();
        let key = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let secret = InvitationSecret::generate(&mut SystemEntropy);
        let name = "office".parse().expect("a name");
        Invitation::new(name, servers, key, secret, 1_900_000_000).expect("makes sense")
    }

    #[test]
    fn what_is_written_is_read() {
        for servers in
            [&["192.0.2.1"][..], &["vpn.example.org:4000", "[2001:db8::1]:4000"], &["a"; 8]]
        {
            let invitation = invitation(servers);
            let text = invitation.to_string();
            assert!(text.bytes().skip(PREFIX.len()).all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(text.parse(), Ok(invitation));
        }
        let long = std::array::from_fn::<_, 8, _>(|_| "a".repeat(253));
        let invitation = invitation(&long.each_ref().map(String::as_str));
        assert_eq!(invitation.to_string().parse(), Ok(invitation));
    }

    #[test]
    fn its_secret_is_not_in_what_is_logged() {
        let invitation = invitation(&["192.0.2.1"]);
        let logged = format!("{invitation:?}");
        let secret = invitation.secret().as_bytes();
        assert!(
            !logged.contains(&format!("{secret:?}")) && logged.contains("InvitationSecret(..)")
        );
    }

    #[test]
    fn every_single_mistake_is_told() {
        let text = invitation(&["192.0.2.1:4000"]).to_string();
        for at in PREFIX.len()..text.len() {
            for digit in ['a', '7', 'A', '1', ' '] {
                let mistyped = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
                if mistyped != text {
                    assert_eq!(mistyped.parse::<Invitation>(), Err(InvalidInvitation::Mistyped));
                }
            }
            assert!(text[..at].parse::<Invitation>().is_err(), "cut short");
        }
        assert!(format!("{text}a").parse::<Invitation>().is_err());
        assert_eq!("office".parse::<Invitation>(), Err(InvalidInvitation::Prefix));
        assert_eq!(PREFIX.parse::<Invitation>(), Err(InvalidInvitation::Mistyped));
    }

    #[test]
    fn what_is_newer_or_makes_no_sense_is_told_as_that() {
        let with_sum = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = invitation(&["192.0.2.1"]).encode().to_vec();
            bytes.truncate(bytes.len() - CHECKSUM);
            change(&mut bytes);
            let sum = checksum(&bytes);
            Invitation::parse(&[&bytes[..], &sum].concat())
        };
        assert!(with_sum(&|_| {}).is_ok());
        assert_eq!(with_sum(&|bytes| bytes[0] = 2), Err(InvalidInvitation::Version(2)));
        assert_eq!(with_sum(&|bytes| bytes[1] = 9), Err(InvalidInvitation::LayerKind(9)));
        // The count of servers, a length, a host's text; one byte more or less.
        for change in [
            &(|bytes: &mut Vec<u8>| bytes[46] = 0) as &dyn Fn(&mut Vec<u8>),
            &|bytes| bytes[46] = 9,
            &|bytes| bytes[47] = 255,
            &|bytes| bytes[48] = b' ',
            &|bytes| bytes.push(0),
            &|bytes| bytes.truncate(bytes.len() - 1),
        ] {
            assert_eq!(with_sum(change), Err(InvalidInvitation::Malformed));
        }
        let none = invitation(&["a"]);
        let (name, key, secret) = (none.name.clone(), none.server_key, none.secret.clone());
        let parts = |servers| Invitation::new(name.clone(), servers, key, secret.clone(), 0);
        assert_eq!(parts(Vec::new()), Err(InvalidInvitation::Malformed));
        assert_eq!(parts(vec![none.servers[0].clone(); 9]), Err(InvalidInvitation::Malformed));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "(o7s-invite:)?[a-z2-7]{0,200}",
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Ok(read) = text.parse::<Invitation>() {
                prop_assert_eq!(read.to_string(), text);
            }
            // With a checksum, so that the fields are looked at.
            let bytes = [&[VERSION, UDP][..], &bytes].concat();
            let bytes = [&bytes[..], &checksum(&bytes)].concat();
            if let Ok(read) = Invitation::parse(&bytes) {
                prop_assert_eq!(&*read.encode(), &bytes);
            }
        }
    }
}
