#![doc = include_str!("../GUIDE.md")]
//!
//! # Modules
//!
//! - [`transport`]: what carries frames: eth-dix, UDP, memory.
//! - [`tun`]: the TUN device; [`Tunnel`] and [`Hub`] put one at the end of flows.
//! - [`trust`]: files of keys, known names, authorized clients, authorities.
//! - [`security`]: what is asked of flows beyond [`Trust`] and [`ServerSecurity`].
//! - [`crypto`]: algorithms, keys, identities.
//! - [`wire`]: names, addresses, qualities of service and the formats they have.
//! - [`mod@error`]: all errors.
//!
//! Public items without documentation belong to this workspace, and may change at any time.

#[cfg(not(target_os = "linux"))]
compile_error!("ouroboros needs Linux: packet sockets, TUN devices, epoll");

pub mod crypto;
#[doc(hidden)]
pub mod daemon;
pub mod error;
#[doc(hidden)]
pub mod log;
pub mod security;
pub mod transport;
pub mod trust;
pub mod tun;

mod driver;
mod flow;
mod ipcp;
mod irm;
mod lanes;
mod layer;
#[allow(unsafe_code)]
mod sys;
mod tunnel;

#[doc(no_inline)]
pub use bytes::Bytes;
pub use daemon::socket_path;
pub use error::{AllocateError, DaemonError, FlowError, LayerError, NotEmbedded, PolicyError};
pub use flow::{
    Flow, FlowCloser, FlowInfo, FlowReadHalf, FlowReceiver, FlowSender, FlowSpec, FlowState,
    FlowStatistics, FlowStream, FlowWatcher, FlowWriteHalf, Packets, RawFlow, WatchOffPath,
    buffered_bytes, set_buffer_budget,
};
pub use ipcp::Ipcp;
pub use irm::{Destruction, Irm, LayerInfo};
pub use lanes::LaneAcceptor;
pub use layer::Layer;
#[doc(hidden)]
pub use ouroboros_proto::proto;
#[doc(hidden)]
pub use ouroboros_proto::sync;
pub use ouroboros_proto::wire;
#[doc(inline)]
pub use proto::allocation::{Counters, Limits};
#[doc(inline)]
pub use proto::negotiation::{Identity, PeerIdentity, ServerSecurity, Trust};
#[doc(inline)]
pub use proto::reliable::{
    CloseReason, Statistics as ReliableStatistics, congestion::CongestionControl,
};
pub use tunnel::{
    ClientEvent, ClientId, ClientInfo, ClientStatistics, Hub, HubBuilder, Offload, Tunnel,
    TunnelBuilder, TunnelError, TunnelStatistics, UnknownOffload,
};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
