//! Messages of a tunnel's server and client about the network inside (PROTOCOL.md, "Tunnels"):
//! bytes to typed values and back.
//!
//! Not here: repetition (`exchange`), and what a client takes of it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::crypto::identity::Fingerprint;

/// Longest configuration in bytes.
pub const LARGEST: usize = 8192;
/// Bytes of a configuration in one part: fits any path.
pub(super) const PART: usize = 1024;
/// Version of the exchange.
const VERSION: u8 = 1;
/// Longest text in bytes.
const LONGEST_TEXT: usize = 255;

const REQUEST: u8 = 0x01;
const PART_OF: u8 = 0x02;
const RECEIVED: u8 = 0x03;

const ADDRESS: u8 = 1;
const ROUTE: u8 = 2;
const DNS_SERVER: u8 = 3;
const SEARCH_DOMAIN: u8 = 4;
const MTU: u8 = 5;
const SERVER_NAME: u8 = 6;
const NEXT_KEY: u8 = 7;

/// The configuration of a client: the network that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Configuration {
    /// Its own addresses, each with the network that it is in.
    pub addresses: Vec<IpNet>,
    /// The prefixes that can be reached through the tunnel besides.
    pub routes: Vec<IpNet>,
    /// Resolvers.
    pub dns_servers: Vec<IpAddr>,
    /// Domains that they are for.
    pub search_domains: Vec<String>,
    /// Largest packet in bytes.
    pub mtu: Option<u16>,
    /// The server's name.
    pub server_name: Option<String>,
    /// The key that the server is to have next.
    pub next_key: Option<Fingerprint>,
}

impl Configuration {
    /// Reads items; `None` if they are malformed. Items of unknown types are
    /// skipped.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        if bytes.len() > LARGEST {
            return None;
        }
        while let Some((&[kind, high, low], rest)) = bytes.split_first_chunk() {
            let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
            bytes = rest;
            match kind {
                ADDRESS => read.addresses.push(net(value)?),
                ROUTE => read.routes.push(net(value)?.trunc()),
                DNS_SERVER => read.dns_servers.push(ip(value)?),
                SEARCH_DOMAIN => read.search_domains.push(text(value)?),
                MTU => read.mtu = Some(u16::from_be_bytes(value.try_into().ok()?)),
                SERVER_NAME => read.server_name = Some(text(value)?),
                NEXT_KEY => read.next_key = Some(Fingerprint::from_bytes(value.try_into().ok()?)),
                _ => {}
            }
        }
        bytes.is_empty().then_some(read)
    }

    /// The items as bytes; `None` if they are more than [`LARGEST`], or a text
    /// is longer than 255 bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.addresses.iter().for_each(|net| item(&mut bytes, ADDRESS, &net_bytes(*net)));
        self.routes.iter().for_each(|net| item(&mut bytes, ROUTE, &net_bytes(net.trunc())));
        self.dns_servers.iter().for_each(|ip| item(&mut bytes, DNS_SERVER, &ip_bytes(*ip)));
        for domain in &self.search_domains {
            item(&mut bytes, SEARCH_DOMAIN, domain.as_bytes());
        }
        if let Some(mtu) = self.mtu {
            item(&mut bytes, MTU, &mtu.to_be_bytes());
        }
        if let Some(name) = &self.server_name {
            item(&mut bytes, SERVER_NAME, name.as_bytes());
        }
        if let Some(key) = &self.next_key {
            item(&mut bytes, NEXT_KEY, key.as_bytes());
        }
        let texts = self.search_domains.iter().chain(&self.server_name);
        let fits = bytes.len() <= LARGEST && texts.into_iter().all(|text| is_text(text));
        fits.then_some(bytes)
    }
}

/// A packet of the exchange. Its first byte is none of an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The client asks, and says which addresses it would like.
    Request(Vec<IpNet>),
    /// The server's answer, or news.
    Part(Part<'a>),
    /// The client has all of a configuration.
    Received(u32),
}

/// A part of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Which configuration of this flow.
    pub(super) serial: u32,
    pub(super) index: u8,
    /// How many parts there are.
    pub(super) count: u8,
    pub(super) bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` if it is none, or malformed.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (&kind, fields) = packet.split_first()?;
        match kind {
            REQUEST => {
                let (&version, items) = fields.split_first()?;
                // A later version may say more, and not less.
                (version >= VERSION).then_some(())?;
                Some(Self::Request(Configuration::parse(items)?.addresses))
            }
            PART_OF => {
                let (serial, fields) = fields.split_first_chunk::<4>()?;
                let (&[index, count], bytes) = fields.split_first_chunk()?;
                let serial = u32::from_be_bytes(*serial);
                let fits = index < count && bytes.len() <= PART;
                fits.then_some(Self::Part(Part { serial, index, count, bytes }))
            }
            RECEIVED => Some(Self::Received(u32::from_be_bytes(fields.try_into().ok()?))),
            _ => None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Request(wanted) => {
                let mut bytes = vec![REQUEST, VERSION];
                wanted.iter().for_each(|net| item(&mut bytes, ADDRESS, &net_bytes(*net)));
                bytes
            }
            Self::Part(Part { serial, index, count, bytes }) => {
                [&[PART_OF][..], &serial.to_be_bytes(), &[*index, *count], bytes].concat()
            }
            Self::Received(serial) => [&[RECEIVED][..], &serial.to_be_bytes()].concat(),
        }
    }
}

fn item(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn net(value: &[u8]) -> Option<IpNet> {
    let (&length, address) = value.split_last()?;
    IpNet::new(ip(address)?, length).ok()
}

fn net_bytes(net: IpNet) -> Vec<u8> {
    let mut bytes = ip_bytes(net.addr());
    bytes.push(net.prefix_len());
    bytes
}

/// A text without control characters, which nobody's terminal or file is to
/// get from another machine.
fn text(value: &[u8]) -> Option<String> {
    let text = str::from_utf8(value).ok()?;
    is_text(text).then(|| text.to_owned())
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn example() -> Configuration {
        Configuration {
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            routes: vec!["192.168.0.0/16".parse().unwrap(), "::/0".parse().unwrap()],
            dns_servers: vec!["10.0.0.1".parse().unwrap()],
            search_domains: vec!["example.org".to_owned()],
            mtu: Some(1400),
            server_name: Some("office".to_owned()),
            next_key: Some(Fingerprint::from_bytes([7; 20])),
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_unknown_is_skipped() {
        let mut bytes = example().encode().expect("fits");
        assert_eq!(Configuration::parse(&bytes), Some(example()));
        bytes.extend([200, 0, 2, 1, 2]);
        assert_eq!(Configuration::parse(&bytes), Some(example()));
        bytes.push(1);
        assert_eq!(Configuration::parse(&bytes), None, "half an item");
    }

    #[test]
    fn what_makes_no_sense_or_could_harm_a_terminal_is_refused() {
        for malformed in [
            &[1, 0, 5, 10, 0, 0, 1, 33][..],
            &[1, 0, 4, 10, 0, 0, 1],
            &[3, 0, 3, 10, 0, 0],
            &[4, 0, 0],
            &[4, 0, 3, b'a', 0x1b, b'c'],
            &[4, 0, 1, 0xff],
            &[5, 0, 1, 9],
            &[7, 0, 2, 1, 2],
        ] {
            assert_eq!(Configuration::parse(malformed), None, "{malformed:?}");
        }
        let long =
            Configuration { search_domains: vec!["a".repeat(256)], ..Configuration::default() };
        assert_eq!(long.encode(), None);
        let large = Configuration {
            routes: vec!["10.0.0.0/8".parse().unwrap(); 2000],
            ..Configuration::default()
        };
        assert_eq!(large.encode(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(read) = Configuration::parse(&bytes) {
                let again = read.encode().expect("fits");
                prop_assert_eq!(Configuration::parse(&again), Some(read));
            }
            if let Some(message) = Message::parse(&bytes) {
                let again = message.encode();
                prop_assert_eq!(Message::parse(&again), Some(message));
            }
        }
    }
}
