//! What a hub says of its clients. Not here: what it does with them.

use super::client::Client;
use crate::{
    flow::{FlowInfo, FlowState, FlowStatistics},
    proto::hub::IpNet,
    sync::lock,
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

/// What happens to a hub's clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// One has come.
    Joined {
        /// Which.
        client: ClientId,
        /// What was agreed with it.
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
    /// like: see [`Hub::tell`](super::Hub::tell).
    Requested {
        /// Which.
        client: ClientId,
        /// The addresses: a wish.
        wanted: Vec<IpNet>,
    },
    /// One has other prefixes than before.
    Addressed {
        /// Which.
        client: ClientId,
        /// All that it has now.
        prefixes: Vec<IpNet>,
    },
}

/// What went to and came from a client. Bytes are those of IP packets.
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
    /// What was agreed with it.
    pub flow: FlowInfo,
    /// Its flows that are there, as they are now.
    pub flows: Vec<FlowState>,
    /// What it may send from, and is sent.
    pub prefixes: Vec<IpNet>,
    /// Largest packet that reaches it, in bytes.
    pub mtu: u16,
    /// What went through.
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
