//! A server's masquerading: what its clients send beyond it leaves with its own address.
//! By a table of nftables that is the device's; `nft` makes it.

use ouroboros::proto::hub::IpNet;

use crate::{
    command::{self, CommandError},
    sysctl::{Forwarding, Sysctl},
};

/// A table, which is there as long as this is.
pub(super) struct Masquerade {
    table: String,
}

impl Masquerade {
    /// Masquerades what comes from `networks` and leaves by another device than `device`.
    /// Takes the place of what a server that was killed has left.
    ///
    /// # Errors
    ///
    /// Why it cannot be, in one line.
    pub(super) fn begin(device: &str, networks: &[IpNet]) -> Result<Self, String> {
        let table = format!("ovpn-{device}");
        let rule = |network: &IpNet| {
            let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
            let network = network.trunc();
            format!("{family} saddr {network} oifname != \"{device}\" masquerade\n")
        };
        let rules: String = networks.iter().map(rule).collect();
        // In one step: made if it is not there, so that it can be made anew.
        nft(&format!(
            "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat;\n{rules}}}\n}}\n"
        ))?;
        Ok(Self { table })
    }
}

impl Drop for Masquerade {
    fn drop(&mut self) {
        let _ = nft(&format!("delete table inet {}\n", self.table));
    }
}

/// Returns what is missing for packets of `networks` to be passed on, in one line for each
/// family.
pub(super) fn not_forwarded(networks: &[IpNet]) -> Vec<String> {
    let sysctl = Sysctl::own();
    let missing =
        [(true, Forwarding::V4), (false, Forwarding::V6)].into_iter().filter(|(v4, of)| {
            networks.iter().any(|network| network.addr().is_ipv4() == *v4)
                && sysctl.forwards(*of) == Some(false)
        });
    let line = |(_, Forwarding { family, setting })| {
        format!("this machine does not pass {family} on: sysctl -w {setting}=1")
    };
    missing.map(line).collect()
}

fn nft(rules: &str) -> Result<(), String> {
    command::run("nft", &["-f", "-"], rules).map_err(|error| match error {
        CommandError::NotRun(error) => format!("--masquerade needs the nft command: {error}"),
        CommandError::Failed(why) => format!("--masquerade: nft: {why}"),
    })
}
