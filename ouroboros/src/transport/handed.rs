//! A flow's socket that goes to another process, and what is told with it. How
//! it gets there is `daemon`'s.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::wire::MacAddress;

/// A path's socket for another process.
#[derive(Debug)]
pub struct HandOver {
    /// The socket: both processes have it until one of them drops it.
    pub socket: OwnedFd,
    /// How to use it.
    pub kind: Handed,
}

/// How a socket from another process is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Handed {
    /// A UDP socket that is connected to the peer.
    Udp,
    /// A packet socket whose filter takes the flow's frames only, and is
    /// locked.
    EthDix(HandedInterface),
}

/// The interface that a packet socket is bound to. The other process may not
/// see it itself, from a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedInterface {
    pub(super) name: String,
    pub(super) index: i32,
    pub(super) mac: MacAddress,
    /// In bytes, when it was opened.
    pub(super) mtu: usize,
    pub(super) loopback: bool,
    pub(super) ethertype: u16,
}
