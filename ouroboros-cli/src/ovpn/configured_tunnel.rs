//! The tunnel of a file that a process runs: which that is, and what of it has changed when
//! the file is read again. Not here: files (`tunnels`).

use std::path::{Path, PathBuf};

use super::{Changing, Tunnels, arguments::Arguments};
use crate::configuration::BadFile;

/// Options that a server follows while it runs.
const BY_SERVERS: [&str; 6] = ["crypt", "native", "identify", "route", "dns", "search"];
/// Options that a client follows while it runs.
const BY_CLIENTS: [&str; 2] = ["accept-routes", "accept-dns"];

/// A tunnel that a file has.
pub struct ConfiguredTunnel {
    file: PathBuf,
    tunnel: String,
    /// As it is followed.
    pub arguments: Arguments,
}

/// A file has no tunnel that could be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoTunnel {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] BadFile),
    /// Misuse: it has no such tunnel.
    #[error("{0}: {1}")]
    Missing(PathBuf, String),
}

impl ConfiguredTunnel {
    /// Reads `file` and takes the tunnel `name`; the only one if there is no name. What is
    /// wrong with other tunnels is said.
    ///
    /// # Errors
    ///
    /// As [`NoTunnel`] says.
    pub fn read(file: &Path, name: Option<&str>) -> Result<Self, NoTunnel> {
        let mut tunnels = Tunnels::read(file)?;
        let flaws = std::mem::take(&mut tunnels.flaws);
        let flawed = (!flaws.is_empty()).then(|| BadFile::Flaws(file.to_owned(), flaws));
        match (tunnels.take(name), flawed) {
            (Ok((tunnel, arguments)), flawed) => {
                if let Some(flaws) = flawed {
                    eprintln!("ovpn: {flaws}");
                }
                Ok(Self { file: file.to_owned(), tunnel, arguments })
            }
            (Err(_), Some(flaws)) => Err(flaws.into()),
            (Err(reason), None) => Err(NoTunnel::Missing(file.to_owned(), reason)),
        }
    }

    /// Reads the file again. Says which changes have to wait until the tunnel is started
    /// again.
    ///
    /// # Errors
    ///
    /// As [`NoTunnel`] says. Nothing is changed then.
    pub fn reload(&mut self) -> Result<Changing, NoTunnel> {
        let now = Self::read(&self.file, Some(&self.tunnel))?;
        let (before, after) = (self.arguments.options(), now.arguments.options());
        let followed = match self.arguments.name {
            Some(_) => &BY_CLIENTS[..],
            None => &BY_SERVERS[..],
        };
        let differs = |(option, values): &&(&'static str, Vec<String>),
                       others: &[(&'static str, Vec<String>)]| {
            !followed.contains(option)
                && !others.iter().any(|(other, same)| other == option && same == values)
        };
        let gone = before.iter().filter(|entry| differs(entry, &after));
        let come = after.iter().filter(|entry| differs(entry, &before));
        let mut later: Vec<_> = gone.chain(come).map(|(option, _)| *option).collect();
        later.sort_unstable();
        later.dedup();
        if !later.is_empty() {
            println!("Changed when the tunnel is started again: {}.", later.join(", "));
        }
        Ok(now.arguments.changing())
    }
}
