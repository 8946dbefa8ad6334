//! Endpoint identifiers and the addresses of peers. Plain values, no parsing
//! of frames.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// An endpoint identifier: one end of a flow, chosen by the machine it is on.
///
/// 16 bits wide on eth-dix, 32 on UDP. 0 is management (WIRE.md, "Names").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Eid(pub u32);

impl Eid {
    /// The management endpoint of every IPCP.
    pub const MANAGEMENT: Self = Self(0);
}

impl fmt::Display for Eid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff, where name queries go.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where a peer IPCP is, in the terms of the transport that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PeerAddress {
    /// On the same Ethernet segment (eth-dix).
    Mac(MacAddress),
    /// Behind a UDP address and port.
    Udp(SocketAddr),
    /// A station of an in-memory network (tests, benchmarks).
    Memory(u32),
}

impl PeerAddress {
    /// The machine alone: a UDP client has a port for each flow. The same for
    /// all addresses of one.
    #[must_use]
    pub const fn host(self) -> Self {
        match self {
            Self::Udp(mut address) => {
                address.set_port(0);
                Self::Udp(address)
            }
            other => other,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Udp(address) => address.fmt(f),
            Self::Memory(station) => write!(f, "memory:{station}"),
        }
    }
}

/// Where a management message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every station of the segment.
    Broadcast,
    /// One peer.
    Peer(PeerAddress),
}

/// Which of the two management layouts an IPCP speaks (WIRE.md, "eth-dix" and
/// "UDP").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// 39-byte header, name queries, EIDs of 16 bits.
    EthDix,
    /// 43-byte header after the EID, no name queries, EIDs of 32 bits.
    Udp,
}
