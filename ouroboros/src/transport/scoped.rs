//! IP addresses with their zones (RFC 4007, section 11): from text, and as the one
//! form in which addresses of peers are compared. Not here: which interface is meant
//! (`sys::link`), sockets.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// An IP address, with the zone that a link-local one needs: `10.0.0.1`, `fd66::1`,
/// `fe80::1%eth0`, `fe80::1%2`.
///
/// ```
/// use ouroboros::transport::ScopedAddress;
///
/// let address: ScopedAddress = "fe80::1%eth0".parse()?;
/// assert!(address.address().is_ipv6());
/// assert!("10.0.0.1/24".parse::<ScopedAddress>().is_err());
/// # Ok::<(), ouroboros::transport::InvalidScopedAddress>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScopedAddress {
    address: IpAddr,
    zone: Option<String>,
}

/// A text is no address with the zone that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
#[non_exhaustive]
pub enum InvalidScopedAddress {
    /// It is no address.
    Address,
    /// It has a prefix length.
    Prefix,
    /// It is link-local, and a zone is missing.
    ZoneRequired,
    /// It has a zone and is not link-local.
    ZoneNotAllowed,
    /// The zone can be no interface's name or index.
    Zone,
}

impl InvalidScopedAddress {
    /// Returns what is wrong, in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Address => "not an IP address",
            Self::Prefix => "an address alone, without a prefix length",
            Self::ZoneRequired => {
                "a link-local address needs its zone: add % and the interface, as in fe80::1%eth0"
            }
            Self::ZoneNotAllowed => "only a link-local IPv6 address has a zone",
            Self::Zone => {
                "the zone behind % is an interface's name, of 1 to 15 bytes, or its index"
            }
        }
    }
}

impl ScopedAddress {
    /// The address without its zone.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The interface's name, or its index in decimal.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }
}

impl FromStr for ScopedAddress {
    type Err = InvalidScopedAddress;

    fn from_str(text: &str) -> Result<Self, InvalidScopedAddress> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| match text.contains('/') {
            true => InvalidScopedAddress::Prefix,
            false => InvalidScopedAddress::Address,
        })?;
        match (is_link_local(address), zone) {
            (true, None) => Err(InvalidScopedAddress::ZoneRequired),
            (false, Some(_)) => Err(InvalidScopedAddress::ZoneNotAllowed),
            (true, Some(zone)) if !is_zone(zone) => Err(InvalidScopedAddress::Zone),
            (_, zone) => Ok(Self { address, zone: zone.map(str::to_owned) }),
        }
    }
}

/// Returns `true` if the kernel takes `zone` for an interface's name (an index is none longer).
fn is_zone(zone: &str) -> bool {
    let taken = |byte: u8| byte.is_ascii_graphic() && !b"/%:".contains(&byte);
    (1..=15).contains(&zone.len()) && zone.bytes().all(taken)
}

impl fmt::Display for ScopedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.zone.as_ref().map_or(Ok(()), |zone| write!(f, "%{zone}"))
    }
}

impl TryFrom<String> for ScopedAddress {
    type Error = InvalidScopedAddress;

    fn try_from(text: String) -> Result<Self, InvalidScopedAddress> {
        text.parse()
    }
}

impl From<ScopedAddress> for String {
    fn from(address: ScopedAddress) -> Self {
        address.to_string()
    }
}

/// Returns `true` if `address` means nothing without its interface.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Returns `true` if `address` is link-local and its interface is not said.
pub(super) fn lacks_zone(address: SocketAddr) -> bool {
    is_link_local(address.ip()) && scope(address) == 0
}

/// The index of the interface that `address` says; 0 if it says none.
pub(super) const fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// A socket address with a scope, which only a link-local address keeps.
pub(super) fn with_scope(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
        other => SocketAddr::new(other, port),
    }
}

/// The one form of a peer's address, so that equal peers are equal: IPv4 as IPv4 also
/// where a socket of both families says it as IPv6 (RFC 4291, section 2.5.5.2), no
/// flow label, and a scope where it means something.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    with_scope(address.ip().to_canonical(), address.port(), scope(address))
}

/// Returns the address that a socket of both families has for `address`.
pub(super) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_goes_with_a_link_local_address_and_nothing_else() {
        for text in ["10.0.0.1", "fd66::1", "::", "::1", "fe80::1%eth0", "fe80::1%2"] {
            let parsed: ScopedAddress = text.parse().expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        let parsed: ScopedAddress = "FE80:0::1%veth.7".parse().expect("an address");
        assert_eq!(
            (parsed.to_string().as_str(), parsed.zone()),
            ("fe80::1%veth.7", Some("veth.7"))
        );
        use InvalidScopedAddress::*;
        for (text, error) in [
            ("", Address),
            ("eth0", Address),
            ("10.0.0.1/24", Prefix),
            ("fe80::1%eth0/64", Zone),
            ("fe80::1", ZoneRequired),
            ("fd66::1%eth0", ZoneNotAllowed),
            ("10.0.0.1%eth0", ZoneNotAllowed),
            ("fe80::1%", Zone),
            ("fe80::1%eth0%1", Zone),
            ("fe80::1%a-name-of-16-byt", Zone),
            ("fe80::1%a b", Zone),
        ] {
            assert_eq!(text.parse::<ScopedAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn equal_peers_are_equal_and_those_of_two_links_are_not() {
        let address = |text: &str| canonical(text.parse().expect("an address"));
        assert_eq!(address("[::ffff:10.0.0.1]:7"), address("10.0.0.1:7"));
        assert_eq!(address("[fd66::1%3]:7"), address("[fd66::1]:7"));
        assert_ne!(address("[fe80::1%3]:7"), address("[fe80::1%4]:7"));
        assert_eq!(canonical(mapped(address("10.0.0.1:7"))), address("10.0.0.1:7"));
        assert!(lacks_zone(address("[fe80::1]:7")) && !lacks_zone(address("[fe80::1%3]:7")));
    }
}
