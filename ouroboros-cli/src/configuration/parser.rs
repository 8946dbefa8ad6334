//! The tables of a configuration file and what they mean, one by one. Not here: TOML
//! (`table`), and reading a file.

use std::{collections::BTreeSet, path::Path};

use ouroboros::{
    crypto::Algorithms,
    daemon::{
        protocol::{TransportSpec, text_of_path},
        security::NamePolicy,
    },
    transport::ScopedAddress,
    wire::Name,
};
use toml::{Spanned, de::DeTable};

use super::{
    Configuration, Ipcp, PlacedPolicy,
    table::{Placed, Source, Table},
};
use crate::{
    enc_conf, find_program,
    name_policy::{self, AlgorithmFiles, Auth},
};

/// Tables that a file may have.
pub(crate) const TABLES: [&str; 5] = ["name", "udp", "udp4", "udp6", "eth-dix"];
/// Those of `ovpn`, which are no business of irmd's.
const TUNNELS: &str = crate::ovpn::TUNNELS;
const KINDS: &str = "name, udp, udp4, udp6 and eth-dix are known";
/// IPCPs of 0.23 that this daemon does not have.
const UNSUPPORTED: [&str; 4] = ["local", "eth-llc", "broadcast", "unicast"];
const HASHES: [&str; 4] = ["sha3-224", "sha3-256", "sha3-384", "sha3-512"];

pub(super) struct Parser<'s, 't> {
    source: &'s Source<'t>,
    folder: &'s Path,
    found: Configuration,
    /// Layers that names are to be registered in, and where that is said.
    layers: Vec<Placed<String>>,
}

impl<'s, 't> Parser<'s, 't> {
    /// For a file that is in `folder`.
    pub(super) fn new(source: &'s Source<'t>, folder: &'s Path) -> Self {
        Self { source, folder, found: Configuration::default(), layers: Vec::new() }
    }

    /// Returns the configuration in the tables of `root`; their flaws are in the source.
    pub(super) fn parse(mut self, root: &'s DeTable<'s>) -> Configuration {
        self.root(root);
        self.check_layers();
        self.found
    }

    fn root(&mut self, root: &'s DeTable<'s>) {
        for (kind, tables) in root {
            let (name, place) = (kind.get_ref().as_ref(), kind.span());
            if UNSUPPORTED.contains(&name) {
                self.source.wrong(&place, format!("{name}: there are no such IPCPs: {KINDS}"));
                continue;
            }
            if name == TUNNELS {
                continue;
            }
            if !TABLES.contains(&name) {
                self.source.wrong(&place, format!("{}: {KINDS}", name.escape_debug()));
                continue;
            }
            let Some(tables) = tables.get_ref().as_table() else {
                self.source.wrong(&place, format!("{name}: expected a table, as [{name}.NAME]"));
                continue;
            };
            for (title, table) in tables {
                self.object(name, title, table);
            }
        }
    }

    fn object(
        &mut self,
        kind: &'s str,
        title: &'s Spanned<std::borrow::Cow<'s, str>>,
        table: &'s Spanned<toml::de::DeValue<'s>>,
    ) {
        let (name, place) = (title.get_ref().as_ref(), title.span());
        let Some(entries) = table.get_ref().as_table() else {
            self.source.wrong(&place, format!("{name}: expected a table, as [{kind}.NAME]"));
            return;
        };
        let called = format!("[{kind}.{}]", name.escape_debug());
        let mut table = Table::new(self.source, called, place, entries);
        if kind == "name" {
            self.name(name, &mut table);
        } else {
            self.ipcp(kind, name, &mut table);
        }
        table.end();
    }

    fn ipcp(&mut self, kind: &str, name: &str, table: &mut Table<'_, '_>) {
        let layer = table.text("bootstrap");
        let registered = table.texts("reg");
        for key in ["enrol", "conn", "autobind"] {
            table.refuse(key, "there are no layers over other layers here: leave it out");
        }
        let transport =
            if kind == "eth-dix" { self.ethernet(table) } else { self.udp(kind, table) };
        match &layer {
            Some(layer) => {
                for registered in registered {
                    self.register(&registered, layer);
                }
            }
            None => {
                if let Some(first) = registered.first() {
                    let reason = "reg: names are registered in layers: say which (bootstrap)";
                    self.source.wrong(&first.place, reason);
                }
            }
        }
        let Some(transport) = transport else { return };
        let ipcp = match layer.map(|layer| layer.value) {
            Some(layer) => Ipcp::new(layer, transport),
            None => Ipcp { kind: kind.to_owned(), layer: None, transport },
        };
        if self.found.ipcps.insert(name.to_owned(), ipcp).is_some() {
            self.source.wrong(&table.place, format!("{name}: another IPCP has that name"));
        }
    }

    fn ethernet(&mut self, table: &mut Table<'_, '_>) -> Option<TransportSpec> {
        let device = table.text("dev");
        let ethertype = table.number("ethertype", 0x0600..0xffff);
        let hash = table.text("hash").and_then(|hash| {
            let word = hash.value.to_ascii_lowercase().replace('_', "-");
            let known = HASHES.contains(&word.as_str());
            if !known {
                let known = HASHES.join(", ");
                self.source.wrong(&hash.place, format!("hash: not one of {known}"));
            }
            known.then_some(word)
        });
        if device.is_none() {
            self.source.wrong(&table.place, "dev: which interface is missing");
        }
        Some(TransportSpec::EthDix { device: device?.value, ethertype, hash })
    }

    fn udp(&mut self, kind: &str, table: &mut Table<'_, '_>) -> Option<TransportSpec> {
        let address = table.text("ip");
        let port = table.number("port", 1..65_536);
        table.refuse("dns", "names are looked up by the system's resolver: leave it out");
        let Some(address) = address else {
            self.source.wrong(&table.place, "ip: this machine's address, or \"any\", is missing");
            return None;
        };
        let ip = match (address.value.as_str(), kind) {
            ("any", "udp6") => "::",
            ("any", _) => "0.0.0.0",
            (text, _) => text,
        };
        let ip = match ip.parse::<ScopedAddress>() {
            Ok(ip) => ip,
            Err(error) => {
                let reason = format!("ip: {error}; expected an address of this machine, or any");
                self.source.wrong(&address.place, reason);
                return None;
            }
        };
        if kind != "udp" && ip.address().is_ipv4() != (kind == "udp4") {
            self.source.wrong(&address.place, "ip: an address of the other family");
            return None;
        }
        Some(TransportSpec::Udp { ip, port })
    }

    fn name(&mut self, name: &str, table: &mut Table<'_, '_>) {
        for program in table.texts("prog") {
            let is_path = program.value.contains('/');
            let path = if is_path {
                text_of_path(self.folder.join(&program.value))
            } else {
                program.value
            };
            match find_program(&path) {
                Ok(path) => drop(self.found.programs.insert((name.to_owned(), path))),
                Err(reason) => self.source.wrong(&program.place, format!("prog: {reason}")),
            }
        }
        for layer in table.texts("reg") {
            let name = Placed { value: name.to_owned(), place: table.place.clone() };
            self.register(&name, &layer);
        }
        table.refuse("args", "programs are not started by irmd: start them as services");
        for key in ["client_crt_file", "client_key_file"] {
            table.refuse(key, "clients have the machine's own key: leave it out");
        }
        if let Some(lb) = table.text("lb")
            && !["spill", "spillover", "round-robin"].contains(&lb.value.as_str())
        {
            self.source.wrong(&lb.place, "lb: spill or round-robin is known");
        }
        let inline = [self.algorithms("senc", table), self.algorithms("cenc", table)];
        let resolved = self.policy(table).and_then(|(policy, files)| {
            for (key, file, inline) in
                [("senc", &files.server, &inline[0]), ("cenc", &files.client, &inline[1])]
            {
                if file.is_some() && inline.is_some() {
                    self.source.wrong(&table.place, format!("{key} and {key}path: one of them"));
                }
            }
            name_policy::resolve(policy, &files, self.folder)
                .map_err(|error| self.source.wrong(&table.place, error.to_string()))
                .ok()
        });
        if let Err(error) = name.parse::<Name>() {
            self.source.wrong(&table.place, format!("{}: {error}", name.escape_debug()));
        } else if let Some(mut policy) = resolved {
            let [senc, cenc] = inline.map(Option::flatten);
            policy.server = senc.or(policy.server);
            policy.client = cenc.or(policy.client);
            let line = self.source.line(&table.place);
            self.found.names.insert(name.to_owned(), PlacedPolicy { line, policy });
        }
    }

    /// The algorithms that a text names with spaces between them, as a file of algorithms
    /// has them in lines.
    fn algorithms(
        &mut self,
        key: &'static str,
        table: &mut Table<'_, '_>,
    ) -> Option<Option<Algorithms>> {
        let text = table.text(key)?;
        let lines = text.value.split_whitespace().collect::<Vec<_>>().join("\n");
        match enc_conf::parse(&lines) {
            Ok(algorithms) => Some(algorithms),
            Err(error) => {
                self.source.wrong(&text.place, format!("{key}: {}", error.reason()));
                None
            }
        }
    }

    /// `None` if it makes no sense.
    fn policy(&mut self, table: &mut Table<'_, '_>) -> Option<(NamePolicy, AlgorithmFiles)> {
        let mut sound = true;
        let mut file = |keys: &[&'static str]| {
            let mut found = keys.iter().filter_map(|key| table.text(key));
            let (found, second) = (found.next()?, found.next());
            if let Some(second) = second {
                let reason = format!("{}: one of them", keys.join(" and "));
                self.source.wrong(&second.place, reason);
            }
            let path = self.folder.join(found.value);
            if !path.exists() {
                let (key, path) = (keys[0], path.display());
                self.source.wrong(&found.place, format!("{key}: {path}: there is no such file"));
                sound = false;
            }
            Some(path)
        };
        let files = AlgorithmFiles {
            server: file(&["sencpath", "server_enc_file"]),
            client: file(&["cencpath", "client_enc_file"]),
        };
        let (clients, ca) = (file(&["clients"]), file(&["ca"]));
        let mut policy = NamePolicy {
            key: file(&["key", "server_key_file"]),
            certificate: file(&["cert", "server_crt_file"]),
            ..NamePolicy::default()
        };
        policy.native = table.flag("native");
        let auth = match table.text("auth") {
            None => None,
            Some(word) => match Auth::from_word(&word.value) {
                Some(auth) => Some(auth),
                None => {
                    self.source.wrong(&word.place, "auth: none, server or both is known");
                    return None;
                }
            },
        };
        match name_policy::authentication(auth, clients, ca) {
            Ok(authentication) => policy.authentication = authentication,
            Err(error) => {
                self.source.wrong(&table.place, error.to_string());
                return None;
            }
        }
        sound.then_some((policy, files))
    }

    fn register(&mut self, name: &Placed<String>, layer: &Placed<String>) {
        if let Err(error) = name.value.parse::<Name>() {
            self.source.wrong(&name.place, error.to_string());
            return;
        }
        self.layers.push(layer.clone());
        self.found.registrations.insert((name.value.clone(), layer.value.clone()));
    }

    /// A layer that no IPCP makes is a typing error.
    fn check_layers(&self) {
        let made: BTreeSet<_> =
            self.found.ipcps.values().filter_map(|ipcp| ipcp.layer.as_deref()).collect();
        for layer in &self.layers {
            if !made.contains(layer.value.as_str()) {
                let reason = format!("{}: no IPCP of this file makes that layer", layer.value);
                self.source.wrong(&layer.place, reason);
            }
        }
    }
}
