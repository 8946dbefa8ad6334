//! The 0.23 wire format: checked views and encoders, one file per header.
//!
//! Not here: sockets, clocks, random numbers, or any state between two calls.
//! `proto` and the transports drive it. Layouts are those of WIRE.md; all
//! integers are big-endian.

mod address;
pub mod extension;
pub mod frame;
pub mod frct;
pub mod management;
mod name;
pub mod oap;
mod qos;

pub use address::{Destination, Dialect, Eid, MacAddress, PeerAddress};
pub use name::{DirectoryHash, InvalidName, Name, NameHash};
pub use qos::QosSpec;
