//! Descriptions of a hub's clients. Not here: what it does with them.

use super::client::Client;
use crate::{
    flow::{FlowInfo, FlowState, FlowStatistics},
    proto::hub::IpNet,
    sync::lock,
    wire::PeerAddress,
};

/// A client of a [`Hub`](super::Hub), for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(super) u64);

impl ClientId {
    /// One of that number: for tests of what is done with clients.
    #[doc(hidden)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// An event of a hub's clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// One has come.
    Joined {
        /// Which.
        client: ClientId,
        /// The agreed terms of its flow.
        info: Box<FlowInfo>,
    },
    /// One has gone, or was [removed](super::Hub::remove).
    Left {
        /// Which.
        client: ClientId,
        /// Why its flow has ended.
        reason: String,
    },
    /// One asks for its configuration, and says which addresses it has or would
    /// like: see [`Hub::configure`](super::Hub::configure).
    Requested {
        /// Which.
        client: ClientId,
        /// The addresses: a wish.
        wanted: Vec<IpNet>,
    },
    /// One is reached at another address than before: its host has changed networks, or a
    /// router in between gives it another port. One whose packets pass a daemon that relays
    /// them does not move.
    Moved {
        /// Which.
        client: ClientId,
        /// Where it is now: of several flows, where the one is that has moved.
        peer: PeerAddress,
    },
    /// One has other prefixes than before.
    Addressed {
        /// Which.
        client: ClientId,
        /// All that it has now.
        prefixes: Vec<IpNet>,
    },
}

/// Statistics of a client. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatistics {
    /// Its flows' own, added up.
    pub flows: FlowStatistics,
    /// Packets and super-packets from the device to the client.
    pub sent_packets: u64,
    /// Packets that came from the client.
    pub received_packets: u64,
    /// Bytes that came from the client.
    pub received_bytes: u64,
    /// Of these, packets that went on to other clients.
    pub forwarded_packets: u64,
    /// Dropped: packets from an address that is not the client's. What is from
    /// an address of the link (fe80::/10) is dropped and not counted.
    pub foreign_source: u64,
}

/// A client as it is now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Which.
    pub client: ClientId,
    /// The agreed terms of its flow.
    pub flow: FlowInfo,
    /// Its flows that are there, as they are now.
    pub flows: Vec<FlowState>,
    /// The prefixes that it may send from, and whose packets it is sent.
    pub prefixes: Vec<IpNet>,
    /// Largest packet that reaches it, in bytes.
    pub mtu: u16,
    /// The client's statistics.
    pub statistics: ClientStatistics,
}

impl ClientInfo {
    pub(super) fn of(client: &Client) -> Self {
        Self {
            client: client.id,
            flow: client.info.clone(),
            flows: client.flows(),
            prefixes: lock(&client.prefixes).clone(),
            mtu: client.mtu(),
            statistics: client.statistics(),
        }
    }
}
