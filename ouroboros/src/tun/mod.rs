//! The TUN device of a tunnel: opened, configured, read and written packet by
//! packet; and the [`offload`] of cutting and joining packets. Not here: flows,
//! threads (`tunnel`).

mod device;
pub mod offload;

pub use device::{Device, DeviceError, InterfaceAddress, InvalidAddress};
