//! `ovpn clients`: who the clients of a server are, under which names, and who is one no
//! more. irmd keeps the file that says so. Not here: new clients (`invite`, `join`).

use std::time::Duration;

use der::DateTime;
use ouroboros::{
    FlowInfo,
    daemon::{
        Client, DaemonError,
        protocol::{ClientRow, Request, Response},
    },
    proto::hub::IpNet,
};
use structopt::{StructOpt, clap::AppSettings};

use super::Outcome;
use crate::{now, table::table};

/// What to do with the clients of a server.
#[derive(StructOpt)]
#[structopt(settings = &[
    AppSettings::SubcommandRequired,
    AppSettings::DisableHelpSubcommand,
    AppSettings::VersionlessSubcommands,
])]
pub enum Clients {
    /// Lists the clients and the open invitations
    List {
        /// Only those of this name; of all names that have their clients in a file otherwise
        #[structopt(long, value_name = "NAME")]
        service: Option<String>,
        /// Prints the list as JSON
        #[structopt(long)]
        json: bool,
    },
    /// Gives a client another name
    Rename {
        /// The client, by its name or key
        client: String,
        /// What it is called from now on
        name: String,
        /// The name that it is a client of, if there are several
        #[structopt(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Removes a client or an invitation: its tunnel ends, and it gets no other
    Revoke {
        /// The client, by its name or key
        client: String,
        /// The name that it is a client of, if there are several
        #[structopt(long, value_name = "NAME")]
        service: Option<String>,
    },
}

impl Clients {
    /// Does it.
    ///
    /// # Errors
    ///
    /// irmd cannot be asked, or does not do it.
    pub async fn run(&self) -> Outcome {
        match self {
            Self::List { service, json } => {
                let request = Request::ListClients { name: service.clone(), key: None };
                let Response::Clients(rows) = Client::new().ask(&request).await? else {
                    return Err(unexpected().into());
                };
                if *json {
                    println!("{}", serde_json::to_string_pretty(&rows)?);
                } else {
                    print!("{}", listed(rows, now()));
                }
            }
            Self::Rename { client, name, service } => {
                let (client, to) = (client.clone(), name.clone());
                let request = Request::RenameClient { name: service.clone(), client, to };
                Client::new().ask(&request).await?;
            }
            Self::Revoke { client, service } => {
                let (name, client) = (service.clone(), client.clone());
                Client::new().ask(&Request::RevokeClient { name, client }).await?;
            }
        }
        Ok(())
    }
}

/// The addresses and networks that the clients' file has for the client of a flow; none if
/// it has no line there, or irmd cannot be asked.
pub(super) async fn assigned(info: &FlowInfo) -> Vec<IpNet> {
    let Some(peer) = &info.identity else { return Vec::new() };
    let (name, key) = (Some(info.name.to_string()), Some(peer.fingerprint.to_string()));
    let Ok(Response::Clients(rows)) = Client::new().ask(&Request::ListClients { name, key }).await
    else {
        return Vec::new();
    };
    let clients = rows.into_iter().filter(|row| row.invited_until.is_none());
    clients.flat_map(|row| row.prefixes).filter_map(|prefix| prefix.parse().ok()).collect()
}

/// irmd answers another request than was asked.
pub(super) fn unexpected() -> DaemonError {
    DaemonError::Refused("irmd answers something else: is it of another version?".to_owned())
}

fn listed(rows: Vec<ClientRow>, now: u64) -> String {
    let row = |row: ClientRow| {
        let state = match row.invited_until {
            Some(until) if until <= now => "invitation is over".to_owned(),
            Some(until) => format!("invited until {}", time(until)),
            None if row.peers.is_empty() => "not connected".to_owned(),
            None => format!("connected from {}", row.peers.join(", ")),
        };
        let dash = || "-".to_owned();
        let prefixes = if row.prefixes.is_empty() { dash() } else { row.prefixes.join(", ") };
        let name = row.name.unwrap_or_else(dash).escape_debug().to_string();
        vec![name, row.service, row.key, prefixes, state]
    };
    let rows: Vec<_> = rows.into_iter().map(row).collect();
    table(&["NAME", "CLIENT OF", "KEY", "ADDRESSES", "STATE"], &rows)
}

/// A time in seconds since 1970, for people.
pub(super) fn time(seconds: u64) -> String {
    let time = DateTime::from_unix_duration(Duration::from_secs(seconds));
    time.map_or_else(|_| "the end of time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_who_is_connected_and_who_is_invited() {
        let row = |name: &str, invited_until, peer: Option<&str>| ClientRow {
            service: "office".to_owned(),
            name: Some(name.to_owned()),
            key: "o7s:k".to_owned(),
            prefixes: Vec::new(),
            invited_until,
            peers: peer.map(str::to_owned).into_iter().collect(),
        };
        let rows = vec![
            row("alice", None, Some("10.0.0.1:3435")),
            row("bob", None, None),
            row("carol", Some(1_700_000_000), None),
            row("dave", Some(1_600_000_000), None),
        ];
        let text = listed(rows, 1_650_000_000);
        let last: Vec<_> =
            text.lines().skip(1).map(|line| line.split_once(" - ").unwrap().1.trim()).collect();
        let expected = [
            "connected from 10.0.0.1:3435",
            "not connected",
            "invited until 2023-11-14T22:13:20Z",
            "invitation is over",
        ];
        assert_eq!(last, expected, "{text}");
    }
}
