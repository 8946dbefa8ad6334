//! One IP network for many clients: who has which prefixes ([`Router`]), who
//! gets which addresses ([`AddressPool`]), and how a client is told
//! ([`Configuration`]; PROTOCOL.md, "Tunnels").
//!
//! Not here: the device, the flows, and whom to let in.

pub mod configuration;
mod exchange;
mod pool;
mod router;

pub use configuration::Configuration;
pub use exchange::{ConfigurationClient, ConfigurationServer};
pub use ipnet::IpNet;
pub use pool::{AddressPool, Assignment, PoolError};
pub use router::{Router, Taken};
