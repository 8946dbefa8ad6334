//! Which of the kernel's offloads a tunnel may use. Each falls back by itself
//! where the kernel hasn't got it; this is for switching them off.

use std::{env, fmt};

use crate::{transport::PathOffload, tun::DeviceOffload};

/// Work in super-packets that a tunnel leaves to the kernel.
///
/// ```
/// use ouroboros::Offload;
/// let offload = Offload::ALL.without("udp,segments")?;
/// assert!(offload.device.tcp && !offload.device.udp && !offload.path.segments);
/// assert_eq!(Offload::ALL.without("all")?, Offload::NONE);
/// # Ok::<(), ouroboros::UnknownOffload>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// At the TUN device.
    pub device: DeviceOffload,
    /// At the flow's socket.
    pub path: PathOffload,
}

/// The text names no offload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: not an offload: tcp, udp, checksums, segments, coalesces or all")]
pub struct UnknownOffload(String);

impl Offload {
    /// All that the kernel has.
    pub const ALL: Self =
        Self { device: DeviceOffload::ALL, path: PathOffload { segments: true, coalesces: true } };
    /// Packet by packet.
    pub const NONE: Self = Self { device: DeviceOffload::NONE, path: PathOffload::NONE };

    /// Without those that `list` names, with commas between them: `tcp` and
    /// `udp` (super-packets at the device), `checksums` (partial ones at the
    /// device, without which there are no super-packets either), `segments` and
    /// `coalesces` (super-packets at the socket), or `all`.
    ///
    /// # Errors
    ///
    /// A name in the list is none of these.
    pub fn without(mut self, list: &str) -> Result<Self, UnknownOffload> {
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "tcp" => self.device.tcp = false,
                "udp" => self.device.udp = false,
                "checksums" => self.device = DeviceOffload::NONE,
                "segments" => self.path.segments = false,
                "coalesces" => self.path.coalesces = false,
                "all" => self = Self::NONE,
                _ => return Err(UnknownOffload(name.to_owned())),
            }
        }
        Ok(self)
    }

    /// Without those that the environment variable `OUROBOROS_NO_OFFLOAD`
    /// names.
    ///
    /// # Errors
    ///
    /// It names something else.
    pub fn from_environment() -> Result<Self, UnknownOffload> {
        Self::ALL.without(&env::var("OUROBOROS_NO_OFFLOAD").unwrap_or_default())
    }
}

/// The names of those in use, as [`without`](Offload::without) takes them.
impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = [
            (self.device.tcp, "tcp"),
            (self.device.udp, "udp"),
            (self.device.checksums, "checksums"),
            (self.path.segments, "segments"),
            (self.path.coalesces, "coalesces"),
        ];
        let mut names = used.iter().filter(|(used, _)| *used).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("none"))?;
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}
