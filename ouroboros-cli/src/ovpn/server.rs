//! A server: one device for all its clients.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_std::task;
use futures_lite::future;
use ouroboros::{
    AllocateError, ClientEvent, ClientId, ClientInfo, Flow, Hub, HubBuilder, Irm, LaneAcceptor,
    LayerError, ServerSecurity,
    crypto::identity::Fingerprint,
    daemon::DaemonError,
    proto::hub::{Configuration, IpNet},
    sync::lock,
    wire::Name,
};

use super::{
    Changing, Outcome, Settings, announce, announce_own_key,
    clients::{assigned, prefixes},
    leases::Leases,
    masquerade::{self, Masquerade},
    name_key,
    network::{self, Grant, Network, Unsaved},
    networks, next_key,
    subject::{Subject, tell},
};
use crate::{now, service};

/// How often to look whether the daemon is back.
const RETRY: Duration = Duration::from_millis(500);
/// A client that has an address which another one asks for, and does not say by then
/// that it is there, is not there any more.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often to see which clients have been heard, to remember when addresses were used, and
/// to print statistics, while there is any of that to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often to ask which keys names are to have next.
const NEXT_KEYS: Duration = Duration::from_secs(5);
/// Events that are handled before what they have changed is remembered and told, at most.
const BATCH: usize = 256;

/// Serves all clients with one device, for ever. `name`: the name that it is to serve, if that
/// is known; otherwise it serves each that this program is bound to.
///
/// # Errors
///
/// The daemon cannot be asked, or the device cannot be made.
pub async fn server(irm: &Irm, name: Option<&Name>, settings: &Settings) -> Outcome {
    // What is missing shows before there is a client: the right to make devices. The
    // daemon is waited for.
    match announce_own_key(name).await {
        Ok(()) => {}
        Err(LayerError::Daemon(DaemonError::Refused(reason))) => {
            let subject = name.map(Subject::name).unwrap_or_default();
            tell!(subject, "Warning: no client can know it: {reason}.");
        }
        Err(error) => return Err(error.into()),
    }
    let device = settings.tunnel().queues(settings.lanes);
    let hub = HubBuilder::new(device).forward_between_clients(settings.forward).build()?;
    let networks = networks(&settings.addresses);
    let _masquerade = match settings.masquerade {
        true => {
            for missing in masquerade::not_forwarded(&networks) {
                let subject = Subject::default().with("device", hub.interface_name());
                tell!(subject, "Warning: {missing}.");
            }
            Some(Masquerade::begin(hub.interface_name(), &networks)?)
        }
        false => None,
    };
    let hub = Arc::new(hub);
    let _observing = settings.observed.server(&hub, networks.clone());
    let demands = Arc::new(Mutex::new(settings.changing.demands.clone()));
    let mut server = Server {
        network: Network::new(networks),
        settings,
        name,
        configuration: settings.changing.configuration.clone(),
        clients: HashMap::new(),
        next_keys: BTreeMap::new(),
        demands: demands.clone(),
        hub,
        prefixes: HashMap::new(),
        grants: BTreeMap::new(),
        is_address_free: false,
        routes: BTreeSet::new(),
        present: Arc::default(),
        leases: settings.leases.as_deref().map(Leases::at),
        is_save_failing: false,
        last_tick: Instant::now(),
        keys_asked: Instant::now(),
    };
    if let Some(leases) = &server.leases {
        let remembered = leases.read().map_err(|error| {
            let path = settings.leases.as_deref().unwrap_or("".as_ref());
            format!("{}: {error}: mend or remove the file", path.display())
        })?;
        server.network.restore(remembered);
    }
    service::status(&format!("{} serves.", settings.describe(server.hub.interface_name())));
    let (hub, present) = (server.hub.clone(), server.present.clone());
    future::or(accept_all(irm, &demands, hub, present), server.attend()).await
}

/// Takes every client in that meets the demands. What a flow does before it is ready holds up nobody
/// else.
async fn accept_all(
    irm: &Irm,
    demands: &Mutex<ServerSecurity>,
    hub: Arc<Hub>,
    present: Arc<AtomicUsize>,
) -> Outcome {
    let mut acceptor = LaneAcceptor::new(irm, None);
    loop {
        println!("Waiting for a flow.");
        let flows = accept(&mut acceptor).await?;
        let info = flows[0].info();
        let subject = Subject::client(info);
        let demands = lock(demands).clone();
        if !flows.iter().all(|flow| flow.info().meets(&demands)) {
            let peer = info.peer;
            tell!(
                subject,
                "A flow with {peer} is closed: it is less than --crypt, --native or --identify demand."
            );
            continue;
        }
        announce(info, &subject);
        let (hub, present) = (hub.clone(), present.clone());
        task::spawn(async move {
            // One that is never ready is none, and takes nothing from the only client.
            for flow in &flows {
                if let Err(error) = flow.ready().await {
                    tell!(subject, "The flow has ended: {error}.");
                    return;
                }
            }
            // Nothing of the only client is lost before it is known what it has.
            let alone = present.fetch_add(1, Relaxed) == 0;
            let prefixes = if alone { network::everything() } else { Vec::new() };
            if let Err(error) = hub.join(flows, &prefixes).await {
                tell!(subject, "The flow has ended: {error}.");
                present.fetch_sub(1, Relaxed);
            }
        });
    }
}

/// The next client's flows, from the next daemon if this one has ended: that there is one
/// has been seen.
async fn accept(acceptor: &mut LaneAcceptor) -> Result<Vec<Flow>, AllocateError> {
    loop {
        match acceptor.accept().await {
            Err(AllocateError::Daemon(DaemonError::NotRunning(_))) => task::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

/// A step of a server.
enum Step {
    /// `None`: the device has failed.
    Event(Option<Box<ClientEvent>>),
    Change(Box<Changing>),
    Tick,
}

struct Server<'a> {
    settings: &'a Settings,
    name: Option<&'a Name>,
    /// The configuration sent to every client, without addresses and keys.
    configuration: Configuration,
    /// The clients that are there: the name that each has its flow to.
    clients: HashMap<ClientId, (Name, Subject)>,
    /// The next key of each name that a client had a flow to, which is sent to clients.
    next_keys: BTreeMap<Name, Option<Fingerprint>>,
    /// The demands on flows of clients.
    demands: Arc<Mutex<ServerSecurity>>,
    hub: Arc<Hub>,
    network: Network,
    /// The prefixes that the hub has.
    prefixes: HashMap<ClientId, Vec<IpNet>>,
    /// Answers that clients are sent as soon as what is in them is remembered.
    grants: BTreeMap<ClientId, Grant>,
    /// An address may be free that a client has asked for in vain.
    is_address_free: bool,
    /// Networks behind clients, which are routed through the device.
    routes: BTreeSet<IpNet>,
    /// How many clients there are, with those who are about to be.
    present: Arc<AtomicUsize>,
    leases: Option<Leases>,
    /// The last attempt to write them has failed, and that has been said.
    is_save_failing: bool,
    last_tick: Instant,
    keys_asked: Instant,
}

impl Server<'_> {
    /// Gives clients addresses as they come and go.
    async fn attend(&mut self) -> Outcome {
        let hub = self.hub.clone();
        loop {
            let event = async { Step::Event(hub.next_event().await.map(Box::new)) };
            let change = async { Step::Change(Box::new(self.settings.next_change().await)) };
            let tick = async {
                match self.next_tick() {
                    Some(due) => task::sleep(due.saturating_duration_since(Instant::now())).await,
                    None => future::pending().await,
                }
                Step::Tick
            };
            match future::or(tick, future::or(event, change)).await {
                Step::Event(Some(event)) => {
                    self.handle(*event).await;
                    // Clients that come together are remembered together.
                    for _ in 1..BATCH {
                        let Some(Some(event)) = future::poll_once(hub.next_event()).await else {
                            break;
                        };
                        self.handle(event).await;
                    }
                }
                Step::Change(changing) => self.change(*changing).await,
                Step::Event(None) => {
                    return Err(match self.hub.take_error() {
                        Some(error) => error.into(),
                        None => "the tunnel device has failed".into(),
                    });
                }
                Step::Tick => {
                    self.last_tick = Instant::now();
                    if self.last_tick.duration_since(self.keys_asked) >= NEXT_KEYS {
                        self.keys_asked = self.last_tick;
                        self.announce_next_keys().await;
                    }
                    for client in self.network.unheard() {
                        let info = self.hub.client(client);
                        if info.is_some_and(|info| info.statistics.received_packets > 0) {
                            self.network.heard(client);
                        }
                    }
                    if self.settings.statistics {
                        let subject = self.subject();
                        let device = self.hub.interface_name_now();
                        tell!(subject, "{device}: {}", self.hub.statistics());
                    }
                    if self.network.unsaved() == Unsaved::Times {
                        self.save();
                    }
                }
            }
            self.commit();
        }
    }

    /// When there is something to do though nothing has happened.
    fn next_tick(&self) -> Option<Instant> {
        let every_second = self.settings.statistics
            || self.network.unsaved() != Unsaved::Nothing
            || !self.network.unheard().is_empty();
        match (every_second, self.next_keys.is_empty()) {
            (true, _) => Some(self.last_tick + INTERVAL),
            (false, false) => Some(self.keys_asked + NEXT_KEYS),
            (false, true) => None,
        }
    }

    /// The device, and the name if it is known: what is of no client is about them.
    fn subject(&self) -> Subject {
        let subject = self.name.map(Subject::name).unwrap_or_default();
        subject.with("device", self.hub.interface_name_now())
    }

    async fn handle(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Joined { client, info } => {
                self.network.joined(client, &info);
                self.network.assign(client, assigned(&info).await.unwrap_or_default());
                if !self.next_keys.contains_key(&info.name) {
                    // That it is served has not been known before.
                    if self.name.is_none()
                        && let Ok(Some(own)) = name_key(&info.name).await
                    {
                        let subject = Subject::name(&info.name).with("key", &own);
                        tell!(subject, "The key of {} on this machine is {own}.", info.name);
                    }
                    let next = next_key(&info.name).await.flatten();
                    self.next_keys.insert(info.name.clone(), next);
                }
                let device = self.hub.interface_name_now();
                let subject = Subject::client(&info);
                let up = self.settings.describe(&device);
                tell!(subject.with("device", device), "{up} is up.");
                self.clients.insert(client, (info.name, subject));
            }
            ClientEvent::Left { client, reason } => {
                let (_, subject) = self.clients.remove(&client).unzip();
                tell!(subject.unwrap_or_default(), "The flow has ended: {reason}.");
                self.network.left(client);
                self.present.fetch_sub(1, Relaxed);
                self.prefixes.remove(&client);
                self.grants.remove(&client);
                self.is_address_free = true;
            }
            ClientEvent::Requested { client, wanted } => {
                if let Some(grant) = self.network.requested(client, wanted, now()) {
                    for holder in &grant.holders {
                        self.hub.probe(*holder, PROBE_TIMEOUT);
                    }
                    self.grants.insert(client, grant);
                }
            }
            _ => {}
        }
    }

    /// Has what the last events have changed be in force: first on the disk, so that who is
    /// told of an address has it also after a crash; then in the hub, so that packets from it
    /// pass; and at last the clients are told.
    fn commit(&mut self) {
        if std::mem::take(&mut self.is_address_free) {
            self.grants.extend(self.network.reconsider(now()));
        }
        if self.network.unsaved() == Unsaved::Addresses {
            self.save();
        }
        self.apply();
        for (client, grant) in std::mem::take(&mut self.grants) {
            self.configure(client, grant);
        }
    }

    /// Remembers who has which address. What cannot be written is tried again at the next
    /// change or tick.
    fn save(&mut self) {
        let saved = self.leases.as_ref().map(|leases| leases.write(&self.network.leases()));
        match saved.unwrap_or(Ok(())) {
            Ok(()) => {
                self.network.set_saved();
                self.is_save_failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_save_failing, true) {
                    let subject = self.subject();
                    tell!(subject, "Warning: the clients' addresses are not remembered: {error}.");
                }
            }
        }
    }

    fn configure(&self, client: ClientId, grant: Grant) {
        // One that has left meanwhile is told nothing.
        let Some((name, subject)) = self.clients.get(&client) else { return };
        let list = |addresses: Vec<String>| addresses.join(", ");
        if !grant.refused.is_empty() {
            let refused = list(grant.refused.iter().map(ToString::to_string).collect());
            let why = if grant.holders.is_empty() {
                "not of this network, or another client's"
            } else {
                "another client has it, and is asked whether it is still there"
            };
            tell!(subject, "A client asks for {refused}: {why}.");
        }
        if !grant.addresses.is_empty() {
            let given = list(grant.addresses.iter().map(ToString::to_string).collect());
            tell!(subject.with("addresses", &given), "The client has {given}.");
        }
        let mut configuration = self.configuration.clone();
        configuration.addresses = grant.addresses;
        configuration.next_key = self.next_keys.get(name).copied().flatten();
        self.hub.configure(client, &configuration);
    }

    /// Has every client know what has changed. What a client has in the clients' file is
    /// looked up again.
    async fn change(&mut self, changing: Changing) {
        *lock(&self.demands) = changing.demands;
        self.configuration = changing.configuration;
        // Each name's file is asked about once, however many clients it has.
        let mut files = HashMap::new();
        for ClientInfo { client, flow, .. } in self.hub.clients() {
            let Some(peer) = &flow.identity else { continue };
            if !files.contains_key(&flow.name) {
                files.insert(flow.name.clone(), prefixes(&flow.name, None).await);
            }
            if let Some(Some(file)) = files.get(&flow.name) {
                self.network.assign(
                    client,
                    file.get(&peer.fingerprint.to_string()).cloned().unwrap_or_default(),
                );
            }
        }
        self.configure_all();
    }

    fn configure_all(&mut self) {
        for ClientInfo { client, .. } in self.hub.clients() {
            if let Some(grant) = self.network.granted_anew(client, now()) {
                self.grants.insert(client, grant);
            }
        }
    }

    /// Has every client know which key its server is to have next.
    async fn announce_next_keys(&mut self) {
        let mut changed = false;
        for (name, known) in &mut self.next_keys {
            let Some(next) = next_key(name).await.filter(|next| next != known) else { continue };
            *known = next;
            changed = true;
            let subject = Subject::name(name);
            match next {
                Some(next) => {
                    tell!(subject, "Clients are told that {next} is the next key of {name}.");
                }
                None => tell!(subject, "Clients are told of no next key of {name} any more."),
            }
        }
        if changed {
            self.configure_all();
        }
    }

    /// Has the hub know what each client has whose prefixes have changed.
    fn apply(&mut self) {
        let changed: Vec<_> = self
            .network
            .take_changed()
            .into_iter()
            .filter(|(client, prefixes)| self.prefixes.get(client) != Some(prefixes))
            .collect();
        // What somebody loses another may get.
        for (client, prefixes) in &changed {
            let Some(before) = self.prefixes.get(client) else { continue };
            let kept = before.iter().filter(|prefix| prefixes.contains(prefix)).copied();
            let _ = self.hub.set_prefixes(*client, &kept.collect::<Vec<_>>());
        }
        for (client, prefixes) in changed {
            match self.hub.set_prefixes(client, &prefixes) {
                Ok(true) => {
                    self.prefixes.insert(client, prefixes);
                }
                // It has gone: an event says so.
                Ok(false) => {}
                Err(error) => {
                    let subject = self.clients.get(&client).map(|(_, subject)| subject.clone());
                    tell!(
                        subject.unwrap_or_default(),
                        "A client's address cannot be used: {error}."
                    );
                    self.network.note_changed(client);
                }
            }
        }
        self.route();
    }

    /// Routes the networks behind the clients that are there. A way to everything is the
    /// server's own.
    fn route(&mut self) {
        for (network, is_behind) in self.network.take_behind_changed() {
            if !is_behind {
                if self.routes.remove(&network) {
                    let _ = self.hub.remove_route(network);
                }
            } else if network.prefix_len() > 0 && self.routes.insert(network) {
                let subject = self.subject().with("route", network);
                match self.hub.add_route(network) {
                    Ok(()) => tell!(subject, "Route: {network}, which is behind a client."),
                    Err(error) => tell!(subject, "The route {network} cannot be made: {error}."),
                }
            }
        }
    }
}
