//! `irmd.conf`: the layers, names and bindings that a daemon begins with. TOML, with the
//! tables and keys of release 0.23 as far as this daemon can follow them, and some more.
//! All that is wrong in a file is told, each with its line. Not here: doing what the file
//! says (`irmd::configured`).

mod changes;
mod table;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ouroboros::{
    daemon::protocol::{Request, Security, TransportSpec},
    transport::ScopedAddress,
    wire::Name,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use toml::{Spanned, de::DeTable};

pub use self::table::Flaw;
use self::table::{Placed, Source, Table};
use crate::{
    enc_conf, find_program,
    grammar::{Auth, NameSecurity},
    name_policy,
};

/// Bytes of a file, at most.
const LARGEST: u64 = 1 << 20;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// IPCPs by name.
    pub ipcps: BTreeMap<String, Ipcp>,
    /// Names that are created, with their policies.
    pub names: BTreeMap<String, Policy>,
    /// Names, each with a layer that it is registered in.
    pub registrations: BTreeSet<(String, String)>,
    /// Names, each with the path of a program that is bound to it.
    pub programs: BTreeSet<(String, String)>,
}

/// An IPCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipcp {
    /// Its type, as `irm ipcp create` has it.
    pub kind: String,
    /// The layer that is made of it; without one it is created only.
    pub layer: Option<String>,
    /// What it is attached to.
    pub transport: TransportSpec,
}

impl Ipcp {
    /// One that is in `layer`. Its type is the one that its attachment says.
    #[must_use]
    pub fn new(layer: String, transport: TransportSpec) -> Self {
        let kind = match &transport {
            TransportSpec::EthDix { .. } => "eth-dix",
            TransportSpec::Udp { ip, .. } if ip.address().is_ipv4() => "udp4",
            TransportSpec::Udp { .. } => "udp6",
        };
        Self { kind: kind.to_owned(), layer: Some(layer), transport }
    }
}

/// The policy of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The line that its table begins in; 0: it is from no file.
    pub line: usize,
    /// A [`Request::CreateName`].
    pub request: Request,
}

/// A file cannot be used. Nothing of it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadFile {
    /// Environment: it cannot be read.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Others can change it, and so what this daemon does.
    #[error("{0}: others can write to it: chmod go-w it when you have looked what is in it")]
    Writable(PathBuf),
    /// Misuse: lines of it make no sense.
    #[error("{}", lines(.0, .1))]
    Flaws(PathBuf, Vec<Flaw>),
}

fn lines(path: &Path, flaws: &[Flaw]) -> String {
    let line = |flaw: &Flaw| format!("{}, line {}: {}", path.display(), flaw.line, flaw.reason);
    flaws.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipcps, names, registrations, programs } = self;
        write!(
            f,
            "IPCPs: {}, names: {}, registrations: {}, bindings: {}",
            ipcps.len(),
            names.len(),
            registrations.len(),
            programs.len()
        )
    }
}

impl Configuration {
    /// Reads the file at `path`. Paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// As [`BadFile`] says.
    pub fn read(path: &Path) -> Result<Self, BadFile> {
        let failed = |error| BadFile::Io(path.to_owned(), error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let owners = [0, geteuid().as_raw()];
        if metadata.mode() & 0o022 != 0 || !owners.contains(&metadata.uid()) {
            return Err(BadFile::Writable(path.to_owned()));
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
        let absolute = std::path::absolute(path).map_err(failed)?;
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, folder).map_err(|flaws| BadFile::Flaws(path.to_owned(), flaws))
    }

    /// Parses the text of a file that is in `folder`.
    ///
    /// # Errors
    ///
    /// All that is wrong, in the order of the lines.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Vec<Flaw>> {
        let source = Source::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let place = error.span().unwrap_or_default();
            source.wrong(&place, error.message().replace('\n', " "));
        }
        // What is left of such a text would only add to the confusion.
        if source.has_flaws() {
            return Err(source.into_flaws());
        }
        let mut parser =
            Parser { source: &source, folder, found: Self::default(), layers: Vec::new() };
        parser.root(root.get_ref());
        parser.finish();
        let found = parser.found;
        let flaws = source.into_flaws();
        if flaws.is_empty() { Ok(found) } else { Err(flaws) }
    }
}

const KINDS: &str = "name, udp, udp4, udp6 and eth-dix are known";
/// IPCPs of 0.23 that this daemon does not have.
const UNSUPPORTED: [&str; 4] = ["local", "eth-llc", "broadcast", "unicast"];
const HASHES: [&str; 4] = ["sha3-224", "sha3-256", "sha3-384", "sha3-512"];

struct Parser<'s, 't> {
    source: &'s Source<'t>,
    folder: &'s Path,
    found: Configuration,
    /// Layers that names are to be registered in, and where that is said.
    layers: Vec<Placed<String>>,
}

impl<'s> Parser<'s, '_> {
    fn root(&mut self, root: &'s DeTable<'s>) {
        for (kind, tables) in root {
            let (name, place) = (kind.get_ref().as_ref(), kind.span());
            if UNSUPPORTED.contains(&name) {
                self.source.wrong(&place, format!("{name}: there are no such IPCPs: {KINDS}"));
                continue;
            }
            if !["name", "udp", "udp4", "udp6", "eth-dix"].contains(&name) {
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
            let path = if is_path { self.absolute(&program.value) } else { program.value };
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
        let security = self.security(table);
        for (key, file, inline) in [
            ("senc", security.as_ref().and_then(|security| security.server.as_ref()), &inline[0]),
            ("cenc", security.as_ref().and_then(|security| security.client.as_ref()), &inline[1]),
        ] {
            if file.is_some() && inline.is_some() {
                self.source.wrong(&table.place, format!("{key} and {key}path: one of them"));
            }
        }
        let made = security.and_then(|security| {
            name_policy::request(name.to_owned(), security, self.folder)
                .map_err(|error| self.source.wrong(&table.place, error.to_string()))
                .ok()
        });
        if let Err(error) = name.parse::<Name>() {
            self.source.wrong(&table.place, format!("{}: {error}", name.escape_debug()));
        } else if let Some(mut request) = made {
            if let Request::CreateName { server, client, .. } = &mut request {
                let [senc, cenc] = inline;
                *server = senc.or(server.take());
                *client = cenc.or(client.take());
            }
            let line = self.source.line(&table.place);
            self.found.names.insert(name.to_owned(), Policy { line, request });
        }
    }

    /// The algorithms that a text names with spaces between them, as a file of algorithms
    /// has them in lines.
    fn algorithms(&mut self, key: &'static str, table: &mut Table<'_, '_>) -> Option<Security> {
        let text = table.text(key)?;
        let lines = text.value.split_whitespace().collect::<Vec<_>>().join("\n");
        match enc_conf::parse(&lines) {
            Ok(security) => Some(security),
            Err(error) => {
                self.source.wrong(&text.place, format!("{key}: {}", error.reason()));
                None
            }
        }
    }

    /// `None` if it makes no sense.
    fn security(&mut self, table: &mut Table<'_, '_>) -> Option<NameSecurity> {
        let mut sound = true;
        let mut file = |keys: &[&'static str]| {
            let mut found = keys.iter().filter_map(|key| table.text(key));
            let (found, second) = (found.next()?, found.next());
            if let Some(second) = second {
                let reason = format!("{}: one of them", keys.join(" and "));
                self.source.wrong(&second.place, reason);
            }
            let path = self.absolute(&found.value);
            if !Path::new(&path).exists() {
                let key = keys[0];
                self.source.wrong(&found.place, format!("{key}: {path}: there is no such file"));
                sound = false;
            }
            Some(path)
        };
        let mut security = NameSecurity {
            server: file(&["sencpath", "server_enc_file"]),
            client: file(&["cencpath", "client_enc_file"]),
            clients: file(&["clients"]),
            ca: file(&["ca"]),
            key: file(&["key", "server_key_file"]),
            certificate: file(&["cert", "server_crt_file"]),
            ..NameSecurity::default()
        };
        security.native = table.flag("native");
        if let Some(auth) = table.text("auth") {
            security.auth = match auth.value.as_str() {
                "none" => Some(Auth::None),
                "server" => Some(Auth::Server),
                "both" => Some(Auth::Both),
                _ => {
                    self.source.wrong(&auth.place, "auth: none, server or both is known");
                    return None;
                }
            };
        }
        if let Err(error) = security.check() {
            self.source.wrong(&table.place, error.to_string());
            return None;
        }
        sound.then_some(security)
    }

    fn register(&mut self, name: &Placed<String>, layer: &Placed<String>) {
        if let Err(error) = name.value.parse::<Name>() {
            self.source.wrong(&name.place, error.to_string());
            return;
        }
        self.layers.push(layer.clone());
        self.found.registrations.insert((name.value.clone(), layer.value.clone()));
    }

    fn absolute(&self, path: &str) -> String {
        self.folder.join(path).to_string_lossy().into_owned()
    }

    /// A layer that no IPCP makes is a typing error.
    fn finish(&mut self) {
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

#[cfg(test)]
mod tests {
    use ouroboros::daemon::security::Authentication;
    use ouroboros_testing::Folder;

    use super::*;

    fn parse(text: &str) -> Result<Configuration, Vec<Flaw>> {
        Configuration::parse(text, Path::new("/nowhere"))
    }

    #[test]
    fn a_file_of_0_23_s_tables_says_what_it_says_there() {
        let folder = Folder::new();
        folder.write("enc.conf", "cipher=chacha20-poly1305\n");
        folder.write("friends", "");
        let text = r#"
            [name."my.vpn"]            # with a dot
            prog = ["sh", "/bin/sh"]
            lb = "spill"
            server_enc_file = "enc.conf"
            native = true
            [name.closed]
            clients = "friends"
            [udp4.wan]
            bootstrap = "internet"
            ip = "10.1.0.2"
            port = 4000
            reg = ["my.vpn", "closed", "only.registered"]
            [udp6.wan6]
            bootstrap = "internet"
            ip = "any"
            [udp.later]
            ip = "fd01::2"
            [eth-dix.lan]
            bootstrap = "local"
            dev = "eth0"
            ethertype = 0xA001
            hash = "SHA3_512"
        "#;
        let found = Configuration::parse(text, folder.path()).expect("it makes sense");
        let udp = |ip: &str, port| TransportSpec::Udp { ip: ip.parse().unwrap(), port };
        let lan = TransportSpec::EthDix {
            device: "eth0".to_owned(),
            ethertype: Some(0xa001),
            hash: Some("sha3-512".to_owned()),
        };
        let ipcp = |kind: &str, layer: Option<&str>, transport| Ipcp {
            kind: kind.to_owned(),
            layer: layer.map(str::to_owned),
            transport,
        };
        let expected = [
            ("lan", ipcp("eth-dix", Some("local"), lan)),
            ("later", ipcp("udp", None, udp("fd01::2", None))),
            ("wan", ipcp("udp4", Some("internet"), udp("10.1.0.2", Some(4000)))),
            ("wan6", ipcp("udp6", Some("internet"), udp("::", None))),
        ];
        assert_eq!(found.ipcps, expected.map(|(name, ipcp)| (name.to_owned(), ipcp)).into());
        let registered: Vec<_> = found.registrations.iter().map(|(name, _)| name).collect();
        assert_eq!(registered, ["closed", "my.vpn", "only.registered"]);
        assert_eq!(found.programs.len(), 1, "one program by two of its names");
        let Request::CreateName { server, native: true, .. } = &found.names["my.vpn"].request
        else {
            panic!("{:?}", found.names);
        };
        assert!(matches!(server, Some(Security::Suite(names)) if names.cipher.is_some()));
        let friends = folder.path().join("friends").display().to_string();
        assert!(matches!(
            &found.names["closed"].request,
            Request::CreateName { authentication: Authentication::Keys(path), .. } if *path == friends
        ));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let text = r#"[udp4.wan]
bootstrap = "internet"
ip = "fd01::2"
prot = 3435
[udp.wan]
bootstrap = "internet"
port = 65536
ip = "10.1.0.2/24"
[eth-dix.lan]
bootstrap = 1
hash = "md5"
[name.a]
reg = ["intrenet"]
args = ["-x"]
auth = "maybe"
prog = ["/no/such/program"]
[name.b]
clients = "none"
ca = "none"
[unicast.n1]
[layers.x]
"#;
        let flaws = parse(text).expect_err("much is wrong");
        let found: Vec<_> = flaws.iter().map(|flaw| (flaw.line, flaw.reason.as_str())).collect();
        let begins = [
            (3, "ip: an address of the other family"),
            (4, "prot: not a key of [udp4.wan], which has bootstrap, reg, ip, port"),
            (7, "port: not a number from 1 to 65535"),
            (8, "ip: an address alone, without a prefix length"),
            (9, "dev: which interface is missing"),
            (10, "bootstrap: expected a text in quotes, not this integer"),
            (11, "hash: not one of sha3-224"),
            (13, "intrenet: no IPCP of this file makes that layer"),
            (14, "args: programs are not started by irmd"),
            (15, "auth: none, server or both is known"),
            (16, "prog: /no/such/program: no such program"),
            (17, "clients and ca: one of them"),
            (18, "clients: /nowhere/none: there is no such file"),
            (19, "ca: /nowhere/none: there is no such file"),
            (20, "unicast: there are no such IPCPs"),
            (21, "layers: name, udp, udp4, udp6 and eth-dix are known"),
        ];
        assert_eq!(found.len(), begins.len(), "{found:#?}");
        for ((line, reason), (expected, begin)) in found.into_iter().zip(begins) {
            assert!(line == expected && reason.starts_with(begin), "{line}: {reason}");
        }
    }

    #[test]
    fn a_text_that_is_no_toml_is_refused_at_its_line() {
        for (text, line) in [("[udp.a]\nip = any\n", 2), ("\n\n[udp.a\n", 3), ("a = 1\na = 2", 2)] {
            let flaws = parse(text).expect_err("no TOML");
            assert_eq!(flaws[0].line, line, "{flaws:?}");
        }
        assert_eq!(parse(""), Ok(Configuration::default()));
    }
}
