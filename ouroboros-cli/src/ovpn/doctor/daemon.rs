//! Checks of the daemon, its files and its names.

use std::net::ToSocketAddrs;

use ouroboros::{
    LayerError,
    transport::ServerHost,
    trust::TrustFolder,
    wire::{DirectoryHash, Name},
};

use super::Finding;
use crate::{configuration::Configuration, lists::Overview};

/// A layer to begin with.
const LAYER: &str = "irm ipcp bootstrap type udp name wan layer internet ip any";

/// Checks the daemon's layers and names.
pub(super) fn check(overview: Result<&Overview, &LayerError>) -> Vec<Finding> {
    let overview = match overview {
        Ok(overview) => overview,
        Err(error) => {
            let advice =
                "ovpn waits for it; systemctl enable --now irmd has it there at each start";
            return vec![Finding::problem("irmd", error.to_string(), advice)];
        }
    };
    let layers = overview.ipcps.iter().filter(|ipcp| !ipcp.layer.is_empty()).count();
    let mut findings = vec![Finding::good("irmd", "it serves")];
    findings.push(match layers {
        0 => Finding::problem("layer", "there is none", LAYER),
        _ => Finding::good("layer", format!("IPCPs in a layer: {layers}")),
    });
    for name in &overview.names {
        let bound = !name.programs.is_empty() || !name.processes.is_empty();
        let called = name.name.escape_debug();
        match (bound, name.layers.is_empty()) {
            (true, true) => findings.push(Finding::problem(
                "name",
                format!("{called} is bound to a program and in no layer: nobody can ask for it"),
                format!("irm register name {called} layer L"),
            )),
            (false, false) => findings.push(Finding::warning(
                "name",
                format!("{called} is in a layer and bound to no program: nobody is answered"),
                format!("irm bind program ovpn name {called}"),
            )),
            _ => findings.push(Finding::good("name", format!("{called} is as it should be"))),
        }
    }
    findings
}

/// This machine's key, as far as this user may see it.
pub(super) fn identity() -> Option<Finding> {
    let file = TrustFolder::of_user().ok()?.identity();
    Some(match file.load() {
        Ok(Some(_)) => Finding::good("identity", format!("{} is a key", file.path().display())),
        Ok(None) => Finding::good("identity", "there is no key yet: the first use makes one"),
        Err(error) => {
            Finding::problem("identity", error.to_string(), "irm key show tells when it is mended")
        }
    })
}

/// The file that the daemon begins with, if there is one.
pub(super) fn configuration() -> Option<Finding> {
    let file = TrustFolder::of_user().ok()?.path().join("irmd.conf");
    if !file.exists() {
        return None;
    }
    Some(match Configuration::read(&file) {
        Ok(_) => Finding::good("configuration", format!("{} makes sense", file.display())),
        Err(error) => Finding::problem(
            "configuration",
            error.to_string(),
            format!("irm config check {} tells when it is mended", file.display()),
        ),
    })
}

/// Returns where a server is looked for.
pub(super) fn lookup(name: Option<&Name>, server: Option<&ServerHost>) -> Option<Finding> {
    let check = "lookup";
    if let Some(server) = server {
        let (host, port) = (server.host(), server.port().unwrap_or(1));
        return Some(match (host, port).to_socket_addrs() {
            Ok(found) => Finding::good(check, format!("{host} is at {}", list(found))),
            Err(error) => Finding::problem(
                check,
                format!("{host} cannot be looked up: {error}"),
                "give --server an address, or put the host into /etc/hosts or DNS",
            ),
        });
    }
    let name = name?;
    let hash = DirectoryHash::Md5.of(name).to_string();
    Some(match (hash.as_str(), 1).to_socket_addrs() {
        Ok(found) => Finding::good(check, format!("{name} ({hash}) is at {}", list(found))),
        Err(_) => Finding::problem(
            check,
            format!("{name} is looked up as {hash}, which is in no hosts file and not in DNS"),
            format!(
                "put the lines there that irm name dns {name} prints at the server; or ovpn \
                 --server HOST"
            ),
        ),
    })
}

fn list(found: impl Iterator<Item = std::net::SocketAddr>) -> String {
    let mut addresses: Vec<_> = found.map(|address| address.ip().to_string()).collect();
    addresses.dedup();
    addresses.join(", ")
}

#[cfg(test)]
mod tests {
    use ouroboros::daemon::{
        DaemonError,
        protocol::{IpcpEntry, NameEntry},
    };

    use super::{super::Severity, *};

    fn name(layers: &[&str], programs: &[&str]) -> NameEntry {
        let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        NameEntry {
            name: "my_vpn".to_owned(),
            layers: own(layers),
            programs: own(programs),
            processes: Vec::new(),
            encryption: String::new(),
        }
    }

    #[test]
    fn a_daemon_without_a_layer_and_names_half_told_are_problems() {
        let ipcp = |layer: &str| IpcpEntry {
            name: "wan".to_owned(),
            layer: layer.to_owned(),
            attachment: String::new(),
            transport: None,
        };
        let worst = |ipcps, names| {
            let overview = Overview { ipcps, names, flows: Vec::new() };
            let bad = |finding: &Finding| finding.severity != Severity::Good;
            let found = check(Ok(&overview)).into_iter().find(bad)?;
            assert!(found.advice.is_some(), "{found}");
            Some((found.check, found.severity))
        };
        let (problem, warning) = (Severity::Problem, Severity::Warning);
        assert_eq!(worst(vec![], vec![]), Some(("layer", problem)));
        assert_eq!(worst(vec![ipcp("")], vec![]), Some(("layer", problem)));
        assert_eq!(worst(vec![ipcp("l")], vec![]), None);
        assert_eq!(worst(vec![ipcp("l")], vec![name(&["l"], &["/bin/ovpn"])]), None);
        let bound = name(&[], &["/bin/ovpn"]);
        assert_eq!(worst(vec![ipcp("l")], vec![bound]), Some(("name", problem)));
        assert_eq!(worst(vec![ipcp("l")], vec![name(&["l"], &[])]), Some(("name", warning)));
        let gone = DaemonError::Refused("no".to_owned()).into();
        assert_eq!(check(Err(&gone))[0].severity, problem);
    }

    #[test]
    fn a_server_s_host_is_looked_up_before_its_name() {
        let name: Name = "no_such_vpn_of_anybody".parse().expect("a name");
        let server: ServerHost = "127.0.0.1".parse().expect("a host");
        let finding = lookup(Some(&name), Some(&server)).expect("looked up");
        assert_eq!(finding.severity, Severity::Good, "{finding}");
        assert!(lookup(None, None).is_none());
    }
}
