//! The lines of the daemon's lists: keys, IPCPs and what they are attached to,
//! names, flows.

use serde::{Deserialize, Serialize};

use super::path_text::text_of_path;
use crate::{
    crypto::identity::IdentityKey, flow::FlowInfo, proto::negotiation::PeerIdentity,
    transport::ScopedAddress, trust::KeyFile, wire::Eid,
};

/// The transport that an IPCP is bootstrapped over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportSpec {
    /// Raw Ethernet.
    EthDix {
        /// The interface.
        device: String,
        /// The ethertype, 0xa000 by default.
        ethertype: Option<u16>,
        /// The directory hash, such as `sha3-256`.
        hash: Option<String>,
    },
    /// UDP.
    Udp {
        /// The local address.
        ip: ScopedAddress,
        /// The port, 3435 by default.
        port: Option<u16>,
    },
}

/// A key, by its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key's fingerprint, in text.
    pub fingerprint: String,
    /// The file it is in ([`text_of_path`]).
    pub path: String,
    /// The fingerprint of the key that is to take its place, if there is one.
    #[serde(default)]
    pub next: Option<String>,
}

impl KeyEntry {
    /// The key that is in `file`.
    pub fn new(file: &KeyFile, key: &IdentityKey) -> Self {
        let fingerprint = key.public_key().fingerprint().to_string();
        Self { fingerprint, path: text_of_path(file.path()), next: None }
    }
}

/// One IPCP in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcpEntry {
    /// Its name.
    pub name: String,
    /// Its layer; empty if it is not bootstrapped.
    pub layer: String,
    /// The attachment, in words.
    pub attachment: String,
    /// How it was bootstrapped; an older daemon does not say.
    #[serde(default)]
    pub transport: Option<TransportSpec>,
}

/// One name in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    /// The name.
    pub name: String,
    /// Layers it is registered in.
    pub layers: Vec<String>,
    /// Programs bound to it.
    pub programs: Vec<String>,
    /// Processes bound to it.
    pub processes: Vec<u32>,
    /// The encryption that the name's server demands.
    pub encryption: String,
}

/// One client of a name in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRow {
    /// The name that it is a client of.
    pub service: String,
    /// The layer's name; `None`: it has none.
    pub name: Option<String>,
    /// Its key, or that of its invitation.
    pub key: String,
    /// The addresses and networks that its line names.
    pub prefixes: Vec<String>,
    /// Seconds since 1970 until which it is invited; `None`: it is a client.
    pub invited_until: Option<u64>,
    /// The peer addresses of its flows.
    pub peers: Vec<String>,
}

/// One flow in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The name it was allocated to.
    pub name: String,
    /// The IPCP at the other end.
    pub peer: String,
    /// This side's endpoint.
    pub local: Eid,
    /// The peer's endpoint.
    pub remote: Eid,
    /// How its packets are encrypted.
    pub encryption: String,
    /// Whether they have the native profile.
    pub native: bool,
    /// The peer's identity; `None`: it has shown none.
    pub identity: Option<PeerIdentity>,
    /// Whether its frames pass through the daemon; otherwise the application
    /// has the flow's own socket.
    pub relayed: bool,
    /// The process that has it; an older daemon does not say.
    #[serde(default)]
    pub process: Option<u32>,
    /// Since when, in seconds since 1970; an older daemon does not say.
    #[serde(default)]
    pub since: Option<u64>,
}

/// A flow that has outlived the daemon that granted it, as its application tells the next
/// daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFlow {
    /// The agreed terms.
    pub info: FlowInfo,
    /// Whether it was accepted on this machine; otherwise it was allocated.
    pub accepted: bool,
    /// Since when, in seconds since 1970.
    pub since: u64,
}
