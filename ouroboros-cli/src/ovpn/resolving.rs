//! The resolvers that a server tells of, in use: by systemd-resolved, or by resolvconf (Debian's
//! or openresolv), whichever there is. Not here: whether they are accepted (`configured`).

use std::fmt::Write;

use ouroboros::proto::hub::Configuration;

use super::{
    configured::list,
    subject::{Subject, tell},
};
use crate::command::{self, CommandError};

/// Resolvers that are asked as long as this is.
#[derive(Debug)]
pub(super) struct Resolving {
    device: String,
    by: Manager,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Resolved,
    Resolvconf,
}

impl Resolving {
    /// Has these resolvers asked for the device; for all names if `everything` goes there.
    /// Says so, or why not.
    pub(super) fn begin(
        device: &str,
        told: &Configuration,
        everything: bool,
        subject: &Subject,
    ) -> Option<Self> {
        let servers = list(&told.dns_servers);
        let subject = subject.with("resolvers", &servers);
        let by = match resolved(device, told, everything) {
            Ok(()) => Manager::Resolved,
            Err(resolved) => match resolvconf(device, told, everything) {
                Ok(()) => Manager::Resolvconf,
                Err(resolvconf) => {
                    tell!(
                        subject,
                        "Warning: the server's resolvers are not used: {servers}; put them into \
                         /etc/resolv.conf yourself (resolvectl: {resolved}; resolvconf: \
                         {resolvconf})."
                    );
                    return None;
                }
            },
        };
        tell!(subject, "Resolvers of {device}: {servers}.");
        Some(Self { device: device.to_owned(), by })
    }
}

impl Drop for Resolving {
    fn drop(&mut self) {
        // Without the device, systemd-resolved has forgotten it.
        let _ = match self.by {
            Manager::Resolved => command::run("resolvectl", &["revert", &self.device], ""),
            Manager::Resolvconf => command::run("resolvconf", &["-d", &record(&self.device)], ""),
        };
    }
}

fn resolved(device: &str, told: &Configuration, everything: bool) -> Result<(), CommandError> {
    let servers: Vec<_> = told.dns_servers.iter().map(ToString::to_string).collect();
    let mut domains = told.search_domains.clone();
    domains.extend(everything.then(|| "~.".to_owned()));
    for (what, values) in [("dns", servers), ("domain", domains)] {
        if !values.is_empty() {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            command::run("resolvectl", &[&[what, device], &values[..]].concat(), "")?;
        }
    }
    Ok(())
}

fn resolvconf(device: &str, told: &Configuration, everything: bool) -> Result<(), CommandError> {
    let words = ["-a", &record(device)];
    // Before all others, and alone if everything goes through the tunnel: openresolv's way of
    // saying so. Debian's has other options, and an order of interfaces.
    let exclusive = [&words[..], &["-m", "0", "-x"]].concat();
    let text = resolv_conf(told);
    match everything {
        true => command::run("resolvconf", &exclusive, &text)
            .or_else(|_| command::run("resolvconf", &words, &text)),
        false => command::run("resolvconf", &words, &text),
    }
}

/// Returns the name of the device's resolvers in resolvconf: as those of other tunnels, which
/// come first in its order.
fn record(device: &str) -> String {
    format!("tun.{device}")
}

/// Returns the lines for resolv.conf(5).
fn resolv_conf(told: &Configuration) -> String {
    let mut text = String::new();
    for server in &told.dns_servers {
        // A text takes everything.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !told.search_domains.is_empty() {
        let _ = writeln!(text, "search {}", told.search_domains.join(" "));
    }
    text
}
