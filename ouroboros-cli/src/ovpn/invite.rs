//! `ovpn invite`: an invitation for each client, as a line that it joins with. The server
//! keeps its public half only; the secret is in the line and nowhere else. Not here: what
//! the line says (`ouroboros::trust`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    str::FromStr,
};

use ouroboros::{
    LayerError,
    crypto::SystemEntropy,
    daemon::{
        Client, DaemonError,
        protocol::{IpcpEntry, Request, Response, TransportSpec},
    },
    proto::{hub::IpNet, negotiation::InvitationSecret},
    transport::ServerHost,
    trust::{ClientName, Invitation},
};
use structopt::StructOpt;

use super::{Outcome, clients::time};
use crate::now;

/// Invites clients: prints the line that each joins with, once.
#[derive(StructOpt)]
pub struct Invite {
    /// The client's name here: letters, digits, '.', '_' and '-'. With several, each
    /// line begins with the client's name, which is no part of the invitation
    #[structopt(required = true, value_name = "CLIENT")]
    clients: Vec<ClientName>,
    /// Where clients reach this server; may be given several times. The addresses of its
    /// layers over UDP otherwise
    #[structopt(long, value_name = "HOST[:PORT]", number_of_values = 1)]
    server: Vec<ServerHost>,
    /// Address that the client is to have inside the tunnel; once for IPv4, once for IPv6.
    /// One that is free otherwise
    #[structopt(long, value_name = "ADDRESS", number_of_values = 1)]
    address: Vec<IpAddr>,
    /// Network behind the client, which the server sends to it; may be given several times
    #[structopt(long, value_name = "NETWORK", number_of_values = 1)]
    behind: Vec<IpNet>,
    /// How long the invitation is open, such as 30m, 24h or 7d
    #[structopt(long, value_name = "TIME", default_value = "24h")]
    valid: Period,
    /// The name that it is to be a client of, if several have their clients in a file
    #[structopt(long, value_name = "NAME")]
    service: Option<String>,
}

/// A number of minutes, hours or days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    seconds: u64,
}

impl FromStr for Period {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const REASON: &str = "not a time from 1m to 366d, such as 30m, 24h or 7d";
        let unit = text.chars().last().ok_or(REASON)?;
        let length = match unit {
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(REASON),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| REASON)?;
        let seconds = number.checked_mul(length).ok_or(REASON)?;
        if (60..=366 * 86_400).contains(&seconds) { Ok(Self { seconds }) } else { Err(REASON) }
    }
}

impl Invite {
    /// Does it.
    ///
    /// # Errors
    ///
    /// Nobody says where this server is; irmd cannot be asked, or does not invite.
    pub async fn run(&self) -> Outcome {
        let servers = match &self.server[..] {
            [] => self.own_addresses().await?,
            given => given.to_vec(),
        };
        if servers.is_empty() {
            return Err("it is not known where clients reach this server: say so with --server \
                        HOST[:PORT]"
                .into());
        }
        if servers.len() > Invitation::MAX_SERVERS {
            return Err(format!("--server: {} addresses at most", Invitation::MAX_SERVERS).into());
        }
        let alone = self.clients.len() == 1;
        let has_own = !self.address.is_empty() || !self.behind.is_empty();
        if has_own && !alone {
            return Err("--address and --behind are for one client: invite it alone".into());
        }
        for client in &self.clients {
            let label = if alone { String::new() } else { format!("{client} ") };
            self.invite(client, &label, servers.clone()).await?;
        }
        if self.server.is_empty() && servers.iter().all(is_private) {
            eprintln!(
                "Warning: that is reached within this network only: for clients elsewhere say \
                 --server HOST[:PORT]."
            );
        }
        Ok(())
    }

    async fn invite(&self, client: &ClientName, label: &str, servers: Vec<ServerHost>) -> Outcome {
        let addresses = self.address.iter().copied().map(IpNet::from);
        let behind = self.behind.iter().map(IpNet::trunc);
        let secret = InvitationSecret::generate(&mut SystemEntropy);
        let until = now() + self.valid.seconds;
        let request = Request::InviteClient {
            name: self.service.clone(),
            client: client.to_string(),
            key: secret.key().public_key().fingerprint().to_string(),
            until,
            prefixes: addresses.chain(behind).map(|net| net.to_string()).collect(),
        };
        let Response::Invited { name, server_key } = Client::new().ask(&request).await? else {
            return Err(LayerError::from(DaemonError::Unexpected).into());
        };
        let invitation =
            Invitation::new(name.parse()?, servers, server_key.parse()?, secret, until)?;
        println!("{label}{invitation}");
        let list: Vec<_> = invitation.servers().iter().map(ToString::to_string).collect();
        eprintln!(
            "Whoever has this line first joins {name} as {client} with `ovpn join LINE`, once, \
             until {}, at {}. Send it by a way that nobody else reads.",
            time(until),
            list.join(" or "),
        );
        Ok(())
    }

    /// Returns where the layers over UDP are that have the name; all such layers if it is not
    /// said.
    async fn own_addresses(&self) -> Result<Vec<ServerHost>, LayerError> {
        let client = Client::new();
        let (ipcps, names) = (client.ipcps().await?, client.names().await?);
        let service = self.service.as_ref();
        let known = service.and_then(|name| names.into_iter().find(|known| known.name == *name));
        let layers = known.map(|known| known.layers);
        let serves =
            |ipcp: &&IpcpEntry| layers.as_ref().is_none_or(|layers| layers.contains(&ipcp.layer));
        let mut hosts = Vec::new();
        for ipcp in ipcps.iter().filter(serves) {
            let Some(TransportSpec::Udp { ip, port }) = &ipcp.transport else { continue };
            for ip in addresses(ip.address()) {
                let host = match (port, ip) {
                    (None, ip) => ip.to_string(),
                    (Some(port), IpAddr::V4(ip)) => format!("{ip}:{port}"),
                    (Some(port), IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
                };
                hosts.extend(host.parse::<ServerHost>().ok().filter(|host| !hosts.contains(host)));
            }
        }
        hosts.truncate(Invitation::MAX_SERVERS);
        Ok(hosts)
    }
}

/// A layer's address; where it is at every address of this machine, those that packets to
/// far away leave from.
fn addresses(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    // Addresses for documentation (RFC 5737, RFC 3849): nothing is sent to them.
    let v4 = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from([192, 0, 2, 1]));
    let v6 = (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
    let source = |(any, far): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let families = [v4, v6].into_iter().filter(|(any, _)| ip.is_ipv6() || any.is_ipv4());
    families.filter_map(source).collect()
}

/// An address that is not reached from everywhere (RFC 1918, RFC 4193).
fn is_private(host: &ServerHost) -> bool {
    match host.host().parse() {
        Ok(IpAddr::V4(v4)) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => v6.is_unique_local() || v6.is_loopback(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit() {
        for (text, seconds) in [("1m", 60), ("24h", 86_400), ("366d", 31_622_400)] {
            assert_eq!(text.parse(), Ok(Period { seconds }), "{text}");
        }
        for text in ["", "m", "0m", "-1h", "24", "24s", "367d", "1 h", "99999999999999999999d", "é"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }
}
