//! An interface's address with its prefix, from text or with a mask. No I/O.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

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
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the network's part in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    pub(super) fn mask(&self) -> Ipv4Addr {
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
