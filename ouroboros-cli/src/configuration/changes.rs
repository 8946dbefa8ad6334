//! The changes that a daemon makes when it reads another configuration file. Not here: making
//! them (`irmd::configured`).

use std::collections::BTreeSet;

use ouroboros::daemon::security::NamePolicy;

use super::{Configuration, Ipcp, PlacedPolicy};

/// A step from one file to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes back the binding of a name to the program at a path.
    Unbind(String, String),
    /// Takes a name out of a layer.
    Unregister(String, String),
    /// Destroys a name, with its registrations and bindings.
    DestroyName(String),
    /// Destroys an IPCP, and with its layer's last one the layer's registrations.
    DestroyIpcp(String),
    /// Makes an IPCP.
    CreateIpcp(String, Ipcp),
    /// Creates a name, or gives it another policy.
    SetPolicy(String, NamePolicy),
    /// Registers a name in a layer.
    Register(String, String),
    /// Binds a name to the program at a path.
    Bind(String, String),
}

impl Configuration {
    /// The changes when a daemon that had `self` from its file reads one that says
    /// `wanted`, in their order. What was done by hand stays, unless `wanted` says
    /// otherwise.
    #[must_use]
    pub fn changes(&self, wanted: &Self) -> Vec<Change> {
        let pair = |(a, b): &(String, String)| (a.clone(), b.clone());
        let mut changes = Vec::new();
        for (name, path) in self.programs.difference(&wanted.programs).map(pair) {
            changes.push(Change::Unbind(name, path));
        }
        for (name, layer) in self.registrations.difference(&wanted.registrations).map(pair) {
            changes.push(Change::Unregister(name, layer));
        }
        let destroyed =
            |name: &String| self.names.contains_key(name) && !wanted.names.contains_key(name);
        for name in self.names.keys().filter(|name| destroyed(name)) {
            changes.push(Change::DestroyName(name.clone()));
        }
        for (name, ipcp) in &self.ipcps {
            if wanted.ipcps.get(name) != Some(ipcp) {
                changes.push(Change::DestroyIpcp(name.clone()));
            }
        }
        let mut layers = BTreeSet::new();
        for (name, ipcp) in &wanted.ipcps {
            if self.ipcps.get(name) != Some(ipcp) {
                layers.extend(&ipcp.layer);
                changes.push(Change::CreateIpcp(name.clone(), ipcp.clone()));
            }
        }
        for (name, PlacedPolicy { policy, .. }) in &wanted.names {
            if self.names.get(name).is_none_or(|known| known.policy != *policy) {
                changes.push(Change::SetPolicy(name.clone(), policy.clone()));
            }
        }
        for registration in &wanted.registrations {
            let (name, layer) = pair(registration);
            let stays = self.registrations.contains(registration);
            if !stays || layers.contains(&layer) || destroyed(&name) {
                changes.push(Change::Register(name, layer));
            }
        }
        for binding in &wanted.programs {
            let (name, path) = pair(binding);
            if !self.programs.contains(binding) || destroyed(&name) {
                changes.push(Change::Bind(name, path));
            }
        }
        changes
    }

    /// Makes the change to `self`, and says it in a line: `-` for what goes, `+` for what
    /// comes, `~` for what becomes another. `None` if there is nothing to do.
    pub fn apply(&mut self, change: Change) -> Option<String> {
        match change {
            Change::Unbind(name, path) => {
                let line = format!("- {path} bound to {name}");
                self.programs.remove(&(name, path)).then_some(line)
            }
            Change::Unregister(name, layer) => {
                let line = format!("- {name} in layer {layer}");
                self.registrations.remove(&(name, layer)).then_some(line)
            }
            Change::DestroyName(name) => {
                self.registrations.retain(|(registered, _)| *registered != name);
                self.programs.retain(|(bound, _)| *bound != name);
                self.names.remove(&name)?;
                Some(format!("- name {name}, with its registrations and bindings"))
            }
            Change::DestroyIpcp(name) => {
                let ipcp = self.ipcps.remove(&name)?;
                let line = format!("- IPCP {name}: {}", description(&ipcp));
                let shared = self.ipcps.values().any(|other| other.layer == ipcp.layer);
                if ipcp.layer.is_none() || shared {
                    return Some(line);
                }
                self.registrations.retain(|(_, layer)| Some(layer) != ipcp.layer.as_ref());
                Some(line + ", with its layer's names")
            }
            Change::CreateIpcp(name, ipcp) => {
                let line = format!("+ IPCP {name}: {}", description(&ipcp));
                let before = self.ipcps.insert(name, ipcp.clone());
                (before != Some(ipcp)).then_some(line)
            }
            Change::SetPolicy(name, policy) => {
                let placed = PlacedPolicy { line: 0, policy: policy.clone() };
                match self.names.insert(name.clone(), placed) {
                    Some(known) if known.policy == policy => None,
                    Some(_) => Some(format!("~ name {name}")),
                    None => Some(format!("+ name {name}")),
                }
            }
            Change::Register(name, layer) => {
                let line = format!("+ {name} in layer {layer}");
                self.registrations.insert((name, layer)).then_some(line)
            }
            Change::Bind(name, path) => {
                let line = format!("+ {path} bound to {name}");
                self.programs.insert((name, path)).then_some(line)
            }
        }
    }
}

fn description(ipcp: &Ipcp) -> String {
    let layer = ipcp.layer.as_deref().unwrap_or("no layer");
    format!("{} over {} in {layer}", ipcp.kind, attachment(ipcp))
}

fn attachment(ipcp: &Ipcp) -> String {
    use ouroboros::daemon::protocol::TransportSpec::{EthDix, Udp};
    match &ipcp.transport {
        EthDix { device, .. } => device.clone(),
        Udp { ip, port: Some(port) } => format!("{ip} port {port}"),
        Udp { ip, port: None } => ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Configuration {
        Configuration::parse(text, Path::new("/")).expect(text)
    }

    fn told(had: &Configuration, now: &Configuration, wanted: &Configuration) -> Vec<String> {
        let mut now = now.clone();
        had.changes(wanted).into_iter().filter_map(|change| now.apply(change)).collect()
    }

    #[test]
    fn what_goes_with_a_name_or_an_ipcp_comes_back_where_the_file_still_says_it() {
        let file = |port: u16, table: &str| {
            let layer = "bootstrap = \"net\"\nip = \"10.0.0.1\"\nreg = [\"a\"]\n";
            parse(&format!("[udp4.wan]\nport = {port}\n{layer}{table}"))
        };
        let named = file(1, "[name.a]\nnative = true\n");
        let changes = told(&named, &named, &file(1, ""));
        assert_eq!(changes, ["- name a, with its registrations and bindings", "+ a in layer net"]);
        let changes = told(&named, &named, &file(2, "[name.a]\nnative = true\n"));
        assert_eq!(
            changes,
            [
                "- IPCP wan: udp4 over 10.0.0.1 port 1 in net, with its layer's names",
                "+ IPCP wan: udp4 over 10.0.0.1 port 2 in net",
                "+ a in layer net",
            ]
        );
    }

    #[test]
    fn only_what_a_reload_would_touch_is_a_change() {
        let ipcp = |name: &str, port: u16, reg: &str| {
            format!(
                "[udp4.{name}]\nbootstrap = \"{name}\"\nip = \"10.0.0.1\"\nport = {port}\n\
                 reg = [{reg}]\n"
            )
        };
        let had = parse(
            &(ipcp("kept", 1, "")
                + &ipcp("moved", 2, "\"a\"")
                + &ipcp("gone", 3, "")
                + "[name.old]\nprog = [\"sh\"]\n[name.changed]\n[name.same]\n"),
        );
        let mut now = had.clone();
        let by_hand = parse(&(ipcp("hand", 9, "\"h\"") + "[name.byhand]\nnative = true\n"));
        now.ipcps.extend(by_hand.ipcps.clone());
        now.names.extend(by_hand.names.clone());
        now.registrations.extend(by_hand.registrations.clone());
        assert_eq!(had.changes(&had), []);
        let wanted = parse(
            &(ipcp("kept", 1, "\"b\"")
                + &ipcp("moved", 5, "")
                + &ipcp("hand", 9, "\"h\"")
                + "[name.changed]\nnative = true\n[name.same]\n[name.byhand]\nnative = true\n\
                   [name.new]\n"),
        );
        let changes = told(&had, &now, &wanted);
        let shell = changes[0].strip_prefix("- ").expect("the program goes");
        assert!(shell.ends_with(" bound to old"), "{shell}");
        assert_eq!(
            changes[1..],
            [
                "- a in layer moved",
                "- name old, with its registrations and bindings",
                "- IPCP gone: udp4 over 10.0.0.1 port 3 in gone, with its layer's names",
                "- IPCP moved: udp4 over 10.0.0.1 port 2 in moved, with its layer's names",
                "+ IPCP moved: udp4 over 10.0.0.1 port 5 in moved",
                "~ name changed",
                "+ name new",
                "+ b in layer kept",
            ]
        );
    }
}
