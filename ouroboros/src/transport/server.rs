//! Where a server is, as a person says it: a host and perhaps a port. Not here: looking
//! the host up (the transports).

use std::{fmt, net::Ipv6Addr, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

/// The host of a server, by its name or address, and its port if it is not the layer's:
/// `vpn.example.org`, `192.0.2.1:4000`, `2001:db8::1`, `[2001:db8::1]:4000`,
/// `fe80::1%eth0`.
///
/// ```
/// use ouroboros::transport::ServerHost;
///
/// let server: ServerHost = "[2001:db8::1]:4000".parse()?;
/// assert_eq!((server.host(), server.port()), ("2001:db8::1", Some(4000)));
/// let server: ServerHost = "vpn.example.org".parse()?;
/// assert_eq!((server.host(), server.port()), ("vpn.example.org", None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerHost {
    host: String,
    port: Option<NonZeroU16>,
}

/// A text says no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidServerHost {
    /// It is empty, longer than a name may be (RFC 1035: 253 bytes), or has bytes that no
    /// host's name or address has.
    #[error("not a host's name or address, such as vpn.example.org or [2001:db8::1]:4000")]
    Host,
    /// The text behind the colon is not a port.
    #[error("the port behind the colon is not a number from 1 to 65535")]
    Port,
}

impl ServerHost {
    /// The host's name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if it was said.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port.map(NonZeroU16::get)
    }
}

impl FromStr for ServerHost {
    type Err = InvalidServerHost;

    fn from_str(text: &str) -> Result<Self, InvalidServerHost> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or(InvalidServerHost::Host)?;
                let port = match behind.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if behind.is_empty() => None,
                    None => return Err(InvalidServerHost::Port),
                };
                if !is_ipv6(host) {
                    return Err(InvalidServerHost::Host);
                }
                (host, port)
            }
            None if is_ipv6(text) => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || host.len() > 253 || !(is_ipv6(host) || host.bytes().all(known)) {
            return Err(InvalidServerHost::Host);
        }
        let port = port.map(|port| port.parse().map_err(|_| InvalidServerHost::Port));
        Ok(Self { host: host.to_owned(), port: port.transpose()? })
    }
}

fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "zone"));
    let known = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    !zone.is_empty() && zone.bytes().all(known) && address.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl TryFrom<String> for ServerHost {
    type Error = InvalidServerHost;

    fn try_from(text: String) -> Result<Self, InvalidServerHost> {
        text.parse()
    }
}

impl From<ServerHost> for String {
    fn from(server: ServerHost) -> Self {
        server.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_written_as_people_write_it() {
        for (text, host, port) in [
            ("vpn.example.org", "vpn.example.org", None),
            ("vpn:1", "vpn", Some(1)),
            ("192.0.2.1:65535", "192.0.2.1", Some(65_535)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:4000", "2001:db8::1", Some(4_000)),
            ("fe80::1%eth0", "fe80::1%eth0", None),
        ] {
            let server: ServerHost = text.parse().expect(text);
            assert_eq!((server.host(), server.port()), (host, port));
            assert_eq!(server.to_string(), text);
        }
        for (text, reason) in [
            ("", InvalidServerHost::Host),
            (":1", InvalidServerHost::Host),
            ("a b", InvalidServerHost::Host),
            ("[vpn]:1", InvalidServerHost::Host),
            ("[2001:db8::1", InvalidServerHost::Host),
            ("vpn:", InvalidServerHost::Port),
            ("vpn:0", InvalidServerHost::Port),
            ("vpn:65536", InvalidServerHost::Port),
            ("[2001:db8::1]4000", InvalidServerHost::Port),
        ] {
            assert_eq!(text.parse::<ServerHost>(), Err(reason), "{text}");
        }
    }
}
