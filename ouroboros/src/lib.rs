#![doc = include_str!("../GUIDE.md")]
//!
//! [`wire`], [`crypto`] and [`proto`] are the crate `ouroboros-proto`.
//!
//! - [`wire`]: one file per header: bytes to typed values and back. No I/O.
//! - [`crypto`]: key exchanges, key schedule, AEAD backends, identities. No I/O.
//! - [`proto`]: state machines without I/O: allocation, packet protection,
//!   liveness. Time and randomness are arguments.
//! - [`transport`]: what carries frames: eth-dix, UDP, memory; in batches.
//! - [`tun`]: the TUN device and its segmentation offloads.
//! - `ipcp`, `layer`, `irm`: what drives `proto` over a transport; the public
//!   handles [`Ipcp`], [`Layer`] and [`Irm`].
//! - `flow`: packets of one flow, async ([`Flow`]) and batched ([`FlowSender`],
//!   [`FlowReceiver`]).
//! - `lanes`: flows of one tunnel, allocated and accepted together
//!   ([`LaneAcceptor`]).
//! - `tunnel`: a TUN device at the end of a flow ([`Tunnel`]).
//! - [`daemon`]: the same flows, served by `irmd`.
//! - [`trust`]: files of keys, known names, authorized clients, authorities.
//! - `sys`: the only `unsafe`: sockets, ioctls, batched system calls.

#[cfg(not(target_os = "linux"))]
compile_error!("ouroboros needs Linux: packet sockets, TUN devices, epoll");

pub mod crypto;
pub mod daemon;
pub mod error;
pub mod log;
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

pub use error::{AllocateError, FlowError, LayerError, NotEmbedded, PolicyError};
pub use flow::{
    Flow, FlowCloser, FlowInfo, FlowReadHalf, FlowReceiver, FlowSender, FlowSpec, FlowState,
    FlowStatistics, FlowStream, FlowWatcher, FlowWriteHalf, Packets, RawFlow, WatchOffPath,
    buffered_bytes, set_buffer_budget,
};
pub use ipcp::Ipcp;
pub use irm::{Destruction, Irm, LayerInfo};
pub use lanes::LaneAcceptor;
pub use layer::Layer;
use ouroboros_proto::sync;
pub use ouroboros_proto::{proto, wire};
pub use proto::negotiation::{Identity, PeerIdentity, ServerSecurity, Trust};
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
