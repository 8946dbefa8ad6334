//! Lines of a hosts file or a DNS zone by which clients of a layer over UDP find the server of
//! a name: its addresses under the name's hash (WIRE.md, "UDP"). Not here: who is asked for the
//! addresses, and looking anything up.

use std::{fmt, net::IpAddr};

use ouroboros::{
    daemon::protocol::{IpcpEntry, TransportSpec},
    wire::{DirectoryHash, Name},
};
use serde::Serialize;

/// The addresses of a name's server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Records {
    /// The name.
    pub name: String,
    /// The host name that is looked up: the MD5 of the name, in hexadecimal digits.
    pub hash: String,
    /// The server's addresses.
    pub addresses: Vec<IpAddr>,
}

impl Records {
    /// The records of `name`, whose server has `addresses`.
    pub fn new(name: &Name, addresses: Vec<IpAddr>) -> Self {
        let hash = DirectoryHash::Md5.of(name).to_string();
        Self { name: name.to_string(), hash, addresses }
    }
}

impl fmt::Display for Records {
    /// Lines for a hosts file, and lines for a zone file (RFC 1035, section 5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hash, addresses } = self;
        writeln!(f, "# Hosts file of each client, for {}:", name.escape_debug())?;
        for address in addresses {
            writeln!(f, "{address} {hash}")?;
        }
        writeln!(f, "; Or DNS, in the zone of a domain that clients search:")?;
        for address in addresses {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            writeln!(f, "{hash} IN {kind} {address}")?;
        }
        Ok(())
    }
}

/// There is no address that clients could be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAddress {
    /// Names are not looked up in DNS in the layers that there are.
    #[error(
        "there is no layer over UDP here, and no other asks DNS: say which address clients reach \
         (irm name dns NAME ip ADDRESS)"
    )]
    NoUdp,
    /// An IPCP is at every address of this machine.
    #[error(
        "the IPCP {0} is at every address of this machine: say which one clients reach \
         (irm name dns NAME ip ADDRESS)"
    )]
    Unspecified(String),
}

/// The addresses of those of `ipcps` that are over UDP and in one of `layers`; in any layer
/// if `layers` is empty.
///
/// # Errors
///
/// As [`NoAddress`] says.
pub fn addresses(ipcps: &[IpcpEntry], layers: &[String]) -> Result<Vec<IpAddr>, NoAddress> {
    let mut addresses = Vec::new();
    for ipcp in ipcps {
        let serves = layers.is_empty() || layers.contains(&ipcp.layer);
        let Some(TransportSpec::Udp { ip, .. }) = ipcp.transport.as_ref().filter(|_| serves) else {
            continue;
        };
        // The zone is this machine's affair.
        let ip = ip.address();
        if ip.is_unspecified() {
            return Err(NoAddress::Unspecified(ipcp.name.clone()));
        }
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    if addresses.is_empty() { Err(NoAddress::NoUdp) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn ipcp(name: &str, layer: &str, ip: Option<IpAddr>) -> IpcpEntry {
        IpcpEntry {
            name: name.to_owned(),
            layer: layer.to_owned(),
            attachment: String::new(),
            transport: ip.map(|ip| {
                let ip = ip.to_string().parse().expect("an address");
                TransportSpec::Udp { ip, port: None }
            }),
        }
    }

    #[test]
    fn clients_are_told_the_addresses_of_the_name_s_layers() {
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fd00::1".parse().unwrap());
        let ipcps = [
            ipcp("a", "inner", Some(one)),
            ipcp("b", "outer", Some(two)),
            ipcp("c", "outer", Some(two)),
            ipcp("d", "ether", None),
        ];
        let of = |layers: &[&str]| {
            addresses(&ipcps, &layers.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), Ok(vec![one, two]));
        assert_eq!(of(&["outer"]), Ok(vec![two]));
        assert_eq!(of(&["inner", "ether"]), Ok(vec![one]));
        assert_eq!(of(&["ether"]), Err(NoAddress::NoUdp));
        let everywhere = [ipcp("any", "inner", Some(Ipv6Addr::UNSPECIFIED.into()))];
        assert_eq!(addresses(&everywhere, &[]), Err(NoAddress::Unspecified("any".to_owned())));
    }
}
