//! Flows served by `irmd`: control and key agreement are the daemon's, packets
//! are sealed and opened in the application.
//!
//! [`Client`] asks. The daemon's side gives a flow's own socket away with
//! [`hand_over`] and then [`attend`]s to the flow, or carries its frames with
//! [`relay`]. Not here: the daemon's state and policy (`ouroboros-cli`).

mod client;
mod control;
mod handed;
pub mod protocol;
mod relay;
pub mod security;
mod socket;

pub use client::Client;
pub use handed::{attend, hand_over};
pub use relay::relay;
pub use socket::{Connection, Listener, socket_path};

/// The daemon cannot be asked, or refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// Environment: nobody listens on the socket.
    #[error("irmd is not running at {0}: start it with `irmd`")]
    NotRunning(String),
    /// Environment: this user may not use the daemon.
    #[error("{0}: permission denied: run as root or join the group `ouroboros`")]
    NotPermitted(String),
    /// The daemon did not do what was asked, and says why.
    #[error("{0}")]
    Refused(String),
    /// The daemon went away, or spoke out of turn.
    #[error("lost the connection to irmd: {0}")]
    Lost(#[from] std::io::Error),
}
