//! What a daemon would do when it reads another configuration file. Not here: doing it
//! (`irmd::configured`).

use super::{Configuration, Ipcp};

impl Configuration {
    /// The changes when a daemon that had `self` from its file reads one that says
    /// `wanted`, and has `now`, a line each: `-` for what goes, `+` for what comes, `~` for
    /// what becomes another. What was done by hand stays, unless `wanted` says otherwise.
    #[must_use]
    pub fn changes(&self, now: &Self, wanted: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, path) in self.programs.difference(&wanted.programs) {
            if now.programs.contains(&(name.clone(), path.clone())) {
                changes.push(format!("- {path} bound to {name}"));
            }
        }
        for (name, layer) in self.registrations.difference(&wanted.registrations) {
            if now.registrations.contains(&(name.clone(), layer.clone())) {
                changes.push(format!("- {name} in layer {layer}"));
            }
        }
        for name in self.names.keys().filter(|name| !wanted.names.contains_key(*name)) {
            if now.names.contains_key(name) {
                changes.push(format!("- name {name}, with its registrations and bindings"));
            }
        }
        let is = |ipcp: &Ipcp| {
            let layer = ipcp.layer.as_deref().unwrap_or("no layer");
            format!("{} over {} in {layer}", ipcp.kind, attachment(ipcp))
        };
        for (name, ipcp) in &self.ipcps {
            if wanted.ipcps.get(name) != Some(ipcp) && now.ipcps.contains_key(name) {
                changes.push(format!("- IPCP {name}: {}, with its layer's names", is(ipcp)));
            }
        }
        for (name, ipcp) in &wanted.ipcps {
            if now.ipcps.get(name) != Some(ipcp) && self.ipcps.get(name) != Some(ipcp) {
                changes.push(format!("+ IPCP {name}: {}", is(ipcp)));
            }
        }
        for (name, policy) in &wanted.names {
            let same = |other: &Self| {
                other.names.get(name).is_some_and(|known| known.request == policy.request)
            };
            if !same(self) && !same(now) {
                let sign = if now.names.contains_key(name) { '~' } else { '+' };
                changes.push(format!("{sign} name {name}"));
            }
        }
        for (name, layer) in wanted.registrations.difference(&self.registrations) {
            if !now.registrations.contains(&(name.clone(), layer.clone())) {
                changes.push(format!("+ {name} in layer {layer}"));
            }
        }
        for (name, path) in wanted.programs.difference(&self.programs) {
            if !now.programs.contains(&(name.clone(), path.clone())) {
                changes.push(format!("+ {path} bound to {name}"));
            }
        }
        changes
    }
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
        assert_eq!(had.changes(&now, &had), [""; 0]);
        let wanted = parse(
            &(ipcp("kept", 1, "\"b\"")
                + &ipcp("moved", 5, "")
                + &ipcp("hand", 9, "\"h\"")
                + "[name.changed]\nnative = true\n[name.same]\n[name.byhand]\nnative = true\n\
                   [name.new]\n"),
        );
        let changes = had.changes(&now, &wanted);
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
