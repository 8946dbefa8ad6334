//! The TUN device of a tunnel: opened, configured, read and written packet by
//! packet. Not here: flows, threads (`tunnel`).

mod device;

pub use device::{Device, DeviceError, InterfaceAddress, InvalidAddress};
