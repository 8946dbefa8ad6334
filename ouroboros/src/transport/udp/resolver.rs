//! Where the machines that may serve a name are: what the program's own resolver
//! says, or the system's and lines of the hosts file whose addresses have zones,
//! which the resolver of glibc skips. **Blocks.** The attachment asks.

use std::{fmt, fs, io, net::SocketAddr, sync::Arc};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

use crate::{
    sys::{link, namespace::NetworkNamespace},
    transport::{
        OpenError,
        scoped::{ScopedAddress, canonical, lacks_zone, scope, with_scope},
    },
    wire::{DirectoryHash, Name},
};

const HOSTS: &str = "/etc/hosts";

/// Says where names are.
#[derive(Clone)]
pub(super) enum Resolver {
    /// The system's, which knows a name by its MD5 (TUTORIAL, "hosts file").
    System,
    /// Every name is here.
    Server(SocketAddr),
    /// The program's own.
    Given(Arc<Resolve>),
}

type Resolve = dyn Fn(&Name) -> io::Result<Vec<SocketAddr>> + Send + Sync;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Server(server) => f.debug_tuple("Server").field(server).finish(),
            Self::Given(_) => f.write_str("Given(..)"),
        }
    }
}

impl Resolver {
    /// The addresses of `name`; see [`resolve_host`].
    pub(super) fn resolve(
        &self,
        name: &Name,
        port: u16,
        own: SocketAddr,
        namespace: &NetworkNamespace,
    ) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => {
                let hash = DirectoryHash::Md5.of(name).to_string();
                resolve_host(&hash, port, own, namespace).map_err(|error| {
                    let text = format!(
                        "{name} is looked up by its hash, in the hosts file and DNS: {error}"
                    );
                    io::Error::new(error.kind(), text)
                })
            }
            Self::Server(server) => Ok(vec![*server]),
            Self::Given(resolve) => usable(own, resolve(name)?),
        }
    }
}

/// The addresses of `host` that a socket at `own` reaches, those with a zone first;
/// none if there is no such host.
///
/// # Errors
///
/// The resolver cannot be asked now, or has failed; link-local addresses without
/// zones are all that there is.
pub(super) fn resolve_host(
    host: &str,
    port: u16,
    own: SocketAddr,
    namespace: &NetworkNamespace,
) -> io::Result<Vec<SocketAddr>> {
    let hosts = fs::read_to_string(HOSTS).unwrap_or_default();
    let mut found: Vec<_> = with_zones(&hosts, host)
        .filter_map(|address| {
            let index = namespace.run(|| link::zone_index(address.zone()?).ok())?;
            Some(with_scope(address.address(), port, index))
        })
        .collect();
    match look_up(host, port) {
        Ok(addresses) => found.extend(addresses),
        Err(error) if found.is_empty() => return Err(error),
        Err(_) => {}
    }
    usable(own, found)
}

/// Those of `found` that a socket at `own` reaches, each once.
fn usable(own: SocketAddr, found: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<_> = found.into_iter().map(|at| in_zone_of(own, at)).collect();
    found.retain(|address| is_reached(own, *address));
    let (useless, mut useful): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| lacks_zone(*at));
    if let (Some(address), true) = (useless.first(), useful.is_empty()) {
        return Err(io::Error::other(OpenError::ZoneRequired(address.ip())));
    }
    let mut known = std::collections::HashSet::new();
    useful.retain(|address| known.insert(*address));
    Ok(useful)
}

/// Returns the addresses that the system's resolver has for `host`; none if there is no such
/// host.
fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let hints = AddrInfoHints { socktype: SockType::DGram.into(), ..AddrInfoHints::default() };
    match getaddrinfo(Some(host), Some(&port.to_string()), Some(hints)) {
        Ok(found) => Ok(found.flatten().map(|info| info.sockaddr).collect()),
        Err(error) => match error.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => Ok(Vec::new()),
            _ => {
                let error = io::Error::from(error);
                let text = format!(
                    "the resolver, asked for {host}: {error} (a line in the hosts file needs no \
                     resolver)"
                );
                Err(io::Error::new(error.kind(), text))
            }
        },
    }
}

/// The peer's address, in the zone of `own` if it says none.
pub(super) fn in_zone_of(own: SocketAddr, peer: SocketAddr) -> SocketAddr {
    match scope(peer) {
        0 => with_scope(canonical(peer).ip(), peer.port(), scope(own)),
        _ => canonical(peer),
    }
}

/// Returns `true` if a socket at `own` can send to `peer`: `::` serves both families.
fn is_reached(own: SocketAddr, peer: SocketAddr) -> bool {
    own.is_ipv6() == peer.is_ipv6() || (own.is_ipv6() && own.ip().is_unspecified())
}

/// The addresses with zones that the hosts file has for `host`.
fn with_zones(hosts: &str, host: &str) -> impl Iterator<Item = ScopedAddress> {
    hosts.lines().filter_map(move |line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().filter(|address| address.contains('%'))?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then(|| address.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_hosts_file_with_zones_are_read() {
        let hosts = "127.0.0.1 localhost abc\n\
            fe80::1%eth0\tother ABC # a machine\n\
            fe80::2%eth0 # abc\n\
            fe80::3%2 abcd\n\
            fd66::4%2 abc\n\
            fe80::5%eth1 abc";
        let found: Vec<_> = with_zones(hosts, "abc").map(|at| at.to_string()).collect();
        assert_eq!(found, ["fe80::1%eth0", "fe80::5%eth1"]);
    }

    #[test]
    fn a_peer_is_in_the_zone_of_the_layer_unless_it_says_another() {
        let address = |text: &str| text.parse().expect("an address");
        let own = address("[fe80::1%3]:1");
        assert_eq!(in_zone_of(own, address("[fe80::2]:7")), address("[fe80::2%3]:7"));
        assert_eq!(in_zone_of(own, address("[fe80::2%4]:7")), address("[fe80::2%4]:7"));
        assert_eq!(in_zone_of(own, address("[fd66::2]:7")), address("[fd66::2]:7"));
        assert!(is_reached(address("[::]:1"), address("10.0.0.1:1")));
        assert!(!is_reached(own, address("10.0.0.1:1")));
        assert!(!is_reached(address("0.0.0.0:1"), own));
    }
}
