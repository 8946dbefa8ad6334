//! Names, bindings and IPCPs of the daemon, and what each request does to them.
//! No sockets.

mod clients;
mod configuration;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Error, Flows,
    attachment::{Attachment, attaches, directory_hash},
    keys::Keys,
    policy::{self, Allocation, Policy, Stamp},
    process::Process,
    untaken::Untaken,
};
use crate::configuration::Configuration;
use event_listener::{Event, EventListener};
use ouroboros::{
    Destruction, FlowSpec, Irm, LayerError, RawFlow, ServerSecurity, Trust,
    crypto::{Algorithms, SystemEntropy},
    daemon::{
        protocol::{
            IpcpEntry, KeyEntry, NameEntry, Request, Response, Security, TransportSpec,
            path_from_text,
        },
        security::{FlowSecurity, NameDemands},
    },
    trust::{KeyFile, Pin, TrustError, TrustFolder},
    wire::Name,
};

#[derive(Default)]
struct NameState {
    /// By `name create`, not only by what else was said of it.
    created: bool,
    /// Registrations under way: what is made for them stays meanwhile.
    registering: usize,
    policy: Policy,
    /// Of the policy's files before they were read.
    stamps: Vec<Stamp>,
    /// What the policy came to when its files were read.
    own: Option<ServerSecurity>,
    /// What processes demand beyond it, as long as they live.
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
    /// What the configuration file said when it was read last.
    from_file: Mutex<Configuration>,
}

fn algorithms(security: Option<Security>) -> Option<Algorithms> {
    match security {
        Some(Security::Suite(named)) => Some(named),
        _ => None,
    }
}

/// The name and the policy of a [`Request::CreateName`].
fn named_policy(request: Request) -> Result<(Name, Policy), Error> {
    let Request::CreateName { name, server, client, authentication, native, key, certificate } =
        request
    else {
        return Err(Error::UnknownRequest);
    };
    let (server, client) = (algorithms(server), algorithms(client));
    let (key, certificate) =
        (key.as_deref().map(path_from_text), certificate.as_deref().map(path_from_text));
    let policy = Policy { server, client, authentication, native, key, certificate };
    Ok((name.parse()?, policy))
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
            Request::InviteClient { name, client, key, until } => {
                self.invite_client(name.as_deref(), &client, &key, until)
            }
            Request::ChangeName { policy } => {
                let (name, policy) = named_policy(*policy)?;
                if !self.tables().names.contains_key(&name) {
                    return Err(LayerError::NoSuchName(name.to_string()).into());
                }
                self.put_policy(name, policy)
            }
            Request::CreateName { .. } => {
                let (name, policy) = named_policy(request)?;
                if self.tables().names.get(&name).is_some_and(|known| known.created) {
                    return Err(Error::NameExists(name.to_string()));
                }
                self.put_policy(name, policy)
            }
            Request::ShowKey => {
                let file = self.trust()?.identity();
                let key = self.keys.load(&file, true)?;
                Ok(Response::Key(KeyEntry::new(&file, &key)))
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
        self.irm.bootstrap_named(&name, layer, Attachment(transport.clone())).await?;
        let mut tables = self.tables();
        tables.created.remove(&name);
        tables.transports.insert(name, transport);
        Ok(Response::Done)
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

    /// Whether the policy that a [`Request::CreateName`] says can be had.
    ///
    /// # Errors
    ///
    /// It cannot, as [`Error`] says.
    pub(super) fn check_policy(&self, request: &Request) -> Result<(), Error> {
        let (name, policy) = named_policy(request.clone())?;
        policy.accepted(&name, (&self.trust()?, &self.keys), None).map(drop)
    }

    /// Creates the name of a [`Request::CreateName`], or changes its policy if it is there:
    /// its registrations and bindings stay, and flows that do not fit any more end.
    ///
    /// # Errors
    ///
    /// The policy cannot be had; then nothing has changed.
    pub(super) fn change_policy(&self, request: &Request) -> Outcome {
        let (name, policy) = named_policy(request.clone())?;
        self.put_policy(name, policy)
    }

    fn put_policy(&self, name: Name, policy: Policy) -> Outcome {
        let folder = self.trust()?;
        let stamps = policy.stamps(&folder);
        let accepted = policy.accepted(&name, (&folder, &self.keys), None)?;
        let mut tables = self.tables();
        let known = tables.names.entry(name.clone()).or_default();
        (known.created, known.policy, known.stamps) = (true, policy, stamps);
        known.own = Some(accepted);
        self.apply(&name, known);
        Ok(Response::Done)
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

    /// Reads the files of trust that have changed. Flows that were accepted and are
    /// not allowed any more end.
    pub fn refresh(&self) {
        self.untaken.close_expired();
        let Ok(folder) = self.trust() else { return };
        let mut tables = self.tables();
        for (name, state) in &mut tables.names {
            let had = state.demands.len();
            state.demands.retain(|_, (process, _)| process.lives());
            // Before the files are read: what changes meanwhile is read again.
            let stamps = state.policy.stamps(&folder);
            if stamps != state.stamps {
                let (place, last) = ((&folder, &self.keys), state.own.as_ref());
                let accepted = state.policy.accepted(name, place, last);
                state.own = Some(accepted.unwrap_or_else(|reason| {
                    tracing::error!(%name, %reason, "a file of trust cannot be used");
                    state.own.take().unwrap_or_else(|| state.policy.without_files())
                }));
                state.stamps = if Policy::are_fresh(&stamps) { Vec::new() } else { stamps };
            } else if state.demands.len() == had {
                // Certificates age, though no file changes.
                let own = state.own.as_ref();
                if let Some(own) = own.filter(|own| matches!(own.clients, Trust::Authorities(_))) {
                    self.flows.revoke_unless(name, own);
                }
                continue;
            }
            self.apply(name, state);
        }
    }

    /// Reads all files of trust, changed or not.
    pub fn reload(&self) {
        for state in self.tables().names.values_mut() {
            state.stamps.clear();
        }
        self.refresh();
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

    /// Demands of flows to a name what process `pid` says, beyond the name's policy.
    ///
    /// # Errors
    ///
    /// It makes no sense, or cannot be had together with the policy.
    pub(super) fn demand(&self, pid: u32, demands: &[NameDemands]) -> Result<(), Error> {
        for NameDemands { name, security } in demands {
            let mut tables = self.tables();
            let state = tables.names.entry(name.clone()).or_default();
            let own = state.own.clone().unwrap_or_else(|| state.policy.without_files());
            policy::both(name, &own, security)?;
            let same = state
                .demands
                .get(&pid)
                .is_some_and(|(process, known)| process.lives() && known == security);
            if !same {
                state.demands.insert(pid, (Process::with_id(pid)?, security.clone()));
                self.apply(name, state);
            }
        }
        Ok(())
    }

    /// Has the name's policy, and what is demanded beyond it, hold for what is
    /// accepted and for the flows that there are.
    fn apply(&self, name: &Name, state: &NameState) {
        let own = state.own.clone().unwrap_or_else(|| state.policy.without_files());
        let all = state
            .demands
            .values()
            .try_fold(own.clone(), |all, (_, demanded)| policy::both(name, &all, demanded));
        let security = all.unwrap_or_else(|reason| {
            tracing::error!(%reason, "nobody gets a flow");
            own.clients(Trust::Keys(Vec::new()))
        });
        // It hosts the layers itself, so that this cannot fail. First, so that a flow which
        // is admitted meanwhile meets the one or the other.
        let _ = self.irm.set_policy(name.clone(), security.clone());
        self.flows.revoke_unless(name, &security);
    }

    fn trust(&self) -> Result<TrustFolder, Error> {
        Ok(self.trust.clone().map_or_else(TrustFolder::of_user, Ok)?)
    }

    /// Allocates a flow to `name`, as the application says and as the name has
    /// it here. A server that is met for the first time is known from then on.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn allocate(
        &self,
        name: &Name,
        spec: FlowSpec,
        asked: Option<&FlowSecurity>,
    ) -> Result<RawFlow, Error> {
        let folder = self.trust()?;
        let policy = self.tables().names.get(name).map(|state| state.policy.clone());
        let Allocation { spec, remembered } =
            policy.unwrap_or_default().allocated(name, spec, asked, (&folder, &self.keys))?;
        let known = folder.known_names();
        let mut flow = self.irm.allocate_raw(name, spec).await.map_err(|error| {
            let changed = error.untrusted_key().filter(|_| remembered);
            let changed = changed.and_then(|shown| known.check(name, shown).err());
            match changed {
                Some(changed) => error.advise(changed.to_string()),
                None => error,
            }
        })?;
        if let Some(peer) = flow.info.identity.as_ref().filter(|_| remembered) {
            let met = known.verify_or_pin(name, peer.fingerprint);
            match met {
                Ok(met) => flow.info.first_use = met == Pin::New,
                // First use is allowed, or there would be no flow: this one is as good
                // as one that is written down.
                Err(error @ TrustError::Io(..)) => {
                    tracing::error!(
                        %name, %error, key = %peer.fingerprint,
                        "the server cannot be remembered: whoever answers next is taken for it, \
                         unless its key is given (ovpn --server-key)"
                    );
                    (flow.info.first_use, flow.info.remembered) = (true, false);
                }
                Err(error) => return Err(Error::Remember(name.to_string(), error)),
            }
        }
        Ok(flow)
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
            encryption: state.policy.describe(),
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("irm", &self.irm).finish_non_exhaustive()
    }
}
