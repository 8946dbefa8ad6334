//! `irmd.conf`: the layers, names and bindings that a daemon begins with. TOML, with the
//! tables and keys of release 0.23 as far as this daemon can follow them, and some more.
//! All that is wrong in a file is told, each with its line. Not here: doing what the file
//! says (`irmd::configured`).

mod changes;
mod parser;
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

use ouroboros::daemon::{protocol::TransportSpec, security::NamePolicy};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use self::parser::Parser;
pub use self::{changes::Change, table::Flaw};
pub(crate) use self::{parser::TABLES, table::Source, write::quoted};

/// Bytes of a file, at most.
const LARGEST: u64 = 1 << 20;

/// The content of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// IPCPs by name.
    pub ipcps: BTreeMap<String, Ipcp>,
    /// Names that are created, with their policies.
    pub names: BTreeMap<String, PlacedPolicy>,
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
    /// The transport it is attached to.
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

/// The policy of a name, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedPolicy {
    /// The line that its table begins in; 0: it is from no file.
    pub line: usize,
    /// The policy, with absolute paths.
    pub policy: NamePolicy,
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

/// Reads a configuration file that nobody else can change. `parse` has its text and the
/// folder that it is in.
pub(crate) fn read<T>(
    path: &Path,
    parse: impl FnOnce(&str, &Path) -> Result<T, Vec<Flaw>>,
) -> Result<T, BadFile> {
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
    parse(&text, folder).map_err(|flaws| BadFile::Flaws(path.to_owned(), flaws))
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
        read(path, Self::parse)
    }

    /// Parses the text of a file that is in `folder`.
    ///
    /// # Errors
    ///
    /// All that is wrong, in the order of the lines.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Vec<Flaw>> {
        let source = Source::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        source.collect(errors);
        // What is left of such a text would only add to the confusion.
        if source.has_flaws() {
            return Err(source.into_flaws());
        }
        let found = Parser::new(&source, folder).parse(root.get_ref());
        let flaws = source.into_flaws();
        if flaws.is_empty() { Ok(found) } else { Err(flaws) }
    }
}

#[cfg(test)]
mod tests;
