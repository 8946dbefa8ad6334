//! Options of `ovpn` that make no sense, alone or beside each other. Not here: their syntax
//! (`arguments`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ouroboros::tun::InterfaceAddress;

use super::arguments::Arguments;

/// An option that makes no sense, alone or beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misuse {
    /// Its name, without dashes.
    pub option: &'static str,
    /// The reason why they cannot be used.
    pub reason: String,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}: {}", self.option, self.reason)
    }
}

impl Arguments {
    /// Options that are for the other end, or for something that is not asked for.
    pub(super) fn misplaced(&self) -> Vec<Misuse> {
        let client = [
            ("server", self.server.is_some()),
            ("server-key", self.server_key.is_some()),
            ("ca", self.ca.is_some()),
            ("ensure-layer", self.ensure_layer),
            ("wait", self.wait),
            ("accept-routes", self.accept_routes),
            ("accept-dns", self.accept_dns),
            ("full-tunnel", self.full_tunnel),
            ("kill-switch", self.kill_switch),
        ];
        let server = [
            ("serve", self.serve.is_some()),
            ("route", !self.route.is_empty()),
            ("dns", !self.dns.is_empty()),
            ("search", !self.search.is_empty()),
            ("forward", self.forward),
            ("leases", self.leases.is_some()),
            ("masquerade", self.masquerade),
        ];
        let (others, why) = match &self.name {
            Some(name) => {
                (&server[..], format!("this is for servers, and --name {name} is a client's"))
            }
            None => (&client[..], "this is for clients: say whose, with --name".to_owned()),
        };
        let given = others.iter().filter(|(_, given)| *given);
        let mut wrong: Vec<_> =
            given.map(|(option, _)| Misuse { option, reason: why.clone() }).collect();
        if let Some(tunnel) = self.tunnel.as_deref().filter(|_| self.config.is_none()) {
            let tunnel = tunnel.escape_debug();
            let reason = format!("which file has the tunnel {tunnel}? Or is it --name {tunnel}?");
            wrong.insert(0, Misuse { option: "config", reason });
        }
        let mut misuse = |option, reason: &str| {
            wrong.push(Misuse { option, reason: reason.to_owned() });
        };
        if self.kill_switch && !self.full_tunnel {
            misuse("kill-switch", "it is for --full-tunnel");
        }
        if self.save && self.name.is_none() && self.serve.is_none() {
            misuse("save", "a tunnel is remembered by its name: say --serve NAME or --name NAME");
        }
        wrong
    }

    /// The addresses of the device; none if the server says them.
    pub(super) fn addresses(&self) -> Result<Vec<InterfaceAddress>, Misuse> {
        let wrong = |reason: &str| Err(Misuse { option: "ip", reason: reason.to_owned() });
        if self.ip.is_empty() {
            return wrong(
                "the address of the tunnel's device is missing, such as --ip 10.0.0.1/24",
            );
        }
        if self.ip.iter().any(|ip| ip == "server") {
            return match (&self.name, self.ip.len()) {
                (None, _) => {
                    wrong("server: this is for clients: say which address the server itself has")
                }
                (Some(_), 1) => Ok(Vec::new()),
                (Some(_), _) => wrong("server: the server gives all addresses"),
            };
        }
        let addresses = self.ip.iter().map(|ip| address(ip, self.mask));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let v4 = addresses.iter().filter(|own| own.address().is_ipv4()).count();
        if v4 > 1 || addresses.len() - v4 > 1 {
            return wrong("one address of IPv4 and one of IPv6 at most");
        }
        Ok(addresses)
    }
}

/// An address of the device, as `--ip` and `--mask` say it.
fn address(ip: &str, mask: Option<Ipv4Addr>) -> Result<InterfaceAddress, Misuse> {
    let wrong = |reason| Misuse { option: "ip", reason };
    match (ip.parse::<IpAddr>(), mask) {
        (Ok(IpAddr::V4(ip)), Some(mask)) => {
            InterfaceAddress::with_mask(ip, mask).map_err(|_| Misuse {
                option: "mask",
                reason: format!("{mask}: its ones are not all in front, as in 255.255.255.0"),
            })
        }
        (Ok(_), None) => {
            Err(wrong(format!("{ip}: say how large its network is: {ip}/24, or --mask")))
        }
        (_, Some(_)) => Err(wrong(format!("{ip}: a mask goes with a plain IPv4 address"))),
        (Err(_), None) => ip.parse().map_err(|error| wrong(format!("{error}"))),
    }
}
