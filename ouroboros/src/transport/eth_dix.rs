//! eth-dix: builder.
use std::sync::Arc;

use super::{IntoTransport, OpenError, Transport};
use crate::wire::DirectoryHash;

/// An Ethernet attachment to be opened (WIRE.md, "eth-dix").
#[derive(Clone, Debug)]
pub struct EthDix {
    interface: String,
    ethertype: u16,
    hash: DirectoryHash,
}

impl EthDix {
    /// The ethertype of a 0.23 peer unless configured otherwise.
    pub const ETHERTYPE: u16 = 0xa000;

    /// On the network interface of that name, with ethertype 0xA000 and a
    /// SHA3-256 directory.
    pub fn on(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            ethertype: Self::ETHERTYPE,
            hash: DirectoryHash::Sha3_256,
        }
    }

    /// Uses another ethertype. All stations of a layer have the same.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = ethertype;
        self
    }

    /// Uses another directory hash. All stations of a layer have the same.
    pub fn directory_hash(mut self, hash: DirectoryHash) -> Self {
        self.hash = hash;
        self
    }
}

impl IntoTransport for EthDix {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let _ = (self.ethertype, self.hash);
        Err(OpenError::NoSuchInterface(self.interface))
    }
}
