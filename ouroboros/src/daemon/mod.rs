//! Flows served by `irmd`: control and key agreement are the daemon's, packets
//! are sealed and opened in the application.
//!
//! [`Client`] asks. The daemon's side gives a flow's own socket away with
//! [`hand_over`] and then [`attend`]s to the flow, or carries its frames with
//! [`relay()`]. Not here: the daemon's state and policy (`ouroboros-cli`).

mod accept;
mod channel;
mod client;
pub mod control;
mod entries;
mod failure;
mod grant;
mod handed;
mod lists;
mod path_text;
pub mod protocol;
mod relay;
pub mod security;
mod socket;

pub use crate::error::DaemonError;
pub use client::Client;
pub use failure::Failure;
pub(crate) use failure::io_error;
pub use handed::{attend, attend_reported, hand_over, revoke};
pub use relay::{RelayCloser, relay};
pub use socket::{Connection, Listener, socket_path};
