//! The TUN device of a tunnel: opened, configured, read and written in packets
//! and super-packets. Not here: flows, threads (`tunnel`).

mod address;
mod device;
mod link;
pub mod offload;

pub use address::{InterfaceAddress, InvalidAddress};
pub(crate) use device::LEAST_IPV6;
pub use device::{Device, DeviceError, DeviceOffload, DeviceSettings, Queue};
