//! Opens and configures a TUN device, through the `tun` crate and what `sys`
//! adds to it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    str::FromStr,
    sync::Mutex,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tun::AbstractDevice;

use crate::sys;

/// An address and how many of its leading bits name the network.
///
/// ```
/// use ouroboros::tun::InterfaceAddress;
/// let address: InterfaceAddress = "10.0.0.1/24".parse()?;
/// assert_eq!(address.prefix(), 24);
/// let masked = InterfaceAddress::with_mask("10.0.0.1".parse()?, "255.255.255.0".parse()?)?;
/// assert_eq!(masked, address);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    address: IpAddr,
    prefix: u8,
}

/// The text is no address and prefix, or the mask no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: not an address with a prefix or mask, such as 10.0.0.1/24")]
pub struct InvalidAddress(String);

impl InterfaceAddress {
    /// An address with a prefix of at most 32 (IPv4) or 128 (IPv6) bits.
    ///
    /// # Errors
    ///
    /// The prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, InvalidAddress> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(InvalidAddress(format!("{address}/{prefix}")));
        }
        Ok(Self { address, prefix })
    }

    /// An IPv4 address with a mask.
    ///
    /// # Errors
    ///
    /// The mask's ones are not all in front.
    pub fn with_mask(address: Ipv4Addr, mask: Ipv4Addr) -> Result<Self, InvalidAddress> {
        let bits = mask.to_bits();
        if bits.leading_ones() + bits.trailing_zeros() < 32 {
            return Err(InvalidAddress(mask.to_string()));
        }
        Ok(Self { address: address.into(), prefix: bits.leading_ones() as u8 })
    }

    /// The address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the network's part in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    fn mask(&self) -> Ipv4Addr {
        let host = 32_u32.saturating_sub(self.prefix.into());
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host).unwrap_or(0))
    }
}

impl FromStr for InterfaceAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        Self::new(address, prefix.parse().map_err(|_| invalid())?)
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The TUN device cannot be had or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Environment: the kernel has no TUN driver, or it is not visible here.
    #[error("/dev/net/tun: not there: load the `tun` module, or make the device visible here")]
    Missing,
    /// Environment: this user may not create devices.
    #[error("/dev/net/tun: permission denied: run as root or grant CAP_NET_ADMIN")]
    NotPermitted,
    /// Environment: a device of that name exists.
    #[error("{0}: the device exists and is in use: choose another name")]
    InUse(String),
    /// Environment: anything else, with what was being done.
    #[error("TUN device: {0}: {1}")]
    Failed(&'static str, io::Error),
}

/// A TUN device that is up. It goes away when dropped.
pub struct Device {
    control: Mutex<tun::Device>,
    packets: OwnedFd,
    name: String,
}

impl Device {
    /// Opens a device, called `name` or as the kernel chooses, with these
    /// addresses and an MTU in bytes.
    ///
    /// # Errors
    ///
    /// As [`DeviceError`] says.
    pub fn open(
        name: Option<&str>,
        addresses: &[InterfaceAddress],
        mtu: u16,
    ) -> Result<Self, DeviceError> {
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name.unwrap_or("tun%d"));
        // Configured below, step by step, so that an error names its step.
        configuration.platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let mut control =
            tun::create(&configuration).map_err(|error| opening(error.into(), name))?;
        let name = control.tun_name().map_err(|error| failed("name", error.into()))?;
        let packets = sys::tun::descriptor(&control).map_err(|e| failed("descriptor", e))?;
        let flags = fcntl_getfl(&packets).map_err(|e| failed("flags", e.into()))?;
        fcntl_setfl(&packets, flags | OFlags::NONBLOCK).map_err(|e| failed("flags", e.into()))?;
        control.set_mtu(mtu).map_err(|error| failed("MTU", error.into()))?;
        for address in addresses.iter().filter(|address| address.address.is_ipv4()) {
            control.set_address(address.address).map_err(|e| failed("address", e.into()))?;
            control.set_netmask(address.mask().into()).map_err(|e| failed("mask", e.into()))?;
        }
        control.enabled(true).map_err(|error| failed("up", error.into()))?;
        for address in addresses {
            if let IpAddr::V6(v6) = address.address {
                let add = || {
                    let index = control.tun_index()?.cast_unsigned();
                    let socket = UdpSocket::bind("[::]:0")?;
                    sys::tun::add_ipv6(&socket, index, v6, address.prefix)
                };
                add().map_err(|error| failed("IPv6 address", error))?;
            }
        }
        Ok(Self { control: Mutex::new(control), packets, name })
    }

    /// The device's name, such as `tun0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes the MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        let mut control = self.control.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        control.set_mtu(mtu).map_err(|error| failed("MTU", error.into()))
    }

    /// Reads one packet; `WouldBlock` if there is none.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    pub fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.packets, packet)?)
    }

    /// Writes one packet.
    ///
    /// # Errors
    ///
    /// Those of write(2): `InvalidInput` if it is no IP packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.packets, packet)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

fn opening(error: io::Error, name: Option<&str>) -> DeviceError {
    match (error.raw_os_error().map(rustix::io::Errno::from_raw_os_error), error.kind()) {
        (_, io::ErrorKind::NotFound) => DeviceError::Missing,
        (_, io::ErrorKind::PermissionDenied) => DeviceError::NotPermitted,
        (Some(rustix::io::Errno::BUSY), _) => DeviceError::InUse(name.unwrap_or("?").to_owned()),
        _ => DeviceError::Failed("open", error),
    }
}

const fn failed(step: &'static str, error: io::Error) -> DeviceError {
    DeviceError::Failed(step, error)
}
