//! A server: one device for all its clients.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_std::task;
use futures_lite::future;
use ouroboros::{
    AllocateError, ClientEvent, ClientId, Flow, Hub, HubBuilder, Irm, LaneAcceptor, LayerError,
    ServerSecurity,
    daemon::DaemonError,
    proto::hub::{Configuration, IpNet},
};

use super::{
    Outcome, Settings, announce,
    clients::assigned,
    leases::Leases,
    masquerade::{self, Masquerade},
    network::{self, Grant, Network},
    networks, own_key,
};
use crate::{now, service};

/// How often to look whether the daemon is back.
const RETRY: Duration = Duration::from_millis(500);
/// A client that has an address which another one asks for, and does not say by then
/// that it is there, is not there any more.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often to see which clients have been heard, and to print statistics.
const INTERVAL: Duration = Duration::from_secs(1);

/// Serves all clients with one device, for ever.
///
/// # Errors
///
/// The daemon cannot be asked, or the device cannot be made.
pub async fn server(irm: &Irm, settings: &Settings) -> Outcome {
    // What is missing shows before there is a client: the right to make devices. The
    // daemon is waited for.
    match own_key().await {
        Ok(key) => println!("This machine's key is {key}."),
        Err(LayerError::Daemon(DaemonError::Refused(reason))) => {
            println!("Warning: no client can know it: {reason}.");
        }
        Err(error) => return Err(error.into()),
    }
    let device = settings.tunnel().queues(settings.lanes);
    let hub = HubBuilder::new(device).forward_between_clients(settings.forward).build()?;
    let networks = networks(&settings.addresses);
    let _masquerade = match settings.masquerade {
        true => {
            for missing in masquerade::not_forwarded(&networks) {
                println!("Warning: {missing}.");
            }
            Some(Masquerade::begin(hub.interface_name(), &networks)?)
        }
        false => None,
    };
    let hub = Arc::new(hub);
    let _observing = settings.observed.server(&hub, networks.clone());
    let mut server = Server {
        network: Network::new(networks),
        settings,
        hub,
        prefixes: HashMap::new(),
        routes: BTreeSet::new(),
        present: Arc::default(),
        leases: settings.leases.as_deref().map(Leases::at),
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
    future::or(accept_all(irm, &settings.demands, hub, present), server.attend()).await
}

/// Takes every client in that meets the demands. What a flow does before it is ready holds up nobody
/// else.
async fn accept_all(
    irm: &Irm,
    demands: &ServerSecurity,
    hub: Arc<Hub>,
    present: Arc<AtomicUsize>,
) -> Outcome {
    let mut acceptor = LaneAcceptor::new(irm, None);
    loop {
        println!("Waiting for a flow.");
        let flows = accept(&mut acceptor).await?;
        let info = flows[0].info();
        if !flows.iter().all(|flow| flow.info().meets(demands)) {
            let peer = info.peer;
            println!(
                "A flow with {peer} is closed: it is less than --crypt, --native or --identify demand."
            );
            continue;
        }
        announce(info);
        let (hub, present) = (hub.clone(), present.clone());
        task::spawn(async move {
            // Nothing of the only client is lost before it is known what it has.
            let alone = present.fetch_add(1, Relaxed) == 0;
            let prefixes = if alone { network::everything() } else { Vec::new() };
            if let Err(error) = hub.join(flows, &prefixes).await {
                println!("The flow has ended: {error}.");
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

struct Server<'a> {
    settings: &'a Settings,
    hub: Arc<Hub>,
    network: Network,
    /// What the hub knows.
    prefixes: HashMap<ClientId, Vec<IpNet>>,
    /// Networks behind clients, which are routed through the device.
    routes: BTreeSet<IpNet>,
    /// How many clients there are, with those who are about to be.
    present: Arc<AtomicUsize>,
    leases: Option<Leases>,
}

impl Server<'_> {
    /// Gives clients addresses as they come and go.
    async fn attend(&mut self) -> Outcome {
        let hub = self.hub.clone();
        loop {
            let event = async { Some(hub.next_event().await) };
            let tick = async {
                task::sleep(INTERVAL).await;
                None
            };
            match future::or(event, tick).await {
                Some(Some(event)) => self.handle(event).await,
                Some(None) => {
                    return Err(match self.hub.take_error() {
                        Some(error) => error.into(),
                        None => "the tunnel device has failed".into(),
                    });
                }
                None => {
                    for client in self.network.unheard() {
                        let info = self.hub.client(client);
                        if info.is_some_and(|info| info.statistics.received_packets > 0) {
                            self.network.heard(client);
                        }
                    }
                    if self.settings.statistics {
                        println!("{}: {}", self.hub.interface_name_now(), self.hub.statistics());
                    }
                }
            }
            self.apply();
        }
    }

    async fn handle(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Joined { client, info } => {
                self.network.joined(client, &info);
                self.network.assign(client, assigned(&info).await);
                println!("{} is up.", self.settings.describe(&self.hub.interface_name_now()));
            }
            ClientEvent::Left { client, reason } => {
                println!("The flow has ended: {reason}.");
                self.network.left(client);
                self.present.fetch_sub(1, Relaxed);
                self.prefixes.remove(&client);
                for (client, grant) in self.network.reconsider(now()) {
                    self.tell(client, grant);
                }
            }
            ClientEvent::Requested { client, wanted } => {
                if let Some(grant) = self.network.requested(client, wanted, now()) {
                    for holder in &grant.holders {
                        self.hub.probe(*holder, PROBE_TIMEOUT);
                    }
                    self.tell(client, grant);
                }
            }
            _ => {}
        }
    }

    fn tell(&self, client: ClientId, grant: Grant) {
        if let Some(leases) = &self.leases
            && let Err(error) = leases.write(&self.network.leases())
        {
            println!("Warning: the clients' addresses are not remembered: {error}.");
        }
        let list = |addresses: Vec<String>| addresses.join(", ");
        if !grant.refused.is_empty() {
            let refused = list(grant.refused.iter().map(ToString::to_string).collect());
            let why = if grant.holders.is_empty() {
                "not of this network, or another client's"
            } else {
                "another client has it, and is asked whether it is still there"
            };
            println!("A client asks for {refused}: {why}.");
        }
        if !grant.addresses.is_empty() {
            let given = list(grant.addresses.iter().map(ToString::to_string).collect());
            println!("The client has {given}.");
        }
        let told = &self.settings.told;
        let mut configuration = Configuration::default();
        configuration.addresses = grant.addresses;
        configuration.routes = told.routes.clone();
        configuration.dns_servers = told.dns_servers.clone();
        configuration.search_domains = told.search_domains.clone();
        self.hub.tell(client, &configuration);
    }

    /// Has the hub know what each client has.
    fn apply(&mut self) {
        let now: Vec<_> = self.network.prefixes();
        let changed: Vec<_> = now
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
                Err(error) => println!("A client's address cannot be used: {error}."),
            }
        }
        self.route();
    }

    /// Routes the networks behind the clients that are there. A way to everything is the
    /// server's own.
    fn route(&mut self) {
        let wanted = self.network.behind();
        let wanted: BTreeSet<_> = wanted.into_iter().filter(|net| net.prefix_len() > 0).collect();
        for network in self.routes.difference(&wanted) {
            let _ = self.hub.remove_route(*network);
        }
        for network in wanted.difference(&self.routes) {
            match self.hub.add_route(*network) {
                Ok(()) => println!("Route: {network}, which is behind a client."),
                Err(error) => println!("The route {network} cannot be made: {error}."),
            }
        }
        self.routes = wanted;
    }
}
