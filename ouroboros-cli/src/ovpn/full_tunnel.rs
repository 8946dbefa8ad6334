//! A client's full tunnel: all that this machine sends beyond its own networks goes
//! through the tunnel's device, except what irmd's layers send, which is marked. By a
//! routing table of its own and two rules, as wg-quick(8) has it: the other tables stay
//! as they are, so that the way to the server follows the uplink as it changes. `ip`
//! makes them. Not here: routes to single networks (`configured`).

use std::{cell::Cell, path::Path, process::Command};

use ouroboros::tun::InterfaceAddress;

use crate::{
    OUTER_MARK,
    command::{self, CommandError},
    sysctl::Sysctl,
};

/// The routing table.
const TABLE: &str = "28533";
/// The rule that prefers the main table's routes, but for its default route.
const OWN_NETWORKS: &str = "28533";
/// The rule that leads everything else to the table.
const EVERYTHING_ELSE: &str = "28534";
/// Behind any route through a device.
const LAST: &str = "4294967295";

/// Rules and routes, which are there as long as this is.
pub(super) struct FullTunnel {
    kill_switch: bool,
    families: Vec<&'static str>,
    /// They stay behind.
    stays: Cell<bool>,
}

impl FullTunnel {
    /// Begins without a device: with `kill_switch`, nothing leaves from here on but what
    /// is marked, until this is dropped, and also if the process is killed.
    ///
    /// # Errors
    ///
    /// Why it cannot be, in one line.
    pub(super) fn begin(kill_switch: bool) -> Result<Self, String> {
        let families = families();
        if let Some(device) = families.iter().find_map(|family| routed_through(family)) {
            return Err(format!(
                "--full-tunnel: {device} is the device of another full tunnel: end that one first"
            ));
        }
        if let Some(strict) = Sysctl::own().any_strict_filter() {
            return Err(format!(
                "--full-tunnel: the server's answers would be dropped, since {strict} is 1: \
                 sysctl -w {strict}=2"
            ));
        }
        let full = Self { kill_switch, families, stays: Cell::new(false) };
        for family in &full.families {
            if kill_switch {
                full.route(family, &["unreachable", "default", "metric", LAST])?;
            } else {
                // Of one that was killed.
                let _ = ip(family, &["route", "flush", "table", TABLE]);
            }
            add_rule(
                family,
                &["pref", OWN_NETWORKS, "table", "main", "suppress_prefixlength", "0"],
            )?;
            let mark = format!("{OUTER_MARK:#x}");
            add_rule(family, &["pref", EVERYTHING_ELSE, "not", "fwmark", &mark, "table", TABLE])?;
        }
        Ok(full)
    }

    /// Leads everything through `device`. Without an address of a family, packets of that
    /// family go nowhere, and programs are told so at once.
    ///
    /// # Errors
    ///
    /// Why it cannot be, in one line.
    pub(super) fn lead(&self, device: &str, addresses: &[InterfaceAddress]) -> Result<(), String> {
        for &family in &self.families {
            let is_of_family = |own: &InterfaceAddress| own.address().is_ipv4() == (family == "-4");
            if addresses.iter().any(is_of_family) {
                self.route(family, &["default", "dev", device, "metric", "1"])?;
            } else {
                self.route(family, &["unreachable", "default", "metric", "1"])?;
            }
        }
        Ok(())
    }

    fn route(&self, family: &str, words: &[&str]) -> Result<(), String> {
        ip(family, &[&["route", "replace"], words, &["table", TABLE]].concat())
    }

    /// The tunnel has failed and was not ended: a kill switch holds. Returns `true` if
    /// there is one.
    pub(super) fn failed(&self) -> bool {
        self.stays.set(self.kill_switch);
        self.kill_switch
    }

    /// Says what is there, for people.
    pub(super) fn describe(&self, device: &str) -> String {
        let blocked = if self.kill_switch { ", or nowhere while it is away" } else { "" };
        format!("Everything beyond this machine's own networks goes through {device}{blocked}.")
    }
}

impl Drop for FullTunnel {
    fn drop(&mut self) {
        if !self.stays.get() {
            self.families.iter().for_each(|family| clear(family));
        }
    }
}

/// Takes away what a full tunnel that was killed has left.
pub(super) fn clear_remains() {
    for family in families() {
        let rules = output(family, &["rule", "show"]).unwrap_or_default();
        let ours = format!("{EVERYTHING_ELSE}:");
        if rules.lines().any(|rule| rule.starts_with(&ours)) && routed_through(family).is_none() {
            clear(family);
        }
    }
}

fn clear(family: &str) {
    for rule in [EVERYTHING_ELSE, OWN_NETWORKS] {
        let _ = ip(family, &["rule", "del", "pref", rule]);
    }
    let _ = ip(family, &["route", "flush", "table", TABLE]);
}

/// The families that this machine has.
fn families() -> Vec<&'static str> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    if v6 { vec!["-4", "-6"] } else { vec!["-4"] }
}

/// The device of a full tunnel that is there.
fn routed_through(family: &str) -> Option<String> {
    let routes = output(family, &["route", "show", "table", TABLE])?;
    let mut words = routes.split_whitespace();
    let device = words.by_ref().find(|word| *word == "dev").and_then(|_| words.next());
    // That of a route to nowhere.
    device.filter(|device| *device != "lo").map(str::to_owned)
}

fn add_rule(family: &str, words: &[&str]) -> Result<(), String> {
    match ip(family, &[&["rule", "add"], words].concat()) {
        Err(error) if error.contains("File exists") => Ok(()),
        outcome => outcome,
    }
}

fn output(family: &str, words: &[&str]) -> Option<String> {
    let output = Command::new("ip").arg(family).args(words).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

fn ip(family: &str, words: &[&str]) -> Result<(), String> {
    command::run("ip", &[&[family], words].concat(), "").map_err(|error| match error {
        CommandError::NotRun(error) => format!("--full-tunnel needs the ip command: {error}"),
        CommandError::Failed(why) => {
            format!("--full-tunnel: ip {family} {}: {why}", words.join(" "))
        }
    })
}
