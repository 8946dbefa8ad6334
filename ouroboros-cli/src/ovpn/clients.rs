//! `ovpn clients`: who the clients of a server are, under which names, and who is one no
//! more. irmd keeps the file that says so. Not here: new clients (`invite`, `join`).

use std::{collections::HashMap, time::Duration};

use der::DateTime;
use ouroboros::{
    FlowInfo, LayerError,
    crypto::identity::Fingerprint,
    daemon::{
        Client, DaemonError,
        protocol::{ClientRow, Request},
    },
    proto::hub::IpNet,
    wire::Name,
};
use structopt::{StructOpt, clap::AppSettings};

use super::Outcome;
use crate::{now, table::table};

/// A command on the clients of a server.
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
        /// Its new name
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
                let rows = Client::new().clients(service.clone(), None).await?;
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
/// it has no line there. `None`: irmd cannot be asked.
pub(super) async fn assigned(info: &FlowInfo) -> Option<Vec<IpNet>> {
    let Some(peer) = &info.identity else { return Some(Vec::new()) };
    let prefixes = prefixes(&info.name, Some(peer.fingerprint)).await?;
    Some(prefixes.into_values().flatten().collect())
}

/// The addresses and networks that the clients' file of `name` has for each key in it, by its
/// fingerprint as text; for `key` alone, if that is given. `None`: irmd cannot be asked.
pub(super) async fn prefixes(
    name: &Name,
    key: Option<Fingerprint>,
) -> Option<HashMap<String, Vec<IpNet>>> {
    let key = key.map(|key| key.to_string());
    let rows = match Client::new().clients(Some(name.to_string()), key).await {
        Ok(rows) => rows,
        // The name has its clients in no file.
        Err(LayerError::Daemon(DaemonError::Refused(_))) => Vec::new(),
        Err(_) => return None,
    };
    let mut prefixes: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows.into_iter().filter(|row| row.invited_until.is_none()) {
        let known = row.prefixes.iter().filter_map(|prefix| prefix.parse::<IpNet>().ok());
        prefixes.entry(row.key).or_default().extend(known);
    }
    Some(prefixes)
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
