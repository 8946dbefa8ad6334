//! Names, bindings and IPCPs of the daemon, and what each request does to them. Not here:
//! sockets (`serve`).

mod clients;
mod configuration;
mod policies;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use event_listener::{Event, EventListener};
use ouroboros::{
    Destruction, Irm, LayerError, RawFlow, ServerSecurity,
    crypto::SystemEntropy,
    daemon::{
        protocol::{IpcpEntry, KeyEntry, NameEntry, Request, Response, TransportSpec},
        security::NamePolicy,
    },
    sync::lock,
    transport::{OpenError, Udp},
    trust::{ClientEntry, KeyFile, TrustFolder},
    wire::Name,
};

use super::{
    Error, Flows,
    attachment::{Attachment, attaches, directory_hash},
    keys::Keys,
    policy::Stamp,
    process::Process,
    untaken::Untaken,
};
use crate::configuration::Configuration;

#[derive(Default)]
struct NameState {
    /// By `name create`, not only by what else was said of it.
    created: bool,
    /// Registrations under way: what is made for them stays meanwhile.
    registering: usize,
    policy: NamePolicy,
    /// Of the policy's files before they were read.
    stamps: Vec<Stamp>,
    /// The policy's security when its files were read.
    own: Option<ServerSecurity>,
    /// The lines of the policy's clients' file, and the file's stamp before it was read.
    clients: Option<(Stamp, Arc<[ClientEntry]>)>,
    /// What is wrong with that file, as the log has it.
    flaws: Vec<String>,
    /// The demands of processes beyond it, as long as they live.
    demands: BTreeMap<u32, (Process, ServerSecurity)>,
    programs: BTreeSet<String>,
    processes: BTreeMap<u32, Process>,
}

#[derive(Default)]
struct Tables {
    /// IPCPs that are not bootstrapped, with their types.
    created: BTreeMap<String, String>,
    /// How those that are were bootstrapped.
    transports: BTreeMap<String, TransportSpec>,
    names: BTreeMap<Name, NameState>,
}

/// The daemon's state.
#[derive(Default)]
pub struct State {
    /// The layers.
    pub irm: Irm,
    /// The flows that applications have.
    pub flows: Flows,
    /// The daemon's key and whom it knows; the user's, if there is none of its
    /// own.
    pub trust: Option<TrustFolder>,
    tables: Mutex<Tables>,
    keys: Keys,
    untaken: Untaken,
    /// Bindings, or what has not been taken.
    accepting_changed: Event,
    /// The configuration file when it was read last.
    from_file: Mutex<Configuration>,
}

type Outcome = Result<Response, Error>;

impl State {
    /// Does what `request` says, except for flows.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn handle(&self, request: Request) -> Outcome {
        match request {
            Request::CreateIpcp { name, kind } => self.create_ipcp(name, kind),
            Request::BootstrapIpcp { name, layer, transport } => {
                self.bootstrap(name, &layer, transport).await
            }
            Request::DestroyIpcp { name } => {
                let mut tables = self.tables();
                let created = tables.created.remove(&name).is_some();
                tables.transports.remove(&name);
                drop(tables);
                if created || self.irm.destroy(&name) == Destruction::Destroyed {
                    Ok(Response::Done)
                } else {
                    Err(LayerError::NoSuchIpcp(name).into())
                }
            }
            Request::ListFlows => Ok(Response::Flows(self.flows.list())),
            Request::ListIpcps => Ok(Response::Ipcps(self.ipcps())),
            Request::ShowConfiguration { from_file: true } => {
                Ok(Response::Configuration(lock(&self.from_file).to_lines()))
            }
            Request::ShowConfiguration { .. } => {
                Ok(Response::Configuration(self.configuration().to_lines()))
            }
            Request::ListClients { name, key } => {
                self.list_clients(name.as_deref(), key.as_deref())
            }
            Request::ServeClients { name } => self.serve_clients(&name).await,
            Request::RenameClient { name, client, to } => {
                self.rename_client(name.as_deref(), &client, &to)
            }
            Request::RevokeClient { name, client } => self.revoke_client(name.as_deref(), &client),
            Request::InviteClient { name, client, key, until, prefixes } => {
                self.invite_client(name.as_deref(), &client, &key, until, &prefixes)
            }
            Request::ChangeName { name, policy } => {
                let name: Name = name.parse()?;
                if !self.tables().names.contains_key(&name) {
                    return Err(LayerError::NoSuchName(name.to_string()).into());
                }
                self.put_policy(name, policy)
            }
            Request::CreateName { name, policy } => {
                let name: Name = name.parse()?;
                if self.tables().names.get(&name).is_some_and(|known| known.created) {
                    return Err(Error::NameExists(name.to_string()));
                }
                self.put_policy(name, policy)
            }
            Request::ShowKey { name } => {
                let (file, own) = self.key_file(name.as_deref())?;
                let key = self.keys.load(&file, own)?;
                let mut entry = KeyEntry::new(&file, &key);
                // One that is damaged is told of when it is to be used.
                let next = file.next().load().ok().flatten();
                entry.next = next.map(|next| next.public_key().fingerprint().to_string());
                Ok(Response::Key(entry))
            }
            Request::GenerateNextKey { name, force } => {
                let file = self.key_file(name.as_deref())?.0.next();
                let make = if force { KeyFile::replace } else { KeyFile::generate };
                let key = make(&file, &mut SystemEntropy)?;
                Ok(Response::Key(KeyEntry::new(&file, &key)))
            }
            Request::PromoteKey { name } => {
                let (file, _) = self.key_file(name.as_deref())?;
                let key = Arc::new(file.promote(&file.next())?);
                self.keys.replace(&file, key.clone());
                self.refresh();
                Ok(Response::Key(KeyEntry::new(&file, &key)))
            }
            Request::AnnounceNextKey { name, key, next } => {
                let (name, key) = (name.parse()?, key.parse()?);
                let next = next.map(|next| next.parse()).transpose()?;
                if self.trust()?.next_keys().announce(&name, key, next)? {
                    tracing::info!(%name, ?next, "a server has announced its next key");
                }
                Ok(Response::Done)
            }
            Request::GenerateKey { force } => {
                let file = self.trust()?.identity();
                let make = if force { KeyFile::replace } else { KeyFile::generate };
                let key = Arc::new(make(&file, &mut SystemEntropy)?);
                self.keys.replace(&file, key.clone());
                self.refresh();
                Ok(Response::Key(KeyEntry::new(&file, &key)))
            }
            Request::DestroyName { name } => self.destroy_name(&name).await,
            Request::Register { name, layer } => self.register(&name, &layer).await,
            Request::Unregister { name, layer } => {
                let known =
                    self.irm.layer(&layer).ok_or_else(|| LayerError::NoSuchLayer(layer.clone()))?;
                known.unregister(&name).await?;
                Ok(Response::Done)
            }
            Request::ListNames => Ok(Response::Names(self.names())),
            Request::Program { path, name, bind: true } => self.bind(&name, |state| {
                state.programs.insert(path);
            }),
            Request::Program { path, name, .. } => {
                self.unbind(&name, |state| state.programs.remove(&path))
            }
            Request::Process { pid, name, bind: true } => {
                let process = Process::with_id(pid)?;
                self.bind(&name, |state| {
                    state.processes.insert(pid, process);
                })
            }
            Request::Process { pid, name, .. } => {
                self.unbind(&name, |state| state.processes.remove(&pid).is_some())
            }
            _ => Err(Error::UnknownRequest),
        }
    }

    /// The file of a name's key, and whether that is the daemon's own.
    fn key_file(&self, name: Option<&str>) -> Result<(KeyFile, bool), Error> {
        let of_name = match name {
            Some(name) => {
                let tables = self.tables();
                let state = tables.names.get(&name.parse()?);
                let state = state.ok_or_else(|| LayerError::NoSuchName(name.to_owned()))?;
                state.policy.key.clone()
            }
            None => None,
        };
        match of_name {
            Some(path) => Ok((KeyFile::at(path), false)),
            None => Ok((self.trust()?.identity(), true)),
        }
    }

    fn create_ipcp(&self, name: String, kind: String) -> Outcome {
        if self.ipcps().iter().any(|ipcp| ipcp.name == name) {
            return Err(LayerError::IpcpExists(name).into());
        }
        self.tables().created.insert(name, kind);
        Ok(Response::Done)
    }

    async fn bootstrap(&self, name: String, layer: &str, transport: TransportSpec) -> Outcome {
        if self.ipcps().iter().any(|ipcp| ipcp.name == name && !ipcp.layer.is_empty()) {
            return Err(Error::Bootstrapped(name));
        }
        if let TransportSpec::EthDix { hash: Some(hash), .. } = &transport
            && directory_hash(hash).is_none()
        {
            return Err(Error::DirectoryHash(hash.clone()));
        }
        let created = self.tables().created.get(&name).cloned();
        if let Some(kind) = created.filter(|kind| !attaches(kind, &transport)) {
            return Err(Error::WrongType(name, kind));
        }
        let made = self.irm.bootstrap_named(&name, layer, Attachment(transport.clone())).await;
        made.map_err(|error| match &error {
            LayerError::Open(OpenError::AddressInUse(address)) => match self.ipcp_at(*address) {
                Some(ipcp) => Error::OwnAddress(*address, ipcp),
                None => error.into(),
            },
            _ => error.into(),
        })?;
        let mut tables = self.tables();
        tables.created.remove(&name);
        tables.transports.insert(name, transport);
        Ok(Response::Done)
    }

    /// The IPCP that keeps others from an address.
    fn ipcp_at(&self, address: SocketAddr) -> Option<String> {
        let has = |transport: &TransportSpec| match transport {
            TransportSpec::Udp { ip, port } => {
                let (ip, any) = (ip.address(), address.ip().is_unspecified());
                port.unwrap_or(Udp::PORT) == address.port()
                    && (any || ip.is_unspecified() || ip == address.ip())
            }
            TransportSpec::EthDix { .. } => false,
        };
        let tables = self.tables();
        tables.transports.iter().find(|(_, own)| has(own)).map(|(name, _)| name.clone())
    }

    fn ipcps(&self) -> Vec<IpcpEntry> {
        let tables = self.tables();
        let mut entries: Vec<_> = tables
            .created
            .iter()
            .map(|(name, kind)| IpcpEntry {
                name: name.clone(),
                layer: String::new(),
                attachment: format!("{kind}, not bootstrapped"),
                transport: None,
            })
            .collect();
        for layer in self.irm.layers() {
            entries.extend(layer.ipcps().iter().map(|ipcp| IpcpEntry {
                name: ipcp.name().to_owned(),
                layer: layer.name().to_owned(),
                attachment: ipcp.description(),
                transport: tables.transports.get(ipcp.name()).cloned(),
            }));
        }
        entries
    }

    /// Returns `true` if there is such an IPCP.
    pub(super) fn has_ipcp(&self, name: &str, layer: Option<&str>, over: &TransportSpec) -> bool {
        self.ipcps().iter().any(|ipcp| {
            let same = ipcp.transport.as_ref().map_or(layer.is_none(), |known| known == over);
            ipcp.name == name && ipcp.layer == layer.unwrap_or_default() && same
        })
    }

    async fn register(&self, name: &str, layer: &str) -> Outcome {
        let known =
            self.irm.layer(layer).ok_or_else(|| LayerError::NoSuchLayer(layer.to_owned()))?;
        let parsed: Name = name.parse()?;
        self.tables().names.entry(parsed.clone()).or_default().registering += 1;
        // Its key, before anybody can ask for it.
        self.refresh();
        let registered = known.register(name).await;
        if let Some(state) = self.tables().names.get_mut(&parsed) {
            state.registering = state.registering.saturating_sub(1);
        }
        registered?;
        Ok(Response::Done)
    }

    /// Returns if no request holds the tables for good.
    pub fn check(&self) {
        drop(self.tables());
    }

    /// Says in the log what there is.
    pub fn log(&self) {
        let (ipcps, names, flows) = (self.ipcps().len(), self.names().len(), self.flows.list());
        let relayed = flows.iter().filter(|flow| flow.relayed).count();
        tracing::info!(ipcps, names, flows = flows.len(), relayed, "irmd serves");
    }

    async fn destroy_name(&self, name: &str) -> Outcome {
        let parsed: Name = name.parse()?;
        if self.tables().names.remove(&parsed).is_none() {
            return Err(LayerError::NoSuchName(name.to_owned()).into());
        }
        for layer in self.irm.layers() {
            // It may be registered in some layers only.
            let _ = layer.unregister(name).await;
        }
        let _ = self.irm.set_policy(parsed, ServerSecurity::default());
        self.accepting_changed.notify(usize::MAX);
        Ok(Response::Done)
    }

    fn names(&self) -> Vec<NameEntry> {
        let layers = self.irm.layers();
        let registered = |name: &Name| -> Vec<String> {
            let serving = layers.iter().filter(|layer| layer.names().contains(name));
            serving.map(|layer| layer.name().to_owned()).collect()
        };
        let mut tables = self.tables();
        // A name is there because it was created, or for what was done with it.
        tables.names.retain(|name, state| {
            let bound = !state.programs.is_empty() || !state.processes.is_empty();
            let demanded = !state.demands.is_empty();
            let registering = state.registering > 0;
            state.created || bound || demanded || registering || !registered(name).is_empty()
        });
        let entry = |(name, state): (&Name, &NameState)| NameEntry {
            name: name.to_string(),
            layers: registered(name),
            programs: state.programs.iter().cloned().collect(),
            processes: state.processes.keys().copied().collect(),
            encryption: state.policy.to_string(),
        };
        tables.names.iter().map(entry).collect()
    }

    fn bind(&self, name: &str, bind: impl FnOnce(&mut NameState)) -> Outcome {
        bind(self.tables().names.entry(name.parse()?).or_default());
        self.accepting_changed.notify(usize::MAX);
        Ok(Response::Done)
    }

    fn unbind(&self, name: &str, unbind: impl FnOnce(&mut NameState) -> bool) -> Outcome {
        let parsed: Name = name.parse()?;
        let found = self.tables().names.get_mut(&parsed).is_some_and(unbind);
        self.accepting_changed.notify(usize::MAX);
        if found { Ok(Response::Done) } else { Err(LayerError::NotBound(name.to_owned()).into()) }
    }

    /// The names bound to process `pid` or to its program, `executable`.
    pub fn bound(&self, pid: u32, executable: Option<&str>) -> Vec<Name> {
        let tables = self.tables();
        let bound = tables.names.iter().filter(|(_, state)| {
            state.processes.contains_key(&pid)
                || executable.is_some_and(|path| state.programs.contains(path))
        });
        bound.map(|(name, _)| name.clone()).collect()
    }

    /// Tells of the next change to what a program that waits may have.
    pub fn accepting_changed(&self) -> EventListener {
        self.accepting_changed.listen()
    }

    /// Takes a flow back that a program was offered and did not take.
    pub(super) fn give_back(&self, flow: RawFlow) {
        self.untaken.put(flow);
        self.accepting_changed.notify(usize::MAX);
    }

    /// The first flow that was given back and is to one of `names`.
    pub(super) fn take_back(&self, names: &[Name]) -> Option<RawFlow> {
        self.untaken.take(names)
    }

    /// The tables, without the bindings of processes that have ended.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        let mut tables = lock(&self.tables);
        for state in tables.names.values_mut() {
            state.processes.retain(|_, process| process.lives());
        }
        tables
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("irm", &self.irm).finish_non_exhaustive()
    }
}
