//! The datagrams that the daemon and an application that has a flow's own socket send each
//! other, on the connection that the flow was granted on. Each side reads what it understands
//! and skips the rest. No sockets here.
//!
//! The channel carries no promise: a frame that finds it full is lost, as on
//! any network. It ends with the flow; that the daemon's end is gone ends
//! nothing.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::wire::{MacAddress, PeerAddress};

/// Largest frame in bytes: more than a 0.23 peer sends over UDP (WIRE.md,
/// "UDP"), and than management has anywhere.
pub(super) const LARGEST_FRAME: usize = 9216;
/// More bytes than a message has.
pub(super) const LARGEST_MESSAGE: usize = LARGEST_FRAME + 32;

const STRAY: u8 = 1;
const FRAME: u8 = 2;
const REVOKED: u8 = 3;
const MAC: u8 = 1;
const V4: u8 = 4;
const V6: u8 = 6;
/// IPv6 with the index of an interface in front of the port, of a link-local peer.
const V6_SCOPED: u8 = 7;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// To the daemon: a frame that reached the flow's socket and is not the
    /// flow's, with who sent it, and the endpoint id in front as UDP carries it.
    Stray(PeerAddress, &'a [u8]),
    /// To the application: a frame for the flow's endpoint, without the endpoint
    /// id, that reached the daemon: early, or from an address that is not the
    /// peer's. Nobody has authenticated it.
    Frame(PeerAddress, &'a [u8]),
    /// To the application: the name's policy does not allow the flow any more, and
    /// it has to end.
    Revoked,
}

impl<'a> Message<'a> {
    /// The message in `datagram`; `None` if it is of another kind, or cut.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        match datagram.split_first()? {
            (&STRAY, rest) => parse_address(rest).map(|(from, frame)| Self::Stray(from, frame)),
            (&FRAME, rest) => parse_address(rest).map(|(from, frame)| Self::Frame(from, frame)),
            (&REVOKED, []) => Some(Self::Revoked),
            _ => None,
        }
    }

    /// Returns the head of the datagram, and the frame behind it; `None` for an address that no
    /// daemon serves.
    pub fn encode(&self) -> Option<(Vec<u8>, &'a [u8])> {
        let (kind, from, frame) = match *self {
            Self::Stray(from, frame) => (STRAY, from, frame),
            Self::Frame(from, frame) => (FRAME, from, frame),
            Self::Revoked => return Some((vec![REVOKED], &[])),
        };
        let mut head = vec![kind];
        match from {
            PeerAddress::Mac(MacAddress(mac)) => {
                head.push(MAC);
                head.extend_from_slice(&mac);
            }
            PeerAddress::Udp(address) => {
                match address {
                    SocketAddr::V4(v4) => {
                        head.push(V4);
                        head.extend_from_slice(&v4.ip().octets());
                    }
                    SocketAddr::V6(v6) if v6.scope_id() == 0 => {
                        head.push(V6);
                        head.extend_from_slice(&v6.ip().octets());
                    }
                    SocketAddr::V6(v6) => {
                        head.push(V6_SCOPED);
                        head.extend_from_slice(&v6.ip().octets());
                        head.extend_from_slice(&v6.scope_id().to_be_bytes());
                    }
                }
                head.extend_from_slice(&address.port().to_be_bytes());
            }
            _ => return None,
        }
        Some((head, frame))
    }
}

fn parse_address(bytes: &[u8]) -> Option<(PeerAddress, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    if kind == MAC {
        let (mac, rest) = rest.split_first_chunk()?;
        return Some((PeerAddress::Mac(MacAddress(*mac)), rest));
    }
    let (ip, rest): (IpAddr, _) = match kind {
        V4 => rest.split_first_chunk::<4>().map(|(ip, rest)| ((*ip).into(), rest))?,
        V6 | V6_SCOPED => rest.split_first_chunk::<16>().map(|(ip, rest)| ((*ip).into(), rest))?,
        _ => return None,
    };
    let (scope, rest) = match kind {
        V6_SCOPED => {
            rest.split_first_chunk().map(|(scope, rest)| (u32::from_be_bytes(*scope), rest))?
        }
        _ => (0, rest),
    };
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    if kind == V6_SCOPED && scope == 0 {
        // That is an address without a scope, which has a kind of its own.
        return None;
    }
    let address = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    Some((PeerAddress::Udp(address), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_whatever_is_cut_is_not() {
        let mac = PeerAddress::Mac(MacAddress([2, 0, 0, 0, 0, 7]));
        let v4 = PeerAddress::Udp(([10, 0, 0, 1], 3435).into());
        let v6 = PeerAddress::Udp("[fd66::1]:3435".parse().expect("an address"));
        let scoped = PeerAddress::Udp("[fe80::1%7]:3435".parse().expect("an address"));
        let frame: &[u8] = b"a frame";
        for message in [
            Message::Stray(v4, frame),
            Message::Stray(v6, frame),
            Message::Stray(scoped, frame),
            Message::Revoked,
            Message::Frame(mac, frame),
            Message::Frame(v4, frame),
            Message::Frame(v6, &[]),
        ] {
            let (head, frame) = message.encode().expect("an address of a layer");
            let datagram = [&head, frame].concat();
            assert_eq!(Message::parse(&datagram), Some(message));
            for end in 0..head.len() {
                assert_eq!(Message::parse(&datagram[..end]), None, "{message:?} cut at {end}");
            }
        }
        assert_eq!(Message::parse(&[0, 1, 2]), None);
        assert_eq!(Message::parse(&[FRAME, 9, 1, 2, 3, 4, 5, 6, 7]), None);
    }
}
