//! Has the daemon be as its configuration file says: at the start, and when the file has
//! been changed, where only what has changed is touched. What cannot be had yet, such as a
//! layer on an address that this machine does not have, is tried again. Not here: what a
//! file may say (`configuration`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use ouroboros::{
    LayerError,
    daemon::protocol::{Request, TransportSpec},
};

use super::{Error, State};
use crate::configuration::{BadFile, Change, Configuration, Flaw, Ipcp, PlacedPolicy};

/// A daemon and its configuration file.
#[derive(Debug)]
pub struct Configured {
    state: Arc<State>,
    path: PathBuf,
    in_force: Configuration,
    pending: Pending,
}

/// The parts of the file that cannot be had yet.
#[derive(Debug, Default)]
struct Pending {
    ipcps: BTreeMap<String, Ipcp>,
    registrations: BTreeSet<(String, String)>,
    /// Why, as the log has it.
    said: BTreeMap<String, String>,
}

impl Pending {
    /// Logs why `what` cannot be had, if that is new.
    fn say(&mut self, what: String, reason: String) {
        if self.said.get(&what) != Some(&reason) {
            tracing::warn!("{what} has to wait: {reason}");
            self.said.insert(what, reason);
        }
    }
}

impl Configured {
    /// The daemon of `state`, with nothing of the file at `path` yet.
    #[must_use]
    pub fn new(state: Arc<State>, path: PathBuf) -> Self {
        Self { state, path, in_force: Configuration::default(), pending: Pending::default() }
    }

    /// Reads the file, and has the daemon follow what has changed since it was read last.
    /// What was done by `irm` stays, unless the file says otherwise.
    ///
    /// # Errors
    ///
    /// The file makes no sense. Then nothing is changed.
    pub async fn load(&mut self) -> Result<(), BadFile> {
        let wanted = Configuration::read(&self.path)?;
        let mut flaws = Vec::new();
        for (name, PlacedPolicy { line, policy }) in &wanted.names {
            let checked = name.parse().map_err(Error::from);
            if let Err(error) = checked.and_then(|name| self.state.check_policy(&name, policy)) {
                flaws.push(Flaw { line: *line, reason: error.to_string() });
            }
        }
        if !flaws.is_empty() {
            flaws.sort();
            return Err(BadFile::Flaws(self.path.clone(), flaws));
        }
        let had = std::mem::replace(&mut self.in_force, wanted.clone());
        self.state.set_from_file(wanted.clone());
        for change in had.changes(&wanted) {
            self.follow(change).await;
        }
        self.attempt().await;
        tracing::info!(file = %self.path.display(), "configured: {wanted}");
        Ok(())
    }

    /// Returns `true` if something cannot be had yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.pending.ipcps.is_empty() || !self.pending.registrations.is_empty()
    }

    /// Tries again what could not be had.
    pub async fn attempt(&mut self) {
        for (name, ipcp) in self.pending.ipcps.clone() {
            match self.make(&name, &ipcp).await {
                Ok(()) => drop(self.pending.ipcps.remove(&name)),
                Err(error) => self.pending.say(format!("IPCP {name}"), error.to_string()),
            }
        }
        for (name, layer) in self.pending.registrations.clone() {
            let request = Request::Register { name: name.clone(), layer: layer.clone() };
            match self.state.handle(request).await {
                Ok(_) | Err(Error::Layer(LayerError::AlreadyRegistered(..))) => {
                    self.pending.registrations.remove(&(name, layer));
                }
                // That its IPCP has to wait is said.
                Err(Error::Layer(LayerError::NoSuchLayer(_))) => {}
                Err(error) => {
                    self.pending.say(format!("{name} in layer {layer}"), error.to_string());
                }
            }
        }
        if !self.is_waiting() {
            self.pending.said.clear();
        }
    }

    async fn make(&self, name: &str, ipcp: &Ipcp) -> Result<(), Error> {
        let (name, kind) = (name.to_owned(), ipcp.kind.clone());
        // By `irm`, or by an earlier version of the file.
        if self.state.has_ipcp(&name, ipcp.layer.as_deref(), &ipcp.transport) {
            return Ok(());
        }
        let request = match ipcp.layer.clone() {
            Some(layer) => {
                let transport: TransportSpec = ipcp.transport.clone();
                Request::BootstrapIpcp { name, layer, transport }
            }
            None => Request::CreateIpcp { name, kind },
        };
        self.state.handle(request).await.map(drop)
    }

    /// Somebody may have ended it by hand.
    async fn end(&self, request: Request) {
        if let Err(error) = self.state.handle(request).await {
            tracing::debug!(%error, "gone before the configuration had it go");
        }
    }

    /// Makes the change; what may have to wait is attempted later.
    async fn follow(&mut self, change: Change) {
        match change {
            Change::Unbind(name, path) => {
                self.end(Request::Program { path, name, bind: false }).await;
            }
            Change::Unregister(name, layer) => {
                if !self.pending.registrations.remove(&(name.clone(), layer.clone())) {
                    self.end(Request::Unregister { name, layer }).await;
                }
            }
            Change::DestroyName(name) => self.end(Request::DestroyName { name }).await,
            Change::DestroyIpcp(name) => {
                if self.pending.ipcps.remove(&name).is_none() {
                    self.end(Request::DestroyIpcp { name }).await;
                }
            }
            Change::CreateIpcp(name, ipcp) => drop(self.pending.ipcps.insert(name, ipcp)),
            Change::SetPolicy(name, policy) => {
                let parsed = name.parse().map_err(Error::from);
                if let Err(error) = parsed.and_then(|name| self.state.put_policy(name, policy)) {
                    // It was right a moment ago.
                    tracing::error!(%name, %error, "the name's policy cannot be had");
                }
            }
            Change::Register(name, layer) => {
                self.pending.registrations.insert((name, layer));
            }
            Change::Bind(name, path) => {
                let request = Request::Program { path, name, bind: true };
                if let Err(error) = self.state.handle(request).await {
                    tracing::error!(%error, "a program cannot be bound");
                }
            }
        }
    }
}
