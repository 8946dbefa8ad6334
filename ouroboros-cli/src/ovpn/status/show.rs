//! `ovpn status`: asks the running tunnels of this machine, and shows what they tell.

use std::{error::Error, fs, io, path::PathBuf, time::Duration};

use async_std::task;
use ouroboros::daemon::{Client, protocol::ClientRow};
use structopt::StructOpt;

use super::{
    PAGE, folder,
    report::{Peer, Report, Role},
};
use crate::{http, lists::duration, output, table::table};

/// How often `--watch` asks anew.
const INTERVAL: Duration = Duration::from_secs(1);

/// Options of `ovpn status`.
#[derive(Clone, Debug, StructOpt)]
pub struct Options {
    /// Shows the tunnel with this device only
    #[structopt(long, value_name = "DEVICE")]
    pub dev: Option<String>,
    /// Prints JSON: a list of tunnels, in one line
    #[structopt(long)]
    pub json: bool,
    /// Shows it again every second
    #[structopt(short, long)]
    pub watch: bool,
}

/// Shows the tunnels that run on this machine.
///
/// # Errors
///
/// There is none with the device, or none of them may be asked.
pub async fn status(options: &Options) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        let mut reports = reports(options.dev.as_deref()).await?;
        name_clients(&mut reports).await;
        if options.json {
            println!("{}", serde_json::to_string(&reports)?);
        } else {
            let text = if reports.is_empty() {
                "No tunnel runs here.\n".to_owned()
            } else {
                reports.iter().map(text).collect::<Vec<_>>().join("\n")
            };
            // From the top left on, with what was there cleared.
            let clear = if options.watch { "\x1b[H\x1b[2J" } else { "" };
            print!("{clear}{text}");
        }
        if !options.watch || output::has_failed() {
            return Ok(());
        }
        task::sleep(INTERVAL).await;
    }
}

/// Returns the reports of all running tunnels, those with the device `dev` if that is given.
async fn reports(dev: Option<&str>) -> Result<Vec<Report>, Box<dyn Error + Send + Sync>> {
    let mut reports = Vec::new();
    let mut refused = 0;
    for socket in sockets()? {
        match http::get(&socket, PAGE).await {
            Ok(text) => reports.push(serde_json::from_str::<Report>(&text)?),
            // One of a program that is gone, or has another user.
            Err(error) => refused += usize::from(error.kind() == io::ErrorKind::PermissionDenied),
        }
    }
    reports.retain(|report| dev.is_none_or(|dev| report.device.as_deref() == Some(dev)));
    reports.sort_by(|a, b| (&a.device, a.process).cmp(&(&b.device, b.process)));
    match dev {
        _ if reports.is_empty() && refused > 0 => {
            Err(format!("{refused} tunnels are another user's: run ovpn status as root").into())
        }
        Some(dev) if reports.is_empty() => Err(format!("no tunnel has the device {dev}").into()),
        _ => Ok(reports),
    }
}

/// Tells clients by the names that the daemon has for their keys, if it tells.
async fn name_clients(reports: &mut [Report]) {
    let Ok(rows) = Client::new().clients(None, None).await else { return };
    let servers = reports.iter_mut().filter(|report| report.role == Role::Server);
    for peer in servers.flat_map(|report| &mut report.peers) {
        let same =
            |row: &&ClientRow| peer.identity.as_ref() == Some(&row.key) && peer.name == row.service;
        peer.client = rows.iter().find(same).and_then(|row| row.name.clone());
    }
}

fn sockets() -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect())
}

/// A tunnel for people.
fn text(report: &Report) -> String {
    let Report { process, role, device, mtu, offload, traffic, .. } = report;
    let Some(device) = device else {
        return format!("ovpn {process} has no device yet. {}\n", report.state);
    };
    let role = match role {
        Role::None => "no end",
        Role::Server => "server",
        Role::Client => "client",
    };
    let list = |items: Vec<String>| {
        if items.is_empty() { "-".to_owned() } else { items.join(", ") }
    };
    let addresses = list(report.addresses.iter().map(ToString::to_string).collect());
    let mtu = mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string());
    let dropped = report.dropped.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    let mut text = format!(
        "{device}: {role} (process {process}), {addresses}, MTU {mtu}, offloads {offload}\n\
         in {} in {} packets, out {} in {} packets, dropped {}\n",
        bytes(traffic.received_bytes),
        traffic.received_packets,
        bytes(traffic.sent_bytes),
        traffic.sent_packets,
        list(dropped),
    );
    if report.peers.is_empty() {
        text.push_str(&format!("{}\n", report.state));
        return text;
    }
    let heading = [
        "PEER",
        "NAME",
        "INNER",
        "OUTER",
        "SINCE",
        "HEARD",
        "ROUND TRIP",
        "IN",
        "OUT",
        "LOST IN",
        "LOST OUT",
        "DROPPED",
        "MTU",
        "PROFILE",
        "EPOCH",
    ];
    let rows: Vec<_> = report.peers.iter().map(row).collect();
    text.push_str(&table(&heading, &rows));
    text
}

fn row(peer: &Peer) -> Vec<String> {
    let unknown = || "-".to_owned();
    let inner: Vec<_> = peer.inner.iter().map(ToString::to_string).collect();
    let both = |packets: u64, count: u64| format!("{} ({packets})", bytes(count));
    vec![
        match (&peer.client, &peer.identity) {
            (Some(name), _) => name.escape_debug().to_string(),
            (None, key) => key.as_deref().map_or_else(unknown, short),
        },
        peer.name.clone(),
        if inner.is_empty() { unknown() } else { inner.join(",") },
        peer.outer.clone(),
        duration(peer.age),
        duration(peer.silence),
        peer.round_trip.map_or_else(unknown, |time| format!("{:.1} ms", time * 1000.0)),
        both(peer.traffic.received_packets, peer.traffic.received_bytes),
        both(peer.traffic.sent_packets, peer.traffic.sent_bytes),
        peer.missed.map_or_else(unknown, |missed| missed.to_string()),
        peer.undelivered.to_string(),
        peer.dropped.to_string(),
        peer.mtu.map_or_else(unknown, |mtu| mtu.to_string()),
        peer.profile.clone(),
        peer.epoch.to_string(),
    ]
}

/// The beginning of a fingerprint, which `--json` has as a whole.
fn short(fingerprint: &str) -> String {
    match fingerprint.match_indices('-').nth(2) {
        Some((at, _)) => format!("{}…", &fingerprint[..at]),
        None => fingerprint.to_owned(),
    }
}

fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_people_read_them() {
        let sizes = [0, 1023, 1536, 5 << 20, 7 << 30, 3 << 50].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "7.0 GiB", "3072.0 TiB"]);
        assert_eq!(short("o7s:neek-7f5j-aaaa-bbbb"), "o7s:neek-7f5j-aaaa…");
    }
}
