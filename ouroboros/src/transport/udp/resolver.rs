//! Asks the system resolver (the hosts file, then DNS, as the machine is set up)
//! for the host that a name's MD5 is (TUTORIAL, "hosts file"). **Blocks.**

use std::{io, net::SocketAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

/// The addresses of `host`, in the resolver's order; none if it says that there is
/// no such host.
///
/// # Errors
///
/// The resolver cannot be asked now, or has failed.
pub(super) fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let hints = AddrInfoHints { socktype: SockType::DGram.into(), ..AddrInfoHints::default() };
    match getaddrinfo(Some(host), Some(&port.to_string()), Some(hints)) {
        Ok(found) => Ok(found.flatten().map(|info| info.sockaddr).collect()),
        Err(error) => match error.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => Ok(Vec::new()),
            _ => {
                let error = io::Error::from(error);
                Err(io::Error::new(
                    error.kind(),
                    format!("the resolver, asked for {host}: {error}"),
                ))
            }
        },
    }
}
