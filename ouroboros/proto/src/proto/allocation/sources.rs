//! Where requests come from, and how many each source and its neighbours have.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::wire::PeerAddress;

/// The unit that requests are counted by. Addresses that one host can have for the asking count
/// as one: an IPv6 network of its own, and ports, which cost nothing anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    /// An IPv4 network by address and prefix length.
    V4(u32, u8),
    /// An IPv6 network by the upper half of its address and prefix length.
    V6(u64, u8),
    Station(PeerAddress),
}

/// Where a request comes from, or says that it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// An IPv4 address, an IPv6 /64, a station of a link.
    host: Network,
    /// An IPv4 /24, an IPv6 /48.
    prefix: Option<Network>,
    /// Whether it does. What others send in its name is not counted with what
    /// it sends itself.
    validated: bool,
}

impl Source {
    pub(super) fn of(address: PeerAddress, validated: bool) -> Self {
        let PeerAddress::Udp(socket) = address else {
            return Self { host: Network::Station(address), prefix: None, validated };
        };
        let (host, prefix) = match socket.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let bits = ip.to_bits();
                (Network::V4(bits, 32), Network::V4(bits & !0xff, 24))
            }
            IpAddr::V6(ip) => {
                let bits = upper_half(ip);
                // All machines of a link share the upper half of their addresses there.
                let host = match ip.is_unicast_link_local() {
                    true => Network::Station(address.host()),
                    false => Network::V6(bits, 64),
                };
                (host, Network::V6(bits & !0xffff, 48))
            }
        };
        Self { host, prefix: Some(prefix), validated }
    }

    /// The same source, as what comes from a validated address is counted.
    pub(super) fn validated(self) -> Self {
        Self { validated: true, ..self }
    }

    pub(super) fn is_validated(self) -> bool {
        self.validated
    }

    fn networks(self) -> impl Iterator<Item = (Network, bool)> {
        std::iter::once(self.host).chain(self.prefix).map(move |network| (network, self.validated))
    }
}

fn upper_half(ip: Ipv6Addr) -> u64 {
    (ip.to_bits() >> 64) as u64
}

/// How much one host may have, and all of its prefix together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// One IPv4 address, IPv6 /64, or station or link-local address of a link.
    pub host: usize,
    /// One IPv4 /24 or IPv6 /48.
    pub prefix: usize,
}

/// How many of something each source has.
#[derive(Default)]
pub(super) struct Shares(HashMap<(Network, bool), usize>);

impl Shares {
    /// Returns `true` if `source` may have one more.
    pub(super) fn has_room(&self, source: Source, share: Share) -> bool {
        let has = |network| self.0.get(&(network, source.validated)).copied().unwrap_or(0);
        has(source.host) < share.host
            && source.prefix.is_none_or(|prefix| has(prefix) < share.prefix)
    }

    pub(super) fn add(&mut self, source: Source) {
        for network in source.networks() {
            *self.0.entry(network).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, source: Source) {
        for network in source.networks() {
            if let Some(count) = self.0.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&network);
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns how many sources and prefixes have any.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
