//! The attachment of an IPCP, from a request to a transport. Not here: IPCPs.

use std::sync::Arc;

use ouroboros::{
    daemon::protocol::TransportSpec,
    transport::{EthDix, IntoTransport, OpenError, Transport, Udp},
    wire::DirectoryHash,
};
use rustix::thread::CapabilitySet;

use crate::{OUTER_MARK, confine::has};

/// An attachment to be opened.
pub(super) struct Attachment(pub(super) TransportSpec);

impl IntoTransport for Attachment {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        match self.0 {
            TransportSpec::EthDix { device, ethertype, hash } => {
                let mut builder = EthDix::on(&device);
                if let Some(ethertype) = ethertype {
                    builder = builder.ethertype(ethertype);
                }
                if let Some(hash) = hash.as_deref().and_then(directory_hash) {
                    builder = builder.directory_hash(hash);
                }
                builder.open()
            }
            TransportSpec::Udp { ip, port } => {
                let mut builder = Udp::at(ip.address());
                if has(CapabilitySet::NET_ADMIN) {
                    builder = builder.mark(OUTER_MARK);
                }
                if let Some(zone) = ip.zone() {
                    builder = builder.zone(zone);
                }
                match port {
                    Some(port) => builder.port(port).open(),
                    None => builder.open(),
                }
            }
        }
    }
}

pub(super) fn directory_hash(name: &str) -> Option<DirectoryHash> {
    match name.to_ascii_lowercase().as_str() {
        "sha3-224" => Some(DirectoryHash::Sha3_224),
        "sha3-256" => Some(DirectoryHash::Sha3_256),
        "sha3-384" => Some(DirectoryHash::Sha3_384),
        "sha3-512" => Some(DirectoryHash::Sha3_512),
        _ => None,
    }
}

/// Returns `true` if an IPCP of this type is bootstrapped like that.
pub(super) fn attaches(kind: &str, transport: &TransportSpec) -> bool {
    match transport {
        TransportSpec::EthDix { .. } => kind == "eth-dix",
        TransportSpec::Udp { ip, .. } => {
            kind == "udp" || kind == if ip.address().is_ipv4() { "udp4" } else { "udp6" }
        }
    }
}
