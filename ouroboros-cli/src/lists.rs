//! Lists of what a daemon has, as tables for people and as JSON. Not here: asking it.

use std::time::Duration;

use ouroboros::{
    LayerError,
    daemon::{
        Client,
        protocol::{FlowEntry, IpcpEntry, NameEntry, path_from_text},
    },
};
use serde::Serialize;

use crate::{grammar::Command, since_1970, table::table};

/// All of a daemon's lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// IPCPs, and the layers that they are in.
    pub ipcps: Vec<IpcpEntry>,
    /// Names.
    pub names: Vec<NameEntry>,
    /// Flows that applications have.
    pub flows: Vec<FlowEntry>,
}

impl Overview {
    /// Asks the daemon.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub async fn ask(client: &Client) -> Result<Self, LayerError> {
        let (ipcps, names) = (client.ipcps().await?, client.names().await?);
        Ok(Self { ipcps, names, flows: client.flows().await? })
    }

    /// For people: tables, with what is there to be done where one is empty.
    #[must_use]
    pub fn text(&self) -> String {
        let or = |table: String, empty: bool, hint: &str| {
            if empty { format!("{hint}\n") } else { table }
        };
        let layers = "There is no layer: irm ipcp bootstrap type udp name I layer L ip any makes \
                      one.";
        [
            or(ipcps(&self.ipcps), self.ipcps.is_empty(), layers),
            or(names(&self.names), self.names.is_empty(), "There is no name."),
            or(flows(&self.flows), self.flows.is_empty(), "No program has a flow."),
        ]
        .join("\n")
    }
}

/// IPCPs as a table.
#[must_use]
pub fn ipcps(ipcps: &[IpcpEntry]) -> String {
    let row =
        |ipcp: &IpcpEntry| vec![ipcp.name.clone(), ipcp.layer.clone(), ipcp.attachment.clone()];
    let rows: Vec<_> = ipcps.iter().map(row).collect();
    table(&["NAME", "LAYER", "ATTACHED TO"], &rows)
}

/// Names as a table.
#[must_use]
pub fn names(names: &[NameEntry]) -> String {
    let row = |name: &NameEntry| {
        let processes = name.processes.iter().map(u32::to_string);
        let programs = name.programs.iter();
        let programs = programs.map(|path| path_from_text(path).to_string_lossy().into_owned());
        let bound = programs.chain(processes).collect::<Vec<_>>().join(", ");
        vec![name.name.clone(), name.layers.join(", "), bound, name.encryption.clone()]
    };
    let rows: Vec<_> = names.iter().map(row).collect();
    table(&["NAME", "LAYERS", "BOUND TO", "ENCRYPTION"], &rows)
}

/// Flows as a table.
#[must_use]
pub fn flows(flows: &[FlowEntry]) -> String {
    let unknown = || "-".to_owned();
    let row = |flow: &FlowEntry| {
        let way = if flow.relayed { "relayed" } else { "handed over" };
        let key = flow.identity.as_ref().map_or_else(unknown, |peer| peer.fingerprint.to_string());
        vec![
            flow.name.clone(),
            flow.peer.clone(),
            key,
            flow.encryption.clone(),
            way.to_owned(),
            flow.process.map_or_else(unknown, |process| process.to_string()),
            flow.since.map_or_else(unknown, |since| duration(age(since))),
        ]
    };
    let rows: Vec<_> = flows.iter().map(row).collect();
    table(&["NAME", "PEER", "KEY", "ENCRYPTION", "PACKETS", "PROCESS", "SINCE"], &rows)
}

fn age(since: u64) -> f64 {
    since_1970().saturating_sub(Duration::from_secs(since)).as_secs_f64()
}

/// So many seconds, as short as people read them.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds:.1} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Returns `true` if a command only shows something, so that it can be repeated.
#[must_use]
pub fn can_be_watched(command: &Command) -> bool {
    use Command::{ListFlows, ListIpcps, ListNames, Status};
    matches!(command, Status | ListFlows | ListIpcps | ListNames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_long_as_people_read_them() {
        let times = [0.04, 59.99, 61.0, 3_600.0, 90_061.0];
        let texts = times.map(duration);
        assert_eq!(texts, ["0.0 s", "60.0 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
